"""A real cluster: a standalone master and two workers that die, tasks that fail, executors without memory."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from pyspark.sql import SparkSession

from cases import blobs, contents, package_zip, run_of, versions, write_case
from motorpool.case import descriptors
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.neighbours import shards
from motorpool.pipeline.run import run_pipeline
from standalone import MASTER, Cluster, Driver, addresses_missing, bare_python, free_port, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = Path(sys.executable).with_name("spark-submit")
ROWS = 240
#: Rows of a shard and bytes of a split, small enough that some hundred rows make several tasks of every step.
SHARD_ROWS, SPLIT_BYTES = 96, 2048
#: Of a join: which of several share a task follows where their blocks are kept, and so does what float32 loses.
PARTITIONS = "1"
STUDY = {
    # A join: its shuffle files lie on the executors that die.
    "features": [
        {
            "name": "both",
            "join": [{"descriptor": "osnet"}, {"descriptor": "vdc_color"}],
            "steps": ["standard", {"pca": 4}],
        }
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [2, 3]},
            {"algorithm": "dbscan", "eps": [0.75, 1.5], "min_samples": [3, 8]},
        ],
    },
    "outliers": {"methods": ["lof", "dbscan_noise"], "k": 5},
}
#: The command line with small shards and splits: both are read where tasks are planned, which is on the driver.
JOB = f"""
import sys

from motorpool.cli import main
from motorpool.neighbours import shards
from motorpool.case import descriptors

shards.SHARD_ROWS = shards._FEWEST_ROWS = {SHARD_ROWS}
descriptors._SPLIT_BYTES = {SPLIT_BYTES}
sys.exit(main(sys.argv[1:]))
"""
#: Where driver and workers import the package from.
WHERE = """
import motorpool
from pyspark.sql import SparkSession

def run(batches):
    import os
    import motorpool
    import pyarrow as pa
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pa.array([os.path.abspath(motorpool.__file__)])], names=["file"])

