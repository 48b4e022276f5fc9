"""Drift: how far appended images differ from those that models were fitted on, and when a new fit is due."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.far import far_limits, is_far
from motorpool.cluster.registry import ALGORITHMS
from motorpool.lake import Lake
from motorpool.percentages import percent
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import appends_of, number_of
from motorpool.pipeline.growing.catch_up import labelling_models
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Stands for all appends together.
ALL = "all"
#: A shift of the clusters' shares that the literature calls large (Siddiqi, Credit risk scorecards, 2006).
LARGE_PSI = 0.25
#: More far images than the fitted ones have, by this share of all, ask for a new fit.
MORE_FAR = 0.05
#: How rarely chance alone asks for a new fit.
CHANCE = 0.001
#: Added to every count of a cell, so that an empty one has a share.
_HALF = 0.5


def add_drift(ctx: Context) -> None:
    """Write ``drift``: for each model that labels new images, each append and all of them together.

    Only where rows are missing, or older than their model. One pass over the labels of these models, those of fitted
    images among them, and another one for the distances. The driver gets a row for each model and append.
    """
    lake = ctx.lake
    models, _ = labelling_models(lake)
    appends = appends_of(lake)
    made = {r["model_id"]: r["created_at"] for r in lake.rows("models", ["model_id", "created_at"])}
    rows = lake.rows("drift", ["append_id", "model_id", "created_at"])
    there = {
        (r["append_id"], r["model_id"]) for r in rows if r["created_at"] >= made.get(r["model_id"], r["created_at"])
    }
    asked = {a.append_id: [m for m in models if (a.append_id, m) not in there] for a in appends}
    ids = sorted({m for missing in asked.values() for m in missing})
    if not ids:
        return
    wanted = [name for name, missing in asked.items() if missing]
    with explained(), timed(f"append: drift of {counted(len(ids), 'model')}"):
        telling = [m for m in ids if ALGORITHMS[models[m].algorithm].tells_far]
        found = _measured(lake, ids, telling, wanted)
        if all((r["append_id"], r["model_id"]) in there for r in found if r["append_id"] != ALL):
            # What is missing has no labels: a model's feature set may leave out all images of an append.
            return
        kept = [r for r in lake.rows("drift") if r["model_id"] not in ids or r["append_id"] not in (*wanted, ALL)]
        lake.overwrite_rows("drift", [*kept, *(drift_row(r) for r in found)])


def _measured(lake: Lake, ids: Sequence[str], telling: Collection[str], wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Per model and append: images, far ones, those of the fitted images, cells and the index, by name.

    ``telling`` are the models whose distances say which images are far.
    """
    appends = appends_of(lake)
    labels = lake.read("labels", model_id=list(ids)).select("model_id", "image_id", "cluster", "distance")
    fitted, first = lake.fitted(labels), appends[0].images.start
    with blocks.kept(far_limits(fitted.where(F.col("model_id").isin(list(telling))))) as limits:
        far = F.coalesce(is_far(), F.lit(False))

        def counted(rows: DataFrame, keys: Sequence[str], suffix: str) -> DataFrame:
            beside = rows.join(F.broadcast(limits), on="model_id", how="left")
            return beside.groupBy(*keys, "cluster").agg(
                F.count("*").alias(f"n{suffix}"), F.count_if(far).alias(f"far{suffix}")
            )

        before = counted(fitted, ["model_id"], "_before")
        names = F.explode(F.array(number_of(appends), F.lit(ALL)))
        new = labels.where(F.col("image_id") >= first).withColumn("append_id", names)
        after = counted(new.where(F.col("append_id").isin([*wanted, ALL])), ["model_id", "append_id"], "_after")
        with blocks.kept(after) as after:
            pairs = after.select("model_id", "append_id").distinct()
            keys = ["model_id", "append_id", "cluster"]
            cells = pairs.join(before, on="model_id", how="inner").join(after, on=keys, how="full")
            counts = ("n_before", "far_before", "n_after", "far_after")
            cells = cells.select(*keys, *(F.coalesce(c, F.lit(0)).alias(c) for c in counts))
            totals = cells.groupBy("model_id", "append_id").agg(
                F.count("*").alias("cells"), *(F.sum(c).alias(f"all_{c}") for c in counts)
            )
            beside = cells.join(F.broadcast(totals), on=["model_id", "append_id"], how="inner")
            old, now = _share("before"), _share("after")
            index = beside.groupBy("model_id", "append_id").agg(F.sum((now - old) * F.log(now / old)).alias("psi"))
            rows = totals.join(index, on=["model_id", "append_id"]).join(limits, on="model_id", how="left").collect()
    return sorted((r.asDict() for r in rows), key=lambda r: (r["append_id"], r["model_id"]))


def _share(when: str) -> Any:
    return (F.col(f"n_{when}") + _HALF) / (F.col(f"all_n_{when}") + _HALF * F.col("cells"))


def drift_row(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``drift``, from what was counted of a model and an append.

    ``found`` has the images (``all_n``) and the far ones (``all_far``) of before and after, the ``cells`` (clusters
    with images, noise among them), ``psi`` and ``far_from``.
    """
    # Importing it takes a while, and few commands need it.
    from scipy.stats import binom, chi2

    n, n_before, n_far = (int(found[c]) for c in ("all_n_after", "all_n_before", "all_far_after"))
    usual, cells = int(found["all_far_before"]) / n_before, int(found["cells"])
    # Under one population the index is chi-squared with cells - 1 degrees of freedom times (1/n + 1/m) (Yurdakul and
    # Naranjo, Statistical properties of the population stability index, 2020).
    by_chance = float(chi2.ppf(1 - CHANCE, cells - 1)) * (1 / n + 1 / n_before) if cells > 1 else 0.0
    reasons = []
    if found["psi"] > max(LARGE_PSI, by_chance):
        reasons.append(f"the clusters' shares have shifted (population stability index {found['psi']:.2f})")
    if n_far / n > usual + MORE_FAR and float(binom.sf(n_far - 1, n, usual)) < CHANCE:
        reasons.append(
            f"{percent(n_far / n)} of the images are far from every cluster, where {percent(usual)} are usual"
        )
    return {
        "append_id": found["append_id"],
        "model_id": found["model_id"],
        "n_images": n,
        "n_far": n_far,
        "share_far": n_far / n,
        "usual_far": usual,
        "far_from": found["far_from"],
        "psi": float(found["psi"]),
        "psi_by_chance": by_chance,
        "refit_due": bool(reasons),
        "reason": " and ".join(reasons) or None,
    }
