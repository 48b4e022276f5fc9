"""The tables of a lake in a folder of this machine, read by this process alone, without a Spark session."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from motorpool.config.run import LakeConfig, has_scheme, local_folder
from motorpool.errors import LakeError
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.driver_rows import (
    ONE_FILE,
    as_dicts,
    count_rows,
    delta_dataset,
    has_commits,
    parquet_dataset,
    read_rows,
)
from motorpool.lake.parquet import mend
from motorpool.lake.schemas import TABLES
from motorpool.spark.session import is_submitted


class Tables(Protocol):
    """What reads a lake: `LocalTables` or `Lake`."""

    def exists(self, table: str) -> bool: ...

    def rows(self, table: str, columns: Sequence[str], **keys: Sequence[str]) -> list[dict[str, Any]]: ...

    def count(self, table: str, **keys: Sequence[str]) -> int: ...


class LocalTables:
    """The tables of a lake, Delta or Parquet; see `motorpool.lake.Lake` for reading by Spark, and for writing.

    LakeError where the lake is in a catalog or in a store: only Spark knows the way there.
    """

    def __init__(self, config: LakeConfig) -> None:
        folder = local_folder(config.path) if config.path is not None else None
        if folder is None:
            where = config.path or f"in the catalog's schema {config.schema_name}"
            raise LakeError(f"the lake ({where}) lies in no folder of this machine, and is read without Spark here")
        self.folder: Path = folder.resolve()
        self._is_delta = config.format == "delta"

    def exists(self, table: str) -> bool:
        folder = self.folder / table
        if self._is_delta:
            return has_commits(folder)
        return folder.is_dir() if TABLES[table].partition_by else (folder / ONE_FILE).is_file()

    def fetch(self, table: str, columns: Sequence[str], **keys: Sequence[str]) -> pa.Table:
        """The rows with the given key values, of the columns wanted; none where the table has never been written.

        Memory: these columns of these rows. LakeError for a Delta table of a version that this reader does not know.
        """
        known = TABLES[table]
        data = self.dataset(table)
        if data is None:
            return arrow_columns(known.columns).empty_table().select(list(columns))
        return read_rows(data, known, columns, keys)

    def count(self, table: str, **keys: Sequence[str]) -> int:
        """How many rows have the given key values; none where the table has never been written. LakeError as above."""
        data = self.dataset(table)
        return 0 if data is None else count_rows(data, TABLES[table], keys)

    def dataset(self, table: str) -> ds.Dataset | None:
        """A table that exists, as it is now; None for one that has never been written. LakeError as above."""
        if not self._is_delta:
            mend(self.folder)
        if not self.exists(table):
            return None
        folder = self.folder / table
        data = delta_dataset(folder) if self._is_delta else parquet_dataset(folder, TABLES[table])
        if data is None:
            raise LakeError(
                f"table {table!r} of {self.folder}: cannot be read without Spark: it is of a newer version of "
                "Delta, or its path has characters other than letters, digits, blanks and ./+=,@~-"
            )
        return data

    def stored(self, table: str, version: int | None) -> ds.Dataset | None:
        """A Delta table in the columns that it has there, at a version or now; None where there is no such version."""
        return delta_dataset(self.folder / table, version) if self._is_delta and self.exists(table) else None

    def state(self) -> str:
        """A fingerprint of all tables: another one after every write, and where the files were copied.

        From the names, sizes and times of their files, of Delta those of the log.
        """
        found = hashlib.sha256()
        for table in TABLES:
            folder = self.folder / table / "_delta_log" if self._is_delta else self.folder / table
            for file in sorted(folder.rglob("*")):
                known = file.stat()
                found.update(f"{file.relative_to(self.folder)} {known.st_size} {known.st_mtime_ns}\n".encode())
        return found.hexdigest()

    def rows(self, table: str, columns: Sequence[str], **keys: Sequence[str]) -> list[dict[str, Any]]:
        """As `fetch`, each row by column; for small tables."""
        return as_dicts(self.fetch(table, columns, **keys))


def tables_in_folder(lake: LakeConfig) -> LocalTables | None:
    """The tables of a lake that this process can read by itself; None for one in a catalog, in a store, or elsewhere.

    Under spark-submit a path without a scheme may lie in the cluster's own file system.
    """
    folder = local_folder(lake.path) if lake.path is not None else None
    if folder is None or (is_submitted() and lake.format == "delta" and not has_scheme(str(lake.path))):
        return None
    return LocalTables(lake)
