"""The one place where tables are named, created, read and written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from motorpool.config.run import CONSENSUS, LakeConfig, has_scheme
from motorpool.errors import LakeError
from motorpool.lake import locks, views
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.delta import DeltaCatalog, DeltaFolder, driver_folder
from motorpool.lake.driver_rows import Keys, arrow_rows, as_dicts, selected
from motorpool.lake.parquet import ParquetFolder
from motorpool.lake.schemas import TABLES, VIEWS, Table
from motorpool.lake.task_files.scan import scan
from motorpool.spark import blocks
from motorpool.texts import NAME_PATTERN

#: Values of rows that this process writes instead of tasks, at most: some 32 MiB.
FEW_VALUES = 4 * 2**20
#: Values of a table that this process reads instead of tasks, at most: 8 MiB in it, some more in the JVM.
FEW_READ = 2**20
#: The column of tables whose rows are long: their values are not counted by rows and columns.
_VECTOR = "vector"
#: What columns of users may hold, so that Arrow and Spark mean the same by them.
_PLAIN_TYPES = (pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_())
#: The folder inside the lake's whose lock an append holds.
_GROWING = ".growing"
#: A query that names the tables which it reads.
_SELECTS = re.compile(r"[\s(]*(?:SELECT|WITH)\b", re.IGNORECASE)


class Lake:
    """The tables of one project, Delta or Parquet, under a path or in a catalog's schema.

    Every write replaces a whole table or all rows of some keys; one that fails, or whose process is killed, leaves the
    table as it was.

    With Delta a write is one transaction: readers see the rows before or the rows after. Several runs may write at
    once: who meets a commit of another writes again, a bounded number of times.

    With Parquet the new files are written aside and moved into place by renames. A table in one file is replaced at
    once. In a table with partitions they are replaced one after the other: who reads meanwhile may see some old and
    some new ones, and miss the one that is between its two renames. A write that was stopped there is undone by the
    next `Lake` that reads or writes; other engines read what lies there until then. A Parquet lake has one writing
    process at a time, by a lock that ends with it.
    """

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        self.spark = spark
        self.config = config
        self._tables: DeltaCatalog | DeltaFolder | ParquetFolder
        if self.in_catalog:
            self._tables = DeltaCatalog(spark, self._schema_name())
        elif config.format == "delta":
            self._tables = DeltaFolder(spark, str(config.path))
        else:
            self._tables = ParquetFolder(spark, str(config.path))
        #: Views that this object has made in the catalog.
        self._made: set[str] = set()

    # -- names -------------------------------------------------------------------------------------

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

    @property
    def sees_files(self) -> bool:
        """Whether this process sees the files of tables, so that it can read and write them by itself."""
        return self._tables.sees_files

    def sql_name(self, table: str) -> str:
        """The table as SQL names it: for catalogs its full name, for paths the temporary view's."""
        return self._catalog_name(table) if self.in_catalog else f"`{table}`"

    @staticmethod
    def schema(table: str, without: Sequence[str] = ()) -> StructType:
        """A table's columns, to make rows with; ``without`` names columns to leave out."""
        return StructType([f for f in TABLES[table].schema if f.name not in without])

    # -- reading -----------------------------------------------------------------------------------

    def exists(self, table: str) -> bool:
        return self._tables.exists(table)

    def check(self, table: str) -> None:
        """LakeError, which names the stage that writes it, where a table does not exist."""
        if not self.exists(table):
            stage = TABLES[table].written_by
            raise LakeError(f"table {table!r} is not in the lake {self}: run `motorpool {stage}` first")

    def read(self, table: str, **keys: str | Sequence[str]) -> DataFrame:
        """The rows of a table, only those with the given key values; LakeError when it does not exist.

        Up to FEW_READ values this process reads, where it sees the files, and holds (`blocks.hold`): Spark's questions
        to a Delta table take jobs of their own, before the first row is read. More are read by tasks.
        """
        self.check(table)
        few = self._few(table, {key: [value] if isinstance(value, str) else value for key, value in keys.items()})
        if few is not None:
            return few
        df = self._whole(table)
        for key, value in keys.items():
            df = df.where(F.col(key) == value if isinstance(value, str) else F.col(key).isin(list(value)))
        return df

    def _few(self, table: str, keys: Keys) -> DataFrame | None:
        """`read` of few rows without vectors, held; None for others, and where only Spark knows their types."""
        known = TABLES[table].schema
        names = known.fieldNames()
        if _VECTOR in names or not self.sees_files:
            return None
        n = self._tables.count(table, keys)
        if n is None or n * len(names) > FEW_READ:
            return None
        rows = self._tables.fetch(table, (), keys)
        if rows is None or rows.nbytes > 8 * FEW_READ:
            return None
        further = [f for f in rows.schema if f.name not in names]
        if not all(f.type in _PLAIN_TYPES for f in further):
            return None
        schema = StructType([*known, *from_arrow_schema(pa.schema(further))])
        return blocks.hold(self.spark, rows.to_batches(), schema)

    def _whole(self, table: str) -> DataFrame:
        """A table with all of its columns: nulls for those that it had not yet when it was written."""
        df = self._tables.read(table)
        missing = [f for f in TABLES[table].schema if f.name not in df.columns]
        if not missing:
            return df
        added = df.withColumns({f.name: F.lit(None).cast(f.dataType) for f in missing})
        return added.select(*(f"`{c}`" for c in dict.fromkeys([*TABLES[table].schema.fieldNames(), *df.columns])))

    def first_appended(self) -> int | None:
        """The lowest image_id that `motorpool append` has given; None where nothing has been appended."""
        return min((int(row["first_image_id"]) for row in self.rows("appends", ["first_image_id"])), default=None)

    def fitted(self, rows: DataFrame) -> DataFrame:
        """Those of ``rows`` (with ``image_id``) whose image is not appended: all that is fitted rests on these."""
        first = self.first_appended()
        return rows if first is None else rows.where(F.col("image_id") < first)

    def fitted_vectors(self, table: str, name: str = "vector", **keys: str) -> DataFrame:
        """``image_id`` and the vectors, in a column of a ``name``, of the `fitted` rows with the given key values.

        Tasks read the files themselves where this process sees these (`task_files.scan`), a chain then; else Spark.
        """
        self.check(table)
        groups = self._tables.row_groups(TABLES[table], {key: [value] for key, value in keys.items()})
        if groups is None:
            rows = self.fitted(self.read(table, **keys))
            return rows.select("image_id", F.col(_VECTOR).alias(name))
        return scan(self.spark, groups, name, self.first_appended())

    def count_fitted(self, table: str, **keys: Sequence[str]) -> int:
        """How many rows `read` and `fitted` would give; no Spark job where nothing is appended, as by `count`."""
        if self.first_appended() is None:
            return self.count(table, **keys)
        return self.fitted(self.read(table, **keys)).count()

    def read_or_empty(self, table: str, **keys: str | Sequence[str]) -> DataFrame:
        """As ``read``, but no rows instead of an error where the table has never been written."""
        if self.exists(table):
            return self.read(table, **keys)
        return self.spark.createDataFrame([], TABLES[table].schema)

    def fetch(self, table: str, columns: Sequence[str] = (), **keys: Sequence[str]) -> pa.Table:
        """The rows of a small table with the given key values; none where the table has never been written.

        ``columns`` are those wanted, all by default. No Spark job runs where this process sees the files. The whole
        answer is in its memory: for tables whose rows are counted by models, feature sets or clusters, not by images.
        """
        if not self.exists(table):
            schema = arrow_columns(TABLES[table].columns)
            return schema.empty_table().select(list(columns or schema.names))
        found = self._tables.fetch(table, columns, keys)
        if found is not None:
            return found
        df = self.read(table, **keys)
        return df.select(*(columns or df.columns)).toArrow()

    def rows(self, table: str, columns: Sequence[str] = (), **keys: Sequence[str]) -> list[dict[str, Any]]:
        """As `fetch`, each row by column."""
        return as_dicts(self.fetch(table, columns, **keys))

    def count(self, table: str, **keys: Sequence[str]) -> int:
        """How many rows `read` would give; no Spark job where this process sees the files."""
        self.check(table)
        found = self._tables.count(table, keys)
        return self.read(table, **keys).count() if found is None else found

    def consensus_outliers(self) -> DataFrame:
        """``image_id`` of the outliers of the consensus, each once; no rows where no outliers have been looked for."""
        return self.read_or_empty("outliers", features=CONSENSUS).where("is_outlier").select("image_id")

    # -- writing -----------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the length of a run: no other process writes to a Parquet lake, which is refused by LakeError.

        LakeError, which names the path, too where a lake in a folder of this machine cannot be written at all. Several
        runs may write to a Delta lake.
        """
        if isinstance(self._tables, ParquetFolder):
            with self._tables.held():
                yield
            return
        folder = driver_folder(self.spark, self.config.path) if self.config.path is not None else None
        if folder is not None:
            _check_writable(folder)
        yield

    @contextmanager
    def growing(self) -> Iterator[None]:
        """For the length of an append: no other process appends to a lake in a folder of this machine (LakeError)."""
        folder = driver_folder(self.spark, self.config.path) if self.config.path is not None else None
        if folder is None:
            yield
            return
        try:
            (folder / _GROWING).mkdir(parents=True, exist_ok=True)
            hold = locks.acquire(folder / _GROWING)
        except OSError as exc:
            raise LakeError(f"lake.path {folder}: cannot be written: {exc.strerror or exc}") from exc
        if hold is None:
            raise LakeError(
                f"lake.path {folder}: is being appended to by {locks.holder(folder / _GROWING)}, and a lake takes one "
                "append at a time: start this one again when that one has ended"
            )
        try:
            hold.sign()
            yield
        finally:
            hold.release()

    def overwrite(self, table: str, df: DataFrame) -> None:
        """Replace all rows of a table."""
        self._write(TABLES[table], lambda: conform(df, TABLES[table]), {})

    def overwrite_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """`overwrite` with rows of the driver, by column, as `replace_rows` takes them."""
        self._write(TABLES[table], arrow_rows(TABLES[table], rows), {})

    def replace(self, table: str, df: DataFrame, keys: Keys, n_values: int | None = None) -> None:
        """Replace the rows whose key columns hold the given values; ``df`` holds rows of these keys only.

        ``n_values`` says how many values (numbers, texts, elements of vectors) it has at most, where the caller knows.
        Up to FEW_VALUES come to this process, which writes them as `replace_rows` does, as it does what it holds
        (`blocks.held`): a commit by Spark takes several jobs. More are written by tasks: those of a chain
        (`blocks.chain`) by Arrow (`task_files.write`) where this process sees the files, others by Spark.
        """
        _check_keys(keys)
        if blocks.held(df) is not None and not TABLES[table].open_ended:
            self.replace_rows(table, blocks.table(df), keys)
        elif n_values is not None and n_values <= FEW_VALUES and self.sees_files:
            self.replace_rows(table, conform(df, TABLES[table]).toArrow(), keys)
        elif not (blocks.chain(df) and self._tables.replace_by_tasks(TABLES[table], df, keys)):
            self._write(TABLES[table], lambda: conform(df, TABLES[table]), keys)

    def replace_images(
        self, table: str, df: DataFrame, images: range, keys: Keys | None = None, n_values: int | None = None
    ) -> None:
        """As `replace`, of the given keys the rows of some images only; ``df`` has rows of these alone.

        The other rows are not written again, but for those of a Parquet lake's tables without partitions. ``keys`` are
        needed where the table has partitions. The ``images`` of a table are always the same ranges: in a Parquet lake
        each has a file of its own, named by its first.
        """
        if keys is not None or TABLES[table].partition_by:
            _check_keys(keys or {})
        if n_values is not None and n_values <= FEW_VALUES and self.sees_files and not TABLES[table].open_ended:
            rows = arrow_rows(TABLES[table], conform(df, TABLES[table]).toArrow())
            _check_selected(table, rows, keys or {}, images)
            self._write(TABLES[table], rows, keys or {}, images)
        else:
            self._write(TABLES[table], lambda: conform(df, TABLES[table]), keys or {}, images)

    def replace_rows(self, table: str, rows: Sequence[Mapping[str, Any]] | pa.Table, keys: Keys) -> None:
        """`replace` with rows of the driver, by column, or as `fetch` gives them.

        ``created_at``, where the table has it, is now in rows without one. No Spark job runs where this process
        sees the files.
        """
        _check_keys(keys)
        ready = arrow_rows(TABLES[table], rows)
        _check_selected(table, ready, keys)
        self._write(TABLES[table], ready, keys)

    def upsert(self, table: str, df: DataFrame, key: str | Sequence[str]) -> None:
        """Replace the rows that have the same ``key`` (a column or several) as one of ``df``, and add the others of it.

        Rows that another run writes meanwhile stay. ``df`` has each key once, without nulls; it is evaluated twice or
        more, and the whole table is written again: for small tables without partitions.
        """
        if TABLES[table].partition_by:
            raise ValueError(f"table {table!r} has partitions: use replace")

        keys = [key] if isinstance(key, str) else list(key)

        def rows() -> DataFrame:
            new = conform(df, TABLES[table])
            rest = conform(self.read_or_empty(table), TABLES[table]).join(new.select(*keys), on=keys, how="left_anti")
            return rest.unionByName(new)

        self._write(TABLES[table], rows, {})

    def _write(
        self, table: Table, rows: pa.Table | Callable[[], DataFrame], keys: Keys, images: range | None = None
    ) -> None:
        """Every write: of rows that the driver holds, or that Spark makes, anew for each try."""
        if callable(rows):
            self._tables.write(table, rows, keys, images)
        elif not self._tables.replace_rows(table, rows, keys, images):
            self._tables.write(table, lambda: self.spark.createDataFrame(rows.combine_chunks()), keys, images)
        if self.in_catalog:
            self._make_views(table.name)

    def _make_views(self, written: str) -> None:
        """Once for each `Lake`, as soon as a table is written: a newer version's views take the place of older ones."""
        if written == "label_sets":
            # Other attributes are other columns.
            self._made.discard("labelled_images")
        self.make_views([v for v in VIEWS if v not in self._made and written in views.needed(v)])

    def make_views(self, wanted: Sequence[str] = tuple(VIEWS)) -> list[str]:
        """Make views in the catalog's schema, where all their tables are there; returns their names."""
        ready = [v for v in wanted if all(self.exists(t) for t in views.needed(v))]
        labelled = views.labelled_attributes(self)
        views.make_lasting(self.spark, ready, self._sql_names(ready, labelled), labelled, self._schema_name())
        self._made |= set(ready)
        return ready

    # -- SQL ---------------------------------------------------------------------------------------

    def _sql_names(self, wanted: Iterable[str], labelled: Sequence[str]) -> dict[str, str]:
        """What views select from, by table: its name, or in a catalog a query that adds the columns that it lacks."""
        names = {name: self.sql_name(name) for name in TABLES}
        names["attributes"] = views.attribute_columns(labelled)
        if self.in_catalog:
            for name in {table for view in wanted for table in views.needed(view)}:
                there = self._tables.read(name).columns
                added = [f for f in TABLES[name].schema if f.name not in there]
                if added:
                    nulls = ", ".join(f"CAST(NULL AS {f.dataType.simpleString()}) AS `{f.name}`" for f in added)
                    names[name] = f"(SELECT *, {nulls} FROM {names[name]})"  # noqa: S608 (names from the code)
        return names

    def register(self, query: str | None = None) -> list[str]:
        """Make tables and views queryable by name in this session; returns those names. Nothing is written.

        For a ``query`` that selects, only those are made that it names: each takes Spark some tenths of a second, and
        others that are in the session stay. The names that are returned are of all that there are.

        Under a path all are temporary views. In a catalog the schema becomes the current one and the views temporary
        ones, beside those that runs have made there. Temporary views of these names are replaced or dropped.
        """
        words = set(re.findall(r"\w+", query.lower())) if query is not None and _SELECTS.match(query) else None
        # Temporary views win over tables of the same name: those of another lake must not answer for this one.
        for name in (*TABLES, *VIEWS):
            if words is None or name in words:
                self.spark.catalog.dropTempView(name)
        present = [name for name in TABLES if self.exists(name)]
        ready = [view for view in VIEWS if views.needed(view) <= set(present)]
        named = set(present + ready)
        if words is not None:
            named &= words
        wanted = [view for view in ready if view in named]
        if self.in_catalog:
            self.spark.sql(f"USE {self._schema_name()}")
        else:
            for name in present:
                if name in named or any(name in views.needed(view) for view in wanted):
                    self._whole(name).createOrReplaceTempView(name)
        labelled = views.labelled_attributes(self)
        views.make_temporary(self.spark, wanted, self._sql_names(wanted, labelled), labelled)
        return present + ready

    def leaderboard(self) -> DataFrame:
        """The rows of the view of that name; LakeError where no model has been fitted.

        It reads one table, writes nothing, and leaves the session's views and its current schema alone.
        """
        return self.spark.sql(VIEWS["leaderboard"], models=self.read("models"))

    def __str__(self) -> str:
        if self.in_catalog:
            return ".".join(n for n in (self.config.catalog, self.config.schema_name) if n)
        return str(self.config.path)


