"""Mini-batch k-means for a whole grid of k: one pass over the blocks, whatever the number of rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.sampling import RowSample
from motorpool.spark import blocks
from motorpool.spark.coreset import Spread
from motorpool.spark.tasks import run_tasks

#: Batches that a sample holds, and a bound on its float32 numbers (128 MiB).
_SAMPLE_BATCHES = 64
_SAMPLE_VALUES = 32 * 2**20
#: Rows of the sample for each cluster: a mean of so many is off by a hundredth of its variance.
_ROWS_PER_CLUSTER = 128
#: Of wide rows a sample takes fewer, but this many for each cluster.
_FEWEST_PER_CLUSTER = 4


@dataclass(frozen=True)
class MiniBatchModel:
    """Centroids float32[k, d] of one k.

    ``inertia`` is that of the sample, scaled up to all n rows: exact up to rounding where the sample is all rows.
    ``n_steps`` counts batches; ``converged`` is False when ``max_iter`` ended the search.
    """

    k: int
    centroids: np.ndarray
    inertia: float
    n_steps: int
    converged: bool
    sample_rows: int
    seconds: float


class _Drawn:
    """The number of rows and a uniform sample of them: ``size`` rows, or fewer of wide ones (`RowSample`)."""

    def __init__(self, size: int, values: int, seed: int, at_least: int) -> None:
        self.n = 0
        self.sample = RowSample(size, seed, values, at_least)

    def update(self, ids: np.ndarray, x: np.ndarray) -> None:
        self.n += len(ids)
        self.sample.update(ids, x)

    def merge(self, other: _Drawn) -> None:
        self.n += other.n
        self.sample.merge(other.sample)


def fit_minibatch_kmeans(
    block_df: DataFrame,
    ks: Sequence[int],
    *,
    seed: int,
    batch_size: int = 1024,
    n_init: int = 1,
    max_iter: int = 100,
    max_no_improvement: int = 10,
    progress: Callable[[str], None] = lambda text: None,
) -> list[MiniBatchModel]:
    """Mini-batch k-means (Sculley 2010, Web-scale k-means clustering) for every k in ``ks``.

    Approximate in two ways. Its batches are not drawn from all rows, each in a pass of its own, but from a uniform
    sample of 64 batches (128 rows for each of its k clusters where that is more; of wide rows fewer, 2^25 numbers or
    four rows for each cluster). One pass over the blocks takes it by the hash of the image's id for the largest k, and
    the others are its beginning. And a step moves the centroids by one batch alone.
    On the sample this is scikit-learn's MiniBatchKMeans, with its k-means++ on three batches (the best of
    ``n_init``), its re-seeding of small clusters and its stopping rule: ``max_no_improvement`` batches in a row
    that do not lower the smoothed inertia, or ``max_iter`` times the sample. So with no more rows than the sample
    holds it is that of all rows. The result is the same on any partitions and beside any other k.

    Memory: of a task of the pass, and of the driver, two or three times the sample (at most 128 MiB, or four rows for
    each cluster; 64 batches of 1,024 rows of 100 numbers: 25 MiB); then every k is one Spark task that holds the
    sample three times.

    Raises ValueError for a k that is not 1 to the number of rows, UnfitError as `Spread.check` does.
    """
    for name, value in (("batch_size", batch_size), ("n_init", n_init), ("max_iter", max_iter)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    if not ks or min(ks) < 1:
        raise ValueError(f"k = {list(ks)}: expected one number or more, each at least 1")
    sizes = {k: max(_SAMPLE_BATCHES * batch_size, _ROWS_PER_CLUSTER * k) for k in ks}
    drawn = _draw(block_df, max(sizes.values()), seed, _FEWEST_PER_CLUSTER * max(ks))
    rows = drawn.sample.rows()
    if max(ks) > drawn.n:
        raise ValueError(f"k = {max(ks)} asks for more clusters than there are rows ({drawn.n})")
    spread = Spread()
    for start in range(0, len(rows), blocks.BLOCK_ROWS):
        spread.update(rows[start : start + blocks.BLOCK_ROWS])
    spread.check()
    at_most = _SAMPLE_VALUES // max(1, rows.shape[1])
    # Rows are in the order of their hashes, so the sample of a smaller k comes first in that of a larger one.
    sizes = {k: max(min(size, at_most), _FEWEST_PER_CLUSTER * k) for k, size in sizes.items()}
    progress(f"{len(ks)} models on a sample of {len(rows):,} of {drawn.n:,} rows")
    n = drawn.n

    def fit(index: int) -> MiniBatchModel:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.exceptions import ConvergenceWarning

        began, k = time.monotonic(), ks[index]
        sample = rows[: sizes[k]]
        mean = sample.mean(axis=0, dtype=np.float64)
        # Centred: float32 distances lose nothing to a far-off origin.
        centred = np.subtract(sample, mean, out=np.empty_like(sample), casting="unsafe")
        model = MiniBatchKMeans(
            k,
            batch_size=batch_size,
            n_init=n_init,
            max_iter=max_iter,
            max_no_improvement=max_no_improvement,
            random_state=int(np.random.SeedSequence([seed, k]).generate_state(1)[0]),
        )
        with warnings.catch_warnings():
            # Fewer distinct rows than clusters: some centroids are equal, and the model's sizes say it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(centred)
        return MiniBatchModel(
            k,
            centroids=(model.cluster_centers_ + mean).astype(np.float32),
            inertia=float(model.inertia_) * n / len(centred),
            n_steps=model.n_steps_,
            converged=model.n_steps_ < max_iter * len(centred) // min(batch_size, len(centred)),
            sample_rows=len(centred),
            seconds=time.monotonic() - began,
        )

    return run_tasks(block_df.sparkSession, ks, fit)


def _draw(block_df: DataFrame, size: int, seed: int, at_least: int) -> _Drawn:
    values = _SAMPLE_VALUES

    def add(state: _Drawn, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    # A state is up to twice the sample: merged on the cluster, the driver sees a single one.
    return blocks.fold(block_df, lambda: _Drawn(size, values, seed, at_least), add, merge_on_cluster=True)
