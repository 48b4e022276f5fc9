"""The k-distance curve: how far images are from their k-th neighbour, to choose eps by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.pairs.geometry import Metric, Rows, exact_gaps, prepare, to_distance, unit_of
from motorpool.kernels.sampling import RowSample
from motorpool.spark import blocks

#: Rows whose neighbours are looked for: quantiles of the curve are known to about a hundredth.
SAMPLE = 2048
#: Sampled rows in one product. Always as many, so that rounding is the same however far the lists of a search go.
_CHUNK = 64
#: Numbers that the lists of one pass hold (32 MiB): longer lists take further passes.
_HELD = 2**22
#: Lists of more numbers are merged on the cluster, so that the driver never receives them from every task.
_LARGE = 2**18
#: A mean this many times farther from the median than half of the rows is no middle of theirs.
_DRAWN = 1024.0


class _Nearest:
    """The k smallest gaps so far of every sampled row, float64[m, k] unsorted; merges exactly."""

    def __init__(self, m: int, k: int) -> None:
        self.gaps = np.full((m, k), np.inf)

    def offer(self, rows: slice, gaps: np.ndarray) -> None:
        k = self.gaps.shape[1]
        both = np.concatenate([self.gaps[rows], gaps], axis=1)
        self.gaps[rows] = np.partition(both, k - 1, axis=1)[:, :k]

    def merge(self, other: _Nearest) -> None:
        for start in range(0, len(self.gaps), _CHUNK):
            rows = slice(start, start + _CHUNK)
            self.offer(rows, other.gaps[rows])


def k_distances(block_df: DataFrame, metric: Metric, ks: Collection[int], seed: int) -> dict[int, np.ndarray]:
    """For every k the distances float64[m], ascending, of at most SAMPLE rows to their k-th nearest row of all.

    The rows are drawn by seed. Each counts as its own first neighbour, as for DBSCAN's min_samples: with eps = the q-th
    quantile, about the share q of all rows is core. A curve depends on its own k alone, whatever others are asked for.
    float32 accuracy. Infinite with fewer than k rows.

    Two passes over the blocks, up to k = 2,048; beyond that one more for every 32 MiB of the sample's lists of
    neighbours (64 rows of k float64 at least). Memory of a task: twice these lists, at most 32 MiB or 512 k bytes.
    """

    def draw(state: RowSample, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    sample = blocks.fold(block_df, lambda: RowSample(SAMPLE, seed), draw).rows()
    shift, unit = None, 1.0
    if metric == "euclidean":
        shift = _middle(sample)
        unit = unit_of(sample, shift)
    some, largest = prepare(np.arange(len(sample)), sample, metric, shift, unit), max(ks)

    def lists_of(part: Rows) -> np.ndarray:
        """The smallest gaps float64[m, largest] of some sampled rows, ascending."""
        chunks = [slice(start, start + _CHUNK) for start in range(0, len(part), _CHUNK)]

        def look(state: _Nearest, batch: pa.RecordBatch) -> None:
            for ids, x in blocks.block_arrays(batch):
                rows = prepare(ids, x, metric, shift, unit)
                for chunk in chunks:
                    state.offer(chunk, _gaps(part.take(chunk), rows, metric == "cosine"))

        large = len(part) * largest > _LARGE
        return np.sort(blocks.fold(block_df, lambda: _Nearest(len(part), largest), look, merge_on_cluster=large).gaps)

    at_once, columns = max(_CHUNK, _HELD // largest // _CHUNK * _CHUNK), [k - 1 for k in ks]
    starts = range(0, len(sample), at_once)
    lists = [lists_of(some.take(slice(start, start + at_once)))[:, columns] for start in starts]
    gaps = np.concatenate(lists) if lists else np.empty((0, len(ks)))
    return {k: np.sort(to_distance(gaps[:, i] / some.scale, metric)) for i, k in enumerate(ks)}


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
