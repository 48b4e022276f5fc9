"""Numbers that are measured of a picture: its lightness and colour, how sharp it is, how much it tells."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageCms


def to_lab(image: Image.Image) -> np.ndarray:
    """CIELAB float32[h, w, 3] of an RGB picture taken as sRGB: lightness 0 to 100, a and b in whole steps."""
    bytes_ = np.asarray(ImageCms.applyTransform(image, _transform()))
    lightness = bytes_[..., :1].astype(np.float32) * np.float32(100 / 255)
    return np.concatenate([lightness, bytes_[..., 1:].view(np.int8).astype(np.float32)], axis=-1)


def sharpness(image: Image.Image) -> float:
    """Variance of the discrete Laplacian of an RGB picture, in grey levels squared at 128 pixels a side."""
    grey = np.asarray(image.convert("L").resize((128, 128), Image.Resampling.BILINEAR), np.float32)
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var())


def entropy(image: Image.Image) -> float:
    """Shannon entropy of the grey levels of an RGB picture, in bits: 0 for a single level, 8 for all alike."""
    # Pillow gives -0 for a single level.
    return abs(float(image.convert("L").entropy()))


@cache
def _transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
