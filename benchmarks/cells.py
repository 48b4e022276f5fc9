"""DBSCAN's two ways to the same labels, side by side: `pairs` (two passes over all pairs of rows) and `cells` (Voronoi
cells with a halo, each handed to scikit-learn).

    python benchmarks/cells.py [--scale 1.0]

Cells suit few columns and a small eps, so that is what is measured: 180,000 x 9 min-max scaled rows and 1,000,000 x 3
rows, eps from the radius that holds a few neighbours upwards. scikit-learn alone runs beside them on all rows, where
its neighbour lists fit. Clusters and noise of all contenders are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from harness import DATA, entry, run_contender, step, write_report

SOURCE = DATA / "cells-features"
MIN_SAMPLES = (8, 32)
#: Rows, columns and eps of each case; eps are shares of the unit cube's side.
CASES = {
    "180,000 x 9": (180_000, 9, (0.05, 0.1, 0.2)),
    "1,000,000 x 3": (1_000_000, 3, (0.005, 0.01, 0.02)),
}


def _rows(n: int, d: int) -> np.ndarray:
    """float32[n, d] in the unit cube: forty clouds of unequal size and width, and a tenth of noise."""
    rng = np.random.default_rng(7)
    centres, widths = rng.random((40, d)), rng.uniform(0.01, 0.05, 40)
    which = rng.choice(40, n, p=rng.dirichlet(np.full(40, 2.0)))
    x = centres[which] + rng.normal(size=(n, d)) * widths[which, None]
    stray = rng.random(n) < 0.1
    x[stray] = rng.random((int(stray.sum()), d))
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


def _session() -> SparkSession:
    from motorpool.spark.session import build_session

    with step("session"):
        return build_session({"spark.driver.memory": "4g"}, delta=False)


def _found(labelled: Any, n_models: int) -> dict[str, Any]:
    from pyspark.sql import functions as F

    noise = labelled.wide().select(
        *(F.sum((F.col("clusters")[m] < 0).cast("long")).alias(str(m)) for m in range(n_models))
    )
    return {"clusters": [int(s) for s in labelled.sizes], "noise": list(noise.first() or ())}


def pairs(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark import blocks

    spark = _session()
    grid = DbscanParameters(tuple(args.eps), MIN_SAMPLES)
    with step("work"):
        block_df = blocks.persist(blocks.gather(spark.read.parquet(str(SOURCE))))
        arranged = arrange(block_df, "euclidean", 0)
        counted = search(arranged, Wanted(grid.eps, max(MIN_SAMPLES)))
        labelled = fit_dbscan(arranged, counted, grid.eps, grid)
    return _found(labelled, grid.n_models)


def cells(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.cluster.density.cells import fit_dbscan_cells
    from motorpool.cluster.density.dbscan import DbscanParameters
    from motorpool.kernels.cells.engines import SklearnEngine
    from motorpool.spark import blocks

    spark = _session()
    grid = DbscanParameters(tuple(args.eps), MIN_SAMPLES)
    with step("work"):
        block_df = blocks.persist(blocks.gather(spark.read.parquet(str(SOURCE))))
        labelled = fit_dbscan_cells(block_df, grid, metric="euclidean", seed=0, engine=SklearnEngine())
    return _found(labelled, grid.n_models)


def sklearn(args: argparse.Namespace) -> dict[str, Any]:
    import pyarrow.parquet as pq
    from sklearn.cluster import DBSCAN

    table = pq.read_table(SOURCE).sort_by("image_id")
    x = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    clusters, noise = [], []
    with step("work"):
        for eps in args.eps:
            for m in MIN_SAMPLES:
                labels = DBSCAN(eps=eps, min_samples=m, n_jobs=-1).fit(x).labels_
                clusters.append(int(labels.max()) + 1)
                noise.append(int((labels < 0).sum()))
    return {"clusters": clusters, "noise": noise}


CONTENDERS = {"prepare": prepare, "pairs": pairs, "cells": cells, "sklearn": sklearn}


def _options(n: int, d: int, eps: Sequence[float]) -> list[str]:
    return ["--rows", str(n), "--columns", str(d), "--eps", *(str(e) for e in eps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the rows to run on")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int)
    parser.add_argument("--eps", type=float, nargs="*")
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    rows: list[list[Any]] = []
    for name, (n, d, every_eps) in CASES.items():
        n = int(n * args.scale)
        run_contender(__file__, "prepare", _options(n, d, every_eps))
        for eps in every_eps:
            outcomes = {
                c: run_contender(__file__, c, _options(n, d, [eps]), timeout=900) for c in ("pairs", "cells", "sklearn")
            }
            base = outcomes["pairs"]
            for contender, outcome in outcomes.items():
                same = outcome.result == base.result if outcome.result and base.result else None
                rows.append(
                    [name, eps, contender, outcome.work_seconds, outcome.work_seconds / base.work_seconds,
                     outcome.peak_gib, None if same is None else str(same), json.dumps(outcome.result.get("clusters")),
                     outcome.failed]
                )  # fmt: skip
    shutil.rmtree(SOURCE, ignore_errors=True)
    header = [
        "rows", "eps", "contender", "seconds", "ratio to pairs", "peak memory (GiB)", "as pairs",
        "clusters, min_samples 8 and 32", "failed",
    ]  # fmt: skip
    write_report(
        "cells",
        "DBSCAN by pairs and by cells, few columns and small eps",
        [("One eps with two min_samples", header, rows)],
        f"Seconds leave out starting Python and Spark. One run each, on {args.scale:g} of the rows.",
    )


if __name__ == "__main__":
    main()