spark = SparkSession.builder.getOrCreate()
print("driver", motorpool.__file__)
for row in spark.range(0, 8, 1, 8).mapInArrow(run, "file STRING").distinct().collect():
    print("worker", row["file"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case, a config, the package's zip, and a Python without the package."""
    folder = tmp_path_factory.mktemp("cluster")
    write_case(folder / "case", ROWS, {"osnet": blobs(ROWS, 8), "vdc_color": blobs(ROWS, 5)})
    paths = {"case": {"path": str(folder / "case")}, "lake": {"path": "to be set"}}
    (folder / "run.yaml").write_text(yaml.safe_dump({**paths, **STUDY}))
    (folder / "job.py").write_text(JOB)
    (folder / "where.py").write_text(WHERE)
    package_zip(folder / "motorpool.zip")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    missing = addresses_missing()
    if missing:
        pytest.skip(missing)
    with Cluster.running(folder, bare_python(folder / "python")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(spark: SparkSession, folder: Path) -> dict[str, list[str]]:
    """The tables that local mode makes of the same case."""
    before = str(spark.conf.get("spark.sql.shuffle.partitions"))
    spark.conf.set("spark.sql.shuffle.partitions", PARTITIONS)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "SHARD_ROWS", SHARD_ROWS)
            patch.setattr(shards, "_FEWEST_ROWS", SHARD_ROWS)
            patch.setattr(descriptors, "_SPLIT_BYTES", SPLIT_BYTES)
            ctx = run_of(spark, folder / "case", folder / "local", **STUDY)
            run_pipeline(ctx)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    return contents(ctx.lake, clock=False)


def submit(cluster: Cluster, folder: Path, name: str, *args: object, settings: dict[str, str] | None = None) -> Driver:
    """spark-submit in client mode: standalone clusters have no other for Python programs."""
    ui_port = free_port()
    conf = {
        "spark.driver.host": MASTER,
        "spark.ui.enabled": "true",
        "spark.ui.port": str(ui_port),
        "spark.driver.memory": "1g",
        "spark.executor.memory": "512m",
        "spark.executor.memoryOverhead": "384m",
        "spark.executor.cores": "1",
        # As in local mode above, so that the same rows meet in the same partitions.
        "spark.default.parallelism": "2",
        "spark.sql.shuffle.partitions": PARTITIONS,
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.adaptive.enabled": "false",
        # Executors of machines that die take tasks with them, several times in one run.
        "spark.task.maxFailures": "8",
        "spark.executor.extraJavaOptions": os.environ.get("SPARK_SUBMIT_OPTS", ""),
        # Nobody's home: what a container's user often has.
        "spark.executorEnv.HOME": "/dev/null",
        **(settings or {}),
    }
    listed = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    properties = ["--properties-file", ROOT / "conf" / "spark" / "standalone.conf", "--master", cluster.url]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYSPARK_GATEWAY_PORT")}
    env |= {"PYSPARK_PYTHON": str(cluster.python), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    parts = [SUBMIT, *properties, *listed, "--py-files", folder / "motorpool.zip", *args]
    cluster.drivers.append(Driver([str(p) for p in parts], folder, name, env, ui_port))
    return cluster.drivers[-1]


def job(cluster: Cluster, folder: Path, name: str, stage: str, lake: str, **settings: str) -> Driver:
    args = (folder / "job.py", *stage.split(), "--conf", folder / "run.yaml", "--set", f"lake.path={folder / lake}")
    return submit(cluster, folder, name, *args, settings=settings)


def lake_of(spark: SparkSession, folder: Path, name: str) -> Lake:
    return Lake(spark, LakeConfig(path=str(folder / name)))


def assert_same(found: dict[str, list[str]], expected: dict[str, list[str]]) -> None:
    """Equal tables, numbers with a fraction up to their last digits.

    Which partitions share a task follows where their blocks are kept, and so does the order in which sums are added.
    """
    assert found.keys() == expected.keys()
    for table in expected:
        (texts, numbers), (other_texts, other_numbers) = parted(found[table]), parted(expected[table])
        assert texts == other_texts, table
        np.testing.assert_allclose(numbers, other_numbers, rtol=1e-6, atol=1e-9, err_msg=table)


def parted(rows: list[str]) -> tuple[list[str], list[float]]:
    """Rows of `contents` without the numbers that have a fraction, in the order of what is left; and these numbers."""
    fraction = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+|\bnan\b")
    both = sorted((fraction.sub("#", row), [float(x) for x in fraction.findall(row)]) for row in rows)
    return [text for text, _ in both], [number for _, numbers in both for number in numbers]


def test_executors_get_the_package_from_the_driver(cluster: Cluster, folder: Path) -> None:
    """Their Python has no motorpool, and they look for it below their own work folder."""
    driver = submit(cluster, folder, "where", folder / "where.py")
    assert driver.finish() == 0, driver.tail()
    lines = [line.split(" ", 1) for line in driver.said.splitlines() if line.startswith(("driver ", "worker "))]
    places = [(who, Path(place)) for who, place in lines]
    assert {who for who, _ in places} == {"driver", "worker"}
    for who, place in places:
        assert "motorpool.zip" in place.parts
        if who == "worker":
            assert folder / place.relative_to(folder).parts[0] in [folder / host for host in cluster.workers]


def test_a_lake_on_the_drivers_own_disk_is_refused(cluster: Cluster, folder: Path) -> None:
    """A relative path: every process of the cluster has a working folder of its own."""
    args = (folder / "job.py", "ingest", "--conf", folder / "run.yaml", "--set", "lake.path=own")
    driver = submit(cluster, folder, "own", *args)
    assert driver.finish() == 1, driver.tail()
    assert "motorpool: lake.path own: the driver's folder is not seen on" in driver.said
    assert not (folder / "own").exists()


def test_machines_that_die_in_every_stage_change_nothing(
    cluster: Cluster, folder: Path, spark: SparkSession, expected: dict[str, list[str]]
) -> None:
    """A worker, its executor and all that these hold are lost five times in a run, and a Python process once."""
    # Its log tells with what each step begins.
    driver = job(cluster, folder, "dying", "--debug run", "dying")
    for step in (
        "ingest: converting",
        "features: fitting",
        "cluster: kmeans on both",
        "cluster: dbscan on both",
        "outliers: lof, dbscan_noise on both",
    ):
        driver.until_said(step)
        host = driver.until_a_task_has_run()
        cluster.kill_worker(host)
        cluster.start_worker(host)
        if step.startswith("cluster: dbscan"):
            driver.until_said("cluster: scoring and labelling 4 models")
            kill_a_task(driver, cluster)
    assert driver.finish() == 0, driver.tail()
    assert driver.spark_log.count("Lost executor") >= 5
    assert_same(contents(lake_of(spark, folder, "dying"), clock=False), expected)


def kill_a_task(driver: Driver, cluster: Cluster) -> None:
    """End a Python process at work, and others after it, until Spark says that it has lost a task by that."""
    for _ in range(40):
        process = wait_for("a Python process at work", cluster.busy_python)
        with suppress(psutil.NoSuchProcess):
            process.kill()
        with suppress(TimeoutError):
            wait_for("a lost task", lambda: "Python worker exited unexpectedly" in driver.spark_log, 2)
            return
    pytest.fail("no task failed by the loss of its process")


def test_out_of_memory_says_so_and_goes_on_from_there(
    cluster: Cluster, folder: Path, spark: SparkSession, expected: dict[str, list[str]]
) -> None:
    for table in ("images", "bad_rows", "descriptors", "sources", "features", "feature_sets"):
        shutil.copytree(folder / "local" / table, folder / "memory" / table)
    lake = lake_of(spark, folder, "memory")
    before = versions(lake)
    # Too little to load Arrow's libraries; with some more, OpenBLAS waits for ever for the memory that it is refused.
    starved = job(cluster, folder, "starved", "cluster", "memory", **{"spark.executor.pyspark.memory": "200m"})
    assert starved.finish() == 1, starved.tail()
    assert "motorpool: a task ran out of memory" in starved.said
    assert "spark.executor.memoryOverhead" in starved.said
    assert "Traceback" not in starved.said
    assert versions(lake) == before
    driver = job(cluster, folder, "fed", "run", "memory")
    assert driver.finish() == 0, driver.tail()
    assert "ingest: the lake already holds these" in driver.said
    assert "features: all feature sets of the study are in the lake" in driver.said
    assert_same(contents(lake, clock=False), expected)
