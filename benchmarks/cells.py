"""DBSCAN's two ways to the same labels, side by side: `pairs` (two passes over all pairs of rows) and `cells` (Voronoi
cells with a halo, each handed to scikit-learn).

    python benchmarks/cells.py [--only "1,000,000 x 3" --eps 0.005] [--rounds 3] [--scale 1.0]

Cells suit few columns and a small eps, so that is what is measured: 180,000 x 9 min-max scaled rows and 1,000,000 x 3
rows, eps from the radius that holds a few neighbours upwards. Both ways run in turn in one session, several rounds of
each, and the ratio is taken within each round, so that other work on the machine meets both. The processor's seconds
are those of the whole process tree. Clusters and noise of both are compared. Results of several calls with the same
number of rounds and scale are kept together, so that the cases can be run one by one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import psutil
from pyspark.sql import DataFrame, SparkSession

from harness import DATA, RESULTS, entry, run_contender, step, write_report

SOURCE = DATA / "cells-features"
MIN_SAMPLES = (8, 32)
#: Rows, columns and eps of each case; eps are shares of the unit cube's side.
CASES = {
    "180,000 x 9": (180_000, 9, (0.025, 0.05, 0.1, 0.2)),
    "1,000,000 x 3": (1_000_000, 3, (0.0025, 0.005, 0.01)),
}
HEADER = (
    "rows", "eps", "seconds by pairs", "seconds by cells", "cells to pairs", "processor seconds by pairs",
    "by cells", "cells to pairs, processor", "peak memory by pairs (GiB)", "by cells", "equal",
    "clusters, min_samples 8 and 32", "share of noise", "failed",
)  # fmt: skip


def _rows(n: int, d: int) -> np.ndarray:
    """float32[n, d] in the unit cube: forty clouds of unequal size and width, and a tenth of noise."""
    rng = np.random.default_rng(7)
    centres, widths = rng.random((40, d)), rng.uniform(0.01, 0.05, 40)
    which = rng.choice(40, n, p=rng.dirichlet(np.full(40, 2.0)))
    x = centres[which] + rng.normal(size=(n, d)) * widths[which, None]
    noise = rng.random(n) < 0.1
    x[noise] = rng.random((int(noise.sum()), d))
    low, high = x.min(axis=0), x.max(axis=0)
    return ((x - low) / (high - low)).astype(np.float32)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = _rows(args.rows, args.columns)
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for part, rows in enumerate(np.array_split(np.arange(len(x)), 16)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].ravel()), x.shape[1]).cast(pa.list_(pa.float32()))
        table = pa.table({"image_id": pa.array(rows), "vector": vectors})
        pq.write_table(table, SOURCE / f"part-{part:02d}.parquet")
    return {}


def _by_pairs(block_df: DataFrame, grid: Any) -> Any:
    from motorpool.cluster.density.dbscan import fit_dbscan
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange

    arranged = arrange(block_df, "euclidean", 0)
    counted = search(arranged, Wanted(grid.eps, max(MIN_SAMPLES)))
    try:
        return fit_dbscan(arranged, counted, grid.eps, grid)
    finally:
        counted.unpersist()
        arranged.release()


def _by_cells(block_df: DataFrame, grid: Any) -> Any:
    from motorpool.cluster.density.cells import fit_dbscan_cells
    from motorpool.kernels.cells.engines import SklearnEngine

    return fit_dbscan_cells(block_df, grid, metric="euclidean", seed=0, engine=SklearnEngine())


WAYS: dict[str, Callable[[DataFrame, Any], Any]] = {"pairs": _by_pairs, "cells": _by_cells}


def _processor_seconds() -> float:
    """Those of this process and all below it so far."""
    root = psutil.Process()
    times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def _noise(labelled: Any, n_models: int) -> list[int]:
    from pyspark.sql import functions as F

    counts = (F.sum((F.col("clusters")[m] < 0).cast("long")).alias(str(m)) for m in range(n_models))
    return list(labelled.wide().select(*counts).first() or ())


def _session() -> SparkSession:
    from motorpool.spark.session import build_session

    return build_session({"spark.driver.memory": "4g"}, delta=False)


def both(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both ways in turn: seconds, the processor's seconds, clusters and noise of each."""
    from motorpool.cluster.density.dbscan import DbscanParameters
    from motorpool.spark import blocks

    with step("session"):
        spark = _session()
        block_df = blocks.persist(blocks.gather(spark.read.parquet(str(SOURCE))))
        # Python workers start and compiled loops are read before anything is timed.
        few = blocks.persist(blocks.gather(spark.read.parquet(str(SOURCE / "part-00.parquet")).limit(2000)))
        for fit in WAYS.values():
            fit(few, DbscanParameters((args.eps[0],), MIN_SAMPLES)).wide().count()
        block_df.count()
    grid = DbscanParameters(tuple(args.eps), MIN_SAMPLES)
    found: dict[str, Any] = {name: {"seconds": [], "processor": []} for name in WAYS}
    for _ in range(args.rounds):
        for name, fit in WAYS.items():
            before, began = _processor_seconds(), time.perf_counter()
            with step(name):
                labelled = fit(block_df, grid)
            found[name]["seconds"].append(time.perf_counter() - began)
            found[name]["processor"].append(_processor_seconds() - before)
            found[name]["clusters"] = [int(s) for s in labelled.sizes]
            found[name]["noise"] = _noise(labelled, grid.n_models)
            labelled.df.unpersist()
    return found


