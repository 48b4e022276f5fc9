"""Outliers: how little every image fits in, by several methods on every feature set, what they agree on, and why."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.config.run import CONSENSUS, VEHICLE_METHODS, OutlierConfig
from motorpool.errors import LakeError
from motorpool.features.spec import FeatureSet
from motorpool.features.vehicle_steps import Vehicles
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.outliers.consensus import consensus, fill_unknown, flag
from motorpool.outliers.forest import isolation_forest
from motorpool.outliers.local import knn_distance, local_outlier_factor, nearest
from motorpool.outliers.odd_one_out import most_typical, odd_one_out
from motorpool.outliers.reasons import NEIGHBOURS, explain, explain_consensus, facts, no_facts, usual_scores
from motorpool.outliers.reconstruction import pca_error, reconstructs
from motorpool.outliers.stray_groups import stray_groups
from motorpool.pipeline.context import Context, explained, timed
from motorpool.pipeline.stages.features import known_vehicles, load_program, wide_descriptors
from motorpool.pipeline.study import fingerprint, forget, model_ids, outdate
from motorpool.spark import blocks

log = logging.getLogger(__name__)

#: Methods that read what clustering has found, and the algorithm whose labels they need.
_FROM_LABELS = {"dbscan_noise": "dbscan", "glosh": "hdbscan", "mixture_density": "gaussian_mixture"}
#: Methods that read the nearest neighbours of all images alone, and one that knows vehicles as well.
_OF_NEIGHBOURS: dict[str, Callable[[Arranged, DataFrame, int], DataFrame]] = {
    "knn_distance": knn_distance,
    "lof": local_outlier_factor,
}
_FROM_NEIGHBOURS = (*_OF_NEIGHBOURS, "stray_groups")


#: The parameters of every method, by its name; of every feature set, by its.
_Params = dict[str, str]
_Methods = dict[str, _Params]
#: The tables of this stage: what says that the others are complete comes last.
_TABLES = ("outliers", "outlier_reasons", "outlier_methods")


def run_outliers(ctx: Context) -> None:
    """Score every image by every method on every feature set, then by their consensus.

    What a feature set lacks for a method (a projection, models whose labels it reads) is said and left out. Images that
    are flagged get a row in ``outlier_reasons``. The row in ``outlier_methods`` is written last, so a method without it
    is run again, as is one whose ``params`` are others: they hold all that its scores depend on, the models it reads
    among them. Models are the study's (`study`). What the config no longer asks for goes out of all tables.

    Methods that compare the photos of a vehicle are left out, with a warning, where no vehicle of the lake has two.
    """
    config = ctx.config.outliers
    held = _held(ctx)
    if config is None:
        log.info("outliers: the config has no section `outliers`, nothing to do")
        _forget_all(ctx, held)
        return
    config, vehicles = _with_vehicles(ctx, config)
    plan = _plan(ctx, config)
    wanted = plan.params
    if not wanted:
        log.info("outliers: no method can be run on any feature set, nothing to do")
        _forget_all(ctx, held)
        return
    agreed = {CONSENSUS: {"share": str(config.share), "rankings": fingerprint(wanted)}}
    if held == wanted | {CONSENSUS: agreed}:
        log.info("outliers: all methods of the study are in the lake, nothing to do")
        return
    gone = (set(held) | _partitions(ctx)) - set(wanted) - {CONSENSUS}
    outdated = [features for features, methods in held.items() if methods != wanted.get(features)]
    if outdated:
        outdate(ctx, "outlier_methods", {"features": outdated})
    for features, methods in wanted.items():
        have = held.get(features, {})
        if any(have.get(method) != params for method, params in methods.items()):
            with explained(), timed(f"outliers: {', '.join(methods)} on {features}"):
                _run_methods(ctx, config, features, plan, vehicles)
        elif have != methods:
            _keep(ctx, features, methods)
    with timed("outliers: consensus"):
        _run_consensus(ctx, config, list(wanted), agreed, gone)


def _with_vehicles(ctx: Context, config: OutlierConfig) -> tuple[OutlierConfig, Vehicles | None]:
    """The section without the methods that the lake's vehicles do not allow, and the vehicles where one needs them."""
    asking = [m for m in config.methods if m in VEHICLE_METHODS]
    if not asking:
        return config, None
    try:
        return config, known_vehicles(ctx.lake, f"outliers.methods: {asking[0]}")
    except LakeError as exc:
        # Hours of clustering may lie behind this stage, and the other methods need no vehicles.
        log.warning("outliers: %s left out: %s", " and ".join(asking), exc)
    return config.model_copy(update={"methods": [m for m in config.methods if m not in VEHICLE_METHODS]}), None


