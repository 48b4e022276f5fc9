"""The one pass over a table's vectors that its maps are fitted from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks
from motorpool.features.moments import Moments, Stats
from motorpool.sampling import RowSample

#: A bound on the float32 numbers of a sample (128 MiB): of wide rows it takes fewer.
SAMPLE_VALUES = 32 * 2**20


@dataclass(frozen=True)
class Rows:
    """Some rows of a table: ``ids`` int64[m], ascending, and ``x`` float32[m, d]."""

    ids: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Look:
    """The moments of all rows, a sample to lay out, and another, drawn on its own, to judge maps by."""

    stats: Stats
    sample: Rows
    judged: Rows


def look(block_df: DataFrame, size: int, n_judged: int, seed: int) -> Look:
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
    if not found.samples:
        raise ValueError("there are no rows to make a map of")
    sample, judged = (_in_order(drawn) for drawn in found.samples)
    return Look(found.moments.stats(), sample, judged)


class _State:
    def __init__(self, sizes: tuple[int, ...], values: int, seed: int) -> None:
        self.sizes, self.values, self.seed = sizes, values, seed
        self.moments = Moments()
        self.samples: list[RowSample] = []

    def update(self, ids: np.ndarray, x: np.ndarray) -> None:
        if not self.samples:
            # Only the rows themselves tell how wide they are.
            most = max(1, self.values // max(1, x.shape[1]))
            self.samples = [RowSample(min(size, most), self.seed + i) for i, size in enumerate(self.sizes)]
        self.moments.update(x)
        # The sample's own order is that of the hashes; with its id beside it a row finds its place again.
        rows = np.empty(len(ids), np.dtype([("id", np.int64), ("x", np.float32, (x.shape[1],))]))
        rows["id"], rows["x"] = ids, x
        for sample in self.samples:
            sample.update(ids, rows)

    def merge(self, other: _State) -> None:
        self.moments.merge(other.moments)
        if not self.samples:
            self.samples = other.samples
            return
        for mine, theirs in zip(self.samples, other.samples, strict=False):
            mine.merge(theirs)


def _in_order(drawn: RowSample) -> Rows:
    rows = drawn.rows()
    rows = rows[np.argsort(rows["id"], kind="stable")]
    return Rows(np.ascontiguousarray(rows["id"]), np.ascontiguousarray(rows["x"]))
