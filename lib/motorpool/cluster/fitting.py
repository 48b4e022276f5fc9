"""Fitting the models of a config's grids on one feature set, with passes that several of them share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.algorithm import Algorithm, Curves
from motorpool.cluster.grid import Metric, ModelGrid
from motorpool.cluster.models import FittedModels, ModelSpec
from motorpool.cluster.registry import ALGORITHMS
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.spark.coreset import UnfitError

Progress = Callable[[str], None]


@dataclass
class Job:
    """Models of one grid on one feature set that are to be fitted."""

    grid: ModelGrid
    specs: list[ModelSpec]

    @property
    def algorithm(self) -> Algorithm[Any]:
        return ALGORITHMS[self.grid.algorithm]


def apart(job: Job) -> list[Job]:
    """A job in the parts that are fitted one by one (`Algorithm.parts`)."""
    parts = job.algorithm.parts
    if parts is None:
        return [job]
    found: dict[int, list[ModelSpec]] = {}
    for part, spec in zip(parts(job.grid, job.specs), job.specs, strict=True):
        found.setdefault(part, []).append(spec)
    return [Job(job.grid, specs) for specs in found.values()]


@dataclass(frozen=True)
class Neighbours:
    """What one pass over all pairs found for the models of a metric: ``state`` as `search` gives it for ``radii``.

    ``seconds_each`` is each model's share of the time that it took.
    """

    arranged: Arranged
    state: DataFrame
    radii: tuple[float, ...]
    seconds_each: float


class Fitting:
    """Fits the jobs of one feature set: what an algorithm's ``fit`` gets beside its grid and its models.

    ``block_df`` has the rows in persisted blocks. ``backend`` runs the passes of algorithms that know it; the others
    run on the CPU. ``curves`` holds those that models read (`ModelGrid.reads`).

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
        self.curves = curves or {}
        self._neighbours: dict[Metric, Neighbours] = {}

    def __enter__(self) -> Fitting:
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._neighbours.values():
            found.state.unpersist()
            found.arranged.release()

    def fit(self, job: Job) -> FittedModels:
        """The models of a job; those that its algorithm cannot fit on these rows are among the failed."""
        try:
            fitted = job.algorithm.fit(self, job.grid, job.specs)
        except UnfitError as exc:
            return FittedModels(None, [], dict.fromkeys(job.specs, str(exc)))
        for model in fitted.models:
            model.facts.asked = job.grid.asked(dict(model.spec.params))
            model.facts.by_density = job.algorithm.by_density
        return fitted

    def neighbours(self, metric: Metric) -> Neighbours:
        """Counts and lists for all jobs of this metric, from one pass over all pairs (`Algorithm.wanted`).

        Memory and cost are those of `search`. The caller leaves ``state`` persisted: other jobs read it.
        """
        if metric not in self._neighbours:
            began = time.monotonic()
            wanted, n_models = self._wanted(metric)
            self.progress(f"arranging rows for {metric} distances")
            arranged = arrange(self.block_df, metric, self.seed)
            state = search(arranged, wanted, self.progress, self.backend)
            seconds = (time.monotonic() - began) / max(1, n_models)
            self._neighbours[metric] = Neighbours(arranged, state, wanted.radii, seconds)
        return self._neighbours[metric]

    def _wanted(self, metric: Metric) -> tuple[Wanted, int]:
        """What all jobs of a metric want together, and how many models they have."""
        parts, n_models = [], 0
        for job in self.jobs:
            wanted = job.algorithm.wanted
            asked = wanted(job.grid, job.specs, self.curves) if wanted else None
            if asked is not None and asked[0] == metric:
                parts.append(asked[1])
                n_models += len(job.specs)
        if not parts:
            raise ValueError(f"no grid wants neighbours by {metric} distances: say so in its algorithm's `wanted`")
        radii = tuple(sorted({radius for part in parts for radius in part.radii}))
        return Wanted(radii, max(part.enough for part in parts), max(part.k for part in parts)), n_models
