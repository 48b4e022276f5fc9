"""Methods without a network: shares of colours, and histograms of oriented gradients (HOG).

They tell photos apart by paint, light and outline, and give a first clustering; networks know more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from motorpool.config.describing import BuiltInConfig
from motorpool.errors import EnvironmentMissingError, not_installed
from motorpool.photos.measures import to_lab

_COLOR_SIDE = 64
#: Edges of bins of CIELAB: those of a and b are narrow about grey, where most paints and roads lie.
_LIGHTNESS = np.array([0.0, 25.0, 50.0, 75.0, np.inf])
_CHROMATIC = np.array([-np.inf, -48.0, -24.0, -8.0, 8.0, 24.0, 48.0, np.inf])
_HOG_SIDE, _HOG_CELL, _HOG_BLOCK, _HOG_ANGLES = 128, 16, 2, 9


@dataclass(frozen=True)
class _BuiltIn:
    """``settings`` name all that its numbers depend on; ``package`` is the module it needs and what brings that."""

    method: str
    width: int
    settings: str
    compute: Callable[[Image.Image], np.ndarray]
    package: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return f"built in: {self.method}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.method}: {self.settings}".encode()).hexdigest()

    def ready(self) -> _BuiltIn:
        if self.package is not None and not_installed([self.package[0]]):
            raise EnvironmentMissingError(
                f"{self.name}: needs {self.package[1]}, not installed here: pip install {self.package[1]}, on the "
                "workers too; or leave it out of case.descriptors"
            )
        return self

    def prepare(self, picture: Image.Image) -> np.ndarray:
        return self.compute(picture)

    def vectors(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        found: np.ndarray = np.stack(prepared).astype(np.float32, copy=False)
        return found


def color_histogram(picture: Image.Image) -> np.ndarray:
    """float32[392]: square roots of the shares of 4 x 7 x 7 bins of CIELAB, of the photo and of its middle half.

    The photo is stretched to 64 x 64 pixels. Euclidean distances of square roots are Hellinger distances.
    """
    lab = to_lab(picture.resize((_COLOR_SIDE, _COLOR_SIDE), Image.Resampling.BOX))
    quarter = _COLOR_SIDE // 4
    middle = lab[quarter:-quarter, quarter:-quarter]
    found: np.ndarray = np.sqrt(np.concatenate([_shares(lab), _shares(middle)])).astype(np.float32)
    return found


def _shares(lab: np.ndarray) -> np.ndarray:
    pixels = lab.reshape(-1, 3)
    counts, _ = np.histogramdd(pixels, bins=(_LIGHTNESS, _CHROMATIC, _CHROMATIC))
    return np.asarray(counts.reshape(-1) / len(pixels))


def hog(picture: Image.Image) -> np.ndarray:
    """float32[1764]: scikit-image's HOG (Dalal & Triggs 2005) of the grey photo, stretched to 128 x 128 pixels.

    Nine angles, cells of 16 pixels, blocks of 2 x 2 cells.
    """
    from skimage.feature import hog as of_grey

    grey = picture.resize((_HOG_SIDE, _HOG_SIDE), Image.Resampling.BILINEAR).convert("L")
    found = of_grey(
        np.asarray(grey),
        orientations=_HOG_ANGLES,
        pixels_per_cell=(_HOG_CELL, _HOG_CELL),
        cells_per_block=(_HOG_BLOCK, _HOG_BLOCK),
        block_norm="L2-Hys",
    )
    return np.asarray(found, np.float32)


#: The module that `hog` needs, and the package that brings it.
HOG = ("skimage", "scikit-image")
_BLOCKS = _HOG_SIDE // _HOG_CELL - _HOG_BLOCK + 1
METHODS: Mapping[str, _BuiltIn] = {
    method.method: method
    for method in (
        _BuiltIn(
            "color_histogram",
            2 * (len(_LIGHTNESS) - 1) * (len(_CHROMATIC) - 1) ** 2,
            f"{_COLOR_SIDE} {_LIGHTNESS.tolist()} {_CHROMATIC.tolist()} photo, middle, square roots",
            color_histogram,
        ),
        _BuiltIn(
            "hog",
            _BLOCKS**2 * _HOG_BLOCK**2 * _HOG_ANGLES,
            f"{_HOG_SIDE} {_HOG_CELL} {_HOG_BLOCK} {_HOG_ANGLES} L2-Hys",
            hog,
            HOG,
        ),
    )
}


def built_in(config: BuiltInConfig) -> _BuiltIn:
    """The method of this name; EnvironmentMissingError where its package is not installed here."""
    return METHODS[config.builtin].ready()
