"""What it brings to know which photos show the same vehicle: plain feature sets against vehicle-aware ones.

    python benchmarks/vehicle_aware.py [--images 2000] [--seed 1] [--case DIR]      what clusters tell
    python benchmarks/vehicle_aware.py --full [--full-images 416314]                what the steps cost

KMeans (k = the attribute's number of values, and k = 2) on every descriptor through five chains of steps: PCA alone,
then `vehicle_whiten`, `vehicle_mean` behind it, `vehicle_residual` and `vehicle_within`; and on three descriptors side
by side, each at the same length. Agreement with the true attributes (adjusted Rand index, ARI), which no step looks at,
and vehicle agreement are taken over the photos of those vehicles only that no step was fitted on. Cases: a sample case,
and a real one where it is there (its attributes file has the truth). With --full: seconds and memory of fitting and
writing efficientnet-b7's 2,560 columns, by chain.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness import DATA, HERE, entry, full_case, run_contender, step, write_report

LAKE = DATA / "lake-vehicles"
REAL_CASE = HERE.parents[1] / "shared" / "case" / "IntelliVision_case"
#: The descriptors, and the principal components that all chains start from.
COMPONENTS = {"vdc_type": 100, "vdc_color": 100, "osnet": 100, "efficientnet-b7": 200}
WHITENED = 30
#: The chains behind PCA, by the name that the tables give them.
CHAINS: dict[str, list[Any]] = {
    "plain": [],
    "whiten": [{"vehicle_whiten": WHITENED}],
    "whiten, mean": [{"vehicle_whiten": WHITENED}, "vehicle_mean"],
    "residual": ["vehicle_residual"],
    "within": [{"vehicle_within": 5}],
}
#: Side by side.
JOINED = "type, color, osnet"
TRUTHS = {"sample": ["body_type", "color", "view"], "real": ["type"]}


def _name(descriptor: str, chain: str) -> str:
    return f"{descriptor}-{chain}".replace(", ", "-")


def study(args: argparse.Namespace) -> dict[str, Any]:
    """ARI with each attribute, and vehicle agreement, of every model: one row each."""
    from pyspark.sql import functions as F
    from sklearn.metrics import adjusted_rand_score

    from motorpool.config.load import parse_config
    from motorpool.features.holdout import fitted_on
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.cluster import run_cluster
    from motorpool.pipeline.stages.features import run_features
    from motorpool.pipeline.stages.ingest import run_ingest

    features = [
        {"name": _name(d, chain), "descriptor": d, "steps": [{"pca": columns}, *steps]}
        for d, columns in COMPONENTS.items()
        for chain, steps in CHAINS.items()
    ]
    join = [{"descriptor": d, "steps": [{"pca": 20}, "l2"]} for d in ("vdc_type", "vdc_color", "osnet")]
    features += [{"name": _name(JOINED, chain), "join": join, "steps": steps} for chain, steps in CHAINS.items()]
    truths = args.truths.split(",")

    def started(ks: list[int]) -> Context:
        models = [{"algorithm": "kmeans", "k": ks, "n_init": 5}]
        content = {"case": {"path": args.case}, "lake": {"path": str(LAKE)}, "features": features}
        return Context.start(parse_config({**content, "cluster": {"models": models}}))

    ctx = started([2])
    run_ingest(ctx)
    was_seen = fitted_on(F.col("vehicle_id"), ctx.config.vehicles.fit_share).alias("was_seen")
    images = ctx.lake.read("images").select("image_id", "vehicle_id", was_seen, *truths).toPandas()
    asked = {truth: int(images[truth].nunique()) for truth in truths}
    unseen = images[~images["was_seen"]].set_index("image_id")
    ctx = started(sorted({2, *asked.values()}))
    run_features(ctx)
    run_cluster(ctx)
    rows = []
    for model in ctx.lake.read("models").where("status <> 'failed'").collect():
        labels = ctx.lake.read("labels", model_id=model["model_id"]).toPandas().set_index("image_id")["cluster"]
        for truth in truths:
            k = int(model["params"]["k"])
            if k in (2, asked[truth]):
                # Photos alone of their vehicle have no residual, and so no label in those models.
                known = unseen[truth].dropna()
                known = known[known.index.isin(labels.index)]
                ari = float(adjusted_rand_score(known, labels.loc[known.index]))
                rows.append([truth, model["features"], k, ari, model["vehicle_agreement"]])
    counts = {"photos": len(unseen), "vehicles": int((unseen["vehicle_id"].value_counts() > 1).sum())}
    return {"rows": rows, "asked": asked, "images": len(images), **counts}


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Fit and write one chain on the widest descriptor of a lake that `ingest` has made."""
    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.features import run_features

    steps = [{"pca": COMPONENTS["efficientnet-b7"]}, *CHAINS[args.chain]]
    features = [{"name": _name("efficientnet-b7", args.chain), "descriptor": "efficientnet-b7", "steps": steps}]
    ctx = Context.start(parse_config({"lake": {"path": str(LAKE)}, "features": features}))
    with step("features"):
        run_features(ctx)
    return {"columns": ctx.lake.read("feature_sets", features=features[0]["name"]).first()["n_features"]}


