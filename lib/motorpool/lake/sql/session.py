"""A lake in a folder of this machine, asked by DuckDB over Arrow's datasets: for reading only, in bounded memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from motorpool.errors import ConfigError, LakeError
from motorpool.lake.arrow_types import arrow_columns, sql_type
from motorpool.lake.local_tables import LocalTables
from motorpool.lake.schemas import TABLES, VIEWS
from motorpool.lake.sql import NotUnderstoodError, UnknownTableError
from motorpool.lake.sql.macros import MACROS, REFUSED
from motorpool.lake.sql.translation import Names, Translated, translate
from motorpool.lake.views import attribute_columns, comments, labelled_attributes, needed

#: Memory of DuckDB itself; what needs more is written to a temporary folder. Arrow reads row groups ahead beside it.
MEMORY = "2GB"
#: Rows of an answer that are made at a time.
BATCH = 8192
#: Types in which DuckDB counts and sums, for Spark's BIGINT.
_WIDE = re.compile(r"\bU?HUGEINT\b|\bUBIGINT\b")
#: Types of answers that Spark gives otherwise.
_STRANGE = re.compile(r"DECIMAL|INTERVAL|\bTIME\b(?! ZONE)|UUID|JSON|BLOB|BIT|ENUM|UNION|VARIANT|BIGNUM")
_DESCRIBE = re.compile(r"\s*(?:DESCRIBE|DESC)\s+(?:TABLE\s+)?`?(\w+)`?\s*;?\s*", re.IGNORECASE)
T = TypeVar("T")
_SHOW_TABLES = re.compile(r"\s*SHOW\s+TABLES\s*;?\s*", re.IGNORECASE)


@contextmanager
def _explained(names: Sequence[str]) -> Iterator[None]:
    """What reading can meet, as errors that say what to do."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as exc:
        # What DuckDB meets comes as its own error with the first rows, and as Arrow's or the system's behind them.
        reason = str(exc).split("\n")[0]
        if REFUSED in reason:
            raise ConfigError(f"DuckDB does not answer {_refused_in(exc)} as Spark does: use --engine spark") from exc
        if isinstance(exc, FileNotFoundError) or "IOError" in reason or "No such file" in reason:
            raise LakeError(
                f"the lake's files changed while they were read ({reason}): a run writes to it; ask again"
            ) from exc
        if "Out of Memory" in reason or "No space left" in reason:
            raise LakeError(
                f"the query needs more than {MEMORY} of memory and the disk that is free: {reason}"
            ) from exc
        raise _mistake(reason, names) from exc


def _mistake(reason: str, names: Sequence[str]) -> ConfigError:
    return ConfigError(f"{reason}\nThe lake has: {', '.join(names)}")


def _refused_in(exc: BaseException) -> str:
    return str(exc).split("\n")[0].partition(REFUSED)[2].strip()


