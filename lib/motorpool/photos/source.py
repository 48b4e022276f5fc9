"""The photos of a case: in a folder, a zip, tars or a table, decoded one at a time, never from outside of it.

Nothing that a photo does stops a job: a photo that is missing, broken, or whose path leads out of the root, comes as a
`Photo` that says so.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from motorpool.case import files
from motorpool.case.folder import IMAGE_FOLDERS
from motorpool.case.photo_files import NoPhotoError, PhotoFiles, Problem, open_photo_files
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError

#: Larger pictures are no photos of a vehicle, and could fill a task's memory.
MAX_PIXELS = 80_000_000
#: Plain rasters. Pillow hands some of its other formats to outside programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_FOLDER, _ZIP = "veriwild", "veriwild.zip"


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


class Images:
    """Photos below one root; see `open_images`."""

    def __init__(self, photo_files: PhotoFiles) -> None:
        self._files = photo_files

    def photo(self, path: str, side: int | None = None) -> Photo:
        """The photo of a path as the table `images` has it; never raises for what a photo does.

        With ``side`` its longer side has at most as many pixels, and JPEG files are decoded at a fraction of
        their size. Memory: one photo, at most MAX_PIXELS.
        """
        try:
            return _decode(path, self._files.read(path), side)
        except NoPhotoError as exc:
            return Photo(path, None, None, exc.problem, str(exc))

    def data(self, path: str) -> bytes | None:
        """The bytes of the file for a path, which may yet be no photo; None where there is none that can be read."""
        try:
            return self._files.read(path)
        except NoPhotoError:
            return None

    def has(self, path: str) -> bool:
        """Whether there is a file for a path, which may yet be no photo; nothing is read."""
        return self._files.has(path)


def find_images(config: CaseConfig) -> str | None:
    """Where the photos lie: ``case.images_root``, or what the case folder holds; None where it holds none.

    A folder, or the zip as delivered; a folder that holds veriwild.zip and no folder veriwild stands for the zip.
    Raises CaseError where the config names what is not there.
    """
    root = config.images_root
    if root is not None and not files.exists(root):
        raise CaseError(f"case.images_root {files.redact(root)}: there is no such folder or file")
    if root is None and config.path is not None:
        names = (*IMAGE_FOLDERS, _ZIP)
        root = next((p for p in (files.join(config.path, n) for n in names) if files.exists(p)), None)
    if root is None or not files.is_folder(root):
        return root
    packed = files.join(root, _ZIP)
    return packed if files.exists(packed) and not files.exists(files.join(root, _FOLDER)) else root


def open_images(root: str) -> Images:
    """The photos below ``root``, a place as `case.photo_files` knows them, which also says what it costs.

    Tasks call it themselves. Photos may lie below further folders that wrap them all (in stores: they may not).
    Raises CaseError where the place is not there, or is not what its name says.
    """
    return Images(open_photo_files(root))


def _decode(path: str, data: bytes, side: int | None) -> Photo:
    try:
        # What Pillow only warns of is too large here.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=_FORMATS) as file,
        ):
            size = file.size
            if size[0] * size[1] > MAX_PIXELS:
                raise NoPhotoError("broken", f"{size[0]:,} x {size[1]:,} pixels, more than {MAX_PIXELS:,}")
            if side is not None:
                file.draft("RGB", (side, side))
            image = ImageOps.exif_transpose(file).convert("RGB")
    except NoPhotoError:
        raise
    except UnidentifiedImageError as exc:
        # Its message has an address in memory.
        raise NoPhotoError("broken", f"cannot be decoded: it is none of {', '.join(_FORMATS)}, or cut off") from exc
    except Exception as exc:  # Decoders raise nearly anything on broken data.
        raise NoPhotoError("broken", f"cannot be decoded: {exc}") from exc
    if side is not None and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    return Photo(path, image, size)
