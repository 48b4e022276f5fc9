"""UMAP and t-SNE by cuML: the binding to it, which runs on a GPU only.

Written for cuML 26.6. No copies of the CPU's layouts: other optimisers, so other places, of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

import numpy as np

from motorpool.backend.device import open_device
from motorpool.kernels.maps.layouts import UMAP_SIZE, LayOut, Layout, clear_start, prepare


class _Accelerated(NamedTuple):
    """A layout of cuML's, and the dimensions that it has it in."""

    lay_out: LayOut
    dims: tuple[int, ...]


def accelerated_layout(method: str, dims: int) -> LayOut | None:
    """What lays rows out on the GPU; None where cuML does not have it."""
    known = _METHODS.get(method)
    return known.lay_out if known and dims in known.dims else None


def needs_cuml(methods: Iterable[str]) -> bool:
    """Whether one of the named map methods is laid out by cuML."""
    return any(method in _METHODS for method in methods)


def _umap(rows: np.ndarray, start: np.ndarray, layout: Layout) -> np.ndarray:
    """A `LayOut`, in float32, with cuML's neighbours of brute force. Memory: all rows on the device, several times.

    It begins at ``start``, so that its maps lie as the CPU's do, and gives the same places again on the same GPU.
    """
    centred, layout = prepare(rows, layout)
    device = open_device("cupy")
    model = import_module("cuml.manifold").UMAP(
        n_neighbors=layout.n_neighbors,
        n_components=layout.dims,
        init=device.put(clear_start(start, UMAP_SIZE, layout.seed).astype(np.float32)),
        build_algo="brute_force_knn",
        random_state=layout.seed,
        output_type="numpy",
    )
    return np.ascontiguousarray(model.fit_transform(device.put(centred)), np.float32)


def _tsne(rows: np.ndarray, _: np.ndarray, layout: Layout) -> np.ndarray:
    """As `_umap`, from no start but its own principal components, and not the same twice.

    cuML chooses the number of neighbours and the learning rate by the number of rows.
    """
    centred, layout = prepare(rows, layout)
    model = import_module("cuml.manifold").TSNE(
        n_components=layout.dims,
        perplexity=layout.perplexity,
        init="pca",
        random_state=layout.seed,
        output_type="numpy",
    )
    return np.ascontiguousarray(model.fit_transform(open_device("cupy").put(centred)), np.float32)


#: The map methods that cuML has, by the names that configs give them.
_METHODS = {"umap": _Accelerated(_umap, (2, 3)), "tsne": _Accelerated(_tsne, (2,))}
