"""The photos of a case: in a folder or in the zip as delivered, decoded one at a time, never from outside of it.

Nothing that a photo does stops a job: a photo that is missing, broken, or whose path leads out of the root, comes as a
`Photo` that says so.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Literal, Protocol

from PIL import Image, ImageOps, UnidentifiedImageError

from motorpool.case import files
from motorpool.case.folder import IMAGE_FOLDERS
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError

Problem = Literal["missing", "broken", "refused"]

#: Larger files and pictures are no photos of a vehicle, and could fill a task's memory.
MAX_BYTES, MAX_PIXELS = 64 * 2**20, 80_000_000
#: Plain rasters. Pillow hands some of its other formats to outside programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_FOLDER, _ZIP = "veriwild", "veriwild.zip"
#: Folders in each other that may wrap all photos of a local folder.
_WRAPPED = 4


@dataclass(frozen=True)
class Photo:
    """A decoded photo, or why there is none.

    ``image`` is RGB, upright; None where ``problem`` tells what is wrong: ``missing``, ``broken`` (no picture, cut
    off, too large) or ``refused`` (the path leads out of the root); ``reason`` says it in words. ``size`` is width
    and height as they lie in the file, in pixels, before any reduction.
    """

    path: str
    image: Image.Image | None
    size: tuple[int, int] | None = None
    problem: Problem | None = None
    reason: str = ""


class _NoPhotoError(Exception):
    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem: Problem = problem


class _Reader(Protocol):
    #: Where paths may begin below the root: at the root itself, the empty text, and in folders that wrap all photos.
    heads: tuple[str, ...]

    def read(self, path: str) -> bytes | None:
        """The bytes at a clean path, None where there is nothing."""

    def has(self, path: str) -> bool:
        """Whether there is a file at a clean path."""


class Images:
    """Photos below one root; see `open_images`."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def photo(self, path: str, side: int | None = None) -> Photo:
        """The photo of a path as the table `images` has it; never raises for what a photo does.

        With ``side`` its longer side has at most as many pixels, and JPEG files are decoded at a fraction of
        their size. Memory: one photo, at most MAX_PIXELS.
        """
        try:
            return _decode(path, self._read(path), side)
        except _NoPhotoError as exc:
            return Photo(path, None, None, exc.problem, str(exc))

    def data(self, path: str) -> bytes | None:
        """The bytes of the file for a path, which may yet be no photo; None where there is none that can be read."""
        try:
            return self._read(path)
        except _NoPhotoError:
            return None

    def has(self, path: str) -> bool:
        """Whether there is a file for a path, which may yet be no photo; nothing is read."""
        try:
            tails = list(_tails(clean_path(path)))
            return any(self._reader.has(head + tail) for tail in tails for head in self._reader.heads)
        except (_NoPhotoError, OSError, ValueError):
            return False

    def _read(self, path: str) -> bytes:
        try:
            for tail in _tails(clean_path(path)):
                for head in self._reader.heads:
                    data = self._reader.read(head + tail)
                    if data is not None:
                        return data
        except _NoPhotoError:
            raise
        except Exception as exc:  # Stores and archives fail in their own ways: one photo the less.
            raise _NoPhotoError("broken", f"cannot be read: {exc}") from exc
        raise _NoPhotoError("missing", "there is no such file")


def find_images(config: CaseConfig) -> str | None:
    """Where the photos lie: ``case.images_root``, or what the case folder holds; None where it holds none.

    A folder, or the zip as delivered; a folder that holds veriwild.zip and no folder veriwild stands for the zip.
    Raises CaseError where the config names what is not there.
    """
    root = config.images_root
    if root is not None and not files.exists(root):
        raise CaseError(f"case.images_root {files.redact(root)}: there is no such folder or zip")
    if root is None and config.path is not None:
        names = (*IMAGE_FOLDERS, _ZIP)
        root = next((p for p in (files.join(config.path, n) for n in names) if files.exists(p)), None)
    if root is None or _is_zip(root):
        return root
    packed = files.join(root, _ZIP)
    return packed if files.exists(packed) and not files.exists(files.join(root, _FOLDER)) else root


def open_images(root: str) -> Images:
    """The photos below ``root``: a folder or URI as `case.files` takes it, or a .zip, which is not unpacked.

    Cheap for folders, so tasks call it themselves. A zip's list of entries is read once for each process and kept:
    measured, 2 s and 0.7 KB an entry (290 MB for 416,314); unpack a zip of many millions. Photos may lie below further
    folders that wrap them all (in stores: they may not), and a zip may have been packed on a Mac or with the separators
    of Windows. Raises CaseError where the root is not there or no zip.
    """
    if _is_zip(root):
        return Images(_open_zip(root, files.file_size(root)))
    if not files.exists(root):
        raise CaseError(f"{files.redact(root)}: there is no such folder of photos")
    local = files.local_path(root)
    return Images(_RemoteReader(root) if local is None else _FolderReader(local))


