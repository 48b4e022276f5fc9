"""`kernels.pairs.sweep` in an array module: counts and nearest rows of two shards, exact.

Every pair's bounds are compared with all radii at once; a GPU does that faster than it could leave pairs out. Pairs
that a bound leaves open, and those that may be among the nearest, are decided on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from motorpool.backend.device import Device, open_device
from motorpool.backend.gaps import EQUAL, Operand, Tile, tiles
from motorpool.kernels.pairs.counting import nearest_pairs
from motorpool.kernels.pairs.geometry import Rows, exact_gaps
from motorpool.kernels.pairs.loops import FLOOR32, points_of, precision_of
from motorpool.kernels.pairs.sweep import Side, Wanted
from motorpool.kernels.pairs.tiles import Multiply


def array_sweep(module: str, a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
    """As `kernels.pairs.sweep.sweep`, from the rows of each side to those of the other: 2 n m products of d numbers."""
    device = open_device(module)
    _one_way(device, a, b, levels, wanted, cosine)
    if a is not b:
        _one_way(device, b, a, levels, wanted, cosine)


def _one_way(device: Device, a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
    """The neighbours among the rows of ``b``, for those rows of ``a`` that still look for some."""
    looking = np.flatnonzero((a.top >= 0) | (a.near_limit > -np.inf))
    rows = a.rows if len(looking) == len(a.rows) else a.rows.take(looking)
    precision = precision_of(a.rows, cosine)
    more = np.zeros((len(looking), len(levels)), np.int64)
    for tile in tiles(device, rows, b.rows):
        own = looking[tile.rows]
        itself = own if a is b else np.empty(0, np.int64)
        if len(levels):
            _count(tile, itself, rows, b.rows, levels, cosine, more)
        if wanted.k:
            candidates = _candidates(tile, itself, a.near_limit[own], wanted.k)
            i, j = tile.pairs(candidates)
            nearest_pairs(looking[i], j, precision, points_of(a.rows), points_of(b.rows), a.listed)
    before = a.counts[looking].astype(np.int64)
    full = np.minimum(before + more, np.maximum(before, wanted.enough))
    a.counts[looking] = full.astype(np.int32)


def _count(
    tile: Tile, itself: np.ndarray, a: Rows, b: Rows, levels: np.ndarray, cosine: bool, more: np.ndarray
) -> None:
    """Add a tile's neighbours within each level to ``more`` int64[n, E]."""
    xp, take = tile.device.xp, tile.device.take
    bounds = [tile.within(level) for level in levels.tolist()]
    unsure = bounds[0][1]
    for _, open_ in bounds[1:]:
        unsure = unsure | open_
    # An unsure pair is counted on the host alone, in all levels.
    known = ~unsure
    tile.clear(known, itself)
    tile.clear(unsure, itself)
    more[tile.rows] += take(xp.stack([(sure & known).sum(axis=1) for sure, _ in bounds], axis=1))
    i, j = tile.pairs(unsure)
    gaps = exact_gaps(a.raw, b.raw, i, j, cosine)
    for e, level in enumerate(levels.tolist()):
        more[:, e] += np.bincount(i[gaps <= level], minlength=len(more))


def _candidates(tile: Tile, itself: np.ndarray, limit: np.ndarray, k: int) -> Any:
    """bool[R, C]: which pairs may be among the k nearest of their row, whose k-th so far is at ``limit`` float32[R]."""
    xp = tile.device.xp
    bound = tile.device.put(limit)
    columns = tile.columns.stop - tile.columns.start
    if not np.isfinite(limit).all() and columns > k:
        high = xp.where(xp.isnan(tile.high), xp.inf, tile.high)
        # One more than k, lest the row itself be one of them.
        with np.errstate(over="ignore"):
            bound = xp.minimum(bound, xp.partition(high, k, axis=1)[:, k] * EQUAL)
    found = ~(tile.low > bound[:, None])
    tile.clear(found, itself)
    return found


def multiplier(module: str, a: Rows, b: Rows) -> Multiply:
    """Products for `Tiling.products` from the device; of tiles without a pair within the limit it brings none back."""
    device = open_device(module)
    left = Operand(device, a)
    right = left if b is a else Operand(device, b)
    shrink = np.float32(1.0 - a.slack)

    def multiply(rows: slice, columns: slice, widest: float, out: np.ndarray) -> np.ndarray | None:
        (x, half_x), (y, half_y) = left.part(rows), right.part(columns)
        products = x @ y.T
        low = (half_x * shrink - FLOOR32)[:, None] + half_y * shrink - products
        # Rows too large for products have no number here, and are brought back too.
        if not bool((~(low > np.float32(widest))).any()):
            return None
        out[...] = device.take(products)
        return out

    return multiply
