"""Where numba keeps compiled loops: a folder that this process can write to, also in a container without a home.

Its own places are the package's folder and the user's cache. A package that comes as a zip has no folder, and the user
of a Spark container often has no home: then numba raises an error instead of going without a cache.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def choose_folder() -> None:
    """Move the user's cache (``XDG_CACHE_HOME``) where it cannot be written.

    ``NUMBA_CACHE_DIR`` would not do: numba looks past it for modules in a zip.
    """
    # Unlike Path.home, expanduser does not fail for a user whom the system does not know.
    found = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not _writable(found / "numba"):
        os.environ["XDG_CACHE_HOME"] = str(_private(Path(tempfile.gettempdir()) / f"motorpool-cache-{os.getuid()}"))


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _private(folder: Path) -> Path:
    """``folder``, or a new one where somebody else could have put files into it: numba unpickles what it finds."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="motorpool-cache-"))
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if mine else Path(tempfile.mkdtemp(prefix="motorpool-cache-"))
