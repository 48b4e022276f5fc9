"""Cluster: every model of the study, fitted, scored and labelled: ``models``, ``labels`` and ``clusters``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.labelled import Labelled
from motorpool.cluster.score import score_models
from motorpool.config.grids import DbscanGrid
from motorpool.errors import ConfigError
from motorpool.features.spec import FeatureSet
from motorpool.kernels.pairs.geometry import Metric
from motorpool.kernels.scores import Scores
from motorpool.neighbours.curve import curve_of, k_distances
from motorpool.pipeline.context import Context, explained, timed
from motorpool.pipeline.fitting import Curves, FittedGrid, Fitting, Job, apart
from motorpool.pipeline.models import (
    cluster_rows,
    judge,
    model_row,
    parameter_rows,
    write_labels,
    write_models,
)
from motorpool.pipeline.rejudge import rejudge
from motorpool.pipeline.study import specs_of
from motorpool.pipeline.vehicle_agreement import agreement_columns, remeasure
from motorpool.spark import blocks

log = logging.getLogger(__name__)


def run_cluster(ctx: Context) -> None:
    """Fit, score and label the models that the lake does not hold yet.

    Models of one feature set share their passes. Their rows in ``models`` are written last, so models without them are
    made again; so are curves of ``k_distances`` that the config asks for and the lake lacks. Models that the config no
    longer asks for stay in the lake. Where thresholds of ``cluster`` have changed, the lake's models are judged again
    (`rejudge`). Where feature sets that are fitted on some of the vehicles have been added or taken out, the vehicle
    agreement of the study's models is measured again, on the others (`remeasure`). Raises ConfigError when the config
    asks for no model.
    """
    if not ctx.config.cluster.models:
        raise ConfigError("cluster.models: is empty: list at least one grid, e.g. {algorithm: kmeans, k: 2..15}")
    done = set()
    if ctx.lake.exists("models"):
        done = {r["model_id"] for r in ctx.lake.read("models").select("model_id").collect()}
        with explained():
            done -= rejudge(ctx)
    drawn = _drawn_curves(ctx)
    study: list[tuple[FeatureSet, list[Job], set[_CurveKey]]] = []
    for features in ctx.config.feature_sets:
        jobs, curves = [], set()
        for grid in ctx.config.cluster.models:
            if grid.features is None or features.name in grid.features:
                specs = [s for s in specs_of(features, grid, ctx.config.seed) if s.model_id not in done]
                done |= {s.model_id for s in specs}
                jobs += [Job(grid, specs)] if specs else []
                if isinstance(grid, DbscanGrid):
                    curves |= {(grid.metric, k) for k in grid.curves if (features.name, grid.metric, k) not in drawn}
        if jobs or curves:
            study.append((features, jobs, curves))
    with explained():
        remeasure(ctx)
    if not study:
        log.info("cluster: all models of the study are in the lake, nothing to do")
        return
    pace = _Pace(sum(len(job.specs) for _, jobs, _ in study for job in jobs))
    for features, jobs, curves in study:
        with explained():
            _run_jobs(ctx, features, jobs, curves, pace)


#: Metric and k of a k-distance curve.
_CurveKey = tuple[Metric, int]


def _drawn_curves(ctx: Context) -> set[tuple[str, str, int]]:
    """Features, metric and k of the curves in the lake, looked up only where a grid asks for one."""
    if not any(isinstance(grid, DbscanGrid) for grid in ctx.config.cluster.models):
        return set()
    if not ctx.lake.exists("k_distances"):
        return set()
    rows = ctx.lake.read("k_distances").select("features", "metric", "k").distinct().collect()
    return {(r["features"], r["metric"], r["k"]) for r in rows}


@dataclass
class _Pace:
    """How much of a study is done, and how long the rest takes if it goes on like that."""

    models: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, models: int) -> None:
        self.done += models
        if self.done < self.models:
            elapsed = time.monotonic() - self.began
            left = elapsed / self.done * (self.models - self.done)
            log.info(
                "cluster: %d of %d models in %s, about %s left at this pace",
                self.done, self.models, _minutes(elapsed), _minutes(left),
            )  # fmt: skip


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _run_jobs(ctx: Context, features: FeatureSet, jobs: Sequence[Job], missing: set[_CurveKey], pace: _Pace) -> None:
    """Fit the jobs of one feature set; ``missing`` are the curves that the config asks for and the lake lacks."""
    vectors = ctx.lake.read("features", features=features.name)
    n = vectors.count()
    possible = []
    for job in jobs:
        reasons = {s: job.grid.refusal(dict(s.params), n) for s in job.specs}
        refused = {s: reason for s, reason in reasons.items() if reason}
        if refused:
            write_models(ctx, [model_row(s, "failed", reason) for s, reason in refused.items()])
            pace.count(len(refused))
        specs = [s for s in job.specs if s not in refused]
        possible += apart(Job(job.grid, specs)) if specs else []
    # There is no k-th nearest of fewer images. The curves that models read are drawn again, wherever they are.
    curves = {(metric, k) for metric, k in missing if k <= n} | _read_by(possible)
    if not possible and not curves:
        return
    block_df = blocks.persist(blocks.gather(vectors))
    try:

        def progress(text: str) -> None:
            ctx.doing = f"{features.name}: {text}"
            log.debug("cluster: %s", ctx.doing)

        # Before any model: what is in `models` is complete, its curve included.
        drawn = _draw_curves(ctx, features, block_df, curves)
        with Fitting(block_df, possible, ctx.config.seed, progress, ctx.backend, drawn) as fitting:
            for job in possible:
                with timed(f"cluster: {job.grid.algorithm} on {features.name}, {len(job.specs)} models"):
                    fitted = fitting.fit(job)
                try:
                    progress(f"scoring and labelling {len(fitted.specs)} models")
                    with timed(f"cluster: scoring and labelling {len(fitted.specs)} models of {features.name}"):
                        _score_and_write(ctx, fitted, n)
                finally:
                    fitted.release()
                pace.count(len(job.specs))
    finally:
        ctx.doing = ""
        block_df.unpersist()


def _noise(labelled: Labelled) -> np.ndarray:
    """int64[models]: rows without a cluster."""
    blocks_of, models = labelled.blocks_of, len(labelled.sizes)

    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        for block in blocks_of(batch):
            state.total += (block.labels < 0).sum(axis=0)

    return blocks.fold(labelled.df, lambda: blocks.Tally(np.zeros(models, np.int64)), add).total


def _score_and_write(ctx: Context, fitted: FittedGrid, n: int) -> None:
    """Labels first, ``models`` last: what is in ``models`` is complete.

    A model that puts every image into one cluster, or into none, says so in ``models`` and has no labels.
    """
    rows = [model_row(spec, "failed", reason) for spec, reason in fitted.failed]
    labelled = fitted.labelled
    if labelled is not None:
        noise = _noise(labelled) if any(f.by_density for f in fitted.facts) else np.zeros(len(fitted.specs), np.int64)
        every = range(len(fitted.specs))
        told = [m for m in every if labelled.sizes[m] > 1 or 0 < noise[m] < n]
        scored = [m for m in told if 1 <= labelled.sizes[m] <= ctx.config.cluster.max_clusters]
        found = score_models(labelled.pick(scored), ctx.backend) if scored else []
        scores = dict(zip(scored, found, strict=True))
        agreement = _write_told(ctx, fitted, labelled, told, scores, n)
        for m in every:
            rows.append(_judged(ctx, fitted, m, int(noise[m]), scores.get(m), agreement.get(m, {}), n))
    if rows:
        write_models(ctx, rows)


def _write_told(
    ctx: Context, fitted: FittedGrid, labelled: Labelled, told: Sequence[int], scores: dict[int, Scores], n: int
) -> dict[int, dict[str, object]]:
    """``labels``, ``clusters`` and ``parameters``; returns the models' agreement with the vehicles, by column."""
    if not told:
        return {}
    ids = [fitted.specs[m].model_id for m in told]
    wide = blocks.persist(labelled.pick(told).wide())
    try:
        agreement = agreement_columns(ctx, wide, len(told), {fitted.specs[m].features for m in told})
        write_labels(ctx, wide, ids)
    finally:
        wide.unpersist()
    clusters = [
        row for m, s in scores.items() for row in cluster_rows(fitted.specs[m], fitted.facts[m], s, labelled.origin, n)
    ]
    parameters = [row for m in told for row in parameter_rows(fitted.specs[m], fitted.facts[m])]
    for table, content in (("clusters", clusters), ("parameters", parameters)):
        if content:
            ctx.lake.replace_rows(table, content, {"model_id": ids})
    return dict(zip(told, agreement, strict=True))


