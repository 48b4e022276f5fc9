"""The backend's own tests on a GPU, then the steps that it speeds up, beside this machine's cores and cuML alone.

    python benchmarks/gpu.py [--images 416314] [--sample 20000] [--cuml-rows 100000]

Needs a GPU, cupy and cuML; says what is missing and exits with status 1 otherwise. Nothing is timed unless the tests
marked ``gpu`` pass. All contenders read the same Parquet files: the raw efficientnet-b7 (2,560 columns) for moments and
PCA, 100 standardised principal components of vdc_type for the rest. ``cpu`` and ``gpu`` are motorpool with one backend
or the other; ``cuml`` is cuML on arrays in this machine's memory: its DBSCAN takes one eps and one min_samples a call
in float32, so it runs the smallest min_samples for each eps, on the first ``--cuml-rows`` rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA, entry, full_case, read_components, run_contender, step, write_components, write_report

COMPONENTS, RAW = DATA / "gpu-components", DATA / "gpu-raw"
COLUMNS, KEPT = 100, 250
KS = range(2, 16)
MIN_SAMPLES = tuple(2**i for i in range(3, 10))
TESTS = Path(__file__).parents[1] / "tests"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.case.arrays import open_array
    from motorpool.case.descriptors import read_vectors
    from motorpool.spark.session import build_session

    write_components(COMPONENTS, args.images, COLUMNS)
    array = open_array(str(full_case(args.images) / "descriptors" / "efficientnet-b7.pickle"))
    read_vectors(build_session(delta=False), {"raw": array}, refuse=True).write.mode("overwrite").parquet(str(RAW))
    return {}


def _eps() -> tuple[float, ...]:
    """Twelve radii between the 1 % and 60 % quantiles of some rows' distances to their 64th neighbour."""
    from sklearn.neighbors import NearestNeighbors

    x = read_components(COMPONENTS)
    some = x[np.random.default_rng(0).choice(len(x), min(500, len(x)), replace=False)]
    far = NearestNeighbors(n_neighbors=min(64, len(x)), algorithm="brute").fit(x).kneighbors(some)[0][:, -1]
    return tuple(float(v) for v in np.quantile(far, np.linspace(0.01, 0.6, 12)))


