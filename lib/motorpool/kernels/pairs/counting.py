"""Compiled loops over one tile: neighbours counted within each level, and the nearest rows kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from motorpool.kernels.pairs.geometry import exact_gap
from motorpool.kernels.pairs.loops import FLOOR32, UP, Points, Precision, Tile, bounds, jit, level_of, near_columns


class Counted(NamedTuple):
    """Neighbours of one side's rows: ``counts`` int32[n, E] within each level, ``top`` int32[n] the largest level that
    is not yet full (-1: none), ``limit`` float32[n] that level's gap."""

    counts: np.ndarray
    top: np.ndarray
    limit: np.ndarray


class Listed(NamedTuple):
    """The k nearest of one side's rows so far: ``gaps`` float64[n, k] ascending, their ``ids`` int64[n, k], and
    ``limit`` float32[n], the last gap rounded up."""

    gaps: np.ndarray
    ids: np.ndarray
    limit: np.ndarray


@jit
def count_tile(
    tile: Tile,
    precision: Precision,
    a: Points,
    b: Points,
    levels: np.ndarray,
    enough: int,
    of_a: Counted,
    of_b: Counted,
) -> None:
    """Count neighbours within each level (float64[E], ascending gaps) up to ``enough`` for both sides' rows."""
    products, i0, j0, same = tile
    slack, scale, cosine = precision
    rows, columns = products.shape
    shrink, back = np.float32(1.0 - slack), 1.0 / scale
    low = b.half[j0 : j0 + columns] * shrink
    limits = of_b.limit[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        low_i = a.half[i] * shrink - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, of_a.limit[i], first, near)):
            c = near[at]
            j = j0 + c
            top = max(of_a.top[i], of_b.top[j])
            if top < 0:
                continue
            gap, band = bounds(a.half[i], b.half[j], products[r, c], slack)
            gap, band = gap * back, band * back
            if gap > levels[top] + band:
                continue
            level, _, _ = level_of(gap, band, levels, top, a.raw, i, b.raw, j, cosine)
            _count(of_a, i, level, enough, levels, scale)
            _count(of_b, j, level, enough, levels, scale)


@jit
def _count(of: Counted, row: int, level: int, enough: int, levels: np.ndarray, scale: float) -> None:
    top = of.top[row]
    if level > top:
        return
    for e in range(level, top + 1):
        of.counts[row, e] += 1
    if of.counts[row, top] < enough:
        return
    while top >= 0 and of.counts[row, top] >= enough:
        top -= 1
    of.top[row] = top
    of.limit[row] = np.float32(levels[top] * scale) if top >= 0 else np.float32(-np.inf)


@jit
def nearest_tile(tile: Tile, precision: Precision, a: Points, b: Points, of_a: Listed, of_b: Listed) -> None:
    """Keep the k nearest others of both sides' rows; ties go to the lower id."""
    products, i0, j0, same = tile
    slack, scale, cosine = precision
    rows, columns = products.shape
    shrink = np.float32(1.0 - slack)
    low = b.half[j0 : j0 + columns] * shrink
    limits = of_b.limit[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        low_i = a.half[i] * shrink - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, of_a.limit[i], first, near)):
            c = near[at]
            j = j0 + c
            gap, band = bounds(a.half[i], b.half[j], products[r, c], slack)
            # The limits may have shrunk since the row was compared.
            if gap - band > max(of_a.limit[i], of_b.limit[j]):
                continue
            gap = exact_gap(a.raw[i], b.raw[j], cosine)
            _insert(of_a, i, gap, b.ids[j], scale)
            _insert(of_b, j, gap, a.ids[i], scale)


@jit
def _insert(of: Listed, row: int, gap: float, other: int, scale: float) -> None:
    gaps, ids = of.gaps[row], of.ids[row]
    last = gaps.shape[0] - 1
    if gap > gaps[last] or (gap == gaps[last] and other > ids[last]):
        return
    at = last
    while at > 0 and (gap < gaps[at - 1] or (gap == gaps[at - 1] and other < ids[at - 1])):
        gaps[at] = gaps[at - 1]
        ids[at] = ids[at - 1]
        at -= 1
    gaps[at] = gap
    ids[at] = other
    of.limit[row] = np.float32(gaps[last] * scale) * UP


@jit
def nearest_pairs(i: np.ndarray, j: np.ndarray, precision: Precision, a: Points, b: Points, of_a: Listed) -> None:
    """`nearest_tile` for the rows of ``a`` in int64[p] pairs (a[i], b[j]) alone, whatever their products are."""
    for pair in range(len(i)):
        gap = exact_gap(a.raw[i[pair]], b.raw[j[pair]], precision.cosine)
        _insert(of_a, i[pair], gap, b.ids[j[pair]], precision.scale)
