"""Layouts of a sample: places in two or three dimensions where near rows stay near, by umap-learn and openTSNE.

Each works on the exact graph of nearest neighbours and starts from the principal components, so that maps of one
table are alike in their orientation (Kobak & Linderman, 2021: what a start keeps of the whole shape, a layout keeps).
The seam for other engines is `lay_out`: rows in, one place per row out. Nothing else of a fitted model is kept, and
`landmarks` places the rows that it has not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool.errors import EnvironmentMissingError
from motorpool.kernels.maps.landmarks import Kernel
from motorpool.kernels.maps.scaling import Scale, centre

LayoutMethod = Literal["umap", "tsne"]
#: With fewer rows no neighbourhood is left to keep: a perplexity of 1 takes three other rows.
LEAST_ROWS = 4
#: The standard deviation of a start of UMAP along its first axis.
UMAP_SIZE = 10.0
#: That of UMAP is what umap-learn fits to its default min_dist, 0.1.
KERNELS = {"umap": Kernel(1.577, 0.8951), "tsne": Kernel()}
#: The module that a method imports, and the package that brings it.
_PACKAGES = {"umap": ("umap", "umap-learn"), "tsne": ("openTSNE", "openTSNE")}


def check_packages(methods: Iterable[str]) -> None:
    """EnvironmentMissingError where a method's package is not installed."""
    missing = [m for m in methods if m in _PACKAGES and find_spec(_PACKAGES[m][0]) is None]
    if missing:
        wanted = " ".join(_PACKAGES[m][1] for m in missing)
        raise EnvironmentMissingError(
            f"projections.methods: {missing[0]} needs a package that is not installed. Install it here and on the "
            f"workers, `pip install {wanted}`, or leave {' and '.join(missing)} out of projections.methods"
        )


@dataclass(frozen=True)
class Layout:
    """How to lay rows out. ``n_neighbors`` (umap) counts the row itself, ``perplexity`` (tsne) does not."""

    method: LayoutMethod
    dims: int
    n_neighbors: int
    perplexity: float
    seed: int


@dataclass(frozen=True)
class Graph:
    """The nearest other rows of every row, nearest first: ``others`` int[m, k], ``distances`` float[m, k]."""

    others: np.ndarray
    distances: np.ndarray


def nearest_others(rows: np.ndarray, k: int) -> Graph:
    """The k nearest other rows, Euclidean and exact, of float32[m, d] with m > k: m^2 products of d numbers."""
    from sklearn.neighbors import NearestNeighbors

    distances, others = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors()
    return Graph(others, distances)


def lay_out(rows: np.ndarray, start: np.ndarray, layout: Layout) -> np.ndarray:
    """Places float32[m, dims] for float32[m, d] rows, m at least LEAST_ROWS, from float[m, dims] principal components.

    Approximate as its methods are: stochastic (umap), Barnes-Hut or interpolated forces (tsne). With fewer rows than
    asked for, ``n_neighbors`` is m - 1 and ``perplexity`` a third of that. One core; the same rows in the same order
    and the same seed give the same places on the same machine and versions, but the last digits of another processor
    can send a row elsewhere. Memory: with k = n_neighbors or 3 perplexity, some 50 m k bytes.
    """
    centred, layout = prepare(rows, layout)
    with threadpool_limits(limits=1):
        if layout.method == "umap":
            return _umap(centred, clear_start(start, UMAP_SIZE, layout.seed), layout.n_neighbors, layout.seed)
        return _tsne(centred, clear_start(start, 1e-4, layout.seed), layout.perplexity, layout.seed)


def prepare(rows: np.ndarray, layout: Layout) -> tuple[np.ndarray, Layout]:
    """float32[m, d] rows about their `centre` on a `Scale`, and as many neighbours and as large a perplexity as so many
    rows allow.

    ValueError for fewer rows than LEAST_ROWS.
    """
    m = len(rows)
    if m < LEAST_ROWS:
        raise ValueError(f"{m} rows: a layout takes at least {LEAST_ROWS}")
    centred = Scale.of(rows, centre(rows)).apply(rows)
    n_neighbors, perplexity = min(layout.n_neighbors, m - 1), min(layout.perplexity, (m - 1) / 3)
    return centred, replace(layout, n_neighbors=n_neighbors, perplexity=perplexity)


def clear_start(start: np.ndarray, size: float, seed: int) -> np.ndarray:
    """A start of standard deviation ``size`` along its first axis, in which no two rows coincide."""
    start = Scale.of(start).apply(start)
    deviation = start[:, 0].std()
    scaled = start * (size / deviation) if deviation > 0 else np.zeros(start.shape)
    return scaled + np.random.default_rng(seed).normal(scale=1e-4 * size, size=start.shape)


def _umap(rows: np.ndarray, start: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """UMAP (McInnes, Healy & Melville, 2018) of the library's own settings otherwise: min_dist is 0.1."""
    umap, numba = import_module("umap"), import_module("numba")
    graph = nearest_others(rows, n_neighbors - 1)
    itself = np.arange(len(rows), dtype=np.int32)[:, None]
    indices = np.hstack([itself, graph.others.astype(np.int32)])
    distances = np.hstack([np.zeros(itself.shape, np.float32), graph.distances.astype(np.float32)])
    model = umap.UMAP(
        n_neighbors=n_neighbors,
        n_components=start.shape[1],
        init=start.astype(np.float32),
        # The third would be the index that its own `transform` searches.
        precomputed_knn=(indices, distances, None),
        random_state=seed,
        n_jobs=1,
    )
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # Of the missing index.
            warnings.filterwarnings("ignore", message="precomputed_knn", category=UserWarning)
            return np.ascontiguousarray(model.fit_transform(rows), np.float32)
    finally:
        numba.set_num_threads(threads)


def _tsne(rows: np.ndarray, start: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, 2008); in two dimensions and from 10,000 rows on by FIt-SNE's interpolation.

    In three dimensions by the tree of Barnes and Hut alone, which takes several times as long.
    """
    tsne = import_module("openTSNE")
    graph = nearest_others(rows, min(len(rows) - 1, int(3 * perplexity)))
    known = import_module("openTSNE.nearest_neighbors").PrecomputedNeighbors(graph.others, graph.distances)
    affinities = tsne.affinity.PerplexityBasedNN(knn_index=known, perplexity=perplexity, n_jobs=1)
    model = tsne.TSNE(
        n_components=start.shape[1],
        negative_gradient_method="bh" if start.shape[1] == 3 else "auto",
        random_state=seed,
        n_jobs=1,
    )
    return np.ascontiguousarray(model.fit(affinities=affinities, initialization=start), np.float32)
