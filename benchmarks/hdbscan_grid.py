"""HDBSCAN for seven min_cluster_size on 416,314 x 100, and beside hdbscan and fast_hdbscan at sizes that they finish.

    python benchmarks/hdbscan_grid.py [--images 416314] [--sizes 10000 20000]

The rows are 100 standardised principal components of vdc_type. hdbscan keeps its tree between the seven (joblib
memory, as its users do); fast_hdbscan fits seven times. Their flat clusters are compared with motorpool's (adjusted
Rand index, noise as a cluster of its own), and the total weight of fast_hdbscan's tree with the exact one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness import (
    DATA,
    Outcome,
    component_blocks,
    entry,
    full_case,
    read_components,
    run_contender,
    step,
    write_components,
    write_report,
)

SOURCE = DATA / "hdbscan-features"
FOUND = DATA / "hdbscan-found"
COLUMNS, MIN_SAMPLES = 100, 5
SIZES = tuple(2**i for i in range(3, 10))


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    write_components(SOURCE, args.images, COLUMNS)
    return {}


def _keep(name: str, labels: list[np.ndarray]) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    np.save(FOUND / f"{name}.npy", np.stack(labels, axis=1))


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.cluster.algorithms.hdbscan import LISTED
    from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
    from motorpool.kernels.pairs.sweep import Wanted
    from motorpool.neighbours.search import search
    from motorpool.neighbours.shards import arrange
    from motorpool.spark.session import build_session

    def tell(text: str) -> None:
        print(f"      {text}", flush=True)

    with step("session"):
        spark = build_session(delta=False)
        # The first job makes Spark load most of its classes.
        spark.range(1).count()
    with step("work"), component_blocks(spark, SOURCE, args.rows, COLUMNS) as block_df:
        with step("arrange"):
            arranged = arrange(block_df, "euclidean", 0)
        with step("nearest"):
            nearest = search(arranged, Wanted(k=LISTED), tell)
        with step("tree and clusters"):
            models = fit_hdbscan(arranged, nearest, HdbscanParameters(SIZES, MIN_SAMPLES), tell)
    _keep(f"motorpool-{args.rows}", [f.labels for f in models.flat])
    tree = models.tree
    return {
        "clusters": [f.n_clusters for f in models.flat],
        "noise": [int((f.labels < 0).sum()) for f in models.flat],
        "weight": float(tree.distance.sum()),
        "searches": tree.searches,
    }


def hdbscan(args: argparse.Namespace) -> dict[str, Any]:
    from hdbscan import HDBSCAN

    x = read_components(SOURCE, args.rows).astype(np.float64)
    labels = []
    with step("work"), tempfile.TemporaryDirectory() as cache:
        for size in SIZES:
            # Its min_samples leaves the row itself out.
            model = HDBSCAN(size, min_samples=MIN_SAMPLES - 1, memory=cache, core_dist_n_jobs=-1)
            labels.append(model.fit(x).labels_)
            if size == SIZES[0]:
                print("      first of the seven", flush=True)
    _keep(f"hdbscan-{args.rows}", labels)
    return {"clusters": [int(found.max()) + 1 for found in labels]}


def fast_hdbscan(args: argparse.Namespace) -> dict[str, Any]:
    from fast_hdbscan import HDBSCAN

    x = read_components(SOURCE, args.rows)
    # Its compiler's time is not the algorithm's.
    HDBSCAN(min_cluster_size=8, min_samples=MIN_SAMPLES - 1).fit(x[:1000])
    labels = []
    with step("work"):
        for size in SIZES:
            with step(f"size {size}"):
                model = HDBSCAN(min_cluster_size=size, min_samples=MIN_SAMPLES - 1).fit(x)
            labels.append(model.labels_)
    _keep(f"fast_hdbscan-{args.rows}", labels)
    tree = getattr(model, "_min_spanning_tree", None)
    return {
        "clusters": [int(found.max()) + 1 for found in labels],
        "weight": None if tree is None else float(np.asarray(tree)[:, 2].sum()),
    }


CONTENDERS = {"prepare": prepare, "motorpool": motorpool, "hdbscan": hdbscan, "fast_hdbscan": fast_hdbscan}


def _agreement(name: str, rows: int) -> str | None:
    from sklearn.metrics import adjusted_rand_score

    files = [FOUND / f"{n}-{rows}.npy" for n in ("motorpool", name)]
    if name == "motorpool" or not all(f.exists() for f in files):
        return None
    ours, theirs = (np.load(f) for f in files)
    scores = [adjusted_rand_score(ours[:, i], theirs[:, i]) for i in range(len(SIZES))]
    return f"{min(scores):.3f} to {max(scores):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 20_000])
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    run_contender(__file__, "prepare", ["--images", str(args.images)])
    tasks = [(n, name) for n in args.sizes for name in ("motorpool", "hdbscan", "fast_hdbscan")]
    tasks.append((args.images, "motorpool"))
    rows: list[list[Any]] = []
    ours: dict[int, tuple[Outcome, float]] = {}
    for n, name in tasks:
        outcome = run_contender(__file__, name, ["--images", str(args.images), "--rows", str(n)])
        seconds = outcome.work_seconds
        first, base = ours.setdefault(n, (outcome, seconds))
        weight, exact = outcome.result.get("weight"), first.result.get("weight")
        rows.append(
            [
                n, name, seconds, seconds / base, outcome.peak_gib, str(outcome.result.get("clusters")),
                _agreement(name, n), f"{weight / exact - 1:+.2e}" if weight and exact else None,
                "; ".join(f"{k} {v[0]:.1f}" for k, v in outcome.steps.items() if k not in ("work", "session")),
                outcome.failed,
            ]
        )  # fmt: skip
    for folder in (SOURCE, FOUND):
        shutil.rmtree(Path(folder), ignore_errors=True)
    write_report(
        "hdbscan",
        f"HDBSCAN, seven min_cluster_size (8 to 512), min_samples {MIN_SAMPLES}, {COLUMNS} columns",
        [
            (
                "All seven",
                [
                    "rows", "contender", "seconds", "ratio to motorpool", "peak memory (GiB)", "clusters",
                    "adjusted Rand index with motorpool", "weight of the tree, beside the exact", "steps (s)", "failed",
                ],
                rows,
            )
        ],
        "Seconds leave out starting Python and Spark, and compiling. One run each. motorpool's tree is exact.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
