"""What several passes read, kept in files of this machine, which tasks map into their memory.

Spark keeps what it persists in the JVM, and every pass takes it out of there through a socket: a second for 166 MB, and
more than most passes compute. Mapped files are read by all tasks at once, without a copy, as long as the machine has
room to hold them.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from motorpool import stopping
from motorpool.errors import MotorpoolError
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each

_FILES = "task INT, path STRING"


@contextmanager
def kept(df: DataFrame) -> Iterator[DataFrame]:
    """`blocks.kept`; the rows of a chain, on one machine, in files under ``spark.local.dir``, removed at the end.

    They are worked out at once, by one job, with the tasks of the chain, and stay as batches in their order. Disk: the
    rows as Arrow has them. MotorpoolError where there is no room for them.
    """
    folder = _local_folder(df.sparkSession) if blocks.chain(df) else None
    if folder is None:
        with blocks.kept(df) as df:
            yield df
        return
    folder.mkdir(parents=True)
    with stopping.removed_at_stop(folder):
        try:
            yield _from_files(df, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _local_folder(spark: SparkSession) -> Path | None:
    """A new folder for files that all tasks see; None where they may run on other machines."""
    # Spark Connect's client is not the driver: its folders are not those of the tasks.
    if getattr(spark, "_jsc", None) is None or not str(spark.conf.get("spark.master", "")).startswith("local"):
        return None
    places = str(spark.conf.get("spark.local.dir", None) or tempfile.gettempdir())
    return Path(places.split(",")[0]).absolute() / f"motorpool-blocks-{uuid.uuid4()}"


def _from_files(df: DataFrame, folder: Path) -> DataFrame:
    schema, root = to_arrow_schema(df.schema), str(folder)

    def write(batches: Batches) -> Batches:
        task = blocks.task_number()
        # A task may be tried again.
        path = f"{root}/{task:05d}-{uuid.uuid4()}.arrow"
        try:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch.select(schema.names).cast(schema))
        except OSError as exc:
            raise MotorpoolError(
                f"{root}: what several passes read cannot be kept there: {exc}. Make room, or set spark.local.dir to a "
                "folder of another disk"
            ) from exc
        yield pa.RecordBatch.from_arrays([pa.array([task], pa.int32()), pa.array([path])], names=["task", "path"])

    found = blocks.in_tasks(df, write, _FILES).toArrow().sort_by("task")

    def read(path: str) -> Batches:
        # The map lasts as long as a batch of it is in use.
        with pa.ipc.open_file(pa.memory_map(path)) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index)

    return one_each(df.sparkSession, found.column("path").to_pylist(), read, df.schema)
