"""Vehicles: in the best models of every feature set, each vehicle's label and the photos that dissent: ``vehicles``."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from pyspark.sql import functions as F

from motorpool.cluster.vehicle_votes import vote
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import timed
from motorpool.pipeline.study import forget, log_not_asked, rank
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Labels of several feature sets that vote together, at most.
_LABELS = 2**24


def run_vehicles(ctx: Context) -> None:
    """Let the photos of every vehicle vote for its label, in the best models of each feature set.

    Models are those of the study's leaderboard up to ``vehicles.models_per_features`` in each feature set, the
    consensus being one; with 'all' every one of it. Models of what differs within vehicles are left out: their clusters
    are views, of which a vehicle has several. Nothing is done where no image has a vehicle.

    The models of a feature set are written at once, those of several where images are few. A model that is in
    ``vehicles`` is complete, so a run that is stopped goes on with the rest. All other models go out of the table.
    """
    most = ctx.config.vehicles.models_per_features
    if most == 0:
        held = ctx.lake.exists("vehicles") and ctx.lake.count("vehicles")
        log_not_asked("vehicles", "vehicles.models_per_features is 0", held)
        _forget_others(ctx, [])
        return
    ranking = rank(ctx)
    images = ctx.lake.fitted(ctx.lake.read("images"))
    vehicles = images.where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    if vehicles.isEmpty():
        log.info("vehicles: no image of the lake has a vehicle, nothing to do")
        return
    best = ranking.best(None if most == "all" else int(most))
    wanted = {m.model_id: m.features for m in best if m.vehicle_part != "within"}
    stored = _forget_others(ctx, wanted)
    missing: dict[str, list[str]] = defaultdict(list)
    for model_id, features in wanted.items():
        if model_id not in stored:
            missing[features].append(model_id)
    if not missing:
        log.info("vehicles: all models of the study are in the lake, nothing to do")
        return
    for ids, names in _batches(missing, ctx.lake.count("images")):
        with (
            explained(),
            timed(f"vehicles: votes in {counted(len(ids), 'model')} of {counted(len(names), 'feature set')}"),
        ):
            votes = vote(ctx.lake.read("labels", model_id=ids), vehicles)
            # No vehicle has more rows than photos.
            ctx.lake.replace("vehicles", votes, {"model_id": ids}, ctx.values(len(votes.columns) * len(ids)))


def _batches(models: Mapping[str, Sequence[str]], n_images: int) -> Iterator[tuple[list[str], list[str]]]:
    """Models, by feature set, that vote together, with the names of their feature sets: few labels take one job."""
    ids: list[str] = []
    names: list[str] = []
    for features, own in models.items():
        if ids and n_images * (len(ids) + len(own)) > _LABELS:
            yield ids, names
            ids, names = [], []
        ids, names = [*ids, *own], [*names, features]
    if ids:
        yield ids, names


def _forget_others(ctx: Context, wanted: Collection[str]) -> set[str]:
    """The models in ``vehicles``, after those have gone out that are not ``wanted``."""
    if not ctx.lake.exists("vehicles"):
        return set()
    stored = {r["model_id"] for r in ctx.lake.read("vehicles").select("model_id").distinct().collect()}
    gone = stored - set(wanted)
    if gone:
        log.info("vehicles: %s no longer among the best: out of the table", counted(len(gone), "model"))
        forget(ctx, "vehicles", {"model_id": gone})
    return stored - gone
