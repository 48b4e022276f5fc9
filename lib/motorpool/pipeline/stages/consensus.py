"""Consensus: clusterings that the best models of several feature sets agree on, and how far those models agree."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.ensemble.agreement import Contingency, contingency, side_by_side
from motorpool.cluster.ensemble.coassociation import Evidence, accumulate, relabel, shares, sizes, with_strengths
from motorpool.cluster.models import Facts, ModelSpec
from motorpool.config.run import CONSENSUS, ConsensusConfig
from motorpool.features.spec import FeatureSet
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.models import UNTITLED, judge, model_row, write_labels, write_models
from motorpool.pipeline.pace import timed
from motorpool.pipeline.study import Node, consensus_features, consensus_specs, forget, log_not_asked, rank
from motorpool.pipeline.vehicle_agreement import agreement_columns, joint_part, remeasure
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)


def run_consensus(ctx: Context) -> None:
    """Find clusters that the best models of several feature sets share, and measure how far these models agree.

    The members are the best of each feature set by the leaderboard of the study's models. Unless they are named,
    feature sets of what differs within vehicles stay out: their clusters are views, and nobody else's are. The members'
    ids are part of a consensus model's id, so other members make other models; those of former members stay in the lake
    as they are. The table ``agreement`` is that of the study alone. Images that a member has no label for take no part.
    Where the study has fewer than two members there is nothing to agree on: the stage says so, and ``agreement`` holds
    no rows, as where the config asks for no consensus.
    """
    config = ctx.config.consensus
    if config is None:
        log_not_asked("consensus", "the config has no section `consensus`", _forget_agreement(ctx))
        return
    with explained():
        remeasure(ctx)
    members = _members(ctx, config)
    if len(members) < 2:
        if _forget_agreement(ctx):
            log.info("consensus: the agreement of former members goes out of the lake")
        return
    specs = consensus_specs(config, members)
    done = {r["model_id"] for r in ctx.lake.rows("models", ["model_id"], features=[CONSENSUS])}
    missing = [s for s in specs if s.model_id not in done]
    with explained():
        if missing:
            with timed(f"consensus: {counted(len(missing), 'model')} of {counted(len(members), 'member')}"):
                _make(ctx, config, members, missing)
        nodes = sorted(members + _best(ctx, specs))
        pairs = list(combinations(nodes, 2))
        if missing or _pairs(ctx) != {(a, b) for (_, a), (_, b) in pairs}:
            with timed(f"consensus: agreement of {counted(len(nodes), 'model')}"):
                _write_agreement(ctx, nodes, pairs)
        else:
            log.info("consensus: all models of the study are in the lake, nothing to do")


def _members(ctx: Context, config: ConsensusConfig) -> list[Node]:
    """The first models of each feature set's ranking, by id; says what is missing where they are less than two."""
    names = consensus_features(ctx.config, config)
    views = [f.name for f in ctx.config.feature_sets if f.name not in names and f.vehicle_part == "within"]
    if views and config.features is None:
        log.info("consensus: %s take no part: their clusters are views", ", ".join(views))
    members = rank(ctx).members
    for name in names:
        if name not in {features for features, _ in members}:
            log.info("consensus: %s takes no part: none of its models can be ranked", name)
    if len(members) < 2:
        log.warning(
            "consensus: nothing to do: it takes two models or more, and of %s the leaderboard has %d with "
            "models_per_features = %d. Raise consensus.models_per_features, name more feature sets, or ask for more in "
            "cluster.models; the table `models` tells why a model is not ranked",
            ", ".join(names), len(members), config.models_per_features,
        )  # fmt: skip
    return members


def _make(ctx: Context, config: ConsensusConfig, members: Sequence[Node], specs: Sequence[ModelSpec]) -> None:
    """Labels first, ``models`` last: what is in ``models`` is complete."""
    began = time.monotonic()
    ids = [model_id for _, model_id in members]
    sets = [f for f in ctx.config.feature_sets if f.name in {features for features, _ in members}]
    labels = blocks.persist(side_by_side(ctx.lake.fitted(ctx.lake.read("labels", model_id=ids)), ids))
    try:
        n = labels.count()
        evidence = accumulate(labels, config.linkage, config.max_tuples)
        m = len(evidence.tuples)
        log.info("consensus: %s images have %s tuples of labels", f"{n:,}", f"{m + evidence.n_other_tuples:,}")
        if evidence.n_other:
            log.info(
                "consensus: %s images (%.1f %%) with %s rarer tuples follow the nearest of the %s most frequent",
                f"{evidence.n_other:,}", 100 * evidence.n_other / n, f"{evidence.n_other_tuples:,}", f"{m:,}",
            )  # fmt: skip
        rows = []
        asked = {s: int(dict(s.params)["n_clusters"]) for s in specs}
        for spec in specs:
            if asked[spec] > m:
                reason = f"it asks for {asked[spec]:,} clusters of {m:,} different tuples of labels"
                rows.append(model_row(spec, "failed", reason, vehicle_part=joint_part(sets)))
        possible = {s: k for s, k in asked.items() if k <= m}
        if possible:
            rows += _cut(ctx, labels, evidence, possible, sets, n, began)
        write_models(ctx, rows)
    finally:
        labels.unpersist()


