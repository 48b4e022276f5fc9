"""Bisecting k-means for a whole grid of k: one tree, grown on a coreset and settled on all rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.centroids.bisecting_growth import Growth
from motorpool.cluster.labelled import Labelled, LabelledBlock
from motorpool.kernels.centroids.group_sums import GroupSums
from motorpool.kernels.distances import distance_factors, squared_distances
from motorpool.kernels.trees.bisecting_tree import BisectingTree, Planes
from motorpool.spark import blocks, coreset
from motorpool.spark.coreset import coreset_size, draw_coresets, measure_spread

#: A cluster still has this many rows of the coreset to be divided by.
_CORESET_ROWS_PER_CLUSTER = 128
#: For every so many splits one more moves along, in case that all rows ask for another order than the coreset.
_SPARE_SPLITS = 8


def tree_for(k: int) -> int:
    """The largest k whose tree is also that of ``k``: 256 by default, then 512, 1,024 and so on.

    A tree starts on a coreset, which must not depend on the k that happen to be asked for together.
    """
    found = max(1, coreset.CORESET_ROWS // _CORESET_ROWS_PER_CLUSTER)
    while found < k:
        found *= 2
    return found


def fit_bisecting(
    block_df: DataFrame,
    ks: Sequence[int],
    *,
    seed: int,
    n_init: int = 5,
    max_iter: int = 100,
    tol: float = 1e-4,
    progress: Callable[[str], None] = lambda text: None,
) -> BisectingTree:
    """Bisecting k-means (Steinbach, Karypis & Kumar 2000) for every k in ``ks``: always divide the cluster of the
    largest inertia by k-means with two centroids, as scikit-learn does with ``biggest_inertia``.

    Divisions start on a weighted coreset (32,768 rows for all k up to 256, twice as many for every doubling of that),
    each the best of ``n_init`` runs of scikit-learn's k-means++ and Lloyd. Then all of them move together: in every
    pass rows walk down the tree and each split takes the means of its two sides. A split settles, and its centroids
    stay, when those above it have settled and moving wins less than the share ``tol`` of its two sides' inertia. The
    order of splits is decided by the inertia over all rows. Some more splits than the largest k has are made, those
    that come next on the coreset; where the order asks for yet another, the passes are made again with it.

    So the order of splits, sizes and inertia are those of all rows, and so is every split, a fixed point of Lloyd's
    iteration up to ``tol``; the coreset decides which fixed point. A leaf with fewer than two distinct rows in
    the coreset is not divided: `BisectingTree.largest` is smaller than k where there are too few distinct
    rows. A split depends on those above it, so the clusters of a k (`BisectingTree.first`) do not depend on the other
    k of the same `tree_for`. The result depends on the seed and the rows' ids, and on the partitions only through the
    order of floating-point sums.

    Two passes and one for every iteration. Driver memory: five times the coreset, which is at most 128 MiB or four
    rows for each cluster. A task works on three float64 copies of a block. ValueError for a k that is not 1 to the
    number of rows, UnfitError as `Spread.check` raises it.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"k = {list(ks)}: expected one number or more, each at least 1")
    if max_iter < 1 or n_init < 1:
        raise ValueError(f"max_iter = {max_iter}, n_init = {n_init}: must be at least 1")
    began = time.monotonic()
    largest = max(ks)
    spread = measure_spread(block_df)
    if largest > spread.n:
        raise ValueError(f"k = {largest} asks for more clusters than there are rows ({spread.n})")
    spread.check()
    most = tree_for(largest)
    size = coreset_size(len(spread.mean), _CORESET_ROWS_PER_CLUSTER * most, most)
    drawn = draw_coresets(block_df, spread, seed, size).of(size)
    start = Growth(drawn, spread, seed, n_init, tol)
    n_splits = len(start.grow(largest))
    progress(f"{n_splits} splits on {len(drawn.rows):,} of {spread.n:,} rows")
    start.grow(largest + 1 + largest // _SPARE_SPLITS)
    while True:
        growth = start.copy()
        order, lacking, moving = growth.order(largest)
        while moving and growth.passes < max_iter:
            growth.move(_pass(block_df, growth, spread.mean))
            order, lacking, moving = growth.order(largest)
            progress(f"pass {growth.passes}: {len(moving)} of {len(order)} splits still moving")
        if not start.divide_all(lacking):
            return growth.tree(order, spread.mean, time.monotonic() - began)


def _pass(block_df: DataFrame, growth: Growth, mean: np.ndarray) -> GroupSums:
    """Sums of the rows of every leaf, about its centre."""
    centres = np.stack(growth.centres)
    planes = Planes.of(np.array(growth.left), centres)

    def add(state: GroupSums, batch: pa.RecordBatch) -> None:
        for _, raw in blocks.block_arrays(batch):
            x = raw - mean
            at = planes.descend(x)
            x -= centres[at]
            state.update(x, at)

    return blocks.fold(block_df, lambda: GroupSums(*centres.shape), add)


def by_tree(block_df: DataFrame, tree: BisectingTree, ks: Sequence[int]) -> Labelled:
    """Every image's cluster for each k, by one walk down the tree, its distance to that cluster's centroid, and as
    ``strength`` the least that a split on the way says (`Planes.firmness`).

    A cluster's number is its place in `BisectingTree.leaves`; rows need not be those of the fit.
    """
    origin = tree.centroids[0].astype(np.float64)
    centres = tree.centroids - origin
    planes = Planes.of(tree.left, centres)
    factors = distance_factors(centres)
    leaves = [tree.leaves(k) for k in ks]
    clusters = tree.clusters(ks)

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, raw in blocks.block_arrays(batch):
            x = raw - origin
            labels = clusters[planes.descend(x)]
            nodes = np.stack([leaf[labels[:, i]] for i, leaf in enumerate(leaves)], axis=1)
            to_all = np.sqrt(np.maximum(squared_distances(x, factors), 0.0))
            distances = np.take_along_axis(to_all, nodes, axis=1).astype(np.float32)
            strengths = np.take_along_axis(planes.firmness(to_all), nodes, axis=1).astype(np.float32)
            yield LabelledBlock(ids, raw, labels, distances, strengths)

    return Labelled(block_df, label, tuple(len(leaf) for leaf in leaves), origin)
