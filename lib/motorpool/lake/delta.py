"""Delta tables, in a folder or in a catalog's schema: one transaction a write, which several runs may do at once."""

from __future__ import annotations

import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F

from motorpool.config.run import has_scheme, local_folder
from motorpool.errors import LakeError
from motorpool.lake import locks
from motorpool.lake.driver_rows import (
    Keys,
    condition,
    count_rows,
    delta_dataset,
    has_commits,
    read_rows,
    replace_in_delta,
)
from motorpool.lake.schemas import TABLES, Table
from motorpool.lake.task_files.commit import add_files, takes_files
from motorpool.lake.task_files.scan import RowGroup, row_groups
from motorpool.lake.task_files.write import MOST_FILES, written

log = logging.getLogger(__name__)

#: Statistics on the first column skip files by image or model; on vectors they only cost time.
_PROPERTIES = {"delta.dataSkippingNumIndexedCols": "2"}
#: Rows of this version may have columns that the table had not yet when it was made.
_WITH_NEW_COLUMNS = ("mergeSchema", "true")
#: How often a write is tried that meets commits of others: with the pauses between them about a minute.
_TRIES = 10
_LONGEST_PAUSE_S = 15.0
#: How it shows that somebody else has committed in between, or has made the table: exceptions' and errors' names.
_CONFLICT = re.compile(
    r"Concurrent(?:Append|DeleteRead|DeleteDelete|Write|Transaction|Modification)Exception|"
    r"(?:MetadataChanged|ProtocolChanged)Exception|DELTA_(?:CONCURRENT_\w+|METADATA_CHANGED|PROTOCOL_CHANGED)|"
    r"CommitFailedError|A table already exists at|"
    r"DELTA_(?:PATH_EXISTS|TABLE_ALREADY_EXISTS)|TABLE_OR_VIEW_ALREADY_EXISTS|TableAlreadyExistsException"
)


def retried(write: Callable[[], None], table: str, lake: str) -> None:
    """Write again, after growing random pauses, where another run has changed the table in between.

    ``write`` must give the same table however often it is done, and read anew what it computes rows from. LakeError
    where each of the tries meets a commit of others.
    """
    pause = 0.25
    for left in reversed(range(_TRIES)):
        try:
            write()
        except Exception as exc:
            # PySpark knows only some of Java's exceptions: the others come as Py4J's, with the name in the text.
            met = _CONFLICT.search(f"{type(exc).__name__}: {exc}")
            if met is None:
                raise
            if not left:
                raise LakeError(
                    f"table {table!r} of {lake}: other runs write to it, and each of {_TRIES} tries met a commit of "
                    f"theirs ({met[0]}): start this run again when they have ended; it goes on from here"
                ) from exc
            log.info("table %s: another run has changed it in between (%s): writing again", table, met[0])
        else:
            return
        # Two runs that met once must not meet again.
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (no secret)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


