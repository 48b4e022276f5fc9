"""The full case: four pickles of 416,314 rows to eight feature sets and 112 scored, labelled KMeans models.

    python benchmarks/full_case.py [--images 416314]

Makes the case (6.2 GB) and the lake (about 10 GB) under benchmarks/data and removes the lake again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import DATA, HERE, entry, event_log, full_case, idle, jobs_in, run_contender, step, write_report

LAKE, EVENTS = DATA / "lake-full", DATA / "full-events"


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import load_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES

    case = full_case(args.images)
    with step("session"):
        conf = HERE.parent / "conf" / "veriwild.yaml"
        logged = [f"{key}={value}" for key, value in event_log(EVENTS).items()]
        ctx = Context.start(load_config(conf, [f"case.path={case}", f"lake.path={LAKE}", *logged]))
    began = time.time()
    for name, stage in STAGES.items():
        with step(name):
            stage(ctx)
    ended = time.time()
    ctx.lake.register()
    best = ctx.spark.table("leaderboard").where("rank_in_features = 1").orderBy("rank").collect()
    columns = (
        "rank",
        "features",
        "n_clusters",
        "calinski_harabasz",
        "davies_bouldin",
        "silhouette",
        "vehicle_agreement",
    )
    models = ctx.lake.read("models").groupBy("status").count().collect()
    n_labels = ctx.lake.read("labels").count()
    ctx.spark.stop()
    return {
        "profile": profile(began, ended),
        "best": [[row[c] for c in columns] for row in best],
        "models": {r["status"]: r["count"] for r in models},
        "labels": n_labels,
        "lake_gib": sum(f.stat().st_size for f in Path(LAKE).rglob("*") if f.is_file()) / 2**30,
    }


def profile(began: float, ended: float) -> list[list[Any]]:
    """Where the time between two moments went: Spark's jobs and their seconds by what asked for them, and the rest."""
    jobs = jobs_in(EVENTS)
    by_place: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        if began <= job.began <= ended:
            asked = job.asked or "a query of Spark SQL"
            by_place[asked.split("/lib/motorpool/")[-1]].append(job.ended - job.began)
    rows: list[list[Any]] = [[where, len(seconds), sum(seconds)] for where, seconds in by_place.items()]
    rows.append(["the driver alone: no job", 0, idle(jobs, began, ended)])
    return sorted((row for row in rows if row[2] >= 1), key=lambda row: -float(row[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    args = entry({"motorpool": motorpool}, parser)
    if args is None:
        return
    full_case(args.images)
    for folder in (LAKE, EVENTS):
        shutil.rmtree(folder, ignore_errors=True)
    EVENTS.mkdir(parents=True)
    outcome = run_contender(__file__, "motorpool", ["--images", str(args.images)])
    for folder in (LAKE, EVENTS):
        shutil.rmtree(folder, ignore_errors=True)
    rows: list[list[Any]] = [[name, seconds, peak] for name, (seconds, peak) in outcome.steps.items() if seconds >= 0.1]
    rows.append(["everything", outcome.seconds, outcome.peak_gib])
    result = outcome.result
    header = [
        "rank",
        "feature set",
        "clusters",
        "Calinski-Harabasz",
        "Davies-Bouldin",
        "silhouette",
        "vehicle agreement",
    ]
    write_report(
        "full_case",
        f"The full case: {args.images:,} images",
        [
            ("Stages", ["stage", "seconds", "peak memory (GiB)"], rows),
            ("Where the time goes", ["asked for by", "Spark jobs", "seconds"], result.get("profile", [])),
            ("The best model of each feature set", header, result.get("best", [])),
        ],
        f"Models: {result.get('models')}; {result.get('labels', 0):,} labels; the lake takes "
        f"{result.get('lake_gib', 0):.1f} GiB. {outcome.failed or ''}",
    )


if __name__ == "__main__":
    main()
