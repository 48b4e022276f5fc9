"""Agglomerative clustering of weighted points: the micro-clusters that stand for many rows, or the rows themselves.

With a point's weight as the number of equal rows in its place, the tree is that of the rows. So micro-clusters that
are single rows give the exact algorithm.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit

from motorpool.kernels.trees.condense import number_by_first_row, single_linkage

Method = Literal["ward", "average", "complete", "single"]
#: How the distance to a merged cluster follows from those to its two parts; the numbers are _chain's.
_UPDATES = {"ward": 0, "average": 1, "complete": 2, "single": 3}


def linkage(points: np.ndarray, weights: np.ndarray, method: Method) -> np.ndarray:
    """Merges of float[m, d] points with positive weights float64[m], as float64[m - 1, 4] by ascending height.

    The columns are those of scipy's linkage matrix: two clusters (a point below m, or m + i for merge i), the
    Euclidean height, and here the weight merged. Equal to scipy's where all weights are 1. Among equal distances
    the chain stays with the cluster that it came from, as scipy's does.

    - ward: sqrt(2 v w / (v + w)) |c - c'| between clusters of weights v, w and means c, c'; with weights of 1 the
      distance of two points. Half its square is what the merge adds to the sum of squares.
    - average: the mean of the distances, weighted by the points' weights. complete, single: largest, smallest.

    Exact. Nearest-neighbour chain (Murtagh 1983, A survey of recent advances in hierarchical clustering algorithms;
    Müllner 2011, Modern hierarchical, agglomerative clustering algorithms) with the updates of Lance & Williams
    (1967), O(m^2 d) and 8 m^2 bytes (m = 4,096: 128 MiB); ``single`` through Prim's spanning tree in O(m d)
    bytes. ValueError for no points, for values that are not finite or too far apart for their squares to be,
    and for weights that are not positive.
    """
    if method != "single" and method not in _UPDATES:
        raise ValueError(f"method = {method!r}: expected 'ward', 'average', 'complete' or 'single'")
    points = np.ascontiguousarray(points, np.float64)
    weights = np.asarray(weights, np.float64)
    if points.ndim != 2 or not len(points) or weights.shape != (len(points),):
        raise ValueError(f"points {points.shape}, weights {weights.shape}: expected (m, d) and (m,), m of 1 or more")
    _check_weights(weights)
    with np.errstate(over="ignore", invalid="ignore"):
        # The squared diagonal of the box around all points bounds every squared distance.
        if not np.isfinite(np.square(np.ptp(points, axis=0)).sum()):
            raise ValueError("points must be finite, and so must their squared distances")
    if method == "single":
        a, b, squared = _prim(points)
        heights = np.sqrt(squared)
    else:
        distance = _squared_distances(points)
        if method == "ward":
            _ward_scale(distance, weights)
        else:
            np.sqrt(distance, out=distance)
        a, b, heights = _chain(distance, weights, _UPDATES[method])
        if method == "ward":
            heights = np.sqrt(heights)
    return _ordered(a, b, heights, weights)


def linkage_of(distance: np.ndarray, weights: np.ndarray, method: Method) -> np.ndarray:
    """As `linkage`, of points known by their distances float64[m, m], which are **overwritten**.

    Exact, O(m^2) and no memory besides the matrix. Not for ``ward``, which needs means. ValueError for another
    method, for no points, for weights that are not positive, and for distances that are negative, not finite, not
    symmetric or not 0 on the diagonal.
    """
    if method == "ward" or method not in _UPDATES:
        raise ValueError(f"method = {method!r}: distances take 'average', 'complete' or 'single'")
    weights = np.asarray(weights, np.float64)
    m = len(distance)
    if distance.dtype != np.float64 or distance.shape != (m, m) or not m or weights.shape != (m,):
        raise ValueError(
            f"distance {distance.dtype}{distance.shape}, weights {weights.shape}: expected float64 (m, m) and (m,), "
            "m of 1 or more"
        )
    _check_weights(weights)
    # A value that is not finite makes an extreme one; the other comparisons take a byte for each pair.
    if not (distance.min() >= 0 and np.isfinite(distance.max())):
        raise ValueError("distances must be finite and not negative")
    if np.diagonal(distance).any() or not np.array_equal(distance, distance.T):
        raise ValueError("distances must be symmetric, and 0 from each point to itself")
    return _ordered(*_chain(distance, weights, _UPDATES[method]), weights)


def _check_weights(weights: np.ndarray) -> None:
    if not (weights > 0).all() or not np.isfinite(weights.sum()):
        raise ValueError("weights must be positive and finite")


def _ordered(a: np.ndarray, b: np.ndarray, heights: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Merges float64[m - 1, 4] by ascending height, from one point of each side and the height of every merge."""
    tree = single_linkage(a, b, heights, len(weights))
    return np.column_stack([tree.left, tree.right, tree.height, _totals(tree.left, tree.right, weights)])


