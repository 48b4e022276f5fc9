"""The program `motorpool`, also as ``python -m motorpool``.

Ctrl-C ends it with one sentence from its first moment: what it imports takes seconds on a busy machine.
"""

from __future__ import annotations

import sys

from motorpool import stopping


def program() -> int:
    """Run the command of the command line; returns its exit status, as `motorpool.cli.main`."""
    stopping.listen()
    with stopping.ended_at_once():
        from motorpool.cli import main
    status = main()
    stopping.finish(status)
    return status


if __name__ == "__main__":
    sys.exit(program())
