"""A lock on a folder that ends with the process that holds it: for one alone, or shared by several.

It is `flock` on a file inside the folder, which local and most mounted file systems know. Where one does not, a warning
says so and nobody is kept out. A lock belongs to an open file: programs that this process starts (Spark's JVM) do not
inherit it, and forked children close it, so none of them keeps the lock when this process is killed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

LOCK_FILE = ".motorpool.lock"

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
#: The open files of all holds of this process.
_files: set[int] = set()


class Hold:
    """A lock that is held until `release`, or until nobody refers to it any more.

    ``sure`` is false where the file system knows no locks.
    """

    def __init__(self, file: int, sure: bool) -> None:
        self._file: int | None = file
        self.sure = sure
        _files.add(file)

    def release(self) -> None:
        # A forked child has closed them all, and may use the number for another file.
        if self._file is not None and self._file in _files:
            _files.discard(self._file)
            os.close(self._file)
        self._file = None

    def __del__(self) -> None:
        self.release()

    def is_of(self, folder: Path) -> bool:
        """Whether the lock is still that of the folder, which may have been removed and made again."""
        return self._file is not None and self._file in _files and _is_file(self._file, folder / LOCK_FILE)

    def sign(self) -> None:
        """Note in the file who holds the lock, as far as it can be written: `holder` reads it."""
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def acquire(folder: Path, *, shared: bool = False, wait: bool = False) -> Hold | None:
    """Lock a folder, which must exist; None where another holds the lock and ``wait`` is false.

    Every call is a holder of its own, also among those of one process. Raises OSError where the folder cannot be
    written.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        file = _open(folder / LOCK_FILE)
        try:
            fcntl.flock(file, how)
        except OSError as exc:
            if exc.errno in _NO_LOCKS:
                log.warning(
                    "%s: its file system knows no locks (%s): see to it that one run at a time writes there",
                    folder,
                    exc.strerror,
                )
                return Hold(file, sure=False)
            os.close(file)
            if exc.errno in _TAKEN:
                return None
            raise
        except BaseException:
            os.close(file)
            raise
        if _is_file(file, folder / LOCK_FILE):
            return Hold(file, sure=True)
        # The folder was removed, and made again, while we waited: this is the lock of nothing.
        os.close(file)


def holder(folder: Path) -> str:
    """Who holds the folder's lock alone, by the last `sign`."""
    with suppress(OSError):
        return (folder / LOCK_FILE).read_text(errors="replace").strip() or "another process"
    return "another process"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        # Made by another account: local file systems also lock files that are open for reading.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_file(file: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file), there)


def _close_in_child() -> None:
    for file in _files:
        os.close(file)
    _files.clear()


os.register_at_fork(after_in_child=_close_in_child)
