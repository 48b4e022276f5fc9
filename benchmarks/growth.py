"""Growth: 0.1, 0.4 and 1.6 million images through every stage, time and peak memory of each.

    python benchmarks/growth.py [--images 100000 400000 1600000]

Two descriptors (vdc_type 512 and vdc_color 128 columns), PCA and standard, KMeans k = 2..9. The cases are made
under benchmarks/data and removed again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness import DATA, entry, run_contender, step, write_light_case, write_report

DESCRIPTORS = {"vdc_type": 512, "vdc_color": 128}


def _case(images: int) -> Path:
    return DATA / f"growth-case-{images}"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_light_case(_case(args.images[0]), args.images[0], DESCRIPTORS)
    return {}


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES

    images = args.images[0]
    config = parse_config(
        {
            "case": {"path": str(_case(images))},
            "lake": {"path": str(DATA / "growth-lake")},
            "features": [
                {"descriptor": "vdc_type", "steps": [{"pca": 100}, "standard"]},
                {"descriptor": "vdc_color", "steps": [{"pca": 50}, "standard"]},
            ],
            "cluster": {"models": [{"algorithm": "kmeans", "k": "2..9"}]},
        }
    )
    with step("session"):
        ctx = Context.start(config)
    for name, stage in STAGES.items():
        with step(name):
            stage(ctx)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 400_000, 1_600_000])
    args = entry({"prepare": prepare, "motorpool": motorpool}, parser)
    if args is None:
        return
    rows: list[list[Any]] = []
    for images in args.images:
        shutil.rmtree(DATA / "growth-lake", ignore_errors=True)
        run_contender(__file__, "prepare", ["--images", str(images)])
        outcome = run_contender(__file__, "motorpool", ["--images", str(images)])
        for name, (seconds, peak) in outcome.steps.items():
            rows.append([images, name, seconds, seconds / images * 1e6, peak])
        rows.append([images, "everything", outcome.seconds, outcome.seconds / images * 1e6, outcome.peak_gib])
        shutil.rmtree(_case(images), ignore_errors=True)
        shutil.rmtree(DATA / "growth-lake", ignore_errors=True)
    header = ["images", "stage", "seconds", "seconds per million images", "peak memory (GiB)"]
    write_report("growth", "Growth with the number of images", [("Stages", header, rows)], __doc__.split("\n\n")[-1])


if __name__ == "__main__":
    main()
