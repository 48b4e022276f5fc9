"""Fitting one step from statistics or from a sample of its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from motorpool.errors import CaseError
from motorpool.features.moments import Stats
from motorpool.features.program import Op
from motorpool.features.spec import Step

#: Below this share of the largest variance a direction is rounding of the float32 input, not data.
_NEGLIGIBLE = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Spectrum:
    """What a pca or svd step kept: ``curve`` float64[d] is the share of variance of every component."""

    kept: int
    curve: np.ndarray

    @property
    def explained(self) -> float:
        return float(self.curve[: self.kept].sum())


def needs(step: Step) -> str:
    """What fitting the step asks for: ``nothing``, ``moments``, ``range`` (moments with min and max) or ``sample``."""
    if step.kind == "l2":
        return "nothing"
    if step.kind in ("clip", "robust"):
        return "sample"
    return "range" if step.kind == "minmax" else "moments"


def fit_step(step: Step, stats: Stats | None, sample: np.ndarray | None, where: str) -> tuple[Op, Spectrum | None]:
    """Fit one step; ``where`` names it in errors, ``sample`` is float32[m, d] of its input.

    The scalers follow scikit-learn's StandardScaler, MinMaxScaler and RobustScaler: a column without
    spread is only shifted. ``pca`` is scikit-learn's PCA by the covariance matrix, ``svd`` its
    TruncatedSVD (no centring), both equal up to sign; here the largest entry of a component is positive.

    Raises CaseError when more components are asked for than the data have.
    """
    if step.kind == "l2":
        return Op("l2"), None
    if step.kind in ("clip", "robust"):
        if sample is None:
            raise ValueError(f"{step.kind} needs a sample")
        return _fit_quantiles(step, sample), None
    if stats is None:
        raise ValueError(f"{step.kind} needs moments")
    if step.kind == "standard":
        return _fit_standard(stats), None
    if step.kind == "minmax":
        return _fit_minmax(stats), None
    return _fit_components(step, stats, where)


def _fit_standard(stats: Stats) -> Op:
    # Population variance, as StandardScaler takes it.
    var = np.diag(stats.cov) * ((stats.n - 1) / stats.n)
    flat = var <= (10 * _NEGLIGIBLE * np.abs(stats.mean)) ** 2
    # After a projection the mean is zero and the largest variance is the yardstick instead.
    flat |= var <= var.max(initial=0.0) * stats.width * _NEGLIGIBLE**2
    if stats.min is not None and stats.max is not None:
        flat = stats.min == stats.max
    scale = 1 / np.sqrt(np.where(flat, 1.0, var))
    return Op("scale", {"scale": scale, "offset": -stats.mean * scale})


def _fit_minmax(stats: Stats) -> Op:
    if stats.min is None or stats.max is None:
        raise ValueError("minmax needs the range")
    low, high = stats.min.astype(np.float64), stats.max.astype(np.float64)
    scale = 1 / np.where(high > low, high - low, 1.0)
    return Op("scale", {"scale": scale, "offset": -low * scale})


def _fit_quantiles(step: Step, sample: np.ndarray) -> Op:
    if not isinstance(step.param, tuple):
        raise ValueError(f"{step}: has no quantiles")
    low, high = np.quantile(sample.astype(np.float64), step.param, axis=0)
    if step.kind == "clip":
        return Op("clip", {"low": low, "high": high})
    median = np.median(sample.astype(np.float64), axis=0)
    scale = 1 / np.where(high > low, high - low, 1.0)
    return Op("scale", {"scale": scale, "offset": -median * scale})


def _fit_components(step: Step, stats: Stats, where: str) -> tuple[Op, Spectrum]:
    centred = step.kind == "pca"
    limit = min(stats.n, stats.width)
    if isinstance(step.param, int) and step.param > limit:
        raise CaseError(
            f"{where}: {step}: there are {stats.n} images of {stats.width} columns, so at most {limit} components"
        )
    matrix = stats.cov if centred else stats.cov * ((stats.n - 1) / stats.n) + np.outer(stats.mean, stats.mean)
    # Divide and conquer finds all d eigenvectors; d is a few thousand at most, and this runs once.
    values, vectors = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
    vectors = vectors[:, ::-1]
    if centred:
        variances = np.clip(values[::-1], 0.0, None)
    else:
        variances = np.einsum("ij,ij->j", vectors, stats.cov @ vectors)
    total = float(np.trace(stats.cov))
    curve = variances / total if total > 0 else np.zeros(stats.width)
    if isinstance(step.param, float):
        kept = min(int(np.searchsorted(np.cumsum(curve), step.param, side="right")) + 1, limit)
    else:
        kept = step.param if isinstance(step.param, int) else limit
    components = np.ascontiguousarray(vectors[:, :kept])
    largest = np.abs(components).argmax(axis=0)
    components *= np.where(components[largest, np.arange(kept)] < 0, -1.0, 1.0)
    centre = stats.mean if centred else np.zeros(stats.width)
    return Op("project", {"centre": centre, "components": components}), Spectrum(kept, curve)