def _check_selected(table: str, rows: pa.Table, keys: Keys, images: range | None = None) -> None:
    """LakeError where rows are not among those to replace."""
    strange = rows.filter(pc.invert(selected(rows, keys, images))).slice(0, 1).to_pylist()
    if strange:
        raise LakeError(f"table {table!r}: {strange[0]} is not among the rows to replace")


def _check_keys(keys: Keys) -> None:
    """They become SQL and folders' names."""
    if not keys or not all(keys.values()):
        raise ValueError("replace needs at least one key with values; use overwrite for a whole table")
    for key, values in keys.items():
        bad = [v for v in values if not NAME_PATTERN.fullmatch(v)]
        if bad:
            raise LakeError(f"{key}: {bad[0]!r} cannot name rows of a table")


def conform(df: DataFrame, table: Table) -> DataFrame:
    """Exactly the table's columns, in order and typed; further columns stay only where the table allows."""
    missing = [f.name for f in table.schema if f.name not in df.columns]
    if missing:
        raise LakeError(f"table {table.name!r}: the rows to write lack the columns {', '.join(missing)}")
    # As text, since each column object is several calls of the JVM. Names of further columns are users' own.
    columns = [f"CAST(`{f.name}` AS {f.dataType.simpleString()}) AS `{f.name}`" for f in table.schema]
    if table.open_ended:
        others = (c for c in df.columns if c not in table.schema.fieldNames())
        columns += ["`" + c.replace("`", "``") + "`" for c in others]
    made = df.selectExpr(*columns)
    # With the comments of columns, which come with the schema.
    further = [f for f in made.schema if table.open_ended and f.name not in table.schema.fieldNames()]
    return made.to(StructType([*table.commented, *further]))


def _check_writable(folder: Path) -> None:
    """LakeError unless a folder can be written, or made and written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Unlike the folder's permissions this also tells of file systems that are mounted for reading.
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as exc:
        raise LakeError(f"lake.path {folder}: cannot be written: {exc.strerror or exc}") from exc
