"""The one place where tables are named, created, read and written."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from motorpool.config import LakeConfig, has_scheme
from motorpool.errors import LakeError
from motorpool.features.spec import NAME_PATTERN
from motorpool.schemas import TABLES, VIEWS, Table

log = logging.getLogger(__name__)

#: Statistics on the first column skip files by image or model; on vectors they only cost time.
_DELTA_PROPERTIES = {"delta.dataSkippingNumIndexedCols": "2"}
#: The name of a Parquet table's file where it has no partitions.
_ONE_FILE = "data.parquet"


class Lake:
    """The tables of one project, Delta or Parquet, under a path or in a catalog's schema.

    Every write replaces a whole table or all rows of some keys, and is atomic: readers see the rows
    before or the rows after, and a write that fails leaves the table as it was. With Delta that is one
    transaction. With Parquet the new files are written aside and moved into place by renames: one for a
    table in one file, two for each partition that had rows (the old ones out, the new ones in). A Parquet
    lake has one writer at a time; what a killed one has left aside is removed by the next.
    """

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        self.spark = spark
        self.config = config

    # -- names -------------------------------------------------------------------------------------

    def _path(self, table: str) -> str:
        return f"{str(self.config.path).rstrip('/')}/{table}"

    def _schema_name(self) -> str:
        return ".".join(f"`{name}`" for name in (self.config.catalog, self.config.schema_name) if name)

    def _catalog_name(self, table: str) -> str:
        return f"{self._schema_name()}.`{table}`"

    @property
    def root(self) -> str | None:
        """The lake's path as SQL takes it, absolute or with its scheme; None in a catalog."""
        if self.config.path is None:
            return None
        path = self.config.path if has_scheme(self.config.path) else str(Path(self.config.path).resolve())
        return path.rstrip("/")

    @property
    def in_catalog(self) -> bool:
        return self.config.schema_name is not None

    def sql_name(self, table: str) -> str:
        """The table as SQL names it: for catalogs its full name, for paths the temporary view's."""
        return self._catalog_name(table) if self.in_catalog else f"`{table}`"

    @staticmethod
    def schema(table: str, without: Sequence[str] = ()) -> StructType:
        """A table's columns, to make rows with; ``without`` leaves out those that Spark fills in."""
        return StructType([f for f in TABLES[table].schema if f.name not in without])

    # -- reading -----------------------------------------------------------------------------------

    def exists(self, table: str) -> bool:
        if self.in_catalog:
            return self.spark.catalog.tableExists(self._catalog_name(table))
        if self.config.format == "delta":
            from delta import DeltaTable

            return DeltaTable.isDeltaTable(self.spark, self._path(table))
        folder = Path(self._path(table))
        return folder.is_dir() if TABLES[table].partition_by else (folder / _ONE_FILE).is_file()

    def read(self, table: str, **keys: str | Sequence[str]) -> DataFrame:
        """The rows of a table, only those with the given key values; LakeError when it does not exist."""
        if not self.exists(table):
            stage = TABLES[table].written_by
            raise LakeError(f"table {table!r} is not in the lake {self}: run `motorpool {stage}` first")
        if self.in_catalog:
            df = self.spark.read.table(self._catalog_name(table))
        elif self.config.format == "delta":
            df = self.spark.read.format("delta").load(self._path(table))
        else:
            schema = TABLES[table].schema
            reader = self.spark.read if TABLES[table].open_ended else self.spark.read.schema(schema)
            df = reader.parquet(self._path(table))
            # Spark puts partition columns last; the table has its own order.
            df = df.select(*(f"`{c}`" for c in dict.fromkeys([*schema.fieldNames(), *df.columns])))
        for key, value in keys.items():
            df = df.where(F.col(key) == value if isinstance(value, str) else F.col(key).isin(list(value)))
        return df

    def read_or_empty(self, table: str, **keys: str | Sequence[str]) -> DataFrame:
        """As ``read``, but no rows instead of an error where the table has never been written."""
        if self.exists(table):
            return self.read(table, **keys)
        return self.spark.createDataFrame([], TABLES[table].schema)

    # -- writing -----------------------------------------------------------------------------------

    def overwrite(self, table: str, df: DataFrame) -> None:
        """Replace all rows of a table."""
        self._write(TABLES[table], df, {})

    def replace(self, table: str, df: DataFrame, keys: Mapping[str, Sequence[str]]) -> None:
        """Replace the rows whose key columns hold the given values; ``df`` holds rows of these keys only."""
        if not keys or not all(keys.values()):
            raise ValueError("replace needs at least one key with values; use overwrite for a whole table")
        for key, values in keys.items():
            # They become SQL and folders' names.
            bad = [v for v in values if not NAME_PATTERN.fullmatch(v)]
            if bad:
                raise LakeError(f"{key}: {bad[0]!r} cannot name rows of a table")
        self._write(TABLES[table], df, keys)

    def replace_rows(self, table: str, rows: Sequence[Mapping[str, Any]], keys: Mapping[str, Sequence[str]]) -> None:
        """`replace` with rows of the driver, by column; ``created_at``, where the table has it, is the time of now."""
        frame = self.spark.createDataFrame([dict(r) for r in rows], self.schema(table, without=("created_at",)))
        if "created_at" in TABLES[table].schema.fieldNames():
            frame = frame.withColumn("created_at", F.current_timestamp())
        self.replace(table, frame, keys)

    def _write(self, table: Table, df: DataFrame, keys: Mapping[str, Sequence[str]]) -> None:
        df = conform(df, table)
        if self.config.format == "parquet":
            self._write_parquet(table, df, keys)
            return
        if self.in_catalog:
            self._write_catalog(table, df, keys)
        elif self.exists(table.name):
            self._replacing(table, df, keys).save(self._path(table.name))
        else:
            # The table comes into being with its rows: a write that fails leaves none.
            writer = df.write.format("delta").mode("errorifexists").partitionBy(*table.partition_by)
            writer.options(**_DELTA_PROPERTIES).save(self._path(table.name))

    @staticmethod
    def _replacing(table: Table, df: DataFrame, keys: Mapping[str, Sequence[str]]) -> DataFrameWriter:
        writer = df.write.format("delta").mode("overwrite")
        if keys:
            return writer.option("replaceWhere", _predicate(keys))
        return writer.option("overwriteSchema", "true").partitionBy(*table.partition_by)

    def _write_catalog(self, table: Table, df: DataFrame, keys: Mapping[str, Sequence[str]]) -> None:
        name = self._catalog_name(table.name)
        created = not self.exists(table.name)
        if created:
            # First the empty table, then its rows: catalogs refuse to create one over the files of a killed write.
            self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self._schema_name()}")
            empty = self.spark.createDataFrame([], df.schema).write.format("delta").mode("ignore")
            empty.options(**_DELTA_PROPERTIES).partitionBy(*table.partition_by).saveAsTable(name)
        try:
            if keys or table.partition_by:
                # Unlike saveAsTable, this leaves the catalog's entry alone, which some refuse to change.
                df.writeTo(name).overwrite(F.expr(_predicate(keys)) if keys else F.lit(True))
            else:
                self._replacing(table, df, keys).saveAsTable(name)
        except Exception:
            if created:
                self.spark.sql(f"DROP TABLE IF EXISTS {name}")
            raise

    def _write_parquet(self, table: Table, df: DataFrame, keys: Mapping[str, Sequence[str]]) -> None:
        folder = Path(self._path(table.name))
        for left in folder.parent.glob(f"_{table.name}-*"):
            shutil.rmtree(left)
        staging = folder.with_name(f"_{table.name}-{uuid.uuid4().hex}")
        try:
            if table.partition_by:
                df.write.partitionBy(*table.partition_by).parquet(str(staging))
                self._swap_partitions(table, folder, staging, keys)
                return
            if keys and self.exists(table.name):
                stale = F.lit(False)
                for key, values in keys.items():
                    stale = stale | ~F.col(key).isin(list(values))
                kept = self.read(table.name).where(stale)
                df = kept.unionByName(df, allowMissingColumns=True)
            df.coalesce(1).write.parquet(str(staging))
            (part,) = staging.glob("*.parquet")
            folder.mkdir(parents=True, exist_ok=True)
            # One file under one name: the rename replaces the whole table at once.
            part.replace(folder / _ONE_FILE)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self.spark.catalog.refreshByPath(str(folder))

    def _swap_partitions(self, table: Table, folder: Path, staging: Path, keys: Mapping[str, Sequence[str]]) -> None:
        depth = "*/" * len(table.partition_by)
        new = {p.relative_to(staging) for p in staging.glob(depth) if p.is_dir()}
        old = {p.relative_to(folder) for p in folder.glob(depth) if p.is_dir()} if folder.is_dir() else set()
        if keys:
            ((key, values),) = keys.items()
            replaced = {f"{key}={value}" for value in values}
            old = {p for p in old if set(p.parts) & replaced}
            others = sorted(str(p) for p in new if not set(p.parts) & replaced)
            if others:
                raise LakeError(f"table {table.name!r}: rows of {others[0]} are not among those to replace")
        folder.mkdir(parents=True, exist_ok=True)
        aside = staging / "_old"
        for part in old | new:
            if part in old:
                (aside / part).parent.mkdir(parents=True, exist_ok=True)
                (folder / part).rename(aside / part)
            if part in new:
                (folder / part).parent.mkdir(parents=True, exist_ok=True)
                (staging / part).rename(folder / part)
        self.spark.catalog.refreshByPath(str(folder))

    # -- SQL ---------------------------------------------------------------------------------------

    def register(self) -> list[str]:
        """Make tables and views queryable by name; returns those names.

        Under a path they are temporary views of this session; in a catalog the views are made there and
        the schema becomes the current one.
        """
        # Temporary views win over tables of the same name: those of another lake must not answer for this one.
        for name in (*TABLES, *VIEWS):
            self.spark.catalog.dropTempView(name)
        present = [name for name in TABLES if self.exists(name)]
        if not self.in_catalog:
            for name in present:
                self.read(name).createOrReplaceTempView(name)
        names = {name: self.sql_name(name) for name in TABLES}
        made = []
        for view, query in VIEWS.items():
            needed = [t for t in TABLES if "{" + t + "}" in query]
            if not set(needed) <= set(present):
                continue
            # Both sides are this package's own text and checked names.
            statement = query.format(**names)
            kind = "VIEW" if self.in_catalog else "TEMPORARY VIEW"
            self.spark.sql(f"CREATE OR REPLACE {kind} {self.sql_name(view)} AS {statement}")
            made.append(view)
        if self.in_catalog:
            self.spark.sql(f"USE {self._schema_name()}")
        return present + made

    def leaderboard(self) -> DataFrame:
        """The view of that name; LakeError where no model has been fitted."""
        # The view is there only where its table is: reading that gives the error which names the missing stage.
        self.read("models")
        self.register()
        return self.spark.table(self.sql_name("leaderboard"))

    def __str__(self) -> str:
        if self.in_catalog:
            return ".".join(n for n in (self.config.catalog, self.config.schema_name) if n)
        return str(self.config.path)


def conform(df: DataFrame, table: Table) -> DataFrame:
    """Exactly the table's columns, in order and typed; further columns stay only where the table allows."""
    missing = [f.name for f in table.schema if f.name not in df.columns]
    if missing:
        raise LakeError(f"table {table.name!r}: the rows to write lack the columns {', '.join(missing)}")
    columns: list[Column] = [F.col(f"`{f.name}`").cast(f.dataType).alias(f.name) for f in table.schema]
    if table.open_ended:
        columns += [F.col(f"`{c}`") for c in df.columns if c not in table.schema.fieldNames()]
    return df.select(*columns)


def _predicate(keys: Mapping[str, Sequence[str]]) -> str:
    """SQL for ``key IN (values)``; ``replace`` has checked that the values hold no quotes."""
    parts = []
    for key, values in keys.items():
        quoted = ", ".join(f"'{v}'" for v in values)
        parts.append(f"`{key}` IN ({quoted})")
    return " AND ".join(parts)