CONTENDERS = {"prepare": prepare, "both": both}


def _options(n: int, d: int, rounds: int, eps: Sequence[float]) -> list[str]:
    numbers = ["--rows", str(n), "--columns", str(d), "--rounds", str(rounds)]
    return [*numbers, "--eps", *(str(e) for e in eps)]


def _row(name: str, eps: float, n: int, outcome: Any) -> list[Any]:
    if outcome.failed or not outcome.result:
        return [name, eps, *[None] * (len(HEADER) - 3), outcome.failed or "no result"]
    pairs, cells = (outcome.result[way] for way in WAYS)
    timed: list[float] = []
    for unit in ("seconds", "processor"):
        ratios = [c / p for p, c in zip(pairs[unit], cells[unit], strict=True)]
        timed += [median(pairs[unit]), median(cells[unit]), median(ratios)]
    same = all(pairs[fact] == cells[fact] for fact in ("clusters", "noise"))
    peaks = [outcome.steps[way][1] for way in WAYS]
    noise = ", ".join(f"{count / n:.2f}" for count in pairs["noise"])
    clusters = ", ".join(str(count) for count in pairs["clusters"])
    return [name, eps, *timed, *peaks, str(same), clusters, noise, None]


def _earlier(notes: str) -> list[list[Any]]:
    """Rows of an earlier call with the same notes."""
    path = RESULTS / "cells.json"
    if not path.exists() or not (RESULTS / "cells.md").read_text().rstrip().endswith(notes):
        return []
    rows: list[list[Any]] = json.loads(path.read_text())["tables"][0]["rows"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the rows to run on")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs")
    parser.add_argument("--only", choices=tuple(CASES), help="one of the cases")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--columns", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--eps", type=float, nargs="*", help="these alone")
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    rounds = "One round" if args.rounds == 1 else f"Medians of {args.rounds} rounds"
    notes = (
        f"{rounds} of both ways in turn, in one session; ratios are taken within each round. On {args.scale:g} of the "
        "rows. Seconds leave out starting Python and Spark."
    )
    rows = _earlier(notes)
    for name, (n, d, every_eps) in CASES.items():
        if args.only not in (None, name):
            continue
        n = int(n * args.scale)
        run_contender(__file__, "prepare", _options(n, d, 1, every_eps))
        for eps in args.eps or every_eps:
            outcome = run_contender(__file__, "both", _options(n, d, args.rounds, [eps]))
            rows = [row for row in rows if row[:2] != [name, eps]]
            rows.append(_row(name, eps, n, outcome))
            rows.sort(key=lambda row: (list(CASES).index(row[0]), row[1]))
            title = "DBSCAN by pairs and by cells, few columns and small eps"
            write_report("cells", title, [("One eps with two min_samples", HEADER, rows)], notes)
    shutil.rmtree(SOURCE, ignore_errors=True)


if __name__ == "__main__":
    main()
