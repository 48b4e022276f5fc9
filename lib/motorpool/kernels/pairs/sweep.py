"""What two shards' rows are to each other: neighbours counted and the nearest kept, over all their pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motorpool.kernels.pairs import loops
from motorpool.kernels.pairs.geometry import Rows
from motorpool.kernels.pairs.tiles import Tiling, tiles_of


@dataclass(frozen=True)
class Wanted:
    """What to look for: neighbours within ``radii`` (ascending) counted up to ``enough``, and the ``k`` nearest."""

    radii: tuple[float, ...] = ()
    enough: int = 1
    k: int = 0


@dataclass
class Side:
    """Rows of one shard with what is known of them, and how far their pairs still matter.

    counts int32[n, radii]; gaps float64[n, k] ascending and ids int64[n, k] of the nearest other rows. ``top`` and the
    reaches are what the kernels know of them (see `kernels.count_tile`).
    """

    rows: Rows
    tiling: Tiling
    counts: np.ndarray
    top: np.ndarray
    count_reach: np.ndarray
    gaps: np.ndarray
    ids: np.ndarray
    near_reach: np.ndarray

    @classmethod
    def of(
        cls, rows: Rows, levels: np.ndarray, wanted: Wanted, counts: np.ndarray, gaps: np.ndarray, ids: np.ndarray
    ) -> Side:
        """``levels`` float64[radii] are the radii as gaps; the arrays are changed in place."""
        scale = rows.scale
        top = (counts < wanted.enough).sum(axis=1).astype(np.int32) - 1
        last = gaps[:, -1] if wanted.k else np.full(len(counts), -np.inf)
        # What is beyond float32 becomes infinite, and a reach is never too short: rounded up.
        with np.errstate(over="ignore"):
            far = (np.append(levels, -np.inf) * scale).astype(np.float32)
            near = (last * scale).astype(np.float32) * np.float32(1.0000002)
        return cls(rows, tiles_of(rows), counts, top, far[top], gaps, ids.astype(np.int64), near)

    @classmethod
    def fresh(cls, rows: Rows, levels: np.ndarray, wanted: Wanted) -> Side:
        """Rows of which nothing is known yet."""
        n = len(rows)
        # Every row is its own neighbour, as for scikit-learn.
        counts = np.ones((n, len(levels)), np.int32)
        return cls.of(rows, levels, wanted, counts, np.full((n, wanted.k), np.inf), np.full((n, wanted.k), -1))

    def widest(self, rows: slice) -> float:
        return max(float(self.count_reach[rows].max()), float(self.near_reach[rows].max()))


def sweep(a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
    """All pairs of a row of ``a`` and a row of ``b``, or all pairs within ``a`` where both are the same.

    Counts are exact below ``wanted.enough``, and otherwise at least that.
    """
    x, y, same = a.rows, b.rows, a is b
    for i0, j0, products in a.tiling.products(b.tiling, lambda i, j: max(a.widest(i), b.widest(j)), same):
        place = (products, i0, j0, same and i0 == j0, x.raw, y.raw, x.half, y.half, x.slack, x.scale, cosine)
        if len(levels):
            loops.count_tile(
                *place, levels, wanted.enough, a.counts, b.counts, a.top, b.top, a.count_reach, b.count_reach
            )
        if wanted.k:
            loops.nearest_tile(*place, x.ids, y.ids, a.gaps, b.gaps, a.ids, b.ids, a.near_reach, b.near_reach)
