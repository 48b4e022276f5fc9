"""Do the outlier scores find planted outliers, and is the consensus of all as good as the best of them?

    python benchmarks/outliers.py [--images 2000] [--seed 1] [--case DIR]

Runs the outlier methods of `conf/vehicle_aware.yaml` on the feature sets that it names, and in the real case also on
the four descriptors (PCA to 100 components), two of which are weak there. Each score is compared by average precision
with the column `outlier` of the case's attributes, which no method looks at (chance: the share of outliers). Beside
the consensus as the pipeline makes it stand the one in which all rankings count equally, as where no vehicles are
known, and that of the methods that know no vehicles. Cases: a sample case, and a real one where it is there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

from harness import DATA, HERE, entry, full_case, run_contender, write_report

REAL_CASE = HERE.parents[1] / "shared" / "case" / "IntelliVision_case"
CONF = HERE.parent / "conf" / "vehicle_aware.yaml"
FOUR = [
    {"name": name, "descriptor": name, "steps": [{"pca": 100}]}
    for name in ("vdc_type", "vdc_color", "osnet", "efficientnet-b7")
]


def scores(args: argparse.Namespace) -> dict[str, Any]:
    """Average precision and weight of every ranking, and average precision of the consensus in three ways."""
    from pyspark.sql import functions as F
    from sklearn.metrics import average_precision_score

    from motorpool.config.load import parse_config
    from motorpool.config.run import CONSENSUS
    from motorpool.outliers.consensus import WEIGHTS, consensus, weights_from
    from motorpool.outliers.registry import OUTLIER_METHODS
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.features import run_features
    from motorpool.pipeline.stages.ingest import run_ingest
    from motorpool.pipeline.stages.outliers import run_outliers

    conf = yaml.safe_load(CONF.read_text())
    outliers = conf["outliers"]
    features = [f for f in conf["features"] if f["name"] in outliers["features"]]
    if args.four:
        features, outliers = FOUR, {key: value for key, value in outliers.items() if key != "features"}
    content = {"case": {"path": args.case}, "lake": {"path": args.lake, "format": "parquet"}, "seed": conf["seed"]}
    content |= {"features": features, "outliers": outliers, "vehicles": conf["vehicles"]}
    ctx = Context.start(parse_config(content))
    for stage in (run_ingest, run_features, run_outliers):
        stage(ctx)
    strange = F.coalesce(F.col("outlier"), F.lit("")) != ""
    images = ctx.lake.read("images").select("image_id", strange.alias("strange")).toPandas().set_index("image_id")

    def precision(rows: Any) -> float:
        scored = rows.set_index("image_id")["score"]
        return float(average_precision_score(images["strange"].loc[scored.index], scored))

    table = ctx.lake.read("outliers")
    row = ctx.lake.read("outlier_methods", features=CONSENSUS).first()
    assert row is not None
    weights = weights_from(row["params"].get(WEIGHTS, "{}"))
    single = [
        [features, method, precision(rows), weights.get((features, method))]
        for (features, method), rows in table.toPandas().groupby(["features", "method"])
        if features != CONSENSUS
    ]
    rankings = table.where(F.col("features") != CONSENSUS)
    plain = [m.name for m in OUTLIER_METHODS.values() if "vehicles" not in m.needs]
    return {
        "single": single,
        "consensus": precision(table.where(F.col("features") == CONSENSUS).toPandas()),
        "equal": precision(consensus(rankings).toPandas()),
        "plain": precision(consensus(rankings.where(F.col("method").isin(plain))).toPandas()),
        "images": len(images),
        "outliers": int(images["strange"].sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="images of the sample case")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample case")
    parser.add_argument("--case", default=str(REAL_CASE), help="a case with an attribute `outlier`")
    parser.add_argument("--lake", default="", help=argparse.SUPPRESS)
    parser.add_argument("--four", action="store_true", help=argparse.SUPPRESS)
    args = entry({"scores": scores}, parser)
    if args is None:
        return
    cases = {"sample": str(full_case(args.images, args.seed))}
    if Path(args.case).is_dir():
        cases["real"] = args.case
    tables, summary = [], []
    for name, case in cases.items():
        for four in (False, True) if name == "real" else (False,):
            lake = DATA / f"lake-outliers-{name}-{'four' if four else 'aware'}"
            flags = ["--case", case, "--lake", str(lake), *(["--four"] if four else [])]
            outcome = run_contender(__file__, "scores", flags)
            shutil.rmtree(lake, ignore_errors=True)
            found = outcome.result
            if outcome.failed:
                raise SystemExit(f"{name}: {outcome.failed}")
            title = f"{name} case, {'four descriptors' if four else 'conf/vehicle_aware.yaml'}"
            best = max(precision for _, _, precision, _ in found["single"])
            summary.append([title, best, found["consensus"], found["equal"], found["plain"]])
            header = ["feature set", "method", "average precision", "weight in the consensus"]
            tables.append(
                (f"{title} ({found['images']:,} photos, {found['outliers']} outliers)", header, found["single"])
            )
    header = ["case", "best ranking", "consensus", "all rankings equal", "equal, without vehicles"]
    write_report(
        "outliers",
        "Average precision of outlier scores, and of their consensus",
        [("The consensus beside the best of its rankings", header, summary), *tables],
        "The weights are learned from the vehicles, without the truth. The best ranking is known with the truth only.",
    )


if __name__ == "__main__":
    main()
