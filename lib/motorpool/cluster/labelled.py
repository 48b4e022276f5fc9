"""Rows with their labels in several models: what every algorithm hands to scoring and to the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: A block with what is known of its rows in every model: int32[n, models], then float32[n, models].
LABELLED_SCHEMA = f"{blocks.BLOCK_SCHEMA}, labels BINARY, distances BINARY, strengths BINARY, outliers BINARY"
#: One row per image, one array element per model.
WIDE_SCHEMA = (
    "image_id BIGINT, clusters ARRAY<INT>, distances ARRAY<FLOAT>, strengths ARRAY<FLOAT>, outliers ARRAY<FLOAT>"
)


@dataclass(frozen=True)
class LabelledBlock:
    """int64[n] ids and float32[n, d] rows; labels int32[n, models], -1 for noise; distances, strengths and
    outlier scores float32[n, models], None where the models know none and NaN where one does not."""

    ids: np.ndarray
    x: np.ndarray
    labels: np.ndarray
    distances: np.ndarray | None = None
    strengths: np.ndarray | None = None
    outliers: np.ndarray | None = None

    @property
    def facts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances, strengths and outlier scores, float32[n, models]."""
        distances, strengths, outliers = (
            np.full(self.labels.shape, np.nan, np.float32) if a is None else a
            for a in (self.distances, self.strengths, self.outliers)
        )
        return distances, strengths, outliers

    def pick(self, models: Sequence[int]) -> LabelledBlock:
        return LabelledBlock(self.ids, self.x, self.labels[:, models], *(a[:, models] for a in self.facts))


@dataclass(frozen=True)
class Labelled:
    """Labels of several models on one feature set.

    ``blocks_of`` turns a batch of ``df`` into labelled blocks: by computing labels (centroids, mixtures) or by
    reading them. ``sizes`` are the models' numbers of clusters, counted from 0 without gaps; ``origin`` float64[d]
    lies near the mean of all rows, so that sums about it keep their digits.
    """

    df: DataFrame
    blocks_of: Callable[[pa.RecordBatch], Iterator[LabelledBlock]]
    sizes: tuple[int, ...]
    origin: np.ndarray

    def pick(self, models: Sequence[int]) -> Labelled:
        """Some of the models alone."""
        blocks_of, chosen = self.blocks_of, list(models)

        def picked(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
            for block in blocks_of(batch):
                yield block.pick(chosen)

        return Labelled(self.df, picked, tuple(self.sizes[m] for m in chosen), self.origin)

    def wide(self) -> DataFrame:
        """One row per image (WIDE_SCHEMA)."""
        blocks_of = self.blocks_of

        def run(batches: Batches) -> Batches:
            for batch in batches:
                for block in blocks_of(batch):
                    n, models = block.labels.shape
                    offsets = pa.array(np.arange(0, (n + 1) * models, models, dtype=np.int32))
                    arrays = (block.labels, *block.facts)
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(block.ids), *(_lists(offsets, array) for array in arrays)],
                        names=["image_id", "clusters", "distances", "strengths", "outliers"],
                    )

        n_values = 4 * len(self.sizes) * blocks.n_held(self.df)
        return blocks.mapped(self.df, run, WIDE_SCHEMA, n_values)


def _lists(offsets: pa.Array, array: np.ndarray) -> pa.ListArray:
    flat = np.ascontiguousarray(array).reshape(-1)
    # The tables say "unknown" with a null; NaN would rank above every number.
    return pa.ListArray.from_arrays(offsets, pa.array(flat, from_pandas=flat.dtype.kind == "f"))


def packed(rows: LabelledBlock) -> Iterator[pa.RecordBatch]:
    """Any number of rows as rows of LABELLED_SCHEMA, in blocks of BLOCK_ROWS."""
    arrays = [rows.ids, rows.x, rows.labels, rows.distances, rows.strengths, rows.outliers]
    kinds = (np.int64, np.float32, np.int32, np.float32, np.float32, np.float32)
    for start in range(0, len(rows.ids), blocks.BLOCK_ROWS):
        cut = slice(start, start + blocks.BLOCK_ROWS)
        # What the models do not know takes no room.
        data = [
            pa.array([b"" if a is None else np.ascontiguousarray(a[cut], kind).tobytes()], pa.binary())
            for a, kind in zip(arrays, kinds, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(
            [*data[:2], pa.array([rows.x.shape[1]], pa.int32()), *data[2:]],
            names=["ids", "data", "width", "labels", "distances", "strengths", "outliers"],
        )


def stored_labels(df: DataFrame, sizes: Iterable[int], origin: np.ndarray) -> Labelled:
    """Labels as they lie in a DataFrame of LABELLED_SCHEMA."""

    def read(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        facts = [batch.column(name) for name in ("distances", "strengths", "outliers")]
        for row, (ids, x) in enumerate(blocks.block_arrays(batch)):
            labels = np.frombuffer(batch.column("labels")[row].as_buffer(), np.int32).reshape(len(ids), -1)
            found = [np.frombuffer(column[row].as_buffer(), np.float32) for column in facts]
            yield LabelledBlock(ids, x, labels, *(f.reshape(len(ids), -1) if len(f) else None for f in found))

    return Labelled(df, read, tuple(int(s) for s in sizes), origin)