class DeltaFolder:
    """The tables of a lake under a path.

    In a folder of this machine what a refused or killed write leaves behind is removed: a folder that never became a
    table, and partitions that never came into one. Writers share a lock, and this is done by who has it alone: the next
    writer where others are still writing.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        self._spark = spark
        self._path = path.rstrip("/")
        self._folder = driver_folder(spark, path)

    @property
    def sees_files(self) -> bool:
        return self._folder is not None

    def exists(self, table: str) -> bool:
        if self._folder is not None:
            return has_commits(self._folder / table)
        from delta import DeltaTable

        return DeltaTable.isDeltaTable(self._spark, f"{self._path}/{table}")

    def read(self, table: str) -> DataFrame:
        return self._spark.read.format("delta").load(f"{self._path}/{table}")

    def write(self, table: Table, rows: Callable[[], DataFrame], keys: Keys, images: range | None = None) -> None:
        """Replace the rows of the given keys and images, or without both all; ``rows`` is asked again by each try."""
        path = f"{self._path}/{table.name}"

        def once() -> None:
            there = self.exists(table.name)
            with self._tidy(table, keys, there):
                df = rows()
                if there:
                    _replacing(table, df, keys, images).save(path)
                else:
                    # The table comes into being with its rows: a write that fails leaves none.
                    writer = df.write.format("delta").mode("errorifexists").partitionBy(*table.partition_by)
                    writer.options(**_PROPERTIES).save(path)

        retried(once, table.name, self._path)

    def fetch(self, table: str, columns: Sequence[str], keys: Keys) -> pa.Table | None:
        """The rows of a table that exists, read by this process; None where only Spark can."""
        data = self._dataset(table)
        return None if data is None else read_rows(data, TABLES[table], columns, keys)

    def count(self, table: str, keys: Keys) -> int | None:
        """The number of rows of a table that exists, counted by this process; None where only Spark can."""
        data = self._dataset(table)
        return None if data is None else count_rows(data, TABLES[table], keys)

    def row_groups(self, table: Table, keys: Keys) -> list[RowGroup] | None:
        """Where tasks find the rows of whole partitions of a table that exists; None where only Spark can."""
        data = self._dataset(table.name)
        if data is None or self._folder is None or not set(keys) <= set(table.partition_by):
            return None
        return row_groups(data, self._folder / table.name, condition(table, keys))

    def _dataset(self, table: str) -> ds.Dataset | None:
        return None if self._folder is None else delta_dataset(self._folder / table)

    def replace_by_tasks(self, table: Table, df: DataFrame, keys: Keys) -> bool:
        """As `write`, of whole partitions, with rows of a chain, by its tasks; False where only Spark can."""
        if self._folder is None or tuple(keys) != table.partition_by:
            return False
        folder, (values,) = self._folder / table.name, keys.values()
        if len(values) > MOST_FILES or not takes_files(folder, table):
            return False
        with self._tidy(table, keys, self.exists(table.name)), written(df, table, folder, values) as files:
            retried(lambda: add_files(folder, table, files, values, _PROPERTIES), table.name, self._path)
        return True

    def replace_rows(self, table: Table, rows: pa.Table, keys: Keys, images: range | None = None) -> bool:
        """As `write`, with rows of the driver, by this process; False where only Spark can."""
        if self._folder is None:
            return False
        folder, done = self._folder / table.name, False

        def once() -> None:
            nonlocal done
            with self._tidy(table, keys, self.exists(table.name)):
                done = replace_in_delta(folder, table, rows, predicate(keys, images) or None, _PROPERTIES)

        retried(once, table.name, self._path)
        return done

    @contextmanager
    def _tidy(self, table: Table, keys: Keys, there: bool) -> Iterator[None]:
        """Leave no files of a write that fails."""
        if self._folder is None:
            try:
                yield
            except Exception:
                if not there:
                    log.warning("%s/%s: may hold files of a write that failed: remove it", self._path, table.name)
                raise
            return
        folder = self._folder / table.name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not there:
                self._clear(folder, [])
            mine = [folder / f"{column}={v}" for column in table.partition_by for v in keys.get(column, ())]
            made = [p for p in mine if not p.exists()]
            hold = locks.acquire(self._folder, shared=True, wait=True)
        except OSError as exc:
            raise LakeError(f"lake.path {self._path}: cannot be written: {exc.strerror or exc}") from exc
        try:
            yield
        except Exception:
            if hold is not None:
                hold.release()
            self._clear(folder, made)
            raise
        finally:
            if hold is not None:
                hold.release()

    def _clear(self, folder: Path, partitions: Sequence[Path]) -> None:
        """Remove a folder that is no table, or those of its partitions that no rows were committed to."""
        if not folder.exists() or self._folder is None:
            return
        hold = locks.acquire(self._folder)
        if hold is None:
            # Others are writing, perhaps these very files.
            return
        try:
            if not hold.sure:
                return
            if not has_commits(folder):
                shutil.rmtree(folder, ignore_errors=True)
                return
            for partition in partitions:
                column, _, value = partition.name.partition("=")
                if partition.exists() and self.read(folder.name).where(F.col(column) == value).isEmpty():
                    shutil.rmtree(partition, ignore_errors=True)
        finally:
            hold.release()


class DeltaCatalog:
    """The tables of a schema in a catalog; ``schema`` is its quoted name."""

    def __init__(self, spark: SparkSession, schema: str) -> None:
        self._spark = spark
        self._schema = schema

    def _name(self, table: str) -> str:
        return f"{self._schema}.`{table}`"

    @property
    def sees_files(self) -> bool:
        return False

    def exists(self, table: str) -> bool:
        return self._spark.catalog.tableExists(self._name(table))

    def read(self, table: str) -> DataFrame:
        return self._spark.read.table(self._name(table))

    def fetch(self, table: str, columns: Sequence[str], keys: Keys) -> pa.Table | None:
        """None: a catalog's tables are read by Spark."""

    def count(self, table: str, keys: Keys) -> int | None:
        """None: a catalog's tables are read by Spark."""

    def row_groups(self, table: Table, keys: Keys) -> list[RowGroup] | None:
        """None: a catalog's tables are read by Spark."""

    def replace_by_tasks(self, table: Table, df: DataFrame, keys: Keys) -> bool:
        """False: a catalog's tables are written by Spark."""
        return False

    def replace_rows(self, table: Table, rows: pa.Table, keys: Keys, images: range | None = None) -> bool:
        """False: a catalog's tables are written by Spark."""
        return False

    def write(self, table: Table, rows: Callable[[], DataFrame], keys: Keys, images: range | None = None) -> None:
        """Replace the rows of the given keys and images, or without both all; ``rows`` is asked again by each try."""
        name, created = self._name(table.name), False

        def once() -> None:
            nonlocal created
            if not self.exists(table.name):
                created = True
                # First the empty table, then its rows: catalogs refuse to create one over the files of a killed write.
                self._spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
                empty = self._spark.createDataFrame([], rows().schema).write.format("delta").mode("ignore")
                empty.options(**_PROPERTIES).partitionBy(*table.partition_by).saveAsTable(name)
            df, replaced = rows(), predicate(keys, images)
            if replaced or table.partition_by:
                # Unlike saveAsTable, this leaves the catalog's entry alone, which some refuse to change.
                writer = df.writeTo(name).option(*_WITH_NEW_COLUMNS)
                writer.overwrite(F.expr(replaced) if replaced else F.lit(True))
            else:
                _replacing(table, df, keys).saveAsTable(name)

        try:
            retried(once, table.name, self._schema.replace("`", ""))
        except Exception:
            if created and self._is_untouched(name):
                self._spark.sql(f"DROP TABLE IF EXISTS {name}")
            raise

    def _is_untouched(self, name: str) -> bool:
        """Whether nothing was written to a table since it was made: what another run has put there must stay."""
        latest = self._spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").first()
        return latest is not None and latest["version"] == 0


