"""Photos in tar files, as WebDataset packs them: one file, or a folder of them. Nothing is unpacked.

The headers are read once, and photos by their place in the file. Compressed tars have no places, and are refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa

from motorpool.case import files
from motorpool.case.arrays.array_file import COPY_AGAIN, explained
from motorpool.case.photo_files.reader import PhotoTree, checked_entry, checked_size, clean_path, heads_of, is_photo
from motorpool.errors import CaseError
from motorpool.texts import by_number

#: How the names of compressed tars end.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Bytes that a header may take, with long names and remarks: no photo is read as one.
_MAX_HEADER = 2**20
#: Tars of a folder: each is opened for its headers.
_MAX_TARS = 100_000

#: First byte and number of bytes.
_Place = tuple[int, int]


class TarPhotos(PhotoTree):
    """Photos in one tar file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = files.file_size(path)
        self._found_at = _places_in(path)
        self.heads = heads_of(self._found_at)

    def _is_at(self, path: str) -> bool:
        return path in self._found_at

    def _bytes_at(self, path: str) -> bytes | None:
        place = self._found_at.get(path)
        if place is None:
            return None
        first, size = place
        with files.open_file(self._path) as f:
            if f.size() != self._size:
                raise CaseError(f"{files.redact(self._path)}: has changed while it is read. Start again")
            f.seek(first)
            return bytes(f.read(checked_size(size)))

    def names(self) -> Iterator[str]:
        """In the order of the file."""
        yield from self._found_at


class TarShards(PhotoTree):
    """Photos in a folder of tars. Their paths begin with the name of the tar, without its ending, as a folder.

    Names without it are looked for in all tars. Memory: about 0.3 KB a photo of the tars that were read.
    """

    def __init__(self, root: str, tars: list[str]) -> None:
        self._tars = {name[: -len(".tar")]: files.join(root, name) for name in sorted(tars, key=by_number)}
        self._open: dict[str, TarPhotos] = {}

    def _tar(self, name: str) -> TarPhotos:
        if name not in self._open:
            self._open[name] = TarPhotos(self._tars[name])
        return self._open[name]

    def _places(self, path: str) -> Iterator[str]:
        clean = clean_path(path)
        # Who names a tar means no photo of another.
        return iter([clean]) if clean.partition("/")[0] in self._tars else super()._places(path)

    def _found(self, path: str) -> tuple[TarPhotos, str] | None:
        first, _, rest = path.partition("/")
        if first in self._tars:
            return (self._tar(first), rest) if rest and self._tar(first).has(rest) else None
        return next(((self._tar(name), path) for name in self._tars if self._tar(name).has(path)), None)

    def _is_at(self, path: str) -> bool:
        return self._found(path) is not None

    def _bytes_at(self, path: str) -> bytes | None:
        found = self._found(path)
        return None if found is None else found[0].read(found[1])

    def names(self) -> Iterator[str]:
        """In the order of the numbers in the tars' names, and of each file."""
        for shard in self._tars:
            for name in self._tar(shard).names():
                yield f"{shard}/{name}"


@lru_cache(maxsize=1)
def _kept(path: str, size: int) -> TarPhotos:
    """Kept for the tasks to come; another ``size`` is another file."""
    return TarPhotos(path)


def open_tar(path: str) -> TarPhotos:
    """The photos in a tar. CaseError where it is none, is cut off, or holds a photo that is a link or leads out of it.

    Its headers are read once for each process. Memory: about 0.3 KB a photo.
    """
    return _kept(path, files.file_size(path))


@lru_cache(maxsize=1)
def open_tars(root: str, names: tuple[str, ...]) -> TarShards:
    """The photos in the tars of a folder, which are opened when they are asked for."""
    if len(names) > _MAX_TARS:
        raise CaseError(f"{files.redact(root)}: holds {len(names):,} tars, where {_MAX_TARS:,} are allowed: join some")
    return TarShards(root, list(names))


class _Headers:
    """A file of which headers are read alone: tarfile takes as much for one as it claims."""

    def __init__(self, f: pa.NativeFile) -> None:
        self._f = f

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header says that it takes {size:,} bytes, where {_MAX_HEADER:,} are allowed")
        return bytes(self._f.read(size))

    def seek(self, at: int) -> None:
        if not 0 <= at <= self._f.size():
            raise tarfile.ReadError("it ends before what its headers say")
        self._f.seek(at)

    def tell(self) -> int:
        return int(self._f.tell())


def _places_in(path: str) -> dict[str, _Place]:
    """Where each photo of a tar lies."""
    name = files.redact(path)
    found: dict[str, _Place] = {}
    try:
        with explained(f"{name}: cannot be read as a tar"), files.open_file(path) as f:
            for member in _members(f, name):
                if not is_photo(member.name):
                    continue
                clean = checked_entry(member.name, name)
                if not member.isreg() or member.issparse():
                    raise CaseError(
                        f"{name}: {member.name[:100]!r} is a link or no plain file: such entries have no bytes of "
                        "their own. Pack the photos themselves"
                    )
                if member.offset_data + member.size > f.size():
                    raise CaseError(f"{name}: ends within {member.name[:100]!r}. {COPY_AGAIN}")
                found[clean] = (member.offset_data, member.size)
    except tarfile.TarError as exc:
        raise CaseError(f"{name}: cannot be read as a tar: {exc}. {COPY_AGAIN}") from exc
    return found


def _members(f: pa.NativeFile, name: str) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=_Headers(f), mode="r:") as tar:  # type: ignore[call-overload]
        end = -1
        while (member := tar.next()) is not None:
            if tar.offset <= end or member.size < 0:
                raise CaseError(f"{name}: the header of {member.name[:100]!r} contradicts itself. {COPY_AGAIN}")
            end = tar.offset
            yield member
            # tarfile keeps all of them otherwise.
            tar.members = []
        # It takes a damaged header for the end.
        f.seek(min(tar.offset, f.size()))
        if any(bytes(f.read(tarfile.BLOCKSIZE))):
            raise CaseError(f"{name}: is damaged at byte {tar.offset:,}. {COPY_AGAIN}")
