"""The study: what the config asks for, of all that a lake holds, and how its models rank among themselves.

A lake keeps what is dear and what other configs asked for: descriptors, feature sets, models with their labels, and the
looks of photos. What follows from models (consensus, agreement, votes of vehicles, outliers, titles) is made of
the study's models alone, whatever else is there, so that it is the same as in a lake of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import functions as F

from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import ModelSpec
from motorpool.config.run import CONSENSUS, Config, ConsensusConfig
from motorpool.features.spec import FeatureSet
from motorpool.lake.schemas import VIEWS
from motorpool.pipeline.context import Context

log = logging.getLogger(__name__)

#: A model's feature set and its id.
Node = tuple[str, str]


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits for a value of dicts, lists, texts and numbers: equal values give equal ones."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# -- models --------------------------------------------------------------------------------------------


def specs_of(features: FeatureSet, grid: ModelGrid, seed: int) -> list[ModelSpec]:
    """The models of one grid on one feature set."""
    return [ModelSpec(features, grid.algorithm, tuple(params.items())) for params in grid.variants(seed)]


def model_ids(config: Config) -> set[str] | None:
    """The ids of the models that the config's grids ask for, fitted or not; None where it has no grid.

    Such a config makes no models, so all that the lake holds are its study.
    """
    if not config.cluster.models:
        return None
    return {
        spec.model_id
        for features in config.feature_sets
        for grid in config.cluster.models
        if grid.features is None or features.name in grid.features
        for spec in specs_of(features, grid, config.seed)
    }


def consensus_specs(config: ConsensusConfig, members: Sequence[Node]) -> list[ModelSpec]:
    """The consensus models of some members, whose ids are part of theirs."""
    shared = {
        "linkage": config.linkage,
        "max_tuples": str(config.max_tuples),
        "members": json.dumps(sorted(model_id for _, model_id in members)),
    }
    features = FeatureSet(CONSENSUS, ())
    return [ModelSpec(features, CONSENSUS, (("n_clusters", str(k)), *shared.items())) for k in config.n_clusters]


@dataclass(frozen=True)
class Ranked:
    """A model of the study's leaderboard; ``vehicle_part`` as in ``models``."""

    features: str
    model_id: str
    vehicle_part: str | None


@dataclass(frozen=True)
class Ranking:
    """The study's models that can be ranked, best first, and those of them that a consensus is made of, by id."""

    models: list[Ranked]
    members: list[Node]

    def best(self, of_each: int | None = 1) -> list[Ranked]:
        """The first ``of_each`` models of every feature set, all for None; best first."""
        return _first(self.models, of_each)


def rank(ctx: Context) -> Ranking:
    """The leaderboard of the study's models, as if the lake held no other; LakeError where it holds no models.

    The consensus models in it are those of the members that this ranking gives, where the config asks for a consensus.
    Driver memory: a few hundred bytes a model.
    """
    config = ctx.config
    models, asked = ctx.lake.read("models"), model_ids(config)
    if asked is not None:
        # A consensus moves no other model, and no other consensus, so those of other members are left out below.
        models = models.where(F.col("model_id").isin(sorted(asked)) | (F.col("features") == CONSENSUS))
    board = ctx.spark.sql(VIEWS["leaderboard"], models=models)
    rows = board.select("features", "model_id", "vehicle_part", "rank").orderBy("rank").collect()
    ranked = [Ranked(r["features"], r["model_id"], r["vehicle_part"]) for r in rows]
    ordinary = [m for m in ranked if m.features != CONSENSUS]
    if config.consensus is None:
        return Ranking(ordinary if asked is not None else ranked, [])
    names = consensus_features(config, config.consensus)
    chosen = [m for m in _first(ordinary, config.consensus.models_per_features) if m.features in names]
    members = sorted(((m.features, m.model_id) for m in chosen), key=lambda node: node[1])
    own = {s.model_id for s in consensus_specs(config.consensus, members)} if len(members) > 1 else set()
    return Ranking([m for m in ranked if m.features != CONSENSUS or m.model_id in own], members)


def consensus_features(config: Config, consensus: ConsensusConfig) -> list[str]:
    """The feature sets whose best models are asked to take part in the consensus."""
    return consensus.features if consensus.features is not None else config.consensus_features


def _first(models: Sequence[Ranked], of_each: int | None) -> list[Ranked]:
    taken: dict[str, int] = defaultdict(int)
    found = []
    for model in models:
        taken[model.features] += 1
        if of_each is None or taken[model.features] <= of_each:
            found.append(model)
    return found


# -- rows that no longer hold --------------------------------------------------------------------------


def log_not_asked(stage: str, why: str, held: object) -> None:
    """Say that the config asks nothing of a stage, and what becomes of what the lake holds of it, if anything."""
    outcome = "so what another config asked for goes out of the lake" if held else "nothing to do"
    log.info("%s: %s, %s", stage, why, outcome)


def forget(ctx: Context, table: str, keys: Mapping[str, Collection[str]] | None = None) -> None:
    """Take the rows of some keys out of a table, or all of them."""
    if keys is None:
        ctx.lake.overwrite_rows(table, [])
    else:
        ctx.lake.replace_rows(table, [], {key: sorted(values) for key, values in keys.items()})


def forget_all(ctx: Context, tables: Sequence[str], keys: Mapping[str, Collection[str]]) -> None:
    """Take the rows of some keys out of some tables, of which the last says what is done."""
    outdate(ctx, tables[-1], keys)
    for table in tables:
        forget(ctx, table, keys)


def outdate(ctx: Context, table: str, keys: Mapping[str, Collection[str]], keep: Sequence[str] = ()) -> None:
    """Empty the column ``params`` of the rows that say what is done, but for the entries ``keep``.

    To be called before what these rows stand for is changed: where the run is killed in between, they match no
    config, but still tell what is there to be made again or removed.
    """
    chosen = {key: sorted(values) for key, values in keys.items()}
    rows = ctx.lake.rows(table, **chosen)
    for row in rows:
        row["params"] = {name: value for name, value in row["params"].items() if name in keep}
    ctx.lake.replace_rows(table, rows, chosen)
