"""Cluster: every model of the study, fitted, scored and labelled: ``models``, ``labels`` and ``clusters``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.algorithm import Curves
from motorpool.cluster.fitting import Fitting, Job, apart
from motorpool.cluster.grid import CurveKey
from motorpool.cluster.labelled import Labelled
from motorpool.cluster.models import Facts, FittedModel, FittedModels, ModelSpec
from motorpool.cluster.score import score_models
from motorpool.errors import ConfigError
from motorpool.features.spec import FeatureSet
from motorpool.kernels.scores import Scores
from motorpool.neighbours.curve import curve_of, k_distances
from motorpool.pipeline.context import Context, explained, written_after
from motorpool.pipeline.models import (
    Results,
    cluster_rows,
    judge,
    model_row,
    parameter_rows,
)
from motorpool.pipeline.pace import Counted, timed
from motorpool.pipeline.rejudge import rejudge
from motorpool.pipeline.stages.features import gathered
from motorpool.pipeline.study import specs_of
from motorpool.pipeline.vehicle_agreement import agreement_columns, remeasure
from motorpool.spark import blocks
from motorpool.texts import counted

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
    done = {r["model_id"] for r in ctx.lake.rows("models", ["model_id"])}
    with explained():
        done -= rejudge(ctx)
    drawn = _drawn_curves(ctx)
    study: list[tuple[FeatureSet, list[Job], set[CurveKey]]] = []
    for features in ctx.config.feature_sets:
        jobs, curves = [], set()
        for grid in ctx.config.cluster.models:
            if grid.features is None or features.name in grid.features:
                specs = [s for s in specs_of(features, grid, ctx.config.seed) if s.model_id not in done]
                done |= {s.model_id for s in specs}
                jobs += [Job(grid, specs)] if specs else []
                curves |= {curve for curve in grid.curves if (features.name, *curve) not in drawn}
        if jobs or curves:
            study.append((features, jobs, curves))
    with explained():
        remeasure(ctx)
    if not study:
        log.info("cluster: all models of the study are in the lake, nothing to do")
        return
    models = Counted(ctx.pace, sum(len(job.specs) for _, jobs, _ in study for job in jobs), "model")
    results = Results(ctx)
    with explained(), written_after(results.write):
        for features, jobs, curves in study:
            _run_jobs(ctx, features, jobs, curves, models, results)


def _drawn_curves(ctx: Context) -> set[tuple[str, str, int]]:
    """Features, metric and k of the curves in the lake, looked up only where a grid asks for one."""
    if not any(grid.curves for grid in ctx.config.cluster.models):
        return set()
    return {(r["features"], r["metric"], r["k"]) for r in ctx.lake.rows("k_distances", ["features", "metric", "k"])}


def _run_jobs(
    ctx: Context,
    features: FeatureSet,
    jobs: Sequence[Job],
    missing: set[CurveKey],
    done: Counted,
    results: Results,
) -> None:
    """Fit the jobs of one feature set; ``missing`` are the curves that the config asks for and the lake lacks."""
    n = ctx.lake.count_fitted("features", features=[features.name])
    possible = []
    for job in jobs:
        reasons = {s: job.grid.refusal(dict(s.params), n) for s in job.specs}
        refused = {s: reason for s, reason in reasons.items() if reason}
        if refused:
            results.add([model_row(s, "failed", reason) for s, reason in refused.items()])
            done.add(len(refused))
        specs = [s for s in job.specs if s not in refused]
        possible += apart(Job(job.grid, specs)) if specs else []
    # There is no k-th nearest of fewer images. The curves that models read are drawn again, wherever they are.
    curves = {(metric, k) for metric, k in missing if k <= n} | _read_by(possible)
    if not possible and not curves:
        return

    def progress(text: str) -> None:
        ctx.doing = f"{features.name}: {text}"
        log.debug("cluster: %s", ctx.doing)

    try:
        with gathered(ctx, features.name) as block_df:
            # Before any model: what is in `models` is complete, its curve included.
            drawn = _draw_curves(ctx, features, block_df, curves)
            with Fitting(block_df, possible, ctx.config.seed, progress, ctx.backend, drawn) as fitting:
                for job in possible:
                    with timed(f"cluster: {job.grid.algorithm} on {features.name}, {counted(len(job.specs), 'model')}"):
                        fitted = fitting.fit(job)
                    try:
                        progress(f"scoring and labelling {counted(len(fitted.models), 'model')}")
                        with timed(
                            f"cluster: scoring and labelling {counted(len(fitted.models), 'model')} of {features.name}"
                        ):
                            _score_and_write(ctx, fitted, n, results)
                    finally:
                        fitted.release()
                    done.add(len(job.specs))
    finally:
        ctx.doing = ""


@dataclass
class _Judged:
    """A fitted model with what is measured of its labels; ``n_clusters`` counts empty clusters too."""

    fitted: FittedModel
    n_clusters: int
    n_noise: int
    #: None where there are too many clusters to score, or none.
    scores: Scores | None = None
    #: Columns of ``models`` about its agreement with the vehicles.
    agreement: dict[str, object] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        return self.fitted.spec

    @property
    def facts(self) -> Facts:
        return self.fitted.facts

    def has_labels(self, n: int) -> bool:
        """A model that puts all of n images into one cluster, or into none, says so in ``models`` and has no labels."""
        return self.n_clusters > 1 or 0 < self.n_noise < n


def _noise(labelled: Labelled) -> np.ndarray:
    """int64[models]: rows without a cluster."""
    blocks_of, models = labelled.blocks_of, len(labelled.sizes)

    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        for block in blocks_of(batch):
            state.total += (block.labels < 0).sum(axis=0)

    return blocks.fold(labelled.df, lambda: blocks.Tally(np.zeros(models, np.int64)), add).total


def _score_and_write(ctx: Context, fitted: FittedModels, n: int, results: Results) -> None:
    rows = [model_row(spec, "failed", reason) for spec, reason in fitted.failed.items()]
    clusters: list[dict[str, object]] = []
    parameters: list[dict[str, object]] = []
    labelled = fitted.labelled
    if labelled is not None:
        counted = any(m.facts.by_density for m in fitted.models)
        noise = _noise(labelled) if counted else np.zeros(len(labelled.sizes), np.int64)
        judged = [_Judged(m, labelled.sizes[m.column], int(noise[m.column])) for m in fitted.models]
        written = [m for m in judged if m.has_labels(n)]
        scored = [m for m in written if 1 <= m.n_clusters <= ctx.config.cluster.max_clusters]
        found = score_models(_only(labelled, scored), ctx.backend) if scored else []
        for model, scores in zip(scored, found, strict=True):
            model.scores = scores
        if written:
            _label(ctx, labelled, written, results)
        for m in written:
            if m.scores is not None:
                clusters += cluster_rows(m.spec, m.facts, m.scores, labelled.origin, n)
            parameters += parameter_rows(m.spec, m.facts)
        rows += [_row(ctx, m, n) for m in judged]
    if rows:
        results.add(rows, clusters, parameters)


def _only(labelled: Labelled, models: Sequence[_Judged]) -> Labelled:
    return labelled.pick([m.fitted.column for m in models])


def _label(ctx: Context, labelled: Labelled, models: Sequence[_Judged], results: Results) -> None:
    """The labels of models, and their agreement with the vehicles."""
    wide = blocks.persist(_only(labelled, models).wide())
    try:
        agreement = agreement_columns(ctx, wide, len(models), {m.spec.features for m in models})
        results.add_labels(wide, [m.spec.model_id for m in models])
    finally:
        wide.unpersist()
    for model, columns in zip(models, agreement, strict=True):
        model.agreement = columns


def _row(ctx: Context, model: _Judged, n: int) -> dict[str, object]:
    """The row of ``models``."""
    spec, facts, scores = model.spec, model.facts, model.scores
    if not facts.converged:
        log.warning("cluster: %s %s still moved after %s passes", spec.features.name, dict(spec.params), facts.n_iter)
    reason = judge(model.n_clusters, model.n_noise, scores, facts, n, ctx.config.cluster)
    return model_row(
        spec,
        "degenerate" if reason else "ok",
        reason,
        facts,
        n_clusters=model.n_clusters if scores is None else int((scores.sizes > 0).sum()),
        n_noise=model.n_noise,
        **(scores.values if scores else {}),
        **model.agreement,
    )


def _read_by(jobs: Sequence[Job]) -> set[CurveKey]:
    """The curves that models take parameters from."""
    read = {job.grid.reads(dict(s.params)) for job in jobs for s in job.specs}
    return {curve for curve in read if curve is not None}


def _draw_curves(ctx: Context, features: FeatureSet, block_df: DataFrame, curves: set[CurveKey]) -> Curves:
    """Compute k-distances, all k of a metric together, and write their curves."""
    found: dict[CurveKey, np.ndarray] = {}
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
