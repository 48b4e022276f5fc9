"""A labelled case through the pipeline: does the ranking find what is in the photos?

    python benchmarks/real_case.py --case DIR [--truth type]

Runs KMeans k = 2..10 on every descriptor (PCA to 100 components, plain and standardised) and compares every model
with one column of the case's attributes file, which the pipeline itself does not look at: adjusted Rand index (ARI)
over the photos that have a value there.
"""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from harness import DATA, entry, run_contender, write_report

LAKE = DATA / "lake-real"


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score

    from motorpool.config import parse_config
    from motorpool.stages.context import Context
    from motorpool.stages.pipeline import run_pipeline

    steps: list[list[Any]] = [[{"pca": 100}], [{"pca": 100}, "standard"]]
    names = ("vdc_type", "vdc_color", "osnet", "efficientnet-b7")
    config = parse_config(
        {
            "case": {"path": args.case},
            "lake": {"path": str(LAKE)},
            "features": [{"descriptor": d, "steps": s} for d in names for s in steps],
            "cluster": {"models": [{"algorithm": "kmeans", "k": "2..10", "n_init": 3}]},
        }
    )
    ctx = Context.start(config)
    run_pipeline(ctx)
    ctx.lake.register()
    truth = ctx.lake.read("images").select("image_id", args.truth).toPandas().set_index("image_id")[args.truth].dropna()
    rows = []
    for row in ctx.spark.table("leaderboard").orderBy("rank").collect():
        labels = ctx.lake.read("labels", model_id=row["model_id"]).toPandas().set_index("image_id")["cluster"]
        ari = adjusted_rand_score(truth, labels.loc[truth.index])
        scores = [row[c] for c in ("calinski_harabasz", "davies_bouldin", "vehicle_agreement")]
        rows.append([row["rank"], row["rank_in_features"], row["features"], row["n_clusters"], *scores, ari])
    return {"rows": rows, "labelled": len(truth), "images": ctx.lake.read("images").count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--truth", default="type")
    args = entry({"motorpool": motorpool}, parser)
    if args is None:
        return
    shutil.rmtree(LAKE, ignore_errors=True)
    outcome = run_contender(__file__, "motorpool", ["--case", args.case, "--truth", args.truth])
    shutil.rmtree(LAKE, ignore_errors=True)
    rows = outcome.result["rows"]
    header = ["rank", "rank in features", "feature set", "clusters", "Calinski-Harabasz", "Davies-Bouldin",
              "vehicle agreement", f"ARI with {args.truth}"]  # fmt: skip
    by_ari: dict[str, list[Any]] = {}
    for row in rows:
        if row[2] not in by_ari or row[7] > by_ari[row[2]][7]:
            by_ari[row[2]] = row
    write_report(
        "real_case",
        f"A labelled case: {outcome.result['images']:,} photos, {outcome.result['labelled']:,} have a {args.truth}",
        [
            (
                "The best model of each feature set, as the leaderboard ranks them",
                header,
                [r for r in rows if r[1] == 1],
            ),
            ("The model of each feature set that agrees best with the truth", header, list(by_ari.values())),
        ],
        f"{outcome.seconds:.0f} s in all, {outcome.peak_gib:.1f} GiB. {outcome.failed or ''}",
    )


if __name__ == "__main__":
    main()
