"""The settings under conf/ for clusters: known keys, values of their types, versions that agree, files that exist.

What this cannot tell is whether a cluster takes them: each file says at its head what was seen running.
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from motorpool import __version__
from motorpool.config.load import load_config
from motorpool.spark.session import DELTA_PACKAGE, DELTA_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SPARK, DATABRICKS = ROOT / "conf" / "spark", ROOT / "conf" / "databricks"
CONFS = sorted(SPARK.glob("*.conf"))
OTHERS = [SPARK / "gpus.sh", SPARK / "kubernetes.Dockerfile", *sorted(DATABRICKS.glob("*"))]
BUNDLE: dict[str, Any] = yaml.safe_load((DATABRICKS / "databricks.yml").read_text())
#: Where Spark keeps the keys that it knows: objects that register them when they are loaded.
REGISTRIES = ("internal.config.package$", "sql.internal.SQLConf$", "deploy.k8s.Config$", "deploy.yarn.config.package$")
#: Keys that Spark, Delta, Databricks and RAPIDS document but do not register in Spark's list.
DOCUMENTED = re.compile(
    r"spark\.(master|app\.name|(executorEnv|yarn\.appMasterEnv)\.\w+|sql\.catalog\.\w+"
    r"|(executor|task)\.resource\.gpu\.(amount|vendor|discoveryScript)"
    r"|kubernetes\.(driver|executor)\.volumes\.persistentVolumeClaim\.\w+\.(mount\.(path|readOnly)|options\.claimName)"
    r"|databricks\.delta\.(snapshotPartitions|optimizeWrite\.enabled)"
    # nvidia.github.io/spark-rapids/docs/configs.html, additional-functionality/advanced_configs.html
    r"|rapids\.(sql\.concurrentGpuTasks|memory\.pinnedPool\.size|memory\.gpu\.(maxA|a)llocFraction|sql\.python\.gpu\.enabled))"
)


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def properties(spark: SparkSession, file: Path) -> dict[str, str]:
    """A properties file as spark-submit reads it."""
    assert spark._jvm is not None
    loaded = spark._jvm.java.util.Properties()
    loaded.load(spark._jvm.java.io.FileReader(str(file)))
    return {str(key): str(loaded.getProperty(key)) for key in loaded.stringPropertyNames()}


def clusters() -> dict[str, dict[str, Any]]:
    """The machines of each target of the bundle."""
    return {
        name: target["resources"]["jobs"]["pipeline"]["job_clusters"][0]["new_cluster"]
        for name, target in BUNDLE["targets"].items()
    }


def wanted(extra: str) -> dict[str, str]:
    """Packages and versions of one of setup.py's extras."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    extras = next(ast.literal_eval(k.value) for k in call.keywords if k.arg == "extras_require")
    return dict(re.split(r"(?=[=<>])", package, maxsplit=1) for package in extras[extra])


@pytest.fixture(scope="module")
def known(spark: SparkSession) -> Any:
    """Spark's registered keys: ``findEntry`` gives what it knows of one, None for others."""
    jvm = spark._jvm
    assert jvm is not None
    for registry in REGISTRIES:
        jvm.java.lang.Class.forName(f"org.apache.spark.{registry}")
    return jvm.org.apache.spark.internal.config.ConfigEntry


def problems(spark: SparkSession, known: Any, settings: dict[str, str]) -> list[str]:
    found = []
    for key, value in settings.items():
        entry = known.findEntry(key)
        if entry is None:
            found += [] if DOCUMENTED.fullmatch(key) else [f"{key}: no such key"]
            continue
        conf = spark._jvm.org.apache.spark.SparkConf(False)  # type: ignore[union-attr]
        conf.set(key, value)
        try:
            conf.get(entry)
        except IllegalArgumentException as exc:
            found.append(f"{key} = {value}: {exc}")
    return found


@pytest.mark.parametrize("file", CONFS, ids=named)
def test_spark_knows_every_key_and_value(file: Path, spark: SparkSession, known: Any) -> None:
    assert problems(spark, known, properties(spark, file)) == []


def test_spark_knows_the_bundles_keys(spark: SparkSession, known: Any) -> None:
    for cluster in clusters().values():
        assert problems(spark, known, cluster["spark_conf"]) == []


def test_a_wrong_key_and_a_wrong_value_are_found(spark: SparkSession, known: Any) -> None:
    wrong = {"spark.executor.core": "4", "spark.executor.cores": "four", "spark.sql.shuffle.partitions": "many"}
    found = problems(spark, known, {**wrong, "spark.kubernetes.namespaces": "x", "spark.task.maxFailures": "8"})
    assert [f.split()[0].rstrip(":") for f in found] == [*wrong, "spark.kubernetes.namespaces"]


@pytest.mark.parametrize("file", CONFS, ids=named)
def test_delta_is_set_up_as_on_a_laptop(file: Path, spark: SparkSession) -> None:
    found = properties(spark, file)
    assert {key: found[key] for key in DELTA_SETTINGS} == DELTA_SETTINGS
    if file.stem == "kubernetes":
        assert "spark.jars.packages" not in found
        image = (SPARK / "kubernetes.Dockerfile").read_text()
        assert f"--packages {DELTA_PACKAGE} " in image
        assert f"delta-spark=={DELTA_PACKAGE.split(':')[2]}" in image
    else:
        assert DELTA_PACKAGE in found["spark.jars.packages"].split(",")


