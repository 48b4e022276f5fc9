"""A labelled case through the pipeline: does the ranking find what is in the photos, and do the scores find outliers?

    python benchmarks/real_case.py --case DIR [--truth type] [--outliers outlier]

Runs every algorithm on every descriptor (PCA to 100 components; KMeans also standardised) and compares every model
with one column of the case's attributes file, which the pipeline itself does not look at: adjusted Rand index (ARI)
over the photos that have a value there (noise is a group of its own). Outlier scores are compared with the column
that says which photos are none of the kind (any value: an outlier) by average precision. The consensus is made of
the best-ranked model of each descriptor without a standard scaler.
"""

from __future__ import annotations

import argparse
import shutil
from typing import Any, get_args

from harness import DATA, entry, run_contender, write_report

LAKE = DATA / "lake-real"
NAMES = ("vdc_type", "vdc_color", "osnet", "efficientnet-b7")
GRIDS: list[dict[str, Any]] = [
    {"algorithm": "minibatch_kmeans", "k": "2..10"},
    {"algorithm": "bisecting_kmeans", "k": "2..10"},
    {"algorithm": "agglomerative", "n_clusters": "2..10", "linkage": ["ward", "average", "complete", "single"]},
    {"algorithm": "dbscan", "eps": "auto", "min_samples": [4, 8, 16]},
    {"algorithm": "hdbscan", "min_cluster_size": [8, 16, 32, 64]},
    {"algorithm": "gaussian_mixture", "n_components": "2..6", "covariance_type": ["full", "diag"]},
]


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score, average_precision_score

    from motorpool.config.load import parse_config
    from motorpool.config.run import CONSENSUS, VEHICLE_METHODS, OutlierMethod
    from motorpool.outliers.consensus import consensus
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import run_pipeline

    plain = {"features": [f"{d}-pca100" for d in NAMES]}
    steps: list[list[Any]] = [[{"pca": 100}], [{"pca": 100}, "standard"]]
    config = parse_config(
        {
            "case": {"path": args.case},
            "lake": {"path": str(LAKE)},
            "features": [{"descriptor": d, "steps": s} for d in NAMES for s in steps],
            "cluster": {"models": [{"algorithm": "kmeans", "k": "2..10", "n_init": 3}, *(g | plain for g in GRIDS)]},
            "consensus": {"n_clusters": "2..6", **plain},
            "outliers": {"methods": list(get_args(OutlierMethod)), "share": 0.025, **plain},
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
        found = [row["rank"], row["rank_in_features"], row["features"], row["algorithm"], row["n_clusters"]]
        rows.append([*found, *scores, ari])
    images = ctx.lake.read("images").select("image_id", args.outliers).toPandas().set_index("image_id")
    strange = images[args.outliers].fillna("").str.len() > 0
    precision: dict[str, dict[str, float]] = {}
    outliers = ctx.lake.read("outliers")
    for (features, method), of in outliers.toPandas().groupby(["features", "method"]):
        scored = of.set_index("image_id")["score"]
        precision.setdefault(method, {})[features] = float(average_precision_score(strange.loc[scored.index], scored))
    single = outliers.where(outliers["features"] != CONSENSUS)
    default = [m for m in get_args(OutlierMethod) if m not in ("pca_error", *VEHICLE_METHODS)]
    for title, methods in (
        ("consensus of the default methods", default),
        ("consensus of these and of vehicles", [*default, *VEHICLE_METHODS]),
        ("consensus of vehicles", VEHICLE_METHODS),
    ):
        agreed = consensus(single.where(single["method"].isin(list(methods)))).toPandas()
        scored = agreed.set_index("image_id")["score"]
        precision[title] = {CONSENSUS: float(average_precision_score(strange.loc[scored.index], scored))}
    agreement = ctx.spark.sql("SELECT features_a, features_b, ari, nmi FROM agreement ORDER BY 1, 2").collect()
    counts = {"labelled": len(truth), "images": len(images), "outliers": int(strange.sum())}
    return {"rows": rows, "precision": precision, "agreement": [list(r) for r in agreement], **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--truth", default="type")
    parser.add_argument("--outliers", default="outlier")
    args = entry({"motorpool": motorpool}, parser)
    if args is None:
        return
    shutil.rmtree(LAKE, ignore_errors=True)
    flags = ["--case", args.case, "--truth", args.truth, "--outliers", args.outliers]
    outcome = run_contender(__file__, "motorpool", flags)
    shutil.rmtree(LAKE, ignore_errors=True)
    rows = outcome.result["rows"]
    header = ["rank", "rank in features", "feature set", "algorithm", "clusters", "Calinski-Harabasz", "Davies-Bouldin",
              "vehicle agreement", f"ARI with {args.truth}"]  # fmt: skip
    by_ari: dict[str, list[Any]] = {}
    for row in rows:
        if row[2] not in by_ari or row[-1] > by_ari[row[2]][-1]:
            by_ari[row[2]] = row
    first: dict[str, list[Any]] = {}
    for row in rows:
        first.setdefault(row[3], row)
    precision = outcome.result["precision"]
    sets = [f"{d}-pca100" for d in NAMES]
    found = [[m, *(p.get(s) for s in sets), p.get("consensus")] for m, p in sorted(precision.items())]
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
            ("The best-ranked model of each algorithm", header, list(first.values())),
            (
                f"Average precision of the outlier scores ({outcome.result['outliers']} outliers)",
                ["method", *sets, "all"],
                found,
            ),
            (
                "How far the best models of the feature sets, and the best consensus of them, agree",
                ["feature set", "feature set", "adjusted Rand index", "normalised mutual information"],
                outcome.result["agreement"],
            ),
        ],
        f"{outcome.seconds:.0f} s in all, {outcome.peak_gib:.1f} GiB. {outcome.failed or ''}",
    )


if __name__ == "__main__":
    main()
