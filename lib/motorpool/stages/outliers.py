"""Outliers: how little every image fits in, by several methods on every feature set, and what they agree on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool import blocks
from motorpool.config import CONSENSUS, OutlierConfig
from motorpool.features.program import Program
from motorpool.neighbours.search import Wanted, search
from motorpool.neighbours.strips import arrange
from motorpool.outliers.consensus import consensus, flag
from motorpool.outliers.forest import isolation_forest
from motorpool.outliers.local import knn_distance, local_outlier_factor
from motorpool.outliers.reconstruction import pca_error
from motorpool.stages.context import Context, explained, timed
from motorpool.stages.features import load_program, wide_descriptors

log = logging.getLogger(__name__)

#: Methods that read what clustering has found, and the algorithm whose labels they need.
_FROM_LABELS = {"dbscan_noise": "dbscan", "glosh": "hdbscan", "mixture_density": "gaussian_mixture"}


def run_outliers(ctx: Context) -> None:
    """Score every image by every method on every feature set, then by their consensus.

    What a feature set lacks for a method (a projection, models whose labels it reads) is said and left out. The row
    in ``outlier_methods`` is written last, so a method without it is run again.
    """
    config = ctx.config.outliers
    if config is None:
        log.info("outliers: the config has no section `outliers`, nothing to do")
        return
    done = set()
    if ctx.lake.exists("outlier_methods"):
        rows = ctx.lake.read("outlier_methods").collect()
        seed = ctx.config.seed
        done = {(r["features"], r["method"]) for r in rows if r["params"] == _params(config, seed, r["method"])}
    changed = False
    for features in ctx.config.feature_sets:
        if config.features is None or features.name in config.features:
            possible = _possible(ctx, features.name, config)
            if any((features.name, method) not in done for method in possible):
                with explained(), timed(f"outliers: {', '.join(possible)} on {features.name}"):
                    _run_methods(ctx, config, features.name, possible)
                changed = True
    if changed or (CONSENSUS, CONSENSUS) not in done:
        with timed("outliers: consensus"):
            _run_consensus(ctx, config)
    else:
        log.info("outliers: all methods of the study are in the lake, nothing to do")


def _params(config: OutlierConfig, seed: int, method: str) -> dict[str, str]:
    """What a method's scores depend on: other values mean other scores."""
    params = {"share": str(config.share)}
    if method in ("knn_distance", "lof"):
        params["k"] = str(config.k)
    if method in ("isolation_forest", "knn_distance", "lof"):
        params["seed"] = str(seed)
    return params


def _possible(ctx: Context, features: str, config: OutlierConfig) -> list[str]:
    """The methods that a feature set has what it takes for."""
    algorithms = set()
    if ctx.lake.exists("models"):
        rows = ctx.lake.read("models").where((F.col("features") == features) & (F.col("n_clusters") > 0))
        algorithms = {r["algorithm"] for r in rows.select("algorithm").distinct().collect()}
    possible: list[str] = []
    for method in config.methods:
        needs = _FROM_LABELS.get(method)
        if needs and needs not in algorithms:
            log.info("outliers: %s on %s is left out: the lake holds no %s model of it", method, features, needs)
        elif method == "pca_error" and not _projects(load_program(ctx.lake, features)):
            log.info("outliers: pca_error on %s is left out: it has no pca or svd step", features)
        else:
            possible.append(method)
    return possible


def _projects(program: Program) -> bool:
    return any(op.kind == "project" for ops in [program.ops, *(p.ops for p in program.parts)] for op in ops)