def _judged(
    ctx: Context, fitted: FittedGrid, m: int, noise: int, scores: Scores | None, agreement: dict[str, object], n: int
) -> dict[str, object]:
    spec, facts = fitted.specs[m], fitted.facts[m]
    if not facts.converged:
        log.warning("cluster: %s %s still moved after %s passes", spec.features.name, dict(spec.params), facts.n_iter)
    assert fitted.labelled is not None
    asked = fitted.labelled.sizes[m]
    held = asked if scores is None else int((scores.sizes > 0).sum())
    reason = judge(asked, noise, scores, facts, n, ctx.config.cluster)
    return model_row(
        spec,
        "degenerate" if reason else "ok",
        reason,
        facts,
        n_clusters=held,
        n_noise=noise,
        calinski_harabasz=scores.calinski_harabasz if scores else None,
        davies_bouldin=scores.davies_bouldin if scores else None,
        silhouette=scores.silhouette if scores else None,
        **agreement,
    )


def _read_by(jobs: Sequence[Job]) -> set[_CurveKey]:
    """The curves that models take their eps from."""
    grids = [(job.grid, s) for job in jobs if isinstance(job.grid, DbscanGrid) for s in job.specs]
    keys = {(grid.metric, grid.reads(dict(s.params))) for grid, s in grids}
    return {(metric, k) for metric, k in keys if k is not None}


def _draw_curves(ctx: Context, features: FeatureSet, block_df: DataFrame, curves: set[_CurveKey]) -> Curves:
    """Compute k-distances, all k of a metric together, and write their curves."""
    found: dict[_CurveKey, np.ndarray] = {}
    for metric in sorted({metric for metric, _ in curves}):
        ks = sorted(k for m, k in curves if m == metric)
        rows = []
        for k, distances in k_distances(block_df, metric, ks, ctx.config.seed).items():
            found[metric, k], curve = distances, curve_of(distances, k)
            rows += [
                {
                    "features": features.name, "metric": metric, "k": k, "quantile": at / 100,
                    "distance": float(distance), "knee": at == curve.knee,
                }
                for at, distance in enumerate(curve.distances)
            ]  # fmt: skip
        keys: dict[str, Sequence[str]] = {"features": [features.name], "metric": [metric], "k": [str(k) for k in ks]}
        ctx.lake.replace_rows("k_distances", rows, keys)
    return found
