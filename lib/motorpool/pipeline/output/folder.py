"""One folder as the product of a stage: built aside, then renamed into place."""

from __future__ import annotations

import errno
import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from motorpool import stopping
from motorpool.config.run import has_scheme, local_folder
from motorpool.errors import ConfigError
from motorpool.lake.locks import LOCK_FILE, Hold, acquire

#: How the names of folders end that are still being filled, and of what they replace until they are in place.
_DRAFT, _REPLACED = ".part", ".old"


def check_folder(out: str, key: str, mark: str, apart_from: str | None = None) -> Path:
    """``out`` as a local folder that may be replaced: absent, empty, or with the file ``mark`` that shows what it is.

    ConfigError, which names ``key``, for a folder of somebody else's, for a path with a scheme, and for one inside
    the folder ``apart_from`` or around it.
    """
    if has_scheme(out):
        raise ConfigError(f"{key}: {out}: is written to a local or mounted folder; name one without a scheme")
    folder = Path(out).absolute()
    other = local_folder(apart_from) if apart_from is not None else None
    if other is not None:
        other = other.resolve()
        if folder.resolve() == other or other in folder.resolve().parents or folder.resolve() in other.parents:
            raise ConfigError(f"{key}: {out}: must lie beside {apart_from}, neither in it nor around it")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}: {out}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise ConfigError(f"{key}: {out}: holds other files and no {mark}; name a folder that is absent or empty")
    return folder


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``out`` where the block ends well, and leaves nothing where it does not.

    What was there before is replaced; of two that are filled at once, the last one to end stays. Drafts that killed
    runs have left beside ``out`` are removed. ConfigError where nothing can be written beside ``out``.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        draft, hold = _new_draft(out)
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    try:
        # mkdtemp keeps others out; a report is for everyone.
        draft.chmod(0o755)
        with stopping.removed_at_stop(draft):
            yield draft
        _swap(draft, out)
        # Only now: a draft without its lock would be removed by others as a leftover.
        (out / LOCK_FILE).unlink(missing_ok=True)
    finally:
        hold.release()
        shutil.rmtree(draft, ignore_errors=True)


def _new_draft(out: Path) -> tuple[Path, Hold]:
    """An empty folder beside ``out``, and the lock that shows others that somebody fills it."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_DRAFT, dir=out.parent))
        # Another run may have taken it for a leftover before the lock was there.
        with suppress(FileNotFoundError):
            hold = acquire(draft)
            if hold is not None:
                return draft, hold


def _remove_leftovers(out: Path) -> None:
    for draft in out.parent.glob(f".{glob.escape(out.name)}.*{_DRAFT}"):
        # A draft without a lock has just been made: its owner takes the lock next. Others may put theirs into place.
        with suppress(FileNotFoundError):
            hold = acquire(draft) if (draft / LOCK_FILE).exists() else None
            if hold is not None and hold.sure:
                shutil.rmtree(draft, ignore_errors=True)
                hold.release()
    for old in out.parent.glob(f".{glob.escape(out.name)}.*{_REPLACED}"):
        shutil.rmtree(old, ignore_errors=True)


def _swap(draft: Path, out: Path) -> None:
    old = draft.with_suffix(_REPLACED)
    while True:
        with suppress(FileNotFoundError):
            out.rename(old)
        try:
            draft.rename(out)
            break
        except OSError as exc:
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
                # Another run has put its folder there meanwhile, newer than the one that was moved.
                shutil.rmtree(old, ignore_errors=True)
                continue
            if old.exists():
                old.rename(out)
            raise
    shutil.rmtree(old, ignore_errors=True)
