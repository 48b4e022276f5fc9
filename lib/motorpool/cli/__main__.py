"""``python -m motorpool.cli`` is the command ``motorpool``."""

from __future__ import annotations

import sys

from motorpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