def test_versions_agree() -> None:
    gpu, constraints = wanted("gpu"), (ROOT / "constraints.txt").read_text()
    init = (DATABRICKS / "init_gpu.sh").read_text()
    plugins = re.findall(r"rapids-4-spark_2\.13[:-](\d+\.\d+\.\d+)", (SPARK / "standalone_gpu.conf").read_text())
    plugins += re.findall(r"^PLUGIN=(\S+)$", init, re.MULTILINE)
    assert len(plugins) == 3
    for plugin in plugins:
        year, month, _ = plugin.split(".")
        assert gpu["cuml-cu12"] == wanted("gpu-cu13")["cuml-cu13"] == f"=={int(year)}.{int(month)}.*"
    for package in ("cuml-cu12", "cupy-cuda12x"):
        assert f'"{package}{gpu[package]}"' in init
    image = (SPARK / "kubernetes.Dockerfile").read_text()
    assert (
        re.search(r"^FROM apache/spark:(\S+?)-scala2\.13", image, re.MULTILINE)[1] in constraints.split("pyspark==")[1]
    )  # type: ignore[index]
    for file in (*CONFS, *OTHERS):
        for version in re.findall(r"motorpool[-:](\d+\.\d+\.\d+)", file.read_text()):
            assert version == __version__, file


def test_rapids_schedules_one_fit_for_each_gpu(spark: SparkSession) -> None:
    """What stage-level scheduling in spark-rapids-ml asks for."""
    found = properties(spark, SPARK / "standalone_gpu.conf")
    cores = int(found["spark.executor.cores"])
    assert cores > 1
    assert found["spark.executor.resource.gpu.amount"] == found["spark.task.cpus"] == "1"
    assert float(found["spark.task.resource.gpu.amount"]) == 1 / cores
    assert found["spark.plugins"] == clusters()["gpu"]["spark_conf"]["spark.plugins"] == "com.nvidia.spark.SQLPlugin"


@pytest.mark.parametrize("file", [*CONFS, *OTHERS], ids=named)
def test_files_that_are_named_exist(file: Path) -> None:
    for path in re.findall(
        r"(?<![\w/.])(?:conf|jobs|tests)/[\w./-]+\.(?:py|sh|conf|yaml|yml|Dockerfile)\b", file.read_text()
    ):
        if path != "conf/spark-env.sh":
            assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("file", CONFS, ids=named)
def test_the_head_says_what_was_seen_running(file: Path) -> None:
    head = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert ("Seen running: tests/" in head) != ("Not yet seen running" in head)


@pytest.mark.parametrize("file", [f for f in OTHERS if f.suffix == ".sh"], ids=named)
def test_scripts_are_bash(file: Path) -> None:
    subprocess.run(["bash", "-n", str(file)], check=True)


def test_the_bundle_uploads_what_it_runs() -> None:
    (task,) = BUNDLE["resources"]["jobs"]["pipeline"]["tasks"]
    assert [(DATABRICKS / p).resolve() for p in BUNDLE["sync"]["paths"]] == [ROOT / "jobs", ROOT / "conf"]
    assert (DATABRICKS / task["spark_python_task"]["python_file"]).resolve() == ROOT / "jobs" / "pipeline.py"
    assert (DATABRICKS / BUNDLE["artifacts"]["motorpool"]["path"] / "setup.py").is_file()
    (script,) = clusters()["gpu"]["init_scripts"]
    assert (ROOT / script["workspace"]["destination"].removeprefix("${workspace.file_path}/")).is_file()
    for cluster in clusters().values():
        assert cluster["spark_version"].startswith("17.3.x-")
        assert cluster["data_security_mode"] == "SINGLE_USER"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_bundles_study_is_one(target: str) -> None:
    """With the job's own arguments, variables at their defaults or as the target has them."""
    (task,) = BUNDLE["resources"]["jobs"]["pipeline"]["tasks"]
    values = {f"var.{name}": str(variable["default"]) for name, variable in BUNDLE["variables"].items()}
    values |= {f"var.{name}": value for name, value in BUNDLE["targets"][target].get("variables", {}).items()}
    values["workspace.file_path"] = str(ROOT)
    args = [
        re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], argument)
        for argument in task["spark_python_task"]["parameters"]
    ]
    assert args[0] == "--conf"
    assert args[2::2] == ["--set"] * 4
    config = load_config(args[1], args[3::2])
    assert config.accelerator == target
    assert (config.lake.catalog, config.lake.schema_name) == ("main", "motorpool")
    assert config.require_case().path == "/Volumes/main/motorpool/files/IntelliVision_case"


def test_gpus_are_listed_as_spark_asks(tmp_path: Path) -> None:
    stand_in = tmp_path / "nvidia-smi"
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for said, expected in (("0\n1\n", ["0", "1"]), ("0\n", ["0"]), ("", [])):
        stand_in.write_text(f"#!/bin/sh\nprintf '{said}'\n")
        stand_in.chmod(0o755)
        done = subprocess.run([SPARK / "gpus.sh"], env=path, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"name": "gpu", "addresses": expected}
    stand_in.write_text("#!/bin/sh\nexit 9\n")
    assert subprocess.run([SPARK / "gpus.sh"], env=path, capture_output=True).returncode != 0


@pytest.mark.parametrize("job", sorted(p.name for p in (ROOT / "jobs").glob("*.py")))
def test_a_job_that_succeeds_does_not_exit(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Databricks takes any SystemExit for a failure."""
    monkeypatch.setattr(sys, "argv", [job, "--help"])
    runpy.run_path(str(ROOT / "jobs" / job), run_name="__main__")
    assert "Usage: motorpool" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [job, "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / job), run_name="__main__")
    assert ended.value.code == 2
