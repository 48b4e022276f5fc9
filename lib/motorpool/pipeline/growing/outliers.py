"""How little appended images fit in: scores against the images that the study was fitted on, whose scores stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.config.run import CONSENSUS, OutlierConfig
from motorpool.lake import Lake
from motorpool.outliers.consensus import WEIGHTS, consensus_of_new, weights_from
from motorpool.outliers.reasons import NEIGHBOURS, explain, explain_consensus, no_facts, usual_scores
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.outliers.resources import Resources
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import Append, appends_of
from motorpool.pipeline.growing.catch_up import lacking
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.outliers import Plan, plan_methods, resources_of
from motorpool.spark import blocks

#: Rows of ``outlier_methods`` by feature set and method.
_Stored = Mapping[tuple[str, str], Mapping[str, Any]]


def unscoring(lake: Lake) -> list[str]:
    """The outlier methods in the lake that score no new images."""
    names = {r["method"] for r in lake.rows("outlier_methods", ["method"])} - {CONSENSUS}
    return sorted(m for m in names if m not in OUTLIER_METHODS or OUTLIER_METHODS[m].score_new is None)


def add_outliers(ctx: Context) -> None:
    """Score appended images by the methods that can (`OutlierMethod.score_new`), and by the consensus of these.

    An image is an outlier where its score reaches the lowest one that the lake flags (``threshold``). Only methods that
    the config asks for as they are in the lake: others come when `motorpool outliers` has run. Feature set by feature
    set, what a method needs of the fitted images is made once for all appends.
    """
    lake, config = ctx.lake, ctx.config.outliers
    if config is None or not appends_of(lake):
        return
    columns = ["features", "method", "params", "threshold"]
    stored = {(r["features"], r["method"]): r for r in lake.rows("outlier_methods", columns)}
    if not stored:
        return
    plan = plan_methods(ctx, config)
    asked: dict[str, list[str]] = defaultdict(list)
    for features, methods in plan.params.items():
        for method, params in methods.items():
            same = (features, method) in stored and dict(stored[features, method]["params"]) == params
            if same and OUTLIER_METHODS[method].score_new is not None:
                asked[features].append(method)
    waiting: dict[str, list[Append]] = defaultdict(list)
    for append, missing in lacking(lake, "outliers", "features", list(asked)):
        for features in missing:
            waiting[features].append(append)
    for features, appends in waiting.items():
        study = resources_of(ctx, config, features, plan, None, lake.fitted)
        try:
            for append in appends:
                with explained(), timed(f"append: {', '.join(asked[features])} on {features} of {append.append_id}"):
                    _score(
                        ctx, config, plan, study, append, features, {m: stored[features, m] for m in asked[features]}
                    )
        finally:
            study.release()
    if asked and (CONSENSUS, CONSENSUS) in stored:
        for append, _ in lacking(lake, "outliers", "features", [CONSENSUS]):
            with explained(), timed(f"append: consensus of outlier methods of {append.append_id}"):
                _agree(ctx, append, asked, stored[CONSENSUS, CONSENSUS])


def _score(
    ctx: Context,
    config: OutlierConfig,
    plan: Plan,
    study: Resources,
    append: Append,
    features: str,
    methods: Mapping[str, Mapping[str, Any]],
) -> None:
    lake = ctx.lake
    new = resources_of(ctx, config, features, plan, None, append.among)
    try:
        if new.vectors.isEmpty():
            return
        frames = []
        for method, row in methods.items():
            score_new = OUTLIER_METHODS[method].score_new
            assert score_new is not None
            scores = score_new(study, new).select(F.lit(method).alias("method"), "image_id", "score")
            frames.append(scores.withColumn("is_outlier", _flagged(row["threshold"])))
        with blocks.kept(reduce(DataFrame.unionByName, frames)) as scored:
            usual = usual_scores(lake.fitted(lake.read("outliers", features=features)))
            images = append.among(lake.read("images"))
            reasons = explain(scored.where("is_outlier"), usual, no_facts(images), images, config.k)
            _write(lake, append, features, scored, reasons, len(methods))
    finally:
        new.release()


def _agree(ctx: Context, append: Append, asked: Mapping[str, list[str]], row: Mapping[str, Any]) -> None:
    """The consensus, of the rankings that both the fitted and the new images have."""
    lake = ctx.lake
    pairs = ctx.spark.createDataFrame([(f, m) for f, ms in asked.items() for m in ms], "features STRING, method STRING")
    single = lake.read("outliers", features=list(asked)).join(F.broadcast(pairs), on=["features", "method"])
    new = append.among(single)
    weights = weights_from(row["params"][WEIGHTS]) if WEIGHTS in row["params"] else None
    scores = consensus_of_new(lake.fitted(single), new, weights)
    flagged = scores.select(F.lit(CONSENSUS).alias("method"), "image_id", "score").withColumn(
        "is_outlier", _flagged(row["threshold"])
    )
    with blocks.kept(flagged) as scored:
        usual = usual_scores(lake.fitted(lake.read("outliers", features=CONSENSUS)))
        images = append.among(lake.read("images"))
        reasons = explain_consensus(scored.where("is_outlier"), new, usual, images)
        _write(lake, append, CONSENSUS, scored, reasons, 1)


def _flagged(threshold: float | None) -> Any:
    return F.coalesce(F.col("score") >= F.lit(threshold).cast("double"), F.lit(False))


def _write(lake: Lake, append: Append, features: str, scored: DataFrame, reasons: DataFrame, n_methods: int) -> None:
    """Reasons first: scores say that both are there."""
    n, keys, named = len(append.images) * n_methods, {"features": [features]}, F.lit(features)
    values = n * (len(reasons.columns) + 1 + NEIGHBOURS)
    lake.replace_images("outlier_reasons", reasons.withColumn("features", named), append.images, keys, values)
    lake.replace_images("outliers", scored.withColumn("features", named), append.images, keys, n * 5)
