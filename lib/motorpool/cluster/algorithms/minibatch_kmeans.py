"""Mini-batch KMeans: its grid and how it is fitted. New images are labelled as by KMeans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.algorithms.kmeans import centroid_facts, relabel_by_centroids
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import FittedModels, ModelSpec, numbers
from motorpool.settings import Counts

if TYPE_CHECKING:
    from motorpool.cluster.fitting import Fitting


class MiniBatchGrid(ModelGrid):
    """Mini-batch KMeans for every k, on a sample of 64 batches."""

    crossed = ("k",)
    shared = ("batch_size", "n_init", "max_iter")
    count = "k"

    algorithm: Literal["minibatch_kmeans"] = Field(description="Name of the algorithm.")
    k: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    batch_size: int = Field(default=1024, ge=1, le=65_536, description="Images of one batch.")
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of passes over the sample.")


def _fit(fitting: Fitting, grid: MiniBatchGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.backend.protocol import CPU
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.minibatch import fit_minibatch_kmeans

    models = fit_minibatch_kmeans(
        fitting.block_df,
        numbers(specs, "k"),
        seed=fitting.seed,
        batch_size=grid.batch_size,
        n_init=grid.n_init,
        max_iter=grid.max_iter,
        progress=fitting.progress,
    )
    labelled = by_centroids(fitting.block_df, [m.centroids for m in models], fitting.backend)
    return FittedModels.of(labelled, specs, [centroid_facts(m, m.n_steps, CPU.name) for m in models])


ALGORITHM = Algorithm(
    "minibatch_kmeans",
    "mini-batch KMeans",
    MiniBatchGrid,
    _fit,
    stored=("centroids",),
    relabel=relabel_by_centroids,
    tells_far=True,
)
