"""Outliers: how little every image fits in, by several methods on every feature set, what they agree on, and why."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.config.run import CONSENSUS, OutlierConfig
from motorpool.errors import LakeError
from motorpool.features.spec import FeatureSet
from motorpool.features.vehicle_steps import Vehicles
from motorpool.outliers.consensus import LEAST_OUTLIERS, WEIGHTS, Weighted, consensus, fill_unknown, flag, weights_text
from motorpool.outliers.method import ModelRow
from motorpool.outliers.reasons import NEIGHBOURS, explain, explain_consensus, facts, no_facts, usual_scores
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.outliers.resources import Resources
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import Counted, timed
from motorpool.pipeline.stages.features import gathered, known_vehicles, load_program, wide_descriptors
from motorpool.pipeline.study import fingerprint, forget, log_not_asked, model_ids, outdate

log = logging.getLogger(__name__)

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
    Where there are some, the consensus weighs all rankings by how far they agree with these.
    """
    config = ctx.config.outliers
    stored = _stored(ctx)
    if config is None:
        log_not_asked("outliers", "the config has no section `outliers`", stored)
        _forget_all(ctx, stored)
        return
    config, vehicles = _with_vehicles(ctx, config)
    plan = plan_methods(ctx, config)
    wanted = plan.params
    if not wanted:
        log_not_asked("outliers", "no method can be run on any feature set", stored)
        _forget_all(ctx, stored)
        return
    agreed = {"share": str(config.share), "rankings": fingerprint(wanted)}
    leading = _leading(wanted)
    if leading:
        agreed["leading"] = ", ".join(leading)
    if _without_weights(stored) == wanted | {CONSENSUS: {CONSENSUS: agreed}}:
        log.info("outliers: all methods of the study are in the lake, nothing to do")
        return
    gone = (set(stored) | _partitions(ctx)) - set(wanted) - {CONSENSUS}
    outdated = [features for features, methods in stored.items() if methods != wanted.get(features)]
    if outdated:
        outdate(ctx, "outlier_methods", {"features": outdated})
    sets_done = Counted(ctx.pace, len(wanted), "feature set")
    for features, methods in wanted.items():
        have = stored.get(features, {})
        if any(have.get(method) != params for method, params in methods.items()):
            with explained(), timed(f"outliers: {', '.join(methods)} on {features}"):
                _run_methods(ctx, config, features, plan, vehicles)
        elif have != methods:
            _keep(ctx, features, methods)
        sets_done.add()
    with timed("outliers: consensus"):
        _run_consensus(ctx, config, list(wanted), vehicles if leading else None, agreed, gone)


def _with_vehicles(ctx: Context, config: OutlierConfig) -> tuple[OutlierConfig, Vehicles | None]:
    """The section without the methods that the lake's vehicles do not allow, and the vehicles where one needs them."""
    asking = [m for m in config.methods if "vehicles" in OUTLIER_METHODS[m].needs]
    if not asking:
        return config, None
    try:
        return config, known_vehicles(ctx.lake, f"outliers.methods: {asking[0]}")
    except LakeError as exc:
        # Hours of clustering may lie behind this stage, and the other methods need no vehicles.
        log.warning("outliers: %s left out: %s", " and ".join(asking), exc)
    return config.model_copy(update={"methods": [m for m in config.methods if m not in asking]}), None


def _stored(ctx: Context) -> dict[str, _Methods]:
    """The methods in the lake, of every feature set and of the consensus."""
    found: dict[str, _Methods] = defaultdict(dict)
    # Scores from before reasons were written are made again.
    if ctx.lake.exists("outlier_reasons"):
        for row in ctx.lake.rows("outlier_methods", ["features", "method", "params"]):
            found[row["features"]][row["method"]] = row["params"]
    return dict(found)


def _leading(wanted: Mapping[str, _Methods]) -> list[str]:
    """The methods that know the vehicles, of those that score some feature set."""
    asked = {method for methods in wanted.values() for method in methods}
    return [name for name, method in OUTLIER_METHODS.items() if name in asked and "vehicles" in method.needs]


def _without_weights(held: Mapping[str, _Methods]) -> dict[str, _Methods]:
    """The methods in the lake by what their scores depend on: the weights of the consensus follow from the rest."""
    kept = {m: {k: v for k, v in params.items() if k != WEIGHTS} for m, params in held.get(CONSENSUS, {}).items()}
    return dict(held) | ({CONSENSUS: kept} if kept else {})


def _partitions(ctx: Context) -> set[str]:
    """The feature sets with scores, those of a killed run among them."""
    if not ctx.lake.exists("outliers"):
        return set()
    return {r["features"] for r in ctx.lake.read("outliers").select("features").distinct().collect()}


