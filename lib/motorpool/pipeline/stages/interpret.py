"""Interpret: what is in a cluster, as photos, measured appearance, a title and a few sentences."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.files import redact
from motorpool.cluster.ensemble.agreement import contingency
from motorpool.config.run import CONSENSUS, ReportConfig
from motorpool.errors import ConfigError, LakeError
from motorpool.interpret import members
from motorpool.interpret.appearance import measure_photos
from motorpool.interpret.counts import (
    Counts,
    attribute_columns,
    attributes_fingerprint,
    count_attributes,
    count_vehicles,
    summarise_photos,
)
from motorpool.interpret.evidence import MIN_COVERAGE, Evidence, Overlap, evidence_of, overlaps
from motorpool.interpret.overrides import Overrides
from motorpool.photos.source import find_images
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import vectors_of
from motorpool.pipeline.study import Node, forget, log_not_asked, model_ids, outdate, rank
from motorpool.pipeline.titling.given import given_titles, titles_fingerprint
from motorpool.pipeline.titling.words import facts_of, reword, stored_evidence, write_given
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Photos of one model that are measured at most, whatever its number of clusters: about a minute on two cores.
MAX_PHOTOS = 20_000
#: Models of other feature sets that clusters are compared with.
MAX_PEERS = 12
#: Photos of one task: some seconds.
_PHOTOS_A_TASK = 500
#: Part of what evidence and titles depend on: other rules count, or word, other things.
_RULES, _WORDS = "1", "2"


@dataclass(frozen=True)
class _Model:
    """A model to interpret; ``centroids`` float32[k, d], of no columns where it has no vectors."""

    model_id: str
    features: str
    sizes: np.ndarray
    centroids: np.ndarray

    @property
    def has_vectors(self) -> bool:
        return self.features != CONSENSUS and self.centroids.shape[1] > 0


def run_interpret(ctx: Context) -> None:
    """Choose photos for every cluster of the best models, measure them, and write titles and descriptions.

    The models are those that ``report.models`` names, or the best of each feature set of the study. What people call
    clusters (``report.titles``) stands over what the evidence says, in every model. The row in ``interpretations`` is
    written last, so a model without it is done again, and so is one whose ``params`` are others; where these differ in
    what words depend on alone, they are made again from the evidence in ``clusters``. All other models have no members
    and no titles but those that people give. ``appearance`` keeps what has been measured of any photo.
    Raises ConfigError for models and titles that the lake does not hold, CaseError where the config names photos that
    are not there.
    """
    config = ctx.config.report
    stored = _stored(ctx)
    if config is None:
        log_not_asked("interpret", "the config has no section `report`", stored)
        if stored:
            _outdate(ctx, stored)
            _forget_others(ctx, stored, [], {}, _titled(ctx))
        return
    given = given_titles(ctx.lake, config.titles, model_ids(ctx.config))
    chosen, peers = _choose(ctx, config)
    root = find_images(ctx.config.case) if ctx.config.case is not None else None
    images, labels = _described(ctx)
    columns, left_out = attribute_columns(images)
    labels = [c for c in labels if c in columns]
    inputs = _Inputs(images, columns, labels, attributes_fingerprint(images, columns), root, peers, given)
    asked = {m: _params(ctx, config, m, inputs, chosen) for m in chosen}
    titled = _titled(ctx)
    # Clusters that were made again have lost their titles.
    changed = [m for m in chosen if stored.get(m) != asked[m] or not titled.get(m, False)]
    titles_only = [m for m in changed if titled.get(m, False) and facts_of(stored.get(m, {})) == facts_of(asked[m])]
    evidence = stored_evidence(ctx.lake, titles_only)
    pending = [m for m in changed if m not in evidence]
    outdated = [m for m in stored if stored[m] != asked.get(m) or m in pending]
    if set(outdated) - set(evidence):
        _outdate(ctx, sorted(set(outdated) - set(evidence)))
    if ctx.lake.exists("appearance") and any(params.get("photos") != inputs.photos for params in stored.values()):
        log.info("interpret: photos lie elsewhere now, so all are measured again")
        forget(ctx, "appearance")
    renamed = _forget_others(ctx, stored, chosen, given, titled)
    if evidence:
        log.info("interpret: titles of %s anew, from the evidence that is in the lake", counted(len(evidence), "model"))
    named = [*chosen, *(m for _, m in peers)]
    with explained():
        if pending:
            for column in left_out:
                log.info("interpret: attribute %s is left out: it has too many values to name kinds", column)
            with timed(f"interpret: {counted(len(pending), 'model')}"):
                began = time.monotonic()
                found = _interpret(ctx, config, pending, inputs)
                # All at once: descriptions name the clusters of the other models by their titles.
                reword(ctx.lake, evidence, given, named, asked, found)
                _write_done(ctx, found, asked, (time.monotonic() - began) / len(pending))
        elif evidence:
            reword(ctx.lake, evidence, given, named, asked)
    if not changed and not renamed:
        log.info("interpret: all models of the study are in the lake, nothing to do")


@dataclass(frozen=True)
class _Inputs:
    """What titles, descriptions and members are made of, beside the models' labels.

    The fitted ``images`` as `_described` has them, kinds in their ``columns`` of attributes, some of which are
    ``labels``, and their values' ``fingerprint``, photos below ``root``, ``peers`` of other feature sets (features,
    model_id), and what people call clusters.
    """

    images: DataFrame
    columns: list[str]
    labels: list[str]
    fingerprint: str
    root: str | None
    peers: list[Node]
    given: Overrides

    @property
    def photos(self) -> str:
        """Where photos lie, as tables may hold it."""
        return redact(self.root) if self.root else ""


# -- what is to be done --------------------------------------------------------------------------------


def _choose(ctx: Context, config: ReportConfig) -> tuple[list[str], list[Node]]:
    """The ids of the models to interpret, and the best model of each feature set: ``features, model_id``."""
    best = [(m.features, m.model_id) for m in rank(ctx).best()]
    if isinstance(config.models, int):
        return [model_id for _, model_id in best[: config.models]], best[:MAX_PEERS]
    named = list(config.named_models)
    with_clusters = {r["model_id"] for r in ctx.lake.rows("clusters", ["model_id"], model_id=named)}
    reasons = {r["model_id"]: r["reason"] for r in ctx.lake.rows("models", ["model_id", "reason"], model_id=named)}
    unknown = [m for m in named if m not in reasons]
    if unknown:
        raise ConfigError(
            f"report.models: {unknown[0]!r}: the lake {ctx.lake} holds no such model; the table `models` lists the ids"
        )
    for m in (m for m in named if m not in with_clusters):
        log.warning("interpret: model %s, which report.models names, has no clusters: %s", m, reasons[m])
    return [m for m in named if m in with_clusters], best[:MAX_PEERS]


def _params(
    ctx: Context, config: ReportConfig, model_id: str, inputs: _Inputs, chosen: Collection[str]
) -> dict[str, str]:
    """What a model's titles, descriptions and members depend on, beside its labels."""
    peers = [peer for _, peer in inputs.peers]
    labels = {"labels": json.dumps(inputs.labels)} if inputs.labels else {}
    return {
        **labels,
        "attributes": json.dumps(inputs.columns),
        "members": str(config.members),
        "peers": json.dumps(peers),
        "photos": inputs.photos,
        "rules": _RULES,
        "sample": str(config.sample),
        "seed": str(ctx.config.seed),
        "titled": json.dumps([peer for peer in peers if peer in chosen]),
        # Descriptions name clusters of other models by their titles, where they have some.
        "titles": titles_fingerprint(inputs.given, {model_id, *peers}),
        "values": inputs.fingerprint,
        "words": _WORDS,
    }


