"""All pairs of rows whose cosine is at least so high: the most similar partners of every row, and what is connected.

Most pairs are told apart in few columns. Rows of length one become their coordinates on some orthonormal axes and the
length of what is left over. That keeps every row's length, and by the triangle inequality brings no two rows nearer
to each other than they are: the gap of the shorter rows is at most that of the rows. A pair that it leaves within the
limit is compared in float64, from the vectors as given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from motorpool.kernels.pairs.counting import Listed, insert
from motorpool.kernels.pairs.geometry import Rows, exact_gap
from motorpool.kernels.pairs.loops import (
    FLOOR32,
    UP,
    Points,
    Precision,
    Tile,
    bounds,
    jit,
    near_columns,
    points_of,
    precision_of,
)
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.kernels.trees.union_find import find

#: Columns of shortened rows, the length of what is left over among them.
SHORT = 64
#: Rows that are not much longer are compared as they are.
_LONG = 2 * SHORT
#: More rounding than that of rows as they are, in units of float32: of the shortening, and of what is left over.
_MORE_SLACK = 32 * 2.0**-24
#: Stands for "none yet", and comes behind every id.
_NONE = np.iinfo(np.int64).max

#: A row, another that is near it, and the gap of the two: one minus their cosine.
PARTNER = np.dtype([("image_id", np.int64), ("other_id", np.int64), ("gap", np.float64)])


class Found(NamedTuple):
    """The partners of each side's rows, as PARTNER, and a forest, int64[e, 2] ids, whose edges connect what all pairs
    within the limit connect. Where both sides are the same rows, ``of_b`` is empty."""

    of_a: np.ndarray
    of_b: np.ndarray
    forest: np.ndarray


def axes_of(sample: np.ndarray) -> np.ndarray | None:
    """float64[s, d] orthonormal axes, s below SHORT, that hold the most of float32[m, d] rows of any length; None for
    few columns, where shortening saves nothing.

    Any axes give the same answers; good ones leave fewer pairs to compare.
    """
    width = sample.shape[1]
    if width <= _LONG:
        return None
    x = sample.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    axes: np.ndarray = np.ascontiguousarray(np.linalg.svd(x, full_matrices=False)[2][: SHORT - 1])
    return axes


def shorten(rows: Rows, axes: np.ndarray | None) -> Rows:
    """Rows of length one (`geometry.prepare` with the metric cosine), for products in SHORT columns."""
    if axes is None:
        return rows
    short = np.empty((len(rows), len(axes) + 1), np.float32)
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        x = rows.x[part].astype(np.float64)
        on_axes = x @ axes.T
        left = np.square(x).sum(axis=1) - np.square(on_axes).sum(axis=1)
        short[part, :-1], short[part, -1] = on_axes, np.sqrt(np.maximum(left, 0.0))
    # Products of shorter rows round less, but what they stand for has been rounded as before.
    return Rows(rows.ids, rows.raw, short, rows.half, (SHORT + 32) * 2.0**-24 + _MORE_SLACK)


def find_alike(a: Rows, b: Rows, limit: float, most: int) -> Found:
    """The pairs of a row of ``a`` and a row of ``b`` with gaps of at most ``limit``, or within ``a`` where both are it.

    Rows are `shorten`ed. Of every row the ``most`` nearest partners, ties to the lower id. Exact. Memory: 16 ``most``
    bytes a row. Time: the products of all pairs, and for each pair within the limit as much as d products, unless its
    rows are connected and have nearer partners already.
    """
    same, n = a is b, len(a)
    parents = np.arange(n if same else n + len(b))
    listed_a = _unlisted(n, limit, most)
    listed_b = listed_a if same else _unlisted(len(b), limit, most)
    precision, x, y = precision_of(a, cosine=True), points_of(a), points_of(b)
    widest = np.float32(limit) * UP
    edges = []
    for i0, j0, products in tiles_of(a).products(tiles_of(b), lambda *_: float(widest), same):
        tile = Tile(products, i0, j0, same and i0 == j0)
        edges.append(join_alike(tile, precision, x, y, limit, listed_a, listed_b, parents, 0 if same else n))
    joined = np.concatenate([np.empty((0, 2), np.int64), *edges])
    ids = a.ids if same else np.concatenate([a.ids, b.ids])
    return Found(_partners(a, listed_a), np.empty(0, PARTNER) if same else _partners(b, listed_b), ids[joined])


def _unlisted(n: int, limit: float, most: int) -> Listed:
    near = np.full(n, np.float32(limit) * UP, np.float32)
    return Listed(np.full((n, most), limit), np.full((n, most), _NONE), near)


def _partners(rows: Rows, listed: Listed) -> np.ndarray:
    """PARTNER of the partners listed."""
    at, place = np.nonzero(listed.ids != _NONE)
    found = np.empty(len(at), PARTNER)
    found["image_id"], found["other_id"] = rows.ids[at], listed.ids[at, place]
    found["gap"] = listed.gaps[at, place]
    return found


def best_partners(found: np.ndarray, most: int) -> np.ndarray:
    """The ``most`` nearest of every row in PARTNER, each pair once; by row, nearest first, ties to the lower id."""
    ordered = found[np.lexsort((found["other_id"], found["gap"], found["image_id"]))]
    starts = np.flatnonzero(np.diff(ordered["image_id"], prepend=-1))
    place = np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered)))
    best: np.ndarray = ordered[place < most]
    return best


@jit
def join_alike(
    tile: Tile,
    precision: Precision,
    a: Points,
    b: Points,
    most: float,
    of_a: Listed,
    of_b: Listed,
    parents: np.ndarray,
    offset: int,
) -> np.ndarray:
    """Connect the rows of a tile that have a gap of at most ``most``, and list them; int64[e, 2] new edges.

    Edges are positions in int64[n] ``parents`` (union-find), where the rows of ``b`` begin at ``offset``.
    """
    products, i0, j0, same = tile
    slack, scale, cosine = precision
    (a_ids, a_raw, a_half), (b_ids, b_raw, b_half) = a, b
    (a_gaps, a_found, a_limit), (b_gaps, b_found, b_limit) = of_a, of_b
    rows, columns = products.shape
    low = b_half[j0 : j0 + columns] * np.float32(1.0 - slack)
    widest = np.float32(most) * UP
    limits = np.full(columns, widest, np.float32)
    near = np.empty(columns, np.int32)
    edges = np.empty((rows + columns, 2), np.int64)
    n_edges = 0
    for r in range(rows):
        i = i0 + r
        low_i = a_half[i] * np.float32(1.0 - slack) - FLOOR32
        first = max(0, i + 1 - j0) if same else 0
        for at in range(near_columns(products[r], low, limits, low_i, widest, first, near)):
            c = near[at]
            j = j0 + c
            root_i, root_j = find(parents, i), find(parents, offset + j)
            gap, band = bounds(a_half[i], b_half[j], products[r, c], slack)
            if root_i == root_j and gap - band > max(a_limit[i], b_limit[j]):
                continue
            gap = exact_gap(a_raw[i], b_raw[j], cosine)
            if gap > most:
                continue
            if root_i != root_j:
                parents[max(root_i, root_j)] = min(root_i, root_j)
                edges[n_edges, 0] = i
                edges[n_edges, 1] = offset + j
                n_edges += 1
            a_limit[i] = insert(a_gaps[i], a_found[i], gap, b_ids[j], scale, a_limit[i])
            b_limit[j] = insert(b_gaps[j], b_found[j], gap, a_ids[i], scale, b_limit[j])
    return edges[:n_edges].copy()
