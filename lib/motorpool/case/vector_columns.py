"""Descriptors in a column of a table: rows are joined to the images by a key, never by chance.

The key is the path of the image, or another column that the table of the images has as well, such as an id. Where both
are one Parquet table a row is its own image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.arrays.array_file import lists_to_float32
from motorpool.case.parquet_tables import ParquetTable
from motorpool.case.sources import Source, TextTable, open_table, same_table, shown
from motorpool.case.spark_tables import SparkTable
from motorpool.case.tables import PATH_COLUMNS, normal_path
from motorpool.config.run import VectorColumnConfig
from motorpool.errors import CaseError
from motorpool.spark.blocks import to_list_array

#: Keys that a message names.
_NAMED = 3
#: What a task says that met a row with NaN or infinity, where these are refused.
BAD_ROW = "motorpool: a row holds NaN or infinity"
#: Why an image with such a row is left out.
NOT_FINITE = "NaN or infinity"


@dataclass(frozen=True)
class VectorColumn:
    """A descriptor in a column of a table.

    ``shape`` is (images, numbers of a vector), ``dtype`` the stored type. ``images`` maps the table's keys to images:
    ``image_id BIGINT, key STRING``; it is None where rows are numbered as the images are.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    spark: SparkSession
    table: ParquetTable | SparkTable
    column: str
    key: str | None
    images: DataFrame | None
    by_path: bool

    def vectors(self, *, refuse: bool) -> DataFrame:
        """``image_id BIGINT, vector ARRAY<FLOAT>`` of every image, unordered.

        A task fails (`BAD_ROW`) at NaN and infinity where these are to ``refuse``, and raises CaseError for a missing
        vector, or one of another length. Memory of a task: three batches of 16 MiB.
        """
        rows = self._rows(vectors=True)
        bad = F.raise_error(BAD_ROW).cast("array<float>")
        vector = F.when(F.col("good"), F.col("vector")).otherwise(bad) if refuse else F.col("vector")
        return rows.select("image_id", vector.alias("vector"))

    def bad_rows(self) -> DataFrame:
        """``image_id, reason`` of every image whose vector holds NaN or infinity, or a number beyond float32."""
        bad = self._rows(vectors=False).where(~F.col("good"))
        return bad.select("image_id", F.lit(NOT_FINITE).alias("reason"))

    def check_keys(self) -> None:
        """CaseError where images have no row, or several, which names some of them.

        One job over the keys. Rows of no image are left out, and none is asked about them.
        """
        if self.images is None:
            return
        assert self.key is not None
        spark_keys = self.table.texts(self.spark, [self.key]).select(self._text("c0").alias("key"))
        counts = spark_keys.groupBy("key").agg(F.count("*").alias("n"))
        both = self.images.join(counts, on="key", how="left").withColumn("n", F.coalesce("n", F.lit(0)))
        what = "path" if self.by_path else self.key
        missing, twice = F.col("n") == 0, F.col("n") > 1
        row = both.agg(F.count_if(missing).alias("missing"), F.count_if(twice).alias("twice")).first()
        assert row is not None
        for problem, n, said in ((missing, row["missing"], "no row"), (twice, row["twice"], "more than one row")):
            if n:
                named = both.where(problem).orderBy("image_id").select("key").limit(_NAMED).collect()
                listed = ", ".join(r["key"] for r in named)
                raise CaseError(
                    f"{self.name}: {n:,} of {self.shape[0]:,} images have {said} in it, by its column {self.key!r} "
                    f"(the {what} of an image): {listed}. Name the column that says which image a row is of as `key`, "
                    "or mend the table"
                )

    def _rows(self, *, vectors: bool) -> DataFrame:
        """``image_id``, whether a row is finite, ``good BOOLEAN``, and its vector where ``vectors`` are asked for."""
        convert = _Rows(self.name, self.shape[1], self.key, vectors)
        rows = self.table.vectors(self.spark, self.column, self.key, convert)
        if self.images is None:
            return rows.withColumnRenamed("key", "image_id")
        return rows.withColumn("key", self._text("key")).join(self.images, on="key", how="inner")

    def _text(self, column: str) -> Column:
        return normal_path(column) if self.by_path else F.trim(F.col(column))


@dataclass(frozen=True)
class ColumnHeader:
    """What the header of a Parquet table tells of a column of vectors: its name, rows and numbers, and stored type."""

    name: str
    shape: tuple[int, int]
    dtype: np.dtype