def _described(ctx: Context) -> tuple[DataFrame, list[str]]:
    """The fitted images with what is told of them, and the columns of this that are labels.

    Labels are those that are accepted, of attributes that ``images`` has no column of: what comes with the images goes
    before what follows from some looks. Attributes with few accepted labels say nothing about a cluster.
    """
    images = ctx.lake.fitted(ctx.lake.read("images"))
    own = {c.lower() for c in images.columns}
    sets = ctx.lake.rows("label_sets", ["attribute", "share_accepted"])
    enough = (r["attribute"] for r in sets if r["share_accepted"] >= MIN_COVERAGE)
    labels = sorted(name for name in enough if name.lower() not in own)
    if not labels:
        return images, []
    accepted = ctx.lake.read("image_labels", attribute=labels).where("accepted")
    of = [F.max(F.when(F.col("attribute") == name, F.col("value"))).alias(name) for name in labels]
    return images.join(accepted.groupBy("image_id").agg(*of), on="image_id", how="left"), labels


def _stored(ctx: Context) -> dict[str, dict[str, str]]:
    """The parameters of the models that the lake holds interpretations of."""
    return {r["model_id"]: r["params"] for r in ctx.lake.rows("interpretations", ["model_id", "params"])}


def _titled(ctx: Context) -> dict[str, bool]:
    """The models of which clusters have a title, and whether all have one."""
    whole: dict[str, bool] = {}
    titled = set()
    for row in ctx.lake.rows("clusters", ["model_id", "title", "description"]):
        whole[row["model_id"]] = whole.get(row["model_id"], True) and row["title"] is not None
        if row["title"] is not None or row["description"] is not None:
            titled.add(row["model_id"])
    return {model_id: all_have for model_id, all_have in whole.items() if model_id in titled}


