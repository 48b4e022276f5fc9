"""Gaussian mixtures for a whole grid of sizes and covariance types, in shared passes over blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame

from motorpool.cluster.mixtures.passes import em_pass, total_scatter
from motorpool.cluster.mixtures.starts import Beginning, Grid, Start, given_starts, kmeans_starts
from motorpool.kernels.centroids.gaussians import (
    COVARIANCE_TYPES,
    CovarianceType,
    Density,
    NotPositiveDefiniteError,
    Parameters,
    Sums,
    n_parameters,
)
from motorpool.spark.coreset import measure_spread

__all__ = ["Mixture", "Start", "fit_mixtures"]


@dataclass
class Mixture:
    """A fitted mixture: float64 weights[k], means[k, d] and covariances in scikit-learn's shapes.

    log_likelihood is the mean over all rows of their log density under these parameters; bic and aic follow
    from it by scikit-learn's definitions (lower is better). ``converged`` is False when ``max_iter`` ended
    the search. ``seconds`` is an equal share of every pass that it took part in.

    ``failure`` says why there is no model: a covariance lost its inverse. All numbers but n_iter and seconds
    are NaN then.
    """

    n_components: int
    covariance_type: CovarianceType
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    log_likelihood: float
    bic: float
    aic: float
    n_iter: int
    converged: bool
    seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class _Rules:
    """What every iteration goes by; ``total`` is the scatter of all rows, for tied covariances."""

    max_iter: int
    tol: float
    reg_covar: float
    total: np.ndarray | None


class _Run:
    """One start of one entry of the grid on its way up.

    A run that has settled stays for one more pass, which scores its last parameters.
    """

    def __init__(self, beginning: Beginning, rules: _Rules) -> None:
        self.entry = beginning.entry
        self.seconds = beginning.seconds
        self.rules = rules
        self.log_likelihood = -math.inf
        self.n_iter = 0
        self.converged = self.settled = self.scored = False
        self.failure: str | None = None
        self._take(beginning.parameters)

    @property
    def live(self) -> bool:
        return not self.scored and self.failure is None

    @property
    def moving(self) -> bool:
        return self.live and not self.settled

    def step(self, log_likelihood: float, sums: Sums | None) -> None:
        """Move the parameters, or close the run when its last ones have been scored."""
        change = log_likelihood - self.log_likelihood
        self.log_likelihood = log_likelihood
        if sums is None:
            self.scored = True
            return
        self.n_iter += 1
        # As in scikit-learn, the parameters move once more after the change was found to be small.
        self.converged = abs(change) < self.rules.tol
        self.settled = self.converged or self.n_iter == self.rules.max_iter
        self._take(sums.parameters(self.rules.reg_covar, self.rules.total))

    def _take(self, parameters: Parameters) -> None:
        self.parameters = parameters
        try:
            self.density = Density(parameters)
        except NotPositiveDefiniteError as exc:
            self.failure = (
                f"mixture of {len(parameters.weights)} components ({parameters.covariance_type}): {exc} "
                f"after {self.n_iter} iterations: raise reg_covar (it is {self.rules.reg_covar:g}) "
                "or ask for fewer components"
            )


def fit_mixtures(
    block_df: DataFrame,
    grid: Grid,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-3,
    reg_covar: float = 1e-6,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Mixture]:
    """A Gaussian mixture for every (n_components, covariance type) of ``grid``, by exact EM over all rows.

    EM (Dempster, Laird & Rubin 1977) with scikit-learn's formulas and stopping rule: a model settles when an
    iteration changes its mean log-likelihood per row by less than ``tol``. An iteration is one pass over the
    blocks, shared by all models that still move; a last one scores the final parameters. ``reg_covar``, in
    squared units of the data, is added to every variance. A model whose covariance is not positive definite all
    the same gets a ``failure``, and the others go on.

    ``starts`` holds one start per entry of the grid and leaves ``seed`` and ``n_init`` unused. Without it every
    n_components starts from the clusters of this package's KMeans, the same for all its covariance types; of
    ``n_init`` such starts, each from a KMeans of its own, the one with the best log-likelihood wins. The result
    depends on the seed and the rows' ids, and on the partitions only through the order of floating-point sums.

    Memory: the sums of a ``full`` model of k components in d dimensions are 8 k d^2 bytes, held twice by every
    task that merges, and five times by the driver with covariances and factors; those of the others are 8 k d
    bytes, and ``tied`` needs d x d matrices on top. A task works on three float64 copies of a block. Operations
    of one iteration over n rows: about 2 n k d^2 for ``full``, 2 n d^2 for ``tied``, 8 n k d for the others.

    Raises ValueError for an entry of the grid, a start or a setting that makes no sense; UnfitError for starts from
    KMeans as `Spread.check` does.
    """
    _check(grid, n_init, max_iter, reg_covar)
    spread = measure_spread(block_df)
    too_large = [k for k, _ in grid if k > spread.n]
    if too_large:
        raise ValueError(f"n_components = {too_large[0]} asks for more components than there are rows ({spread.n})")
    tied = any(kind == "tied" for _, kind in grid)
    rules = _Rules(max_iter, tol, reg_covar, total_scatter(block_df, spread.mean) if tied else None)
    if starts is not None:
        beginnings = given_starts(grid, starts, spread.mean)
    else:
        beginnings = kmeans_starts(
            block_df, grid, spread.mean, rules.total, seed=seed, n_init=n_init, reg_covar=reg_covar, progress=progress
        )
    runs = [_Run(beginning, rules) for beginning in beginnings]
    passes = 0
    while live := [r for r in runs if r.live]:
        began = time.monotonic()
        state = em_pass(block_df, [r.density for r in live], [r.moving for r in live], spread.mean)
        for run, log_likelihood, sums in zip(live, state.log_likelihood / spread.n, state.sums, strict=True):
            run.step(float(log_likelihood), sums)
        for run in live:
            run.seconds += (time.monotonic() - began) / len(live)
        passes += 1
        progress(f"pass {passes}: {sum(r.moving for r in runs)} of {len(runs)} mixtures still moving")
    return [_best([r for r in runs if r.entry == i], spread.n, spread.mean) for i in range(len(grid))]


def _check(grid: Grid, n_init: int, max_iter: int, reg_covar: float) -> None:
    if not grid:
        raise ValueError("the grid is empty: give at least one (n_components, covariance_type)")
    for k, kind in grid:
        if k < 1:
            raise ValueError(f"n_components = {k}: must be at least 1")
        if kind not in COVARIANCE_TYPES:
            raise ValueError(f"covariance_type = {kind!r}: must be one of {', '.join(COVARIANCE_TYPES)}")
    if n_init < 1:
        raise ValueError(f"n_init = {n_init}: must be at least 1")
    if max_iter < 1:
        raise ValueError(f"max_iter = {max_iter}: must be at least 1")
    if not reg_covar >= 0:
        raise ValueError(f"reg_covar = {reg_covar:g}: must not be negative (squared units of the data)")


def _best(runs: list[_Run], n: int, mean: np.ndarray) -> Mixture:
    run = max(runs, key=lambda r: -math.inf if r.failure else r.log_likelihood)
    found, log_likelihood = run.parameters.moved(mean), run.log_likelihood
    if run.failure:
        weights, means, covariances = (np.full_like(a, np.nan) for a in (found.weights, found.means, found.covariances))
        found, log_likelihood = Parameters(found.covariance_type, weights, means, covariances), math.nan
    kind, (k, d) = found.covariance_type, found.means.shape
    deviance, free = -2 * log_likelihood * n, n_parameters(kind, k, d)
    return Mixture(
        n_components=k,
        covariance_type=kind,
        weights=found.weights,
        means=found.means,
        covariances=found.covariances,
        log_likelihood=log_likelihood,
        bic=deviance + free * math.log(n),
        aic=deviance + 2 * free,
        n_iter=run.n_iter,
        converged=run.converged and run.failure is None,
        seconds=sum(r.seconds for r in runs),
        failure=run.failure,
    )
