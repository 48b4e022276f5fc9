"""Compiled loops over one tile: neighbours counted within each level, and the nearest rows kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from motorpool.kernels.pairs.geometry import exact_gap
from motorpool.kernels.pairs.loops import (
    EXACT,
    FLOOR32,
    UP,
    Points,
    Precision,
    Tile,
    bounds,
    jit,
    level_of,
    near_columns,
)


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
    (_, a_raw, a_half), (_, b_raw, b_half) = a, b
    (a_counts, a_top, a_limit), (b_counts, b_top, b_limit) = of_a, of_b
    rows, columns = products.shape
    shrink, back = np.float32(1.0 - slack), 1.0 / scale
    low = b_half[j0 : j0 + columns] * shrink
    limits = b_limit[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        low_i = a_half[i] * shrink - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, a_limit[i], first, near)):
            c = near[at]
            j = j0 + c
            top = max(a_top[i], b_top[j])
            if top < 0:
                continue
            gap, band = bounds(a_half[i], b_half[j], products[r, c], slack)
            gap, band = gap * back, band * back
            if gap > levels[top] + band:
                continue
            level = level_of(gap, band, levels, top)
            if level < 0:
                level = level_of(exact_gap(a_raw[i], b_raw[j], cosine), EXACT, levels, top)
            a_top[i], a_limit[i] = _count(a_counts, i, level, a_top[i], enough, levels, scale, a_limit[i])
            b_top[j], b_limit[j] = _count(b_counts, j, level, b_top[j], enough, levels, scale, b_limit[j])


@jit
def _count(
    counts: np.ndarray,
    row: int,
    level: int,
    top: int,
    enough: int,
    levels: np.ndarray,
    scale: float,
    limit: np.float32,
) -> tuple[int, np.float32]:
    """Count a neighbour within ``level`` and above; the row's new top and limit."""
    if level > top:
        return top, limit
    for e in range(level, top + 1):
        counts[row, e] += 1
    while top >= 0 and counts[row, top] >= enough:
        top -= 1
        limit = np.float32(levels[top] * scale) if top >= 0 else np.float32(-np.inf)
    return top, limit


@jit
def nearest_tile(tile: Tile, precision: Precision, a: Points, b: Points, of_a: Listed, of_b: Listed) -> None:
    """Keep the k nearest others of both sides' rows; ties go to the lower id."""
    products, i0, j0, same = tile
    slack, scale, cosine = precision
    (a_ids, a_raw, a_half), (b_ids, b_raw, b_half) = a, b
    (a_gaps, a_found, a_limit), (b_gaps, b_found, b_limit) = of_a, of_b
    rows, columns = products.shape
    shrink = np.float32(1.0 - slack)
    low = b_half[j0 : j0 + columns] * shrink
    limits = b_limit[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        low_i = a_half[i] * shrink - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, a_limit[i], first, near)):
            c = near[at]
            j = j0 + c
            gap, band = bounds(a_half[i], b_half[j], products[r, c], slack)
            # The limits may have shrunk since the row was compared.
            if gap - band > max(a_limit[i], b_limit[j]):
                continue
            gap = exact_gap(a_raw[i], b_raw[j], cosine)
            a_limit[i] = insert(a_gaps[i], a_found[i], gap, b_ids[j], scale, a_limit[i])
            b_limit[j] = insert(b_gaps[j], b_found[j], gap, a_ids[i], scale, b_limit[j])


@jit
def insert(gaps: np.ndarray, ids: np.ndarray, gap: float, other: int, scale: float, limit: np.float32) -> np.float32:
    """Put a row into a list of the nearest, where it is near enough; the new limit."""
    last = gaps.shape[0] - 1
    if gap > gaps[last] or (gap == gaps[last] and other > ids[last]):
        return limit
    at = last
    while at > 0 and (gap < gaps[at - 1] or (gap == gaps[at - 1] and other < ids[at - 1])):
        gaps[at] = gaps[at - 1]
        ids[at] = ids[at - 1]
        at -= 1
    gaps[at] = gap
    ids[at] = other
    return np.float32(gaps[last] * scale) * UP


@jit
def nearest_pairs(i: np.ndarray, j: np.ndarray, precision: Precision, a: Points, b: Points, of_a: Listed) -> None:
    """`nearest_tile` for the rows of ``a`` in int64[p] pairs (a[i], b[j]) alone, whatever their products are."""
    gaps, ids, limit = of_a
    for pair in range(len(i)):
        row = i[pair]
        gap = exact_gap(a.raw[row], b.raw[j[pair]], precision.cosine)
        limit[row] = insert(gaps[row], ids[row], gap, b.ids[j[pair]], precision.scale, limit[row])
