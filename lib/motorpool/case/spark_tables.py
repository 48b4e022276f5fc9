"""Tables that Spark opens: a folder of a Delta table, or a table of one of the session's catalogs.

Their rows have no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from motorpool.case import files
from motorpool.case.csv_files import text_names
from motorpool.case.files import safe_cause
from motorpool.errors import CaseError

_TEXTS = (T.StringType, T.VarcharType, T.CharType, T.NumericType, T.BooleanType, T.DateType, T.TimestampType,
          T.TimestampNTZType)  # fmt: skip


class Convert(Protocol):
    """Makes rows of ``schema`` of a batch of keys and one of vectors, which are lists of ``width`` floats."""

    @property
    def width(self) -> int: ...

    @property
    def schema(self) -> str: ...

    def __call__(self, keys: pa.Array, lists: pa.Array) -> pa.RecordBatch: ...


def is_delta(path: str) -> bool:
    """Whether a folder is that of a Delta table."""
    return files.exists(files.join(path, "_delta_log"))


def quoted(table: str) -> str:
    """The name of a catalog's table as Spark takes it, whatever letters its parts have."""
    return ".".join(f"`{part}`" for part in table.split("."))


def open_spark_table(spark: SparkSession, file: str | None, table: str | None) -> SparkTable:
    """The Delta table in the folder ``file``, or the ``table`` of a catalog; CaseError where there is none."""
    name = files.redact(file or table or "")
    try:
        if file is not None:
            frame = spark.read.format("delta").load(file)
        else:
            frame = spark.table(quoted(table or ""))
        return SparkTable(name, frame, frame.schema)
    except PySparkException as exc:
        lines = files.redact(str(exc)).splitlines()
        raise CaseError(f"{name}: Spark cannot open this table: {lines[0]}") from safe_cause(exc)


@dataclass(frozen=True)
class SparkTable:
    """An open table: its rows and their types."""

    name: str
    frame: DataFrame
    schema: T.StructType
    ordered: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns whose values can be written as text."""
        return [f.name for f in self.schema if isinstance(f.dataType, _TEXTS)]

    def texts(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        """``c0 STRING, c1 STRING, ...``."""
        _, *names = text_names(columns)
        return self.frame.select(*(self._text(c).alias(n) for c, n in zip(columns, names, strict=True)))

    def _text(self, column: str) -> Column:
        return F.col(f"`{column}`").cast("string")

    def vector_type(self, column: str) -> tuple[int, np.dtype]:
        """Length and type of a column of vectors, by a first row that has any; CaseError for another column."""
        found: Any = next((f.dataType for f in self.schema if f.name == column), None)
        if found is None:
            raise CaseError(f"{self.name}: has no column {column!r}; it has {', '.join(self.schema.names)}")
        lists = isinstance(found, T.ArrayType) and isinstance(found.elementType, (T.FloatType, T.DoubleType))
        if not (lists or isinstance(found, VectorUDT)):
            raise CaseError(
                f"{self.name}: column {column!r} holds {found.simpleString()}, expected lists of float or double, or "
                "Spark ML's vectors"
            )
        first = self._lists(column).where("v IS NOT NULL").select(F.size("v")).first()
        double = isinstance(found, VectorUDT) or isinstance(found.elementType, T.DoubleType)
        return (first[0] if first else 0), np.dtype(np.float64 if double else np.float32)

    def _lists(self, column: str, *others: Column) -> DataFrame:
        """The vectors as ``v ARRAY<FLOAT>``, behind other columns."""
        vector: Column = F.col(f"`{column}`")
        if isinstance(self.schema[column].dataType, VectorUDT):
            vector = vector_to_array(vector, "float32")
        # What is too large for float32 becomes infinity, as it does in files.
        return self.frame.select(*others, vector.cast("array<float>").alias("v"))

    def vectors(self, spark: SparkSession, column: str, key: str | None, convert: Convert) -> DataFrame:
        """What ``convert`` makes of the rows' keys (string) and vectors (list of float), batch by batch."""
        if key is None:
            raise ValueError("the rows of a table of Spark have no numbers: they need a key")

        def run(batches: Iterable[pa.RecordBatch]) -> Any:
            for batch in batches:
                yield convert(batch.column(0), batch.column(1))

        return self._lists(column, self._text(key).alias("k")).mapInArrow(run, convert.schema)
