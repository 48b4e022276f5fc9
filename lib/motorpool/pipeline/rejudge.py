"""Judging models again that are in the lake, without fitting them, where the config's thresholds have changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from motorpool.cluster.models import Facts
from motorpool.cluster.registry import ALGORITHMS
from motorpool.config.run import CONSENSUS, ClusterConfig
from motorpool.kernels.scores import measured
from motorpool.pipeline.context import Context
from motorpool.pipeline.models import NOT_COMPUTED, judge
from motorpool.pipeline.study import forget
from motorpool.texts import counted

log = logging.getLogger(__name__)


def rejudge(ctx: Context) -> set[str]:
    """Bring ``status`` and ``reason`` of the lake's models to the config's thresholds; the ids that need fitting.

    The tables are those that a first run with this config writes: a model that has more clusters than
    cluster.max_clusters loses its scores and its rows in ``clusters``, and one that has no longer too many has none, so
    it is to be fitted again. Driver memory: some 50 bytes a cluster.
    """
    clusters = ctx.lake.fetch("clusters", ["model_id", "size"]).group_by("model_id").aggregate([("size", "list")])
    sizes = dict(zip(clusters.column("model_id").to_pylist(), clusters.column("size_list").to_pylist(), strict=True))
    columns = (
        "model_id", "features", "algorithm", "params", "n_clusters", "n_noise", "status", "reason",
        *measured("clusters"),
    )  # fmt: skip
    rows = [row for row in ctx.lake.rows("models", columns) if row["status"] != "failed"]
    rules = ctx.config.cluster
    again: set[str] = set()
    changed: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: str(row["model_id"])):
        row["sizes"] = sizes.get(row["model_id"])
        if row["sizes"] is None and row["features"] != CONSENSUS and 1 < row["n_clusters"] <= rules.max_clusters:
            again.add(row["model_id"])
            continue
        reason, n_clusters = _judge(row, rules)
        if reason != row["reason"]:
            values: dict[str, Any] = {"status": "degenerate" if reason else "ok", "reason": reason}
            if n_clusters > rules.max_clusters and row["features"] != CONSENSUS:
                values |= {"n_clusters": n_clusters, **dict.fromkeys(measured("clusters"))}
            changed[row["model_id"]] = values
    if changed:
        log.info("cluster: judging %s in the lake anew by cluster's thresholds", counted(len(changed), "model"))
        _write(ctx, changed)
    return again


def _judge(row: Mapping[str, Any], rules: ClusterConfig) -> tuple[str | None, int]:
    """Why a model cannot be ranked, None where it can, and its number of clusters, empty ones included."""
    sizes = np.array(row["sizes"] if row["sizes"] is not None else [], np.int64)
    n_clusters = len(sizes) or row["n_clusters"]
    if n_clusters < 2 or NOT_COMPUTED in (row["reason"] or ""):
        # Nothing that a threshold decides.
        return row["reason"], n_clusters
    facts = Facts(0.0)
    if row["features"] != CONSENSUS:
        algorithm = ALGORITHMS.get(row["algorithm"])
        if algorithm is None:
            # Fitted by an extension that this run has not registered: only it knows how many clusters were asked for.
            return row["reason"], n_clusters
        facts = Facts(0.0, by_density=algorithm.by_density, asked=algorithm.grid.asked(row["params"]))
    defined = row["features"] == CONSENSUS or any(row[name] is not None for name in measured("clusters"))
    n = int(row["n_noise"] + sizes.sum())
    return judge(n_clusters, row["n_noise"], None, facts, n, rules, sizes=sizes if defined else None), n_clusters


def _write(ctx: Context, changed: Mapping[str, dict[str, Any]]) -> None:
    """``changed`` holds new values of columns by model."""
    unscored = [model_id for model_id, values in changed.items() if "n_clusters" in values]
    if unscored:
        forget(ctx, "clusters", {"model_id": unscored})
    rows = [row | changed[row["model_id"]] for row in ctx.lake.rows("models", model_id=list(changed))]
    ctx.lake.replace_rows("models", rows, {"model_id": list(changed)})
