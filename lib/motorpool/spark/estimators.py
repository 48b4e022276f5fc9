"""KMeans and PCA by another library's Spark estimators: Spark's own MLlib, or spark-rapids-ml, which has its interface.

spark-rapids-ml 26.6 runs cuML on one task for each GPU. Its classes stand in for those of ``pyspark.ml``: the same
parameters and models, so the same code drives both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

#: The largest seed that spark-rapids-ml's KMeans takes.
_LARGEST_SEED = 0x07FFFFFFF
_FEATURES = "features"


@dataclass(frozen=True)
class Estimators:
    """The estimators of a library; ``name`` is what the config and ``models.backend`` call it.

    ``vectors`` says that it takes Spark's vectors only, of float64; others take arrays, of float32.
    """

    name: str
    kmeans: Callable[..., Any]
    pca: Callable[..., Any]
    vectors: bool

    def rows(self, vectors: DataFrame) -> DataFrame:
        """The column ``features`` of ``image_id, vector``, as the library wants it."""
        from pyspark.ml.functions import array_to_vector

        column = array_to_vector(vectors["vector"]) if self.vectors else vectors["vector"]
        return vectors.select(column.alias(_FEATURES))


def _spark_ml() -> Estimators:
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.feature import PCA

    return Estimators("spark-ml", KMeans, PCA, vectors=True)


def _spark_rapids_ml() -> Estimators:
    kmeans = import_module("spark_rapids_ml.clustering").KMeans
    pca = import_module("spark_rapids_ml.feature").PCA
    return Estimators("spark-rapids-ml", kmeans, pca, vectors=False)


_LIBRARIES: dict[str, Callable[[], Estimators]] = {"spark-ml": _spark_ml, "spark-rapids-ml": _spark_rapids_ml}


def estimators(engine: str) -> Estimators:
    """The estimators of an engine by its name in a config."""
    return _LIBRARIES[engine]()


def fit_centroids(
    library: Estimators, vectors: DataFrame, wanted: Sequence[tuple[int, int]], max_iter: int, tol: float
) -> list[np.ndarray]:
    """Centroids float64[<= k, d] for every wanted k with its seed, by the library's KMeans from k-means||.

    ``vectors`` has ``image_id, vector``. ``tol`` is the library's: how far centroids still move when it stops. There
    are fewer centroids than k where rows are too few or too equal for k starts. ``fitMultiple`` gets the whole grid;
    both libraries read the rows anew for each member of it.

    Memory: for Spark's MLlib 8 bytes for each number, on the executors; for spark-rapids-ml all rows at once on the
    GPUs together, 4 bytes a number, and as much again while they are put together. A grid's centroids on the driver.
    """
    model = library.kmeans(featuresCol=_FEATURES, initMode="k-means||", maxIter=max_iter, tol=tol)
    maps = [{model.k: k, model.seed: seed & _LARGEST_SEED} for k, seed in wanted]
    found: list[np.ndarray | None] = [None] * len(maps)
    for index, fitted in model.fitMultiple(library.rows(vectors), maps):
        found[index] = np.array(fitted.clusterCenters(), np.float64)
    return [centroids for centroids in found if centroids is not None]


def fit_components(library: Estimators, vectors: DataFrame, k: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[d, k] principal components, orthonormal, and float64[k] their shares of the variance, by the library.

    Components are as exact as the library's arithmetic: float64 for Spark's MLlib, float32 for spark-rapids-ml. Memory
    as for `fit_centroids`; Spark's MLlib needs the d x d covariance matrix on the driver as well.
    """
    fitted = library.pca(k=k, inputCol=_FEATURES, outputCol="projected").fit(library.rows(vectors))
    return np.asarray(fitted.pc.toArray(), np.float64), np.asarray(fitted.explainedVariance.toArray(), np.float64)