def clean_path(path: str) -> str:
    """A path below a root in forward slashes, without ``.`` and empty parts.

    Raises an error that makes the photo ``refused`` for one that is empty, absolute, or climbs out.
    """
    plain = path.replace("\\", "/")
    parts = [p for p in plain.split("/") if p not in ("", ".")]
    if not parts or plain.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in path:
        raise _NoPhotoError("refused", "the path is empty, absolute or leads out of the folder of photos")
    return "/".join(parts)


def _tails(path: str) -> Iterator[str]:
    """The path itself, and without its first folder, for roots that are this folder."""
    yield path
    _, _, rest = path.partition("/")
    if rest:
        yield rest


def _is_zip(root: str) -> bool:
    return root.lower().endswith(".zip")


def is_by_product(name: str) -> bool:
    """Whether a file of this path is what a Mac leaves beside the photos: no photo, though it may be called .jpg."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store"


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


def _wrapping_folders(root: str) -> tuple[str, ...]:
    """`heads_of` for a local folder: its only folder, the only one in that, and so on, but for hidden ones."""
    heads = [""]
    while len(heads) <= _WRAPPED:
        with os.scandir(os.path.join(root, heads[-1])) as entries:
            folders = (e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX")))
            found = list(islice(folders, 2))
        if len(found) != 1:
            break
        heads.append(f"{heads[-1]}{found[0]}/")
    return tuple(heads)


class _FolderReader:
    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self.heads = _wrapping_folders(self._root)

    def has(self, path: str) -> bool:
        return os.path.isfile(self._file(path))

    def _file(self, path: str) -> str:
        # A link may lead out of the folder without any dots in its name.
        file = os.path.realpath(os.path.join(self._root, path))
        if os.path.commonpath([self._root, file]) != self._root:
            raise _NoPhotoError("refused", "a link leads out of the folder of photos")
        return file

    def read(self, path: str) -> bytes | None:
        file = self._file(path)
        # Pipes and devices have no size and no end.
        if not os.path.isfile(file):
            return None
        with open(file, "rb") as f:
            return f.read(_checked(os.fstat(f.fileno()).st_size))


class _RemoteReader:
    #: To list what a store holds may take a request for each thousand photos.
    heads: tuple[str, ...] = ("",)

    def __init__(self, root: str) -> None:
        self._root = root

    def has(self, path: str) -> bool:
        return files.exists(files.join(self._root, path))

    def read(self, path: str) -> bytes | None:
        where = files.join(self._root, path)
        if not files.exists(where):
            return None
        with files.open_file(where) as f:
            return bytes(f.read(_checked(f.size())))


class _ZipReader:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        # By the names with forward slashes: some programs write the separators of Windows. Folders end in one.
        self._entries = {
            clean: entry
            for entry in archive.infolist()
            for clean in (entry.filename.replace("\\", "/").removeprefix("./"),)
            if not clean.endswith("/") and not is_by_product(clean)
        }
        self.heads = heads_of(self._entries)

    def has(self, path: str) -> bool:
        return path in self._entries

    def read(self, path: str) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None:
            return None
        with self._archive.open(entry) as f:
            return f.read(_checked(entry.file_size))


@lru_cache(maxsize=1)
def _open_zip(root: str, size: int) -> _ZipReader:
    """Kept open for the tasks to come; another ``size`` is another file."""
    local = files.local_path(root)
    try:
        return _ZipReader(zipfile.ZipFile(files.open_file(root) if local is None else local))
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as exc:
        raise CaseError(f"{files.redact(root)}: cannot be read as a zip ({size:,} bytes): {exc}") from exc


def _checked(size: int) -> int:
    if size > MAX_BYTES:
        raise _NoPhotoError("broken", f"the file has {size:,} bytes, more than {MAX_BYTES:,}")
    return size


def _decode(path: str, data: bytes, side: int | None) -> Photo:
    try:
        # What Pillow only warns of is too large here.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=_FORMATS) as file,
        ):
            size = file.size
            if size[0] * size[1] > MAX_PIXELS:
                raise _NoPhotoError("broken", f"{size[0]:,} x {size[1]:,} pixels, more than {MAX_PIXELS:,}")
            if side is not None:
                file.draft("RGB", (side, side))
            image = ImageOps.exif_transpose(file).convert("RGB")
    except _NoPhotoError:
        raise
    except UnidentifiedImageError as exc:
        # Its own text names an address in memory, another one each time.
        raise _NoPhotoError("broken", "cannot be decoded: it is no picture of a known format") from exc
    except Exception as exc:  # Decoders raise nearly anything on broken data.
        raise _NoPhotoError("broken", f"cannot be decoded: {exc}") from exc
    if side is not None and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    return Photo(path, image, size)
