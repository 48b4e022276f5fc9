"""Judging models again that are in the lake, without fitting them, where the config's thresholds have changed."""

from __future__ import annotations

import logging

import numpy as np
from pyspark.sql import Row
from pyspark.sql import functions as F

from motorpool.cluster.models import Facts
from motorpool.config.grids import asked_of
from motorpool.config.run import CONSENSUS, ClusterConfig
from motorpool.pipeline.context import Context
from motorpool.pipeline.models import NOT_COMPUTED, judge
from motorpool.pipeline.study import forget

log = logging.getLogger(__name__)

#: Algorithms to whose models small clusters are natural.
_BY_DENSITY = ("dbscan", "hdbscan")


def rejudge(ctx: Context) -> set[str]:
    """Bring ``status`` and ``reason`` of the lake's models to the config's thresholds; the ids that need fitting.

    The tables are those that a first run with this config writes: a model that has more clusters than
    cluster.max_clusters loses its scores and its rows in ``clusters``, and one that has no longer too many has none, so
    it is to be fitted again. One job where nothing has changed. Driver memory: 8 bytes a cluster.
    """
    sizes = ctx.lake.read_or_empty("clusters").groupBy("model_id").agg(F.collect_list("size").alias("sizes"))
    columns = (
        "model_id", "features", "algorithm", "params", "n_clusters", "n_noise", "calinski_harabasz", "status", "reason",
    )  # fmt: skip
    models = ctx.lake.read("models").where("status <> 'failed'").select(*columns)
    rows = models.join(F.broadcast(sizes), on="model_id", how="left").orderBy("model_id").collect()
    rules = ctx.config.cluster
    again, changed = set(), []
    for row in rows:
        if row["sizes"] is None and row["features"] != CONSENSUS and 1 < row["n_clusters"] <= rules.max_clusters:
            again.add(row["model_id"])
            continue
        reason, n_clusters = _judge(row, rules)
        if reason != row["reason"]:
            unscored = n_clusters > rules.max_clusters and row["features"] != CONSENSUS
            changed.append((row["model_id"], "degenerate" if reason else "ok", reason, n_clusters, unscored))
    if changed:
        log.info("cluster: %d models in the lake are judged anew by cluster's thresholds", len(changed))
        _write(ctx, changed)
    return again


def _judge(row: Row, rules: ClusterConfig) -> tuple[str | None, int]:
    """Why a model cannot be ranked, None where it can, and its number of clusters, empty ones included."""
    sizes = np.array(row["sizes"] if row["sizes"] is not None else [], np.int64)
    n_clusters = len(sizes) or row["n_clusters"]
    if n_clusters < 2 or NOT_COMPUTED in (row["reason"] or ""):
        # Nothing that a threshold decides.
        return row["reason"], n_clusters
    asked = None if row["features"] == CONSENSUS else asked_of(row["params"])
    facts = Facts(0.0, by_density=row["algorithm"] in _BY_DENSITY, asked=asked)
    defined = row["features"] == CONSENSUS or row["calinski_harabasz"] is not None
    n = int(row["n_noise"] + sizes.sum())
    return judge(n_clusters, row["n_noise"], None, facts, n, rules, sizes=sizes if defined else None), n_clusters


def _write(ctx: Context, changed: list[tuple[str, str, str | None, int, bool]]) -> None:
    ids = [row[0] for row in changed]
    unscored = [row[0] for row in changed if row[4]]
    if unscored:
        forget(ctx, "clusters", {"model_id": unscored})
    told = ctx.spark.createDataFrame(
        changed, "model_id STRING, status STRING, reason STRING, found INT, unscored BOOLEAN"
    )
    rest = ctx.lake.read("models", model_id=ids).drop("status", "reason")
    joined = rest.join(F.broadcast(told), on="model_id", how="inner")
    scores = ("calinski_harabasz", "davies_bouldin", "silhouette")
    rows = joined.withColumns(
        {
            "n_clusters": F.when(F.col("unscored"), F.col("found")).otherwise(F.col("n_clusters")),
            **{name: F.when(~F.col("unscored"), F.col(name)) for name in scores},
        }
    )
    ctx.lake.replace("models", rows, {"model_id": ids})
