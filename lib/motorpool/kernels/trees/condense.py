"""From the minimum spanning tree of mutual reachability to HDBSCAN's flat clusters.

Campello, Moulavi & Sander (2013), Density-based clustering based on hierarchical density estimates; Campello,
Moulavi, Zimek & Sander (2015), Hierarchical density estimates for data clustering, visualization, and outlier
detection; McInnes & Healy (2017), Accelerated hierarchical density based clustering. lambda is 1 / distance.

The order of rows and edges decides nothing. Edges of one weight are removed together, as Campello et al. (2013,
algorithm 1) ask for, so every minimum spanning tree of a graph gives the same clusters. This matters: a row far from
its neighbours is as far from all of them, its core distance. The hdbscan library and scikit-learn remove such edges
one by one as they come: a row that bridges two clusters then falls to either, and rows one short of
``min_cluster_size`` become a cluster where it falls to them. Without ties all three agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit

from motorpool.kernels.trees.union_find import find


@dataclass(frozen=True)
class SingleLinkage:
    """The dendrogram of n rows: merges by ascending height, with the meaning of scipy's linkage matrix.

    ``left`` < ``right`` int64[n - 1] name what is merged: a row below n, or the outcome n + i of merge i;
    ``height`` float64[n - 1]; ``size`` int64[n - 1], the rows merged. 32 bytes a row.
    """

    left: np.ndarray
    right: np.ndarray
    height: np.ndarray
    size: np.ndarray

    @property
    def n(self) -> int:
        return len(self.left) + 1


@dataclass(frozen=True)
class FlatClusters:
    """One clustering of n rows into k clusters, numbered by their first rows.

    - labels int32[n]: -1 is noise.
    - strengths float32[n]: the row's lambda when it leaves over its cluster's death, at most 1; 0 for noise
      (McInnes & Healy 2017; the hdbscan library's ``probabilities_``).
    - glosh float32[n]: outlier score, 0 in the densest places to 1 (Campello et al. 2015).
    - stabilities float64[k]: relative excess of mass, in rows / distance (Campello et al. 2013).
    - persistence float64[k]: stability over that of a cluster that holds all its rows from lambda 0 to the largest
      lambda in the tree, 0 to 1 (the library's ``cluster_persistence_``).
    - births, deaths float64[k]: lambda at which the cluster appears, and at which its last rows leave or it splits.
      A new point joins the cluster of the row that it is nearest to, by mutual reachability, where its own
      lambda there is above the cluster's birth; its strength is that lambda over the cluster's death, at most that
      row's own (see `density_labels`).
    """

    labels: np.ndarray
    strengths: np.ndarray
    glosh: np.ndarray
    stabilities: np.ndarray
    persistence: np.ndarray
    births: np.ndarray
    deaths: np.ndarray

    @property
    def n_clusters(self) -> int:
        return len(self.stabilities)


def single_linkage(a: np.ndarray, b: np.ndarray, weights: np.ndarray, n: int) -> SingleLinkage:
    """The dendrogram of a spanning tree: int64[n - 1] ends and float64[n - 1] distances of its edges.

    Edges of equal weight are merged in the order given. O(n log n). ValueError where the edges are no spanning tree
    of rows 0 to n - 1, or a weight is negative or not finite.
    """
    if n < 1 or not len(a) == len(b) == len(weights) == n - 1:
        raise ValueError(f"{len(a)}, {len(b)}, {len(weights)} ends and weights: a tree of {n} rows has {n - 1} edges")
    weights = np.asarray(weights, np.float64)
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    if n > 1 and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= n):
        raise ValueError(f"edges must join rows 0 to {n - 1}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite distances of 0 or more")
    order = np.argsort(weights, kind="stable")
    left, right, size = _merge(a[order], b[order])
    if n > 1 and size[-1] != n:
        raise ValueError("the edges hold a cycle: not a spanning tree")
    return SingleLinkage(left, right, weights[order], size)


def flat_clusters(
    tree: SingleLinkage,
    min_cluster_size: int,
    *,
    method: Literal["eom", "leaf"] = "eom",
    allow_single_cluster: bool = False,
) -> FlatClusters:
    """HDBSCAN's clusters of at least ``min_cluster_size`` rows (2 or more): exact, O(n), at most 90 bytes a row.

    ``eom`` takes the clusters of the largest total stability (Campello et al. 2013), ``leaf`` those that never
    split. The root, all rows, is taken only with ``allow_single_cluster``; then the rows that left it before
    its death are noise, as in the hdbscan library. (That one never takes the root as a leaf, and takes one of fewer
    than ``min_cluster_size`` rows.)

    Distance 0 (``min_samples`` equal rows or more) is lambda infinity. ``min_cluster_size`` such rows are a cluster of
    infinite stability that never splits: under ``eom`` no ancestor of it can be taken. Its other rows have
    strength 0 and glosh 1, the limits of what nearly equal rows would give; so is the persistence.
    """
    if min_cluster_size < 2:
        raise ValueError(f"min_cluster_size = {min_cluster_size}: a cluster has at least 2 rows")
    if method not in ("eom", "leaf"):
        raise ValueError(f"method = {method!r}: expected 'eom' or 'leaf'")
    with np.errstate(divide="ignore", over="ignore"):
        level = 1.0 / tree.height
    row_cluster, row_lambda, parent, birth, death, stability = _condense(
        tree.left, tree.right, level, tree.size, min_cluster_size
    )
    root_allowed = allow_single_cluster and tree.n >= min_cluster_size
    taken = _excess_of_mass(parent, stability, root_allowed) if method == "eom" else _leaves(parent, root_allowed)
    flat = _covering(parent, taken)[row_cluster]
    flat[(flat == 0) & (row_lambda < death[0])] = -1
    labels, clusters = number_by_first_row(flat, len(parent))

    held = labels >= 0
    # Of the root's rows some are noise, but all of them make its stability.
    size = np.where(clusters == 0, tree.n, np.bincount(labels[held], minlength=len(clusters)))
    strengths = np.zeros(tree.n, np.float32)
    strengths[held] = _share(row_lambda[held], death[flat[held]])
    glosh = (1.0 - _share(row_lambda, _deepest(parent, death)[row_cluster])).astype(np.float32)
    return FlatClusters(
        labels=labels,
        strengths=strengths,
        glosh=glosh,
        stabilities=stability[clusters],
        persistence=_persistence(stability[clusters], size, labels, row_lambda),
        births=birth[clusters],
        deaths=death[clusters],
    )


def _share(lambdas: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """lambda / largest, at most 1; in the limit where both are infinite. A row alone, of no lambda, has all of it."""
    whole = lambdas >= largest
    return np.where(whole, 1.0, lambdas / np.where(whole, 1.0, largest))


def _persistence(stability: np.ndarray, size: np.ndarray, labels: np.ndarray, row_lambda: np.ndarray) -> np.ndarray:
    largest = row_lambda.max()
    if np.isfinite(largest):
        result: np.ndarray = stability / (size * largest)
        return result
    # What is finite vanishes beside the rows that never leave.
    shares: np.ndarray = np.bincount(labels[(labels >= 0) & np.isinf(row_lambda)], minlength=len(size)) / size
    return shares


@njit(cache=True, nogil=True)
def number_by_first_row(owner: np.ndarray, n_owners: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32[n] 0, 1, ... by first appearance in ``owner`` int64[n], and what owner int64[k] each stands for.

    Owners are below ``n_owners``; those below 0 stay -1.
    """
    number = np.full(n_owners, -1, np.int32)
    owners = np.empty(n_owners, np.int64)
    labels = np.full(len(owner), -1, np.int32)
    k = 0
    for row in range(len(owner)):
        of = owner[row]
        if of < 0:
            continue
        if number[of] < 0:
            number[of] = k
            owners[k] = of
            k += 1
        labels[row] = number[of]
    return labels, owners[:k].copy()


@njit(cache=True, nogil=True)
def _merge(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kruskal's unions in the order of the edges: left, right, size of every merge. A cycle ends it: size 0 last."""
    n = len(a) + 1
    up = np.arange(n)
    # What the component of a root is called in the dendrogram, and how many rows it has.
    name = np.arange(n)
    count = np.ones(n, np.int64)
    left, right, size = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64), np.zeros(n - 1, np.int64)
    for i in range(n - 1):
        x, y = find(up, a[i]), find(up, b[i])
        if x == y:
            break
        left[i], right[i] = min(name[x], name[y]), max(name[x], name[y])
        if count[x] < count[y]:
            x, y = y, x
        up[y] = x
        count[x] += count[y]
        name[x] = n + i
        size[i] = count[x]
    return left, right, size


@njit(cache=True, nogil=True)
def _condense(
    left: np.ndarray, right: np.ndarray, level: np.ndarray, size: np.ndarray, min_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The condensed tree: for every row the cluster it leaves and the lambda of that, int64[n] and float64[n];
    for every cluster its parent (-1 for cluster 0, the root), birth, death and stability. Parents come first.

    Walks down the dendrogram: children have smaller numbers than what they are merged into.
    """
    n = len(left) + 1
    capacity = 2 * (n // min_size) + 1
    parent = np.full(capacity, -1, np.int64)
    birth, death, stability = np.zeros(capacity), np.zeros(capacity), np.zeros(capacity)
    clusters = 1
    # Of every node: its cluster (-1: part of an equally high merge above it), and the lambda at which it left
    # that cluster (-1: not yet).
    cluster, left_at = np.zeros(2 * n - 1, np.int64), np.full(2 * n - 1, -1.0)
    stack, pieces = np.empty(n, np.int64), np.empty(n, np.int64)
    if n == 1:
        left_at[0] = 0.0
    for node in range(2 * n - 2, n - 1, -1):
        own = cluster[node]
        if own < 0:
            continue
        if left_at[node] >= 0:
            for child in (left[node - n], right[node - n]):
                cluster[child], left_at[child] = own, left_at[node]
            continue
        # All that this lambda breaks the cluster into, ties together.
        now = level[node - n]
        stack[0] = node
        waiting, n_pieces, n_large = 1, 0, 0
        while waiting:
            waiting -= 1
            merge = stack[waiting] - n
            for child in (left[merge], right[merge]):
                if child >= n and level[child - n] == now:
                    cluster[child] = -1
                    stack[waiting] = child
                    waiting += 1
                    continue
                pieces[n_pieces] = child
                n_pieces += 1
                n_large += child >= n and size[child - n] >= min_size
        death[own] = now
        for piece in pieces[:n_pieces]:
            rows = size[piece - n] if piece >= n else 1
            cluster[piece] = own
            if rows >= min_size and n_large == 1:
                continue
            stability[own] += (now - birth[own]) * rows
            if rows < min_size:
                left_at[piece] = now
                continue
            cluster[piece] = clusters
            parent[clusters], birth[clusters] = own, now
            clusters += 1
    return (
        cluster[:n].copy(),
        left_at[:n].copy(),
        parent[:clusters].copy(),
        birth[:clusters].copy(),
        death[:clusters].copy(),
        stability[:clusters].copy(),
    )


@njit(cache=True, nogil=True)
def _excess_of_mass(parent: np.ndarray, stability: np.ndarray, root_allowed: bool) -> np.ndarray:
    """bool: clusters at least as stable as the best choice below them. A cluster below another of these is shadowed."""
    taken = np.zeros(len(parent), np.bool_)
    below = np.zeros(len(parent))
    for c in range(len(parent) - 1, 0, -1):
        taken[c] = stability[c] >= below[c]
        below[parent[c]] += max(stability[c], below[c])
    taken[0] = root_allowed and stability[0] >= below[0]
    return taken


@njit(cache=True, nogil=True)
def _leaves(parent: np.ndarray, root_allowed: bool) -> np.ndarray:
    taken = np.ones(len(parent), np.bool_)
    taken[parent[1:]] = False
    taken[0] = taken[0] and root_allowed
    return taken


@njit(cache=True, nogil=True)
def _covering(parent: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """int64: of every cluster the highest taken one that holds it, itself or an ancestor; -1 for none."""
    found = np.full(len(parent), -1, np.int64)
    for c in range(len(parent)):
        if c > 0:
            found[c] = found[parent[c]]
        if found[c] < 0 and taken[c]:
            found[c] = c
    return found


@njit(cache=True, nogil=True)
def _deepest(parent: np.ndarray, death: np.ndarray) -> np.ndarray:
    """float64: the largest lambda in each cluster and all below it."""
    deepest = death.copy()
    for c in range(len(parent) - 1, 0, -1):
        deepest[parent[c]] = max(deepest[parent[c]], deepest[c])
    return deepest
