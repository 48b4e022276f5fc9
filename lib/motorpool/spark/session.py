"""The one place where a SparkSession is built: on a laptop, under spark-submit, or the cluster's own."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from motorpool import stopping
from motorpool.errors import EnvironmentMissingError
from motorpool.spark.jvm.java import check_java
from motorpool.spark.jvm.start_failures import DELTA_PACKAGE, why_not

log = logging.getLogger(__name__)

#: Where the JVM that this process started writes what it has to say: removed when the process ends.
_jvm_log: Path | None = None
#: Ends where the log is to stay behind.
_log_kept = contextlib.ExitStack()

DELTA_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}

#: Settings that the tables and kernels are written for, wherever the job runs.
_ALWAYS = {
    # 4,096 vectors of 2,560 float32 are 42 MB: large enough for matrix products, small beside a worker.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
    # One open writer for each of a few hundred models avoids a sort of all labels by model.
    "spark.sql.maxConcurrentOutputFileWriters": "256",
    # Blocks are 4 MB and more each: without this bound a batch of them takes up to 256 MB in a worker.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 * 2**20),
}

#: Settings that only make sense when driver and executors share one machine.
_LOCAL_ONLY = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # A laptop has few cores: the default of 200 shuffle partitions is 200 tiny tasks.
    "spark.sql.shuffle.partitions": "8",
    # Planning each shuffle anew, when the one before it is done, takes longer here than it saves.
    "spark.sql.adaptive.enabled": "false",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.maxResultSize": "2g",
    "spark.sql.session.timeZone": "UTC",
    # Vectors leave Parquet uncompressed as fast as the disk gives them; zstd level 1 still packs labels.
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.hadoop.parquet.compression.codec.zstd.level": "1",
    "spark.io.compression.codec": "lz4",
    "spark.log.level": "WARN",
}

#: Settings of a local session that is to carry little: half of the processor time of such a run was compiling.
_SMALL = {
    # Java's optimising compiler pays for what runs a million times. Without it Java has a small room for compiled
    # code, which Spark and Delta fill.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m",
    # So does making a Java class of every stage.
    "spark.sql.codegen.wholeStage": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
}


def build_session(
    settings: Mapping[str, str] | None = None,
    *,
    delta: bool = True,
    app: str = "motorpool",
    verbose: bool = False,
    small: bool = False,
) -> SparkSession:
    """The session to work in.

    A session that is already active (a notebook, Databricks) is used as it is. Under ``spark-submit`` the
    cluster's settings stand and only what is missing is added. Otherwise a local session on all cores is
    started; ``settings`` (the config's ``spark`` section) win over every default here. Unless ``verbose``,
    the local JVM writes its log to a file instead of the terminal. A local session for ``small`` work is up sooner and
    takes half the processor time for it; many rows take it longer.

    Raises EnvironmentMissingError when Java or Delta's jars are missing.
    """
    settings = dict(settings or {})
    active = SparkSession.getActiveSession()
    if active is not None:
        _set_runtime(active, {**_ALWAYS, **settings})
        _check_delta(active, delta)
        return active
    builder = SparkSession.builder.appName(app)
    defaults = dict(_ALWAYS)
    if not is_submitted():
        check_java()
        # Workers must run this very interpreter, or they miss its packages.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        defaults |= _LOCAL_ONLY | {"spark.master": "local[*]", "spark.driver.memory": _driver_memory()}
        if small:
            defaults |= _SMALL
        # Daemon and workers find pyspark beside the driver's, which a zip on the path would hide.
        same = shares_python(settings.get("spark.master", "local[*]"), settings.get("spark.pyspark.python"))
        if same and Path(pyspark.__file__).is_file():
            defaults["spark.python.daemon.module"] = "motorpool.spark.worker_daemon"
        if delta:
            defaults |= DELTA_SETTINGS | {"spark.jars.packages": _packages(settings)}
            settings.pop("spark.jars.packages", None)
        spark = _start(builder, {"spark.app.name": app, **defaults, **settings}, verbose)
    else:
        for key, value in settings.items():
            builder = builder.config(key, value)
        listening = stopping.is_listening()
        stopping.end_all_from_now_on(own_jvm=False)
        spark = builder.getOrCreate()
        if listening:
            # As below.
            stopping.listen()
        _set_runtime(spark, {k: v for k, v in defaults.items() if k not in settings})
    _check_delta(spark, delta)
    return spark


def is_submitted() -> bool:
    """Whether somebody else has set up Spark for this process: spark-submit, or Databricks, which starts it before."""
    return "PYSPARK_GATEWAY_PORT" in os.environ or "DATABRICKS_RUNTIME_VERSION" in os.environ


def shares_python(master: str, chosen: str | None = None) -> bool:
    """Whether tasks run on this machine in this very interpreter; ``chosen`` is ``spark.pyspark.python``."""
    python = chosen or os.environ.get("PYSPARK_PYTHON", sys.executable)
    return master.startswith("local") and python == sys.executable


def _packages(settings: Mapping[str, str]) -> str:
    wanted = [p for p in settings.get("spark.jars.packages", "").split(",") if p]
    if not any(":delta-spark" in p for p in wanted):
        wanted.insert(0, DELTA_PACKAGE)
    return ",".join(wanted)


def _driver_memory() -> str:
    """A quarter of the machine, between 1 and 4 GiB: Python workers and the page cache need the rest."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(4096, max(1024, total // 4 // 2**20))}m"


def _set_runtime(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Apply what can be changed on a live session; static settings belong to whoever started it."""
    for key, value in settings.items():
        try:
            spark.conf.set(key, value)
        except PySparkException as exc:
            log.warning("spark.%s stays as the running session has it: %s", key.removeprefix("spark."), exc)


def _start(builder: SparkSession.Builder, settings: Mapping[str, str], verbose: bool) -> SparkSession:
    """A session in a JVM of its own, which ends with this process wherever that is stopped."""
    global _jvm_log
    stopping.end_all_from_now_on(own_jvm=True)
    conf = SparkConf()
    for key, value in settings.items():
        conf.set(key, value)
        builder = builder.config(key, value)
    if verbose:
        return _in_own_jvm(builder, conf, {})
    handle, name = tempfile.mkstemp(prefix="motorpool-spark-", suffix=".log")
    log_file = _jvm_log = Path(name)
    atexit.register(log_file.unlink, missing_ok=True)
    _log_kept.enter_context(stopping.removed_at_stop(log_file))
    try:
        with open(handle, "wb") as f:
            return _in_own_jvm(builder, conf, {"stdout": f, "stderr": f})
    except Exception as exc:
        reason = why_not(f"{log_file.read_text(errors='replace')}\n{exc}")
        raise EnvironmentMissingError(f"Spark did not start: {reason}. Spark's log is {keep_jvm_log()}") from exc


def _in_own_jvm(builder: SparkSession.Builder, conf: SparkConf, output: Mapping[str, IO[bytes]]) -> SparkSession:
    """The session of a JVM that is started here, unless this process has one; ``output`` is where it logs."""
    if SparkContext._gateway is None:
        SparkContext._ensure_initialized(gateway=launch_gateway(conf, dict(output)))  # type: ignore[no-untyped-call]
    listening = stopping.is_listening()
    SparkContext.getOrCreate(conf)
    if listening:
        # It has taken Ctrl-C over, to ask the JVM in the middle of another call to cancel its jobs.
        stopping.listen()
    return builder.getOrCreate()


def jvm_log_end() -> int:
    """How many bytes the JVM that this process started has logged by now: what comes later is news."""
    return _jvm_log.stat().st_size if _jvm_log is not None and _jvm_log.is_file() else 0


def jvm_log_since(start: int) -> str:
    """What the JVM that this process started has logged behind ``start`` bytes, its last MiB; empty elsewhere.

    A JVM that ends takes the reason with it: what Python gets to see is a broken connection, or an error that follows.
    """
    if _jvm_log is None or not _jvm_log.is_file():
        return ""
    with _jvm_log.open("rb") as f:
        f.seek(max(start, f.seek(0, os.SEEK_END) - 2**20))
        return f.read().decode(errors="replace")


def keep_jvm_log() -> Path | None:
    """The log's file, for an error to name: it then stays behind; None where the JVM logs elsewhere."""
    if _jvm_log is not None:
        atexit.unregister(_jvm_log.unlink)
        _log_kept.close()
    return _jvm_log


def jvm_ended(patience: float) -> bool:
    """Whether the JVM that this process started has ended, or does so within ``patience`` seconds."""
    process = getattr(SparkContext._gateway, "proc", None)
    if process is None:
        return False
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def _check_delta(spark: SparkSession, delta: bool) -> None:
    if not delta:
        return
    extensions = spark.conf.get("spark.sql.extensions", "") or ""
    on_databricks = "DATABRICKS_RUNTIME_VERSION" in os.environ
    if "DeltaSparkSessionExtension" not in extensions and not on_databricks:
        raise EnvironmentMissingError(
            "this Spark session was started without Delta. Start it with "
            "`--properties-file conf/spark/local.conf`, or with "
            f"`--packages {DELTA_PACKAGE} "
            + " ".join(f"--conf {k}={v}" for k, v in DELTA_SETTINGS.items())
            + "`, or set `lake.format: parquet`"
        )
