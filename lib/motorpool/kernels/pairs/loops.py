"""Compiled loops over one tile of products: which pairs of rows matter, and what they change.

All kernels have one shape. Every row carries a *reach*: the largest gap at which one of its pairs can still change
anything (minus infinity: none). A pair matters when its gap is within the larger reach of its two rows, so a
vectorised comparison drops nearly all pairs, and what remains is looked at one by one. Reaches shrink as
rows are done, so the looking at is bounded by what there is to find, not by the number of pairs.

Products, halves and reaches (float32) are in the unit of the rows for products, their gaps ``scale`` times as large;
levels and gaps that are kept (float64) are those of the given vectors. Where a half is NaN (see `geometry.Rows`) so is
all that follows from it, and comparisons are written so that such a pair is looked at, in float64.

A tile holds the products x_i.y_j of rows [i0, i0 + R) of ``a`` and [j0, j0 + C) of ``b``; where both are the
same rows (``same``), only pairs with i < j count.
"""

from __future__ import annotations

import numba
import numpy as np

from motorpool.kernels.pairs.geometry import FLOOR, as_short, exact_gap

#: Pairs are dropped by the dozen: a run of this many columns is compared before any of them is looked at.
_RUN = 64
_FLOOR32 = np.float32(FLOOR)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _near(products, low_columns, reach_columns, low_row, reach_row):
    """How many columns of a row may matter: float32[C] slices, so that the loop becomes vector instructions."""
    far = np.int32(0)
    for c in range(len(products)):
        reach = reach_columns[c] if reach_columns[c] > reach_row else reach_row
        far += np.int32(low_row + low_columns[c] - products[c] > reach)
    return len(products) - far


@_jit
def _near_columns(products, low_columns, reach_columns, low_row, reach_row, first, found):
    """Put the positions of a row's columns from ``first`` on that may matter into int32 ``found``; their number."""
    if _near(products, low_columns, reach_columns, low_row, reach_row) == 0:
        return 0
    n = 0
    for start in range(first - first % _RUN, len(products), _RUN):
        run = slice(start, start + _RUN)
        if _near(products[run], low_columns[run], reach_columns[run], low_row, reach_row) == 0:
            continue
        for c in range(max(start, first), min(start + _RUN, len(products))):
            if not low_row + low_columns[c] - products[c] > max(reach_columns[c], reach_row):
                found[n] = c
                n += 1
    return n


