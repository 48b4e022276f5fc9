"""Cluster: every model of the study, fitted, scored and labelled: ``models``, ``labels`` and ``clusters``."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool import blocks
from motorpool.cluster.assign import assign
from motorpool.cluster.kmeans import KMeansModel, fit_kmeans
from motorpool.cluster.score import score_models, vehicle_agreement
from motorpool.config import KMeansGrid
from motorpool.errors import ConfigError
from motorpool.features.spec import FeatureSet
from motorpool.metrics import Scores
from motorpool.stages.context import Context, explained, timed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSpec:
    """One model of the study. ``model_id`` is a hash of feature set, algorithm and parameters, seed included."""

    features: FeatureSet
    algorithm: str
    params: tuple[tuple[str, str], ...]

    @property
    def model_id(self) -> str:
        content = [self.features.name, self.features.definition, self.algorithm, sorted(self.params)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def k(self) -> int:
        return int(dict(self.params)["k"])


def run_cluster(ctx: Context) -> None:
    """Fit, score and label the models that the lake does not hold yet.

    Models of one feature set share their passes. Their rows in ``models`` are written last, so models
    without them are made again. Raises ConfigError when the config asks for no model.
    """
    if not ctx.config.cluster.models:
        raise ConfigError("cluster.models: is empty: list at least one grid, e.g. {algorithm: kmeans, k: 2..15}")
    done = set()
    if ctx.lake.exists("models"):
        done = {r["model_id"] for r in ctx.lake.read("models").select("model_id").collect()}
    fitted = 0
    for features in ctx.config.feature_sets:
        grids = [g for g in ctx.config.cluster.models if g.features is None or features.name in g.features]
        for grid in grids:
            specs = [s for s in _specs(features, grid, ctx.config.seed) if s.model_id not in done]
            if specs:
                with explained():
                    _run_grid(ctx, features, grid, specs)
                done |= {s.model_id for s in specs}
                fitted += len(specs)
    if not fitted:
        log.info("cluster: all models of the study are in the lake, nothing to do")


def _specs(features: FeatureSet, grid: KMeansGrid, seed: int) -> list[ModelSpec]:
    shared = {"n_init": grid.n_init, "max_iter": grid.max_iter, "tol": grid.tol, "seed": seed}
    return [
        ModelSpec(features, grid.algorithm, tuple((key, str(value)) for key, value in {"k": k, **shared}.items()))
        for k in grid.k
    ]


def _run_grid(ctx: Context, features: FeatureSet, grid: KMeansGrid, specs: list[ModelSpec]) -> None:
    vectors = ctx.lake.read("features", features=features.name)
    n_images = vectors.count()
    possible = [s for s in specs if s.k <= n_images]
    for spec in specs:
        if spec.k > n_images:
            reason = f"k = {spec.k} asks for more clusters than there are images ({n_images:,})"
            _write_models(ctx, [_model_row(spec, status="failed", reason=reason)])
    if not possible:
        return
    block_df = blocks.persist(blocks.gather(vectors))
    try:
        ks = [s.k for s in possible]
        with timed(f"cluster: {grid.algorithm} k = {_shorten(ks)} on {features.name}"):
            models = fit_kmeans(
                block_df,
                ks,
                seed=ctx.config.seed,
                n_init=grid.n_init,
                max_iter=grid.max_iter,
                tol=grid.tol,
                progress=lambda text: log.debug("cluster: %s: %s", features.name, text),
            )
        with timed(f"cluster: scoring and labelling {len(models)} models of {features.name}"):
            _score_and_write(ctx, block_df, possible, models, n_images)
    finally:
        block_df.unpersist()


def _score_and_write(
    ctx: Context, block_df: DataFrame, specs: list[ModelSpec], models: list[KMeansModel], n_images: int
) -> None:
    centroids = [m.centroids for m in models]
    scores = score_models(block_df, centroids)
    wide = blocks.persist(assign(block_df, centroids))
    try:
        agreement = vehicle_agreement(wide, ctx.lake.read("images"), len(models))
        ids = [s.model_id for s in specs]
        ctx.lake.replace("labels", _long_labels(wide, ids), {"model_id": ids})
    finally:
        wide.unpersist()
    clusters = [
        row for s, m, sc in zip(specs, models, scores, strict=True) for row in _cluster_rows(s, m, sc, n_images)
    ]
    table = ctx.lake.schema("clusters")
    ctx.lake.replace("clusters", ctx.spark.createDataFrame(clusters, table), {"model_id": ids})
    rows = [
        _fitted_row(ctx, s, m, sc, a, n_images) for s, m, sc, a in zip(specs, models, scores, agreement, strict=True)
    ]
    _write_models(ctx, rows)


def _long_labels(wide: DataFrame, model_ids: list[str]) -> DataFrame:
    """One row per model and image from one row per image."""
    names = F.array(*(F.lit(m) for m in model_ids))
    pairs = F.posexplode(F.arrays_zip("clusters", "distances")).alias("model", "pair")
    return wide.select("image_id", pairs).select(
        F.get(names, "model").alias("model_id"),
        "image_id",
        F.col("pair.clusters").alias("cluster"),
        F.col("pair.distances").alias("distance"),
    )


def _cluster_rows(spec: ModelSpec, model: KMeansModel, scores: Scores, n_images: int) -> Iterable[dict[str, object]]:
    for cluster, size in enumerate(scores.sizes.tolist()):
        yield {
            "model_id": spec.model_id,
            "cluster": cluster,
            "size": size,
            "share": size / n_images,
            "centroid": model.centroids[cluster].tolist(),
            "exemplars": scores.exemplars[cluster],
            "title": None,
            "description": None,
        }


def _fitted_row(
    ctx: Context, spec: ModelSpec, model: KMeansModel, scores: Scores, agreement: float | None, n_images: int
) -> dict[str, object]:
    held = int((scores.sizes > 0).sum())
    share = ctx.config.cluster.min_cluster_share
    smallest = int(scores.sizes[scores.sizes > 0].min())
    status, reason = "ok", None
    if held < spec.k:
        status, reason = (
            "degenerate",
            f"only {held} of {spec.k} clusters hold images: there are too few distinct vectors",
        )
    elif smallest < share * n_images:
        status = "degenerate"
        reason = (
            f"the smallest cluster holds {smallest:,} images ({smallest / n_images:.4%}), "
            f"below cluster.min_cluster_share = {share:.4%}"
        )
    elif scores.calinski_harabasz is None:
        status, reason = "degenerate", "its scores are not defined: as many clusters as images"
    if not model.converged:
        log.warning("cluster: %s k = %d still moved after %d passes", spec.features.name, spec.k, model.n_iter)
    return _model_row(
        spec,
        n_clusters=held,
        n_noise=0,
        calinski_harabasz=scores.calinski_harabasz,
        davies_bouldin=scores.davies_bouldin,
        silhouette=scores.silhouette,
        vehicle_agreement=agreement,
        inertia=model.inertia,
        status=status,
        reason=reason,
        n_iter=model.n_iter,
        seconds=model.seconds,
    )


def _model_row(spec: ModelSpec, **values: object) -> dict[str, object]:
    empty = dict.fromkeys(
        (
            "n_clusters",
            "n_noise",
            "calinski_harabasz",
            "davies_bouldin",
            "silhouette",
            "vehicle_agreement",
            "inertia",
            "n_iter",
            "seconds",
            "reason",
        )
    )
    return {
        "model_id": spec.model_id,
        "features": spec.features.name,
        "algorithm": spec.algorithm,
        "params": dict(spec.params),
        "backend": "cpu",
        **empty,
        **values,
    }


def _write_models(ctx: Context, rows: list[dict[str, object]]) -> None:
    table = ctx.lake.schema("models", without=("created_at",))
    frame = ctx.spark.createDataFrame(rows, table).withColumn("created_at", F.current_timestamp())
    ctx.lake.replace("models", frame, {"model_id": [str(r["model_id"]) for r in rows]})


def _shorten(ks: list[int]) -> str:
    whole = len(ks) > 2 and ks == list(range(ks[0], ks[-1] + 1))
    return f"{ks[0]}..{ks[-1]}" if whole else ", ".join(map(str, ks))
