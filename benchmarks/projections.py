"""Maps of all images by UMAP and t-SNE, through the stage's own code; beside scikit-learn's t-SNE at a smaller size.

    python benchmarks/projections.py [--images 416314] [--small 20000]

Every contender reads the same Parquet files of 100 standardised principal components of vdc_type. Motorpool lays out a
sample and places the other images by their neighbours in it, so at ``--small`` images, the size of the sample, it lays
out all of them, as scikit-learn does. Trustworthiness is computed again by the same code for all, scikit-learn's, on
the same images drawn from those that a contender has placed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any

import numpy as np

from harness import DATA, entry, full_case, read_components, run_contender, step, write_components, write_report

SOURCE = DATA / "projections-features"
LAKE = DATA / "projections-lake"
COLUMNS = 100
#: Images that maps are judged by: a matrix of so many rows and columns is 200 MB.
JUDGED = 5000
FEATURES = "components"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_components(SOURCE, args.images, COLUMNS)
    return {}


def _trust(places: np.ndarray, seed: int) -> dict[str, Any]:
    """Trustworthiness of float[n, 2] places of the first n images, of 5 and of 15 neighbours."""
    from sklearn.manifold import trustworthiness

    drawn = np.random.default_rng(seed).permutation(len(places))[:JUDGED]
    x = read_components(SOURCE, len(places))[drawn]
    return {f"trust{k}": float(trustworthiness(x, places[drawn], n_neighbors=k)) for k in (5, 15)}


def _motorpool(args: argparse.Namespace, method: str) -> dict[str, Any]:
    from pyspark.sql import functions as F

    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.project import run_project

    config = parse_config(
        {
            "lake": {"path": str(LAKE), "format": "parquet"},
            "features": [{"name": FEATURES, "descriptor": "vdc_type"}],
            "projections": {"methods": [method], "dims": [2], "sample": args.sample},
            "seed": args.seed,
        }
    )
    shutil.rmtree(LAKE, ignore_errors=True)
    with step("session"):
        ctx = Context.start(config)
    with step("lake"):
        rows = ctx.spark.read.parquet(str(SOURCE)).where(F.col("image_id") < args.rows)
        ctx.lake.replace("features", rows.withColumn("features", F.lit(FEATURES)), {"features": [FEATURES]})
        schema = ctx.lake.schema("feature_sets")
        known = {"features": FEATURES, "n_features": COLUMNS, "n_images": args.rows}
        row = tuple(known.get(name) for name in schema.fieldNames())
        # How many images there are says how tables are written.
        lacking = {f.name: F.lit(None).cast(f.dataType) for f in ctx.lake.schema("images") if f.name != "image_id"}
        ctx.lake.overwrite("images", rows.select("image_id").withColumns(lacking))
        ctx.lake.replace("feature_sets", ctx.spark.createDataFrame([row], schema), {"features": [FEATURES]})
    with step("work"):
        run_project(ctx)
    table = ctx.lake.read("projections").toArrow().sort_by("image_id")
    (found,) = ctx.lake.read("projection_methods").collect()
    ctx.spark.stop()
    shutil.rmtree(LAKE, ignore_errors=True)
    places = np.column_stack([table.column(c).to_numpy() for c in "xy"])
    return {"fitted": found["n_fitted"], **_trust(places, args.seed)}


def motorpool_umap(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "umap")


def motorpool_tsne(args: argparse.Namespace) -> dict[str, Any]:
    return _motorpool(args, "tsne")


def sklearn_tsne(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.manifold import TSNE

    with step("work"):
        with step("read"):
            x = read_components(SOURCE, args.rows)
        with step("fit"):
            places = TSNE(init="pca", perplexity=30, random_state=args.seed, n_jobs=-1).fit_transform(x)
    return {"fitted": len(places), **_trust(places, args.seed)}


CONTENDERS = {
    "prepare": prepare,
    "motorpool_umap": motorpool_umap,
    "motorpool_tsne": motorpool_tsne,
    "sklearn_tsne": sklearn_tsne,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--small", type=int, default=20_000, help="Images for scikit-learn, and for a run beside it.")
    parser.add_argument("--sample", type=int, default=20_000, help="Images that motorpool lays out.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    flags = [text for name in ("images", "sample", "seed") for text in (f"--{name}", str(getattr(args, name)))]
    run_contender(__file__, "prepare", flags)
    rows: list[list[Any]] = []
    for name, size in (
        ("motorpool_umap", args.images),
        ("motorpool_tsne", args.images),
        ("motorpool_umap", args.small),
        ("motorpool_tsne", args.small),
        ("sklearn_tsne", args.small),
    ):
        outcome = run_contender(__file__, name, [*flags, "--rows", str(size)])
        rows.append(
            [
                name,
                size,
                outcome.result.get("fitted"),
                outcome.work_seconds,
                outcome.steps.get("work", (0.0, outcome.peak_gib))[1],
                outcome.result.get("trust5"),
                outcome.result.get("trust15"),
                json.dumps({k: round(v[0], 1) for k, v in outcome.steps.items() if k != "work"}),
                outcome.failed,
            ]
        )
    shutil.rmtree(SOURCE, ignore_errors=True)
    header = ["contender", "images", "laid out", "seconds", "peak memory (GiB)"]
    header += ["trustworthiness, 5 neighbours", "15 neighbours", "other parts", "failed"]
    write_report(
        "projections",
        f"Maps in two dimensions of {args.images:,} x {COLUMNS}",
        [("Time, memory and what was reached", header, rows)],
        "Seconds are those of the stage: reading the lake, drawing the sample, laying it out on one core, placing all "
        "images, writing the table and judging it; starting Spark is left out. scikit-learn uses all cores. "
        f"Trustworthiness is that of {JUDGED:,} images at most, drawn from those placed.",
    )


if __name__ == "__main__":
    main()
