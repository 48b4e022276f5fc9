"""A stand-in for ``cuml.manifold``: cuML's recorded signatures, and the layouts of umap-learn and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
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


def _fitted(name: str, model: Any) -> Any:
    def fit_transform(*args: Any, **given: Any) -> np.ndarray:
        check(f"{name}.fit_transform", args, given)
        # cuML gives back columns that lie one after the other.
        return np.asfortranarray(model.fit_transform(StrictDevice().take(args[0])), np.float32)

    return SimpleNamespace(fit_transform=fit_transform)
