"""What the tests share: one local Spark session, started by the first test that asks for it, and the real case."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when libraries are loaded. Test workers and Spark's tasks share the cores: more threads wait for each other,
# and those of OpenMP burn a core while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from motorpool.backend.needs import missing
from motorpool.case.arrays import open_array
from motorpool.spark import blocks
from motorpool.spark.blocks import to_list_array
from motorpool.spark.jvm.jars import find_delta
from motorpool.spark.session import build_session

if TYPE_CHECKING:
    from motorpool.pipeline.context import Context

#: Two feature sets, density-based models, a model that must fail (300 clusters of 240 images), and every further stage.
SAMPLE_STUDY: dict[str, Any] = {
    "features": [
        {"descriptor": "vdc_type", "steps": [{"pca": 10}]},
        {"descriptor": "vdc_color", "steps": [{"pca": 10}]},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [3, 5, 300]},
            {"algorithm": "hdbscan", "min_cluster_size": 8, "features": ["vdc_type-pca10"]},
            {"algorithm": "dbscan", "eps": "auto", "min_samples": 4, "features": ["vdc_type-pca10"]},
        ]
    },
    "consensus": {"n_clusters": [3, 4]},
    "outliers": {"methods": ["isolation_forest", "knn_distance"], "share": 0.05},
    "labels": {
        "attributes": {
            "body_type": {"per": "vehicle", "target": 0.8},
            "color": {"per": "vehicle", "target": 0.8},
            "view": {"per": "image", "target": 0.8},
        }
    },
}
CASE = Path(__file__).resolve().parents[2] / "shared" / "case" / "IntelliVision_case"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The session that jobs and notebooks use, made small: two slots, so that partitions run side by side."""
    settings = {
        "spark.master": "local[2]",
        "spark.driver.memory": "1g",
        # Tests count rows by the hundred: each further partition costs more than it carries.
        "spark.sql.shuffle.partitions": "3",
        # Compiling a stage takes longer than these stages; jobs that tests submit run as Spark does by itself.
        "spark.sql.codegen.wholeStage": "false",
        # Planning each stage again from what the last one wrote pays for millions of rows.
        "spark.sql.adaptive.enabled": "false",
        "spark.databricks.delta.snapshotPartitions": "1",
        # Small tables are joined by broadcast unless told otherwise, and real ones are not.
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    session = build_session(settings, app="motorpool tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def case_dir() -> Path:
    """The small real case beside the repository: 2,009 photos and their descriptors."""
    if not (CASE / "images_paths.csv").is_file():
        pytest.skip(f"the real case is not at {CASE}")
    return CASE


@pytest.fixture(scope="session")
def case_vectors(case_dir: Path) -> Callable[[str], np.ndarray]:
    """Reads a descriptor of the real case by name, as float32[n, d]."""

    @functools.cache
    def read(name: str) -> np.ndarray:
        source = open_array(str(case_dir / "descriptors" / f"{name}.pickle"))
        return np.concatenate([x for split in source.splits(4096) for _, x in source.read(split, 4096)])

    return read


@pytest.fixture(scope="session")
def wide(spark: SparkSession) -> Callable[..., DataFrame]:
    """Makes ``image_id BIGINT`` and an ARRAY<FLOAT> column per float32[n, d] keyword, in ``partitions`` parts.

    Rows count from 0 in the arrays' order. Two arrays or more must have equally many rows.
    """

    def make(partitions: int = 2, **arrays: np.ndarray) -> DataFrame:
        n = len(next(iter(arrays.values())))
        columns = {"image_id": pa.array(np.arange(n)), **{c: to_list_array(x) for c, x in arrays.items()}}
        return spark.createDataFrame(pa.table(columns)).repartition(partitions)

    return make


@pytest.fixture(scope="module")
def on_spark(wide: Callable[..., DataFrame]) -> Iterator[Callable[..., DataFrame]]:
    """Makes float32[n, d] into cached blocks of at most 256 rows; dropped behind each module."""
    kept: list[DataFrame] = []

    def make(x: np.ndarray, partitions: int = 2) -> DataFrame:
        kept.append(blocks.persist(blocks.gather(wide(partitions, vector=x.astype(np.float32)), rows=256)))
        return kept[-1]

    yield make
    for df in kept:
        df.unpersist()


@pytest.fixture(scope="module")
def blocked(on_spark: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """``on_spark``, or what a module puts in its place: `in_process` for kernels that mostly need no Spark."""
    return on_spark


#: Modules of the algorithms over blocks whose columns are expressions.
_WITH_COLUMNS = (
    "cluster.density.cells", "neighbours.queries", "neighbours.exchange", "outliers.local",
)  # fmt: skip


@pytest.fixture
def wide_in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """As ``wide``, without Spark: the algorithms' tasks run in this process (see `local_frames`)."""
    import local_frames

    for module in _WITH_COLUMNS:
        monkeypatch.setattr(f"motorpool.{module}.F", local_frames.functions)
    for module in ("neighbours.exchange", "cluster.density.cells"):
        monkeypatch.setattr(f"motorpool.{module}.place", local_frames.place)
    monkeypatch.setattr("motorpool.cluster.density.cells.place_groups", local_frames.place_groups)

    def make(partitions: int = 2, **arrays: np.ndarray) -> Any:
        n = len(next(iter(arrays.values())))
        columns = {"image_id": pa.array(np.arange(n)), **{c: to_list_array(x) for c, x in arrays.items()}}
        return local_frames.LocalFrame([pa.table(columns)], local_frames.LocalSession()).repartition(partitions)

    return make


@pytest.fixture
def in_process(wide_in_process: Callable[..., Any]) -> Callable[..., Any]:
    """As ``on_spark``, without Spark."""
    return lambda x, partitions=2: blocks.gather(wide_in_process(partitions, vector=x), rows=256)


@pytest.fixture(scope="session")
def collect() -> Callable[[DataFrame, str], np.ndarray]:
    """Fetches an array column as a matrix, in the order of ``image_id``."""

    def fetch(df: DataFrame, column: str = "vector") -> np.ndarray:
        table = df.select("image_id", column).toArrow().sort_by("image_id")
        return np.array(table.column(column).combine_chunks().flatten()).reshape(table.num_rows, -1)

    return fetch


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that one test worker fills and all read: ``made_once(name, fill)`` is its path.

    ``fill`` gets the folder, empty. Where it fails, the next worker tries again. Tests that change what is in there
    work on a copy: tables under a path are plain folders.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if hasattr(request.config, "workerinput") else base) / "made-once"
    shared.mkdir(exist_ok=True)

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def sample_run(spark: SparkSession, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Context:
    """A sample case of 240 photos through every stage into a Delta lake, with looks, labels and an audit.

    Every table of the stages that the study asks for has rows, and one model failed.

    For reading only: the tests of a run share it.
    """
    # All stages and what they import: most test files need none of it.
    from cases import jobs_so_far, run_of
    from motorpool.pipeline.annotating.auditing import audit
    from motorpool.pipeline.annotating.drawing import draw, write_looks
    from motorpool.pipeline.annotating.importing import Asked, import_file
    from motorpool.pipeline.run import run_pipeline
    from motorpool.pipeline.stages.label import run_label
    from motorpool_sample import make_sample_case
    from motorpool_sample.answers import fill_in

    def run(folder: Path) -> Context:
        return run_of(spark, folder / "case", folder / "lake", **SAMPLE_STUDY)

    def look(ctx: Context, attributes: Iterable[str], n: int, purpose: str) -> None:
        """A file of drawn photos, filled in from the truth."""
        drawn = {attribute: draw(ctx.lake, attribute, n, purpose, seed=1) for attribute in attributes}
        file = Path(str(ctx.config.lake.path)).parent / f"{purpose}.csv"
        write_looks(drawn, purpose, file)
        fill_in(file.parent / "case", file)
        import_file(ctx.lake, str(file), Asked("simulated"))

    def fill(folder: Path) -> None:
        make_sample_case(folder / "case", images=240, seed=1)
        ctx = run(folder)
        before = jobs_so_far(spark)
        run_pipeline(ctx)
        commits = len(list((folder / "lake").glob("*/_delta_log/*.json")))
        (folder / "took.json").write_text(json.dumps({"jobs": jobs_so_far(spark) - before, "commits": commits}))
        look(ctx, SAMPLE_STUDY["labels"]["attributes"], 14, "train")
        run_label(ctx)
        look(ctx, ["view"], 10, "audit")
        audit(ctx.lake, "view")

    return run(made_once("sample", fill))


_CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, or the reason why there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("MOTORPOOL_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium in the PATH, and MOTORPOOL_CHROMIUM names none")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(_CHROMIUM_FLAGS))
        yield started
        started.close()


#: The files that take longest, which start first, so that no worker is left alone with one of them at the end.
LONGEST = (
    "standalone_cluster", "stopping", "submit", "exit_status", "second_run", "outliers_of_vehicles", "report", "assign",
    "small_cases", "study",
    "extreme_values", "pipeline", "model_identity", "notebooks", "wide_grids", "interpret", "lake", "maps", "serve",
    "vehicle_features", "consensus", "explained", "ingest", "vehicle_agreement", "label_stage", "ends", "cli",
    "backend", "extension_score", "sql_cookbook", "annotating",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, one process fetches the jars first: two that fill one cache at once spoil it."""
    # These JVMs live for minutes: the optimising compiler would take a third of all time and never earn it back. With
    # it goes the large code cache; Spark and Delta fill the small one, which then throws compiled code away.
    options = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
    os.environ.setdefault("SPARK_SUBMIT_OPTS", options)
    first = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if first and find_delta() is None:
        start = "from motorpool.spark.session import build_session; build_session().stop()"
        subprocess.run([sys.executable, "-c", start], check=True, timeout=600)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    reason = _no_gpu() if wanted else None
    if reason:
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not slow":
        terminalreporter.write_line(
            "Left out: tests marked slow. `make test-slow` runs them, `make test-all` everything."
        )


def _no_gpu() -> str | None:
    """Why tests marked ``gpu`` cannot run here, None where they can."""
    lacks = missing(["cupy"])
    return f"needs a GPU: {', '.join(lacks)}" if lacks else None
