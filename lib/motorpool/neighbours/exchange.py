"""How what is known of each shard comes to the tasks that ask for it: by files that all tasks see, or Spark's shuffle.

Where all tasks run on this machine they write what they give into files, and map what they ask for: nothing of it goes
through the JVM, and what many tasks ask for is in memory once. On a cluster Spark shuffles it. Tasks get the same.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from motorpool.spark import block_files, blocks
from motorpool.spark.block_files import Folder
from motorpool.spark.blocks import Batches
from motorpool.spark.placement import place
from motorpool.spark.tasks import one_each

#: What travels: a chunk of a shard's rows (``ids``, ``data``), or an array found for a shard so far (``data``).
PIECE = "shard INT, kind STRING, chunk INT, ids BINARY, data BINARY"
#: Arrays found for shards.
STATE = "shard INT, kind STRING, data BINARY"

_COLUMNS = [column.split()[0] for column in PIECE.split(", ")]


class Piece(NamedTuple):
    """A row of PIECE or STATE in a task. What it views lasts for as long as it is in use."""

    shard: int
    kind: str
    chunk: int
    ids: memoryview
    data: memoryview


#: What a task does with the pieces that it has asked for.
Work = Callable[[Iterator[Piece]], Batches]


def piece(shard: int, kind: str, chunk: int, ids: bytes, data: bytes) -> pa.RecordBatch:
    """A row of PIECE."""
    columns = [pa.array([shard], pa.int32()), pa.array([kind]), pa.array([chunk], pa.int32())]
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array([ids], pa.binary()), pa.array([data], pa.binary())], names=_COLUMNS
    )


def pack_state(shard: int, kind: str, array: np.ndarray) -> pa.RecordBatch:
    """A row of STATE."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    data = pa.array([out.getvalue()], pa.binary())
    return pa.RecordBatch.from_arrays(
        [pa.array([shard], pa.int32()), pa.array([kind]), data], names=["shard", "kind", "data"]
    )


def load(data: bytes | bytearray | memoryview) -> np.ndarray:
    """An array of a STATE row, as one of its own."""
    loaded: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return loaded


# -- where rows lie ----------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """Where a row of PIECE or STATE lies; ``shard`` may have been `moved` since it was written."""

    shard: int
    kind: str
    path: str
    batch: int
    row: int

    def read(self, file: pa.ipc.RecordBatchFileReader) -> Piece:
        (found,) = _pieces([file.get_batch(self.batch).slice(self.row, 1)])
        return found._replace(shard=self.shard)


class _Files(NamedTuple):
    """The rows of a DataFrame that lie in files, and the folders of these."""

    entries: list[_Entry]
    schema: str | StructType
    folders: tuple[Folder, ...]

    def frame(self, spark: SparkSession) -> DataFrame:
        """As a DataFrame that Spark can read."""
        parts: dict[str, list[_Entry]] = defaultdict(list)
        for entry in self.entries:
            parts[entry.path].append(entry)

        def read(entries: list[_Entry]) -> Batches:
            with block_files.opened(entries[0].path) as file:
                for entry in entries:
                    row = file.get_batch(entry.batch).slice(entry.row, 1)
                    shard = row.schema.get_field_index("shard")
                    yield row.set_column(shard, "shard", pa.array([entry.shard], pa.int32()))

        df = blocks.read_from(one_each(spark, list(parts.values()), read, self.schema), *self.folders)
        _files[df] = self
        return df


_files: WeakKeyDictionary[DataFrame, _Files] = WeakKeyDictionary()


def _files_of(df: DataFrame) -> _Files | None:
    """Where the rows lie, after a job if need be; None where tasks may not see this machine's files."""
    if df in _files:
        return _files[df]
    folder = Folder.seen_by_tasks(df.sparkSession)
    if folder is None:
        return None
    here = blocks.held(df)
    paths = block_files.written(df, folder) if here is None else [block_files.written_here(here, df.schema, folder)]
    return _Files([entry for path in paths for entry in _entries(path)], df.schema, (folder,))


def _entries(path: str) -> Iterator[_Entry]:
    with block_files.opened(path) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            named = zip(batch.column("shard").to_pylist(), batch.column("kind").to_pylist(), strict=True)
            for row, (shard, kind) in enumerate(named):
                yield _Entry(shard, kind, path, number, row)


def stored(df: DataFrame) -> DataFrame:
    """PIECE or STATE rows for several to ask for: in files, after one job, where all tasks see them; or as they are.

    The files go when nobody has the DataFrame any more, nor what asks for it. A held one stays with the driver.
    """
    if df in _files or blocks.held(df) is not None:
        return df
    files = _files_of(df)
    return df if files is None else files.frame(df.sparkSession)


def given(like: DataFrame, batches: Sequence[pa.RecordBatch]) -> DataFrame:
    """STATE rows that the driver has, beside the pieces ``like``: held where these are."""
    spark = like.sparkSession
    if blocks.held(like) is not None:
        return blocks.hold(spark, batches, STATE)
    folder = Folder.seen_by_tasks(spark)
    if folder is None:
        return spark.createDataFrame(pa.Table.from_batches(batches), STATE)
    path = block_files.written_here(batches, STATE, folder)
    return _Files(list(_entries(path)), STATE, (folder,)).frame(spark)


# -- asking ------------------------------------------------------------------------------------------


