"""Products of two shards, tile by tile, leaving out tiles that are too far apart to matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from motorpool.kernels.pairs.geometry import Rows

#: A tile of float32 products is 2 MiB: it stays in the cache between the product and the look at it.
TILE_ROWS, TILE_COLUMNS = 512, 1024

#: The rounding of a row's numbers to float32, of its length and of its half; and of numbers too small for that.
_ROUNDED, _SMALLEST = 2.0**-22, 2.0**-100

#: Products float32[R, C] of some rows and columns, put into the last argument; or None where no gap among them is
#: within the widest limit, the third. Off from the exact products by no more than `Rows.slack` allows.
Multiply = Callable[[slice, slice, float, np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Tiling:
    """Rows in tiles of TILE_ROWS: float64[tiles, d] centres and float64[tiles] radii of their ``x``.

    The radius is infinite where rows have no half (see `Rows`), whose pairs can be anywhere.
    """

    rows: Rows
    centres: np.ndarray
    radii: np.ndarray

    def products(
        self, other: Tiling, widest: Callable[[slice, slice], float], same: bool, multiply: Multiply | None = None
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Tiles as (first row, first column, float32[R, C] of x_i.y_j), nearest first for each row tile.

        ``widest`` gives the largest limit (a gap, see `loops`) of some rows and columns as it stands; a tile whose
        pairs are all beyond it is left out, by the triangle inequality. Where both sides are the ``same``
        rows, tiles below the diagonal are left out and those on it start at the same row and column. ``multiply``
        makes the products elsewhere.
        """
        x, y = self.rows.x, other.rows.x
        per = 1 if same else TILE_COLUMNS // TILE_ROWS
        out = np.empty(TILE_ROWS * TILE_ROWS * per, np.float32)
        for tile, i0 in enumerate(range(0, len(x), TILE_ROWS)):
            rows = slice(i0, min(i0 + TILE_ROWS, len(x)))
            least = self._least_gaps(tile, other)
            starts = np.arange(tile if same else 0, len(least), per)
            least = np.minimum.reduceat(least, starts)
            for at in np.argsort(least, kind="stable"):
                j0 = int(starts[at]) * TILE_ROWS
                columns = slice(j0, min(j0 + per * TILE_ROWS, len(y)))
                limit = widest(rows, columns)
                if least[at] > limit:
                    continue
                shape = rows.stop - i0, columns.stop - j0
                view = out[: shape[0] * shape[1]].reshape(shape)
                if multiply is None:
                    yield i0, j0, np.matmul(x[rows], y[columns].T, out=view)
                elif (products := multiply(rows, columns, limit, view)) is not None:
                    yield i0, j0, products

    def _least_gaps(self, tile: int, other: Tiling) -> np.ndarray:
        """Lower bounds float64[tiles] of the gaps between the rows of one tile and those of each other tile."""
        apart = np.sqrt(np.square(other.centres - self.centres[tile]).sum(axis=1))
        least: np.ndarray = 0.5 * np.square(np.maximum(apart - other.radii - self.radii[tile], 0.0))
        # A limit is rounded to float32, down perhaps.
        least *= 1.0 - self.rows.slack
        return least


def tiles_of(rows: Rows) -> Tiling:
    spans = [slice(s, s + TILE_ROWS) for s in range(0, len(rows), TILE_ROWS)]
    centres = np.array([rows.x[s].mean(axis=0, dtype=np.float64) for s in spans])
    centres = centres.reshape(len(spans), rows.x.shape[1])
    radii = np.array([_radius(rows.x[s], rows.half[s], c) for s, c in zip(spans, centres, strict=True)])
    return Tiling(rows, centres, radii)


def _radius(x: np.ndarray, half: np.ndarray, centre: np.ndarray) -> float:
    """How far rows are from float64[d] at most, their rounding to float32 included."""
    if np.isnan(half).any():
        return np.inf
    within = float(np.sqrt(np.square(x - centre).sum(axis=1).max()))
    # Numbers of ``x`` that were shifted, scaled or divided are off by half a unit each.
    return within * (1.0 + 1e-5) + _ROUNDED * float(np.sqrt(2.0 * half.max())) + _SMALLEST
