"""Gaussian mixture of 8 full-covariance components, 10 iterations, against scikit-learn and Spark MLlib, in one run.

    python benchmarks/mixture.py [--images 416314]

Every contender reads the same Parquet files of 100 standardised principal components of vdc_type. Motorpool and
scikit-learn start from the same weights, means and precisions and so reach the same model; MLlib takes no start and
draws its own. The mean log-likelihood per row is computed again, in float64, by the same code for all, from the
parameters that each returns.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import warnings
from typing import Any

import numpy as np

import kmeans
from harness import component_blocks, entry, full_case, read_components, run_contender, step, write_report

#: Rows that the common start is taken from.
START_ROWS = 20_000
#: Beside the Parquet files, whose readers pass over a leading underscore.
START = "_start.npz"


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """The features of the KMeans benchmark; beside them the moments of a quick KMeans on the first rows."""
    from sklearn.cluster import KMeans

    kmeans.prepare(args)
    x = read_components(kmeans.SOURCE)[:START_ROWS].astype(np.float64)
    labels = KMeans(args.components, n_init=1, random_state=args.seed).fit_predict(x)
    members = [x[labels == c] for c in range(args.components)]
    # A tenth on the diagonal: a cluster of the small modes can hold fewer rows than there are columns.
    covariances = [np.cov(m.T, bias=True) + 0.1 * np.eye(x.shape[1]) for m in members]
    np.savez(
        kmeans.SOURCE / START,
        weights=[len(m) / len(x) for m in members],
        means=[m.mean(axis=0) for m in members],
        precisions=np.linalg.inv(covariances),
    )
    return {}


def _start() -> dict[str, np.ndarray]:
    with np.load(kmeans.SOURCE / START) as arrays:
        return dict(arrays)


def _log_likelihood(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """Mean log density per row, by solving with the Cholesky factors of the covariances."""
    x = read_components(kmeans.SOURCE)
    total = 0.0
    factors = np.linalg.cholesky(covariances)
    for first in range(0, len(x), 20_000):
        block = x[first : first + 20_000].astype(np.float64)
        logs = np.empty((len(block), len(weights)))
        for j, (mean, factor) in enumerate(zip(means, factors, strict=True)):
            y = np.linalg.solve(factor, (block - mean).T)
            log_det = np.log(np.diagonal(factor)).sum()
            logs[:, j] = np.log(weights[j]) - 0.5 * np.square(y).sum(axis=0) - log_det
        total += float(np.logaddexp.reduce(logs, axis=1).sum())
    return total / len(x) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def _reached(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, iterations: int) -> dict[str, Any]:
    """What is compared: the likelihood, and how far apart the two nearest means are (0: they are one component)."""
    gaps = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(len(means), np.inf))
    return {
        "log_likelihood": _log_likelihood(weights, means, covariances),
        "smallest_gap": float(gaps.min()),
        "iterations": iterations,
    }


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.cluster.mixtures.mixture import Start, fit_mixtures
    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session(delta=False)
        # The first job makes Spark load most of its classes.
        spark.range(1).count()
    start = Start(**_start())
    with step("work"), component_blocks(spark, kmeans.SOURCE, args.images, kmeans.COLUMNS) as block_df, step("fit"):
        (model,) = fit_mixtures(
            block_df, [(args.components, "full")], seed=args.seed, starts=[start], max_iter=args.iterations, tol=0.0
        )
    spark.stop()
    return _reached(model.weights, model.means, model.covariances, model.n_iter)


def sklearn(args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore", ConvergenceWarning)
    start = {f"{name}_init": array for name, array in _start().items()}
    with step("work"):
        with step("read"):
            x = read_components(kmeans.SOURCE).astype(np.float64)
        with step("fit"):
            model = GaussianMixture(args.components, max_iter=args.iterations, tol=0.0, **start).fit(x)
    return _reached(model.weights_, model.means_, model.covariances_, model.n_iter_)


def mllib(args: argparse.Namespace) -> dict[str, Any]:
    from pyspark.ml.clustering import GaussianMixture
    from pyspark.ml.functions import array_to_vector

    from motorpool.spark.session import build_session

    with step("session"):
        spark = build_session({"spark.driver.memory": "10g"}, delta=False)
    with step("work"):
        with step("read"):
            rows = spark.read.parquet(str(kmeans.SOURCE))
            data = rows.select(array_to_vector("vector").alias("features")).persist()
            data.count()
        with step("fit"):
            model = GaussianMixture(k=args.components, maxIter=args.iterations, tol=0.0, seed=args.seed).fit(data)
    parts = [(np.array(g.mean), g.cov.toArray()) for g in model.gaussians]
    means, covariances = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    weights, iterations = np.array(model.weights), model.summary.numIter
    spark.stop()
    return _reached(weights, means, covariances, iterations)


CONTENDERS = {"prepare": prepare, "motorpool": motorpool, "sklearn": sklearn, "mllib": mllib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-mllib", action="store_true", help="MLlib takes minutes, and runs once")
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    full_case(args.images)
    names = ("images", "components", "iterations", "seed")
    flags = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    run_contender(__file__, "prepare", flags)
    rows: list[list[Any]] = []
    base: float | None = None  # motorpool's seconds
    for name in ["motorpool", "sklearn"] + ([] if args.no_mllib else ["mllib"]):
        repeats = 1 if name == "mllib" else args.repeats
        outcomes = [run_contender(__file__, name, flags) for _ in range(repeats)]
        outcomes.sort(key=lambda o: o.work_seconds)
        middle = outcomes[len(outcomes) // 2]
        seconds = middle.work_seconds
        base = seconds if name == "motorpool" and not middle.failed else base
        iterations = middle.result.get("iterations")
        inner = {k: round(v[0], 1) for k, v in middle.steps.items() if k != "work"}
        rows.append(
            [
                name,
                repeats,
                seconds,
                None if base is None else seconds / base,
                max(o.peak_gib for o in outcomes),
                iterations,
                middle.steps["fit"][0] / iterations if iterations else None,
                middle.result.get("log_likelihood"),
                middle.result.get("smallest_gap"),
                json.dumps(inner),
                middle.failed,
            ]
        )
    shutil.rmtree(kmeans.SOURCE, ignore_errors=True)
    header = ["contender", "runs", "seconds (median)", "ratio to motorpool", "peak memory (GiB)"]
    header += ["iterations", "seconds an iteration", "log-likelihood per row", "smallest gap between two means"]
    header += ["parts", "failed"]
    write_report(
        "mixture",
        f"Gaussian mixture, {args.components} full components, {args.iterations} iterations, on {args.images:,} x "
        f"{kmeans.COLUMNS}",
        [("Time, memory and what was reached", header, rows)],
        "Seconds leave out starting Python and Spark. Motorpool and scikit-learn start from the same parameters and "
        "work in float64. MLlib takes no start and draws its own, and stops when its likelihood stands still: look at "
        "its iterations, and at the gap between its means, before comparing seconds. Motorpool's fit holds two passes "
        "beside its iterations: one for the mean, one that scores the result.",
    )


if __name__ == "__main__":
    main()
