"""The published study of 870 models (conf/study870.yaml) on all rows of the full-size sample case, by part.

    python benchmarks/study.py [--images 416314] [--conf study870.yaml] [--keep]

Makes the case (6.2 GB) and the lake under benchmarks/data and removes the lake again, unless it is to be kept.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from harness import DATA, HERE, entry, full_case, run_contender, step, write_report

LAKE = DATA / "lake-study"
_DONE = re.compile(r"(.*): ([\d.]+) s")
_GRID = re.compile(r"cluster: (\w+) on (\S+), \d+ models")
_SCORING = re.compile(r"cluster: scoring and labelling \d+ models of (\S+)")


class _Parts(logging.Handler):
    """Collects the seconds of every part that the log tells, and shows the log."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[tuple[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print(f"      {text}", file=sys.stderr, flush=True)
        found = _DONE.fullmatch(text)
        if found:
            self.seconds.append((found[1], float(found[2])))


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import load_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.run import STAGES

    parts = _Parts()
    logger = logging.getLogger("motorpool")
    logger.addHandler(parts)
    logger.setLevel(logging.DEBUG)
    case = full_case(args.images)
    with step("session"):
        conf = HERE.parent / "conf" / args.conf
        ctx = Context.start(load_config(conf, [f"case.path={case}", f"lake.path={LAKE}"]))
    for name in ("ingest", "features", "cluster"):
        with step(name):
            STAGES[name](ctx)
    ctx.lake.register()
    statuses = ctx.spark.sql(
        "SELECT features, algorithm, count(*), count_if(status = 'ok'), count_if(reason LIKE '%every image as noise'), "
        "count_if(reason LIKE 'it finds one cluster%') FROM models GROUP BY ALL ORDER BY ALL"
    ).collect()
    best = ctx.spark.sql(
        "SELECT * FROM (SELECT features, algorithm, to_json(params), n_clusters, n_noise, calinski_harabasz, "
        "davies_bouldin, vehicle_agreement, row_number() OVER (PARTITION BY features, algorithm ORDER BY rank) AS at "
        "FROM leaderboard) WHERE at = 1 ORDER BY features, algorithm"
    ).collect()
    return {
        "parts": parts.seconds,
        "statuses": [list(row) for row in statuses],
        "best": [list(row)[:-1] for row in best],
        "labels": ctx.lake.read("labels").count(),
        "lake_gib": sum(f.stat().st_size for f in Path(LAKE).rglob("*") if f.is_file()) / 2**30,
    }


def _by_features(parts: list[tuple[str, float]]) -> list[list[Any]]:
    """For each feature set the seconds of fitting each algorithm, and of scoring and labelling all of them."""
    table: dict[str, dict[str, float]] = {}
    for name, seconds in parts:
        grid, scoring = _GRID.fullmatch(name), _SCORING.fullmatch(name)
        if grid:
            row = table.setdefault(grid[2], {})
            row[grid[1]] = row.get(grid[1], 0.0) + seconds
        elif scoring:
            row = table.setdefault(scoring[1], {})
            row["scoring"] = row.get("scoring", 0.0) + seconds
    columns = ("kmeans", "dbscan", "hdbscan", "scoring")
    return [[name, *(row.get(c, 0.0) for c in columns), sum(row.values())] for name, row in table.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--conf", default="study870.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the lake, and go on in one that is there")
    args = entry({"motorpool": motorpool}, parser)
    if args is None:
        return
    full_case(args.images)
    if not args.keep:
        shutil.rmtree(LAKE, ignore_errors=True)
    command = ["--images", str(args.images), "--conf", args.conf]
    outcome = run_contender(__file__, "motorpool", command, timeout=4 * 3600)
    if not args.keep:
        shutil.rmtree(LAKE, ignore_errors=True)
    stages: list[list[Any]] = [[name, seconds, peak] for name, (seconds, peak) in outcome.steps.items()]
    stages.append(["everything", outcome.seconds, outcome.peak_gib])
    result = outcome.result
    by_features = ["feature set", "KMeans (s)", "DBSCAN, with the pass over all pairs (s)", "HDBSCAN (s)"]
    write_report(
        Path(args.conf).stem,
        f"The study of 870 models: {args.images:,} images",
        [
            ("Stages", ["stage", "seconds", "peak memory (GiB)"], stages),
            (
                "Clustering",
                [*by_features, "scores, labels, tables (s)", "together (s)"],
                _by_features(result.get("parts", [])),
            ),
            (
                "Models",
                ["feature set", "algorithm", "models", "ranked", "all noise", "one cluster"],
                result.get("statuses", []),
            ),
            (
                "The best model of each algorithm and feature set",
                [
                    "feature set", "algorithm", "parameters", "clusters", "noise", "Calinski-Harabasz",
                    "Davies-Bouldin", "vehicle agreement",
                ],
                result.get("best", []),
            ),
        ],
        f"{result.get('labels', 0):,} labels; the lake takes {result.get('lake_gib', 0):.1f} GiB. "
        f"{outcome.failed or ''}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