def _motorpool(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.backend.protocol import CPU, GPU
    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans
    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.cluster.score import score_models
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.kernels.maps.layouts import Layout
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.maps.first_pass import first_pass
    from motorpool.maps.placing import Axes, Sampled, lay_out_all
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    backend, eps = {"cpu": CPU, "gpu": GPU}[name], _eps()
    grid = DbscanParameters(eps, MIN_SAMPLES)
    with step("session"):
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
        # Workers, compiled loops and the GPU's own start are there before anything is timed.
        tiny = spark.range(400).select(F.col("id").alias("image_id"), F.array(F.rand(1).cast("float")).alias("vector"))
        warm = blocks.persist(blocks.gather(tiny))
        score_models(by_centroids(warm, [fit_kmeans(warm, [2], seed=0, backend=backend)[0].centroids]), backend)
    with step("moments"):
        spec = FeatureSet("f", (Part("raw"),), (Step("pca", KEPT),))
        with Fitter(spark.read.parquet(str(RAW)), [spec], 0, backend=backend) as fitter:
            (fitted,) = fitter.fit()
    block_df = blocks.persist(blocks.gather(spark.read.parquet(str(COMPONENTS))))
    block_df.count()
    with step("kmeans"):
        models = fit_kmeans(block_df, KS, seed=0, backend=backend)
    with step("scores"):
        scores = score_models(by_centroids(block_df, [m.centroids for m in models], backend), backend)
    arranged = arrange(block_df, "euclidean", 0)
    arranged.pieces.count()
    with step("dbscan"):
        counted = search(arranged, Wanted(eps, max(MIN_SAMPLES)), backend=backend)
        labelled = fit_dbscan(arranged, counted, eps, grid, backend=backend)
    seen = first_pass(block_df, args.sample, 100, 0)
    with step("umap"):
        asked = Sampled(seen.sample, Axes.of(seen.stats, 2), [Layout("umap", 2, 15, 30.0, 0)])
        lay_out_all(spark, [asked], backend)
    spark.stop()
    return {
        "explained": fitted.spectrum.explained if fitted.spectrum else None,
        "inertia": [m.inertia for m in models],
        "ch": [s.calinski_harabasz for s in scores],
        "clusters": list(labelled.sizes),
    }


def cpu(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "cpu")


def gpu(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "gpu")


def cuml(args: argparse.Namespace) -> dict[str, Any]:
    import cuml as library
    import pyarrow.parquet as pq

    raw = pq.read_table(RAW, columns=["raw"])["raw"].combine_chunks().flatten().to_numpy().reshape(args.images, -1)
    with step("moments"):
        explained = float(np.sum(library.PCA(n_components=KEPT).fit(raw).explained_variance_ratio_))
    del raw
    x = read_components(COMPONENTS)
    with step("kmeans"):
        inertia = [float(library.KMeans(n_clusters=k, n_init=1, random_state=0).fit(x).inertia_) for k in KS]
    with step("dbscan"):
        for eps in _eps():
            library.DBSCAN(eps=eps, min_samples=min(MIN_SAMPLES), max_mbytes_per_batch=4096).fit(x[: args.cuml_rows])
    with step("umap"):
        library.UMAP(n_neighbors=15, random_state=0).fit_transform(x[: args.sample])
    return {"explained": explained, "inertia": inertia}


CONTENDERS = {"prepare": prepare, "cpu": cpu, "gpu": gpu, "cuml": cuml}
STEPS = ("moments", "kmeans", "scores", "dbscan", "umap")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--sample", type=int, default=20_000, help="images that UMAP lays out")
    parser.add_argument("--cuml-rows", type=int, default=100_000, help="rows of cuML's own DBSCAN")
    parser.add_argument("--heap", default="4g", help="the JVM's heap")
    args = entry(CONTENDERS, parser)
    if args is None:
        return 0
    from motorpool.backend.needs import INSTALL, missing

    lacks = missing(["cupy", "cuml"])
    if lacks:
        print(f"benchmarks/gpu.py needs a GPU: {'; '.join(lacks)}. {INSTALL}", file=sys.stderr)
        return 1
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rs", str(TESTS)]
    if subprocess.run(tests, cwd=TESTS.parent).returncode:
        print("benchmarks/gpu.py: the tests above fail on this GPU, so nothing was timed", file=sys.stderr)
        return 1
    full_case(args.images)
    names = ("images", "sample", "cuml_rows", "heap")
    flags = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    run_contender(__file__, "prepare", flags)
    outcomes = {name: run_contender(__file__, name, flags) for name in ("cpu", "gpu", "cuml")}
    for folder in (COMPONENTS, RAW):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = {name: {s: o.steps[s][0] for s in STEPS if s in o.steps} for name, o in outcomes.items()}
    rows = []
    for name in STEPS:
        found = [seconds[c].get(name) for c in outcomes]
        ratio = found[0] / found[1] if found[0] and found[1] else None
        rows.append([name, *found, ratio])
    same = [[c, o.peak_gib, json.dumps({k: v for k, v in o.result.items() if k != "ch"}), o.failed]
            for c, o in outcomes.items()]  # fmt: skip
    write_report(
        "gpu",
        f"On a GPU: {_device()}",
        [
            ("Seconds", ["step", *outcomes, "cpu / gpu"], rows),
            ("What each found, and the host's memory", ["contender", "peak memory (GiB)", "found", "failed"], same),
        ],
        f"{args.images:,} images; one run each. moments: PCA {KEPT} fitted on 2,560 columns; kmeans: k = 2..15; "
        f"scores: three of all 14 models; dbscan: 12 eps x 7 min_samples, counted and joined (cuml: 12 eps x 1 on "
        f"{args.cuml_rows:,} rows); umap: {args.sample:,} rows.",
    )
    return 0


def _device() -> str:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    name = properties["name"].decode()
    return f"{name}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, cupy {cupy.__version__}"


if __name__ == "__main__":
    sys.exit(main())
