"""KMeans: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.settings import Counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.backend.protocol import Backend
    from motorpool.cluster.centroids.kmeans import KMeansModel
    from motorpool.cluster.centroids.minibatch import MiniBatchModel
    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.stored import NewImages


class KMeansGrid(ModelGrid):
    """KMeans for every k, each from ``n_init`` starts, on the named feature sets (all by default)."""

    crossed = ("k",)
    shared = ("n_init", "max_iter", "tol")
    count = "k"

    algorithm: Literal["kmeans"] = Field(description="Name of the algorithm.")
    k: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of passes over all images.")
    tol: float = Field(
        default=1e-4,
        ge=0,
        description="A model is done where a pass over all images lowers its inertia by less than this share.",
    )


def _fit(fitting: Fitting, grid: KMeansGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans

    models = fit_kmeans(
        fitting.block_df,
        numbers(specs, "k"),
        n_init=grid.n_init,
        max_iter=grid.max_iter,
        tol=grid.tol,
        seed=fitting.seed,
        progress=fitting.progress,
        backend=fitting.backend,
    )
    labelled = by_centroids(fitting.block_df, [m.centroids for m in models], fitting.backend)
    return FittedModels.of(labelled, specs, [centroid_facts(m, m.n_iter, fitting.backend) for m in models])


def centroid_facts(model: KMeansModel | MiniBatchModel, n_iter: int, backend: Backend) -> Facts:
    """Facts of a model that is its centroids, fitted on ``backend``."""
    return Facts(
        model.seconds,
        n_iter,
        model.converged,
        model.inertia,
        centres=model.centroids,
        parameters={"centroids": model.centroids},
        backend=backend.name,
    )


def relabel_by_centroids(new: NewImages) -> DataFrame:
    """The cluster of the nearest centroid."""
    import numpy as np

    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.stored import labels_of_one

    return labels_of_one(by_centroids(new.blocks, [new.model.arrays["centroids"].astype(np.float32)]))


ALGORITHM = Algorithm(
    "kmeans", "KMeans", KMeansGrid, _fit, stored=("centroids",), relabel=relabel_by_centroids, tells_far=True
)
