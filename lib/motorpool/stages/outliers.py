"""Outliers: how little every image fits in, by several methods on every feature set, what they agree on, and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool import blocks
from motorpool.config import CONSENSUS, VEHICLE_METHODS, OutlierConfig
from motorpool.features.spec import FeatureSet
from motorpool.features.vehicles import Vehicles
from motorpool.neighbours.search import search
from motorpool.neighbours.strips import Arranged, arrange
from motorpool.neighbours.sweep import Wanted
from motorpool.outliers.consensus import consensus, fill_unknown, flag
from motorpool.outliers.forest import isolation_forest
from motorpool.outliers.local import knn_distance, local_outlier_factor, nearest
from motorpool.outliers.reasons import NEIGHBOURS, explain, explain_consensus, facts, no_facts, usual_scores
from motorpool.outliers.reconstruction import pca_error, reconstructs
from motorpool.outliers.stray import stray_groups
from motorpool.outliers.vehicles import most_typical, odd_one_out
from motorpool.stages.context import Context, explained, timed
from motorpool.stages.features import known_vehicles, load_program, wide_descriptors

log = logging.getLogger(__name__)

#: Methods that read what clustering has found, and the algorithm whose labels they need.
_FROM_LABELS = {"dbscan_noise": "dbscan", "glosh": "hdbscan", "mixture_density": "gaussian_mixture"}
#: Methods that read the nearest neighbours of all images alone, and one that knows vehicles as well.
_OF_NEIGHBOURS: dict[str, Callable[[Arranged, DataFrame, int], DataFrame]] = {
    "knn_distance": knn_distance,
    "lof": local_outlier_factor,
}
_FROM_NEIGHBOURS = (*_OF_NEIGHBOURS, "stray_groups")


def run_outliers(ctx: Context) -> None:
    """Score every image by every method on every feature set, then by their consensus.

    What a feature set lacks for a method (a projection, models whose labels it reads) is said and left out. Images that
    are flagged get a row in ``outlier_reasons``. The row in ``outlier_methods`` is written last, so a method without it
    is run again.

    Raises LakeError, before anything is scored, where a method compares the photos of a vehicle and the lake's images
    tell no vehicles.
    """
    config = ctx.config.outliers
    if config is None:
        log.info("outliers: the config has no section `outliers`, nothing to do")
        return
    asking = next((m for m in config.methods if m in VEHICLE_METHODS), None)
    vehicles = None
    if asking is not None:
        vehicles = known_vehicles(ctx.lake, f"outliers.methods: {asking}", ", or leave the method out")
    done = set()
    # Scores from before reasons were written are made again.
    if ctx.lake.exists("outlier_methods") and ctx.lake.exists("outlier_reasons"):
        rows = ctx.lake.read("outlier_methods").collect()
        seed = ctx.config.seed
        done = {(r["features"], r["method"]) for r in rows if r["params"] == _params(config, seed, r["method"])}
    changed = False
    for features in ctx.config.feature_sets:
        if config.features is None or features.name in config.features:
            possible = _possible(ctx, features, config)
            if any((features.name, method) not in done for method in possible):
                with explained(), timed(f"outliers: {', '.join(possible)} on {features.name}"):
                    _run_methods(ctx, config, features.name, possible, vehicles)
                changed = True
    if changed or (CONSENSUS, CONSENSUS) not in done:
        with timed("outliers: consensus"):
            _run_consensus(ctx, config)
    else:
        log.info("outliers: all methods of the study are in the lake, nothing to do")


def _params(config: OutlierConfig, seed: int, method: str) -> dict[str, str]:
    """What a method's scores depend on: other values mean other scores."""
    params = {"share": str(config.share)}
    if method in _FROM_NEIGHBOURS:
        params["k"] = str(config.k)
    if method in ("isolation_forest", *_FROM_NEIGHBOURS):
        params["seed"] = str(seed)
    return params


def _possible(ctx: Context, feature_set: FeatureSet, config: OutlierConfig) -> list[str]:
    """The methods that a feature set has what it takes for."""
    features = feature_set.name
    algorithms = set()
    if ctx.lake.exists("models"):
        rows = ctx.lake.read("models").where((F.col("features") == features) & (F.col("n_clusters") > 0))
        algorithms = {r["algorithm"] for r in rows.select("algorithm").distinct().collect()}
    possible: list[str] = []
    for method in config.methods:
        needs = _FROM_LABELS.get(method)
        if needs and needs not in algorithms:
            log.info("outliers: %s on %s is left out: the lake holds no %s model of it", method, features, needs)
        elif method == "pca_error" and not reconstructs(load_program(ctx.lake, features)):
            log.info("outliers: pca_error on %s is left out: no pca or svd step comes first", features)
        elif method in VEHICLE_METHODS and feature_set.merges_vehicles:
            log.info("outliers: %s on %s is left out: all photos of a vehicle are one vector", method, features)
        else:
            possible.append(method)
    return possible


