"""DataFrames in this process, as far as kernels need Spark: Arrow batches in partitions, and functions over them.

Algorithms reach their rows by `mapInArrow` and little else, and each step is a job that costs Spark a hundred times
what its kernel takes. Here the same functions run one partition after the other. As under Spark they travel by
cloudpickle, so a task neither sees nor changes the driver's objects, and they must give the columns that they declare.
Unlike there, tasks see modules as a test has patched them, and run at once instead of when somebody asks.

Only operations that these algorithms use are here; `test_local_frames` holds each against Spark's. What this cannot
show (plans, shuffles, lost tasks) is for the tests that run each algorithm through Spark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext, cloudpickle
from pyspark.sql import Row

Task = Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]]
_TYPES = {
    "INT": pa.int32(), "BIGINT": pa.int64(), "FLOAT": pa.float32(), "DOUBLE": pa.float64(), "STRING": pa.string(),
    "BINARY": pa.binary(), "BOOLEAN": pa.bool_(),
}  # fmt: skip


def arrow_schema(ddl: str) -> pa.Schema:
    """``name TYPE, name ARRAY<TYPE>`` as Arrow's."""

    def of(kind: str) -> pa.DataType:
        inner = re.fullmatch(r"ARRAY<(\w+)>", kind)
        return pa.list_(of(inner[1])) if inner else _TYPES[kind]

    return pa.schema([(name, of(kind)) for name, kind in (field.split() for field in ddl.split(", "))])


# -- columns -----------------------------------------------------------------------------------------


class LocalColumn:
    """An expression over a table's columns."""

    def __init__(self, of: Callable[[pa.Table], Any], name: str = "") -> None:
        self.of, self.name = of, name

    def alias(self, name: str) -> LocalColumn:
        return LocalColumn(self.of, name)

    def isin(self, *values: object) -> LocalColumn:
        return LocalColumn(lambda t: pc.is_in(self.of(t), pa.array(values)))

    def __eq__(self, value: object) -> LocalColumn:  # type: ignore[override]
        return LocalColumn(lambda t: pc.equal(self.of(t), value))

    __hash__ = object.__hash__

    def __add__(self, other: LocalColumn) -> LocalColumn:
        return LocalColumn(lambda t: pc.add(self.of(t), other.of(t)))


def _lit(value: object) -> LocalColumn:
    kind = pa.int32() if type(value) is int else None
    return LocalColumn(lambda t: pa.array([value] * len(t), kind))


#: In the place of ``pyspark.sql.functions``, whose columns are the JVM's.
functions = SimpleNamespace(
    col=lambda name: LocalColumn(lambda t: t.column(name), name),
    lit=_lit,
    broadcast=lambda df: df,
)


# -- frames ------------------------------------------------------------------------------------------


class _Conf:
    def get(self, key: str, default: str | None = None) -> str | None:
        return {"spark.default.parallelism": "2"}.get(key, default)


class LocalSession:
    """As much of a session as algorithms look at: two slots."""

    conf = _Conf()

    def range(self, start: int, end: int, step: int, n_partitions: int) -> LocalFrame:
        rows = np.array_split(np.arange(start, end, step), n_partitions)
        return LocalFrame([pa.table({"id": part}) for part in rows], self)

    def createDataFrame(self, data: pa.Table | Sequence[tuple], schema: str) -> LocalFrame:  # noqa: N802
        kinds = arrow_schema(schema)
        if not isinstance(data, pa.Table):
            columns = zip(*data, strict=True) if data else [[] for _ in kinds]
            data = pa.table([pa.array(column, field.type) for column, field in zip(columns, kinds, strict=True)], kinds)
        return LocalFrame([data.cast(kinds)], self)


