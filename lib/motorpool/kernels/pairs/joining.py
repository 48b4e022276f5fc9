"""Compiled loops of DBSCAN over one tile: core rows joined within each level, and the nearest core rows of the others.

A grid's models are its levels (radii as gaps) combined with its ranks (min_samples): model e * n_ranks + q has the
e-th level and the q-th smallest min_samples. Rows joined at (e, q) are joined at every (e' >= e, q' <= q) too: a larger
radius and a smaller count keep every edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from motorpool.kernels.pairs.geometry import as_short, exact_gap
from motorpool.kernels.pairs.loops import EXACT, FLOOR32, Points, Precision, Tile, bounds, jit, level_of, near_columns


class Models(NamedTuple):
    """A grid: float64[E] ascending levels, and the number of min_samples."""

    levels: np.ndarray
    n_ranks: int


class Joined(NamedTuple):
    """Rows of a task, those of both sides in one numbering, and how far each model has joined them.

    - ranks int16[n, E]: a row is core in the models (e, q < ranks[row, e]).
    - may bool[n, E]: whether a row may have neighbours among the rows of the other side.
    - open_top int16[n]: the largest level at which a row may have neighbours and is not core for every rank (-1: none).
    - parents int32[n, models]: union-find.
    - near_gap float32[n, models], or float64 (see `geometry.gap_type`), and near_row int32[n, models] (-1: none here):
      the nearest core rows of rows that are not core.
    - limit float32[n]: see `loops`; set by `set_limits`.
    """

    ranks: np.ndarray
    may: np.ndarray
    open_top: np.ndarray
    parents: np.ndarray
    near_gap: np.ndarray
    near_row: np.ndarray
    limit: np.ndarray


@jit
def join_tile(
    tile: Tile, precision: Precision, rows: Points, models: Models, joined: Joined, chosen: np.ndarray
) -> None:
    """Join core rows within each level, and remember every other row's nearest core row.

    ``chosen`` int32[E]: see `set_limits`. One look at a level's strictest model often settles a
    pair.
    """
    products, i0, j0, same = tile
    slack, scale, cosine = precision
    ids, raw, half = rows
    levels, n_ranks = models
    ranks, _, open_top, parents, near_gap, near_row, limit = joined
    n_rows, n_columns = products.shape
    n_levels = levels.shape[0]
    shrink, back = np.float32(1.0 - slack), 1.0 / scale
    low = half[j0 : j0 + n_columns] * shrink
    limits = limit[j0 : j0 + n_columns]
    near = np.empty(n_columns, np.int32)
    for r in range(n_rows):
        i = i0 + r
        low_i = half[i] * shrink - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, limit[i], first, near)):
            c = near[at]
            j = j0 + c
            gap, band = bounds(half[i], half[j], products[r, c], slack)
            if gap > np.float64(max(limit[i], limit[j])) + band:
                continue
            gap, band = gap * back, band * back
            level = level_of(gap, band, levels, n_levels - 1)
            exact = level < 0
            if exact:
                gap = exact_gap(raw[i], raw[j], cosine)
                level = level_of(gap, EXACT, levels, n_levels - 1)
            if level == n_levels:
                continue
            if _join(parents, ranks, i, j, level, n_ranks):
                _set_limit(joined, models, scale, chosen, i, i + 1)
                _set_limit(joined, models, scale, chosen, j, j + 1)
            if level <= open_top[i] or level <= open_top[j]:
                if not exact:
                    if not _may_improve(ranks, near_gap, i, j, level, n_ranks, gap - band):
                        continue
                    gap = exact_gap(raw[i], raw[j], cosine)
                _offer(ranks, near_gap, near_row, ids, i, j, level, n_ranks, gap)
                _offer(ranks, near_gap, near_row, ids, j, i, level, n_ranks, gap)


@jit
def _join(parents: np.ndarray, ranks: np.ndarray, i: int, j: int, level: int, n_ranks: int) -> bool:
    changed = False
    for e in range(level, ranks.shape[1]):
        shared = min(ranks[i, e], ranks[j, e])
        for q in range(shared - 1, -1, -1):
            model = e * n_ranks + q
            left, right = find(parents, i, model), find(parents, j, model)
            if left == right:
                if q == n_ranks - 1:
                    # The strictest model of this level: whatever is left of the grid is joined too.
                    return changed
                break
            _union(parents, left, right, model)
            changed = True
    return changed


@jit
def _may_improve(
    ranks: np.ndarray, near_gap: np.ndarray, i: int, j: int, level: int, n_ranks: int, least: float
) -> bool:
    for e in range(level, ranks.shape[1]):
        for q in range(ranks[i, e], ranks[j, e]):
            if least <= near_gap[i, e * n_ranks + q]:
                return True
        for q in range(ranks[j, e], ranks[i, e]):
            if least <= near_gap[j, e * n_ranks + q]:
                return True
    return False


@jit
def _offer(
    ranks: np.ndarray,
    near_gap: np.ndarray,
    near_row: np.ndarray,
    ids: np.ndarray,
    i: int,
    j: int,
    level: int,
    n_ranks: int,
    gap: float,
) -> None:
    short = near_gap.dtype.type(as_short(gap))
    for e in range(level, ranks.shape[1]):
        for q in range(ranks[i, e], ranks[j, e]):
            model = e * n_ranks + q
            before = near_row[i, model]
            if short < near_gap[i, model] or (short == near_gap[i, model] and (before < 0 or ids[j] < ids[before])):
                near_gap[i, model] = short
                near_row[i, model] = j


# -- limits ------------------------------------------------------------------------------------------


@jit
def set_limits(
    joined: Joined, models: Models, scale: float, i0: int, i1: int, j0: int, j1: int
) -> tuple[np.ndarray, float]:
    """Set the limits of a tile's rows [i0, i1) and [j0, j1); its ``chosen`` rows (see `_representatives`), and the
    largest limit."""
    chosen = _representatives(joined, models.n_ranks, j0, j1)
    _set_limit(joined, models, scale, chosen, i0, i1)
    _set_limit(joined, models, scale, chosen, j0, j1)
    return chosen, max(joined.limit[i0:i1].max(), joined.limit[j0:j1].max())


@jit
def _representatives(joined: Joined, n_ranks: int, start: int, stop: int) -> np.ndarray:
    """For each level the row that stands for rows [start, stop), int32[E]: a core row of the largest component among
    those of the highest rank (Boyer & Moore's majority vote), or -1."""
    ranks, parents = joined.ranks, joined.parents
    n_levels = ranks.shape[1]
    chosen = np.full(n_levels, -1, np.int32)
    for e in range(n_levels):
        best = 0
        for i in range(start, stop):
            best = max(best, ranks[i, e])
        if best == 0:
            continue
        model = e * n_ranks + best - 1
        lead = 0
        for i in range(start, stop):
            if ranks[i, e] != best:
                continue
            if lead == 0:
                chosen[e] = i
                lead = 1
            elif find(parents, i, model) == find(parents, chosen[e], model):
                lead += 1
            else:
                lead -= 1
    return chosen


@jit
def _set_limit(joined: Joined, models: Models, scale: float, chosen: np.ndarray, start: int, stop: int) -> None:
    """Limits of rows [start, stop): the largest level at which a row is not core or not joined to the chosen rows."""
    for row in range(start, stop):
        top = max(_join_top(joined, row, chosen, models.n_ranks), joined.open_top[row])
        joined.limit[row] = np.float32(models.levels[top] * scale) if top >= 0 else np.float32(-np.inf)


@jit
def _join_top(joined: Joined, row: int, chosen: np.ndarray, n_ranks: int) -> int:
    """The largest level at which a row is core, may have neighbours and is not yet joined to the chosen rows, or -1."""
    ranks, parents = joined.ranks, joined.parents
    for e in range(ranks.shape[1] - 1, -1, -1):
        other = chosen[e]
        if other < 0 or ranks[row, e] == 0 or not joined.may[row, e]:
            continue
        model = e * n_ranks + min(ranks[row, e], ranks[other, e]) - 1
        if find(parents, row, model) != find(parents, other, model):
            return e
    return -1


# -- union-find, one for each model -------------------------------------------------------------------


@jit
def find(parents: np.ndarray, row: int, model: int) -> int:
    """The root of a row in one model of parents int32[n, models]; halves the path on the way."""
    while parents[row, model] != row:
        parents[row, model] = parents[parents[row, model], model]
        row = parents[row, model]
    return row


@jit
def _union(parents: np.ndarray, left: int, right: int, model: int) -> None:
    # The lower row becomes the root: the result does not depend on sizes or order.
    if left < right:
        parents[right, model] = left
    else:
        parents[left, model] = right


@jit
def join_pairs(parents: np.ndarray, left: np.ndarray, right: np.ndarray, model: int) -> None:
    """Join int32[p] rows ``left`` with ``right`` in one model."""
    for pair in range(len(left)):
        a, b = find(parents, left[pair], model), find(parents, right[pair], model)
        if a != b:
            _union(parents, a, b, model)


@jit
def all_roots(parents: np.ndarray, ranks: np.ndarray, n_ranks: int) -> np.ndarray:
    """int32[n, models] roots of core rows, -1 elsewhere."""
    n, n_levels = ranks.shape
    roots = np.full((n, n_levels * n_ranks), -1, np.int32)
    for row in range(n):
        for e in range(n_levels):
            for q in range(ranks[row, e]):
                roots[row, e * n_ranks + q] = find(parents, row, e * n_ranks + q)
    return roots


@jit
def roots_of(parents: np.ndarray, rows: np.ndarray, model: int) -> np.ndarray:
    """int32 roots of some rows in one model."""
    roots = np.empty(len(rows), np.int32)
    for at in range(len(rows)):
        roots[at] = find(parents, rows[at], model)
    return roots