def _run_methods(ctx: Context, config: OutlierConfig, features: str, methods: list[str]) -> None:
    """All methods of one feature set, written together."""
    began = time.monotonic()
    block_df = blocks.persist(blocks.gather(ctx.lake.read("features", features=features)))
    release: list[Callable[[], object]] = [block_df.unpersist]
    scores: dict[str, DataFrame] = {}
    try:
        if {"knn_distance", "lof"} & set(methods):
            arranged = arrange(block_df, "euclidean", ctx.config.seed)
            state = search(arranged, Wanted(k=config.k), lambda text: log.debug("outliers: %s: %s", features, text))
            release += [state.unpersist, arranged.release]
            if "knn_distance" in methods:
                scores["knn_distance"] = knn_distance(arranged, state, config.k)
            if "lof" in methods:
                scores["lof"] = local_outlier_factor(arranged, state, config.k)
        if "isolation_forest" in methods:
            scores["isolation_forest"] = isolation_forest(block_df, seed=ctx.config.seed)
        if "pca_error" in methods:
            program = load_program(ctx.lake, features)
            scores["pca_error"] = pca_error(wide_descriptors(ctx.lake, program.descriptors), program)
        for method in methods:
            if method in _FROM_LABELS:
                scores[method] = _from_labels(ctx, features, method)
        frames = [scores[m].select(F.lit(m).alias("method"), "image_id", "score") for m in methods]
        flagged = flag(reduce(DataFrame.unionByName, frames), config.share)
        ctx.lake.replace("outliers", flagged.withColumn("features", F.lit(features)), {"features": [features]})
    finally:
        for drop in release:
            drop()
    _write_methods(ctx, config, features, (time.monotonic() - began) / len(methods))


def _from_labels(ctx: Context, features: str, method: str) -> DataFrame:
    """Scores out of ``labels``: ``image_id, score``.

    dbscan_noise: the share of the feature set's DBSCAN models that leave the image as noise, of those that leave
    at most cluster.max_noise_share of all; glosh: the mean over HDBSCAN models; mixture_density: minus the log
    density under the mixture of the lowest BIC.
    """
    models = ctx.lake.read("models").where(
        (F.col("features") == features) & (F.col("algorithm") == _FROM_LABELS[method]) & (F.col("n_clusters") > 0)
    )
    if method == "dbscan_noise":
        n = ctx.lake.read("features", features=features).count()
        kept = models.where(F.col("n_noise") <= ctx.config.cluster.max_noise_share * n)
        models, score = kept, F.avg((F.col("cluster") < 0).cast("double"))
    elif method == "glosh":
        score = F.avg("outlier_score").cast("double")
    else:
        models, score = models.orderBy("bic").limit(1), F.max("outlier_score").cast("double")
    ids = [r["model_id"] for r in models.select("model_id").collect()]
    images = ctx.lake.read("features", features=features).select("image_id")
    # No model to go by: no image stands out.
    found = ctx.lake.read("labels", model_id=ids or ["none"]).groupBy("image_id").agg(score.alias("score"))
    return images.join(found, "image_id", "left").select("image_id", F.coalesce("score", F.lit(0.0)).alias("score"))


def _run_consensus(ctx: Context, config: OutlierConfig) -> None:
    began = time.monotonic()
    single = ctx.lake.read("outliers").where(F.col("features") != CONSENSUS)
    agreed = flag(consensus(single), config.share)
    rows = agreed.select(F.lit(CONSENSUS).alias("features"), F.lit(CONSENSUS).alias("method"), *agreed.columns)
    ctx.lake.replace("outliers", rows, {"features": [CONSENSUS]})
    _write_methods(ctx, config, CONSENSUS, time.monotonic() - began)


def _write_methods(ctx: Context, config: OutlierConfig, features: str, seconds: float) -> None:
    """One row per method: how many images it calls outliers, and from which score on."""
    found = (
        ctx.lake.read("outliers", features=features)
        .groupBy("method")
        .agg(
            F.count_if("is_outlier").alias("n_outliers"),
            F.min(F.when(F.col("is_outlier"), F.col("score"))).alias("threshold"),
        )
        .collect()
    )
    rows = [
        {
            "features": features,
            "method": r["method"],
            "params": _params(config, ctx.config.seed, r["method"]),
            "n_outliers": r["n_outliers"],
            "threshold": r["threshold"],
            "seconds": seconds,
        }
        for r in found
    ]
    table = ctx.lake.schema("outlier_methods", without=("created_at",))
    frame = ctx.spark.createDataFrame(rows, table).withColumn("created_at", F.current_timestamp())
    ctx.lake.replace("outlier_methods", frame, {"features": [features]})
