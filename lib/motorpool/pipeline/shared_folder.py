"""Whether executors see the lake's folder: on a cluster a local path means each machine's own disk."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress

from pyspark.sql import SparkSession

from motorpool.config.run import LakeConfig, has_scheme, local_folder
from motorpool.errors import LakeError
from motorpool.spark.hosts import ask_hosts


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

    Asks with `ask_hosts`. Leaves nothing behind.
    """
    folder = local_folder(path)
    if folder is None:
        raise ValueError(f"{path}: is no local folder")
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"_probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        name = str(probe)
        seen = ask_hosts(spark, lambda: [str(os.path.exists(name))])
    finally:
        probe.unlink()
        # Innermost first, as far as nobody else has put something there meanwhile.
        with suppress(OSError):
            for empty in made:
                empty.rmdir()
    blind = [host for host, found in seen.items() if found != ["True"]]
    if blind:
        raise LakeError(
            f"lake.path {path}: the driver's folder is not seen on {', '.join(blind)}. Put the lake where all machines "
            "of the cluster find it under one name: a shared mount, or an object store (s3a://, gs://, abfss://, hdfs://)"
        )
