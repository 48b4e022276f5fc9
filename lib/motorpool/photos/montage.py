"""What montages are made of: photos as equal tiles, without captions, crossed out where a photo cannot be shown."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageOps

from motorpool.photos.source import Photo

_GROUND, _EMPTY, _INK = (128, 132, 138), (214, 216, 220), (150, 154, 160)
#: Photos whose shape is within this factor of square are cropped to fill their tile; others are shown whole.
_NEARLY_SQUARE = 1.35


def tile(photo: Photo, side: int) -> Image.Image:
    """One photo as RGB of ``side`` x ``side`` pixels: an empty frame for a missing one, a crossed-out one for others.

    Others are those that are broken or refused.
    """
    if photo.image is None:
        return _placeholder(side, crossed=photo.problem != "missing")
    width, height = photo.image.size
    if max(width, height) <= _NEARLY_SQUARE * min(width, height):
        return ImageOps.fit(photo.image, (side, side), Image.Resampling.LANCZOS)
    return ImageOps.pad(photo.image, (side, side), Image.Resampling.LANCZOS, color=_GROUND)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG file."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def _placeholder(side: int, *, crossed: bool) -> Image.Image:
    picture = Image.new("RGB", (side, side), _EMPTY)
    draw = ImageDraw.Draw(picture)
    near, far, width = side // 4, side - side // 4, max(1, side // 32)
    draw.rectangle((near, near, far, far), outline=_INK, width=width)
    if crossed:
        draw.line((near, near, far, far), fill=_INK, width=width)
        draw.line((near, far, far, near), fill=_INK, width=width)
    return picture
