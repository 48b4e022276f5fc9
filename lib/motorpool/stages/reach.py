"""Whether executors see the lake's folder: on a cluster a local path means each machine's own disk."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from motorpool import blocks
from motorpool.blocks import Batches
from motorpool.config import LakeConfig, has_scheme, local_folder
from motorpool.errors import LakeError


def check_reach(spark: SparkSession, lake: LakeConfig) -> None:
    """`require_shared` where it matters: for a lake in a local folder, on a cluster. LakeError as there."""
    if lake.path is None or local_folder(lake.path) is None:
        return
    # Spark Connect's client is not the driver, and sees other folders than that does.
    if getattr(spark, "_sc", None) is None or str(spark.conf.get("spark.master", "local")).startswith("local"):
        return
    # Where the cluster's own file system is another (HDFS on YARN, DBFS), a path without a scheme lies there.
    default = str(spark.sparkContext._jsc.hadoopConfiguration().get("fs.defaultFS", "file:///"))
    if has_scheme(lake.path) or default.startswith("file:"):
        require_shared(spark, lake.path)


def require_shared(spark: SparkSession, path: str) -> None:
    """LakeError where executors do not see what the driver puts into a folder: each would write files of its own there.

    Asks the executors that are there, two tasks for each slot, but none that joins later. Leaves nothing behind.
    """
    folder = local_folder(path)
    if folder is None:
        raise ValueError(f"{path}: is no local folder")
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"_probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        blind = hosts_without(spark, probe)
    finally:
        probe.unlink()
        # Innermost first, as far as nobody else has put something there meanwhile.
        with suppress(OSError):
            for empty in made:
                empty.rmdir()
    if blind:
        raise LakeError(
            f"lake.path {path}: the driver's folder is not seen on {', '.join(blind)}. Put the lake where all machines "
            "of the cluster find it under one name: a shared mount, or an object store (s3a://, gs://, abfss://, hdfs://)"
        )


def hosts_without(spark: SparkSession, file: Path) -> list[str]:
    """The hosts, by name, of tasks for which there is no such file."""
    name = str(file)

    def look(batches: Batches) -> Batches:
        import os
        import socket

        for batch in batches:
            if len(batch) and not os.path.exists(name):
                yield pa.RecordBatch.from_arrays([pa.array([socket.gethostname()])], names=["host"])

    n = 2 * blocks.parallelism(spark)
    return sorted(r["host"] for r in spark.range(0, n, 1, n).mapInArrow(look, "host STRING").distinct().collect())
