"""What several passes read, kept in files of this machine, which tasks map into their memory.

Spark keeps what it persists in the JVM, and every pass takes it out of there through a socket: a second for 166 MB, and
more than most passes compute. Mapped files are read by all tasks at once, without a copy, as long as the machine has
room to hold them.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from motorpool import stopping
from motorpool.errors import MotorpoolError
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each

_FILES = "task INT, path STRING"


class Folder:
    """A new folder under ``spark.local.dir``, there for as long as somebody refers to this object, or until `remove`.

    It goes with the process, too, also where a signal ends that at once.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, mode=0o700)
        self.path = path
        work = ExitStack()
        work.enter_context(stopping.removed_at_stop(path))
        work.callback(shutil.rmtree, path, ignore_errors=True)
        self._end = weakref.finalize(self, work.close)

    @classmethod
    def seen_by_tasks(cls, spark: SparkSession) -> Folder | None:
        """A folder of this machine, where all tasks run on it; None where they may run on others."""
        path = _local_folder(spark)
        return None if path is None else cls(path)

    def remove(self) -> None:
        self._end()


@contextmanager
def kept(df: DataFrame) -> Iterator[DataFrame]:
    """`blocks.kept`; the rows of a chain, on one machine, in files under ``spark.local.dir``, removed at the end.

    They are worked out at once, by one job, with the tasks of the chain, and stay as batches in their order. Disk: the
    rows as Arrow has them. MotorpoolError where there is no room for them.
    """
    folder = Folder.seen_by_tasks(df.sparkSession) if blocks.chain(df) else None
    if folder is None:
        with blocks.kept(df) as df:
            yield df
        return
    try:
        yield _in_files(df, folder)
    finally:
        folder.remove()


def computed(df: DataFrame) -> DataFrame:
    """`blocks.computed`; a chain's rows, on one machine, in files as by `kept`, for as long as the result is in use."""
    folder = Folder.seen_by_tasks(df.sparkSession) if blocks.chain(df) else None
    return blocks.computed(df) if folder is None else _in_files(df, folder)


def written(df: DataFrame, folder: Folder) -> list[str]:
    """Have tasks write the rows of a DataFrame as Arrow files, one each: their paths in the tasks' order, from one job.

    MotorpoolError where there is no room for them. Where the job fails the folder goes.
    """
    schema, root = to_arrow_schema(df.schema), folder.path

    def write(batches: Batches) -> Batches:
        task = blocks.task_number()
        path = _write(root, f"{task:05d}", batches, schema)
        yield pa.RecordBatch.from_arrays([pa.array([task], pa.int32()), pa.array([path])], names=["task", "path"])

    try:
        found: list[str] = blocks.in_tasks(df, write, _FILES).toArrow().sort_by("task").column("path").to_pylist()
    except BaseException:
        folder.remove()
        raise
    return found


def written_here(batches: Batches, schema: str | StructType, folder: Folder) -> str:
    """The path of an Arrow file of batches that the driver has."""
    return _write(folder.path, "driver", batches, blocks.arrow_schema(schema))


def opened(path: str) -> pa.ipc.RecordBatchFileReader:
    """The batches of a file, mapped: the map lasts as long as a batch of it is in use."""
    return pa.ipc.open_file(pa.memory_map(path))


def _in_files(df: DataFrame, folder: Folder) -> DataFrame:
    def read(path: str) -> Batches:
        with opened(path) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    return blocks.read_from(one_each(df.sparkSession, written(df, folder), read, df.schema), folder)


def _local_folder(spark: SparkSession) -> Path | None:
    """A new folder for files that all tasks see; None where they may run on other machines."""
    # Spark Connect's client is not the driver: its folders are not those of the tasks.
    if getattr(spark, "_jsc", None) is None or not str(spark.conf.get("spark.master", "")).startswith("local"):
        return None
    places = str(spark.conf.get("spark.local.dir", None) or tempfile.gettempdir())
    return Path(places.split(",")[0]).absolute() / f"motorpool-blocks-{uuid.uuid4()}"


def _write(root: Path, name: str, batches: Batches, schema: pa.Schema) -> str:
    # A task may be tried again.
    path = f"{root}/{name}-{uuid.uuid4()}.arrow"
    try:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch.select(schema.names).cast(schema))
    except OSError as exc:
        raise MotorpoolError(
            f"{root}: what several passes read cannot be kept there: {exc}. Make room, or set spark.local.dir to a "
            "folder of another disk"
        ) from exc
    return path