def _forget_all(ctx: Context, stored: Collection[str]) -> None:
    if stored:
        outdate(ctx, "outlier_methods", {"features": stored})
        for table in _TABLES:
            forget(ctx, table)


def _keep(ctx: Context, features: str, methods: _Methods) -> None:
    """Take the other methods of a feature set out of the tables."""
    log.info("outliers: %s keeps %s", features, ", ".join(methods))
    for table in ("outliers", "outlier_reasons"):
        left = ctx.lake.read(table, features=features, method=list(methods))
        ctx.lake.replace(
            table, left, {"features": [features]}, ctx.values((len(left.columns) + NEIGHBOURS) * len(methods))
        )
    columns = ctx.lake.schema("outlier_methods", without=["created_at"]).names
    kept = ctx.lake.rows("outlier_methods", columns, features=[features], method=list(methods))
    rows = [row | {"params": methods[row["method"]]} for row in kept]
    ctx.lake.replace_rows("outlier_methods", rows, {"features": [features]})


# -- what is asked for ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The methods that every feature set has what it takes for, and the models that they read, by (features, method).

    Feature sets without any method are left out.
    """

    params: dict[str, _Methods]
    models: dict[tuple[str, str], list[str]]


def plan_methods(ctx: Context, config: OutlierConfig) -> Plan:
    sizes = {r["features"]: int(r["n_images"]) for r in ctx.lake.rows("feature_sets", ["features", "n_images"])}
    models = _models_to_read(ctx, config, sizes)
    params: dict[str, _Methods] = {}
    for features in ctx.config.feature_sets:
        if config.features is None or features.name in config.features:
            methods = _possible(ctx, features, config, models, alone=sizes.get(features.name) == 1)
            if methods:
                params[features.name] = {
                    m: _params(config, ctx.config.seed, m, models.get((features.name, m))) for m in methods
                }
    return Plan(params, models)


def _params(config: OutlierConfig, seed: int, method: str, models: Sequence[str] | None) -> _Params:
    """What a method's scores depend on: other values mean other scores."""
    settings = {key: str(seed if key == "seed" else getattr(config, key)) for key in OUTLIER_METHODS[method].settings}
    params = {"share": str(config.share)} | settings
    if models is not None:
        params |= {"n_models": str(len(models)), "models": fingerprint(models)}
    return params


def _models_to_read(ctx: Context, config: OutlierConfig, sizes: Mapping[str, int]) -> dict[tuple[str, str], list[str]]:
    """The ids of the study's models that each method reads on each feature set; only where there are some."""
    asked = {m: labels for m in config.methods if (labels := OUTLIER_METHODS[m].labels)}
    if not asked:
        return {}
    fitted = ctx.lake.rows("models", ["model_id", "features", "algorithm", "n_clusters", "n_noise", "bic"])
    rows = sorted((row for row in fitted if row["n_clusters"]), key=lambda row: str(row["model_id"]))
    ids = model_ids(ctx.config)
    found: dict[tuple[str, str], list[str]] = {}
    for method, labels in asked.items():
        by_features = defaultdict(list)
        for row in rows:
            if (ids is None or row["model_id"] in ids) and row["algorithm"] == labels.algorithm:
                by_features[row["features"]].append(ModelRow(row["model_id"], row["n_noise"], row["bic"]))
        for features, models in by_features.items():
            most = ctx.config.cluster.max_noise_share * sizes.get(features, 0)
            found[features, method] = [model.model_id for model in labels.choose(models, most)]
    return found


def _possible(
    ctx: Context, feature_set: FeatureSet, config: OutlierConfig, models: Collection[tuple[str, str]], *, alone: bool
) -> list[str]:
    """The methods that a feature set can be scored by; ``alone``: it has a single image."""
    features = feature_set.name
    possible: list[str] = []
    for name in config.methods:
        method = OUTLIER_METHODS[name]
        refusal = None
        if alone and "neighbours" in method.needs:
            refusal = "a single image has no neighbours"
        elif method.labels and (features, name) not in models:
            refusal = f"the study has no {method.labels.algorithm} model of it"
        elif "vehicles" in method.needs and feature_set.merges_vehicles:
            refusal = "all photos of a vehicle are one vector"
        elif method.refusal:
            refusal = method.refusal(load_program(ctx.lake, features))
        if refusal is None:
            possible.append(name)
        else:
            log.info("outliers: %s on %s is left out: %s", name, features, refusal)
    return possible


# -- scores --------------------------------------------------------------------------------------------


