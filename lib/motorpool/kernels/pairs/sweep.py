"""All pairs of two shards' rows: neighbours counted, and the nearest kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motorpool.kernels.pairs.counting import Counted, Listed, count_tile, nearest_tile
from motorpool.kernels.pairs.geometry import Rows
from motorpool.kernels.pairs.loops import UP, Tile, points_of, precision_of
from motorpool.kernels.pairs.tiles import Tiling, tiles_of


@dataclass(frozen=True)
class Wanted:
    """Results of a search: neighbours within ``radii`` (ascending) counted up to ``enough``, and the ``k`` nearest."""

    radii: tuple[float, ...] = ()
    enough: int = 1
    k: int = 0


@dataclass
class Side:
    """Rows of one shard, the neighbours found so far, and the limits of the gaps that can still change them.

    counts int32[n, radii]; gaps float64[n, k] ascending and ids int64[n, k] of the nearest other rows. ``top`` and the
    limits are those of `counting.Counted` and `counting.Listed`.
    """

    rows: Rows
    tiling: Tiling
    counts: np.ndarray
    top: np.ndarray
    count_limit: np.ndarray
    gaps: np.ndarray
    ids: np.ndarray
    near_limit: np.ndarray

    @classmethod
    def of(
        cls, rows: Rows, levels: np.ndarray, wanted: Wanted, counts: np.ndarray, gaps: np.ndarray, ids: np.ndarray
    ) -> Side:
        """``levels`` float64[radii] are the radii as gaps; the arrays are changed in place."""
        scale = rows.scale
        top = (counts < wanted.enough).sum(axis=1).astype(np.int32) - 1
        last = gaps[:, -1] if wanted.k else np.full(len(counts), -np.inf)
        # Gaps beyond float32 become infinite, and a limit is rounded up: it is never too small.
        with np.errstate(over="ignore"):
            far = (np.append(levels, -np.inf) * scale).astype(np.float32)
            near = (last * scale).astype(np.float32) * UP
        return cls(rows, tiles_of(rows), counts, top, far[top], gaps, ids.astype(np.int64), near)

    @classmethod
    def fresh(cls, rows: Rows, levels: np.ndarray, wanted: Wanted) -> Side:
        """Rows whose neighbours have not been searched yet."""
        n = len(rows)
        # Every row is its own neighbour, as for scikit-learn.
        counts = np.ones((n, len(levels)), np.int32)
        return cls.of(rows, levels, wanted, counts, np.full((n, wanted.k), np.inf), np.full((n, wanted.k), -1))

    def widest(self, rows: slice) -> float:
        return max(float(self.count_limit[rows].max()), float(self.near_limit[rows].max()))

    @property
    def counted(self) -> Counted:
        return Counted(self.counts, self.top, self.count_limit)

    @property
    def listed(self) -> Listed:
        return Listed(self.gaps, self.ids, self.near_limit)


def sweep(a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
    """All pairs of a row of ``a`` and a row of ``b``, or all pairs within ``a`` where both are the same.

    Counts are exact below ``wanted.enough``, and otherwise at least that.
    """
    same, precision = a is b, precision_of(a.rows, cosine)
    x, y = points_of(a.rows), points_of(b.rows)
    for i0, j0, products in a.tiling.products(b.tiling, lambda i, j: max(a.widest(i), b.widest(j)), same):
        tile = Tile(products, i0, j0, same and i0 == j0)
        if len(levels):
            count_tile(tile, precision, x, y, levels, wanted.enough, a.counted, b.counted)
        if wanted.k:
            nearest_tile(tile, precision, x, y, a.listed, b.listed)