def _cut(
    ctx: Context,
    labels: DataFrame,
    evidence: Evidence,
    asked: dict[ModelSpec, int],
    sets: Sequence[FeatureSet],
    n: int,
    began: float,
) -> list[dict[str, object]]:
    """Writes ``labels`` and ``clusters`` of the models; returns their rows of ``models``."""
    specs, counts = list(asked), list(asked.values())
    ids = [s.model_id for s in specs]
    n_members = evidence.tuples.shape[1]
    placed = blocks.persist(relabel(labels, evidence, counts))
    try:
        pairs = [(n_members + model, member) for model in range(len(specs)) for member in range(n_members)]
        found = contingency(placed.select(F.concat("members", "clusters").alias("clusters")), pairs)
        tables = [found[at : at + n_members] for at in range(0, len(found), n_members)]
        agreement = agreement_columns(ctx, placed, len(specs), sets)
        strong = with_strengths(placed, [[shares(t, k) for t in of] for of, k in zip(tables, counts, strict=True)])
        unknown = F.array_repeat(F.lit(None).cast("float"), len(specs))
        write_labels(ctx, strong.withColumns({"distances": unknown, "outliers": unknown}), ids)
    finally:
        placed.unpersist()
    found_sizes = [sizes(of[0], k) for of, k in zip(tables, counts, strict=True)]
    clusters = [
        row for model_id, size in zip(ids, found_sizes, strict=True) for row in _cluster_rows(model_id, size, n)
    ]
    ctx.lake.replace_rows("clusters", clusters, {"model_id": ids})
    seconds = (time.monotonic() - began) / len(specs)
    rows = []
    for spec, of, size, agreed in zip(specs, tables, found_sizes, agreement, strict=True):
        facts = Facts(seconds, found={"mean_nmi": str(_mean_nmi(of))})
        n_noise = n - int(size.sum())
        reason = judge(len(size), n_noise, None, facts, n, ctx.config.cluster, sizes=size)
        status = "degenerate" if reason else "ok"
        values = {"n_clusters": len(size), "n_noise": n_noise, "vehicle_part": joint_part(sets), **agreed}
        rows.append(model_row(spec, status, reason, facts, **values))
    return rows


def _mean_nmi(tables: Sequence[Contingency]) -> float:
    return float(np.mean([t.normalized_mutual_information() for t in tables]))


def _cluster_rows(model_id: str, size: np.ndarray, n: int) -> list[dict[str, object]]:
    """A consensus has no vectors: no centroids, and no images next to them."""
    empty: dict[str, object] = {"centroid": [], "exemplars": [], **UNTITLED}
    return [
        {"model_id": model_id, "cluster": cluster, "size": images, "share": images / n, **empty}
        for cluster, images in enumerate(size.tolist())
    ]


def _best(ctx: Context, specs: Sequence[ModelSpec]) -> list[Node]:
    """The consensus model of the largest mean NMI with its members, of those that can be ranked; at most one."""
    rows = ctx.lake.rows("models", ["model_id", "params", "n_clusters", "status"], model_id=[s.model_id for s in specs])
    ranked = sorted(
        (-float(r["params"]["mean_nmi"]), r["n_clusters"], r["model_id"]) for r in rows if r["status"] == "ok"
    )
    return [(CONSENSUS, model_id) for _, _, model_id in ranked[:1]]


def _pairs(ctx: Context) -> set[tuple[str, str]]:
    """The pairs of models whose agreement the lake holds."""
    return {(r["model_a"], r["model_b"]) for r in ctx.lake.rows("agreement", ["model_a", "model_b"])}


def _forget_agreement(ctx: Context) -> bool:
    """Empty the table ``agreement``; whether it held anything."""
    held = bool(ctx.lake.rows("agreement", ["model_a"]))
    if held:
        forget(ctx, "agreement")
    return held


def _write_agreement(ctx: Context, nodes: Sequence[Node], pairs: Sequence[tuple[Node, Node]]) -> None:
    ids = [model_id for _, model_id in nodes]
    at = {node: position for position, node in enumerate(nodes)}
    labels = side_by_side(ctx.lake.fitted(ctx.lake.read("labels", model_id=ids)), ids)
    found = contingency(labels, [(at[a], at[b]) for a, b in pairs])
    rows = [
        {
            "model_a": a, "model_b": b, "features_a": features_a, "features_b": features_b,
            "ari": table.adjusted_rand(), "nmi": table.normalized_mutual_information(), "n_images": table.n_images,
        }
        for ((features_a, a), (features_b, b)), table in zip(pairs, found, strict=True)
    ]  # fmt: skip
    ctx.lake.overwrite_rows("agreement", rows)
