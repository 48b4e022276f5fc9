"""KMeans: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.grid import ModelGrid, Params
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.settings import Counts, Engine, modules_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

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
    engine: Engine = Field(
        default="motorpool",
        description="What fits the models: Motorpool's own kernels, or the KMeans of Spark's MLlib (`spark-ml`) or, on "
        "GPUs, of `spark-rapids-ml`. There `tol` is how far centroids still move.",
    )

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        return modules_of(self.engine)

    def variants(self, seed: int) -> Iterator[Params]:
        # Another engine finds another local optimum.
        by = {} if self.engine == "motorpool" else {"engine": self.engine}
        for params in super().variants(seed):
            yield params | by


def _fit(fitting: Fitting, grid: KMeansGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans, fit_kmeans_by
    from motorpool.spark.estimators import estimators

    motorpool = grid.engine == "motorpool"
    fit = fit_kmeans if motorpool else partial(fit_kmeans_by, estimators(grid.engine))
    models = fit(
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
    fitted_by = fitting.backend.name if motorpool else grid.engine
    return FittedModels.of(labelled, specs, [centroid_facts(m, m.n_iter, fitted_by) for m in models])


def centroid_facts(model: KMeansModel | MiniBatchModel, n_iter: int | None, backend: str) -> Facts:
    """Facts of a model that is its centroids; ``backend`` says where it was fitted."""
    return Facts(
        model.seconds,
        n_iter,
        model.converged,
        model.inertia,
        centres=model.centroids,
        parameters={"centroids": model.centroids},
        backend=backend,
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
