"""The passes over blocks that fit Gaussian mixtures; each serves all models at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.centroids.gaussians import CovarianceType, Density, Sums, responsibilities
from motorpool.kernels.centroids.nearest import NearestCentroids
from motorpool.spark import blocks

#: Larger states are merged on the cluster, so that the driver never receives one from every task.
_LARGE_STATE = 64 * 2**20


class ModelSums:
    """What an EM pass adds up: log_likelihood float64[models], summed over rows, and each model's sums.

    The sums are None for models that are only scored.
    """

    def __init__(self, sums: list[Sums | None]) -> None:
        self.log_likelihood = np.zeros(len(sums))
        self.sums = sums

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.sums if s is not None)

    def merge(self, other: ModelSums) -> None:
        self.log_likelihood += other.log_likelihood
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            if mine is not None and theirs is not None:
                mine.merge(theirs)


def em_pass(block_df: DataFrame, densities: Sequence[Density], moving: Sequence[bool], mean: np.ndarray) -> ModelSums:
    """The E-step of every density, and the sums for the M-step of those that still move.

    Densities are about ``mean``, float64[d]. Memory of a task: its sums, and three float64 copies of a block.
    """
    needs_squares = any(d.needs_squares for d in densities)

    def begin() -> ModelSums:
        return ModelSums(
            [Sums(d.covariance_type, d.means) if m else None for d, m in zip(densities, moving, strict=True)]
        )

    def add(state: ModelSums, batch: pa.RecordBatch) -> None:
        for x in _centred(batch, mean):
            squares = np.square(x) if needs_squares else None
            for i, (density, sums) in enumerate(zip(densities, state.sums, strict=True)):
                share, log_density = responsibilities(density.log_joint(x, squares))
                state.log_likelihood[i] += log_density.sum()
                if sums is not None:
                    sums.add(x, squares, share)

    return blocks.fold(block_df, begin, add, merge_on_cluster=begin().nbytes > _LARGE_STATE)


def assignment_pass(
    block_df: DataFrame,
    clusterings: Sequence[np.ndarray],
    models: Sequence[tuple[int, CovarianceType]],
    mean: np.ndarray,
) -> list[Sums]:
    """The sums of an M-step where every row belongs to its nearest centroid alone.

    ``clusterings`` are float32[k_i, d] centroids; each model names one of them by its index.
    """
    centred = [c - mean for c in clusterings]
    nearest = NearestCentroids(centred)

    def begin() -> ModelSums:
        return ModelSums([Sums(kind, centred[index]) for index, kind in models])

    def add(state: ModelSums, batch: pa.RecordBatch) -> None:
        for x in _centred(batch, mean):
            labels = nearest.label(x)[0]
            shares = [np.equal.outer(labels[:, i], np.arange(len(c))).astype(float) for i, c in enumerate(centred)]
            squares = np.square(x)
            for (index, _), sums in zip(models, state.sums, strict=True):
                if sums is not None:
                    sums.add(x, squares, shares[index])

    state = blocks.fold(block_df, begin, add, merge_on_cluster=begin().nbytes > _LARGE_STATE)
    return [s for s in state.sums if s is not None]


def total_scatter(block_df: DataFrame, mean: np.ndarray) -> np.ndarray:
    """float64[d, d] scatter of all rows about ``mean``: what tied covariances are made of."""
    width = len(mean)

    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        for x in _centred(batch, mean):
            state.total += x.T @ x

    large = 8 * width * width > _LARGE_STATE
    return blocks.fold(block_df, lambda: blocks.Tally(np.zeros((width, width))), add, merge_on_cluster=large).total


def _centred(batch: pa.RecordBatch, mean: np.ndarray) -> Iterator[np.ndarray]:
    """The blocks of a batch as float64[n, d] about ``mean``."""
    for _, x in blocks.block_arrays(batch):
        yield x - mean
