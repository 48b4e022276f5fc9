"""What a backend does for the algorithms, and the two there are.

A backend travels to the tasks by pickle; nothing of it runs on the driver. Each method is one place where time goes,
cut as narrowly as it can be: what calls it, the tables and the seeds are the same for all backends, and results differ
by rounding alone (layouts aside, which are another library's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

# A task loads the libraries of what it does and no others: all of them take longer than many a task.
if TYPE_CHECKING:
    from motorpool.kernels.cells.engines import LocalEngine
    from motorpool.kernels.centroids.lloyd import Lloyd
    from motorpool.kernels.centroids.nearest import NearestCentroids
    from motorpool.kernels.cluster_sums import ClusterSpread, ClusterSums
    from motorpool.kernels.maps.layouts import LayOut
    from motorpool.kernels.moments import Gram, Moments
    from motorpool.kernels.pairs.geometry import Rows
    from motorpool.kernels.pairs.sweep import Side, Wanted
    from motorpool.kernels.pairs.tiles import Multiply


class Backend(Protocol):
    """Where the arithmetic is done. States come empty, are filled in tasks and merge on the driver."""

    @property
    def name(self) -> str:
        """What the columns ``backend`` of the tables say: ``cpu`` or ``gpu``."""

    def moments(self) -> Moments:
        """Moments to fill."""

    def gram(self) -> Gram:
        """A Gram matrix to add to."""

    def lloyd(self, centroids: Sequence[np.ndarray], mean: np.ndarray) -> Lloyd:
        """Lloyd's pass for the centroids of several runs."""

    def nearest(self, models: Sequence[np.ndarray]) -> NearestCentroids:
        """The nearest centroids of several models."""

    def cluster_sums(self, ks: Sequence[int], width: int) -> ClusterSums:
        """The scores' first pass, to fill."""

    def cluster_spread(self, sums: ClusterSums) -> ClusterSpread:
        """The scores' second pass, to fill."""

    def engine(self) -> LocalEngine:
        """DBSCAN of rows in one task's memory."""

    def sweep(self, a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
        """Neighbours of two shards' rows (see `kernels.pairs.sweep.sweep`)."""

    def multiplier(self, a: Rows, b: Rows) -> Multiply | None:
        """What makes the products of `Tiling.products`; None where NumPy does."""

    def layout_of(self, method: str, dims: int) -> LayOut | None:
        """What lays rows out here by a map method; None where its own function, on the CPU, does."""


@dataclass(frozen=True)
class CpuBackend:
    """NumPy, numba, scikit-learn, umap-learn and openTSNE."""

    name: str = "cpu"

    def moments(self) -> Moments:
        from motorpool.kernels.moments import Moments

        return Moments()

    def gram(self) -> Gram:
        from motorpool.kernels.moments import Gram

        return Gram()

    def lloyd(self, centroids: Sequence[np.ndarray], mean: np.ndarray) -> Lloyd:
        from motorpool.kernels.centroids.lloyd import Lloyd

        return Lloyd(centroids, mean)

    def nearest(self, models: Sequence[np.ndarray]) -> NearestCentroids:
        from motorpool.kernels.centroids.nearest import NearestCentroids

        return NearestCentroids(models)

    def cluster_sums(self, ks: Sequence[int], width: int) -> ClusterSums:
        from motorpool.kernels.cluster_sums import ClusterSums

        return ClusterSums(ks, width)

    def cluster_spread(self, sums: ClusterSums) -> ClusterSpread:
        from motorpool.kernels.cluster_sums import ClusterSpread

        return ClusterSpread(sums)

    def engine(self) -> LocalEngine:
        from motorpool.kernels.cells.engines import SklearnEngine

        return SklearnEngine()

    def sweep(self, a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
        from motorpool.kernels.pairs.sweep import sweep

        sweep(a, b, levels, wanted, cosine)

    def multiplier(self, a: Rows, b: Rows) -> Multiply | None:
        return None

    def layout_of(self, method: str, dims: int) -> LayOut | None:
        return None


@dataclass(frozen=True)
class ArrayBackend:
    """The kernels of this package over the array module ``module``: cupy, or NumPy to test them.

    ``name`` is what tables say. Layouts are cuML's, those that it has.
    """

    module: str = "cupy"
    name: str = "gpu"

    def moments(self) -> Moments:
        from motorpool.backend.vectors import ArrayMoments

        return ArrayMoments(self.module)

    def gram(self) -> Gram:
        from motorpool.backend.vectors import ArrayGram

        return ArrayGram(self.module)

    def lloyd(self, centroids: Sequence[np.ndarray], mean: np.ndarray) -> Lloyd:
        from motorpool.backend.centroids import ArrayLloyd

        return ArrayLloyd(self.module, centroids, mean)

    def nearest(self, models: Sequence[np.ndarray]) -> NearestCentroids:
        from motorpool.backend.centroids import ArrayNearest

        return ArrayNearest(self.module, models)

    def cluster_sums(self, ks: Sequence[int], width: int) -> ClusterSums:
        from motorpool.backend.scores import ArrayClusterSums

        return ArrayClusterSums(self.module, ks, width)

    def cluster_spread(self, sums: ClusterSums) -> ClusterSpread:
        from motorpool.backend.scores import ArrayClusterSpread

        return ArrayClusterSpread(self.module, sums)

    def engine(self) -> LocalEngine:
        from motorpool.backend.engine import ArrayEngine

        return ArrayEngine(self.module)

    def sweep(self, a: Side, b: Side, levels: np.ndarray, wanted: Wanted, cosine: bool) -> None:
        from motorpool.backend.sweep import array_sweep

        array_sweep(self.module, a, b, levels, wanted, cosine)

    def multiplier(self, a: Rows, b: Rows) -> Multiply | None:
        from motorpool.backend.sweep import multiplier

        return multiplier(self.module, a, b)

    def layout_of(self, method: str, dims: int) -> LayOut | None:
        from motorpool.backend.layouts import accelerated_layout

        return accelerated_layout(method, dims) if self.module == "cupy" else None


CPU = CpuBackend()
GPU = ArrayBackend()
