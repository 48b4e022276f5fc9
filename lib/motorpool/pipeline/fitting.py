"""From a grid of the config to fitted models: the one place that knows which function fits which algorithm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.centroids.bisecting import by_tree, fit_bisecting, tree_for
from motorpool.cluster.centroids.by_centroids import by_centroids
from motorpool.cluster.centroids.kmeans import KMeansModel, fit_kmeans
from motorpool.cluster.centroids.minibatch import MiniBatchModel, fit_minibatch_kmeans
from motorpool.cluster.density.cells import fit_dbscan_cells
from motorpool.cluster.density.dbscan import DbscanGrid, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanGrid, fit_hdbscan
from motorpool.cluster.hierarchy.agglomerative import by_micro_clusters, fit_agglomerative
from motorpool.cluster.labelled import Labelled
from motorpool.cluster.mixtures.labels import by_mixtures
from motorpool.cluster.mixtures.mixture import Mixture, fit_mixtures
from motorpool.cluster.models import Facts, ModelSpec
from motorpool.config import grids
from motorpool.kernels.pairs.geometry import Metric
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.spark.coreset import UnfitError

Progress = Callable[[str], None]
#: k-distances float64[m], ascending, by metric and k.
Curves = Mapping[tuple[Metric, int], np.ndarray]

#: Combinations of eps and min_samples that a joining pass takes at most where most of them are no model: 12 bytes a row
#: each.
_MODELS_OF_A_PASS = 128
#: Lists of this many neighbours hold the first rounds of a spanning tree: each round that they miss is a search.
LISTED = 16


@dataclass
class Job:
    """Models of one grid on one feature set that are to be fitted."""

    grid: grids.Grid
    specs: list[ModelSpec]


def apart(job: Job) -> list[Job]:
    """A job in the parts that are fitted one by one.

    Trees of bisections serve a range of k each. A pass over pairs joins rows for all its eps with all its min_samples;
    with ``eps: auto`` every min_samples has eps of its own, so only a few of them share a pass.
    """
    if isinstance(job.grid, grids.BisectingGrid):
        parts = [tree_for(k) for k in _numbers(job.specs, "k")]
    elif isinstance(job.grid, grids.DbscanGrid) and job.grid.eps == "auto":
        asked = _numbers(job.specs, "min_samples")
        least = sorted(set(asked))
        # An engine for cells works for each combination anew.
        most = _MODELS_OF_A_PASS if job.grid.way == "pairs" else 1
        together = max(1, math.isqrt(most // len(grids.AUTO_QUANTILES)))
        parts = [least.index(m) // together for m in asked]
    else:
        return [job]
    found: dict[int, list[ModelSpec]] = {}
    for part, spec in zip(parts, job.specs, strict=True):
        found.setdefault(part, []).append(spec)
    return [Job(job.grid, specs) for specs in found.values()]


@dataclass
class FittedGrid:
    """``labelled`` holds the models of ``specs`` in their order; ``failed`` those that found no model, and why."""

    specs: list[ModelSpec]
    labelled: Labelled | None
    facts: list[Facts]
    failed: list[tuple[ModelSpec, str]] = field(default_factory=list)
    release: Callable[[], object] = lambda: None


class Fitting:
    """Fits the jobs of one feature set; density-based ones share one pass over all pairs for each metric.

    On ``backend`` run the passes of KMeans, DBSCAN and HDBSCAN over all rows; the other algorithms know the CPU alone.
    ``curves`` holds those that models with ``eps: auto`` read (`DbscanGrid.reads`).

    Use as a context manager: leaving it drops what was kept.
    """

    def __init__(
        self,
        block_df: DataFrame,
        jobs: Sequence[Job],
        seed: int,
        progress: Progress,
        backend: Backend = CPU,
        curves: Curves | None = None,
    ) -> None:
        self.block_df = block_df
        self.jobs = list(jobs)
        self.seed = seed
        self.progress = progress
        self.backend = backend
        self._neighbours: dict[Metric, _Neighbours] = {}
        self.curves = curves or {}

    def __enter__(self) -> Fitting:
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._neighbours.values():
            found.state.unpersist()
            found.arranged.release()

    def fit(self, job: Job) -> FittedGrid:
        """The models of a job; those that its algorithm cannot fit on these rows are among the failed."""
        try:
            fitted = self._fit(job)
        except UnfitError as exc:
            return FittedGrid([], None, [], [(spec, str(exc)) for spec in job.specs])
        for spec, facts in zip(fitted.specs, fitted.facts, strict=True):
            facts.asked = job.grid.asked(dict(spec.params))
        return fitted

    def _fit(self, job: Job) -> FittedGrid:
        grid = job.grid
        if isinstance(grid, grids.KMeansGrid):
            return self._kmeans(grid, job.specs)
        if isinstance(grid, grids.MiniBatchGrid):
            return self._minibatch(grid, job.specs)
        if isinstance(grid, grids.BisectingGrid):
            return self._bisecting(grid, job.specs)
        if isinstance(grid, grids.AgglomerativeGrid):
            return self._agglomerative(grid, job.specs)
        if isinstance(grid, grids.MixtureGrid):
            return self._mixtures(grid, job.specs)
        if isinstance(grid, grids.DbscanGrid):
            return self._dbscan(grid, job.specs)
        return self._hdbscan(grid, job.specs)

    # -- centroids and mixtures --------------------------------------------------------------------

    def _kmeans(self, grid: grids.KMeansGrid, specs: list[ModelSpec]) -> FittedGrid:
        models = fit_kmeans(
            self.block_df,
            _numbers(specs, "k"),
            n_init=grid.n_init,
            max_iter=grid.max_iter,
            tol=grid.tol,
            seed=self.seed,
            progress=self.progress,
            backend=self.backend,
        )
        facts = [_centroid_facts(m, m.n_iter, self.backend) for m in models]
        return FittedGrid(specs, by_centroids(self.block_df, [m.centroids for m in models], self.backend), facts)

    def _minibatch(self, grid: grids.MiniBatchGrid, specs: list[ModelSpec]) -> FittedGrid:
        models = fit_minibatch_kmeans(
            self.block_df,
            _numbers(specs, "k"),
            seed=self.seed,
            batch_size=grid.batch_size,
            n_init=grid.n_init,
            max_iter=grid.max_iter,
            progress=self.progress,
        )
        facts = [_centroid_facts(m, m.n_steps, CPU) for m in models]
        return FittedGrid(specs, by_centroids(self.block_df, [m.centroids for m in models], self.backend), facts)

    def _bisecting(self, grid: grids.BisectingGrid, specs: list[ModelSpec]) -> FittedGrid:
        ks = _numbers(specs, "k")
        tree = fit_bisecting(
            self.block_df,
            ks,
            n_init=grid.n_init,
            max_iter=grid.max_iter,
            tol=grid.tol,
            seed=self.seed,
            progress=self.progress,
        )
        trees = [tree.first(k) for k in ks]
        facts = [
            Facts(
                tree.seconds / len(ks),
                own.n_iter,
                own.converged,
                float(own.inertia[own.leaves(k)].sum()),
                centres=own.centroids[own.leaves(k)],
                parameters={"left": own.left, "centroids": own.centroids, "leaves": own.leaves(k)},
            )
            for k, own in zip(ks, trees, strict=True)
        ]
        return FittedGrid(specs, by_tree(self.block_df, tree, ks), facts)

    def _agglomerative(self, grid: grids.AgglomerativeGrid, specs: list[ModelSpec]) -> FittedGrid:
        wanted = [(s.param("linkage"), int(s.param("n_clusters"))) for s in specs]
        linkages = list(dict.fromkeys(method for method, _ in wanted))
        found = fit_agglomerative(
            self.block_df,
            sorted({k for _, k in wanted}),
            linkages,  # type: ignore[arg-type]
            micro_clusters=grid.micro_clusters,
            seed=self.seed,
            progress=self.progress,
        )
        trees = {str(tree.linkage): tree for tree in found.trees}
        # The micro-clusters and the trees are stored with the first model that uses them.
        first = {method: next(s for s, w in zip(specs, wanted, strict=True) if w[0] == method) for method in linkages}
        facts = []
        for spec, (method, k) in zip(specs, wanted, strict=True):
            own = {"clusters": trees[method].clusters[k]}
            if spec is first[method]:
                own["merges"] = trees[method].merges
            if spec is specs[0]:
                own["centroids"] = found.micro.centroids
            of = {"tree_of": first[method].model_id, "micro_clusters_of": specs[0].model_id}
            facts.append(Facts(found.seconds / len(specs) + trees[method].seconds, found=of, parameters=own))
        cuts = [trees[method].clusters[k] for method, k in wanted]
        return FittedGrid(specs, by_micro_clusters(self.block_df, found.micro, cuts), facts)

    def _mixtures(self, grid: grids.MixtureGrid, specs: list[ModelSpec]) -> FittedGrid:
        wanted = [(int(s.param("n_components")), s.param("covariance_type")) for s in specs]
        mixtures = fit_mixtures(
            self.block_df,
            wanted,  # type: ignore[arg-type]
            seed=self.seed,
            n_init=grid.n_init,
            max_iter=grid.max_iter,
            tol=grid.tol,
            reg_covar=grid.reg_covar,
            progress=self.progress,
        )
        good = [i for i, m in enumerate(mixtures) if not m.failure]
        failed = [(s, m.failure) for s, m in zip(specs, mixtures, strict=True) if m.failure]
        labelled = by_mixtures(self.block_df, [mixtures[i] for i in good]) if good else None
        return FittedGrid([specs[i] for i in good], labelled, [_mixture_facts(mixtures[i]) for i in good], failed)

    # -- density -----------------------------------------------------------------------------------

    def _dbscan(self, grid: grids.DbscanGrid, specs: list[ModelSpec]) -> FittedGrid:
        eps_of = [self._eps_of(grid, s) for s in specs]
        least = _numbers(specs, "min_samples")
        cells = DbscanGrid(tuple(sorted(set(eps_of))), tuple(sorted(set(least))))
        near = self._neighbourhood(grid.metric) if grid.way == "pairs" else None
        began = time.monotonic()
        if near is not None:
            labelled = fit_dbscan(near.arranged, near.state, near.radii, cells, self.progress, self.backend)
        else:
            labelled = fit_dbscan_cells(
                self.block_df,
                cells,
                metric=grid.metric,
                seed=self.seed,
                engine=self.backend.engine(),
                progress=self.progress,
            )
        at = [
            cells.eps.index(eps) * len(cells.min_samples) + cells.min_samples.index(m)
            for eps, m in zip(eps_of, least, strict=True)
        ]
        seconds = (near.seconds_each if near else 0.0) + (time.monotonic() - began) / len(specs)
        facts = [
            Facts(
                seconds,
                by_density=True,
                found={"eps": repr(eps)} if grid.eps == "auto" else {},
                parameters={"eps": np.array([eps])},
                backend=self.backend.name,
            )
            for eps in eps_of
        ]
        return FittedGrid(specs, labelled.pick(at), facts, release=labelled.df.unpersist)

    def _hdbscan(self, grid: grids.HdbscanGrid, specs: list[ModelSpec]) -> FittedGrid:
        near = self._neighbourhood(grid.metric)
        began = time.monotonic()
        cells = HdbscanGrid(tuple(_numbers(specs, "min_cluster_size")), grid.min_samples, grid.method)
        models = fit_hdbscan(near.arranged, near.state, cells, self.progress, self.backend)
        seconds = near.seconds_each + (time.monotonic() - began) / len(specs)
        facts = [
            Facts(
                seconds,
                by_density=True,
                parameters={"births": f.births, "deaths": f.deaths},
                backend=self.backend.name,
            )
            for f in models.flat
        ]
        return FittedGrid(specs, models.labelled, facts, release=models.labelled.df.unpersist)

    def _neighbourhood(self, metric: Metric) -> _Neighbours:
        """Counts and lists for every job of this metric, from one pass over all pairs."""
        if metric not in self._neighbours:
            began = time.monotonic()
            self.progress(f"arranging rows for {metric} distances")
            arranged = arrange(self.block_df, metric, self.seed)
            jobs = [j for j in self.jobs if _by_pairs(j.grid) and j.grid.metric == metric]
            dbscan = [(j.grid, s) for j in jobs if isinstance(j.grid, grids.DbscanGrid) for s in j.specs]
            hdbscan = [j.grid for j in jobs if isinstance(j.grid, grids.HdbscanGrid)]
            radii = tuple(sorted({self._eps_of(grid, s) for grid, s in dbscan}))
            enough = max(_numbers([s for _, s in dbscan], "min_samples"), default=1)
            k = max((max(g.min_samples - 1, LISTED) for g in hdbscan), default=0)
            state = search(arranged, Wanted(radii, enough, k), self.progress, self.backend)
            seconds = (time.monotonic() - began) / max(1, sum(len(j.specs) for j in jobs))
            self._neighbours[metric] = _Neighbours(arranged, state, radii, seconds)
        return self._neighbours[metric]

    def _eps_of(self, grid: grids.DbscanGrid, spec: ModelSpec) -> float:
        k = grid.reads(dict(spec.params))
        if k is None:
            return float(spec.param("eps"))
        return float(np.quantile(self.curves[grid.metric, k], float(spec.param("quantile"))))


@dataclass
class _Neighbours:
    arranged: Arranged
    state: DataFrame
    radii: tuple[float, ...]
    seconds_each: float


def _by_pairs(grid: grids.Grid) -> TypeGuard[grids.DbscanGrid | grids.HdbscanGrid]:
    """Whether a grid takes its part of the pass over all pairs."""
    return isinstance(grid, grids.HdbscanGrid) or (isinstance(grid, grids.DbscanGrid) and grid.way == "pairs")


def _numbers(specs: Sequence[ModelSpec], name: str) -> list[int]:
    return [int(s.param(name)) for s in specs]


def _centroid_facts(model: KMeansModel | MiniBatchModel, n_iter: int, backend: Backend) -> Facts:
    return Facts(
        model.seconds,
        n_iter,
        model.converged,
        model.inertia,
        centres=model.centroids,
        parameters={"centroids": model.centroids},
        backend=backend.name,
    )


def _mixture_facts(mixture: Mixture) -> Facts:
    return Facts(
        mixture.seconds,
        mixture.n_iter,
        mixture.converged,
        bic=mixture.bic,
        aic=mixture.aic,
        centres=mixture.means.astype(np.float32),
        parameters={"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances},
    )
