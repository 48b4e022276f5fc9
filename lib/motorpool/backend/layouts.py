"""UMAP and t-SNE by cuML: the binding to it, which runs on a GPU only.

Written for cuML 26.6. No copies of the CPU's layouts: other optimisers, so other places, of the same kind.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from motorpool.backend.device import open_device
from motorpool.kernels.maps.layouts import UMAP_SIZE, Layout, clear_start, prepare


def can_lay_out(layout: Layout) -> bool:
    """Whether cuML has it: its t-SNE knows two dimensions only."""
    return layout.method == "umap" or layout.dims == 2


def lay_out_on_gpu(rows: np.ndarray, start: np.ndarray, layout: Layout) -> np.ndarray:
    """Places float32[m, dims] for float32[m, d] rows, m at least LEAST_ROWS, from float[m, dims] principal components.

    Neighbours are cuML's of brute force, in float32. UMAP starts from ``start``, so that its maps lie as the CPU's do,
    and gives the same places again on the same GPU. t-SNE takes no start but its own principal components, chooses the
    number of neighbours and the learning rate by the number of rows, and is not the same twice. With few rows as
    `projection.layouts.lay_out`. Memory: all rows on the device, several times.
    """
    centred, layout = prepare(rows, layout)
    device = open_device("cupy")
    manifold: Any = import_module("cuml.manifold")
    if layout.method == "umap":
        model = manifold.UMAP(
            n_neighbors=layout.n_neighbors,
            n_components=layout.dims,
            init=device.put(clear_start(start, UMAP_SIZE, layout.seed).astype(np.float32)),
            build_algo="brute_force_knn",
            random_state=layout.seed,
            output_type="numpy",
        )
    else:
        model = manifold.TSNE(
            n_components=layout.dims,
            perplexity=layout.perplexity,
            init="pca",
            random_state=layout.seed,
            output_type="numpy",
        )
    return np.ascontiguousarray(model.fit_transform(device.put(centred)), np.float32)