def ingest(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.ingest import run_ingest

    case = full_case(args.full_images)
    parts = {
        "descriptors": {"efficientnet-b7": str(case / "descriptors" / "efficientnet-b7.pickle")},
        "images_paths": str(case / "images_paths.csv"),
    }
    run_ingest(Context.start(parse_config({"case": parts, "lake": {"path": str(LAKE)}})))
    return {}


def _measured(kind: str, case: Path) -> tuple[list[tuple[str, list[str], list[list[Any]]]], str]:
    """A table for each attribute of a case, and how they came about."""
    shutil.rmtree(LAKE, ignore_errors=True)
    outcome = run_contender(__file__, "study", ["--case", str(case), "--truths", ",".join(TRUTHS[kind])])
    shutil.rmtree(LAKE, ignore_errors=True)
    if outcome.failed:
        return [], f"The {kind} case failed: {outcome.failed}."
    found = outcome.result
    by_key = {(truth, features, k): (ari, agreed) for truth, features, k, ari, agreed in found["rows"]}
    tables = []
    for truth, k in found["asked"].items():
        ks = sorted({2, k}, reverse=True)
        rows = []
        for descriptor in (*COMPONENTS, JOINED):
            for chain in CHAINS:
                held = [by_key.get((truth, _name(descriptor, chain), n), (None, None)) for n in ks]
                rows.append([descriptor, chain, *(ari for ari, _ in held), *(agreed for _, agreed in held)])
        header = ["descriptor", "chain", *(f"ARI, k = {n}" for n in ks), *(f"vehicle agreement, k = {n}" for n in ks)]
        tables.append((f"{kind.capitalize()} case: clusters against {truth} ({k} values)", header, rows))
    note = (
        f"The {kind} case has {found['images']:,} images; measured on {found['photos']:,} photos of vehicles that no "
        f"step was fitted on, agreement on the {found['vehicles']:,} of these vehicles with two photos or more "
        f"({outcome.seconds:.0f} s)."
    )
    return tables, note


def _full(images: int) -> None:
    full_case(images)
    shutil.rmtree(LAKE, ignore_errors=True)
    flags = ["--full-images", str(images)]
    rows = []
    made = run_contender(__file__, "ingest", flags)
    for chain in CHAINS if not made.failed else ():
        outcome = run_contender(__file__, "cost", [*flags, "--chain", chain])
        seconds, peak = outcome.steps.get("features", (None, None))
        rows.append([chain, outcome.result.get("columns"), seconds, peak, outcome.failed or "done"])
    shutil.rmtree(LAKE, ignore_errors=True)
    write_report(
        "vehicle_aware_full",
        f"What vehicle steps cost: {images:,} images, efficientnet-b7 (2,560 columns)",
        [("Fit and write, by the chain behind PCA", ["chain", "columns", "seconds", "peak memory (GiB)", ""], rows)],
        f"One run each, each in a process of its own, from descriptors in the lake. {made.failed or ''}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="photos of the sample case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", default=str(REAL_CASE), help="a case whose attributes file has a column `type`")
    parser.add_argument("--full", action="store_true", help="measure what the steps cost instead")
    parser.add_argument("--full-images", type=int, default=416_314)
    parser.add_argument("--chain", choices=sorted(CHAINS), help=argparse.SUPPRESS)
    parser.add_argument("--truths", help=argparse.SUPPRESS)
    args = entry({"study": study, "cost": cost, "ingest": ingest}, parser)
    if args is None:
        return
    if args.full:
        _full(args.full_images)
        return
    tables, note = _measured("sample", full_case(args.images, args.seed))
    if (Path(args.case) / "images_paths.csv").is_file():
        more, real_note = _measured("real", Path(args.case))
    else:
        more, real_note = [], f"The real case is left out: there is none at {args.case} (--case names another folder)."
    write_report(
        "vehicle_aware",
        "Plain against vehicle-aware feature sets, on vehicles that no step has seen",
        [*tables, *more],
        f"{note} {real_note} The chain `whiten, mean` gives all photos of a vehicle one vector, so that agreement says "
        "nothing and is not shown; behind `residual` clusters are views, in which the photos of a vehicle differ.",
    )


if __name__ == "__main__":
    main()
