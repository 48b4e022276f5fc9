"""A GPU's arithmetic beside the CPU's, the backend's own tests, then the steps that it speeds up, beside cuML alone.

    python benchmarks/gpu.py [--images 416314] [--sample 20000] [--cuml-rows 100000] [--fresh]
    python benchmarks/gpu.py --accelerator cpu --images 20000 --sample 4000 --cuml-rows 4000 \
        --many-rows 20000 --beyond-rows 20000 --beyond-columns 300                            # the dry run

Needs a GPU, cupy, cuML and spark-rapids-ml; says what is missing and exits with status 1 otherwise. First ``smoke``:
every step on few rows, on the GPU and on the CPU, whose results must agree; then the tests marked ``gpu``. Nothing is
timed unless both pass. All contenders read the same Parquet files: the raw efficientnet-b7 (2,560 columns) for moments
and PCA (the first ``--raw-columns`` of them), 100 standardised principal components of vdc_type for the rest.

- ``gpu`` and ``cpu`` are Motorpool with one backend or the other.
- ``libraries`` are its other engines: PCA and KMeans by spark-rapids-ml, DBSCAN and HDBSCAN by cuML in tasks.
- ``cuml`` is cuML on arrays in this machine's memory: its DBSCAN takes one eps and one min_samples a call in float32,
  so it runs the smallest min_samples for each eps. It and ``libraries`` cluster the first ``--cuml-rows`` rows, by
  HDBSCAN too.

Last, two public reports of failures on large tables are repeated (`gpu_reports`). A library that fails there as it was
reported is a finding, and no failure of the benchmark.

What a contender has found is kept after every step, and the report is written with it: a run that is cut off goes on
with the contenders that have not ended. ``--fresh`` begins anew. The dry run is the same without a GPU: the backend's
kernels over NumPy in the place of cupy, Spark's MLlib and scikit-learn in that of the libraries; no test, and its
report lies beside the data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import gpu_reports as reports
from harness import (
    DATA,
    RESULTS,
    Outcome,
    entry,
    full_case,
    read_components,
    run_contender,
    step,
    stored_vectors,
    write_components,
    write_report,
)

COMPONENTS, RAW = DATA / "gpu-components", DATA / "gpu-raw"
COLUMNS, KEPT = 100, 250
KS = range(2, 16)
MIN_SAMPLES = tuple(2**i for i in range(3, 10))
#: HDBSCAN's: every min_cluster_size, and its min_samples.
SIZES, NEIGHBOURS = (8, 32, 128), 5
TESTS = Path(__file__).parents[1] / "tests"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.case.arrays import open_array
    from motorpool.case.descriptors import read_vectors
    from motorpool.spark.session import build_session

    write_components(COMPONENTS, args.images, COLUMNS)
    array = open_array(str(full_case(args.images) / "descriptors" / "efficientnet-b7.pickle"))
    rows = read_vectors(build_session(delta=False), {"raw": array}, refuse=True)
    raw = F.slice("vector", 1, args.raw_columns)
    rows.select("image_id", raw.alias("vector")).write.mode("overwrite").parquet(str(RAW))
    return {}


def _eps() -> tuple[float, ...]:
    """Twelve radii between the 1 % and 60 % quantiles of some rows' distances to their 64th neighbour."""
    from sklearn.neighbors import NearestNeighbors

    x = read_components(COMPONENTS)
    some = x[np.random.default_rng(0).choice(len(x), min(500, len(x)), replace=False)]
    far = NearestNeighbors(n_neighbors=min(64, len(x)), algorithm="brute").fit(x).kneighbors(some)[0][:, -1]
    return tuple(float(v) for v in np.quantile(far, np.linspace(0.01, 0.6, 12)))


def _backend(name: str) -> Any:
    """``cpu``, ``gpu``, or the GPU's kernels over NumPy."""
    from motorpool.backend.protocol import CPU, GPU, ArrayBackend

    return {"cpu": CPU, "gpu": GPU, "arrays": ArrayBackend("numpy")}[name]


