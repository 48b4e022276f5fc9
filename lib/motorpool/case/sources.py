"""The tables that a case may be made of, and what all of them can do: give their columns as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyspark.sql import DataFrame, SparkSession

from motorpool.case import csv_files, files
from motorpool.case.parquet_tables import ParquetTable, open_parquet_table
from motorpool.case.spark_tables import SparkTable, is_delta, open_spark_table
from motorpool.config.run import CaseConfig, ColumnConfig
from motorpool.errors import CaseError, EnvironmentMissingError

#: A CSV file, or a column of a table.
Source = str | ColumnConfig


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


def open_source(spark: SparkSession | None, source: Source) -> TextTable:
    """A table, of which only the header is read. CaseError where it cannot be opened, or is not named as a column."""
    if isinstance(source, str):
        if source.lower().endswith(".parquet") or files.is_folder(source):
            raise CaseError(
                f"{files.redact(source)}: is a Parquet or Delta table, or a folder, of which one column is needed: "
                f"name it as {{file: {files.redact(source)}, column: path}}"
            )
        return _CsvTable(source)
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
    return not isinstance(source, str) and (source.file is None or is_delta(source.file))


def reads_delta(case: CaseConfig) -> bool:
    """Whether a part of a case is a Delta table, so that the session needs Delta's jars."""
    parts = [case.images_paths, case.attributes, *(case.descriptors or {}).values()]
    return any(isinstance(p, ColumnConfig) and p.file is not None and is_delta(p.file) for p in parts)


def shown(source: Source) -> str:
    """A table's name for messages, without credentials."""
    if isinstance(source, str):
        return files.redact(source)
    return f"{files.redact(source.file or source.table or '')}: {source.column}"


def same_table(one: Source, other: Source) -> bool:
    """Whether two columns are of one table."""
    if isinstance(one, str) or isinstance(other, str):
        return False
    return (one.file, one.table) == (other.file, other.table)
