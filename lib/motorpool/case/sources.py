"""The tables that a case may be made of, and what all of them can do: give their columns as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Protocol

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from motorpool.case import csv_files, files
from motorpool.case.csv_files import text_names, text_schema
from motorpool.case.parquet_tables import ParquetTable, open_parquet_table
from motorpool.case.photo_files import open_photo_files
from motorpool.case.spark_tables import SparkTable, is_delta, open_spark_table
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.run import CaseConfig, ColumnConfig, VectorColumnConfig
from motorpool.errors import CaseError, EnvironmentMissingError
from motorpool.spark.tasks import one_each

#: Paths of a batch.
_BATCH = 8192


@dataclass(frozen=True)
class PhotoList:
    """The photos below a place, which are the images of a case that has no list of paths."""

    root: str
    column: ClassVar[str] = "path"

    def batches(self) -> Iterator[list[str]]:
        """All paths, in their order; CaseError where there is no such place, or it cannot be read."""
        names = open_photo_files(self.root).names()
        while batch := list(islice(names, _BATCH)):
            yield batch


#: A CSV file, a column of a table, or the photos themselves.
Source = str | ColumnConfig | PhotoList
#: What a descriptor comes from: an array file, a column of a table, or a computation on the photos.
DescriptorSource = str | VectorColumnConfig | NetworkConfig | BuiltInConfig


class TextTable(Protocol):
    """A table as text: ``columns`` are those whose values can be written so.

    Where ``ordered`` is true, its rows are in an order, and `texts` numbers them.
    """

    @property
    def columns(self) -> list[str]: ...

    @property
    def ordered(self) -> bool: ...

    def texts(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        """``c0 STRING, c1 STRING, ...`` of some columns; ``row BIGINT`` before them, from 0, where rows are ordered."""
        ...


class _CsvTable:
    ordered = True

    def __init__(self, path: str) -> None:
        self._path = path
        self.columns = csv_files.read_header(path)

    def texts(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        return csv_files.read_csv(spark, self._path, columns)


class _PhotoTable:
    ordered = True
    columns: ClassVar[list[str]] = [PhotoList.column]

    def __init__(self, photos: PhotoList) -> None:
        self._photos = photos

    def texts(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        """One task lists the photos."""

        def listed(photos: PhotoList) -> Iterator[pa.RecordBatch]:
            first = 0
            for paths in photos.batches():
                rows = pa.array(range(first, first + len(paths)), pa.int64())
                first += len(paths)
                yield pa.RecordBatch.from_arrays(
                    [rows, *([pa.array(paths, pa.string())] * len(columns))], names=text_names(columns)
                )

        return one_each(spark, [self._photos], listed, text_schema(columns))


def open_source(spark: SparkSession | None, source: Source) -> TextTable:
    """A table, of which only the header is read. CaseError where it cannot be opened, or is not named as a column."""
    if isinstance(source, str):
        if source.lower().endswith(".parquet") or files.is_folder(source):
            raise CaseError(
                f"{files.redact(source)}: is a Parquet or Delta table, or a folder, of which one column is needed: "
                f"name it as {{file: {files.redact(source)}, column: path}}"
            )
        return _CsvTable(source)
    if isinstance(source, PhotoList):
        return _PhotoTable(source)
    return open_table(spark, source)


def open_table(spark: SparkSession | None, source: ColumnConfig) -> ParquetTable | SparkTable:
    """A Parquet or Delta table. EnvironmentMissingError for a table that Spark must open where there is no Spark."""
    if not needs_spark(source):
        assert source.file is not None
        return open_parquet_table(source.file)
    if spark is None:
        raise EnvironmentMissingError(f"{shown(source)}: is opened by Spark, which has not been started")
    return open_spark_table(spark, source.file, source.table)


def needs_spark(source: Source) -> bool:
    """Whether a table is one of those that only Spark opens: Delta tables and those of catalogs."""
    return isinstance(source, ColumnConfig) and (source.file is None or is_delta(source.file))


def reads_delta(case: CaseConfig) -> bool:
    """Whether a part of a case is a Delta table, so that the session needs Delta's jars."""
    parts = [case.images_paths, case.attributes, *(case.descriptors or {}).values()]
    return any(isinstance(p, ColumnConfig) and p.file is not None and is_delta(p.file) for p in parts)


def shown(source: Source | DescriptorSource) -> str:
    """The name of a table, or of what a descriptor comes from, for messages, without credentials."""
    if isinstance(source, str):
        return files.redact(source)
    if isinstance(source, PhotoList):
        return files.redact(source.root)
    if isinstance(source, NetworkConfig):
        return files.redact(source.model)
    if isinstance(source, BuiltInConfig):
        return f"built in: {source.builtin}"
    return f"{files.redact(source.file or source.table or '')}: {source.column}"


def same_table(one: Source, other: Source) -> bool:
    """Whether two columns are of one table."""
    if not (isinstance(one, ColumnConfig) and isinstance(other, ColumnConfig)):
        return False
    return (one.file, one.table) == (other.file, other.table)
