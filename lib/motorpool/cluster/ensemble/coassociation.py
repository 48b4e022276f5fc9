"""Consensus of several clusterings by evidence accumulation.

Fred & Jain (2005), Combining multiple clusterings using evidence accumulation: two images are as far apart as the
share of the member models that put them into different clusters, and a tree of these distances is cut. Which of
several such clusterings to take is told by their mean mutual information with the members (Strehl & Ghosh 2002,
Cluster ensembles). No vectors are needed, so members may come from any feature sets.

The matrix of all images is never made. Images with the same tuple of labels are one point with the weight of their
number, and tuples are few where models agree. Noise in a model shares a cluster with nobody, but images with the very
same tuple are at distance 0, noise or not. An image that every model leaves as noise is noise here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.ensemble.agreement import Contingency, label_matrix
from motorpool.kernels.trees.linkage import cut, linkage_of
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

Linkage = Literal["average", "complete", "single"]
#: Tuples are compared with all points in groups of this many: 1,024 x 4,096 counts are 8 MiB.
_GROUP = 1024


@dataclass(frozen=True)
class Evidence:
    """The points and their tree.

    ``tuples`` int32[m, models], the most frequent first and among equally frequent the smaller; ``weights``
    int64[m], the images of each; ``merges`` float64[m - 1, 4] as `linkage_of` makes them. ``n_other`` images, with
    ``n_other_tuples`` tuples, are not among the points.
    """

    tuples: np.ndarray
    weights: np.ndarray
    merges: np.ndarray
    n_other: int
    n_other_tuples: int

    def cut(self, n_clusters: int) -> np.ndarray:
        """Labels int32[m] of the points, numbered by their first; ValueError outside 1 to m."""
        if not 1 <= n_clusters <= len(self.tuples):
            raise ValueError(f"n_clusters = {n_clusters}: expected 1 to {len(self.tuples)}, the number of tuples")
        return cut(self.merges, n_clusters)


def disagreement(tuples: np.ndarray) -> np.ndarray:
    """float64[m, m]: the share of the models in which two tuples of int[m, models] labels differ or one is noise.

    0 on the diagonal. 8 m^2 bytes, and m^2 more at a time.
    """
    m, models = tuples.shape
    apart = np.zeros((m, m))
    for label in tuples.T:
        apart += (label[:, None] != label) | (label < 0)
    np.fill_diagonal(apart, 0)
    # A quotient of whole numbers, so that equal shares are equal.
    apart /= models
    return apart


def accumulate(labels: DataFrame, method: Linkage, max_tuples: int) -> Evidence:
    """The tree over the ``max_tuples`` most frequent tuples of ``clusters ARRAY<INT>``, of equal length in every row.

    Exact with at most so many tuples: the tree of all images, whose equal ones merge at height 0. With more, the others
    take no part in it (see `nearest`). The driver holds the points, their matrix (8 max_tuples^2 bytes: 4,096 take
    128 MiB) and O(max_tuples^2) operations. One shuffle of the distinct tuples.
    """
    placed = F.exists("clusters", lambda cluster: cluster >= 0)
    counted = blocks.persist(labels.where(placed).groupBy("clusters").agg(F.count(F.lit(1)).alias("n")))
    try:
        # max_tuples rows, each an array of one number per model.
        rows = counted.orderBy(F.desc("n"), "clusters").limit(max_tuples).collect()
        total = counted.agg(F.count(F.lit(1)).alias("tuples"), F.coalesce(F.sum("n"), F.lit(0)).alias("images")).first()
        assert total is not None
    finally:
        counted.unpersist()
    tuples = np.array([r["clusters"] for r in rows], np.int32).reshape(
        len(rows), len(rows[0]["clusters"]) if rows else 0
    )
    weights = np.array([r["n"] for r in rows], np.int64)
    merges = linkage_of(disagreement(tuples), weights, method) if rows else np.empty((0, 4))
    return Evidence(tuples, weights, merges, total["images"] - int(weights.sum()), total["tuples"] - len(rows))


def nearest(labels: np.ndarray, tuples: np.ndarray) -> np.ndarray:
    """int64[n]: the row of ``tuples`` int32[m, models] that stands for each row of ``labels`` int32[n, models].

    Itself where it is among them. Otherwise, as an approximation, the one that agrees with it in most models, the
    first of several; -1 where none agrees in any. O(n' m models) for n' distinct rows that are not among them.
    """
    distinct, which = np.unique(labels, axis=0, return_inverse=True)
    known = {row.tobytes(): at for at, row in enumerate(np.ascontiguousarray(tuples, np.int32))}
    held = np.ascontiguousarray(distinct, np.int32)
    found = np.array([known.get(row.tobytes(), -1) for row in held], np.int64)
    unknown = np.flatnonzero(found < 0) if known else np.empty(0, np.int64)
    for start in range(0, len(unknown), _GROUP):
        group = unknown[start : start + _GROUP]
        agreeing = np.zeros((len(group), len(tuples)), np.int16)
        for ours, theirs in zip(held[group].T, tuples.T, strict=True):
            agreeing += (ours[:, None] == theirs) & (ours >= 0)[:, None]
        found[group] = np.where(agreeing.any(axis=1), agreeing.argmax(axis=1), -1)
    return found[which.reshape(-1)]


def relabel(labels: DataFrame, evidence: Evidence, n_clusters: Sequence[int]) -> DataFrame:
    """``image_id BIGINT, members ARRAY<INT>, clusters ARRAY<INT>``: the labels given, and one for each n_clusters.

    ``labels`` has image_id and ``clusters``. -1 where no point stands for the image.
    """
    tuples = evidence.tuples
    # A last row of noise, which is where -1 points to.
    cuts = np.column_stack([np.append(evidence.cut(k), -1) for k in n_clusters]).astype(np.int32)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                found = cuts[nearest(label_matrix(batch, "clusters"), tuples)]
                yield pa.RecordBatch.from_arrays(
                    [batch.column("image_id"), batch.column("clusters"), _lists(found)],
                    names=["image_id", "members", "clusters"],
                )

    schema = "image_id BIGINT, members ARRAY<INT>, clusters ARRAY<INT>"
    return labels.select("image_id", "clusters").mapInArrow(run, schema)


def sizes(counts: Contingency, n_clusters: int) -> np.ndarray:
    """int64[n_clusters]: images of each cluster of the first model; noise is left out."""
    total = np.zeros(n_clusters, np.int64)
    np.add.at(total, counts.a[counts.a >= 0], counts.n[counts.a >= 0])
    return total


def shares(counts: Contingency, n_clusters: int) -> np.ndarray:
    """float32[n_clusters, labels]: of each cluster of the first model, the share with each label of the second."""
    table = np.zeros((n_clusters, int(counts.b.max(initial=-1)) + 1), np.float32)
    both = (counts.a >= 0) & (counts.b >= 0)
    table[counts.a[both], counts.b[both]] = counts.n[both] / sizes(counts, n_clusters)[counts.a[both]]
    return table


def with_strengths(placed: DataFrame, tables: Sequence[Sequence[np.ndarray]]) -> DataFrame:
    """``image_id BIGINT, clusters ARRAY<INT>, strengths ARRAY<FLOAT>`` from what `relabel` has made.

    An image's strength in a cluster is the mean over the members of the share of the cluster's images, itself among
    them, that the member puts into the image's own cluster; a member that has the image as noise adds 0. 1 where all
    members have the whole cluster together, 0 for noise. ``tables`` holds `shares` by consensus model and member.
    """

    def strength(found: np.ndarray, members: np.ndarray, of: Sequence[np.ndarray]) -> np.ndarray:
        total = np.zeros(len(found), np.float32)
        for label, table in zip(members.T, of, strict=True):
            both = (found >= 0) & (label >= 0)
            total[both] += table[found[both], label[both]]
        return np.minimum(total / len(of), np.float32(1))

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                members, found = label_matrix(batch, "members"), label_matrix(batch, "clusters")
                strengths = [strength(column, members, of) for column, of in zip(found.T, tables, strict=True)]
                yield pa.RecordBatch.from_arrays(
                    [batch.column("image_id"), batch.column("clusters"), _lists(np.column_stack(strengths))],
                    names=["image_id", "clusters", "strengths"],
                )

    return placed.mapInArrow(run, "image_id BIGINT, clusters ARRAY<INT>, strengths ARRAY<FLOAT>")


def _lists(array: np.ndarray) -> pa.ListArray:
    """int32 or float32[n, k] as a list column."""
    n, width = array.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(array).reshape(-1)))