def _run_methods(ctx: Context, config: OutlierConfig, features: str, plan: Plan, vehicles: Vehicles | None) -> None:
    """All methods of one feature set, written together: scores, then reasons, then what says that they are there."""
    began = time.monotonic()
    methods = [OUTLIER_METHODS[name] for name in plan.params[features]]
    images = ctx.lake.read("images")
    with ExitStack() as stack:
        resources = resources_of(ctx, config, features, plan, vehicles, ctx.lake.fitted)
        stack.callback(resources.release)
        resources.gathered = stack.enter_context(gathered(ctx, features))
        scored = {method.name: method.score(resources) for method in methods}
        frames = [s.scores.select(F.lit(m).alias("method"), "image_id", "score") for m, s in scored.items()]
        flagged = flag(reduce(DataFrame.unionByName, frames), config.share)
        if any(method.may_lack for method in methods):
            flagged = fill_unknown(flagged)
        rows = flagged.withColumn("features", F.lit(features))
        ctx.lake.replace("outliers", rows, {"features": [features]}, ctx.values(len(rows.columns) * len(methods)))
        written = ctx.lake.read("outliers", features=features)
        known = [facts(s.facts, m) for m, s in scored.items() if s.facts is not None]
        known_facts = reduce(DataFrame.unionByName, known, no_facts(images))
        reasons = explain(written.where("is_outlier"), usual_scores(written), known_facts, images, config.k)
        _write_reasons(ctx, features, reasons, len(methods), [features])
    _write_methods(ctx, features, plan.params[features], (time.monotonic() - began) / len(methods), [features])


def resources_of(
    ctx: Context,
    config: OutlierConfig,
    features: str,
    plan: Plan,
    vehicles: Vehicles | None,
    among: Callable[[DataFrame], DataFrame],
) -> Resources:
    """What methods score a feature set by; ``among`` gives those of some rows whose images are to be scored."""
    return Resources(
        vectors=among(ctx.lake.read("features", features=features)),
        k=config.k,
        seed=ctx.config.seed,
        backend=ctx.backend,
        models={method: ids for (name, method), ids in plan.models.items() if name == features},
        known_vehicles=vehicles,
        read_labels=lambda ids: among(ctx.lake.read_or_empty("labels", model_id=list(ids) or ["none"])),
        read_descriptors=lambda program: wide_descriptors(ctx.lake, program.descriptors, among, program.group_columns),
        read_program=lambda: load_program(ctx.lake, features),
        say=lambda text: log.debug("outliers: %s: %s", features, text),
    )


def _run_consensus(
    ctx: Context,
    config: OutlierConfig,
    asked: Sequence[str],
    vehicles: Vehicles | None,
    params: _Params,
    gone: Collection[str],
) -> None:
    """What the rankings of the feature sets ``asked`` agree on; feature sets that are ``gone`` go out of the tables.

    ``vehicles`` is None where no ranking knows them.
    """
    began = time.monotonic()
    replaced = [CONSENSUS, *sorted(gone)]
    single = ctx.lake.fitted(ctx.lake.read("outliers", features=asked))
    weighted = None if vehicles is None else _weighted(config, single, vehicles, params["leading"].split(", "))
    try:
        agreed = flag(weighted.df if weighted else consensus(single), config.share)
        rows = agreed.select(F.lit(CONSENSUS).alias("features"), F.lit(CONSENSUS).alias("method"), *agreed.columns)
        ctx.lake.replace("outliers", rows, {"features": replaced}, ctx.values(len(rows.columns)))
    finally:
        if weighted:
            weighted.release()
    if weighted:
        params = params | {WEIGHTS: weights_text(weighted.weights)}
    written = ctx.lake.read("outliers", features=CONSENSUS)
    images = ctx.lake.read("images")
    reasons = explain_consensus(written.where("is_outlier"), single, usual_scores(written), images)
    _write_reasons(ctx, CONSENSUS, reasons, 1, replaced)
    _write_methods(ctx, CONSENSUS, {CONSENSUS: params}, time.monotonic() - began, replaced)


def _weighted(config: OutlierConfig, single: DataFrame, vehicles: Vehicles, leading: Sequence[str]) -> Weighted | None:
    """The consensus by the vehicles; None, with a warning, where they say too little."""
    weighted = Weighted.of(single, leading, vehicles.photos_of_repeated(), config.share)
    names = " and ".join(leading)
    if weighted is None:
        log.warning(
            "outliers: all methods count equally in the consensus: %s flag fewer than %d photos, "
            "too few to measure the other methods by (outliers.share = %g)",
            names, LEAST_OUTLIERS, config.share,
        )  # fmt: skip
    else:
        ordered = sorted(weighted.weights.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{method} on {features} {weight:.2f}" for (features, method), weight in ordered)
        log.info("outliers: %s lead the consensus; each ranking's weight: %s", names, shown)
    return weighted


def _write_reasons(ctx: Context, features: str, reasons: DataFrame, n_methods: int, replaced: Sequence[str]) -> None:
    rows = reasons.withColumn("features", F.lit(features))
    values = ctx.values((len(rows.columns) + NEIGHBOURS) * n_methods)
    ctx.lake.replace("outlier_reasons", rows, {"features": replaced}, values)


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