def cut(merges: np.ndarray, n_clusters: int) -> np.ndarray:
    """Labels int32[m], numbered by each cluster's first point, of ``n_clusters`` clusters: all but the last merges.

    O(m), so one tree serves every number of clusters, and they are nested. There are always exactly ``n_clusters``:
    among merges of equal height the later rows of ``merges`` are undone first. ValueError outside 1 to m.
    """
    m = len(merges) + 1
    if not 1 <= n_clusters <= m:
        raise ValueError(f"n_clusters = {n_clusters}: expected 1 to {m}, the number of points")
    left, right = merges[:, 0].astype(np.int64), merges[:, 1].astype(np.int64)
    labels, _ = number_by_first_row(_owners(left, right, m - n_clusters), 2 * m - 1)
    return labels


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _squared_distance(points: np.ndarray, i: int, j: int) -> float:
    # Differences, not norms and products: equal points are at 0 wherever the origin is.
    total = 0.0
    for c in range(points.shape[1]):
        gap = points[i, c] - points[j, c]
        total += gap * gap
    return total


@njit(cache=True, nogil=True)
def _squared_distances(points: np.ndarray) -> np.ndarray:
    """float64[m, m]."""
    m = len(points)
    squared = np.zeros((m, m))
    for i in range(m):
        for j in range(i):
            squared[i, j] = squared[j, i] = _squared_distance(points, i, j)
    return squared


@njit(cache=True, nogil=True)
def _ward_scale(squared: np.ndarray, weights: np.ndarray) -> None:
    """Squared distances of points to twice the sum of squares that merging them adds, in place."""
    for i in range(len(weights)):
        for j in range(len(weights)):
            squared[i, j] *= 2.0 * weights[i] / (weights[i] + weights[j]) * weights[j]


@njit(cache=True, nogil=True)
def _prim(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends and squared lengths of the edges of a minimum spanning tree, in the order they join it."""
    m = len(points)
    a, b, lengths = np.empty(m - 1, np.int64), np.empty(m - 1, np.int64), np.empty(m - 1)
    outside = np.ones(m, np.bool_)
    nearest, source = np.full(m, np.inf), np.zeros(m, np.int64)
    last = 0
    for i in range(m - 1):
        outside[last] = False
        closest = -1
        for j in range(m):
            if not outside[j]:
                continue
            squared = _squared_distance(points, last, j)
            if squared < nearest[j]:
                nearest[j], source[j] = squared, last
            if closest < 0 or nearest[j] < nearest[closest]:
                closest = j
        a[i], b[i], lengths[i] = source[closest], closest, nearest[closest]
        last = closest
    return a, b, lengths


@njit(cache=True, nogil=True)
def _chain(distance: np.ndarray, weights: np.ndarray, update: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest-neighbour chain on float64[m, m], which is overwritten: one point of each side, and the height, of
    every merge, those of a cluster before the cluster's own. For Ward distances and heights are squared.
    """
    m = len(weights)
    a, b, heights = np.empty(m - 1, np.int64), np.empty(m - 1, np.int64), np.empty(m - 1)
    # Of the cluster that goes by each point: its weight, 0 once it is merged into another, and its height.
    weight, grown = weights.copy(), np.zeros(m)
    chain = np.empty(m, np.int64)
    length, first = 0, 0
    for i in range(m - 1):
        if length == 0:
            while weight[first] == 0:
                first += 1
            chain[0], length = first, 1
        while True:
            x = chain[length - 1]
            # The one before wins ties, which ends the chain here.
            y = chain[length - 2] if length > 1 else -1
            closest = distance[x, y] if length > 1 else np.inf
            for k in range(m):
                if weight[k] > 0 and k != x and distance[x, k] < closest:
                    closest, y = distance[x, k], k
            if length > 1 and y == chain[length - 2]:
                break
            chain[length] = y
            length += 1
        length -= 2
        if x > y:
            x, y = y, x
        a[i], b[i], heights[i] = x, y, closest
        wx, wy = weight[x], weight[y]
        weight[x], weight[y], grown[y] = 0.0, wx + wy, closest
        for k in range(m):
            if weight[k] == 0 or k == y:
                continue
            to_x, to_y, wk = distance[x, k], distance[y, k], weight[k]
            if update == 0:
                merged = ((wx + wk) * to_x + (wy + wk) * to_y - wk * closest) / (wx + wy + wk)
            elif update == 1:
                merged = (wx * to_x + wy * to_y) / (wx + wy)
            elif update == 2:
                merged = max(to_x, to_y)
            else:
                merged = min(to_x, to_y)
            # Not below either cluster's own height, where only rounding can put it: merges stay in order.
            distance[y, k] = distance[k, y] = max(merged, closest, grown[k])
    return a, b, heights


@njit(cache=True, nogil=True)
def _totals(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weight of every merge."""
    m = len(weights)
    total = np.empty(2 * m - 1)
    total[:m] = weights
    for i in range(m - 1):
        total[m + i] = total[left[i]] + total[right[i]]
    return total[m:]


@njit(cache=True, nogil=True)
def _owners(left: np.ndarray, right: np.ndarray, n_merges: int) -> np.ndarray:
    """Of every point the largest cluster, int64[m], that holds it after the first ``n_merges`` merges."""
    m = len(left) + 1
    owner = np.arange(2 * m - 1)
    for i in range(n_merges - 1, -1, -1):
        owner[left[i]] = owner[right[i]] = owner[m + i]
    return owner[:m].copy()
