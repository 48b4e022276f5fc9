"""What every place of photos gives: their names, and the bytes of one at a time, never from outside of the place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from motorpool.errors import CaseError

Problem = Literal["missing", "broken", "refused"]

#: Larger files are no photos of a vehicle, and could fill a task's memory.
MAX_BYTES = 64 * 2**20
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class NoPhotoError(Exception):
    """Why there are no bytes for a path."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem: Problem = problem


class PhotoFiles(ABC):
    """The files of photos in one place."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of a photo, at most MAX_BYTES; NoPhotoError where there are none."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is a file for a path, which may yet be no photo; nothing is read."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The path of every photo, in an order that stays; CaseError for one that cannot be a path of an image."""


class PhotoTree(PhotoFiles):
    """Photos in folders, on a disk or in an archive.

    ``heads`` says where paths may begin: at the root itself, the empty text, and in folders that wrap all photos.
    """

    heads: tuple[str, ...] = ("",)

    @abstractmethod
    def _bytes_at(self, path: str) -> bytes | None:
        """The bytes at a clean path, None where there is nothing."""

    @abstractmethod
    def _is_at(self, path: str) -> bool:
        """Whether there is a file at a clean path."""

    def read(self, path: str) -> bytes:
        try:
            for place in self._places(path):
                data = self._bytes_at(place)
                if data is not None:
                    return data
        except NoPhotoError:
            raise
        except Exception as exc:  # Stores and archives fail in their own ways: one photo the less.
            raise NoPhotoError("broken", f"cannot be read: {exc}") from exc
        raise NoPhotoError("missing", "there is no such file")

    def has(self, path: str) -> bool:
        try:
            return any(self._is_at(place) for place in self._places(path))
        except (NoPhotoError, OSError, ValueError):
            return False

    def _places(self, path: str) -> Iterator[str]:
        for tail in _tails(clean_path(path)):
            for head in self.heads:
                yield head + tail


def clean_path(path: str) -> str:
    """A path below a root in forward slashes, without ``.`` and empty parts.

    Raises an error that makes the photo ``refused`` for one that is empty, absolute, or climbs out.
    """
    plain = path.replace("\\", "/")
    parts = [p for p in plain.split("/") if p not in ("", ".")]
    if not parts or plain.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in path:
        raise NoPhotoError("refused", "the path is empty, absolute or leads out of the folder of photos")
    return "/".join(parts)


def _tails(path: str) -> Iterator[str]:
    """The path itself, and without its first folder, for roots that are this folder."""
    yield path
    _, _, rest = path.partition("/")
    if rest:
        yield rest


def is_photo(name: str) -> bool:
    """Whether a file is a photo by its name."""
    return name.lower().endswith(_ENDINGS) and not is_by_product(name)


def is_by_product(name: str) -> bool:
    """Whether a file of this path is what a Mac leaves beside the photos: no photo, though it may be called .jpg."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store"


def checked_entry(name: str, archive: str) -> str:
    """The clean path of an archive's entry; CaseError, before anything is read, for one that leads out of it."""
    try:
        return clean_path(name)
    except NoPhotoError as exc:
        raise CaseError(
            f"{archive}: holds {name[:100]!r}, which is absolute or leads out of it: an archive of photos has paths "
            "below its own root alone. Pack the photos anew"
        ) from exc


def heads_of(names: Iterable[str]) -> tuple[str, ...]:
    """The folders, each in the one before and with a slash behind, that all photos among ``names`` lie in; "" first.

    A zip, or a folder, often holds what was packed below one folder more. Photos go by their endings.
    """
    common: list[str] | None = None
    for name in names:
        if name.lower().endswith(_ENDINGS):
            folders = name.split("/")[:-1]
            common = folders if common is None else common[: _alike(common, folders)]
            if not common:
                break
    return ("", *("/".join((common or [])[: i + 1]) + "/" for i in range(len(common or []))))


def _alike(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the first items are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def checked_size(size: int) -> int:
    """A number of bytes; NoPhotoError for more than MAX_BYTES."""
    if size > MAX_BYTES:
        raise NoPhotoError("broken", f"the file has {size:,} bytes, more than {MAX_BYTES:,}")
    return size
