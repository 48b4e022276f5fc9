"""The k-distance curve: how far images are from their k-th neighbour, to choose eps by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks
from motorpool.neighbours.geometry import Metric, Rows, exact_gaps, prepare, to_distance, unit_of
from motorpool.sampling import RowSample

#: Rows whose neighbours are looked for: quantiles of the curve are known to about a hundredth.
SAMPLE = 2048
#: A mean this many times farther from the median than half of the rows is no middle of theirs.
_DRAWN = 1024.0


class _Nearest:
    """The k smallest gaps so far of every sampled row, float32[m, k] unsorted; merges exactly.

    float64 where one of them is beyond float32.
    """

    def __init__(self, m: int, k: int) -> None:
        self.gaps = np.full((m, k), np.inf, np.float32)

    def offer(self, gaps: np.ndarray) -> None:
        k = self.gaps.shape[1]
        # Of both types NumPy makes float64.
        both = np.concatenate([self.gaps, gaps], axis=1)
        self.gaps = np.ascontiguousarray(np.partition(both, k - 1, axis=1)[:, :k])

    def merge(self, other: _Nearest) -> None:
        self.offer(other.gaps)


def k_distances(block_df: DataFrame, metric: Metric, k: int, seed: int) -> np.ndarray:
    """Distances float64[m], ascending, of at most SAMPLE rows drawn by seed to their k-th nearest row of all.

    The row itself counts as its first neighbour, as for DBSCAN's min_samples: with eps = the q-th quantile, about
    the share q of all rows is core. Two passes over the blocks; float32 accuracy. Infinite with fewer than k rows.
    """

    def draw(state: RowSample, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    sample = blocks.fold(block_df, lambda: RowSample(SAMPLE, seed), draw).rows()
    shift, unit = None, 1.0
    if metric == "euclidean":
        shift = _middle(sample)
        unit = unit_of(sample, shift)
    some = prepare(np.arange(len(sample)), sample, metric, shift, unit)

    def look(state: _Nearest, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.offer(_gaps(some, prepare(ids, x, metric, shift, unit), metric == "cosine"))

    nearest = blocks.fold(block_df, lambda: _Nearest(len(sample), k), look)
    return np.sort(to_distance(nearest.gaps.max(axis=1).astype(np.float64) / some.scale, metric))


def _middle(sample: np.ndarray) -> np.ndarray:
    """The mean float64[d] of float32[m, d] rows, or their median where a few rows have drawn the mean far away.

    About such a mean the others would be equal in float32.
    """
    mean: np.ndarray = sample.mean(axis=0, dtype=np.float64)
    median: np.ndarray = np.median(sample.astype(np.float64), axis=0)
    spread = float(np.median(np.abs(sample - median).max(axis=1)))
    away = float(np.abs(mean - median).max())
    return median if away > _DRAWN * spread > 0 else mean


def _gaps(some: Rows, rows: Rows, cosine: bool) -> np.ndarray:
    """float32[m, n] gaps in the unit of products; float64 where rows are too large for these."""
    gaps: np.ndarray = np.maximum(some.half[:, None] + rows.half - some.x @ rows.x.T, np.float32(0))
    without = np.flatnonzero(np.isnan(some.half)), np.flatnonzero(np.isnan(rows.half))
    if len(without[0]) or len(without[1]):
        gaps = gaps.astype(np.float64)
        for i in without[0]:
            own = np.full(len(rows), i)
            gaps[i] = some.scale * exact_gaps(some.raw, rows.raw, own, np.arange(len(rows)), cosine)
        for j in without[1]:
            own = np.full(len(some), j)
            gaps[:, j] = some.scale * exact_gaps(some.raw, rows.raw, np.arange(len(some)), own, cosine)
    return gaps


@dataclass(frozen=True)
class Curve:
    """Quantiles float64[101] of the k-distances, and the position of the knee among them."""

    k: int
    distances: np.ndarray
    knee: int


def curve_of(distances: np.ndarray, k: int) -> Curve:
    """The curve in hundredths. Its knee is the point farthest below the line between its ends (Satopää et al. 2011)."""
    quantiles = np.quantile(distances, np.linspace(0, 1, 101))
    span = quantiles[-1] - quantiles[0]
    height = (quantiles - quantiles[0]) / span if span > 0 else np.zeros(101)
    return Curve(k, quantiles, int(np.argmax(np.linspace(0, 1, 101) - height)))