def _held(ctx: Context) -> dict[str, _Methods]:
    """The methods in the lake, of every feature set and of the consensus."""
    found: dict[str, _Methods] = defaultdict(dict)
    # Scores from before reasons were written are made again.
    if ctx.lake.exists("outlier_methods") and ctx.lake.exists("outlier_reasons"):
        for row in ctx.lake.read("outlier_methods").collect():
            found[row["features"]][row["method"]] = row["params"]
    return dict(found)


def _partitions(ctx: Context) -> set[str]:
    """The feature sets with scores, those of a killed run among them."""
    if not ctx.lake.exists("outliers"):
        return set()
    return {r["features"] for r in ctx.lake.read("outliers").select("features").distinct().collect()}


def _forget_all(ctx: Context, held: Collection[str]) -> None:
    if held:
        outdate(ctx, "outlier_methods", {"features": held})
        for table in _TABLES:
            forget(ctx, table)


def _keep(ctx: Context, features: str, methods: _Methods) -> None:
    """Take the other methods of a feature set out of the tables."""
    log.info("outliers: %s keeps %s", features, ", ".join(methods))
    for table in ("outliers", "outlier_reasons"):
        ctx.lake.replace(table, ctx.lake.read(table, features=features, method=list(methods)), {"features": [features]})
    kept = ctx.lake.read("outlier_methods", features=features, method=list(methods)).drop("created_at").collect()
    rows = [row.asDict() | {"params": methods[row["method"]]} for row in kept]
    ctx.lake.replace_rows("outlier_methods", rows, {"features": [features]})


# -- what is asked for ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The methods that every feature set has what it takes for, and the models that they read, by (features, method).

    Feature sets without any method are left out.
    """

    params: dict[str, _Methods]
    models: dict[tuple[str, str], list[str]]


def _plan(ctx: Context, config: OutlierConfig) -> _Plan:
    rows = ctx.lake.read_or_empty("feature_sets").select("features", "n_images").collect()
    sizes = {r["features"]: int(r["n_images"]) for r in rows}
    models = _models_to_read(ctx, config, sizes)
    params: dict[str, _Methods] = {}
    for features in ctx.config.feature_sets:
        if config.features is None or features.name in config.features:
            methods = _possible(ctx, features, config, models, alone=sizes.get(features.name) == 1)
            if methods:
                params[features.name] = {
                    m: _params(config, ctx.config.seed, m, models.get((features.name, m))) for m in methods
                }
    return _Plan(params, models)


def _params(config: OutlierConfig, seed: int, method: str, models: Sequence[str] | None) -> _Params:
    """What a method's scores depend on: other values mean other scores."""
    params = {"share": str(config.share)}
    if method in _FROM_NEIGHBOURS:
        params["k"] = str(config.k)
    if method in ("isolation_forest", *_FROM_NEIGHBOURS):
        params["seed"] = str(seed)
    if models is not None:
        params |= {"n_models": str(len(models)), "models": fingerprint(models)}
    return params


def _models_to_read(ctx: Context, config: OutlierConfig, sizes: Mapping[str, int]) -> dict[tuple[str, str], list[str]]:
    """The ids, in order, of the study's models that each method reads on each feature set; only where there are some.

    dbscan_noise: the DBSCAN models that leave at most cluster.max_noise_share of all images as noise, which may be
    none of those there are; glosh: the HDBSCAN models; mixture_density: the mixture of the lowest BIC.
    """
    asked = [m for m in config.methods if m in _FROM_LABELS]
    if not asked or not ctx.lake.exists("models"):
        return {}
    columns = ("model_id", "features", "algorithm", "n_noise", "bic")
    rows = ctx.lake.read("models").where(F.col("n_clusters") > 0).select(*columns).orderBy("model_id").collect()
    ids = model_ids(ctx.config)
    found: dict[tuple[str, str], list[str]] = {}
    for method in asked:
        by_features = defaultdict(list)
        for row in rows:
            if (ids is None or row["model_id"] in ids) and row["algorithm"] == _FROM_LABELS[method]:
                by_features[row["features"]].append(row)
        for features, models in by_features.items():
            if method == "dbscan_noise":
                most = ctx.config.cluster.max_noise_share * sizes[features]
                models = [r for r in models if r["n_noise"] <= most]
            elif method == "mixture_density":
                models = sorted(models, key=lambda r: r["bic"])[:1]
            found[features, method] = [r["model_id"] for r in models]
    return found


def _possible(
    ctx: Context, feature_set: FeatureSet, config: OutlierConfig, models: Collection[tuple[str, str]], *, alone: bool
) -> list[str]:
    """The methods that a feature set can be scored by; ``alone``: it has a single image."""
    features = feature_set.name
    possible: list[str] = []
    for method in config.methods:
        needs = _FROM_LABELS.get(method)
        if alone and method in _FROM_NEIGHBOURS:
            log.info("outliers: %s on %s is left out: a single image has no neighbours", method, features)
        elif needs and (features, method) not in models:
            log.info("outliers: %s on %s is left out: the study has no %s model of it", method, features, needs)
        elif method == "pca_error" and not reconstructs(load_program(ctx.lake, features)):
            log.info("outliers: pca_error on %s is left out: no pca or svd step comes first", features)
        elif method in VEHICLE_METHODS and feature_set.merges_vehicles:
            log.info("outliers: %s on %s is left out: all photos of a vehicle are one vector", method, features)
        else:
            possible.append(method)
    return possible