@_jit
def count_tile(
    products, i0, j0, same, a_raw, b_raw, a_half, b_half, slack, scale, cosine, levels, enough, a_counts, b_counts,
    a_top, b_top, a_reach, b_reach,
):  # fmt: skip
    """Count neighbours within each level (float64[E], ascending gaps) up to ``enough`` for both sides' rows.

    counts int32[n, E]; top int32[n] is a row's largest level that is not yet full, reach float32[n] that
    level's gap with room for rounding.
    """
    rows, columns = products.shape
    shrink, back = np.float32(1.0 - slack), 1.0 / scale
    low = b_half[j0 : j0 + columns] * shrink
    reaches = b_reach[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        half_i = a_half[i]
        low_i = half_i * shrink - _FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(_near_columns(products[r], low, reaches, low_i, a_reach[i], first, near)):
            c = near[at]
            j = j0 + c
            top = max(a_top[i], b_top[j])
            if top < 0:
                continue
            gap = (np.float64(half_i) + np.float64(b_half[j]) - np.float64(products[r, c])) * back
            band = (slack * (np.float64(half_i) + np.float64(b_half[j])) + FLOOR) * back
            if gap > levels[top] + band:
                continue
            known = False
            level = top + 1
            while level > 0:
                if not known and not abs(gap - levels[level - 1]) > band:
                    gap = exact_gap(a_raw[i], b_raw[j], cosine)
                    known = True
                if gap > levels[level - 1]:
                    break
                level -= 1
            a_top[i], a_reach[i] = _count(a_counts, i, level, a_top[i], enough, levels, scale, a_reach[i])
            b_top[j], b_reach[j] = _count(b_counts, j, level, b_top[j], enough, levels, scale, b_reach[j])


@_jit
def _count(counts, row, level, top, enough, levels, scale, reach):
    if level > top:
        return top, reach
    for e in range(level, top + 1):
        counts[row, e] += 1
    while top >= 0 and counts[row, top] >= enough:
        top -= 1
        reach = np.float32(levels[top] * scale) if top >= 0 else np.float32(-np.inf)
    return top, reach


@_jit
def nearest_tile(
    products, i0, j0, same, a_raw, b_raw, a_half, b_half, slack, scale, cosine, a_ids, b_ids, a_gaps, b_gaps, a_found,
    b_found, a_reach, b_reach,
):  # fmt: skip
    """Keep every row's k nearest others: gaps float64[n, k] ascending and found int64[n, k] ids; ties to lower ids."""
    rows, columns = products.shape
    shrink = np.float32(1.0 - slack)
    low = b_half[j0 : j0 + columns] * shrink
    reaches = b_reach[j0 : j0 + columns]
    near = np.empty(columns, np.int32)
    for r in range(rows):
        i = i0 + r
        half_i = a_half[i]
        low_i = half_i * shrink - _FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(_near_columns(products[r], low, reaches, low_i, a_reach[i], first, near)):
            c = near[at]
            j = j0 + c
            bound = np.float64(low_i) + np.float64(b_half[j]) * shrink - np.float64(products[r, c])
            if bound > max(a_reach[i], b_reach[j]):
                continue
            gap = exact_gap(a_raw[i], b_raw[j], cosine)
            a_reach[i] = _insert(a_gaps[i], a_found[i], gap, b_ids[j], scale, a_reach[i])
            b_reach[j] = _insert(b_gaps[j], b_found[j], gap, a_ids[i], scale, b_reach[j])


@_jit
def _insert(gaps, found, gap, row_id, scale, reach):
    last = gaps.shape[0] - 1
    if gap > gaps[last] or (gap == gaps[last] and row_id > found[last]):
        return reach
    at = last
    while at > 0 and (gap < gaps[at - 1] or (gap == gaps[at - 1] and row_id < found[at - 1])):
        gaps[at] = gaps[at - 1]
        found[at] = found[at - 1]
        at -= 1
    gaps[at] = gap
    found[at] = row_id
    # Rounded up: a reach is never too short.
    return np.float32(gaps[last] * scale) * np.float32(1.0000002)


@_jit
def nearest_pairs(i, j, a_raw, b_raw, scale, cosine, b_ids, a_gaps, a_found, a_reach):
    """`nearest_tile` for the rows of ``a`` in int64[p] pairs (a[i], b[j]) alone, whatever their products are."""
    for pair in range(len(i)):
        row = i[pair]
        gap = exact_gap(a_raw[row], b_raw[j[pair]], cosine)
        a_reach[row] = _insert(a_gaps[row], a_found[row], gap, b_ids[j[pair]], scale, a_reach[row])


@_jit
def join_pairs(parents, left, right, cell):
    """Join int32[p] rows ``left`` with ``right`` in one cell."""
    for pair in range(len(left)):
        a, b = find(parents, left[pair], cell), find(parents, right[pair], cell)
        if a != b:
            _union(parents, a, b, cell)


@_jit
def find(parents, row, cell):
    """The root of a row in one cell of parents int32[n, cells]; halves the path on the way."""
    while parents[row, cell] != row:
        parents[row, cell] = parents[parents[row, cell], cell]
        row = parents[row, cell]
    return row


@_jit
def _union(parents, left, right, cell):
    # The lower row becomes the root: the result does not depend on sizes or order.
    if left < right:
        parents[right, cell] = left
    else:
        parents[left, cell] = right


@_jit
def representatives(parents, ranks, start, stop, n_ranks):
    """For each level the row that stands for rows [start, stop): a core row of the largest component among those
    of the highest rank (Boyer & Moore's majority vote), or -1. int32[E]."""
    n_levels = ranks.shape[1]
    chosen = np.full(n_levels, -1, np.int32)
    for e in range(n_levels):
        best = 0
        for i in range(start, stop):
            best = max(best, ranks[i, e])
        if best == 0:
            continue
        cell = e * n_ranks + best - 1
        votes = 0
        for i in range(start, stop):
            if ranks[i, e] != best:
                continue
            if votes == 0:
                chosen[e] = i
                votes = 1
            elif find(parents, i, cell) == find(parents, chosen[e], cell):
                votes += 1
            else:
                votes -= 1
    return chosen


@_jit
def join_top(parents, ranks, may, row, chosen, n_ranks):
    """The largest level at which a row is core, may have neighbours and is not yet joined to the chosen rows, or -1."""
    for e in range(ranks.shape[1] - 1, -1, -1):
        other = chosen[e]
        if other < 0 or ranks[row, e] == 0 or not may[row, e]:
            continue
        cell = e * n_ranks + min(ranks[row, e], ranks[other, e]) - 1
        if find(parents, row, cell) != find(parents, other, cell):
            return e
    return -1


@_jit
def set_reach(parents, ranks, may, open_top, chosen, n_ranks, levels, scale, reach, start, stop):
    """Reaches of rows [start, stop) for `join_tile`: how far rows are not core or not joined to the chosen."""
    for row in range(start, stop):
        top = max(join_top(parents, ranks, may, row, chosen, n_ranks), open_top[row])
        reach[row] = np.float32(levels[top] * scale) if top >= 0 else np.float32(-np.inf)


@_jit
def join_tile(
    products, i0, j0, same, raw, half, slack, scale, cosine, ids, levels, n_ranks, ranks, may, open_top, parents,
    near_gap, near_row, reach, chosen,
):  # fmt: skip
    """Join core rows within each level, and remember every other row's nearest core row.

    Rows of both sides are stacked in one numbering. A *cell* is a level e with a rank q (the q-th smallest
    min_samples): e * n_ranks + q. ranks int16[n, E]: a row is core in the cells (e, q < ranks[row, e]).
    may bool[n, E]: whether a row may have neighbours among the rows of the other side. open_top int16[n]: the largest
    level at which it may and is not core for every rank. parents int32[n, cells]: union-find; near_gap float32[n,
    cells], or float64 (see `geometry.gap_type`), and near_row int32[n, cells] (-1: none here): the nearest core rows of
    rows that are not core. chosen int32[E]: see `representatives`, for the columns. Reaches as in `count_tile`.

    Whatever is joined at (e, q) is joined at every (e' >= e, q' <= q) too: a larger radius and a smaller count keep
    every edge. So one look at the strictest cell often settles a pair.
    """
    n_rows, n_columns = products.shape
    n_levels = levels.shape[0]
    shrink, back = np.float32(1.0 - slack), 1.0 / scale
    low = half[j0 : j0 + n_columns] * shrink
    reaches = reach[j0 : j0 + n_columns]
    near = np.empty(n_columns, np.int32)
    for r in range(n_rows):
        i = i0 + r
        half_i = half[i]
        low_i = half_i * shrink - _FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(_near_columns(products[r], low, reaches, low_i, reach[i], first, near)):
            c = near[at]
            j = j0 + c
            gap = np.float64(half_i) + np.float64(half[j]) - np.float64(products[r, c])
            band = slack * (np.float64(half_i) + np.float64(half[j])) + FLOOR
            if gap > np.float64(max(reach[i], reach[j])) + band:
                continue
            gap, band = gap * back, band * back
            known = False
            level = n_levels
            while level > 0:
                if not known and not abs(gap - levels[level - 1]) > band:
                    gap = exact_gap(raw[i], raw[j], cosine)
                    known = True
                if gap > levels[level - 1]:
                    break
                level -= 1
            if level == n_levels:
                continue
            if _join(parents, ranks, i, j, level, n_ranks):
                set_reach(parents, ranks, may, open_top, chosen, n_ranks, levels, scale, reach, i, i + 1)
                set_reach(parents, ranks, may, open_top, chosen, n_ranks, levels, scale, reach, j, j + 1)
            if level <= open_top[i] or level <= open_top[j]:
                if not known and not _may_improve(ranks, near_gap, i, j, level, n_ranks, gap - band):
                    continue
                if not known:
                    gap = exact_gap(raw[i], raw[j], cosine)
                _offer(ranks, near_gap, near_row, ids, i, j, level, n_ranks, gap)
                _offer(ranks, near_gap, near_row, ids, j, i, level, n_ranks, gap)


@_jit
def _join(parents, ranks, i, j, level, n_ranks):
    changed = False
    for e in range(level, ranks.shape[1]):
        shared = min(ranks[i, e], ranks[j, e])
        for q in range(shared - 1, -1, -1):
            cell = e * n_ranks + q
            left, right = find(parents, i, cell), find(parents, j, cell)
            if left == right:
                if q == n_ranks - 1:
                    # The strictest cell of this level: whatever is left of the grid is joined too.
                    return changed
                break
            _union(parents, left, right, cell)
            changed = True
    return changed


@_jit
def _may_improve(ranks, near_gap, i, j, level, n_ranks, least):
    for e in range(level, ranks.shape[1]):
        for q in range(ranks[i, e], ranks[j, e]):
            if least <= near_gap[i, e * n_ranks + q]:
                return True
        for q in range(ranks[j, e], ranks[i, e]):
            if least <= near_gap[j, e * n_ranks + q]:
                return True
    return False


@_jit
def _offer(ranks, near_gap, near_row, ids, i, j, level, n_ranks, gap):
    short = near_gap.dtype.type(as_short(gap))
    for e in range(level, ranks.shape[1]):
        for q in range(ranks[i, e], ranks[j, e]):
            cell = e * n_ranks + q
            held = near_row[i, cell]
            if short < near_gap[i, cell] or (short == near_gap[i, cell] and (held < 0 or ids[j] < ids[held])):
                near_gap[i, cell] = short
                near_row[i, cell] = j


@_jit
def _leaving(products, low_columns, core_columns, part_columns, low_row, reach, part):
    near = np.int32(0)
    for c in range(len(products)):
        near += np.int32(
            (not low_row + low_columns[c] - products[c] > reach)
            & (core_columns[c] <= reach)
            & (part_columns[c] != part)
        )
    return near


@_jit
def outgoing_tile(
    products, i0, j0, a_raw, b_raw, a_half, b_half, slack, scale, cosine, a_core, b_core, a_part, b_part, a_ids, b_ids,
    best_gap, best_from, best_to, b_core_low,
):  # fmt: skip
    """For every part (component of a forest) the lightest edge that leaves it, from rows of ``a`` to rows of ``b``.

    An edge weighs the larger of the gap and both rows' core gaps (mutual reachability, float64). best_* are
    indexed by part and hold what is known already: only lighter edges are of interest. b_core_low float32[n]:
    core gaps in the unit of products, rounded down, to be compared by the dozen.
    """
    rows, columns = products.shape
    shrink, up = np.float32(1.0 - slack), np.float32(1.0000002)
    low = b_half[j0 : j0 + columns] * shrink
    cores, parts = b_core_low[j0 : j0 + columns], b_part[j0 : j0 + columns]
    for r in range(rows):
        i = i0 + r
        part = a_part[i]
        half_i = a_half[i]
        low_i = half_i * shrink - _FLOOR32
        row = products[r]
        if _leaving(row, low, cores, parts, low_i, np.float32(best_gap[part] * scale) * up, part) == 0:
            continue
        for start in range(0, columns, _RUN):
            stop = min(start + _RUN, columns)
            reach = np.float32(best_gap[part] * scale) * up
            run = (row[start:stop], low[start:stop], cores[start:stop], parts[start:stop])
            if _leaving(*run, low_i, reach, part) == 0:
                continue
            for c in range(start, stop):
                j = j0 + c
                if b_part[j] == part or b_core[j] > best_gap[part]:
                    continue
                bound = np.float64(low_i) + np.float64(b_half[j]) * shrink - np.float64(products[r, c])
                if bound > best_gap[part] * scale:
                    continue
                gap = max(exact_gap(a_raw[i], b_raw[j], cosine), a_core[i], b_core[j])
                if gap < best_gap[part]:
                    best_gap[part] = gap
                    best_from[part] = a_ids[i]
                    best_to[part] = b_ids[j]


@_jit
def all_roots(parents, ranks, n_ranks):
    """int32[n, cells] roots of core rows, -1 elsewhere."""
    n, n_levels = ranks.shape
    roots = np.full((n, n_levels * n_ranks), -1, np.int32)
    for row in range(n):
        for e in range(n_levels):
            for q in range(ranks[row, e]):
                roots[row, e * n_ranks + q] = find(parents, row, e * n_ranks + q)
    return roots


@_jit
def roots_of(parents, rows, cell):
    """int32 roots of some rows in one cell."""
    roots = np.empty(len(rows), np.int32)
    for at in range(len(rows)):
        roots[at] = find(parents, rows[at], cell)
    return roots
