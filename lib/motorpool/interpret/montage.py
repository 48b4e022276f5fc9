"""Montages: photos side by side in equal tiles, without captions, a crossed-out tile for each that cannot be shown."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from itertools import islice

from PIL import Image, ImageDraw, ImageOps

from motorpool.interpret.images import Photo

#: Tiles of one montage: 400 of 128 pixels are a picture of 20 MB in memory.
MAX_TILES = 400
_GROUND, _EMPTY, _INK = (128, 132, 138), (214, 216, 220), (150, 154, 160)
_GAP = 2
#: Photos whose shape is within this factor of square are cropped to fill their tile; others are shown whole.
_NEARLY_SQUARE = 1.35


def montage(photos: Iterable[Photo], *, columns: int = 8, side: int = 128) -> Image.Image:
    """The photos in rows, RGB, tiles of ``side`` x ``side`` pixels.

    They are taken one at a time, so an iterator that opens them needs the memory of one; at most MAX_TILES. Missing
    photos are an empty frame, broken and refused ones a crossed-out frame. Raises ValueError where there is none.
    """
    tiles = [tile(photo, side) for photo in islice(photos, MAX_TILES)]
    if not tiles:
        raise ValueError("a montage needs at least one photo")
    columns = min(columns, len(tiles))
    step = side + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, math.ceil(len(tiles) / columns) * step - _GAP), "white")
    for at, picture in enumerate(tiles):
        sheet.paste(picture, (at % columns * step, at // columns * step))
    return sheet


def montage_jpeg(photos: Iterable[Photo], *, columns: int = 8, side: int = 128, quality: int = 80) -> bytes:
    """`montage` as a JPEG file."""
    out = io.BytesIO()
    montage(photos, columns=columns, side=side).save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def tile(photo: Photo, side: int) -> Image.Image:
    """One photo as RGB of ``side`` x ``side`` pixels."""
    if photo.image is None:
        return _placeholder(side, crossed=photo.problem != "missing")
    width, height = photo.image.size
    if max(width, height) <= _NEARLY_SQUARE * min(width, height):
        return ImageOps.fit(photo.image, (side, side), Image.Resampling.LANCZOS)
    return ImageOps.pad(photo.image, (side, side), Image.Resampling.LANCZOS, color=_GROUND)


def _placeholder(side: int, *, crossed: bool) -> Image.Image:
    picture = Image.new("RGB", (side, side), _EMPTY)
    draw = ImageDraw.Draw(picture)
    near, far, width = side // 4, side - side // 4, max(1, side // 32)
    draw.rectangle((near, near, far, far), outline=_INK, width=width)
    if crossed:
        draw.line((near, near, far, far), fill=_INK, width=width)
        draw.line((near, far, far, near), fill=_INK, width=width)
    return picture
