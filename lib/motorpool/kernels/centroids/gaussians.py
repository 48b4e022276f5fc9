"""Gaussian mixtures block by block: densities, sums of one EM iteration, and the parameters that follow.

Everything is float64. Rows come centred on the mean of all rows, so that expanded squares lose no digits to a
far-off origin. Two formulas carry the work (Bishop 2006, section 9.2): for full covariances the E-step is one
product with a triangular matrix per component and the M-step one symmetric product, 2 n d^2 operations together
instead of the 4 n d^2 of two general products. Float32 would halve the time again, but its covariances lose the
directions in which a component is a few thousand times narrower than the data, where reg_covar still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from scipy.linalg import blas

CovarianceType = Literal["full", "tied", "diag", "spherical"]
COVARIANCE_TYPES: tuple[CovarianceType, ...] = get_args(CovarianceType)

#: Added to the counts, as scikit-learn does: a component without rows divides by this instead of zero.
_NO_ROWS = 10 * float(np.finfo(np.float64).eps)
#: Responsibilities below this leave the scatter: those of 10^9 rows together stay below ``_NO_ROWS``.
_NEGLIGIBLE = 1e-24


class NotPositiveDefiniteError(ValueError):
    """A covariance has a direction without variance, so its density does not exist."""


@dataclass(frozen=True)
class Parameters:
    """One mixture of k components in d dimensions.

    weights float64[k]; means float64[k, d]; covariances float64 in scikit-learn's shapes: [k, d, d] for
    ``full``, [d, d] for ``tied``, [k, d] for ``diag``, [k] for ``spherical``.
    """

    covariance_type: CovarianceType
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def moved(self, by: np.ndarray) -> Parameters:
        """The same mixture for rows moved by float64[d]."""
        return Parameters(self.covariance_type, self.weights, self.means + by, self.covariances)


def covariance_shape(covariance_type: CovarianceType, k: int, d: int) -> tuple[int, ...]:
    shapes: dict[CovarianceType, tuple[int, ...]] = {
        "full": (k, d, d),
        "tied": (d, d),
        "diag": (k, d),
        "spherical": (k,),
    }
    return shapes[covariance_type]


def n_parameters(covariance_type: CovarianceType, k: int, d: int) -> int:
    """Free parameters of a mixture: what the information criteria charge for."""
    of_covariances: dict[CovarianceType, int] = {
        "full": k * d * (d + 1) // 2,
        "tied": d * (d + 1) // 2,
        "diag": k * d,
        "spherical": k,
    }
    return of_covariances[covariance_type] + k * d + k - 1


def inverse(covariance_type: CovarianceType, precisions: np.ndarray) -> np.ndarray:
    """Covariances from precisions of the same shape; NotPositiveDefiniteError when one is not."""
    if covariance_type in ("diag", "spherical"):
        if not np.all(precisions > 0):
            raise NotPositiveDefiniteError("a precision is not positive")
        return 1.0 / precisions
    whiten = _whiten(precisions)
    result: np.ndarray = np.swapaxes(whiten, -1, -2) @ whiten
    return result


def _whiten(covariances: np.ndarray) -> np.ndarray:
    """Inverse Cholesky factors: lower triangular W with W C W^T = 1, for float64[..., d, d]."""
    d = covariances.shape[-1]
    result = np.empty_like(covariances)
    for index in np.ndindex(covariances.shape[:-2]):
        which = f"the covariance of component {index[0]}" if index else "the covariance"
        try:
            # SciPy's checks turn NaN and infinity into a ValueError; a plain NumPy factor would carry them on.
            factor = scipy.linalg.cholesky(covariances[index], lower=True)
        except (np.linalg.LinAlgError, ValueError) as exc:
            raise NotPositiveDefiniteError(f"{which} is not positive definite") from exc
        result[index] = scipy.linalg.solve_triangular(factor, np.eye(d), lower=True)
    return result


class Density:
    """A mixture made ready for its E-step: the weighted log densities of rows.

    Holds one d x d factor per component (``full``) or in all (``tied``). NotPositiveDefiniteError when the
    parameters have no density.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.covariance_type = parameters.covariance_type
        self.means = parameters.means
        d = self.means.shape[1]
        covariances = parameters.covariances
        if self.covariance_type in ("full", "tied"):
            self.factors = _whiten(covariances)
            log_dets = np.log(np.diagonal(self.factors, axis1=-2, axis2=-1)).sum(axis=-1)
        else:
            short = np.argwhere(~((covariances > 0) & np.isfinite(covariances)))
            if len(short):
                raise NotPositiveDefiniteError(f"a variance of component {short[0, 0]} is not positive")
            # One variance for all columns is the diagonal case with equal columns.
            variances = covariances if self.covariance_type == "diag" else np.repeat(covariances[:, None], d, axis=1)
            self.factors = 1.0 / variances
            log_dets = 0.5 * np.log(self.factors).sum(axis=1)
        with np.errstate(divide="ignore"):
            # A component that starts with weight 0 has log density -inf everywhere and takes no row.
            self.constants = np.log(parameters.weights) + log_dets - 0.5 * d * np.log(2 * np.pi)

    @property
    def needs_squares(self) -> bool:
        return self.covariance_type in ("diag", "spherical")

    def log_joint(self, x: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
        """log(weight_j) + log N(row; mean_j, covariance_j) as float64[n, k] for float64[n, d] rows.

        ``squares`` is x**2, for callers that have it. Memory: one more float64[n, d].
        """
        if self.covariance_type == "full":
            squared = self._squared_full(x)
        elif self.covariance_type == "tied":
            squared = _squared(x @ self.factors.T, self.means @ self.factors.T)
        else:
            squares = np.square(x) if squares is None else squares
            scaled = self.means * self.factors
            squared = squares @ self.factors.T - 2.0 * (x @ scaled.T) + (scaled * self.means).sum(axis=1)
        result: np.ndarray = self.constants - 0.5 * squared
        return result

    def _squared_full(self, x: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances float64[n, k]."""
        result = np.empty((len(x), len(self.means)))
        for j, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            # BLAS counts columns first: the transpose of C-ordered rows is its own layout, changed in place.
            y = blas.dtrmm(1.0, factor, (x - mean).T, lower=1, overwrite_b=1).T
            result[:, j] = np.vecdot(y, y)
        return result


def _squared(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances float64[n, k] of float64[n, d] to float64[k, d]."""
    result: np.ndarray = np.vecdot(x, x)[:, None] - 2.0 * (x @ centres.T) + np.vecdot(centres, centres)
    return result


def responsibilities(log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior probabilities float64[n, k] of the components, and log densities float64[n] of the rows."""
    largest = log_joint.max(axis=1)
    share = np.exp(log_joint - largest[:, None])
    total = share.sum(axis=1)
    share /= total[:, None]
    return share, largest + np.log(total)


class Sums:
    """What one pass adds up for one mixture; merges exactly.

    counts float64[k]; first float64[k, d] and second moments of the rows by responsibility: [k, d, d] for
    ``full``, about ``centres`` (the means of the E-step), which keeps the digits of narrow components far from the
    overall mean; [k, d] about zero for ``diag`` and ``spherical``; none for ``tied``, whose scatter does not
    depend on the responsibilities.
    """

    def __init__(self, covariance_type: CovarianceType, centres: np.ndarray) -> None:
        k, d = centres.shape
        self.covariance_type = covariance_type
        self.centres = centres if covariance_type == "full" else np.zeros((k, d))
        self.counts = np.zeros(k)
        self.first = np.zeros((k, d))
        self.second = np.zeros({"full": (k, d, d), "tied": ()}.get(covariance_type, (k, d)))

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + self.second.nbytes

    def add(self, x: np.ndarray, squares: np.ndarray | None, share: np.ndarray) -> None:
        """Add float64[n, d] rows, their squares (for diag and spherical) and float64[n, k] responsibilities."""
        self.counts += share.sum(axis=0)
        if self.covariance_type == "full":
            self._add_full(x, share)
            return
        self.first += share.T @ x
        if self.covariance_type != "tied":
            self.second += share.T @ (np.square(x) if squares is None else squares)

    def _add_full(self, x: np.ndarray, share: np.ndarray) -> None:
        for j, centre in enumerate(self.centres):
            # In many dimensions most rows belong to one component alone.
            rows = np.flatnonzero(share[:, j] > _NEGLIGIBLE)
            root = np.sqrt(share[rows, j])
            scaled = x[rows]
            scaled -= centre
            scaled *= root[:, None]
            self.first[j] += root @ scaled
            # NumPy hands A.T @ A to the symmetric BLAS routine: half the work of a general product.
            self.second[j] += scaled.T @ scaled

    def merge(self, other: Sums) -> None:
        self.counts += other.counts
        self.first += other.first
        self.second += other.second

    def parameters(self, reg_covar: float, total: np.ndarray | None = None) -> Parameters:
        """The M-step, with ``reg_covar`` added to every variance.

        ``total`` is the scatter float64[d, d] of all rows about zero, for ``tied``. A component without
        rows keeps its centre (``full``) or falls to zero, the overall mean, with covariance ``reg_covar``.
        """
        counts = self.counts + _NO_ROWS
        moved = self.first / counts[:, None]
        means = self.centres + moved
        d = means.shape[1]
        if self.covariance_type == "full":
            covariances = self.second / counts[:, None, None] - moved[:, :, None] * moved[:, None, :]
            covariances[:, range(d), range(d)] += reg_covar
        elif self.covariance_type == "tied":
            if total is None:
                raise ValueError("a tied covariance needs the scatter of all rows")
            covariances = (total - (counts[:, None] * means).T @ means) / counts.sum()
            covariances[range(d), range(d)] += reg_covar
        else:
            # Rounding may leave a trace below zero where a component has no spread.
            covariances = np.maximum(self.second / counts[:, None] - np.square(means), 0.0) + reg_covar
            if self.covariance_type == "spherical":
                covariances = covariances.mean(axis=1)
        return Parameters(self.covariance_type, counts / counts.sum(), means, covariances)
