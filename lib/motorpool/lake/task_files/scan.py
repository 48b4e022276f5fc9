"""Vectors of a table read by tasks from its Parquet files.

Spark reads vectors into its rows and turns these into Arrow for Python. Arrow reads them from the file as they are, in
less than half of the time, and what follows goes on in the same process (`motorpool.spark.blocks.in_tasks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from motorpool.spark import blocks
from motorpool.spark.tasks import one_each

#: Bytes that one task reads, before they were compressed, at most (a row group at least), and at least where there are
#: more: as Spark shares files among tasks.
_MOST_BYTES, _LEAST_BYTES = 128 * 2**20, 4 * 2**20
#: Bytes of an Arrow batch, at most (a row at least).
_BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file: ``n_bytes`` before they were compressed; ``first`` is its lowest image_id where known."""

    path: str
    index: int
    n_rows: int
    n_bytes: int
    first: int


def row_groups(data: ds.Dataset, folder: Path, condition: pc.Expression | None) -> list[RowGroup]:
    """The row groups of a dataset in a folder, of those files that may have rows of a condition, by their images.

    Reads the footer of each file. Their order is the same for the same rows, whatever the files are called.
    """
    found = []
    for fragment in data.get_fragments(filter=condition):
        fragment.ensure_complete_metadata()
        metadata, path = fragment.metadata, str(folder.absolute() / fragment.path)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            found.append(RowGroup(path, index, group.num_rows, group.total_byte_size, _first(group)))
    return sorted(found, key=lambda g: (g.first, g.path, g.index))


def _first(group: pq.RowGroupMetaData) -> int:
    for column in range(group.num_columns):
        chunk = group.column(column)
        if chunk.path_in_schema == "image_id" and chunk.statistics is not None and chunk.statistics.has_min_max:
            return int(chunk.statistics.min)
    return -1


def scan(spark: SparkSession, groups: Sequence[RowGroup], name: str = "vector", below: int | None = None) -> DataFrame:
    """``image_id BIGINT`` and the files' ``vector ARRAY<FLOAT>``, in a column of a ``name``, of row groups.

    With ``below`` only those of images with lower ids. Memory of a task: a batch, of at most 64 MiB or one row.
    """
    shares = _shares(groups, blocks.parallelism(spark))
    columns = ["image_id", "vector"]

    def read(share: Sequence[RowGroup]) -> Iterator[pa.RecordBatch]:
        for path, some in groupby(share, key=lambda g: g.path):
            mine = list(some)
            width = max(1, sum(g.n_bytes for g in mine) // max(1, sum(g.n_rows for g in mine)))
            rows = max(1, min(blocks.BLOCK_ROWS, _BATCH_BYTES // width))
            with pq.ParquetFile(path) as file:
                chosen = [g.index for g in mine]
                for batch in file.iter_batches(rows, row_groups=chosen, columns=columns, use_threads=False):
                    kept = batch if below is None else batch.filter(pc.less(batch.column("image_id"), below))
                    if len(kept):
                        found = [kept.column(column) for column in columns]
                        yield pa.RecordBatch.from_arrays(found, names=["image_id", name])

    return one_each(spark, shares, read, f"image_id BIGINT, `{name}` ARRAY<FLOAT>")


def _shares(groups: Sequence[RowGroup], parallelism: int) -> list[list[RowGroup]]:
    """Row groups for tasks: those of each lie together, and none has much more to read than another."""
    total = sum(g.n_bytes for g in groups)
    most = min(_MOST_BYTES, max(_LEAST_BYTES, -(-total // parallelism)))
    shares: list[list[RowGroup]] = []
    size = most
    for group in groups:
        if size + group.n_bytes > most:
            shares.append([])
            size = 0
        shares[-1].append(group)
        size += group.n_bytes
    return shares
