"""One file out of a DataFrame: rows stream through the driver in their order, a partition at a time."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from motorpool import stopping
from motorpool.errors import ConfigError
from motorpool.lake.reading import Answer, SparkAnswer
from motorpool.spark.blocks import Batches


@contextmanager
def whole_file(out: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes ``out`` where the block ends well, and leaves nothing where it does not.

    Missing folders are made. ConfigError, before any work, where it cannot become ``out``.
    """
    # Its own for each writer: two that write one file at once do not write into each other's draft.
    draft = out.with_name(f".motorpool-{uuid.uuid4().hex}.part")
    try:
        with stopping.removed_at_stop(draft), _open(draft, out) as f:
            yield f
        os.replace(draft, out)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def check_out(out: Path) -> None:
    """ConfigError where a file cannot become ``out``, as far as that can be told without writing; makes nothing."""
    there = next((p for p in out.absolute().parents if p.exists()), Path("/"))
    error = errno.EISDIR if out.is_dir() else 0 if there.is_dir() else errno.ENOTDIR
    if not error and not os.access(there, os.W_OK | os.X_OK):
        error = errno.EACCES
    if error:
        raise ConfigError(f"--out {out}: cannot be written: {os.strerror(error)}")


def _open(draft: Path, out: Path) -> BinaryIO:
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        return draft.open("xb")
    except OSError as exc:
        raise ConfigError(f"--out {out}: cannot be written: {exc.strerror or exc}") from exc


def write_answer(answer: Answer, f: BinaryIO) -> int:
    """As `write_csv`, an answer to a query. Memory: a batch of rows; with Spark one partition as text."""
    if isinstance(answer, SparkAnswer):
        return write_csv(answer.frame, f)
    return _write_csv(answer.columns, answer.batches(), f)


def write_csv_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], f: BinaryIO) -> int:
    """As `write_csv`, rows that come as Arrow's batches. Memory: a batch."""
    return _write_csv(schema.names, batches, f)


def _write_csv(columns: Sequence[str], batches: Iterable[pa.RecordBatch], f: BinaryIO) -> int:
    text = io.TextIOWrapper(f, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    n_rows = 0
    for batch in batches:
        writer.writerows(zip(*map(_values, batch.columns), strict=True))
        n_rows += len(batch)
    text.detach()
    return n_rows


def write_parquet_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], f: BinaryIO) -> int:
    """Rows that come as Arrow's batches, as one Parquet file. Returns the number of rows. Memory: a batch."""
    n_rows = 0
    with pq.ParquetWriter(f, schema) as file:
        for batch in batches:
            file.write_batch(batch)
            n_rows += len(batch)
    return n_rows


def write_csv(rows: DataFrame, f: BinaryIO) -> int:
    """All columns of ``rows`` under a header; null is an empty field. Returns the number of rows.

    Driver memory: one partition as text.
    """
    columns = rows.columns

    def run(batches: Batches) -> Batches:
        for batch in batches:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows(zip(*map(_values, batch.columns), strict=True))
            yield _piece(len(batch), text.getvalue().encode())

    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(columns)
    f.write(header.getvalue().encode())
    n_rows = 0
    for piece in numbered(rows).mapInArrow(run, _PIECE).toLocalIterator(prefetchPartitions=True):
        f.write(piece["data"])
        n_rows += piece["n"]
    return n_rows


def write_parquet(rows: DataFrame, f: BinaryIO) -> int:
    """``rows`` as one Parquet file. Returns the number of rows. Driver memory: one partition."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            stream = pa.BufferOutputStream()
            with pa.ipc.new_stream(stream, batch.schema) as writer:
                writer.write_batch(batch)
            yield _piece(len(batch), stream.getvalue().to_pybytes())

    n_rows, schema = 0, rows.limit(0).toArrow().schema
    with pq.ParquetWriter(f, schema) as file:
        for piece in numbered(rows).mapInArrow(run, _PIECE).toLocalIterator(prefetchPartitions=True):
            with pa.ipc.open_stream(piece["data"]) as reader:
                file.write_table(reader.read_all().rename_columns(schema.names).cast(schema))
            n_rows += piece["n"]
    return n_rows


def numbered(rows: DataFrame) -> DataFrame:
    """``rows`` with columns called by their place: mapInArrow takes no names with dots, which attributes may have."""
    return rows.toDF(*(f"c{at}" for at in range(len(rows.columns))))


_PIECE = "n BIGINT, data BINARY"


def _piece(n: int, data: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([n]), pa.array([data], pa.binary())], names=["n", "data"])


def _values(column: pa.Array) -> list[object]:
    """Python values; floats as the shortest text that is the same number in their own precision, and true or false."""
    as_text = pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    values: list[object] = (column.cast(pa.string()) if as_text else column).to_pylist()
    return values