def _heard(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What ``work`` gives. A thread does it, so that Ctrl-C is heard meanwhile; DuckDB then leaves its query."""
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(work)
        try:
            return found.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


class DuckAnswer:
    """An answer that comes as it is read."""

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        names: Sequence[str] = (),
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        """``connection`` is asked for the rows; None where they are there."""
        self._reader, self._names, self._connection = reader, names, connection
        self.columns: list[str] = reader.schema.names

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, once; LakeError where reading fails."""
        with _explained(self._names):
            if self._connection is None:
                yield from self._reader
                return
            rows = iter(self._reader)
            while (batch := _heard(self._connection, lambda: next(rows, None))) is not None:
                yield batch

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Python's values, as they come; see `motorpool.lake.reading.Answer`."""
        for batch in self.batches():
            yield from zip(*map(_values, batch.columns), strict=True)

    def table(self) -> pa.Table:
        """All rows, in memory."""
        return pa.Table.from_batches(self.batches(), self._reader.schema)


class DuckLake:
    """The tables and views of a lake by name, each as it was when a query first asked for it.

    Files outside of the lake cannot be read, and nothing can be written. DuckDB takes up to `MEMORY`, and disk in a
    folder that is removed by `close`.
    """

    def __init__(self, tables: LocalTables) -> None:
        self._tables = tables
        self._scratch = tempfile.TemporaryDirectory(prefix="motorpool-sql-", ignore_cleanup_errors=True)
        self._connection = duckdb.connect()
        # In this order: without access to files, and locked, settings can no longer be changed.
        settings = {
            # Spark's sessions have this one too.
            "TimeZone": "'UTC'",
            "memory_limit": f"'{MEMORY}'",
            "temp_directory": f"'{self._scratch.name}'",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "enable_external_access": "false",
        }
        for name, value in settings.items():
            self._connection.execute(f"SET {name} = {value}")
        for head, body in MACROS.items():
            self._connection.execute(f"CREATE MACRO {head} AS {body}")
        self._connection.execute("SET lock_configuration = true")
        self._known: set[str] = set()
        self._answering: pa.RecordBatchReader | None = None

    def __enter__(self) -> DuckLake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._scratch.cleanup()

    def names(self) -> list[str]:
        """The tables that have been written and the views over them, as `motorpool.lake.Lake.register` has them."""
        present = [name for name in TABLES if self._tables.exists(name)]
        return present + [view for view in VIEWS if needed(view) <= set(present)]

    def ask(self, query: str, values: Mapping[str, object] | None = None) -> DuckAnswer:
        """The answer to a query in Spark's SQL: Spark's, but for the order of rows that no ORDER BY sets.

        It ends with the next question. NotUnderstoodError where that is not known; ConfigError for a mistake in the
        query; LakeError for a table that cannot be read.
        """
        if self._answering is not None:
            # Views are made below, and a connection does one thing at a time.
            self._answering.close()
            self._answering = None
        names = self.names()
        if _SHOW_TABLES.fullmatch(query):
            return _of_rows({"namespace": "", "tableName": n, "isTemporary": True} for n in sorted(names))
        described = _DESCRIBE.fullmatch(query)
        if described is not None and described[1].lower() in names:
            return self._described(described[1].lower())
        try:
            translated = translate(query, Names(names, str(self._tables.folder), self._stored), values)
        except UnknownTableError as exc:
            if str(exc).lower() in TABLES:
                stage = TABLES[str(exc).lower()].written_by
                raise LakeError(f"table {str(exc)!r} is not in the lake: run `motorpool {stage}` first") from exc
            raise _mistake(f"there is no table or view {str(exc)!r}", names) from exc
        for name in sorted(translated.tables):
            self._make(name)
        return self._answer(translated, names)

    def _answer(self, translated: Translated, names: Sequence[str]) -> DuckAnswer:
        try:
            for one, other in translated.united:
                left, right = ([_kind(t) for t in self._connection.sql(side).types] for side in (one, other))
                if left != right:
                    raise NotUnderstoodError("UNION of columns of different types")
            relation = self._connection.sql(translated.text)
        except duckdb.Error as exc:
            reason = str(exc).split("\n")[0]
            if "Referenced column" in reason or "Referenced table" in reason:
                raise _mistake(reason, names) from exc
            raise NotUnderstoodError(reason) from exc
        found, kinds = list(relation.columns), [str(kind) for kind in relation.types]
        if len({name.lower() for name in found}) < len(found):
            raise NotUnderstoodError("two columns of one name")
        strange = [kind for kind in kinds if _STRANGE.search(kind)]
        if strange:
            raise NotUnderstoodError(f"a column of the type {strange[0]}")
        if any(map(_WIDE.search, kinds)):
            casts = (
                f"CAST({_quoted(n)} AS {_WIDE.sub('BIGINT', k)}) AS {_quoted(n)}"
                for n, k in zip(found, kinds, strict=True)
            )
            relation = relation.project(", ".join(casts))
        with _explained(names):
            try:
                # This makes the first rows, so what the macros refuse is known before one is given out.
                reader = self._answering = _heard(self._connection, lambda: relation.to_arrow_reader(BATCH))
            except duckdb.Error as exc:
                if REFUSED in str(exc):
                    raise NotUnderstoodError(_refused_in(exc)) from exc
                raise
        if len(translated.columns) == len(found):
            found = [given or name for given, name in zip(translated.columns, found, strict=True)]
        return DuckAnswer(_renamed(reader, found), names, self._connection)

    # -- tables and views --------------------------------------------------------------------------

    def _stored(self, table: str, version: int | None) -> str:
        """A table as it lies there, or lay, under a name of its own."""
        name = f"{table}@{'latest' if version is None else version}"
        if name not in self._known:
            data = self._tables.stored(table, version)
            if data is None:
                raise NotUnderstoodError(f"version {version} of {table}")
            self._connection.register(name, data)
            self._known.add(name)
        return name

    def _make(self, name: str) -> None:
        if name in self._known:
            return
        if name in VIEWS:
            for table in sorted(needed(name)):
                self._make(table)
            labelled = labelled_attributes(self._tables) if "{attributes}" in VIEWS[name] else []
            parts = {table: f"`{table}`" for table in TABLES}
            parts["attributes"] = attribute_columns(labelled)
            query = VIEWS[name].format(**parts)
            text = translate(query, Names(list(TABLES), str(self._tables.folder), self._stored)).text
            self._connection.execute(f"CREATE VIEW {_quoted(name)} AS {text}")
        else:
            data = self._tables.dataset(name)
            if data is None:
                raise LakeError(f"table {name!r} is not in the lake {self._tables.folder} any more")
            self._connection.register(f"{name}@now", data)
            columns = ", ".join(_columns(data, name))
            # S608: the table's name is this package's own.
            self._connection.execute(f'CREATE VIEW {_quoted(name)} AS SELECT {columns} FROM "{name}@now"')  # noqa: S608
        self._known.add(name)

    def _described(self, name: str) -> DuckAnswer:
        """Columns, types and comments, as Spark's DESCRIBE has them."""
        self._make(name)
        schema = self._connection.sql(f"SELECT * FROM {_quoted(name)} LIMIT 0").to_arrow_table().schema  # noqa: S608
        known = comments(name, labelled_attributes(self._tables)) if name in VIEWS else TABLES[name].comments
        return _of_rows(
            {"col_name": f.name, "data_type": sql_type(f.type), "comment": known.get(f.name)} for f in schema
        )


def _columns(data: ds.Dataset, name: str) -> Iterator[str]:
    """A table's columns in Spark's order: nulls for those that it had not yet when it was written."""
    there, own = data.schema.names, arrow_columns(TABLES[name].columns)
    order = [*own.names, *there] if set(own.names) - set(there) else there
    for column in dict.fromkeys(order):
        if column in there:
            yield _quoted(column)
        else:
            yield f"CAST(NULL AS {_duck_type(own.field(column).type)}) AS {_quoted(column)}"


def _kind(kind: object) -> str:
    """A type of DuckDB's, the wide ones as the BIGINT that they are for Spark."""
    return _WIDE.sub("BIGINT", str(kind))


def _duck_type(kind: pa.DataType) -> str:
    """An Arrow type as DuckDB names it."""
    empty = pa.table({"c": pa.array([], kind)})
    with duckdb.connect() as connection:
        connection.register("t", empty)
        return str(connection.execute("DESCRIBE t").fetchall()[0][1])


def _values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return [None if v is None else v.astimezone().replace(tzinfo=None) for v in values]
    return values


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _of_rows(rows: Iterable[dict[str, Any]]) -> DuckAnswer:
    table = pa.Table.from_pylist(list(rows))
    return DuckAnswer(table.to_reader())


def _renamed(reader: pa.RecordBatchReader, names: Sequence[str]) -> pa.RecordBatchReader:
    if list(names) == reader.schema.names:
        return reader
    schema = pa.schema([f.with_name(name) for f, name in zip(reader.schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(schema, (batch.rename_columns(list(names)) for batch in reader))