def header_of(source: VectorColumnConfig) -> ColumnHeader:
    """The header of a column of a Parquet table, read without Spark; CaseError where it is no column of vectors."""
    table = open_table(None, source)
    assert isinstance(table, ParquetTable)
    width, dtype = table.vector_type(source.column)
    return ColumnHeader(shown(source), (table.n_rows, _not_empty(width, source)), dtype)


def _not_empty(width: int, source: VectorColumnConfig) -> int:
    if not width:
        raise CaseError(f"{shown(source)}: holds no vectors: the column is empty")
    return width


def open_vector_column(
    spark: SparkSession,
    source: VectorColumnConfig,
    paths: DataFrame,
    n_images: int,
    images_source: Source,
    images_table: TextTable,
) -> VectorColumn:
    """The descriptor in a column of a table, for the images of ``paths`` (``image_id, path``).

    The paths were read of ``images_source``, which is the open ``images_table``.

    Reads the header, and one row for the length of the vectors. CaseError where the table cannot be opened, or lacks
    the column or the key.
    """
    table: ParquetTable | SparkTable
    if same_table(source, images_source) and isinstance(images_table, ParquetTable | SparkTable):
        table = images_table
    else:
        table = open_table(spark, source)
    name = shown(source)
    width, dtype = table.vector_type(source.column)
    width = _not_empty(width, source)
    key = _key(table, source, images_source)
    path_column = None if isinstance(images_source, str) else images_source.column
    by_path = path_column is None or key == path_column or key not in images_table.columns
    if table is images_table and by_path and isinstance(table, ParquetTable):
        return VectorColumn(name, (n_images, width), dtype, spark, table, source.column, None, None, by_path)
    images = paths.select("image_id", F.col("path").alias("key"))
    if not by_path:
        assert path_column is not None
        both = images_table.texts(spark, [path_column, key])
        keyed = both.select(normal_path("c0").alias("path"), F.trim("c1").alias("key"))
        images = paths.join(keyed, on="path", how="inner").select("image_id", "key")
    return VectorColumn(name, (n_images, width), dtype, spark, table, source.column, key, images, by_path)


def _key(table: ParquetTable | SparkTable, source: VectorColumnConfig, images_source: Source) -> str:
    names = table.columns
    if source.key is not None:
        wanted: tuple[str, ...] = (source.key,)
    elif isinstance(images_source, str):
        wanted = PATH_COLUMNS
    else:
        wanted = (images_source.column, *PATH_COLUMNS)
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise CaseError(
            f"{shown(source)}: the table has no column {' or '.join(map(repr, wanted[:3]))} that says which image a "
            f"row is of; it has {', '.join(names) or 'none of texts or numbers'}. Name one as `key`"
        )
    return found


# -- batches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Turns a batch of keys and lists into rows that have been checked: ``key, good`` and perhaps ``vector``."""

    name: str
    width: int
    key: str | None
    vectors: bool

    @property
    def schema(self) -> str:
        kind = "BIGINT" if self.key is None else "STRING"
        return f"key {kind}, good BOOLEAN{', vector ARRAY<FLOAT>' if self.vectors else ''}"

    def __call__(self, keys: pa.Array, lists: pa.Array) -> pa.RecordBatch:
        x = self._matrix(keys, lists)
        columns = {"key": keys, "good": pa.array(finite_rows(x))}
        if self.vectors:
            columns["vector"] = to_list_array(x)
        return pa.RecordBatch.from_pydict(columns)

    def _matrix(self, keys: pa.Array, lists: pa.Array) -> np.ndarray:
        """Lists of floats as float32[m, width]; CaseError, which names the row, for one without these."""
        out = np.empty((len(lists), self.width), np.float32)
        odd = lists_to_float32(lists, out)
        if odd is None:
            return out
        row, length = odd
        if length is None:
            found = "no vector (null)"
        elif length == self.width:
            found = "a null among its numbers"
        else:
            found = f"a list of {length:,} numbers"
        key = keys[row].as_py()
        which = f"row {key:,}" if self.key is None else f"the row with {self.key} {key!r}"
        raise CaseError(
            f"{self.name}: {which} holds {found}, expected {self.width:,} numbers like the other rows. Mend it, or "
            "leave this image out of the table and of the images"
        )


def finite_rows(x: np.ndarray) -> np.ndarray:
    """bool[m]: the rows of float32[m, d] that are finite throughout."""
    # A sum is finite only if every term is; one that overflows makes us look again, term by term.
    with np.errstate(over="ignore", invalid="ignore"):
        good: np.ndarray = np.isfinite(x.sum(axis=1))
    if not good.all():
        good = np.isfinite(x).all(axis=1)
    return good
