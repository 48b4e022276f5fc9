"""KMeans for a whole grid of k in shared passes over blocks."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from motorpool.backend.protocol import CPU, Backend
from motorpool.kernels.centroids.lloyd import LloydSums
from motorpool.spark import blocks
from motorpool.spark.coreset import Draws, Spread, coreset_size, draw_coresets, measure_spread
from motorpool.spark.estimators import Estimators, fit_centroids
from motorpool.spark.tasks import run_tasks

log = logging.getLogger(__name__)

#: A cluster still has this many rows of the coreset to be found by.
_CORESET_ROWS_PER_CLUSTER = 128


@dataclass
class KMeansModel:
    """Centroids float32[k, d] of one k, the best of its starts.

    ``inertia`` is that of the last full pass with its rows and the centroids moved to their means: what the
    next assignment could still win is left out. ``converged`` is False when ``max_iter`` passes ended the search.
    """

    k: int
    centroids: np.ndarray
    inertia: float
    n_iter: int | None
    converged: bool
    seconds: float


@dataclass
class _Run:
    """One start of one k on its way down."""

    k: int
    start: int
    centroids: np.ndarray
    inertia: float = np.inf
    n_iter: int = 0
    active: bool = True
    converged: bool = False
    seconds: float = 0.0


def fit_kmeans(
    block_df: DataFrame,
    ks: Sequence[int],
    *,
    seed: int,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> list[KMeansModel]:
    """KMeans for every k in ``ks`` (each at most the number of rows), each from ``n_init`` starts.

    Every start is scikit-learn's k-means++ and Lloyd on a weighted coreset (32,768 rows, or 128 for each of its k
    clusters where that is more: one draw serves all k, and each takes the part of its own size). Then Lloyd's
    iterations run over all rows, one pass for the centroids of all runs together: one float32 matrix product per
    block. A run leaves the sweep when moving its centroids wins less than the share ``tol`` of its inertia, which is
    known without another pass: on wide descriptors the tail below 1e-4 takes most of the passes and wins about a
    thousandth. Empty clusters get the rows farthest from their centroids.
    The model of a k depends on the seed and the rows' ids; on the partitions, and on the other k that share its
    passes, only through the order of floating-point sums. The passes over all rows run on ``backend``, the starts on
    the CPU.

    Driver memory: the coreset (at most 128 MiB, or four rows for each cluster) and the centroids of all runs.
    UnfitError as `Spread.check` raises it.
    """
    spread = measure_spread(block_df)
    too_large = [k for k in ks if k > spread.n]
    if too_large:
        raise ValueError(f"k = {too_large[0]} asks for more clusters than there are rows ({spread.n})")
    spread.check()
    sizes = {k: coreset_size(len(spread.mean), _CORESET_ROWS_PER_CLUSTER * k, k) for k in ks}
    draws = draw_coresets(block_df, spread, seed, max(sizes.values()))
    runs = _starts(block_df.sparkSession, draws, spread, sizes, n_init, seed)
    progress(f"{len(runs)} starts on {len(draws.rows):,} of {spread.n:,} rows")
    for iteration in range(max_iter):
        active = [r for r in runs if r.active]
        if not active:
            break
        began = time.monotonic()
        state = _lloyd_pass(block_df, active, spread, backend)
        _move(active, state, tol)
        for run in active:
            run.seconds += (time.monotonic() - began) / len(active)
        progress(f"pass {iteration + 1}: {sum(r.active for r in runs)} of {len(runs)} runs still moving")
    return [_best([r for r in runs if r.k == k], spread) for k in ks]


def fit_kmeans_by(
    library: Estimators,
    block_df: DataFrame,
    ks: Sequence[int],
    *,
    seed: int,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> list[KMeansModel]:
    """`fit_kmeans` by another library's Spark estimator (`fit_centroids` has its memory, and what ``tol`` means).

    The library fits every start of every k by itself; one more pass over all rows on ``backend`` finds their inertia,
    and the best start of each k is kept. How many iterations a fit took, and whether it has settled, spark-rapids-ml
    does not say: ``n_iter`` is None, and ``converged`` true. Two runs need not give the same last digits, or, from
    k-means||, the same optimum: starts depend on the partitions of the rows.
    """
    spread = measure_spread(block_df)
    spread.check()
    wanted = [(k, start) for k in ks for start in range(n_init)]
    seeds = [int(np.random.SeedSequence([seed, *one]).generate_state(1)[0]) for one in wanted]
    progress(f"{library.name} fits {len(wanted)} starts on {spread.n:,} rows")
    began = time.monotonic()
    asked = [(k, state) for (k, _), state in zip(wanted, seeds, strict=True)]
    found = fit_centroids(library, blocks.spread_out(block_df), asked, max_iter, tol)
    seconds = (time.monotonic() - began) / len(wanted)
    runs = [
        _Run(k, start, centroids - spread.mean, converged=True, seconds=seconds)
        for (k, start), centroids in zip(wanted, found, strict=True)
    ]
    for run, inertia in zip(runs, _lloyd_pass(block_df, runs, spread, backend).inertia, strict=True):
        run.inertia = float(inertia)
    return [replace(_best([r for r in runs if r.k == k], spread), n_iter=None) for k in ks]


def _starts(
    spark: SparkSession, draws: Draws, spread: Spread, sizes: Mapping[int, int], n_init: int, seed: int
) -> list[_Run]:
    """k-means++ and Lloyd on the coreset of its k's size for every run, as Spark tasks of one core each.

    A task holds the coreset once or twice more, and scikit-learn's working memory for it.
    """
    # Centred on the mean of all rows: float32 distances lose nothing to a far-off origin.
    centred = replace(draws, rows=draws.rows - spread.mean.astype(np.float32))
    runs = [(k, start) for k in sizes for start in range(n_init)]

    def run(index: int) -> _Run:
        k, start = runs[index]
        began = time.monotonic()
        state = int(np.random.SeedSequence([seed, k, start]).generate_state(1)[0])
        coreset = centred.of(sizes[k])
        centroids = _fit_coreset(coreset.rows, coreset.weights, k, state)
        return _Run(k, start, centroids, seconds=time.monotonic() - began)

    # Some 20 rounds of every start.
    products = 20.0 * n_init * sum(sizes) * draws.rows.size
    return run_tasks(spark, [k for k, _ in runs], run, n_products=products, imports=("sklearn.cluster",))


def _fit_coreset(rows: np.ndarray, weights: np.ndarray, k: int, state: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(rows) <= k:
        # Fewer only by a most unlucky draw: the full passes put rows far from their centroids where two are equal.
        return np.resize(rows, (k, rows.shape[1])).astype(np.float64)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the full passes find out and the model's status says it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Settling here is cheap; every pass that a rough start costs later is not.
        model = KMeans(k, n_init=1, random_state=state, tol=1e-5).fit(rows, sample_weight=weights)
    result: np.ndarray = model.cluster_centers_.astype(np.float64)
    return result


def _best(runs: list[_Run], spread: Spread) -> KMeansModel:
    best = min(runs, key=lambda r: (r.inertia, r.start))
    centroids = (best.centroids + spread.mean).astype(np.float32)
    seconds = sum(r.seconds for r in runs)
    return KMeansModel(best.k, centroids, best.inertia, best.n_iter, best.converged, seconds)


def _lloyd_pass(block_df: DataFrame, runs: Sequence[_Run], spread: Spread, backend: Backend) -> LloydSums:
    """Assign every row to its nearest centroid of every run, and sum the rows by centroid."""
    lloyd = backend.lloyd([r.centroids for r in runs], spread.mean)

    def add(state: LloydSums, batch: pa.RecordBatch) -> None:
        for ids, raw in blocks.block_arrays(batch):
            lloyd.add(state, ids, raw)

    return blocks.fold(block_df, lloyd.start, add)


def _move(runs: Sequence[_Run], state: LloydSums, tol: float) -> None:
    """Move centroids to the means of their rows, re-seed empty ones, and retire runs that have settled."""
    at = 0
    for index, run in enumerate(runs):
        sums, counts = state.sums[at : at + run.k], state.counts[at : at + run.k]
        at += run.k
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], run.centroids)
        spare = [row for _, _, row in state.far[index]]
        empty = np.flatnonzero(counts == 0)
        for cluster, row in zip(empty, spare, strict=False):
            moved[cluster] = row
        before = float(state.inertia[index])
        # Rows that keep their cluster are nearer to its new mean by |move|^2 on average (Huygens).
        won = float(counts @ np.square(moved - run.centroids).sum(axis=1))
        gained = won / before if before > 0 else 0.0
        run.centroids, run.inertia, run.n_iter = moved, max(before - won, 0.0), run.n_iter + 1
        # With as few distinct rows as clusters nothing is left to re-seed with: `spare` is empty.
        if gained <= tol and not (len(empty) and spare):
            run.active, run.converged = False, True
