"""The case's CSV files as DataFrames: read by one task in order, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pa_csv
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.blocks import Batches
from motorpool.case import files
from motorpool.errors import CaseError

#: Column names that Delta takes as they are, in every engine.
_COLUMN = re.compile(r"[^ ,;{}()\n\t=`]+")


def read_header(path: str) -> list[str]:
    """Column names of a CSV file; CaseError when it is empty or no CSV."""
    try:
        with files.open_file(path) as f, pa_csv.open_csv(f) as reader:
            return list(reader.schema.names)
    except pa.ArrowInvalid as exc:
        raise CaseError(f"{files.redact(path)}: cannot be read as CSV: {exc}") from exc


def _rows(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of text columns with the row's number in front."""
    options = pa_csv.ConvertOptions(
        column_types={c: pa.string() for c in columns}, include_columns=columns, strings_can_be_null=False
    )
    first = 0
    with files.open_file(path) as f:
        try:
            for batch in pa_csv.open_csv(f, convert_options=options):
                row = pa.array(range(first, first + len(batch)), pa.int64())
                first += len(batch)
                yield pa.RecordBatch.from_arrays([row, *batch.columns], names=["row", *columns])
        except pa.ArrowInvalid as exc:
            raise CaseError(f"{files.redact(path)}, after row {first}: {exc}") from exc


def read_csv(spark: SparkSession, path: str, columns: list[str]) -> DataFrame:
    """Columns of a CSV file as text, beside ``row BIGINT``, which counts from 0 in the file's order.

    One task reads the whole file as a stream: the row's number is what joins it to the descriptors.
    """

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                yield from _rows(path, columns)

    schema = ", ".join(["row BIGINT", *(f"`{c}` STRING" for c in columns)])
    return spark.range(0, 1, 1, 1).mapInArrow(run, schema)


def read_paths(spark: SparkSession, path: str) -> DataFrame:
    """``image_id BIGINT, path STRING`` with forward slashes; CaseError without a column ``paths``."""
    names = read_header(path)
    if "paths" not in names:
        raise CaseError(f"{files.redact(path)}: needs a column `paths`, found {', '.join(names)}")
    return read_csv(spark, path, ["paths"]).select(F.col("row").alias("image_id"), normal_path("paths").alias("path"))


def read_attributes(spark: SparkSession, path: str) -> DataFrame:
    """``path`` with forward slashes and every other column as text, empty values as null.

    Raises CaseError without a column ``path`` (or ``paths``), or with names that tables cannot hold.
    """
    names = read_header(path)
    shown = files.redact(path)
    key = next((c for c in ("path", "paths") if c in names), None)
    if key is None:
        raise CaseError(f"{shown}: needs a column `path`, found {', '.join(names)}")
    lower = [n.lower() for n in names]
    for name in names:
        if not _COLUMN.fullmatch(name):
            raise CaseError(f"{shown}: column {name!r}: rename it without spaces, commas, brackets, '=' or quotes")
        if lower.count(name.lower()) > 1:
            raise CaseError(f"{shown}: column {name!r} appears more than once")
        if name.lower() == "image_id":
            raise CaseError(f"{shown}: column {name!r} would hide the table's own column: rename it")
    others = [F.when(F.col(f"`{c}`") != "", F.col(f"`{c}`")).alias(c) for c in names if c != key]
    return read_csv(spark, path, names).select(normal_path(key).alias("path"), *others)


def normal_path(column: str) -> Column:
    """A path with forward slashes and without a leading ``./``."""
    slashes = F.translate(F.trim(F.col(f"`{column}`")), "\\", "/")
    return F.regexp_replace(slashes, r"^(\./)+", "")
