"""DataFrames of vectors <-> blocks of float32 matrices, and map and fold over them.

A *vectors* DataFrame has ``image_id BIGINT`` and one or more ``ARRAY<FLOAT>`` columns. A *blocks* DataFrame
holds the same rows gathered by the thousand: ``ids BINARY`` (int64[n]) and ``data BINARY`` (float32[n, d],
C order), cheap to cache and to pass over again. Every function here touches one Arrow batch or one block
at a time, so memory does not grow with the number of rows.

A DataFrame of few rows can be *held*: the driver has its Arrow batches, too, and passes over them in its own process
by the same functions, in the same order. A job takes Spark some tenths of a second, whatever its rows are.

Functions over Arrow batches that follow each other are a *chain*: a task runs all of them in one Python process, and
what one gives goes to the next as it is. Spark would take it into rows of the JVM and out again.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType
from threadpoolctl import threadpool_limits

#: Rows of a block: matrix products are at full speed, and 4,096 x 250 float32 are 4 MB.
BLOCK_ROWS = 4096
#: The states of more tasks than this are merged on the cluster before they reach the driver.
_DRIVER_MERGES = 32

#: Numbers that a held DataFrame has at most: 16 MiB of float32, here and once more in the JVM. A job takes Spark longer
#: than one core takes to pass over so few.
HELD_VALUES = 2**22

BLOCK_SCHEMA = "ids BINARY, data BINARY, width INT"

Batches = Iterable[pa.RecordBatch]


class Mergeable(Protocol):
    """A state that tasks fill and that merges: the same result for any split of the rows."""

    def merge(self, other: Any) -> None: ...


S = TypeVar("S", bound=Mergeable)


def parallelism(spark: SparkSession) -> int:
    """Tasks that run at once: Spark's default parallelism, read in a way that Spark Connect also has."""
    value = spark.conf.get("spark.default.parallelism", None)
    if value:
        return max(1, int(value))
    try:
        return max(1, spark.sparkContext.defaultParallelism)
    except Exception:  # Spark Connect has no SparkContext; its shuffle partitions are the nearest thing.
        return max(1, int(spark.conf.get("spark.sql.shuffle.partitions", "8") or 8))


# -- Arrow <-> NumPy ---------------------------------------------------------------------------------


def to_matrix(column: pa.Array) -> np.ndarray:
    """A list<float> column as float32[n, d]; a view where Arrow's layout allows.

    Raises ValueError when rows differ in length, are null or hold nulls.
    """
    n = len(column)
    if n == 0:
        return np.empty((0, 0), np.float32)
    values = column.flatten()
    width, rest = divmod(len(values), n)
    offsets = np.asarray(column.offsets)
    if rest or column.null_count or values.null_count or not np.all(np.diff(offsets) == width):
        raise ValueError("the vectors of one table differ in length, are null or hold nulls")
    result: np.ndarray = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(n, width)
    return result


