"""A lake for reading by SQL: DuckDB answers where its answer is known to be Spark's, and Spark all the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from motorpool.config.run import LakeConfig, has_scheme
from motorpool.errors import ConfigError, LakeError
from motorpool.lake.local_tables import LocalTables, tables_in_folder
from motorpool.lake.schemas import TABLES
from motorpool.lake.sql import NotUnderstoodError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.lake import Lake
    from motorpool.lake.sql.session import DuckLake

log = logging.getLogger(__name__)

Engine = Literal["auto", "duckdb", "spark"]
ENGINES: tuple[Engine, ...] = ("auto", "duckdb", "spark")


#: The line of a trace of Java's in which Spark says what is wrong, behind its class of errors.
_CAUSE = re.compile(r"org\.apache\.spark\.\w*Exception: (\[[A-Z_.0-9]+\] .*)")


class Answer(Protocol):
    """The answer to a query: read once, either row by row or as a table."""

    columns: list[str]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Python's values, as they come; structs and maps are dicts, and times have no time zone: they are local."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow's, as they come."""

    def table(self) -> pa.Table:
        """All rows, in memory."""


class LakeReader:
    """The tables and views of a lake, asked in Spark's SQL; nothing is written.

    ``engine`` says who answers. ``auto``: DuckDB where the lake lies in a folder of this machine and the query is
    understood; ``say`` gets a line where Spark has to answer, with the reason. Spark starts with the first query that
    needs it, by ``start``, and then answers the others as well if they need it; it is the caller's to stop.
    """

    def __init__(
        self,
        config: LakeConfig,
        start: Callable[[], Lake],
        engine: Engine = "auto",
        say: Callable[[str], None] = log.info,
    ) -> None:
        self.config = config
        self._start, self.engine, self._say = start, engine, say
        self._spark: Lake | None = None
        self._duck: DuckLake | None = None
        #: Why DuckDB does not answer at all; None where it does.
        self._why: str | None = None
        if engine != "spark":
            tables = tables_in_folder(config)
            if tables is None:
                self._why = "the lake is in no folder of this machine"
            else:
                self._duck = self._opened(tables)
        if engine == "duckdb" and self._why is not None:
            raise ConfigError(f"--engine duckdb: {self._why}: use --engine spark")

    def _opened(self, tables: LocalTables) -> DuckLake | None:
        # Here, so that runs on clusters do not need its packages.
        from motorpool.lake.sql.session import DuckLake

        try:
            return DuckLake(tables)
        except LakeError as exc:
            self._why = str(exc)
            return None

    def __enter__(self) -> LakeReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what DuckDB holds; a Spark session stays."""
        if self._duck is not None:
            self._duck.close()

    @property
    def root(self) -> str | None:
        """The lake's path as SQL takes it, absolute or with its scheme; None in a catalog."""
        path = self.config.path
        return None if path is None else (path if has_scheme(path) else str(Path(path).resolve())).rstrip("/")

    def names(self) -> list[str]:
        """The tables and views that there are."""
        if self._duck is not None:
            return self._duck.names()
        lake = self.spark()
        # A schema that is not there cannot become the current one.
        return lake.register() if any(map(lake.exists, TABLES)) else []

    def sql(self, query: str, values: Mapping[str, object] | None = None) -> Answer:
        """The answer to a query; ``values`` (texts, whole numbers, true or false) take the places of ``:name`` in it.

        Raises ConfigError for a mistake in the query, LakeError for a table that cannot be read.
        """
        if self._duck is not None:
            try:
                return self._duck.ask(query, values)
            except NotUnderstoodError as exc:
                why = f"DuckDB is not known to answer alike: {exc}"
            except LakeError as exc:
                if self.engine == "duckdb" or "without Spark" not in str(exc):
                    raise
                why = str(exc)
            if self.engine == "duckdb":
                raise ConfigError(f"--engine duckdb: {why}: use --engine spark")
        else:
            why = self._why or ""
        if self.engine == "auto" and self._spark is None:
            self._say(f"Spark answers, which takes longer to start: {why}")
        return ask_spark(self.spark(), query, values)

    def spark(self) -> Lake:
        """The lake as Spark has it; the session starts where it has not."""
        if self._spark is None:
            self._spark = self._start()
        return self._spark

    def __str__(self) -> str:
        where = (self.config.catalog, self.config.schema_name)
        return str(self.config.path) if self.config.path is not None else ".".join(n for n in where if n)


class SparkAnswer:
    """An answer of Spark's; one partition of it is in memory at a time."""

    def __init__(self, frame: DataFrame, names: list[str]) -> None:
        self.frame, self._names = frame, names
        self.columns: list[str] = frame.columns

    def rows(self) -> Iterator[tuple[Any, ...]]:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            for row in self.frame.toLocalIterator(prefetchPartitions=True):
                yield tuple(row.asDict(recursive=True).values()) if _unique(self.columns) else tuple(row)
        except (PySparkException, Py4JError) as exc:
            raise _mistake(exc, self._names) from exc

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in memory: Spark sends Arrow's tables whole."""
        yield from self.table().to_batches()

    def table(self) -> pa.Table:
        from pyspark.errors import PySparkException

        try:
            return self.frame.toArrow()
        except PySparkException as exc:
            raise _mistake(exc, self._names) from exc


def ask_spark(lake: Lake, query: str, values: Mapping[str, object] | None = None) -> SparkAnswer:
    """The answer to a query by Spark; ConfigError for a mistake in it."""
    from pyspark.errors import PySparkException

    names = lake.register(query)
    try:
        return SparkAnswer(lake.spark.sql(query, args=dict(values) if values else None), names)
    except PySparkException as exc:
        raise _mistake(exc, names) from exc


def _mistake(exc: Exception, names: list[str]) -> ConfigError:
    # Analysis finds most mistakes, and the rest, such as a division by zero, come with the rows.
    causes = _CAUSE.findall(str(exc))
    message = causes[-1] if causes else str(exc).split("\n\n")[0].split("; line ")[0].strip()
    return ConfigError(f"{message}\nThe lake has: {', '.join(names)}")


def _unique(names: list[str]) -> bool:
    return len(set(names)) == len(names)
