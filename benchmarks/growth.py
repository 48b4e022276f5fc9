"""Growth: 0.1 to 4.2 million images through every stage, time and peak memory of each.

    python benchmarks/growth.py [--images 100000 400000 1600000 4200000]

Two descriptors (vdc_type 512 and vdc_color 128 columns), PCA and standard, KMeans k = 2..9; then DBSCAN with a small
eps on three components of vdc_color (way: cells), where eps shrinks with the cube root of the images, so that one has
as many neighbours as before. The cases are made under benchmarks/data and removed again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness import DATA, entry, run_contender, step, write_light_case, write_report

DESCRIPTORS = {"vdc_type": 512, "vdc_color": 128}
#: DBSCAN's at 100,000 images; columns go from 0 to 1.
EPS = 0.01
#: The stages, and what they do here.
NAMES = {
    "ingest": "ingest", "features": "features", "cluster": "KMeans, scores and labels", "vehicles": "vehicles",
}  # fmt: skip


def _case(images: int) -> Path:
    return DATA / f"growth-case-{images}"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_light_case(_case(args.images[0]), args.images[0], DESCRIPTORS)
    return {}


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import parse_config
    from motorpool.config.run import Config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES

    images = args.images[0]
    wide = [
        {"name": "type", "descriptor": "vdc_type", "steps": [{"pca": 100}, "standard"]},
        {"name": "color", "descriptor": "vdc_color", "steps": [{"pca": 50}, "standard"]},
    ]
    narrow = {"name": "narrow", "descriptor": "vdc_color", "steps": [{"pca": 3}, "minmax"]}
    kmeans = {"algorithm": "kmeans", "k": "2..9", "features": ["type", "color"]}
    eps = EPS * (1e5 / images) ** (1 / 3)
    dbscan = {"algorithm": "dbscan", "eps": [eps], "min_samples": [8], "way": "cells", "features": ["narrow"]}

    def asked(*models: dict[str, Any]) -> Config:
        return parse_config(
            {
                "case": {"path": str(_case(images))},
                "lake": {"path": str(DATA / "growth-lake")},
                "features": [*wide, narrow],
                "cluster": {"models": list(models)},
            }
        )

    with step("session"):
        ctx = Context.start(asked(kmeans))
    for stage, name in NAMES.items():
        with step(name):
            STAGES[stage](ctx)
    ctx.config = asked(kmeans, dbscan)
    with step("DBSCAN, small eps, scores and labels"):
        STAGES["cluster"](ctx)
    found = ctx.lake.read("models").where("algorithm = 'dbscan'").select("n_clusters", "n_noise").first()
    assert found is not None
    return {"eps": eps, "clusters": found[0], "noise": found[1] / images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 400_000, 1_600_000, 4_200_000])
    args = entry({"prepare": prepare, "motorpool": motorpool}, parser)
    if args is None:
        return
    rows: list[list[Any]] = []
    dense: list[list[Any]] = []
    for images in args.images:
        shutil.rmtree(DATA / "growth-lake", ignore_errors=True)
        run_contender(__file__, "prepare", ["--images", str(images)])
        outcome = run_contender(__file__, "motorpool", ["--images", str(images)])
        for name, (seconds, peak) in outcome.steps.items():
            own = outcome.own_of_steps.get(name)
            rows.append([images, name, seconds, seconds / images * 1e6, peak, own])
        whole = outcome.seconds, outcome.seconds / images * 1e6, outcome.peak_gib, outcome.own_gib
        rows.append([images, "everything", *whole])
        found = outcome.result
        dense.append([images, *(found.get(key) for key in ("eps", "clusters", "noise")), outcome.failed])
        shutil.rmtree(_case(images), ignore_errors=True)
        shutil.rmtree(DATA / "growth-lake", ignore_errors=True)
    header = ["images", "stage", "seconds", "seconds per million images", "peak memory (GiB)", "without mapped files"]
    tables = [
        ("Stages", header, rows),
        ("DBSCAN", ["images", "eps", "clusters", "share of noise", "failed"], dense),
    ]
    write_report("growth", "Growth with the number of images", tables, __doc__.split("\n\n")[-1])


if __name__ == "__main__":
    main()
