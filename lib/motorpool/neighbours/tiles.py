"""Products of two strips, tile by tile, leaving out tiles that are too far apart to matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from motorpool.neighbours.geometry import Rows

#: A tile of float32 products is 2 MiB: it stays in the cache between the product and the look at it.
TILE_ROWS, TILE_COLUMNS = 512, 1024

#: Products float32[R, C] of some rows and columns, put into the last argument; or None where no gap among them is
#: within the widest reach, the third. Off from the exact products by no more than `Rows.slack` allows.
Multiply = Callable[[slice, slice, float, np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Tiling:
    """Rows in tiles of TILE_ROWS: float64[tiles, d] centres and float64[tiles] radii of their ``x``."""

    rows: Rows
    centres: np.ndarray
    radii: np.ndarray

    def products(
        self, other: Tiling, widest: Callable[[slice, slice], float], same: bool, multiply: Multiply | None = None
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Tiles as (first row, first column, float32[R, C] of x_i.y_j), nearest first for each row tile.

        ``widest`` gives the largest reach (a gap) of some rows and columns as it stands; a tile none of whose
        pairs can be within it is left out, by the triangle inequality. Where both sides are the ``same``
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
                reach = widest(rows, columns)
                if least[at] > reach:
                    continue
                shape = rows.stop - i0, columns.stop - j0
                view = out[: shape[0] * shape[1]].reshape(shape)
                if multiply is None:
                    yield i0, j0, np.matmul(x[rows], y[columns].T, out=view)
                elif (products := multiply(rows, columns, reach, view)) is not None:
                    yield i0, j0, products

    def _least_gaps(self, tile: int, other: Tiling) -> np.ndarray:
        """Lower bounds float64[tiles] of the gaps between the rows of one tile and those of each other tile."""
        apart = np.sqrt(np.square(other.centres - self.centres[tile]).sum(axis=1))
        result: np.ndarray = 0.5 * np.square(np.maximum(apart - other.radii - self.radii[tile], 0.0))
        return result


def tiles_of(rows: Rows) -> Tiling:
    starts = range(0, len(rows), TILE_ROWS)
    centres = np.array([rows.x[s : s + TILE_ROWS].mean(axis=0, dtype=np.float64) for s in starts])
    radii = np.array(
        [
            np.sqrt(np.square(rows.x[s : s + TILE_ROWS] - centre).sum(axis=1).max())
            for s, centre in zip(starts, centres, strict=True)
        ]
    )
    # Rounding of float32 rows: a bound that is a hair too small only looks at a tile in vain.
    return Tiling(rows, centres.reshape(len(centres), rows.x.shape[1]), radii * (1.0 + 1e-5))
