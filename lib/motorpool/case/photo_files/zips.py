"""Photos in a zip file, which is not unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import lru_cache

from motorpool.case import files
from motorpool.case.photo_files.reader import (
    PhotoTree,
    checked_entry,
    checked_size,
    heads_of,
    is_by_product,
    is_photo,
)
from motorpool.errors import CaseError


class ZipPhotos(PhotoTree):
    """Photos in a zip, which may have been packed on a Mac or with the separators of Windows."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name = archive, name
        # By the names with forward slashes: some programs write the separators of Windows. Folders end in one.
        self._entries = {
            clean: entry
            for entry in archive.infolist()
            for clean in (entry.filename.replace("\\", "/").removeprefix("./"),)
            if not clean.endswith("/") and not is_by_product(clean)
        }
        self.heads = heads_of(self._entries)

    def _is_at(self, path: str) -> bool:
        return path in self._entries

    def _bytes_at(self, path: str) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None:
            return None
        with self._archive.open(entry) as f:
            return f.read(checked_size(entry.file_size))

    def names(self) -> Iterator[str]:
        """Ordered by the parts of the paths, as those of a folder."""
        found = [checked_entry(name, self._name) for name in self._entries if is_photo(name)]
        yield from sorted(found, key=lambda path: path.split("/"))


def open_zip(path: str) -> ZipPhotos:
    """The photos in a zip; CaseError where it is none.

    Its list of entries is read once for each process and kept: measured, 2 s and 0.7 KB an entry (290 MB for 416,314).
    """
    return _kept(path, files.file_size(path))


@lru_cache(maxsize=1)
def _kept(path: str, size: int) -> ZipPhotos:
    """Kept open for the tasks to come; another ``size`` is another file."""
    local, name = files.local_path(path), files.redact(path)
    try:
        return ZipPhotos(zipfile.ZipFile(files.open_file(path) if local is None else local), name)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as exc:
        raise CaseError(f"{name}: cannot be read as a zip ({size:,} bytes): {exc}") from exc