# -- scores --------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """Scores of a feature set's methods and the facts behind them, as long as `release` is not called."""

    scores: dict[str, DataFrame] = field(default_factory=dict)
    facts: list[DataFrame] = field(default_factory=list)
    held: list[Callable[[], object]] = field(default_factory=list)

    def release(self) -> None:
        for drop in self.held:
            drop()


def _run_methods(ctx: Context, config: OutlierConfig, features: str, plan: _Plan, vehicles: Vehicles | None) -> None:
    """All methods of one feature set, written together: scores, then reasons, then what says that they are there."""
    began = time.monotonic()
    methods = list(plan.params[features])
    found = _Found()
    try:
        _look_at_vectors(ctx, config, features, methods, vehicles, found)
        if "pca_error" in methods:
            program = load_program(ctx.lake, features)
            found.scores["pca_error"] = pca_error(wide_descriptors(ctx.lake, program.descriptors), program)
        for method in methods:
            if method in _FROM_LABELS:
                found.scores[method] = _from_labels(ctx, features, method, plan.models[features, method])
        frames = [found.scores[m].select(F.lit(m).alias("method"), "image_id", "score") for m in methods]
        flagged = flag(reduce(DataFrame.unionByName, frames), config.share)
        if set(VEHICLE_METHODS) & set(methods):
            flagged = fill_unknown(flagged)
        ctx.lake.replace("outliers", flagged.withColumn("features", F.lit(features)), {"features": [features]})
        written, images = ctx.lake.read("outliers", features=features), ctx.lake.read("images")
        known = reduce(DataFrame.unionByName, found.facts, no_facts(images))
        reasons = explain(written.where("is_outlier"), usual_scores(written), known, images, config.k)
        _write_reasons(ctx, features, reasons, [features])
    finally:
        found.release()
    _write_methods(ctx, features, plan.params[features], (time.monotonic() - began) / len(methods), [features])


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


def _from_labels(ctx: Context, features: str, method: str, ids: Sequence[str]) -> DataFrame:
    """Scores out of the ``labels`` of some models: ``image_id, score``.

    dbscan_noise: the share of them that leave the image as noise; glosh: the mean of their outlier scores;
    mixture_density: minus the log density.
    """
    if method == "dbscan_noise":
        score = F.avg((F.col("cluster") < 0).cast("double"))
    elif method == "glosh":
        score = F.avg("outlier_score").cast("double")
    else:
        score = F.max("outlier_score").cast("double")
    images = ctx.lake.read("features", features=features).select("image_id")
    # No model to go by: no image stands out.
    found = ctx.lake.read("labels", model_id=ids or ["none"]).groupBy("image_id").agg(score.alias("score"))
    return images.join(found, "image_id", "left").select("image_id", F.coalesce("score", F.lit(0.0)).alias("score"))


def _run_consensus(
    ctx: Context, config: OutlierConfig, asked: Sequence[str], params: _Methods, gone: Collection[str]
) -> None:
    """What the rankings of the feature sets ``asked`` agree on; feature sets that are ``gone`` go out of the tables."""
    began = time.monotonic()
    replaced = [CONSENSUS, *sorted(gone)]
    single = ctx.lake.read("outliers", features=asked)
    agreed = flag(consensus(single), config.share)
    rows = agreed.select(F.lit(CONSENSUS).alias("features"), F.lit(CONSENSUS).alias("method"), *agreed.columns)
    ctx.lake.replace("outliers", rows, {"features": replaced})
    written = ctx.lake.read("outliers", features=CONSENSUS)
    images = ctx.lake.read("images")
    reasons = explain_consensus(written.where("is_outlier"), single, usual_scores(written), images)
    _write_reasons(ctx, CONSENSUS, reasons, replaced)
    _write_methods(ctx, CONSENSUS, params, time.monotonic() - began, replaced)


def _write_reasons(ctx: Context, features: str, reasons: DataFrame, replaced: Sequence[str]) -> None:
    ctx.lake.replace("outlier_reasons", reasons.withColumn("features", F.lit(features)), {"features": replaced})


def _write_methods(ctx: Context, features: str, params: _Methods, seconds: float, replaced: Sequence[str]) -> None:
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
            "params": params[r["method"]],
            "n_outliers": r["n_outliers"],
            "threshold": r["threshold"],
            "seconds": seconds,
        }
        for r in found
    ]
    ctx.lake.replace_rows("outlier_methods", rows, {"features": replaced})
