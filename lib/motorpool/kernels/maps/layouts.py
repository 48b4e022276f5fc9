"""Layouts of a sample: places in two or three dimensions where near rows stay near, by umap-learn and openTSNE.

Each works on the exact graph of nearest neighbours and starts from the principal components, so that maps of one
table are alike in their orientation (Kobak & Linderman, 2021: what a start keeps of the whole shape, a layout keeps).
Any method is a `LayOut`: rows in, one place per row out. Nothing else of a fitted model is kept, and
`landmarks` places the rows that it has not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool.kernels.maps.scaling import Scale, centre

#: With fewer rows no neighbourhood is left to keep: a perplexity of 1 takes three other rows.
LEAST_ROWS = 4
#: The standard deviation of a start of UMAP along its first axis.
UMAP_SIZE = 10.0


@dataclass(frozen=True)
class Layout:
    """How ``method`` is to lay rows out. ``n_neighbors`` counts the row itself, ``perplexity`` does not."""

    method: str
    dims: int
    n_neighbors: int
    perplexity: float
    seed: int


#: Places float32[m, dims] for float32[m, d] rows, m at least as large as the method asks for, from float[m, dims]
#: principal components. One core; the same rows in the same order and the same seed give the same places on the same
#: machine and versions, but the last digits of another processor can send a row elsewhere.
LayOut = Callable[[np.ndarray, np.ndarray, Layout], np.ndarray]


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


def prepare(rows: np.ndarray, layout: Layout) -> tuple[np.ndarray, Layout]:
    """float32[m, d] rows about their `centre` on a `Scale`, and as many neighbours and as large a perplexity as so many
    rows allow: at most m - 1, and a third of that.

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


def lay_out_by_umap(rows: np.ndarray, start: np.ndarray, layout: Layout) -> np.ndarray:
    """`LayOut` by UMAP (McInnes, Healy & Melville, 2018), of the library's own settings otherwise: min_dist is 0.1.

    Stochastic. Memory: some 50 bytes for each row and neighbour.
    """
    rows, layout = prepare(rows, layout)
    start = clear_start(start, UMAP_SIZE, layout.seed)
    with threadpool_limits(limits=1):
        return _umap(rows, start, layout.n_neighbors, layout.seed)


@cache
def _umap_learn() -> Any:
    """The library umap-learn, whose compiled loops are kept on disk from now on, as ours are.

    By itself it compiles most of them in every process anew, which takes as long as four maps of 2,000 rows.
    """
    umap, dispatcher = import_module("umap"), import_module("numba.core.dispatcher").Dispatcher
    for name in ("distances", "layouts", "umap_", "utils"):
        for loop in vars(import_module(f"umap.{name}")).values():
            # Those with types of their own are compiled, and kept, by now.
            if isinstance(loop, dispatcher) and not loop.signatures:
                loop.enable_caching()
    return umap


def _umap(rows: np.ndarray, start: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    umap, numba = _umap_learn(), import_module("numba")
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


def lay_out_by_tsne(rows: np.ndarray, start: np.ndarray, layout: Layout) -> np.ndarray:
    """`LayOut` by t-SNE (van der Maaten & Hinton, 2008).

    In two dimensions and from 10,000 rows on by FIt-SNE's interpolation; in three by the tree of Barnes and Hut alone,
    which takes several times as long. Memory: some 150 bytes for each row and unit of perplexity.
    """
    rows, layout = prepare(rows, layout)
    start = clear_start(start, 1e-4, layout.seed)
    with threadpool_limits(limits=1):
        return _tsne(rows, start, layout.perplexity, layout.seed)


def _tsne(rows: np.ndarray, start: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
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
