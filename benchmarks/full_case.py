"""The full case: four pickles of 416,314 rows to eight feature sets and 112 scored, labelled KMeans models.

    python benchmarks/full_case.py [--images 416314]

Makes the case (6.2 GB) and the lake (about 10 GB) under benchmarks/data and removes the lake again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness import DATA, HERE, entry, full_case, run_contender, step, write_report

LAKE = DATA / "lake-full"


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import load_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES

    case = full_case(args.images)
    with step("session"):
        conf = HERE.parent / "conf" / "veriwild.yaml"
        ctx = Context.start(load_config(conf, [f"case.path={case}", f"lake.path={LAKE}"]))
    for name, stage in STAGES.items():
        with step(name):
            stage(ctx)
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
    return {
        "best": [[row[c] for c in columns] for row in best],
        "models": {r["status"]: r["count"] for r in models},
        "labels": ctx.lake.read("labels").count(),
        "lake_gib": sum(f.stat().st_size for f in Path(LAKE).rglob("*") if f.is_file()) / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    args = entry({"motorpool": motorpool}, parser)
    if args is None:
        return
    full_case(args.images)
    shutil.rmtree(LAKE, ignore_errors=True)
    outcome = run_contender(__file__, "motorpool", ["--images", str(args.images)])
    shutil.rmtree(LAKE, ignore_errors=True)
    rows: list[list[Any]] = [[name, seconds, peak] for name, (seconds, peak) in outcome.steps.items()]
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
            ("The best model of each feature set", header, result.get("best", [])),
        ],
        f"Models: {result.get('models')}; {result.get('labels', 0):,} labels; the lake takes "
        f"{result.get('lake_gib', 0):.1f} GiB. {outcome.failed or ''}",
    )


if __name__ == "__main__":
    main()
