"""Gaussian mixtures: their grid, how they are fitted, and how they label new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import Facts, FittedModel, FittedModels, ModelSpec
from motorpool.settings import Counts, as_list

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.mixtures.mixture import Mixture
    from motorpool.cluster.stored import NewImages

# As `kernels.centroids.gaussians` has it, which loads SciPy, that reading a config does not need.
CovarianceType = Literal["full", "tied", "diag", "spherical"]


class MixtureGrid(ModelGrid):
    """Gaussian mixtures for every number of components and covariance type."""

    crossed = ("n_components", "covariance_type")
    shared = ("n_init", "max_iter", "tol", "reg_covar")
    count = "n_components"

    algorithm: Literal["gaussian_mixture"] = Field(description="Name of the algorithm.")
    n_components: Counts = Field(description="Numbers of components, such as `2..8`, `9` or `[2, 5, 9]`.")
    covariance_type: Annotated[tuple[CovarianceType, ...], BeforeValidator(as_list)] = Field(
        default=("full",), description="One form of the covariances or several, as in scikit-learn."
    )
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of EM iterations.")
    tol: float = Field(
        default=1e-3, ge=0, description="A model is done where the mean log-likelihood gains less than this."
    )
    reg_covar: float = Field(default=1e-6, ge=0, description="Added to the diagonals of the covariances.")


def _fit(fitting: Fitting, grid: MixtureGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.mixtures.labels import by_mixtures
    from motorpool.cluster.mixtures.mixture import fit_mixtures

    mixtures = fit_mixtures(
        fitting.block_df,
        [(int(s.param("n_components")), cast(CovarianceType, s.param("covariance_type"))) for s in specs],
        seed=fitting.seed,
        n_init=grid.n_init,
        max_iter=grid.max_iter,
        tol=grid.tol,
        reg_covar=grid.reg_covar,
        progress=fitting.progress,
    )
    both = list(zip(specs, mixtures, strict=True))
    good = [(s, m) for s, m in both if not m.failure]
    labelled = by_mixtures(fitting.block_df, [m for _, m in good]) if good else None
    models = [FittedModel(s, _facts(m), column) for column, (s, m) in enumerate(good)]
    return FittedModels(labelled, models, {s: m.failure for s, m in both if m.failure})


def _facts(mixture: Mixture) -> Facts:
    import numpy as np

    return Facts(
        mixture.seconds,
        mixture.n_iter,
        mixture.converged,
        bic=mixture.bic,
        aic=mixture.aic,
        centres=mixture.means.astype(np.float32),
        parameters={"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances},
    )


def _relabel(new: NewImages) -> DataFrame:
    """The component of the largest responsibility."""
    from math import nan

    from motorpool.cluster.mixtures.labels import by_mixtures
    from motorpool.cluster.mixtures.mixture import Mixture
    from motorpool.cluster.stored import labels_of_one

    weights, means, covariances = (new.model.arrays[name] for name in ("weights", "means", "covariances"))
    kind = cast(CovarianceType, new.model.params["covariance_type"])
    # Scores and counts of the fit are of no consequence to labels.
    mixture = Mixture(
        len(weights), kind, weights, means, covariances,
        log_likelihood=nan, bic=nan, aic=nan, n_iter=0, converged=True, seconds=0.0,
    )  # fmt: skip
    return labels_of_one(by_mixtures(new.blocks, [mixture]))


ALGORITHM = Algorithm(
    "gaussian_mixture",
    "Gaussian mixture",
    MixtureGrid,
    _fit,
    stored=("weights", "means", "covariances"),
    relabel=_relabel,
)
