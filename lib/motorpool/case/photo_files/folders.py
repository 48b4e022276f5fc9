"""Photos in folders of this machine, and of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from motorpool.case import files
from motorpool.case.photo_files.reader import NoPhotoError, PhotoTree, checked_size, is_photo
from motorpool.errors import CaseError

#: Folders in each other that may wrap all photos of a local folder.
_WRAPPED = 4


class FolderPhotos(PhotoTree):
    """Photos below a folder of this machine; those that a link leads out of it to are refused."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self.heads = _wrapping_folders(self._root)

    def _is_at(self, path: str) -> bool:
        return os.path.isfile(self._file(path))

    def _file(self, path: str) -> str:
        # A link may lead out of the folder without any dots in its name.
        file = os.path.realpath(os.path.join(self._root, path))
        if os.path.commonpath([self._root, file]) != self._root:
            raise NoPhotoError("refused", "a link leads out of the folder of photos")
        return file

    def _bytes_at(self, path: str) -> bytes | None:
        file = self._file(path)
        # Pipes and devices have no size and no end.
        if not os.path.isfile(file):
            return None
        with open(file, "rb") as f:
            return f.read(checked_size(os.fstat(f.fileno()).st_size))

    def names(self) -> Iterator[str]:
        """Ordered by the parts of the paths; links to folders are not followed. Memory: the names of one folder."""
        yield from self._below("")

    def _below(self, head: str) -> Iterator[str]:
        with os.scandir(os.path.join(self._root, head)) as entries:
            found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not _is_hidden(e.name))
        for name, is_folder in found:
            if is_folder:
                yield from self._below(f"{head}{name}/")
            elif is_photo(name):
                yield _as_text(head + name, self._root)


class StorePhotos(PhotoTree):
    """Photos below a folder of a store. To list them takes a request for each thousand, so none is looked for."""

    def __init__(self, root: str) -> None:
        self._root = root

    def _is_at(self, path: str) -> bool:
        return files.exists(files.join(self._root, path))

    def _bytes_at(self, path: str) -> bytes | None:
        where = files.join(self._root, path)
        if not files.exists(where):
            return None
        with files.open_file(where) as f:
            return bytes(f.read(checked_size(f.size())))

    def names(self) -> Iterator[str]:
        """Ordered by the parts of the paths. Memory: all of them, some 0.3 KB each."""
        found = files.list_files(self._root)
        for name in sorted(found, key=lambda path: path.split("/")):
            if is_photo(name) and not any(map(_is_hidden, name.split("/"))):
                yield name


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _as_text(name: str, root: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise CaseError(f"{root}: the name of the photo {name!r} is no UTF-8 text: rename it") from exc
    return name


def _wrapping_folders(root: str) -> tuple[str, ...]:
    """`heads_of` for a local folder: its only folder, the only one in that, and so on, but for hidden ones."""
    heads = [""]
    while len(heads) <= _WRAPPED:
        with os.scandir(os.path.join(root, heads[-1])) as entries:
            found = list(islice((e.name for e in entries if e.is_dir() and not _is_hidden(e.name)), 2))
        if len(found) != 1:
            break
        heads.append(f"{heads[-1]}{found[0]}/")
    return tuple(heads)