def ask(frames: Sequence[DataFrame], tasks: Sequence[Sequence[int]], work: Work, schema: str) -> DataFrame:
    """``work`` of the pieces of the shards that each task names, from all ``frames`` (PIECE or STATE); lazy.

    A partition for each task. The driver does the work of a single one whose frames it holds, and holds the result.
    """
    spark = frames[0].sparkSession
    here = [blocks.held(df) for df in frames]
    if len(tasks) == 1 and all(batches is not None for batches in here):
        return blocks.hold(spark, work(_pieces(batch for batches in here for batch in batches or ())), schema)
    files = [_files_of(df) for df in frames]
    if any(found is None for found in files):
        return _ask_spark(frames, tasks, work, schema)
    of_shard: dict[int, list[_Entry]] = defaultdict(list)
    for found in files:
        for entry in found.entries if found else ():
            of_shard[entry.shard].append(entry)
    # Each task gets this once; what each asks for, written out, would grow with the number of pairs.
    lying = dict(of_shard)

    def answer(shards: Sequence[int]) -> Batches:
        return work(_read(entry for shard in dict.fromkeys(shards) for entry in lying.get(shard, ())))

    answered = one_each(spark, list(tasks), answer, schema)
    return blocks.need(answered, *(folder for found in files if found for folder in found.folders))


def _ask_spark(frames: Sequence[DataFrame], tasks: Sequence[Sequence[int]], work: Work, schema: str) -> DataFrame:
    """`ask`, by a shuffle."""
    pieces = reduce(lambda a, b: a.unionByName(b), map(_as_pieces, frames))

    def run(batches: Batches) -> Batches:
        return work(_pieces(batches))

    if all(list(shards) == [task] for task, shards in enumerate(tasks)):
        return place(pieces, "shard", len(tasks)).mapInArrow(run, schema)
    sent = [(shard, task) for task, shards in enumerate(tasks) for shard in dict.fromkeys(shards)]
    named = F.broadcast(pieces.sparkSession.createDataFrame(sent, "shard INT, task INT"))
    placed = place(pieces.join(named, "shard").select("task", *_COLUMNS), "task", len(tasks))
    return placed.drop("task").mapInArrow(run, schema)


def _as_pieces(df: DataFrame) -> DataFrame:
    if "chunk" in df.columns:
        return df
    return df.select("shard", "kind", F.lit(0).alias("chunk"), F.lit(b"").alias("ids"), "data")


def _read(entries: Iterable[_Entry]) -> Iterator[Piece]:
    files: dict[str, pa.ipc.RecordBatchFileReader] = {}
    for entry in entries:
        if entry.path not in files:
            files[entry.path] = block_files.opened(entry.path)
        yield entry.read(files[entry.path])


def _pieces(batches: Batches) -> Iterator[Piece]:
    empty = memoryview(b"")
    for batch in batches:
        whole = "chunk" in batch.schema.names
        shards, kinds, data = (batch.column(name) for name in ("shard", "kind", "data"))
        for row in range(len(batch)):
            chunk = batch.column("chunk")[row].as_py() if whole else 0
            ids = memoryview(batch.column("ids")[row].as_buffer()) if whole else empty
            yield Piece(shards[row].as_py(), kinds[row].as_py(), chunk, ids, memoryview(data[row].as_buffer()))


# -- of what is there --------------------------------------------------------------------------------


def of_kinds(state: DataFrame, *kinds: str) -> DataFrame:
    """The rows of STATE of some kinds; held where ``state`` is."""
    if state in _files:
        files = _files[state]
        return files._replace(entries=[e for e in files.entries if e.kind in kinds]).frame(state.sparkSession)
    batches = blocks.held(state)
    if batches is None:
        return state.where(F.col("kind").isin(*kinds))
    wanted = pa.array(kinds)
    return blocks.hold(state.sparkSession, [b.filter(pc.is_in(b.column("kind"), wanted)) for b in batches], STATE)


def together(one: DataFrame, other: DataFrame) -> DataFrame:
    """The rows of both, two of PIECE or two of STATE."""
    a, b = _files_of(one), _files_of(other)
    if a is None or b is None:
        return one.unionByName(other)
    return _Files(a.entries + b.entries, a.schema, a.folders + b.folders).frame(one.sparkSession)


def moved(pieces: DataFrame, by: int) -> DataFrame:
    """The same rows with higher numbers of their shards."""
    files = _files_of(pieces)
    if files is None:
        return pieces.withColumn("shard", F.col("shard") + F.lit(by))
    entries = [entry._replace(shard=entry.shard + by) for entry in files.entries]
    return files._replace(entries=entries).frame(pieces.sparkSession)


def one_of(state: DataFrame, kind: str) -> np.ndarray | None:
    """Any array of a kind, on the driver; None where there is none."""
    if state in _files:
        return next((array for _, _, array in arrays_of(state, kind)), None)
    row = of_kinds(state, kind).select("data").first()
    return load(row["data"]) if row else None


def arrays_of(state: DataFrame, *kinds: str) -> Iterator[tuple[int, str, np.ndarray]]:
    """The arrays of some kinds on the driver, one after the other, with their shards and kinds."""
    if state in _files:
        for found in _read(e for e in _files[state].entries if e.kind in kinds):
            yield found.shard, found.kind, load(found.data)
        return
    for shard, kind, data in blocks.to_driver(of_kinds(state, *kinds), "shard", "kind", "data"):
        yield shard, kind, load(data)
