"""The KMeans sweep k = 2..15 with scores, against scikit-learn and Spark MLlib, in one run.

    python benchmarks/kmeans.py [--images 416314]

Every contender reads the same Parquet files of 100 standardised principal components of vdc_type, fits every k
from one start and scores it: motorpool and scikit-learn with Calinski-Harabasz and Davies-Bouldin, MLlib with the
ClusteringEvaluator's silhouette (it has no other). The inertia is computed again, in float64, by the same code
for all, from the centroids that each returns.
"""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any

import numpy as np

from harness import (
    DATA,
    component_blocks,
    entry,
    full_case,
    read_components,
    run_contender,
    step,
    write_components,
    write_report,
)

SOURCE = DATA / "kmeans-features"
COLUMNS = 100


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_components(SOURCE, args.images, COLUMNS)
    return {}


def _inertias(centroids: list[np.ndarray]) -> list[float]:
    x = read_components(SOURCE)
    totals = [0.0] * len(centroids)
    for start in range(0, len(x), 20_000):
        block = x[start : start + 20_000].astype(np.float64)
        for i, c in enumerate(centroids):
            c = c.astype(np.float64)
            d2 = (block**2).sum(axis=1)[:, None] - 2 * block @ c.T + (c**2).sum(axis=1)
            totals[i] += float(d2.min(axis=1).sum())
    return totals


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.cluster.centroids.by_centroids import by_centroids
    from motorpool.cluster.centroids.kmeans import fit_kmeans
    from motorpool.cluster.score import score_models
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session(delta=False)
        # The sweep runs in a session that has just made the features: its workers are there already.
        tiny = spark.range(100).select(F.col("id").alias("image_id"), F.array(F.rand(1).cast("float")).alias("vector"))
        fit_kmeans(blocks.gather(tiny), [2], seed=0)
    ks = range(2, args.k_max + 1)
    with step("work"), component_blocks(spark, SOURCE, args.images, COLUMNS) as block_df:
        with step("fit"):
            models = fit_kmeans(block_df, ks, seed=args.seed, n_init=1)
        with step("score"):
            scores = score_models(by_centroids(block_df, [m.centroids for m in models]))
    spark.stop()
    return {
        "inertia": _inertias([m.centroids for m in models]),
        "ch": [s.values["calinski_harabasz"] for s in scores],
        "passes": max(m.n_iter for m in models),
    }


def sklearn(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

    centroids, ch, fit_seconds, score_seconds = [], [], 0.0, 0.0
    with step("work"):
        import time

        x = read_components(SOURCE)
        for k in range(2, args.k_max + 1):
            began = time.perf_counter()
            model = KMeans(k, n_init=1, random_state=args.seed).fit(x)
            middle = time.perf_counter()
            ch.append(float(calinski_harabasz_score(x, model.labels_)))
            davies_bouldin_score(x, model.labels_)
            fit_seconds += middle - began
            score_seconds += time.perf_counter() - middle
            centroids.append(model.cluster_centers_)
    return {"inertia": _inertias(centroids), "ch": ch, "fit": fit_seconds, "score": score_seconds}


def mllib(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.evaluation import ClusteringEvaluator
    from pyspark.ml.functions import array_to_vector

    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session({"spark.driver.memory": "10g"}, delta=False)
    centroids = []
    with step("work"):
        data = spark.read.parquet(str(SOURCE)).select(array_to_vector("vector").alias("features")).persist()
        for k in args.mllib_ks:
            with step(f"k = {k}"):
                model = KMeans(k=k, seed=args.seed).fit(data)
                ClusteringEvaluator().evaluate(model.transform(data))
                centroids.append(np.array(model.clusterCenters()))
    spark.stop()
    return {"inertia": _inertias(centroids)}


CONTENDERS = {"prepare": prepare, "motorpool": motorpool, "sklearn": sklearn, "mllib": mllib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--k-max", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mllib-ks", type=int, nargs="*", default=[5, 10, 15], help="MLlib takes minutes for each k")
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    flags = ["--images", str(args.images), "--k-max", str(args.k_max), "--mllib-ks", *map(str, args.mllib_ks)]
    run_contender(__file__, "prepare", flags)
    rows: list[list[Any]] = []
    inertia: dict[str, list[float]] = {}
    base = 0.0
    ks = list(range(2, args.k_max + 1))
    for name in ["motorpool", "sklearn"] + (["mllib"] if args.mllib_ks else []):
        repeats = 1 if name == "mllib" else args.repeats
        outcomes = [run_contender(__file__, name, [*flags, "--seed", str(args.seed + i)]) for i in range(repeats)]
        outcomes.sort(key=lambda o: o.work_seconds)
        middle = outcomes[len(outcomes) // 2]
        seconds = middle.work_seconds
        if name == "mllib":
            # Its mean over the values of k that were run, times the whole sweep: an extrapolation.
            parts = {k: v[0] for k, v in middle.steps.items() if k.startswith("k =")}
            seconds = sum(parts.values()) / max(1, len(parts)) * len(ks)
        base = base or seconds
        found = [o.result["inertia"] for o in outcomes if "inertia" in o.result]
        inertia[name] = np.median(np.array(found), axis=0).tolist() if found else []
        inner = {k: round(v[0], 1) for k, v in middle.steps.items() if k != "work"}
        inner |= {k: round(v, 1) for k, v in middle.result.items() if isinstance(v, (int, float))}
        rows.append(
            [
                name,
                repeats,
                seconds,
                seconds / base,
                max(o.peak_gib for o in outcomes),
                json.dumps(inner),
                middle.failed,
            ]
        )
    shutil.rmtree(SOURCE, ignore_errors=True)
    of_k = {n: dict(zip(args.mllib_ks if n == "mllib" else ks, values, strict=True)) for n, values in inertia.items()}
    per_k = [[k, *(of_k[n][k] / of_k["motorpool"][k] if k in of_k[n] else None for n in of_k)] for k in ks]
    header = ["contender", "runs", "seconds (median)", "ratio to motorpool", "peak memory (GiB)", "parts", "failed"]
    write_report(
        "kmeans",
        f"KMeans k = 2..{args.k_max} with scores on {args.images:,} x {COLUMNS}",
        [
            ("Time and memory", header, rows),
            ("Inertia as a ratio to motorpool's (median over seeds; above 1: worse)", ["k", *inertia], per_k),
        ],
        "Seconds leave out starting Python, Spark and its workers. One start (n_init = 1) everywhere; each repeat has "
        "another seed. "
        f"MLlib (at most 20 iterations, its default) ran k = {args.mllib_ks} once; its seconds are the mean of "
        f"these times {len(ks)}.",
    )


if __name__ == "__main__":
    main()