class LocalFrame:
    """One Arrow table for each partition, all of one schema."""

    def __init__(self, parts: Sequence[pa.Table], session: LocalSession) -> None:
        self.parts, self.sparkSession = list(parts), session

    def _of(self, parts: Iterable[pa.Table]) -> LocalFrame:
        return LocalFrame(list(parts), self.sparkSession)

    @property
    def columns(self) -> list[str]:
        return list(self.parts[0].column_names)

    # -- from partition to partition -------------------------------------------------------------------

    def mapInArrow(self, run: Task, schema: str) -> LocalFrame:  # noqa: N802
        sent, kinds = cloudpickle.dumps(run), arrow_schema(schema)
        return self._of(_in_a_task(i, sent, part, kinds) for i, part in enumerate(self.parts))

    def select(self, *columns: str | LocalColumn) -> LocalFrame:
        chosen = [functions.col(c.strip("`")) if isinstance(c, str) else c for c in columns]
        return self._of(pa.table({c.name: c.of(part) for c in chosen}) for part in self.parts)

    def withColumn(self, name: str, column: LocalColumn) -> LocalFrame:  # noqa: N802
        return self.select(*(column.alias(name) if c == name else c for c in self.columns))

    def drop(self, *columns: str) -> LocalFrame:
        return self._of(part.drop_columns(list(columns)) for part in self.parts)

    def where(self, condition: LocalColumn) -> LocalFrame:
        return self._of(part.filter(condition.of(part)) for part in self.parts)

    def sortWithinPartitions(self, column: str) -> LocalFrame:  # noqa: N802
        return self._of(part.sort_by(column) for part in self.parts)

    # -- between partitions ----------------------------------------------------------------------------

    def coalesce(self, n: int) -> LocalFrame:
        groups = np.array_split(np.arange(len(self.parts)), min(n, len(self.parts)))
        return self._of(pa.concat_tables([self.parts[i] for i in group]) for group in groups)

    def repartition(self, n: int, column: str | None = None) -> LocalFrame:
        """Rows dealt out in turn, or by a column of whole numbers."""
        whole = self.toArrow()
        turn = whole.column(column).to_numpy() if column else np.arange(len(whole))
        return self._of(whole.take(np.flatnonzero(turn % n == i)) for i in range(n))

    def unionByName(self, other: LocalFrame) -> LocalFrame:  # noqa: N802
        return self._of([*self.parts, *(part.select(self.columns) for part in other.parts)])

    def join(self, other: LocalFrame, key: str) -> LocalFrame:
        """Inner, on a column of both."""
        right = other.toArrow()
        rows: dict[Any, list[int]] = {}
        for i, value in enumerate(right.column(key).to_pylist()):
            rows.setdefault(value, []).append(i)

        def joined(part: pa.Table) -> pa.Table:
            pairs = [(i, j) for i, v in enumerate(part.column(key).to_pylist()) for j in rows.get(v, [])]
            left, beside = (np.array([p[side] for p in pairs], np.int64) for side in (0, 1))
            found = part.take(left)
            for name in right.column_names:
                if name != key:
                    found = found.append_column(right.schema.field(name), right.column(name).take(beside))
            return found

        return self._of(map(joined, self.parts))

    def orderBy(self, column: str) -> LocalFrame:  # noqa: N802
        return self._of([self.toArrow().sort_by(column)])

    def limit(self, n: int) -> LocalFrame:
        return self._of([self.toArrow().slice(0, n)])

    def persist(self, *_: object) -> LocalFrame:
        return self

    def unpersist(self, *_: object) -> LocalFrame:
        return self

    # -- to the driver ---------------------------------------------------------------------------------

    def toArrow(self) -> pa.Table:  # noqa: N802
        return pa.concat_tables(self.parts)

    def toPandas(self) -> pd.DataFrame:  # noqa: N802
        return self.toArrow().to_pandas()

    def collect(self) -> list[Row]:
        return [
            Row(**{k: bytearray(v) if isinstance(v, bytes) else v for k, v in row.items()})
            for row in self.toArrow().to_pylist()
        ]

    def first(self) -> Row | None:
        return next(iter(self.collect()), None)

    def toLocalIterator(self) -> Iterator[Row]:  # noqa: N802
        return iter(self.collect())

    def count(self) -> int:
        return sum(map(len, self.parts))


def _in_a_task(number: int, sent: bytes, part: pa.Table, kinds: pa.Schema) -> pa.Table:
    run = cloudpickle.loads(sent)
    context = TaskContext._getOrCreate()
    context._partitionId = number
    try:
        batches = list(run(iter(part.to_batches(max_chunksize=4096))))
    finally:
        TaskContext._taskContext = None
    for batch in batches:
        assert batch.schema.names == kinds.names, f"declared as {kinds.names}, found {batch.schema.names}"
    return pa.Table.from_batches([b.cast(kinds) for b in batches], kinds)


def place(df: LocalFrame, key: str, n: int) -> LocalFrame:
    """In the place of `shards.place`: exactly one value of ``key`` (0..n-1) in each of n partitions."""
    whole = df.toArrow()
    values = whole.column(key).to_numpy()
    return LocalFrame([whole.take(np.flatnonzero(values == i)) for i in range(n)], df.sparkSession)


class LocalGroups:
    """One group in each partition."""

    def __init__(self, df: LocalFrame) -> None:
        self.df = df

    def applyInPandas(self, run: Callable[[pd.DataFrame], pd.DataFrame], schema: str) -> LocalFrame:  # noqa: N802
        kinds = arrow_schema(schema)

        def on_group(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            rows = pa.Table.from_batches(list(batches)).to_pandas()
            yield from pa.Table.from_pandas(run(rows), kinds, preserve_index=False).to_batches()

        return self.df.mapInArrow(on_group, schema)


def place_groups(df: LocalFrame, key: str, n: int) -> LocalGroups:
    """In the place of `placement.place_groups`; Spark makes no group without rows."""
    placed = place(df, key, n)
    held = [part.append_column("_salt", pc.cast(part.column(key), pa.int64())) for part in placed.parts if len(part)]
    return LocalGroups(LocalFrame(held, df.sparkSession))