@dataclass
class _Found:
    """Scores of a feature set's methods and the facts behind them, as long as `release` is not called."""

    scores: dict[str, DataFrame] = field(default_factory=dict)
    facts: list[DataFrame] = field(default_factory=list)
    held: list[Callable[[], object]] = field(default_factory=list)

    def release(self) -> None:
        for drop in self.held:
            drop()


def _run_methods(
    ctx: Context, config: OutlierConfig, features: str, methods: list[str], vehicles: Vehicles | None
) -> None:
    """All methods of one feature set, written together: scores, then reasons, then what says that they are there."""
    began = time.monotonic()
    found = _Found()
    try:
        _look_at_vectors(ctx, config, features, methods, vehicles, found)
        if "pca_error" in methods:
            program = load_program(ctx.lake, features)
            found.scores["pca_error"] = pca_error(wide_descriptors(ctx.lake, program.descriptors), program)
        for method in methods:
            if method in _FROM_LABELS:
                found.scores[method] = _from_labels(ctx, features, method)
        frames = [found.scores[m].select(F.lit(m).alias("method"), "image_id", "score") for m in methods]
        flagged = flag(reduce(DataFrame.unionByName, frames), config.share)
        if set(VEHICLE_METHODS) & set(methods):
            flagged = fill_unknown(flagged)
        ctx.lake.replace("outliers", flagged.withColumn("features", F.lit(features)), {"features": [features]})
        written, images = ctx.lake.read("outliers", features=features), ctx.lake.read("images")
        known = reduce(DataFrame.unionByName, found.facts, no_facts(images))
        reasons = explain(written.where("is_outlier"), usual_scores(written), known, images, config.k)
        _write_reasons(ctx, features, reasons)
    finally:
        found.release()
    _write_methods(ctx, config, features, (time.monotonic() - began) / len(methods))


def _look_at_vectors(
    ctx: Context, config: OutlierConfig, features: str, methods: list[str], vehicles: Vehicles | None, found: _Found
) -> None:
    """The methods that need nothing but vectors, and perhaps vehicles."""
    vectors = ctx.lake.read("features", features=features)
    block_df = blocks.persist(blocks.gather(vectors))
    found.held.append(block_df.unpersist)
    if "isolation_forest" in methods:
        found.scores["isolation_forest"] = isolation_forest(block_df, seed=ctx.config.seed)
    compared = None
    if vehicles is not None and set(VEHICLE_METHODS) & set(methods):
        compared = odd_one_out(vectors.select("image_id", "vector"), vehicles)
        found.held.append(compared.release)
    if compared is not None and "odd_one_out" in methods:
        found.scores["odd_one_out"] = compared.df.select("image_id", "score")
        # The photo itself may be among its vehicle's typical ones.
        beside = compared.df.join(most_typical(compared, NEIGHBOURS + 1), on="vehicle_id", how="inner")
        others = F.slice(F.array_remove("typical", F.col("image_id")), 1, NEIGHBOURS)
        found.facts.append(facts(beside.withColumn("neighbours", others), "odd_one_out"))
    if not set(_FROM_NEIGHBOURS) & set(methods):
        return
    arranged = arrange(block_df, "euclidean", ctx.config.seed)
    found.held.append(arranged.release)
    wanted = Wanted(k=config.k)
    state = search(arranged, wanted, lambda text: log.debug("outliers: %s: %s", features, text), ctx.backend)
    found.held.append(state.unpersist)
    near = blocks.persist(nearest(arranged, state, NEIGHBOURS))
    found.held.append(near.unpersist)
    for method, score in _OF_NEIGHBOURS.items():
        if method in methods:
            found.scores[method] = score(arranged, state, config.k)
            found.facts.append(facts(near, method))
    if compared is not None and "stray_groups" in methods:
        strays = blocks.persist(stray_groups(arranged, state, config.k, compared))
        found.held.append(strays.unpersist)
        found.scores["stray_groups"] = strays.select("image_id", "score")
        found.facts.append(facts(strays, "stray_groups"))


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
    written = ctx.lake.read("outliers", features=CONSENSUS)
    images = ctx.lake.read("images")
    _write_reasons(
        ctx, CONSENSUS, explain_consensus(written.where("is_outlier"), single, usual_scores(written), images)
    )
    _write_methods(ctx, config, CONSENSUS, time.monotonic() - began)


def _write_reasons(ctx: Context, features: str, reasons: DataFrame) -> None:
    ctx.lake.replace("outlier_reasons", reasons.withColumn("features", F.lit(features)), {"features": [features]})


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
    ctx.lake.replace_rows("outlier_methods", rows, {"features": [features]})
