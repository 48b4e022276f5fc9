"""Two workers against one: the same study on a Spark cluster of one and of two single-core executors.

    python benchmarks/workers.py [--images 200000] [--runs 3]

Spark's `local-cluster` master: real executor processes with their own shuffle files, on this machine, and a driver
beside them. On two cores two workers share one with the driver, which one worker leaves to it: a speed-up of 2 is out
of reach there, and the network costs nothing. Vectors are vdc_type's (512 columns), PCA to 100.
Medians of the runs; the speed-up is one worker's seconds by two workers'.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from harness import DATA, Outcome, entry, run_contender, step, write_light_case, write_report

CASE, LAKE = DATA / "workers-case", DATA / "workers-lake"
FITS: dict[str, dict[str, Any]] = {
    "KMeans, k = 2..15": {"algorithm": "kmeans", "k": "2..15"},
    "mixture, 8 full": {"algorithm": "gaussian_mixture", "n_components": 8, "covariance_type": "full", "max_iter": 10},
    "DBSCAN, 12 eps x 7 min_samples": {
        "algorithm": "dbscan",
        "eps": [8.0 + 0.5 * i for i in range(12)],
        "min_samples": [2**i for i in range(3, 10)],
    },
    "HDBSCAN, 7 sizes": {"algorithm": "hdbscan", "min_cluster_size": [2**i for i in range(3, 10)]},
}


def study(args: argparse.Namespace) -> dict[str, Any]:
    import pyspark

    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.cluster import run_cluster
    from motorpool.pipeline.stages.features import run_features
    from motorpool.pipeline.stages.ingest import run_ingest
    from motorpool.pipeline.stages.outliers import run_outliers

    # Executors are started by Spark's own scripts, which a wheel of pyspark has but does not announce.
    os.environ.setdefault("SPARK_HOME", str(Path(pyspark.__file__).parent))
    os.environ.setdefault("SPARK_SCALA_VERSION", "2.13")
    sections: dict[str, Any] = {
        "case": {"path": str(CASE)},
        "lake": {"path": str(LAKE)},
        "features": [{"name": "type", "descriptor": "vdc_type", "steps": [{"pca": 100}, "standard"]}],
        "outliers": {"methods": ["isolation_forest", "knn_distance", "lof"]},
        "spark": {
            "spark.master": f"local-cluster[{args.workers},1,2048]",
            "spark.executor.memory": "2g",
            "spark.default.parallelism": "4",
        },
    }
    with step("session"):
        ctx = Context.start(parse_config({**sections, "cluster": {"models": list(FITS.values())}}))
    with step("ingest"):
        run_ingest(ctx)
    with step("features"):
        run_features(ctx)
    for name, grid in FITS.items():
        ctx.config = parse_config({**sections, "cluster": {"models": [grid]}})
        with step(name):
            run_cluster(ctx)
    with step("outliers"):
        run_outliers(ctx)
    return {"models": ctx.lake.read("models").count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    args = entry({"study": study}, parser)
    if args is None:
        return
    write_light_case(CASE, args.images, {"vdc_type": 512})
    outcomes: dict[int, list[Outcome]] = {1: [], 2: []}
    for _ in range(args.runs):
        for workers, seen in outcomes.items():
            shutil.rmtree(LAKE, ignore_errors=True)
            seen.append(run_contender(__file__, "study", ["--workers", str(workers), "--images", str(args.images)]))
            if seen[-1].failed:
                raise SystemExit(f"{workers} worker(s): {seen[-1].failed}")
    for folder in (CASE, LAKE):
        shutil.rmtree(folder, ignore_errors=True)
    rows: list[list[Any]] = []
    for name in outcomes[1][0].steps:
        one, two = (median(o.steps[name][0] for o in outcomes[w]) for w in (1, 2))
        rows.append([name, one, two, one / two])
    one, two = (median(o.seconds for o in outcomes[w]) for w in (1, 2))
    rows.append(["everything", one, two, one / two])
    header = ["stage", "one worker (s)", "two workers (s)", "speed-up"]
    write_report(
        "workers",
        f"Two workers against one, {args.images:,} images",
        [("One run each" if args.runs == 1 else f"Medians of {args.runs}", header, rows)],
        (__doc__ or "").split("\n\n")[-1],
    )


if __name__ == "__main__":
    main()
