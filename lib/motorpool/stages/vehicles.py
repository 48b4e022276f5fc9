"""Vehicles: in the best models of every feature set, each vehicle's label and the photos that dissent: ``vehicles``."""

from __future__ import annotations

import logging
from collections import defaultdict

from pyspark.sql import functions as F

from motorpool.cluster.votes import vote
from motorpool.stages.context import Context, explained, timed

log = logging.getLogger(__name__)


def run_vehicles(ctx: Context) -> None:
    """Let the photos of every vehicle vote for its label, in the best models of each feature set.

    Models are those of the leaderboard up to ``vehicles.models_per_features`` in each feature set, the consensus being
    one; with 'all' every one of it. Models of what differs within vehicles are left out: their clusters are views, of
    which a vehicle has several. Nothing is done where no image has a vehicle.

    The models of a feature set are written at once, and a model that is in ``vehicles`` is complete, so a run that is
    stopped goes on with the rest. Those of former leaderboards stay as they are.
    """
    most = ctx.config.vehicles.models_per_features
    if most == 0:
        log.info("vehicles: vehicles.models_per_features is 0, nothing to do")
        return
    ctx.lake.read("models")
    vehicles = ctx.lake.read("images").where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    if vehicles.isEmpty():
        log.info("vehicles: no image of the lake has a vehicle, nothing to do")
        return
    missing = _missing(ctx, most)
    if not missing:
        log.info("vehicles: all models of the study are in the lake, nothing to do")
    for features, ids in missing.items():
        with explained(), timed(f"vehicles: votes in {len(ids)} models of {features}"):
            votes = vote(ctx.lake.read("labels", model_id=ids), vehicles)
            ctx.lake.replace("vehicles", votes, {"model_id": ids})


def _missing(ctx: Context, most: int | str) -> dict[str, list[str]]:
    """The ids of the models that ``vehicles`` lacks, by feature set."""
    of_views = F.col("vehicle_part").eqNullSafe("within")
    board = ctx.lake.leaderboard().where(~of_views)
    if most != "all":
        board = board.where(F.col("rank_in_features") <= F.lit(most))
    held = ctx.lake.read_or_empty("vehicles").select("model_id").distinct()
    found: dict[str, list[str]] = defaultdict(list)
    for row in board.join(held, on="model_id", how="left_anti").orderBy("rank").collect():
        found[row["features"]].append(row["model_id"])
    return found