def smoke(args: argparse.Namespace) -> dict[str, Any]:
    """Every step on few rows, by the backend that is to be timed and on the CPU; AssertionError where they differ."""
    from motorpool.backend.library import library_engine
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans
    from motorpool.cluster.density.cells import fit_dbscan_cells, fit_dbscan_library
    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.cluster.score import score_models
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    spark = build_session({"spark.driver.memory": args.heap}, delta=False)
    x = read_components(COMPONENTS, min(4000, args.images))
    table = pa_vectors(x)
    block_df = blocks.persist(blocks.gather(spark.createDataFrame(table)))
    grid = DbscanParameters(_eps()[:2], MIN_SAMPLES[:2])
    found: dict[str, list[Any]] = {}
    timed = "gpu" if args.accelerator == "gpu" else "arrays"
    for name in ("cpu", timed):
        backend = _backend(name)
        with step(name):
            moments = backend.moments()
            moments.update(x)
            models = fit_kmeans(block_df, (3, 7), seed=0, backend=backend)
            scores = score_models(by_centroids(block_df, [m.centroids for m in models], backend), backend)
            arranged = arrange(block_df, "euclidean", 0)
            counted = search(arranged, Wanted(grid.eps, max(grid.min_samples)), backend=backend)
            pairs = fit_dbscan(arranged, counted, grid.eps, grid, backend=backend)
            cells = fit_dbscan_cells(block_df, grid, metric="euclidean", seed=0, engine=backend.engine(), n_cells=2)
            library = library_engine("cuml" if name == "gpu" else "sklearn", backend.engine())
            found[name] = [
                moments.stats().cov.trace(),
                *(m.inertia for m in models),
                *(s.values["calinski_harabasz"] for s in scores),
                *pairs.sizes,
                *cells.sizes,
                *fit_dbscan_library(block_df, grid, metric="euclidean", seed=0, engine=library, n_cells=2)[0].sizes,
            ]
    spark.stop()
    assert np.allclose(found["cpu"], found[timed], rtol=1e-4), found
    return {name: [float(v) for v in values] for name, values in found.items()}


def pa_vectors(x: np.ndarray) -> Any:
    """``image_id, vector`` of float32[n, d] rows as an Arrow table."""
    import pyarrow as pa

    from motorpool.spark.blocks import to_list_array

    return pa.table({"image_id": np.arange(len(x)), "vector": to_list_array(x)})


def libraries(args: argparse.Namespace) -> dict[str, Any]:
    """The engines of others, through Motorpool."""
    from motorpool.backend.library import HDBSCAN_LIBRARIES, library_engine
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans_by
    from motorpool.cluster.density.cells import fit_dbscan_library
    from motorpool.cluster.density.dbscan import DbscanParameters
    from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan_library
    from motorpool.cluster.score import score_models
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.spark import block_files, blocks
    from motorpool.spark.estimators import estimators
    from motorpool.spark.session import build_session

    on_gpu = args.accelerator == "gpu"
    backend, engine = _backend("gpu" if on_gpu else "cpu"), "spark-rapids-ml" if on_gpu else "spark-ml"
    with step("session"):
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
    block_df = block_files.computed(blocks.gather(stored_vectors(spark, COMPONENTS)))
    with step("kmeans"):
        models = fit_kmeans_by(estimators(engine), block_df, KS, seed=0, backend=backend)
    with step("scores"):
        score_models(by_centroids(block_df, [m.centroids for m in models], backend), backend)
    few = blocks.persist(blocks.gather(spark.createDataFrame(pa_vectors(read_components(COMPONENTS, args.cuml_rows)))))
    grid = DbscanParameters(_eps(), (min(MIN_SAMPLES),))
    library = library_engine("cuml" if on_gpu else "sklearn", backend.engine())
    with step("dbscan"):
        labelled, opened = fit_dbscan_library(few, grid, metric="euclidean", seed=0, engine=library, n_cells=1)
    with step("hdbscan"):
        trees = fit_hdbscan_library(
            few, HdbscanParameters(SIZES, NEIGHBOURS), HDBSCAN_LIBRARIES["cuml" if on_gpu else "sklearn"]()
        )
    # Last: Spark's MLlib takes minutes for 2,560 columns.
    with step("moments"):
        spec = FeatureSet("f", (Part("raw"),), (Step("pca", KEPT),), engine=engine)
        with Fitter(stored_vectors(spark, RAW, "raw"), [spec], 0, backend=backend) as fitter:
            (fitted,) = fitter.fit()
    spark.stop()
    return {
        "explained": fitted.spectrum.explained if fitted.spectrum else None,
        "inertia": [m.inertia for m in models],
        "clusters": list(labelled.sizes),
        "decided in float64": opened.tolist(),
        "clusters by HDBSCAN": list(trees.sizes),
    }


