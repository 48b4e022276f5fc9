"""Micro-clusters: a few thousand weighted points that stand for all rows, where an algorithm compares all with all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.centroids.group_sums import GroupSums
from motorpool.kernels.nearest import NearestPoint
from motorpool.spark import blocks
from motorpool.spark.coreset import draw_coreset, measure_spread

#: Lloyd passes over all rows. Every further one wins little, and micro-clusters need not be the best ones.
_PASSES = 3


@dataclass(frozen=True)
class MicroClusters:
    """Centroids float32[m, d] with sizes int64[m], none of them empty; the sizes sum to the number of rows.

    ``exact``: they are the distinct rows, so what follows from them is what follows from the rows. ``inertia``
    is the sum of squared distances of the rows to their centroids: what the summary leaves out.
    """

    centroids: np.ndarray
    sizes: np.ndarray
    inertia: float
    exact: bool


def fit_micro_clusters(
    block_df: DataFrame,
    at_most: int,
    *,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> MicroClusters:
    """The distinct rows of a small table, in the order of their first image; of a larger one a rough k-means.

    Small is a table whose distinct rows are no more than ``at_most`` and whose rows the coreset holds all (32,768,
    where their float32 numbers are within 128 MiB). Otherwise rows of the coreset, drawn by their weights, so
    nearly uniform among all rows, are the start of three Lloyd passes over all rows; micro-clusters that are left
    empty are dropped. Sizes are those of the last pass, centroids the means of its rows. The result depends on
    the seed and the rows' ids, and on the partitions only through the order of floating-point sums.

    Memory: the coreset on the driver; of a task 8 m d bytes of sums, the points (20 m d bytes) and 1,024 x m float32.
    """
    if at_most < 1:
        raise ValueError(f"at_most = {at_most}: must be at least 1")
    spread = measure_spread(block_df)
    if spread.n == 0:
        raise ValueError("there are no rows to cluster")
    coreset = draw_coreset(block_df, spread, seed, at_most)
    # Rows are in the order of their ids, and so are the distinct ones by their first.
    _, first, repeats = np.unique(coreset.rows, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    if len(coreset.rows) == spread.n and len(first) <= at_most:
        return MicroClusters(coreset.rows[first[order]], repeats[order].astype(np.int64), 0.0, exact=True)
    chosen = first[order]
    if len(chosen) > at_most:
        weights = coreset.weights[chosen]
        drawn = np.random.default_rng(seed).choice(len(chosen), at_most, replace=False, p=weights / weights.sum())
        chosen = chosen[np.sort(drawn)]
    centroids = coreset.rows[chosen]
    del coreset
    for number in range(1, _PASSES + 1):
        centroids, sums = _lloyd(block_df, centroids)
        progress(f"micro-clusters: pass {number} of {_PASSES}, {len(centroids):,} hold {spread.n:,} rows")
    held = sums.counts > 0
    return MicroClusters(centroids, sums.counts[held], float(sums.inertia.sum()), exact=False)


def _lloyd(block_df: DataFrame, centroids: np.ndarray) -> tuple[np.ndarray, GroupSums]:
    """The means float32[m, d] of the rows nearest to each centroid, without the empty ones, and the pass's sums."""
    nearest = NearestPoint(centroids)

    def add(state: GroupSums, batch: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(batch):
            found, _ = nearest.find(x)
            state.update(x - centroids[found].astype(np.float64), found)

    sums = blocks.fold(block_df, lambda: GroupSums(*centroids.shape), add)
    held = sums.counts > 0
    return (centroids + sums.shifts)[held].astype(np.float32), sums
