"""A small weighted sample that stands for all rows: where KMeans starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.sampling import uniform_hash
from motorpool.spark import blocks

#: Rows of a coreset unless more are asked for, and a bound on its float32 numbers (128 MiB).
CORESET_ROWS = 32_768
CORESET_VALUES = 32 * 2**20


#: Sums of squared distances between which float32 squares neither overflow nor lose digits.
_LEAST_SQUARE, _LARGEST_TOTAL = 1e-36, 1e38


class UnfitError(ValueError):
    """Rows that an algorithm cannot take; the text says why, as a model's reason."""


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

    def check(self) -> None:
        """UnfitError where distances, squared in float32, would overflow or vanish: no row's square is above the total.

        Rows that are all equal are well.
        """
        if self.total and not (self.total <= _LARGEST_TOTAL and self.total / self.n >= _LEAST_SQUARE):
            size = "large" if self.total > 1 else "small"
            far = float(np.sqrt(self.total / self.n))
            raise UnfitError(
                f"values of its feature set are too {size} for distances in float32: images lie {far:.3g} from their "
                "mean (root mean square); add the step standard, and clip before it where a few values are far off"
            )


def measure_spread(block_df: DataFrame) -> Spread:
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


@dataclass(frozen=True)
class Draws:
    """Coresets of every size up to the one drawn for, the smaller within the larger: each depends on its size alone.

    ids int64[m] ascending, rows float32[m, d] and rates float64[m]: a row is in a coreset of s rows with probability
    min(1, s rate).
    """

    n: int
    seed: int
    ids: np.ndarray
    rows: np.ndarray
    rates: np.ndarray

    def of(self, size: int) -> Coreset:
        """The coreset of about ``size`` rows, no more than were drawn for."""
        chance = np.ones(len(self.ids)) if self.n <= size else np.minimum(1.0, size * self.rates)
        kept = uniform_hash(self.ids, self.seed) < chance
        return Coreset(self.rows if kept.all() else self.rows[kept], 1 / chance[kept])


def coreset_size(width: int, at_least: int = 1, clusters: int = 0) -> int:
    """How many rows of ``width`` numbers a coreset is drawn for: CORESET_ROWS, or ``at_least`` where that is more.

    No more than CORESET_VALUES allow; but four for each of ``clusters``, so that every cluster can start on a row.
    """
    return max(1, min(max(CORESET_ROWS, at_least), CORESET_VALUES // max(1, width)), 4 * clusters)


def draw_coreset(block_df: DataFrame, spread: Spread, seed: int, at_least: int = 1) -> Coreset:
    """One coreset (see `draw_coresets`) of `coreset_size` rows."""
    size = coreset_size(len(spread.mean), at_least)
    return draw_coresets(block_df, spread, seed, size).of(size)


def draw_coresets(block_df: DataFrame, spread: Spread, seed: int, size: int) -> Draws:
    """Lightweight coresets (Bachem, Lucic & Krause 2018, algorithm 1) up to ``size`` rows in one pass over blocks.

    Of m rows, row x is drawn with probability min(1, m q(x)), q(x) = 1/2n + |x - mean|^2 / (2 total), and weighs its
    inverse, so far-off rows, which can hold a cluster of their own, are nearly always in. Draws follow the
    image's hash: the same rows however the data are partitioned. All rows, weighing 1, when n <= m. Between half of m
    and m rows are expected.
    """
    n, total, mean = spread.n, spread.total, spread.mean.astype(np.float32)

    def add(state: _Drawn, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            far = np.square(x - mean).sum(axis=1, dtype=np.float64)
            share = far / total if total > 0 else np.full(len(ids), 1 / n)
            rates = 0.5 / n + 0.5 * share
            keep = uniform_hash(ids, seed) < (1.0 if n <= size else np.minimum(1.0, size * rates))
            state.ids.append(ids[keep])
            state.rows.append(x[keep])
            state.rates.append(rates[keep])

    drawn = blocks.fold(block_df, _Drawn, add)
    ids = np.concatenate(drawn.ids)
    order = np.argsort(ids, kind="stable")
    return Draws(n, seed, ids[order], np.concatenate(drawn.rows)[order], np.concatenate(drawn.rates)[order])


class _Drawn:
    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.rates: list[np.ndarray] = []

    def merge(self, other: _Drawn) -> None:
        self.ids += other.ids
        self.rows += other.rows
        self.rates += other.rates
