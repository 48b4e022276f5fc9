"""Pictures in CIELAB (CIE 15; by LittleCMS, so white point D50)."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageCms


def to_lab(image: Image.Image) -> np.ndarray:
    """CIELAB float32[h, w, 3] of an RGB picture taken as sRGB: lightness 0 to 100, a and b in whole steps."""
    bytes_ = np.asarray(ImageCms.applyTransform(image, _transform()))
    lightness = bytes_[..., :1].astype(np.float32) * np.float32(100 / 255)
    return np.concatenate([lightness, bytes_[..., 1:].view(np.int8).astype(np.float32)], axis=-1)


@cache
def _transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