def _motorpool(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans
    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
    from motorpool.cluster.score import score_models
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.kernels.maps.layouts import Layout
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.maps.first_pass import first_pass
    from motorpool.maps.placing import Axes, Sampled, lay_out_all
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import block_files, blocks
    from motorpool.spark.session import build_session

    backend, eps = _backend(name), _eps()
    grid = DbscanParameters(eps, MIN_SAMPLES)
    with step("session"):
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
        # Workers, compiled loops and the GPU's own start are there before anything is timed.
        tiny = spark.range(400).select(F.col("id").alias("image_id"), F.array(F.rand(1).cast("float")).alias("vector"))
        warm = blocks.persist(blocks.gather(tiny))
        score_models(by_centroids(warm, [fit_kmeans(warm, [2], seed=0, backend=backend)[0].centroids]), backend)
    with step("moments"):
        spec = FeatureSet("f", (Part("raw"),), (Step("pca", KEPT),))
        widths = {"raw": args.raw_columns}
        with Fitter(stored_vectors(spark, RAW, "raw"), [spec], 0, backend=backend, widths=widths) as fitter:
            (fitted,) = fitter.fit()
    block_df = block_files.computed(blocks.gather(stored_vectors(spark, COMPONENTS)))
    with step("kmeans"):
        models = fit_kmeans(block_df, KS, seed=0, backend=backend)
    with step("scores"):
        scores = score_models(by_centroids(block_df, [m.centroids for m in models], backend), backend)
    arranged = arrange(block_df, "euclidean", 0)
    blocks.computed(arranged.pieces)
    with step("dbscan"):
        counted = search(arranged, Wanted(eps, max(MIN_SAMPLES)), backend=backend)
        labelled = fit_dbscan(arranged, counted, eps, grid, backend=backend)
    with step("hdbscan"):
        listed = search(arranged, Wanted(k=16), backend=backend)
        trees = fit_hdbscan(arranged, listed, HdbscanParameters(SIZES, NEIGHBOURS), backend=backend).labelled
    seen = first_pass(block_df, args.sample, 100, 0)
    with step("umap"):
        asked = Sampled(seen.sample, Axes.of(seen.stats, 2), [Layout("umap", 2, 15, 30.0, 0)])
        lay_out_all(spark, [asked], backend)
    spark.stop()
    return {
        "explained": fitted.spectrum.explained if fitted.spectrum else None,
        "inertia": [m.inertia for m in models],
        "ch": [s.values["calinski_harabasz"] for s in scores],
        "clusters": list(labelled.sizes),
        "clusters by HDBSCAN": list(trees.sizes),
    }


def cpu(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "cpu")


def gpu(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "gpu")


def cuml(args: argparse.Namespace) -> dict[str, Any]:
    import cuml as library

    raw = read_components(RAW)
    with step("moments"):
        explained = float(np.sum(library.PCA(n_components=KEPT).fit(raw).explained_variance_ratio_))
    del raw
    x = read_components(COMPONENTS)
    with step("kmeans"):
        inertia = [float(library.KMeans(n_clusters=k, n_init=1, random_state=0).fit(x).inertia_) for k in KS]
    with step("dbscan"):
        for eps in _eps():
            library.DBSCAN(eps=eps, min_samples=min(MIN_SAMPLES), max_mbytes_per_batch=4096).fit(x[: args.cuml_rows])
    with step("hdbscan"):
        for size in SIZES:
            # It leaves a row out of its own neighbours.
            library.HDBSCAN(min_cluster_size=size, min_samples=NEIGHBOURS - 1).fit(x[: args.cuml_rows])
    with step("umap"):
        library.UMAP(n_neighbors=15, random_state=0).fit_transform(x[: args.sample])
    return {"explained": explained, "inertia": inertia}


def arrays(args: argparse.Namespace) -> dict[str, Any]:
    """The dry run's GPU."""
    return _motorpool(args, "arrays")


CONTENDERS = {
    "smoke": smoke, "prepare": prepare, "cpu": cpu, "gpu": gpu, "arrays": arrays, "libraries": libraries, "cuml": cuml,
    **reports.CONTENDERS,
}  # fmt: skip
#: In the order in which they run: what needs the GPU comes first.
TIMED = {"gpu": ("gpu", "cuml", "libraries", "cpu"), "cpu": ("arrays", "libraries", "cpu")}
STEPS = ("moments", "kmeans", "scores", "dbscan", "hdbscan", "umap")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--sample", type=int, default=20_000, help="images that UMAP lays out")
    parser.add_argument("--cuml-rows", type=int, default=100_000, help="rows that a library's own DBSCAN clusters")
    parser.add_argument("--raw-columns", type=int, default=2560, help="columns that PCA is fitted on, at least 250")
    parser.add_argument("--heap", default="4g", help="the JVM's heap")
    reports.add_options(parser)
    parser.add_argument("--accelerator", choices=tuple(TIMED), default="gpu", help="cpu: the dry run")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run has found")
    args = entry(CONTENDERS, parser)
    if args is None:
        return 0
    if args.accelerator == "gpu" and not _has_gpu():
        return 1
    names = ("images", "sample", "cuml_rows", "raw_columns", "heap", "accelerator", *reports.OPTIONS)
    flags = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    kept = _Kept(" ".join(flags), args)
    if args.fresh:
        kept.forget()
    asked = ("smoke", *TIMED[args.accelerator])
    if all(kept.ended(name) for name in asked) and all(kept.told(name) for name, *_ in reports.asked(args)):
        print("benchmarks/gpu.py: an earlier run has found all of this: --fresh begins anew", file=sys.stderr)
        return 0
    waiting = [name for name in asked if not kept.ended(name)]
    if waiting and not (COMPONENTS.exists() and RAW.exists() and kept.outcomes):
        full_case(args.images)
        run_contender(__file__, "prepare", flags)
    if not kept.ended("smoke"):
        kept.take(run_contender(__file__, "smoke", flags))
        if not kept.ended("smoke"):
            print("benchmarks/gpu.py: the smoke test above fails, so nothing was timed", file=sys.stderr)
            return 1
        if args.accelerator == "gpu" and not _tests_pass():
            kept.forget()
            return 1
    for name in TIMED[args.accelerator]:
        if not kept.ended(name):
            kept.take(run_contender(__file__, name, flags, told=kept.take))
    for folder in (COMPONENTS, RAW):
        shutil.rmtree(folder, ignore_errors=True)
    _repeat_reports(args, flags, kept)
    return 0 if all(kept.ended(name) for name in asked) else 1


def _repeat_reports(args: argparse.Namespace, flags: list[str], kept: _Kept) -> None:
    runs = list(reports.asked(args))
    for number, (name, contender, more) in enumerate(runs):

        def take(outcome: Outcome, name: str = name) -> None:
            kept.take(replace(outcome, name=name))

        if not kept.told(name):
            take(run_contender(__file__, contender, [*flags, *more], told=take))
        left = {contender for _, contender, _ in runs[number + 1 :]}
        for folder, readers in reports.TABLES.items():
            if not left & set(readers):
                shutil.rmtree(folder, ignore_errors=True)


def _has_gpu() -> bool:
    from motorpool.backend.needs import INSTALL, missing

    lacks = missing(["cupy", "cuml", "spark_rapids_ml"])
    if lacks:
        print(f"benchmarks/gpu.py needs a GPU: {'; '.join(lacks)}. {INSTALL}", file=sys.stderr)
    return not lacks


def _tests_pass() -> bool:
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rs", str(TESTS)]
    failed = subprocess.run(tests, cwd=TESTS.parent).returncode
    if failed:
        print("benchmarks/gpu.py: the tests above fail on this GPU, so nothing was timed", file=sys.stderr)
    return not failed


class _Kept:
    """What contenders have found, on disk after every step, and the report of it."""

    def __init__(self, key: str, args: argparse.Namespace) -> None:
        self.key, self.args, self.file = key, args, DATA / "gpu-outcomes.json"
        held = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.outcomes: dict[str, dict[str, Any]] = held.get(key, {})

    def ended(self, name: str) -> bool:
        return bool(self.outcomes.get(name, {}).get("result"))

    def told(self, name: str) -> bool:
        """Whether a run has ended or failed."""
        return self.ended(name) or bool(self.outcomes.get(name, {}).get("failed"))

    def forget(self) -> None:
        self.outcomes = {}
        self.file.unlink(missing_ok=True)

    def take(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = asdict(outcome)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({self.key: self.outcomes}))
        self._report()

    def _report(self) -> None:
        args, timed = self.args, [name for name in TIMED[self.args.accelerator] if name in self.outcomes]
        if not timed:
            return
        first, last = timed[0], TIMED[args.accelerator][-1]
        rows = []
        for name in STEPS:
            seconds = {c: self.outcomes[c]["steps"].get(name, [None])[0] for c in timed}
            ratio = seconds[last] / seconds[first] if seconds.get(last) and seconds[first] else None
            rows.append([name, *seconds.values(), ratio])
        same = []
        for name in timed:
            found = self.outcomes[name]
            told = json.dumps({k: v for k, v in found["result"].items() if k != "ch"})
            same.append([name, found["peak_gib"], told, found["failed"] or (None if found["result"] else "not ended")])
        repeated = []
        for name, found in self.outcomes.items():
            if name not in CONTENDERS:
                steps = json.dumps({step: round(seconds, 1) for step, (seconds, _) in found["steps"].items()})
                told = json.dumps(found["result"])
                repeated.append([name, steps, found["peak_gib"], told, found["failed"]])
        on_gpu = args.accelerator == "gpu"
        write_report(
            "gpu" if on_gpu else "gpu_dry_run",
            f"On a GPU: {_device()}" if on_gpu else "The benchmark of a GPU, without one",
            [
                ("Seconds", ["step", *timed, f"{last} / {first}"], rows),
                ("What each found, and the host's memory", ["contender", "peak memory (GiB)", "found", "failed"], same),
                ("Public reports", ["report", "seconds", "peak memory (GiB)", "found", "failed"], repeated),
            ],
            f"{args.images:,} images; one run each. moments: PCA {KEPT} fitted on {args.raw_columns:,} columns; "
            "kmeans: k = 2..15; scores: three of all 14 models; dbscan: 12 eps x 7 min_samples, counted and joined "
            f"(cuml, libraries: 12 eps x 1 on {args.cuml_rows:,} rows); hdbscan: {len(SIZES)} min_cluster_size (cuml, "
            f"libraries: on as many rows); umap: {args.sample:,} rows. Public reports: {reports.NOTES}",
            RESULTS if on_gpu else DATA,
        )


def _device() -> str:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    name = properties["name"].decode()
    return f"{name}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, cupy {cupy.__version__}"


if __name__ == "__main__":
    sys.exit(main())
