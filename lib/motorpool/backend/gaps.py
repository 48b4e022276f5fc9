"""Gaps between rows, tile by tile, in an array module: float32 bounds, and what they leave open decided on the host.

A float32 gap (see `pairs.geometry`) is off by at most a *band*, so most pairs are surely within a level or surely
beyond it. Those in between, ties among them, are taken again from the given vectors by `geometry.exact_gap`. That is
why products must be float32's own (`device.check_products`), and why the answers are exact all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from motorpool.backend.device import Device, rows_within
from motorpool.kernels.pairs.geometry import FLOOR, Metric, Rows, prepare, unit_of

#: Rows and columns of a tile at most: 4 million pairs keep a GPU busy.
TILE = 2048
#: Float32 numbers, flags and, where all of a tile is unsure, positions.
_PAIR_BYTES = 64
#: `Rows.slack` holds for gaps added up in float64. Two sums, two bounds and a level rounded to float32 take this more.
_SUMS = 16 * 2.0**-24
_FLOOR32 = np.float32(FLOOR)
#: A gap that equals another as float32 is at most this many times as large.
EQUAL = np.float32(1 + 2.0**-22)


@dataclass
class Tile:
    """Bounds of the gaps between some rows of ``a`` and some of ``b``: low and high float32[R, C] on the device, in the
    unit of products (``scale``, see `Rows`).

    Not a number where rows are too large for products: then a pair is neither surely within a level nor beyond it.
    """

    device: Device
    rows: slice
    columns: slice
    low: Any
    high: Any
    scale: float

    def within(self, level: float) -> tuple[Any, Any]:
        """bool[R, C]: which pairs are surely within a level, and which may be as well as not."""
        bound = as_float32(level * self.scale)
        sure = self.high <= bound
        return sure, ~(sure | (self.low > bound))

    def pairs(self, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """int64 positions in ``a`` and ``b`` of a tile's pairs, row by row."""
        r, c = (self.device.take(at) for at in self.device.xp.nonzero(mask))
        return r + self.rows.start, c + self.columns.start

    def clear(self, mask: Any, rows: np.ndarray) -> None:
        """Clear a mask's pairs of a row with itself; ``rows`` int64[R] are the tile's rows among those of ``b``."""
        here = np.flatnonzero((rows >= self.columns.start) & (rows < self.columns.stop))
        if len(here):
            mask[self.device.put(here), self.device.put(rows[here] - self.columns.start)] = False


def as_float32(level: float) -> np.float32:
    """A level for comparisons with bounds: what lies beyond float32 becomes its largest number, and surely within."""
    return np.float32(min(level, float(np.finfo(np.float32).max)))


class Operand:
    """Rows for products: on the device as a whole where that takes a quarter of what is free, or else as asked for."""

    def __init__(self, device: Device, rows: Rows) -> None:
        self.device, self.rows = device, rows
        self.whole = device.put(rows.x) if rows.x.nbytes <= device.free() // 4 else None
        self.half = device.put(rows.half)

    def part(self, which: slice) -> tuple[Any, Any]:
        x = self.device.put(self.rows.x[which]) if self.whole is None else self.whole[which]
        return x, self.half[which]


def tiles(device: Device, a: Rows, b: Rows, *, upper: bool = False) -> Iterator[Tile]:
    """All pairs of a row of ``a`` and a row of ``b``, in the order of both; those of an ``upper`` triangle of tiles,
    where both are the same rows. Device memory: both, where they fit, and 64 bytes for each pair of a tile."""
    if not len(a) or not len(b):
        return
    left = Operand(device, a)
    right = left if b is a else Operand(device, b)
    side = max(1, min(TILE, math.isqrt(rows_within(device.free(), _PAIR_BYTES))))
    slack = np.float32(a.slack + _SUMS)
    for i0 in range(0, len(a), side):
        rows = slice(i0, min(i0 + side, len(a)))
        x, half_x = left.part(rows)
        for j0 in range(i0 if upper else 0, len(b), side):
            columns = slice(j0, min(j0 + side, len(b)))
            y, half_y = right.part(columns)
            size = half_x[:, None] + half_y
            gap = size - x @ y.T
            band = size * slack + _FLOOR32
            yield Tile(device, rows, columns, gap - band, gap + band, a.scale)


def about_mean(x: np.ndarray, metric: Metric, *others: np.ndarray) -> list[Rows]:
    """float32[n, d] vectors, and others to compare them with, as Rows about the mean of the first.

    There a common offset costs no digits.
    """
    shift, unit = None, 1.0
    if metric == "euclidean":
        shift = x.mean(axis=0, dtype=np.float64) if len(x) else np.zeros(x.shape[1])
        unit = unit_of(x, shift)
    return [prepare(np.arange(len(rows)), rows, metric, shift, unit) for rows in (x, *others)]
