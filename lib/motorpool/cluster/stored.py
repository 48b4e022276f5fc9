"""Labels from what a lake keeps of a model: the numbers that labelled the study label any other rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from pyspark.sql import DataFrame

from motorpool.cluster.centroids.bisecting import by_tree
from motorpool.cluster.centroids.by_centroids import by_centroids
from motorpool.cluster.hierarchy.agglomerative import by_micro_clusters
from motorpool.cluster.hierarchy.micro_clusters import MicroClusters
from motorpool.cluster.labelled import Labelled
from motorpool.cluster.mixtures.labels import by_mixtures
from motorpool.cluster.mixtures.mixture import Mixture
from motorpool.kernels.centroids.gaussians import CovarianceType
from motorpool.kernels.trees.bisecting_tree import BisectingTree

#: The arrays that label new rows, of every algorithm that can. Those of density need the study's rows as well.
ARRAYS: Mapping[str, tuple[str, ...]] = {
    "kmeans": ("centroids",),
    "minibatch_kmeans": ("centroids",),
    "bisecting_kmeans": ("left", "centroids"),
    "agglomerative": ("centroids", "clusters"),
    "gaussian_mixture": ("weights", "means", "covariances"),
    "dbscan": ("eps",),
    "hdbscan": ("births", "deaths"),
}
BY_DENSITY = ("dbscan", "hdbscan")


@dataclass(frozen=True)
class StoredModel:
    """A model as ``models`` and ``parameters`` keep it: ``params`` as text, ``arrays`` float64 in their shapes.

    ``arrays`` holds at least those of ARRAYS; an agglomerative model's centroids are those of its micro-clusters,
    which the lake keeps once for the whole grid.
    """

    model_id: str
    features: str
    algorithm: str
    params: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]


def by_parameters(block_df: DataFrame, model: StoredModel) -> Labelled:
    """Labels of blocks by the model's parameters alone, through the very function that labelled the study.

    So the study's own rows get their labels again. (A row at the same distance from two centroids, up to float64's
    rounding, may change sides: a study labels all k of a grid in one matrix product, which rounds differently.)
    Memory and cost are those of `by_centroids`, `by_tree`, `by_micro_clusters` and `by_mixtures`. ValueError for
    algorithms that need more than their parameters.
    """
    arrays = model.arrays
    if model.algorithm in ("kmeans", "minibatch_kmeans"):
        return by_centroids(block_df, [arrays["centroids"].astype(np.float32)])
    if model.algorithm == "bisecting_kmeans":
        return by_tree(block_df, _tree(arrays), [int(model.params["k"])])
    if model.algorithm == "agglomerative":
        centroids = arrays["centroids"].astype(np.float32)
        # Sizes and inertia are of no consequence to labels.
        micro = MicroClusters(centroids, np.ones(len(centroids), np.int64), math.nan, exact=False)
        return by_micro_clusters(block_df, micro, [arrays["clusters"].astype(np.int32)])
    if model.algorithm == "gaussian_mixture":
        return by_mixtures(block_df, [_mixture(model)])
    raise ValueError(f"algorithm {model.algorithm!r}: its parameters alone label no rows")


def _tree(arrays: Mapping[str, np.ndarray]) -> BisectingTree:
    """The tree with what the way down it needs; what fitting knew besides is not stored."""
    left, centroids = arrays["left"].astype(np.int64), arrays["centroids"].astype(np.float32)
    zero, unknown = np.zeros(len(left), np.int64), np.full(len(left), math.nan)
    return BisectingTree(left, centroids, zero, unknown, zero[: len(left) // 2], 0, 0.0)


def _mixture(model: StoredModel) -> Mixture:
    """The mixture's density; scores and counts of the fit are not stored with it."""
    weights, means, covariances = (model.arrays[name] for name in ("weights", "means", "covariances"))
    kind = cast(CovarianceType, model.params["covariance_type"])
    return Mixture(
        len(weights), kind, weights, means, covariances,
        log_likelihood=math.nan, bic=math.nan, aic=math.nan, n_iter=0, converged=True, seconds=0.0,
    )  # fmt: skip
