"""Tables as plain folders of Parquet files, which any engine reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.errors import LakeError
from motorpool.lake import locks, swaps
from motorpool.lake.driver_rows import (
    ONE_FILE,
    Keys,
    condition,
    count_rows,
    parquet_dataset,
    read_rows,
    write_file,
    write_partitions,
)
from motorpool.lake.schemas import TABLES, Table
from motorpool.lake.task_files.scan import RowGroup, row_groups
from motorpool.lake.task_files.write import MOST_FILES, written

#: Spark takes brackets, braces, stars and backslashes in a path for a pattern, which a folder's name is not.
_LITERALLY = {"__globPaths__": "false"}


class ParquetFolder:
    """The tables of a lake in a local or mounted folder.

    A table without partitions is one file, replaced by one rename. In a table with partitions each one is replaced by
    two renames (`swaps`). This process is the only writer while it writes, and while a block of `held` lasts.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        self._spark = spark
        self._lake = Path(path)

    @property
    def sees_files(self) -> bool:
        return True

    def exists(self, table: str) -> bool:
        folder = self._lake / table
        return folder.is_dir() if TABLES[table].partition_by else (folder / ONE_FILE).is_file()

    def read(self, table: str) -> DataFrame:
        mend(self._lake)
        schema = TABLES[table].schema
        reader = self._spark.read if TABLES[table].open_ended else self._spark.read.schema(schema)
        df = reader.options(**_LITERALLY).parquet(str(self._lake / table))
        # Spark puts partition columns last; the table has its own order.
        return df.select(*(f"`{c}`" for c in dict.fromkeys([*schema.fieldNames(), *df.columns])))

    @contextmanager
    def held(self) -> Iterator[_Writer]:
        """Keep other processes from writing; what a killed one has left is undone and cleared away first.

        LakeError where another process writes, or nobody can.
        """
        key = str(self._lake.resolve())
        with _guard:
            writer = _writers.get(key)
            if writer is None or not writer.hold.is_of(self._lake):
                writer = _writers[key] = _Writer(self._lock())
            writer.n += 1
        try:
            yield writer
        finally:
            with _guard:
                writer.n -= 1
                if not writer.n:
                    writer.hold.release()
                    if _writers.get(key) is writer:
                        del _writers[key]

    def _lock(self) -> locks.Hold:
        try:
            self._lake.mkdir(parents=True, exist_ok=True)
            hold = locks.acquire(self._lake)
        except OSError as exc:
            raise LakeError(f"lake.path {self._lake}: cannot be written: {exc.strerror or exc}") from exc
        if hold is None:
            raise LakeError(
                f"lake.path {self._lake}: is being written by {locks.holder(self._lake)}, and a Parquet lake takes one "
                "run at a time: start this one again when that one has ended, or use `lake.format: delta`, where "
                "several can write"
            )
        try:
            hold.sign()
            swaps.recover(self._lake, TABLES)
        except BaseException:
            hold.release()
            raise
        return hold

    def write(self, table: Table, rows: Callable[[], DataFrame], keys: Keys, images: range | None = None) -> None:
        """Replace the rows of the given keys and images, or without both all; ``rows`` is asked under the lock.

        In a table with partitions ``images`` have a file of their own in each one, which a rename replaces.
        """
        with self._drafting(table) as draft:
            if table.partition_by:
                self._write_partitions(table, rows(), keys, draft, images)
            else:
                self._write_file(table, rows(), keys, draft, images)

    def fetch(self, table: str, columns: Sequence[str], keys: Keys) -> pa.Table:
        """The rows of a table that exists, read by this process."""
        return read_rows(self._dataset(table), TABLES[table], columns, keys)

    def count(self, table: str, keys: Keys) -> int:
        """The number of rows of a table that exists, counted by this process."""
        return count_rows(self._dataset(table), TABLES[table], keys)

    def row_groups(self, table: Table, keys: Keys) -> list[RowGroup] | None:
        """Where tasks find the rows of whole partitions of a table that exists; None where only Spark can."""
        if not table.partition_by or not set(keys) <= set(table.partition_by):
            return None
        return row_groups(self._dataset(table.name), self._lake / table.name, condition(table, keys))

    def _dataset(self, table: str) -> ds.Dataset:
        mend(self._lake)
        return parquet_dataset(self._lake / table, TABLES[table])

    def replace_rows(self, table: Table, rows: pa.Table, keys: Keys, images: range | None = None) -> bool:
        """As `write`, with rows of the driver, by this process: always True."""
        with self._drafting(table) as draft, self._naming(table):
            draft.rows.mkdir(parents=True)
            if table.partition_by:
                write_partitions(draft.rows, table, rows)
                if images is None:
                    self._place(table, keys, draft)
                else:
                    self._place_files(table, keys, draft, images)
            else:
                write_file(draft.rows, table, rows, draft.table if self.exists(table.name) else None, keys, images)
                self._put(draft.rows / ONE_FILE, draft)
        return True

    def replace_by_tasks(self, table: Table, df: DataFrame, keys: Keys) -> bool:
        """As `write`, of whole partitions, with rows of a chain, by its tasks; False where only Spark can."""
        if tuple(keys) != table.partition_by:
            return False
        (values,) = keys.values()
        if len(values) > MOST_FILES:
            return False
        with self._drafting(table) as draft:
            draft.rows.mkdir(parents=True)
            with written(df, table, draft.rows, values), self._naming(table):
                self._place(table, keys, draft)
        return True

    @contextmanager
    def _drafting(self, table: Table) -> Iterator[swaps.Draft]:
        """A draft of one write, of which there is one at a time; Spark reads the table anew behind the block."""
        with self.held() as writer, writer.one_at_a_time:
            draft = swaps.Draft.of(self._lake / table.name)
            try:
                yield draft
            finally:
                draft.discard()
        self._spark.catalog.refreshByPath(str(draft.table))

    @staticmethod
    def _put(part: Path, draft: swaps.Draft) -> None:
        draft.table.mkdir(exist_ok=True)
        # One file under one name: the rename replaces the whole table at once.
        part.replace(draft.table / ONE_FILE)

    def _write_file(
        self, table: Table, df: DataFrame, keys: Keys, draft: swaps.Draft, images: range | None = None
    ) -> None:
        if (keys or images is not None) and self.exists(table.name):
            stale = F.lit(False)
            for key, values in keys.items():
                stale = stale | ~F.col(key).isin(list(values))
            if images is not None:
                stale = stale | (F.col("image_id") < images.start) | (F.col("image_id") >= images.stop)
            df = self.read(table.name).where(stale).unionByName(df, allowMissingColumns=True)
        df.coalesce(1).write.parquet(str(draft.rows))
        with self._naming(table):
            (part,) = draft.rows.glob("*.parquet")
            self._put(part, draft)

    def _write_partitions(
        self, table: Table, df: DataFrame, keys: Keys, draft: swaps.Draft, images: range | None = None
    ) -> None:
        if images is None:
            df.write.partitionBy(*table.partition_by).parquet(str(draft.rows))
            with self._naming(table):
                self._place(table, keys, draft)
            return
        # One task writes all rows of a partition, as they are to lie in one file.
        one_each = df.repartition(*(F.col(c) for c in table.partition_by))
        one_each.write.partitionBy(*table.partition_by).parquet(str(draft.rows))
        with self._naming(table):
            self._place_files(table, keys, draft, images)

    @staticmethod
    def _place_files(table: Table, keys: Keys, draft: swaps.Draft, images: range) -> None:
        """Put the files of a draft, one for each partition, beside those of other images, in the place of their own."""
        ((key, values),) = keys.items()
        name = f"images-{images.start}.parquet"
        for partition in (f"{key}={value}" for value in values):
            new = list((draft.rows / partition).glob("*.parquet"))
            if new:
                (file,) = new
                (draft.table / partition).mkdir(parents=True, exist_ok=True)
                file.replace(draft.table / partition / name)
            else:
                (draft.table / partition / name).unlink(missing_ok=True)

    @staticmethod
    def _place(table: Table, keys: Keys, draft: swaps.Draft) -> None:
        """Put the partitions of a draft in the place of those of the keys' values, or of all."""
        depth = "*/" * len(table.partition_by)
        new = {p.relative_to(draft.rows) for p in draft.rows.glob(depth) if p.is_dir()}
        old = {p.relative_to(draft.table) for p in draft.table.glob(depth) if p.is_dir()}
        if keys:
            ((key, values),) = keys.items()
            replaced = {f"{key}={value}" for value in values}
            old = {p for p in old if set(p.parts) & replaced}
            others = sorted(str(p) for p in new if not set(p.parts) & replaced)
            if others:
                raise LakeError(f"table {table.name!r}: rows of {others[0]} are not among those to replace")
        if draft.table.is_dir():
            swaps.swap(draft, old, new)
        else:
            for mark in draft.rows.glob("*_SUCCESS*"):
                mark.unlink()
            draft.rows.rename(draft.table)

    @contextmanager
    def _naming(self, table: Table) -> Iterator[None]:
        """Turn an error of the file system into a LakeError, which names the table."""
        try:
            yield
        except OSError as exc:
            raise LakeError(f"table {table.name!r} of {self._lake}: cannot be written: {exc}") from exc


def mend(lake: Path) -> None:
    """Put back what a writer that was killed has taken out, so that nobody reads half of a write."""
    # A swap of this very process is another thread's, and no more to be waited for than another process's.
    if str(lake.resolve()) in _writers or not (torn := swaps.stopped(lake, TABLES)):
        return
    try:
        hold = locks.acquire(lake)
    except OSError as exc:
        raise LakeError(
            f"table {torn[0]!r} of {lake}: a write was stopped in the middle, and only somebody who may write there "
            f"can put the rows back: run any command on the lake as such ({exc.strerror})"
        ) from exc
    if hold is not None:
        try:
            swaps.recover(lake, TABLES)
        finally:
            hold.release()


@dataclass
class _Writer:
    """This process's hold on a lake, and the number of blocks that it serves; threads write one after the other."""

    hold: locks.Hold
    n: int = 0
    one_at_a_time: threading.RLock = field(default_factory=threading.RLock)


#: By the lakes' resolved paths.
_writers: dict[str, _Writer] = {}
_guard = threading.Lock()