def driver_folder(spark: SparkSession, path: str) -> Path | None:
    """The folder of this machine that Spark means by a path; None where it means another file system."""
    folder = local_folder(path)
    # Spark Connect's client is not the driver, and sees other folders than that does.
    if folder is None or getattr(spark, "_jsc", None) is None:
        return None
    # Where the cluster's own file system is another (HDFS on YARN, DBFS), a path without a scheme lies there.
    default = str(spark._jsc.hadoopConfiguration().get("fs.defaultFS", "file:///"))
    return folder if has_scheme(path) or default.startswith("file:") else None


def predicate(keys: Keys, images: range | None = None) -> str:
    """SQL for ``key IN (values)`` and ``image_id`` among the images; values hold no quotes: `Lake` checks them."""
    parts = []
    for key, values in keys.items():
        quoted = ", ".join(f"'{v}'" for v in values)
        parts.append(f"`{key}` IN ({quoted})")
    if images is not None:
        parts.append(f"`image_id` >= {images.start} AND `image_id` < {images.stop}")
    return " AND ".join(parts)


def _replacing(table: Table, df: DataFrame, keys: Keys, images: range | None = None) -> DataFrameWriter:
    writer = df.write.format("delta").mode("overwrite")
    replaced = predicate(keys, images)
    if replaced:
        return writer.option("replaceWhere", replaced).option(*_WITH_NEW_COLUMNS)
    return writer.option("overwriteSchema", "true").partitionBy(*table.partition_by)
