"""Where the EM of Gaussian mixtures starts: parameters that are given, or the clusters of KMeans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame

from motorpool.cluster.centroids.kmeans import fit_kmeans
from motorpool.cluster.mixtures.passes import assignment_pass
from motorpool.kernels.centroids.gaussians import (
    CovarianceType,
    NotPositiveDefiniteError,
    Parameters,
    covariance_shape,
    inverse,
)

Grid = Sequence[tuple[int, CovarianceType]]


@dataclass(frozen=True)
class Start:
    """Weights float64[k], means float64[k, d] and precisions (inverse covariances) in the shape of their type.

    The same as scikit-learn's ``weights_init``, ``means_init`` and ``precisions_init``.
    """

    weights: np.ndarray
    means: np.ndarray
    precisions: np.ndarray


@dataclass(frozen=True)
class Beginning:
    """Parameters, about the mean of all rows, that the ``entry``-th model of a grid starts from; seconds spent."""

    entry: int
    parameters: Parameters
    seconds: float = 0.0


def given_starts(grid: Grid, starts: Sequence[Start], mean: np.ndarray) -> list[Beginning]:
    """One start per entry of the grid; ValueError names the one that cannot be used."""
    if len(starts) != len(grid):
        raise ValueError(f"{len(starts)} starts for {len(grid)} mixtures: give one for each")
    return [
        Beginning(entry, _parameters(f"start {entry} ({k} components, {kind})", k, kind, start, mean))
        for entry, ((k, kind), start) in enumerate(zip(grid, starts, strict=True))
    ]


def _parameters(name: str, k: int, kind: CovarianceType, start: Start, mean: np.ndarray) -> Parameters:
    weights, means, precisions = (np.asarray(a, np.float64) for a in (start.weights, start.means, start.precisions))
    found = weights.shape, means.shape, precisions.shape
    expected = (k,), (k, len(mean)), covariance_shape(kind, k, len(mean))
    if found != expected:
        raise ValueError(f"{name}: weights, means and precisions have shapes {found}, not {expected}")
    if not (np.all(weights >= 0) and np.isclose(weights.sum(), 1.0)):
        raise ValueError(f"{name}: weights must not be negative and sum to 1; they sum to {weights.sum():g}")
    try:
        covariances = inverse(kind, precisions)
    except NotPositiveDefiniteError as exc:
        raise ValueError(f"{name}: its precisions are not positive definite") from exc
    return Parameters(kind, weights, means - mean, covariances)


def kmeans_starts(
    block_df: DataFrame,
    grid: Grid,
    mean: np.ndarray,
    total: np.ndarray | None,
    *,
    seed: int,
    n_init: int,
    reg_covar: float,
    progress: Callable[[str], None],
) -> list[Beginning]:
    """``n_init`` starts per entry: an M-step on the clusters of KMeans, which all types of one k share.

    One more pass than KMeans takes. ``total`` is the scatter of all rows where the grid has tied covariances.
    """
    ks = sorted({k for k, _ in grid})
    fitted = []
    for start in range(n_init):
        state = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
        fitted += fit_kmeans(block_df, ks, seed=state, progress=lambda text: progress(f"KMeans for starts: {text}"))
    pairs = [(i, entry) for i, m in enumerate(fitted) for entry, (k, _) in enumerate(grid) if k == m.k]
    models = [(i, grid[entry][1]) for i, entry in pairs]
    sums = assignment_pass(block_df, [m.centroids for m in fitted], models, mean)
    sharing = np.bincount([i for i, _ in pairs])
    return [
        Beginning(entry, s.parameters(reg_covar, total), fitted[i].seconds / int(sharing[i]))
        for (i, entry), s in zip(pairs, sums, strict=True)
    ]