def to_list_array(matrix: np.ndarray) -> pa.ListArray:
    """float32[n, d] as a list<float> column; no copy for C-contiguous input."""
    n, width = matrix.shape
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    # 4,096 rows of up to half a million columns stay below Arrow's 2^31 values.
    offsets = np.arange(0, (n + 1) * width, width, dtype=np.int32) if width else np.zeros(n + 1, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def batch_ids(batch: pa.RecordBatch) -> np.ndarray:
    """The ``image_id`` column of a batch as int64[n]."""
    result: np.ndarray = batch.column("image_id").to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return result


def block_arrays(batch: pa.RecordBatch) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The blocks in an Arrow batch: int64[n] ids and float32[n, d] data, both read-only views."""
    for row in range(len(batch)):
        ids = np.frombuffer(batch.column("ids")[row].as_buffer(), np.int64)
        width = batch.column("width")[row].as_py()
        yield ids, np.frombuffer(batch.column("data")[row].as_buffer(), np.float32).reshape(len(ids), width)


# -- blocks ------------------------------------------------------------------------------------------


def gather(vectors: DataFrame, column: str = "vector", rows: int = BLOCK_ROWS) -> DataFrame:
    """A vectors DataFrame as blocks of at most ``rows`` rows, in the order in which they are stored."""

    def run(batches: Batches) -> Batches:
        return _gathered(batches, column, rows)

    return in_tasks(vectors if chain(vectors) else vectors.select("image_id", column), run, BLOCK_SCHEMA)


def spread_out(block_df: DataFrame) -> DataFrame:
    """Blocks as a vectors DataFrame again: ``image_id, vector``."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in block_arrays(batch):
                yield pa.RecordBatch.from_arrays([pa.array(ids), to_list_array(x)], names=["image_id", "vector"])

    return in_tasks(block_df, run, "image_id BIGINT, vector ARRAY<FLOAT>")


def gather_here(spark: SparkSession, vectors: pa.Table) -> DataFrame:
    """`gather` of vectors that the driver has (``image_id, vector``), held."""
    return hold(spark, _gathered(vectors.to_batches(BLOCK_ROWS), "vector", BLOCK_ROWS), BLOCK_SCHEMA)


def _gathered(batches: Batches, column: str, rows: int) -> Batches:
    held_ids: list[np.ndarray] = []
    held: list[np.ndarray] = []
    size = 0
    for batch in batches:
        ids, x = batch_ids(batch), to_matrix(batch.column(column))
        start = 0
        while start < len(ids):
            stop = start + rows - size
            held_ids.append(ids[start:stop])
            held.append(x[start:stop])
            size += len(held_ids[-1])
            start = stop
            if size == rows:
                yield _pack(np.concatenate(held_ids), np.concatenate(held))
                held_ids, held, size = [], [], 0
    if size:
        yield _pack(np.concatenate(held_ids), np.concatenate(held))


def _pack(ids: np.ndarray, x: np.ndarray) -> pa.RecordBatch:
    data = pa.array([np.ascontiguousarray(x, np.float32).tobytes()], pa.binary())
    return pa.RecordBatch.from_arrays(
        [pa.array([ids.tobytes()], pa.binary()), data, pa.array([x.shape[1]], pa.int32())],
        names=["ids", "data", "width"],
    )


# -- chains ------------------------------------------------------------------------------------------

_Function = Callable[[Batches], Batches]
#: The DataFrame at the beginning of each chain, and the function that tasks run over its batches.
_chains: WeakKeyDictionary[DataFrame, tuple[DataFrame, _Function]] = WeakKeyDictionary()


def in_tasks(df: DataFrame, run: _Function, schema: str | StructType) -> DataFrame:
    """``df.mapInArrow(run, schema)``, as the next link where ``df`` is a chain: batches have any number of rows then.

    What is persisted begins a new chain. Columns go by their names.
    """
    start, work = _linked(df, run)
    found = start.mapInArrow(work, schema)
    _chains[found] = start, work
    return need(found, *_keepers.get(df, ()))


def chain(df: DataFrame) -> bool:
    """Whether the rows are those of a chain, whose last function gives all of the DataFrame's columns."""
    return df in _chains


def task_number() -> int:
    """In a task the number of its partition; 0 elsewhere."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return int(context.partitionId()) if context else 0


def _linked(df: DataFrame, run: _Function) -> tuple[DataFrame, _Function]:
    """Where the chain of a DataFrame begins, or itself; what is done with its batches there, ``run`` the last."""
    found = _chains.get(df)
    if found is None:
        return df, run
    start, before = found

    def both(batches: Batches) -> Batches:
        return run(before(batches))

    return start, both


# -- held by the driver ------------------------------------------------------------------------------

#: The rows of held DataFrames, for as long as these are in use.
_held: WeakKeyDictionary[DataFrame, pa.Table] = WeakKeyDictionary()


def hold(spark: SparkSession, batches: Batches, schema: str | StructType) -> DataFrame:
    """A held DataFrame of some batches, with the columns that ``schema`` names.

    The caller knows that they are few: about HELD_VALUES numbers.
    """
    columns = arrow_schema(schema)
    with threadpool_limits(limits=1):
        found = [b.select(columns.names).cast(columns) for b in batches]
    rows = pa.Table.from_batches(found or [pa.RecordBatch.from_pylist([], columns)])
    # As one batch: behind an empty one Spark loses the next.
    df = spark.createDataFrame(rows.combine_chunks())
    _held[df] = rows
    return df


def arrow_schema(schema: str | StructType) -> pa.Schema:
    """The columns of a schema of Spark's as Arrow has them."""
    return _of_ddl(schema) if isinstance(schema, str) else to_arrow_schema(schema)


@cache
def _of_ddl(ddl: str) -> pa.Schema:
    # The JVM reads it, once.
    return to_arrow_schema(cast(StructType, StructType.fromDDL(ddl)))


def held(df: DataFrame) -> list[pa.RecordBatch] | None:
    """The batches of a DataFrame that the driver holds; None of any other. What is made from one by Spark is not held.

    A batch has as many rows as it was given with.
    """
    rows = _held.get(df)
    return None if rows is None else rows.to_batches()


def n_held(df: DataFrame) -> int:
    """How many images' rows the blocks of a held DataFrame have; 0 for any other."""
    return sum(len(ids) for batch in held(df) or () for ids, _ in block_arrays(batch))


def mapped(df: DataFrame, run: Callable[[Batches], Batches], schema: str, n_values: int = 0) -> DataFrame:
    """`in_tasks`; of a held DataFrame held, unless it has more than HELD_VALUES ``n_values``."""
    batches = held(df)
    if batches is None or n_values > HELD_VALUES:
        return in_tasks(df, run, schema)
    return hold(df.sparkSession, run(iter(batches)), schema)


def brought(df: DataFrame, n_values: int) -> DataFrame:
    """The rows of a DataFrame, held after one job; where there are more than HELD_VALUES ``n_values``, as they are."""
    if df in _held or n_values > HELD_VALUES:
        return df
    return hold(df.sparkSession, df.toArrow().to_batches(), df.schema)


def joined(left: DataFrame, right: DataFrame) -> DataFrame:
    """The columns of both where they have the same ``image_id``, each id once in each; held where both are."""
    here, there = _held.get(left), _held.get(right)
    if here is None or there is None:
        return left.join(right, on="image_id", how="inner")
    ids, others = (rows.column("image_id").to_numpy() for rows in (here, there))
    _, own, theirs = np.intersect1d(ids, others, assume_unique=True, return_indices=True)
    found = here.take(own)
    for name in there.column_names:
        if name != "image_id":
            found = found.append_column(name, there.column(name).take(pa.array(theirs)))
    schema = StructType([*left.schema, *(f for f in right.schema if f.name != "image_id")])
    return hold(left.sparkSession, found.combine_chunks().to_batches(), schema)


def together(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of DataFrames with the same columns, one or more, behind each other; held where all of them are."""
    batches: list[pa.RecordBatch] = []
    for df in frames:
        found = held(df)
        if found is None:
            return reduce(DataFrame.unionByName, frames)
        batches += found
    return hold(frames[0].sparkSession, batches, frames[0].schema)


#: DataFrames that read what is kept elsewhere.
_kept: WeakSet[DataFrame] = WeakSet()
#: What must stay for as long as a DataFrame is in use.
_keepers: WeakKeyDictionary[DataFrame, tuple[object, ...]] = WeakKeyDictionary()


def read_from(df: DataFrame, *keepers: object) -> DataFrame:
    """Mark a DataFrame that reads what ``keepers`` keep: nobody persists it, and they stay as long as it is in use.

    So they do for the next links of its chain.
    """
    _kept.add(df)
    return need(df, *keepers)


def need(df: DataFrame, *keepers: object) -> DataFrame:
    """Have ``keepers`` stay for as long as a DataFrame, and the next links of its chain, are in use."""
    _keepers[df] = keepers
    return df


def persist(df: DataFrame) -> DataFrame:
    """Keep a DataFrame that several passes read, in memory and beyond that on the executors' disks.

    Nothing is done with one that is held, or reads what is kept already.
    """
    if df in _held or df in _kept:
        return df
    # What is kept is to be read, and not to be made again.
    _chains.pop(df, None)
    return df.persist(StorageLevel.MEMORY_AND_DISK)


@contextmanager
def kept(df: DataFrame) -> Iterator[DataFrame]:
    """A DataFrame that several passes read, persisted for as long as the block lasts, however it ends."""
    df = persist(df)
    try:
        yield df
    finally:
        df.unpersist()


def computed(df: DataFrame) -> DataFrame:
    """The DataFrame, persisted and worked out by one job, whose caller unpersists it; where the job fails none.

    For what outlives what it is made from.
    """
    if df in _held or df in _kept:
        return df
    df = persist(df)
    try:
        df.count()
    except BaseException:
        df.unpersist()
        raise
    return df


def table(df: DataFrame) -> pa.Table:
    """All rows on the driver, which has room for them."""
    rows = _held.get(df)
    return df.toArrow() if rows is None else rows


def to_driver(df: DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The values of some columns of a table of few rows, row by row on the driver; tasks run side by side.

    `toLocalIterator` runs a job for each partition, one after the other, so rows are gathered in few partitions first.
    """
    batches = held(df)
    if batches is not None:
        for batch in batches:
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        return
    yield from df.select(*columns).repartition(parallelism(df.sparkSession)).toLocalIterator()


class Tally:
    """Numbers in an array that add up: the simplest state of a fold."""

    def __init__(self, total: np.ndarray) -> None:
        self.total = total

    def merge(self, other: Tally) -> None:
        self.total = self.total + other.total


# -- fold --------------------------------------------------------------------------------------------


def fold(
    df: DataFrame,
    start: Callable[[], S],
    update: Callable[[S, pa.RecordBatch], None],
    *,
    tasks: int | None = None,
    merge_on_cluster: bool = False,
) -> S:
    """Sum up a DataFrame: every task fills a state from its batches, and the states are merged.

    At most ``tasks`` states are made, by default one for each slot: starting a task costs more than
    several blocks. States are merged in the order of their partitions, so a repeated run adds the same
    numbers in the same order; on a cluster up to the last digits, since there partitions share a task by where
    their blocks are kept. The driver holds two states at a time of the at most 32 it receives; when
    there are more, or with ``merge_on_cluster`` (for large states) more than two, one further stage merges them first.
    A held DataFrame fills one state in this process, on one core as a task does: the same for any number of slots.
    """
    batches = held(df)
    if batches is not None:
        return _fold_here(batches, start, update)
    spark = df.sparkSession
    tasks = tasks or parallelism(spark)
    groups = 1 if merge_on_cluster else math.isqrt(tasks)

    def run(batches: Batches) -> Batches:
        state, part = start(), task_number()
        for batch in batches:
            update(state, batch)
        yield _pack_state(part, part * groups // tasks, state)

    def merge(batches: Batches) -> Batches:
        state, first = start(), -1
        for batch in batches:
            for part, data in zip(batch.column("part").to_pylist(), batch.column("state"), strict=True):
                first = part if first < 0 else first
                state.merge(_load_state(data.as_buffer()))
        if first >= 0:
            yield _pack_state(first, 0, state)

    rows, work = _linked(df, run)
    partials = rows.coalesce(tasks).mapInArrow(work, _STATE_SCHEMA)
    # Of two states the driver has room, as it merges them.
    if tasks > (2 if merge_on_cluster else _DRIVER_MERGES):
        partials = (
            partials.repartition(groups, "together").sortWithinPartitions("part").mapInArrow(merge, _STATE_SCHEMA)
        )
    state = start()
    for row in sorted(partials.collect(), key=lambda r: r["part"]):
        state.merge(_load_state(row["state"]))
    return state


def _fold_here(batches: list[pa.RecordBatch], start: Callable[[], S], update: Callable[[S, pa.RecordBatch], None]) -> S:
    with threadpool_limits(limits=1):
        found, state = start(), start()
        for batch in batches:
            update(found, batch)
        # As the driver merges the state of a task, so that sums have the same last digits.
        state.merge(found)
    return state


#: Each state with its partition's number, and the number of the task that merges it with others.
_STATE_SCHEMA = "part INT, together BIGINT, state BINARY"


def _pack_state(part: int, together: int, state: object) -> pa.RecordBatch:
    # Spark's own shuffle carries these bytes from our task to our driver; nothing foreign is loaded.
    columns = [pa.array([part], pa.int32()), pa.array([together]), pa.array([pickle.dumps(state, protocol=5)])]
    return pa.RecordBatch.from_arrays(columns, names=["part", "together", "state"])


def _load_state(data: Any) -> Any:
    return pickle.loads(data)  # noqa: S301
