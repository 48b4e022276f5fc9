"""A small weighted sample that stands for all rows: where KMeans starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks
from motorpool.sampling import uniform_hash

#: Rows of a coreset unless more are asked for, and a bound on its float32 numbers (128 MiB).
CORESET_ROWS = 32_768
CORESET_VALUES = 32 * 2**20


class Spread:
    """Count, mean float64[d] and total squared distance to it of all rows; merges exactly (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def update(self, x: np.ndarray) -> None:
        block = Spread()
        block.n = len(x)
        block.mean = x.mean(axis=0, dtype=np.float64)
        block.squares = np.square(x - block.mean).sum(axis=0)
        self.merge(block)

    def merge(self, other: Spread) -> None:
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self.mean, self.squares = other.n, other.mean, other.squares
            return
        n = self.n + other.n
        delta = other.mean - self.mean
        self.squares = self.squares + other.squares + delta**2 * (self.n * other.n / n)
        self.mean = self.mean + delta * (other.n / n)
        self.n = n

    @property
    def total(self) -> float:
        """Sum over all rows of the squared distance to the mean."""
        return float(self.squares.sum())


def spread(block_df: DataFrame) -> Spread:
    """One pass over blocks."""

    def add(state: Spread, batch: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(batch):
            state.update(x)

    return blocks.fold(block_df, Spread, add)


@dataclass
class Coreset:
    """float32[m, d] rows with float64[m] weights; the weighted rows stand for all n."""

    rows: np.ndarray
    weights: np.ndarray


class _Drawn:
    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []

    def merge(self, other: _Drawn) -> None:
        self.ids += other.ids
        self.rows += other.rows
        self.weights += other.weights


def draw_coreset(block_df: DataFrame, known: Spread, seed: int, at_least: int = 1) -> Coreset:
    """A lightweight coreset (Bachem, Lucic & Krause 2018, algorithm 1) in one pass over blocks.

    Row x is drawn with probability min(1, m q(x)), q(x) = 1/2n + |x - mean|^2 / (2 total), and weighs its
    inverse, so far-off rows, which can hold a cluster of their own, are nearly always in. Draws follow the
    image's hash: the same rows however the data are partitioned. All rows, weighing 1, when n <= m.
    """
    width = max(1, len(known.mean))
    size = max(1, min(max(CORESET_ROWS, at_least), CORESET_VALUES // width))
    n, total, mean = known.n, known.total, known.mean.astype(np.float32)

    def add(state: _Drawn, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            if n <= size:
                chance = np.ones(len(ids))
            else:
                far = np.square(x - mean).sum(axis=1, dtype=np.float64)
                share = far / total if total > 0 else np.full(len(ids), 1 / n)
                chance = np.minimum(1.0, size * (0.5 / n + 0.5 * share))
            keep = uniform_hash(ids, seed) < chance
            state.ids.append(ids[keep])
            state.rows.append(x[keep])
            state.weights.append(1 / chance[keep])

    drawn = blocks.fold(block_df, _Drawn, add)
    order = np.argsort(np.concatenate(drawn.ids), kind="stable")
    return Coreset(np.concatenate(drawn.rows)[order], np.concatenate(drawn.weights)[order])
