"""Compiled loop over one tile: the lightest edge out of every part of a growing spanning tree (Boruvka's step)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from motorpool.kernels.pairs.geometry import exact_gap
from motorpool.kernels.pairs.loops import FLOOR32, RUN, UP, Points, Precision, Tile, bounds, jit


class Members(NamedTuple):
    """Rows of one side: ``core`` float64[n] core gaps, and ``part`` int64[n], the part that a row belongs to.

    -1 where the part does not search. ``low_core`` float32[n]: core gaps in the unit of products, rounded down.
    """

    core: np.ndarray
    part: np.ndarray
    low_core: np.ndarray


class Lightest(NamedTuple):
    """Of every part the lightest edge so far: ``gap`` float64[parts], and int64[parts] ids ``start`` and ``end`` of its
    rows (-1: none found here)."""

    gap: np.ndarray
    start: np.ndarray
    end: np.ndarray


@jit
def _n_leaving(
    products: np.ndarray,
    low_columns: np.ndarray,
    core_columns: np.ndarray,
    part_columns: np.ndarray,
    low_row: np.float32,
    limit: np.float32,
    part: int,
) -> np.int32:
    near = np.int32(0)
    for c in range(len(products)):
        near += np.int32(
            (not low_row + low_columns[c] - products[c] > limit)
            & (core_columns[c] <= limit)
            & (part_columns[c] != part)
        )
    return near


@jit
def outgoing_tile(
    tile: Tile, precision: Precision, a: Points, b: Points, of_a: Members, of_b: Members, best: Lightest
) -> None:
    """For every part (component of a forest) the lightest edge that leaves it, from rows of ``a`` to rows of ``b``.

    An edge weighs the larger of the gap and both rows' core gaps (mutual reachability, float64). ``best`` is indexed by
    part and starts with the gaps known already: only lighter edges replace them.
    """
    products, i0, j0, _ = tile
    slack, scale, cosine = precision
    (a_ids, a_raw, a_half), (b_ids, b_raw, b_half) = a, b
    (a_core, a_part, _), (b_core, b_part, b_low_core) = of_a, of_b
    best_gap, best_start, best_end = best
    rows, columns = products.shape
    shrink = np.float32(1.0 - slack)
    low = b_half[j0 : j0 + columns] * shrink
    cores, parts = b_low_core[j0 : j0 + columns], b_part[j0 : j0 + columns]
    for r in range(rows):
        i = i0 + r
        part = a_part[i]
        low_i = a_half[i] * shrink - FLOOR32
        row = products[r]
        if _n_leaving(row, low, cores, parts, low_i, np.float32(best_gap[part] * scale) * UP, part) == 0:
            continue
        for start in range(0, columns, RUN):
            stop = min(start + RUN, columns)
            limit = np.float32(best_gap[part] * scale) * UP
            run = (row[start:stop], low[start:stop], cores[start:stop], parts[start:stop])
            if _n_leaving(*run, low_i, limit, part) == 0:
                continue
            for c in range(start, stop):
                j = j0 + c
                if b_part[j] == part or b_core[j] > best_gap[part]:
                    continue
                gap, band = bounds(a_half[i], b_half[j], products[r, c], slack)
                if gap - band > best_gap[part] * scale:
                    continue
                gap = max(exact_gap(a_raw[i], b_raw[j], cosine), a_core[i], b_core[j])
                if gap < best_gap[part]:
                    best_gap[part] = gap
                    best_start[part] = a_ids[i]
                    best_end[part] = b_ids[j]
