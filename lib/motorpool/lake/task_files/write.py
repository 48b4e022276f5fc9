"""Rows of a table written by tasks into Parquet files, which the driver then makes part of the table.

Spark's writer turns Arrow into rows and these into Parquet, number by number. Arrow writes vectors as they lie, in a
tenth of the time.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from motorpool.errors import LakeError
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.schemas import Table
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Bytes of rows that a task gathers for a row group, for all of its files together; and rows, at most.
_GROUP_BYTES, _GROUP_ROWS = 32 * 2**20, 2**20
#: Files that a task writes side by side, at most.
MOST_FILES = 256
_WRITTEN = "path STRING, value STRING, n_bytes BIGINT, n_rows BIGINT, lowest BIGINT, highest BIGINT"


@dataclass(frozen=True)
class WrittenFile:
    """A file of rows: its path inside of the table, the value of its partition, and its lowest and highest image_id."""

    path: str
    value: str
    n_bytes: int
    n_rows: int
    lowest: int
    highest: int


@contextmanager
def written(df: DataFrame, table: Table, folder: Path, values: Sequence[str]) -> Iterator[list[WrittenFile]]:
    """The rows of a DataFrame in new files under a folder, one for each task and partition, by one job.

    ``values`` are those that the table's one partition column may have. Files of tasks that failed or ran twice are
    removed, and all of them where the job or the block fails. Tasks raise LakeError for rows of other partitions, and
    where a column that is never null has nulls. Memory of a task: 32 MiB, a batch, and what Arrow makes of a row group.
    """
    (column,) = table.partition_by
    schema = _file_schema(table)
    root, allowed, write_id = str(folder.absolute()), frozenset(values), uuid.uuid4().hex

    def run(batches: Batches) -> Batches:
        files = _Files(root, table.name, column, schema, write_id)
        for batch in batches:
            for value, rows in _by_value(batch, column):
                if value not in allowed:
                    raise LakeError(f"table {table.name!r}: rows of {column} {value!r} are not among those to write")
                files.add(value, rows)
        yield pa.RecordBatch.from_pylist([vars(f) for f in files.close()], _WRITTEN_COLUMNS)

    def sweep(wanted: Collection[str]) -> None:
        for value in values:
            for file in (folder / f"{column}={value}").glob(f"*-{write_id}-*"):
                if f"{column}={value}/{file.name}" not in wanted:
                    file.unlink(missing_ok=True)

    try:
        rows = blocks.in_tasks(df, run, _WRITTEN).toArrow().to_pylist()
        sweep({row["path"] for row in rows})
        yield sorted((WrittenFile(**row) for row in rows), key=lambda f: f.path)
    except BaseException:
        sweep(())
        raise


_WRITTEN_COLUMNS = arrow_columns(_WRITTEN)


def _file_schema(table: Table) -> pa.Schema:
    """The columns of a file, without the partition's; lists without nulls are read and written in half of the time."""
    fields = []
    for known in arrow_columns(table.columns):
        if known.name in table.partition_by:
            continue
        if known.name in table.never_null:
            kind = known.type
            if pa.types.is_list(kind):
                kind = pa.list_(kind.value_field.with_nullable(False))
            known = pa.field(known.name, kind, nullable=False)
        fields.append(known)
    return pa.schema(fields)


def _by_value(batch: pa.RecordBatch, column: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each value of a column, in the order in which they lie."""
    if not len(batch):
        return
    coded = pc.dictionary_encode(batch.column(column))
    names = coded.dictionary.to_pylist()
    if len(names) == 1 and not coded.null_count:
        yield names[0], batch
        return
    codes = coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    rows = batch.take(pa.array(order))
    for i, name in enumerate([*names, None][: len(ends)]):
        start = int(ends[i - 1]) if i else 0
        yield name, rows.slice(start, int(ends[i]) - start)


@dataclass
class _File:
    """A file that is being written, and the rows that wait for its next row group."""

    path: str
    writer: pq.ParquetWriter
    waiting: list[pa.RecordBatch] = field(default_factory=list)
    n_bytes: int = 0
    n_waiting: int = 0
    n_rows: int = 0
    lowest: int = 2**63 - 1
    highest: int = -(2**63)


class _Files:
    """The files of one task, one for each partition."""

    def __init__(self, root: str, table: str, column: str, schema: pa.Schema, write_id: str) -> None:
        self._root, self._table, self._column, self._schema = root, table, column, schema
        # Tasks may be tried again, or twice at once: no name comes again.
        self._name = f"part-{blocks.task_number():05d}-{write_id}-{uuid.uuid4().hex}.zstd.parquet"
        self._files: dict[str, _File] = {}
        self._n_bytes = 0

    def add(self, value: str, rows: pa.RecordBatch) -> None:
        file = self._files.get(value) or self._open(value)
        rows = _conformed(rows, self._schema, self._table)
        ids = rows.column("image_id")
        bounds = pc.min_max(ids)
        file.lowest, file.highest = min(file.lowest, bounds["min"].as_py()), max(file.highest, bounds["max"].as_py())
        file.waiting.append(rows)
        file.n_bytes += rows.nbytes
        file.n_waiting += len(rows)
        self._n_bytes += rows.nbytes
        if file.n_waiting >= _GROUP_ROWS:
            self._flush(file)
        while self._n_bytes >= _GROUP_BYTES:
            self._flush(max(self._files.values(), key=lambda f: f.n_bytes))

    def _open(self, value: str) -> _File:
        path = f"{self._column}={value}/{self._name}"
        whole = os.path.join(self._root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        writer = pq.ParquetWriter(
            whole,
            self._schema,
            compression="zstd",
            compression_level=1,
            # A dictionary of floats is never worth its search.
            use_dictionary=[f.name for f in self._schema if not _holds_floats(f.type)],
            write_statistics=["image_id"],
        )
        self._files[value] = _File(path, writer)
        return self._files[value]

    def _flush(self, file: _File) -> None:
        if file.waiting:
            rows = pa.Table.from_batches(file.waiting, self._schema)
            file.writer.write_table(rows, row_group_size=len(rows))
            self._n_bytes -= file.n_bytes
            file.n_rows += len(rows)
            file.waiting, file.n_bytes, file.n_waiting = [], 0, 0

    def close(self) -> list[WrittenFile]:
        found = []
        for value, file in self._files.items():
            self._flush(file)
            file.writer.close()
            size = os.path.getsize(os.path.join(self._root, file.path))
            found.append(WrittenFile(file.path, value, size, file.n_rows, file.lowest, file.highest))
        return found


def _conformed(rows: pa.RecordBatch, schema: pa.Schema, table: str) -> pa.RecordBatch:
    """The columns of a file; LakeError where one that is never null has nulls."""
    columns = []
    for wanted in schema:
        column = rows.column(wanted.name)
        if not wanted.nullable:
            inner = column.flatten().null_count if pa.types.is_list(column.type) else 0
            if column.null_count or inner:
                raise LakeError(f"table {table!r}: the column {wanted.name} has nulls among the rows to write")
        columns.append(column if column.type == wanted.type else column.cast(wanted.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _holds_floats(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind))
