"""The case's CSV files as DataFrames: read by one task in order, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pa_csv
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.errors import CaseError
from motorpool.spark.blocks import Batches
from motorpool.texts import encoding_of

#: Column names that Delta takes as they are, in every engine.
_COLUMN = re.compile(r"[^ ,;{}()\n\t=`]+")


#: Bytes of a file that tell how its text is written.
_HEAD = 1024


def read_header(path: str) -> list[str]:
    """Column names of a CSV file; CaseError when it is empty or no CSV."""
    with _reading(path), files.open_file(path) as f, pa_csv.open_csv(f, read_options=_options(path)) as reader:
        return list(reader.schema.names)


@contextmanager
def _reading(path: str, where: str = "") -> Iterator[None]:
    """Turn an error of reading CSV into a CaseError."""
    shown = files.redact(path)
    try:
        yield
    except UnicodeError as exc:
        raise CaseError(f"{shown}{where}: is neither UTF-8 nor UTF-16 text: save it as UTF-8 ({exc})") from exc
    except (pa.ArrowException, OSError, ValueError) as exc:
        if "invalid UTF8" in str(exc):
            raise CaseError(f"{shown}{where}: is neither UTF-8 nor UTF-16 text: save it as UTF-8 ({exc})") from exc
        raise CaseError(f"{shown}{where}: cannot be read as CSV: {exc}") from exc


def _options(path: str) -> pa_csv.ReadOptions:
    """How the file's text is written: Excel and Windows write UTF-16, and UTF-8 behind a mark."""
    with files.open_file(path) as f:
        encoding = encoding_of(bytes(f.read(_HEAD)))
    # Arrow leaves out UTF-8's mark itself.
    return pa_csv.ReadOptions(encoding=encoding.removesuffix("-sig"))


def _rows(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of text columns, by position, with the row's number in front."""
    options = pa_csv.ConvertOptions(
        column_types={c: pa.string() for c in columns}, include_columns=columns, strings_can_be_null=False
    )
    first = 0
    with files.open_file(path) as f:
        batches = None
        while True:
            with _reading(path, f", after row {first}" if first else ""):
                if batches is None:
                    batches = pa_csv.open_csv(f, read_options=_options(path), convert_options=options)
                batch = next(batches, None)
            if batch is None:
                return
            row = pa.array(range(first, first + len(batch)), pa.int64())
            first += len(batch)
            yield pa.RecordBatch.from_arrays([row, *batch.columns], names=_names(columns))


def _names(columns: list[str]) -> list[str]:
    return ["row", *(f"c{i}" for i in range(len(columns)))]


def read_csv(spark: SparkSession, path: str, columns: list[str]) -> DataFrame:
    """``row BIGINT``, which counts from 0 in the file's order, and ``c0 STRING, c1 STRING, ...`` of the file's columns.

    Columns are called by their position in ``columns``: what a file calls them cannot meet any name of ours. One task
    reads the whole file as a stream: the row's number is what joins it to the descriptors.
    """

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                yield from _rows(path, columns)

    row, *texts = _names(columns)
    schema = ", ".join([f"{row} BIGINT", *(f"{c} STRING" for c in texts)])
    return spark.range(0, 1, 1, 1).mapInArrow(run, schema)


def read_paths(spark: SparkSession, path: str) -> DataFrame:
    """``image_id BIGINT, path STRING`` with forward slashes; CaseError without a column ``paths``."""
    names = read_header(path)
    if "paths" not in names:
        raise CaseError(f"{files.redact(path)}: needs a column `paths`, found {', '.join(names)}")
    _refuse_twice(names, ["paths"], path)
    return read_csv(spark, path, ["paths"]).select(F.col("row").alias("image_id"), normal_path("c0").alias("path"))


def read_attributes(spark: SparkSession, path: str) -> DataFrame:
    """``path`` with forward slashes and every other column as text, empty values as null.

    Raises CaseError without a column ``path`` (or ``paths``), or with names that tables cannot hold. Spark tells names
    apart by more than their case, so ``Path`` beside the paths is refused as well.
    """
    names = read_header(path)
    shown = files.redact(path)
    key = next((c for c in ("path", "paths") if c in names), None)
    if key is None:
        raise CaseError(f"{shown}: needs a column `path`, found {', '.join(names)}")
    for name in names:
        if not _COLUMN.fullmatch(name):
            raise CaseError(f"{shown}: column {name!r}: rename it without spaces, commas, brackets, '=' or quotes")
        if name != key and name.lower() in ("image_id", "path"):
            raise CaseError(f"{shown}: column {name!r} would hide the table's own {name.lower()!r}: rename it")
    _refuse_twice(names, names, path)
    read = read_csv(spark, path, names)
    columns = {name: f"c{i}" for i, name in enumerate(names)}
    others = [F.when(F.col(c) != "", F.col(c)).alias(name) for name, c in columns.items() if name != key]
    return read.select(normal_path(columns[key]).alias("path"), *others)


def _refuse_twice(names: list[str], wanted: list[str], path: str) -> None:
    lower = [n.lower() for n in names]
    for name in wanted:
        if lower.count(name.lower()) > 1:
            raise CaseError(f"{files.redact(path)}: column {name!r} appears more than once, but for its case perhaps")


def normal_path(column: str) -> Column:
    """A path with forward slashes and without a leading ``./``."""
    slashes = F.translate(F.trim(F.col(column)), "\\", "/")
    return F.regexp_replace(slashes, r"^(\./)+", "")
