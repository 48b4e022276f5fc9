"""Stand-ins for ``cuml.manifold`` and ``cuml.cluster``: cuML's recorded signatures, by umap-learn and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.manifold import TSNE

from rapids_signatures import check
from strict_arrays import StrictDevice


class Manifold:
    """As cuml.manifold: it refuses arguments that cuML's classes and their methods refuse.

    Umap-learn and scikit-learn make the layouts, so a start or a number that makes no sense fails. Its arrays come from
    the device.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def UMAP(self, *args: Any, **given: Any) -> Any:  # noqa: N802
        check("cuml.manifold.UMAP", args, given)
        return self._umap(**given)

    def TSNE(self, *args: Any, **given: Any) -> Any:  # noqa: N802
        check("cuml.manifold.TSNE", args, given)
        return self._tsne(**given)

    def _umap(
        self, n_neighbors: int, n_components: int, init: Any, build_algo: str, random_state: int, output_type: str
    ) -> Any:
        import umap

        assert (build_algo, output_type) == ("brute_force_knn", "numpy")
        start = StrictDevice().take(init)
        self.asked.append({"n_neighbors": n_neighbors, "init": start, "seed": random_state})
        made = umap.UMAP(n_neighbors, n_components, init=start, random_state=random_state, n_jobs=1, n_epochs=100)
        return _fitted("cuml.manifold.UMAP()", made)

    def _tsne(self, n_components: int, perplexity: float, init: str, random_state: int, output_type: str) -> Any:
        assert output_type == "numpy"
        # The only number of dimensions that it has.
        assert n_components == 2
        self.asked.append({"perplexity": perplexity, "init": init, "seed": random_state})
        made = TSNE(n_components, perplexity=perplexity, init=init, random_state=random_state)
        return _fitted("cuml.manifold.TSNE()", made)


class Cluster:
    """As cuml.cluster, likewise; ``mib`` is what DBSCAN's batches may take before the device's memory is at an end, and
    ``fits`` how many fits of HDBSCAN there is memory for."""

    def __init__(self, mib: int = 2**20, fits: int = 2**20) -> None:
        self.mib = mib
        self.fits = fits
        self.asked: list[int] = []
        self.hdbscans: list[tuple[int, int, str]] = []
        #: How far from zero the values of a fit lay.
        self.farthest = 0.0

    def DBSCAN(self, *args: Any, **given: Any) -> Any:  # noqa: N802
        check("cuml.cluster.DBSCAN", args, given)
        return self._dbscan(**given)

    def _dbscan(
        self, eps: float, min_samples: int, metric: str, algorithm: str, max_mbytes_per_batch: int,
        calc_core_sample_indices: bool, output_type: str,
    ) -> Any:  # fmt: skip
        assert (metric, algorithm, calc_core_sample_indices, output_type) == ("euclidean", "brute", True, "numpy")
        self.asked.append(max_mbytes_per_batch)
        made = SimpleNamespace()

        def fit(*args: Any, **given: Any) -> Any:
            check("cuml.cluster.DBSCAN().fit", args, given)
            if max_mbytes_per_batch > self.mib:
                raise MemoryError("std::bad_alloc: out_of_memory")
            model = DBSCAN(eps=eps, min_samples=min_samples, algorithm="brute").fit(StrictDevice().take(args[0]))
            made.labels_ = model.labels_.astype(given["out_dtype"])
            made.core_sample_indices_ = model.core_sample_indices_.astype(given["out_dtype"])
            return made

        made.fit = fit
        return made

    def HDBSCAN(self, *args: Any, **given: Any) -> Any:  # noqa: N802
        check("cuml.cluster.HDBSCAN", args, given)
        return self._hdbscan(**given)

    def _hdbscan(
        self, min_cluster_size: int, min_samples: int, metric: str, cluster_selection_method: str, build_algo: str,
        output_type: str,
    ) -> Any:  # fmt: skip
        assert (metric, build_algo, output_type) == ("euclidean", "brute_force", "numpy")
        # What cuML refuses in `fit`.
        assert 1 <= min_samples <= 1023
        made = SimpleNamespace()

        def fit(*args: Any, **given: Any) -> Any:
            check("cuml.cluster.HDBSCAN().fit", args, given)
            x = StrictDevice().take(args[0])
            assert x.dtype == np.float32
            self.hdbscans.append((min_cluster_size, min_samples, cluster_selection_method))
            self.farthest = max(self.farthest, float(np.abs(x).max()))
            if len(self.hdbscans) > self.fits:
                raise MemoryError("std::bad_alloc: out_of_memory")
            # cuML leaves a row out of its own neighbours, scikit-learn counts it.
            model = HDBSCAN(
                min_cluster_size, min_samples=min(min_samples + 1, len(x)), copy=True,
                cluster_selection_method=cluster_selection_method,
            ).fit(x)  # fmt: skip
            made.labels_, made.probabilities_ = model.labels_.astype(np.int64), model.probabilities_.astype(np.float32)
            return made

        made.fit = fit
        return made


def _fitted(name: str, model: Any) -> Any:
    def fit_transform(*args: Any, **given: Any) -> np.ndarray:
        check(f"{name}.fit_transform", args, given)
        # cuML gives back columns that lie one after the other.
        return np.asfortranarray(model.fit_transform(StrictDevice().take(args[0])), np.float32)

    return SimpleNamespace(fit_transform=fit_transform)
