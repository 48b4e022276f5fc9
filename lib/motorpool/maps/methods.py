"""The entries of the map methods."""

from __future__ import annotations

from motorpool.kernels.maps.landmarks import Kernel
from motorpool.kernels.maps.layouts import LEAST_ROWS, lay_out_by_tsne, lay_out_by_umap
from motorpool.maps.method import MapMethod

PCA = MapMethod("pca", "PCA", default=True)
UMAP = MapMethod(
    "umap",
    "UMAP",
    lay_out_by_umap,
    # Fitted by umap-learn to its default min_dist, 0.1.
    Kernel(1.577, 0.8951),
    default=True,
    settings=("n_neighbors", "sample"),
    least_rows=LEAST_ROWS,
    package=("umap", "umap-learn"),
    # It keeps groups apart better than principal axes do in as few dimensions.
    turns=True,
)
TSNE = MapMethod(
    "tsne",
    "t-SNE",
    lay_out_by_tsne,
    settings=("perplexity", "sample"),
    least_rows=LEAST_ROWS,
    cost=2.0,
    package=("openTSNE", "openTSNE"),
)
