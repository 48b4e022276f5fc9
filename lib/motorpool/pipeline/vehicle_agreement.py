"""Vehicle agreement: on which vehicles it is measured, and measuring it again when these change."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.ensemble.agreement import side_by_side
from motorpool.cluster.score import vehicle_agreement
from motorpool.config.run import CONSENSUS
from motorpool.features.holdout import fitted_on
from motorpool.features.spec import FeatureSet, VehiclePart
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.pace import timed
from motorpool.pipeline.study import model_ids
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Models whose labels lie side by side while their agreement is measured again: 256 bytes an image.
_MODELS_AT_ONCE = 64


def measured_images(lake: Lake, feature_sets: Collection[FeatureSet]) -> DataFrame:
    """``image_id, vehicle_id`` of the photos that vehicle agreement is measured on.

    Steps that look at vehicles are fitted on a share of them, whose photos they bring together on purpose. So where
    ``feature_sets``, those of the config, hold one with such steps, agreement is measured on the vehicles that none has
    seen, and for the models of *all* of them, or their figures would not compare. Otherwise on all vehicles.
    """
    images = lake.fitted(lake.read("images")).where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    shares = [features.fit_share for features in feature_sets if features.uses_vehicles]
    # A larger share sees all vehicles of a smaller one.
    return images.where(~fitted_on(F.col("vehicle_id"), max(shares))) if shares else images


def agreement_columns(
    ctx: Context, wide_labels: DataFrame, n_models: int, feature_sets: Collection[FeatureSet]
) -> list[dict[str, object]]:
    """``vehicle_agreement`` and ``agreement_vehicles`` of models for their rows in ``models``.

    ``wide_labels`` as for `vehicle_agreement`; ``feature_sets`` are those that the labels rest on. Nothing is measured,
    and nothing claimed, where one of them gives all photos of a vehicle the same vector: they cannot but agree.
    """
    if any(features.merges_vehicles for features in feature_sets):
        return [{} for _ in range(n_models)]
    found = vehicle_agreement(wide_labels, measured_images(ctx.lake, ctx.config.feature_sets), n_models)
    return [{"vehicle_agreement": value, "agreement_vehicles": found.n_vehicles} for value in found.by_model]


def joint_part(feature_sets: Collection[FeatureSet]) -> VehiclePart:
    """What a model of several feature sets keeps of the vehicles: 'within' as soon as one of them keeps only that."""
    parts = {features.vehicle_part for features in feature_sets}
    return "within" if "within" in parts else "between" if "between" in parts else "whole"


def remeasure(ctx: Context) -> None:
    """Bring the agreement of the study's models to the vehicles that it is measured on now; does nothing where it is.

    Models that the config does not name keep the figure that they have: of vehicles that their features have not seen.
    The vehicles of a larger share hold those of a smaller one, so equal numbers of them mean the same vehicles. One
    shuffle of the labels of 64 models; the models of each such group are replaced at once, so that a run which is
    stopped goes on with the rest.
    """
    columns = ("model_id", "features", "params", "vehicle_agreement", "agreement_vehicles")
    rows = sorted(ctx.lake.rows("models", columns), key=lambda row: str(row["model_id"]))
    asked = model_ids(ctx.config)
    measured = [
        r
        for r in rows
        if (r["vehicle_agreement"] is not None or r["agreement_vehicles"] is not None)
        and (asked is None or asked.issuperset(_made_of(r)))
    ]
    if not measured:
        return
    images = measured_images(ctx.lake, ctx.config.feature_sets)
    n_vehicles = images.groupBy("vehicle_id").count().where("count > 1").count()
    # Labels side by side leave out images that one of the models lacks, so only models of the same images are.
    stale: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in measured:
        if row["agreement_vehicles"] != n_vehicles:
            stale[row["features"], _source(row)].append(row["model_id"])
    for (features, _), ids in stale.items():
        with timed(
            f"vehicle agreement of {counted(len(ids), 'model')} of {features}, now on {counted(n_vehicles, 'vehicle')}"
        ):
            for at in range(0, len(ids), _MODELS_AT_ONCE):
                _remeasure(ctx, images, ids[at : at + _MODELS_AT_ONCE], n_vehicles)


def _source(row: Mapping[str, Any]) -> str:
    """What tells which images a model has labels for: its feature set, or the members of a consensus."""
    return str(row["params"].get("members", row["features"]))


def _made_of(row: Mapping[str, Any]) -> list[str]:
    """The grids' models behind a model: the members of a consensus, and of any other itself."""
    return json.loads(_source(row)) if row["features"] == CONSENSUS else [row["model_id"]]


def _remeasure(ctx: Context, images: DataFrame, ids: list[str], n_vehicles: int) -> None:
    labels = side_by_side(ctx.lake.fitted(ctx.lake.read("labels", model_id=ids)), ids)
    found = vehicle_agreement(labels, images, len(ids))
    by_model = dict(zip(ids, found.by_model, strict=True))
    rows = [
        row | {"vehicle_agreement": by_model[row["model_id"]], "agreement_vehicles": n_vehicles}
        for row in ctx.lake.rows("models", model_id=ids)
    ]
    ctx.lake.replace_rows("models", rows, {"model_id": ids})
