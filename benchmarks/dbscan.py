"""The DBSCAN grid of 12 eps x 7 min_samples on 416,314 x 100, and against scikit-learn where it survives.

    python benchmarks/dbscan.py [--images 416314] [--sizes 10000 30000] [--growth 100000 416314] [--curve 100000]

The rows are 100 standardised principal components of vdc_type. Two grids: the published study's (eps 0.25 to 512
by powers of two: most models are all noise or one cluster) and one between the 1 % and 60 % quantiles of the
distances to the 64th neighbour, where every model has work to do. scikit-learn runs the study's grid model by model on
the first rows (30,000 are about what it survives: it holds all neighbour lists); clusters and noise are compared. For
the growth over eps, each eps runs alone on --curve rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
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

SOURCE = DATA / "dbscan-features"
COLUMNS = 100
MIN_SAMPLES = tuple(2**i for i in range(3, 10))
STUDY_EPS = tuple(2.0**i for i in range(-2, 10))


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_components(SOURCE, args.images, COLUMNS)
    return {}


def _eps(args: argparse.Namespace) -> tuple[float, ...]:
    if args.grid == "study":
        return STUDY_EPS
    # From a sample: the distance to the 64th neighbour shrinks with the number of rows, so does this grid's use.
    from sklearn.neighbors import NearestNeighbors

    x = read_components(SOURCE, args.rows)
    some = x[np.random.default_rng(0).choice(len(x), min(500, len(x)), replace=False)]
    far = NearestNeighbors(n_neighbors=min(64, len(x)), algorithm="brute").fit(x).kneighbors(some)[0][:, -1]
    return tuple(float(v) for v in np.quantile(far, np.linspace(0.01, 0.6, 12)))


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    eps = _eps(args)
    if args.only is not None:
        eps = eps[args.only : args.only + 1]
    with step("session"):
        # What is persisted beyond it goes to the disk.
        spark = build_session({"spark.driver.memory": args.heap}, delta=False)
    grid = DbscanParameters(eps, MIN_SAMPLES)
    with step("work"), component_blocks(spark, SOURCE, args.rows, COLUMNS) as block_df:
        with step("arrange"):
            arranged = arrange(block_df, "euclidean", 0)
            blocks.computed(arranged.pieces)
        with step("count"):
            counted = search(arranged, Wanted(eps, max(MIN_SAMPLES)), lambda text: print(text, flush=True))
        with step("join"):
            labelled = fit_dbscan(arranged, counted, eps, grid, lambda text: print(text, flush=True))
    noise = labelled.wide().select(
        *(F.sum((F.col("clusters")[m] < 0).cast("long")).alias(str(m)) for m in range(grid.n_models))
    )
    return {"eps": list(eps), "clusters": list(labelled.sizes), "noise": list(noise.first() or ())}


def sklearn(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.cluster import DBSCAN

    eps = _eps(args)
    x = read_components(SOURCE, args.rows)
    clusters, noise, seconds = [], [], []
    with step("work"):
        for e in eps:
            for m in MIN_SAMPLES:
                began = time.perf_counter()
                labels = DBSCAN(eps=e, min_samples=m, algorithm="brute", n_jobs=-1).fit(x).labels_
                seconds.append(time.perf_counter() - began)
                clusters.append(int(labels.max()) + 1)
                noise.append(int((labels < 0).sum()))
    return {"clusters": clusters, "noise": noise, "slowest model": max(seconds)}


CONTENDERS = {"prepare": prepare, "motorpool": motorpool, "sklearn": sklearn}


def _alone(args: argparse.Namespace, n: int, grid: str, only: int) -> list[Any]:
    """One eps of a grid on n rows, as a line of the curve."""
    options = ["--images", str(args.images), "--rows", str(n), "--grid", grid, "--heap", args.heap, "--only", str(only)]
    outcome = run_contender(__file__, "motorpool", options)
    seconds = outcome.work_seconds
    found = outcome.result or {}
    (eps,) = found.get("eps") or [None]
    clusters, noise = (json.dumps(found.get(what)) for what in ("clusters", "noise"))
    return [n, eps, seconds, outcome.peak_gib, clusters, noise, outcome.failed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--heap", default="4g", help="the JVM's heap")
    parser.add_argument("--grid", choices=["study", "quantiles"], default="study")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 30_000])
    parser.add_argument("--growth", type=int, nargs="*", default=[100_000, 200_000, 416_314])
    parser.add_argument("--curve", type=int, nargs="*", default=[100_000])
    parser.add_argument("--only", type=int, help="the one eps of the grid, by its place from 0")
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    run_contender(__file__, "prepare", ["--images", str(args.images)])
    rows: list[list[Any]] = []
    tasks = [(n, "study", name) for n in args.sizes for name in ("motorpool", "sklearn")]
    tasks += [(n, grid, "motorpool") for n in args.growth for grid in ("study", "quantiles")]
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for n, grid, name in tasks:
        outcome = run_contender(
            __file__, name, ["--images", str(args.images), "--rows", str(n), "--grid", grid, "--heap", args.heap]
        )
        seconds = outcome.work_seconds
        steps = {k: round(v[0], 1) for k, v in outcome.steps.items() if k != "work"}
        ours = found.setdefault((n, grid), {"seconds": seconds, **outcome.result})
        same = None
        if name != "motorpool" and "clusters" in ours and outcome.result:
            same = sum(
                a == b for a, b in zip(
                    zip(ours["clusters"], ours["noise"], strict=True),
                    zip(outcome.result["clusters"], outcome.result["noise"], strict=True), strict=True,
                )
            )  # fmt: skip
        ratio = seconds / ours["seconds"]
        rows.append([n, grid, name, seconds, ratio, outcome.peak_gib, same, json.dumps(steps), outcome.failed])
    # The quantiles lie close together: every second one draws the curve.
    places = [("study", i) for i in range(12)] + [("quantiles", i) for i in range(0, 12, 2)]
    curve = [_alone(args, n, grid, i) for n in args.curve for grid, i in places]
    curve.sort(key=lambda row: (row[0], row[1] or 0.0))
    shutil.rmtree(SOURCE, ignore_errors=True)
    header = [
        "rows", "eps", "contender", "seconds", "ratio to motorpool", "peak memory (GiB)",
        "models of 84 with equal clusters and noise", "steps (s)", "failed",
    ]  # fmt: skip
    tables: list[tuple[str, list[str], list[list[Any]]]] = [("Grids", header, rows)]
    if curve:
        columns = ["rows", "eps", "seconds", "peak memory (GiB)", "clusters, min_samples 8 to 512", "noise", "failed"]
        tables.append(("Growth over eps: one eps with seven min_samples", columns, curve))
    write_report(
        "dbscan",
        f"DBSCAN, 12 eps x 7 min_samples, {COLUMNS} columns",
        tables,
        f"Seconds leave out starting Python and Spark. One run each. The JVM's heap is {args.heap}.",
    )


if __name__ == "__main__":
    main()