# -- the work -----------------------------------------------------------------------------------------


def _interpret(
    ctx: Context,
    config: ReportConfig,
    pending: Sequence[str],
    inputs: _Inputs,
) -> dict[str, list[Evidence]]:
    """Write the members of models; returns the evidence of their clusters."""
    peers = inputs.peers
    models = _load_models(ctx, pending)
    others = [(features, m) for features, m in peers if m not in pending]
    ids = [*pending, *(m for _, m in others)]
    sets = {**{m: models[m].features for m in pending}, **{m: features for features, m in others}}
    labels = ctx.lake.fitted(ctx.lake.read("labels", model_id=ids))
    wide = blocks.brought(members.gathered(labels, ids), 2 * len(ids) * ctx.lake.count("images"))
    own = members.picked(wide, range(len(pending)))
    drawn = {m: min(config.sample, max(1, MAX_PHOTOS // len(models[m].sizes))) for m in pending}
    most = {m: max(drawn[m], config.members) for m in pending}
    typical = members.typical(own, pending, most, ctx.config.seed)
    with blocks.kept(wide), blocks.kept(typical):
        with timed("interpret: choosing images"):
            _write_members(ctx, config, models, own, typical)
        photos = _measured(ctx, typical, drawn, inputs.root)
        with timed("interpret: gathering evidence"):
            # A model meets the best of all feature sets but its own, in their order, whichever are pending.
            at = {m: j for j, m in enumerate(ids)}
            pairs = [(i, at[b]) for i, a in enumerate(pending) for _, b in peers if sets[a] != sets[b]]
            tables = contingency(wide, pairs)
            found: dict[str, dict[int, list[Overlap]]] = {m: {} for m in pending}
            for (i, j), table in zip(pairs, tables, strict=True):
                for cluster, overlap in overlaps(table, ids[j], sets[ids[j]]).items():
                    found[pending[i]].setdefault(cluster, []).append(overlap)
            counts = _counts(ctx, own, pending, photos, inputs)
            return {
                m: evidence_of(m, model.sizes, model.centroids, counts.of_model(m), found[m])
                for m, model in models.items()
            }


def _load_models(ctx: Context, ids: Sequence[str]) -> dict[str, _Model]:
    sets = {r["model_id"]: r["features"] for r in ctx.lake.rows("models", ["model_id", "features"], model_id=ids)}
    rows = ctx.lake.fetch("clusters", ["model_id", "cluster", "size", "centroid"], model_id=ids).to_pandas()
    models = {}
    # In the order of the ids, which is that of the labels side by side.
    for model_id in ids:
        of = rows[rows["model_id"] == model_id].sort_values("cluster")
        if not len(of):
            raise LakeError(f"table 'clusters': holds no rows of model {model_id}: run `motorpool cluster` again")
        centroids = np.stack([np.asarray(c, np.float32) for c in of["centroid"]])
        models[model_id] = _Model(model_id, sets[model_id], of["size"].to_numpy(np.int64), centroids)
    return models


def _write_members(
    ctx: Context, config: ReportConfig, models: Mapping[str, _Model], own: DataFrame, typical: DataFrame
) -> None:
    ids, n = list(models), dict.fromkeys(models, config.members)
    at = {m: i for i, m in enumerate(ids)}

    def part(some: Sequence[str]) -> DataFrame:
        return members.picked(own, [at[m] for m in some])

    kinds = [
        ("exemplar", members.exemplars(ctx.lake.read("clusters", model_id=ids), config.members)),
        ("typical", typical.where(F.col("position") < config.members)),
    ]
    without = [m for m in ids if not models[m].has_vectors]
    if without:
        kinds.append(("exemplar", members.by_strength(part(without), without, n, strongest=True)))
        kinds.append(("borderline", members.by_strength(part(without), without, n, strongest=False)))
    for features in sorted({models[m].features for m in ids if models[m].has_vectors}):
        of = {m: models[m].centroids for m in ids if models[m].features == features}
        kinds.append(("borderline", members.borderline(part(list(of)), vectors_of(ctx, features), of, n)))
    rows = members.members(kinds, ctx.lake.read("images"))
    n_clusters = sum(len(model.sizes) for model in models.values())
    values = len(rows.columns) * len(kinds) * config.members * n_clusters
    ctx.lake.replace("cluster_members", rows, {"model_id": ids}, values)


def _measured(ctx: Context, typical: DataFrame, drawn: Mapping[str, int], root: str | None) -> DataFrame | None:
    """``model_id, cluster`` and the appearance of the sample's photos; None where there are none to measure.

    What was measured before is not measured again, unless the photo could not be read.
    """
    if not any(drawn.values()):
        log.info("interpret: photos are not looked at: report.sample is 0")
        return None
    if root is None:
        log.info("interpret: photos are not looked at: case.images_root names none, and the case folder holds none")
        return None
    limits = F.create_map(*(F.lit(v) for m, k in drawn.items() for v in (m, k)))
    sample = typical.where(F.col("position") < limits[F.col("model_id")]).select("model_id", "cluster", "image_id")
    wanted = sample.select("image_id").distinct()
    known = ctx.lake.read_or_empty("appearance").where("status = 'ok'")
    missing = ctx.lake.read("images").select("image_id", "path").join(wanted, on="image_id", how="left_semi")
    new = missing.join(known, on="image_id", how="left_anti")
    n = new.count()
    if n:
        tasks = max(blocks.parallelism(ctx.spark), math.ceil(n / _PHOTOS_A_TASK))
        # Kept before it is written: writing may put all rows into one task, and photos are to be read in many.
        measuring = timed(f"interpret: measuring {counted(n, 'photo')} of {redact(root)}")
        ctx.doing = f"measuring {counted(n, 'photo')}"
        try:
            with measuring, blocks.kept(measure_photos(new, root, tasks)) as measured:
                measured.count()
                ctx.lake.upsert("appearance", measured, "image_id")
        finally:
            ctx.doing = ""
    appearance = ctx.lake.read("appearance")
    lost = appearance.join(wanted, on="image_id", how="left_semi").where("status <> 'ok'").groupBy("status").count()
    for row in lost.orderBy("status").collect():
        log.warning("interpret: %s of the photos asked for are %s", f"{row['count']:,}", row["status"])
    return sample.join(appearance, on="image_id", how="inner")


def _counts(ctx: Context, own: DataFrame, ids: Sequence[str], photos: DataFrame | None, inputs: _Inputs) -> Counts:
    images, columns = inputs.images, inputs.columns
    has_vehicles = not images.where("vehicle_id IS NOT NULL").isEmpty()
    seen = () if photos is None else summarise_photos(photos)
    return Counts(
        *(seen or (pd.DataFrame(), pd.DataFrame())),
        vehicles=count_vehicles(own, images, ids).toPandas() if has_vehicles else None,
        attributes=count_attributes(own, images, columns, ids).toPandas() if columns else pd.DataFrame(),
        labels=inputs.labels,
    )


# -- writing ------------------------------------------------------------------------------------------


def _outdate(ctx: Context, model_ids: Collection[str]) -> None:
    """Were this run killed, rows must not stand for what other values gave, but tell whose photos were measured."""
    outdate(ctx, "interpretations", {"model_id": model_ids}, keep=["photos"])


def _forget_others(
    ctx: Context,
    stored: Collection[str],
    chosen: Collection[str],
    given: Overrides,
    titled: Collection[str],
) -> bool:
    """Bring models that are not interpreted to what people call their clusters; False where the tables say so already.

    ``stored`` are the models with interpretations, ``titled`` those with titles.
    """
    gone = sorted(set(stored) - set(chosen))
    if gone:
        forget(ctx, "cluster_members", {"model_id": gone})
    renamed = write_given(ctx.lake, given, {*titled, *(m for m, _ in given)} - set(chosen))
    if gone:
        forget(ctx, "interpretations", {"model_id": gone})
    return renamed or bool(gone)


def _write_done(
    ctx: Context, evidence: Mapping[str, list[Evidence]], asked: Mapping[str, dict[str, str]], seconds: float
) -> None:
    rows = [
        {
            "model_id": model_id,
            "params": asked[model_id],
            "n_photos": sum(e.photos.measured for e in model),
            **{f"n_{s}": sum(e.photos.lost.get(s, 0) for e in model) for s in ("missing", "broken", "refused")},
            "seconds": seconds,
        }
        for model_id, model in evidence.items()
    ]
    ctx.lake.replace_rows("interpretations", rows, {"model_id": list(evidence)})
