"""Rows with their labels in several models: what every algorithm hands to scoring and to the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks
from motorpool.blocks import Batches

#: A block with what is known of its rows in every model: int32, float32, float32[n, models].
LABELLED_SCHEMA = f"{blocks.BLOCK_SCHEMA}, labels BINARY, distances BINARY, strengths BINARY"
#: One row per image, one array element per model.
WIDE_SCHEMA = "image_id BIGINT, clusters ARRAY<INT>, distances ARRAY<FLOAT>, strengths ARRAY<FLOAT>"


@dataclass(frozen=True)
class LabelledBlock:
    """int64[n] ids and float32[n, d] rows; labels int32[n, models], -1 for noise; distances and strengths
    float32[n, models], NaN where a model knows none."""

    ids: np.ndarray
    x: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    strengths: np.ndarray


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
            for b in blocks_of(batch):
                yield LabelledBlock(b.ids, b.x, b.labels[:, chosen], b.distances[:, chosen], b.strengths[:, chosen])

        return Labelled(self.df, picked, tuple(self.sizes[m] for m in chosen), self.origin)

    def wide(self) -> DataFrame:
        """One row per image (WIDE_SCHEMA)."""
        blocks_of = self.blocks_of

        def run(batches: Batches) -> Batches:
            for batch in batches:
                for block in blocks_of(batch):
                    n, models = block.labels.shape
                    offsets = pa.array(np.arange(0, (n + 1) * models, models, dtype=np.int32))
                    arrays = (block.labels, block.distances, block.strengths)
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(block.ids), *(_lists(offsets, array) for array in arrays)],
                        names=["image_id", "clusters", "distances", "strengths"],
                    )

        return self.df.mapInArrow(run, WIDE_SCHEMA)


def _lists(offsets: pa.Array, array: np.ndarray) -> pa.ListArray:
    flat = np.ascontiguousarray(array).reshape(-1)
    # The tables say "unknown" with a null; NaN would rank above every number.
    return pa.ListArray.from_arrays(offsets, pa.array(flat, from_pandas=flat.dtype.kind == "f"))


def pack_labelled(
    ids: np.ndarray, x: np.ndarray, labels: np.ndarray, distances: np.ndarray, strengths: np.ndarray
) -> pa.RecordBatch:
    """One row of LABELLED_SCHEMA."""
    arrays = [
        (ids, np.int64), (x, np.float32), (labels, np.int32), (distances, np.float32), (strengths, np.float32)
    ]  # fmt: skip
    packed = [pa.array([np.ascontiguousarray(a, dtype).tobytes()], pa.binary()) for a, dtype in arrays]
    return pa.RecordBatch.from_arrays(
        [packed[0], packed[1], pa.array([x.shape[1]], pa.int32()), *packed[2:]],
        names=["ids", "data", "width", "labels", "distances", "strengths"],
    )


def stored_labels(df: DataFrame, sizes: Iterable[int], origin: np.ndarray) -> Labelled:
    """Labels as they lie in a DataFrame of LABELLED_SCHEMA."""

    def read(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        columns = [batch.column(name) for name in ("labels", "distances", "strengths")]
        for row, (ids, x) in enumerate(blocks.block_arrays(batch)):
            labels, distances, strengths = (
                np.frombuffer(column[row].as_buffer(), dtype).reshape(len(ids), -1)
                for column, dtype in zip(columns, (np.int32, np.float32, np.float32), strict=True)
            )
            yield LabelledBlock(ids, x, labels, distances, strengths)

    return Labelled(df, read, tuple(int(s) for s in sizes), origin)
