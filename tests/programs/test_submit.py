"""The real spark-submit: jobs with the package as a zip through --py-files, each stage alone, without Delta."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from cases import blobs, contents, package_zip, write_case
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = Path(sys.executable).with_name("spark-submit")
STUDY = {
    "case": {"path": "to be set"},
    "lake": {"path": "to be set"},
    "features": [{"descriptor": "osnet", "steps": [{"pca": 3}, "standard"]}],
    # Density-based models run compiled loops, which must also be found in the zip.
    "cluster": {
        "models": [{"algorithm": "kmeans", "k": [2, 3]}, {"algorithm": "hdbscan", "min_cluster_size": 5}],
    },
    "outliers": {"methods": ["lof"], "k": 5},
}
#: Which package the driver and a worker import.
WHERE = """
import motorpool
from pyspark.sql import SparkSession

def run(batches):
    import motorpool
    import pyarrow as pa
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pa.array([motorpool.__file__])], names=["file"])

spark = SparkSession.builder.getOrCreate()
print("driver", motorpool.__file__)
print("worker", spark.range(0, 1, 1, 1).mapInArrow(run, "file STRING").first()["file"])
"""
#: Several jobs in one process, each as a program of its own: every start of Spark takes half a minute.
JOBS = """
import runpy
import sys

for job in sys.argv.pop(1).split(","):
    try:
        runpy.run_path(job, run_name="__main__")
    except SystemExit as done:
        if done.code:
            raise
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case, a config, the package's zip; the working directory of every job, outside the repository."""
    folder = tmp_path_factory.mktemp("submit")
    write_case(folder / "case", 40, {"osnet": blobs(40, 5)})
    (folder / "run.yaml").write_text(yaml.safe_dump(STUDY))
    (folder / "where.py").write_text(WHERE)
    package_zip(folder / "motorpool.zip")
    (folder / "jobs.py").write_text(JOBS)
    return folder


def submit(folder: Path, *args: object, delta: bool = True) -> subprocess.CompletedProcess[str]:
    """Run spark-submit, which sends the Python program's stderr to stdout; stderr holds Spark's own log."""
    properties = ["--properties-file", ROOT / "conf" / "spark" / "local.conf"] if delta else []
    machine = ["--master", "local[2]", "--driver-memory", "1g", "--py-files", folder / "motorpool.zip"]
    env: Mapping[str, str] = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYSPARK_GATEWAY_PORT")}
    return subprocess.run(
        [str(a) for a in (SUBMIT, *properties, *machine, *args)],
        cwd=folder,
        env={**env, "PYSPARK_PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def job(folder: Path, name: str, lake: str, *more: object, delta: bool = True) -> subprocess.CompletedProcess[str]:
    paths = ("--set", f"case.path={folder / 'case'}", "--set", f"lake.path={folder / lake}")
    files = [str(ROOT / "jobs" / f"{n}.py") for n in name.split(",")]
    program = files if len(files) == 1 else [folder / "jobs.py", ",".join(files)]
    return submit(folder, *program, "--conf", folder / "run.yaml", *paths, *more, delta=delta)


def tables(spark: SparkSession, folder: Path, name: str) -> dict[str, list[str]]:
    return contents(Lake(spark, LakeConfig(path=str(folder / name))), clock=False)


def test_the_package_comes_from_the_zip(folder: Path) -> None:
    """On driver and worker alike: what the other tests here run is not the source tree."""
    done = submit(folder, folder / "where.py", delta=False)
    assert done.returncode == 0, done.stderr[-3000:]
    places = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("driver", "worker")))
    assert set(places) == {"driver", "worker"}
    for place in places.values():
        assert "motorpool.zip/" in place


def test_the_pipeline_and_its_stages_give_the_same_tables(folder: Path, spark: SparkSession) -> None:
    done = job(folder, "pipeline", "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "40 images, 3 models" in done.stdout
    for name in ("ingest", "features", "cluster,consensus,vehicles,outliers"):
        done = job(folder, name, "staged")
        assert done.returncode == 0, done.stderr[-3000:]
    whole = tables(spark, folder, "whole")
    assert set(whole) >= {
        "images",
        "descriptors",
        "sources",
        "feature_sets",
        "features",
        "models",
        "labels",
        "clusters",
        "outliers",
    }
    assert tables(spark, folder, "staged") == whole


def test_a_stage_too_early(folder: Path) -> None:
    done = job(folder, "cluster", "early")
    assert done.returncode == 1
    assert "motorpool: table 'features' is not in the lake" in done.stdout
    assert "run `motorpool features` first" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_config_ends_with_2(folder: Path) -> None:
    done = job(folder, "pipeline", "wrong", "--set", "cluster.models.0.k=1")
    assert done.returncode == 2
    assert "cluster.models[0].k[0]: 1: Input should be greater than or equal to 2" in done.stdout
    assert not (folder / "wrong").exists()


def test_without_delta(folder: Path) -> None:
    done = job(folder, "pipeline", "none", delta=False)
    assert done.returncode == 1
    message = done.stdout[done.stdout.index("motorpool: this Spark session was started without Delta") :]
    for part in (
        "--properties-file conf/spark/local.conf",
        "--packages io.delta:delta-spark_2.13:4.0.1",
        "--conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
        "--conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "lake.format: parquet",
    ):
        assert part in message
    assert "Traceback" not in message
    assert not (folder / "none").exists()
    # Parquet needs no Delta.
    done = job(folder, "ingest", "parquet", "--set", "lake.format=parquet", delta=False)
    assert done.returncode == 0, done.stderr[-3000:]
