"""Agglomerative clustering of all rows through weighted micro-clusters: one tree per linkage, cut anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.hierarchy.micro_clusters import MicroClusters, fit_micro_clusters
from motorpool.cluster.labelled import Labelled, LabelledBlock
from motorpool.kernels.nearest import NearestPoint
from motorpool.kernels.trees.linkage import Method, cut, linkage
from motorpool.spark import blocks


@dataclass(frozen=True)
class Agglomeration:
    """The tree of one linkage over m micro-clusters, and its cuts.

    merges float64[m - 1, 4] as `linkage.linkage` gives them; ``clusters`` has for every n_clusters the cluster int32[m]
    of each micro-cluster, numbered by first micro-cluster. Where n_clusters is above m there are m clusters.
    """

    linkage: Method
    merges: np.ndarray
    clusters: dict[int, np.ndarray]
    seconds: float


@dataclass(frozen=True)
class Agglomerations:
    """The micro-clusters and the tree of every linkage over them."""

    micro: MicroClusters
    trees: tuple[Agglomeration, ...]
    seconds: float


def fit_agglomerative(
    block_df: DataFrame,
    n_clusters: Sequence[int],
    linkages: Sequence[Method],
    *,
    micro_clusters: int = 4096,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> Agglomerations:
    """Agglomerative clustering for every linkage (ward, average, complete, single) and number of clusters.

    The driver agglomerates weighted micro-clusters; see `fit_micro_clusters` for how rows become these, and
    `linkage.linkage` for what the weights mean. Exact, the same partitions as scikit-learn's AgglomerativeClustering
    (ties apart), where the distinct rows are no more than ``micro_clusters`` and at most 32,768 rows in all.
    Otherwise approximate: rows of one micro-cluster are never parted. Ward and average linkage see it as that many
    rows at its mean; complete and single linkage measure between means, so their heights leave out its radius.

    Seven passes at most: two for the coreset, three for the micro-clusters; and O(m^2 d) on the driver, with 8 m^2
    bytes (m = 4,096: 128 MiB; none for single), which all n_clusters of a linkage share.

    Raises ValueError for a number of clusters that is not 1 to the number of rows, or that is above
    ``micro_clusters``, and for a linkage that there is not.
    """
    unknown = [method for method in linkages if method not in get_args(Method)]
    if unknown or not linkages:
        raise ValueError(f"linkages = {list(linkages)}: expected one or more of {', '.join(get_args(Method))}")
    if not n_clusters or min(n_clusters) < 1:
        raise ValueError(f"n_clusters = {list(n_clusters)}: expected one number or more, each at least 1")
    if max(n_clusters) > micro_clusters:
        raise ValueError(f"n_clusters = {max(n_clusters)}: more than there are micro-clusters; raise {micro_clusters=}")
    began = time.monotonic()
    micro = fit_micro_clusters(block_df, micro_clusters, seed=seed, progress=progress)
    n = int(micro.sizes.sum())
    if max(n_clusters) > n:
        raise ValueError(f"n_clusters = {max(n_clusters)} asks for more clusters than there are rows ({n})")
    seconds = time.monotonic() - began
    progress(f"{len(micro.sizes):,} micro-clusters of {n:,} rows in {seconds:.1f} s")
    return Agglomerations(micro, tuple(_agglomerate(micro, m, n_clusters, progress) for m in linkages), seconds)


def _agglomerate(
    micro: MicroClusters, method: Method, n_clusters: Sequence[int], progress: Callable[[str], None]
) -> Agglomeration:
    began = time.monotonic()
    merges = linkage(micro.centroids, micro.sizes.astype(np.float64), method)
    m = len(micro.sizes)
    clusters = {k: cut(merges, min(k, m)) for k in n_clusters}
    seconds = time.monotonic() - began
    progress(f"{method} linkage of {m:,} micro-clusters in {seconds:.1f} s")
    return Agglomeration(method, merges, clusters, seconds)


def by_micro_clusters(block_df: DataFrame, micro: MicroClusters, cuts: Sequence[np.ndarray]) -> Labelled:
    """Every image's cluster in several models that share their micro-clusters: that of the nearest one.

    ``cuts`` are int32[m] clusters of the micro-clusters, as in `Agglomeration.clusters`; one search serves them all.
    Distances are to the centre of the micro-cluster, not of the cluster: how far off the image is from any
    that the model knew. Rows need not be those that the models were fitted on.
    """
    nearest = NearestPoint(micro.centroids)
    clusters = np.stack(cuts, axis=1).astype(np.int32)
    n_models = len(cuts)
    origin = np.average(micro.centroids, axis=0, weights=micro.sizes)

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, x in blocks.block_arrays(batch):
            found, squared = nearest.find(x)
            distances = np.repeat(np.sqrt(squared).astype(np.float32)[:, None], n_models, axis=1)
            yield LabelledBlock(ids, x, clusters[found], distances)

    return Labelled(block_df, label, tuple(int(c.max()) + 1 for c in cuts), origin)
