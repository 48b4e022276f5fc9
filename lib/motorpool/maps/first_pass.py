"""The one pass over a table's vectors that its maps are fitted from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.maps.landmarks import Rows
from motorpool.kernels.moments import Moments, Stats
from motorpool.kernels.sampling import RowSample
from motorpool.spark import blocks

#: A bound on the float32 numbers of a sample (128 MiB): of wide rows it takes fewer.
SAMPLE_VALUES = 32 * 2**20


@dataclass(frozen=True)
class FirstPass:
    """The moments of all rows, a sample to lay out, and another, drawn on its own, to judge maps by."""

    stats: Stats
    sample: Rows
    judged: Rows


def first_pass(block_df: DataFrame, size: int, n_judged: int, seed: int) -> FirstPass:
    """One pass over blocks. Samples are uniform, by the hash of the image's id, so the same on any partitions.

    Each is all rows where there are no more than its size; of rows wider than SAMPLE_VALUES / size it takes fewer.
    Memory of a task, and of the driver: each sample up to three times, and two d x d float64 matrices. Raises
    ValueError where there are no rows.
    """
    values = SAMPLE_VALUES

    def add(state: _State, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    found = blocks.fold(block_df, lambda: _State((size, n_judged), values, seed), add, merge_on_cluster=True)
    if not found.moments.n:
        raise ValueError("there are no rows to make a map of")
    sample, judged = (Rows(*drawn.by_id()) for drawn in found.samples)
    return FirstPass(found.moments.stats(), sample, judged)


def draw_again(block_df: DataFrame, size: int, seed: int) -> Rows:
    """The sample that `first_pass` has laid out, of the same rows with the same size and seed, in one pass.

    Memory of a task, and of the driver: the sample up to three times.
    """
    values = SAMPLE_VALUES

    def add(sample: RowSample, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            sample.update(ids, x)

    return Rows(*blocks.fold(block_df, lambda: RowSample(size, seed, values), add, merge_on_cluster=True).by_id())


class _State:
    def __init__(self, sizes: tuple[int, ...], values: int, seed: int) -> None:
        self.moments = Moments()
        self.samples = [RowSample(size, seed + i, values) for i, size in enumerate(sizes)]

    def update(self, ids: np.ndarray, x: np.ndarray) -> None:
        self.moments.update(x)
        for sample in self.samples:
            sample.update(ids, x)

    def merge(self, other: _State) -> None:
        self.moments.merge(other.moments)
        for mine, theirs in zip(self.samples, other.samples, strict=True):
            mine.merge(theirs)
