"""One pass over vectors that is enough to fit standard, min-max, PCA and SVD steps, in any chain of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dger

#: float32 squares of a column keep their digits while their mean is above this; smaller ones fade into zero.
_FAINT = 2.0**-100


def faded(diagonal: np.ndarray, m: int) -> np.ndarray:
    """bool[d]: of which columns of m rows float32 sums of squares, float[d], may have left float32's range."""
    fine: np.ndarray = np.isfinite(diagonal) & (diagonal >= m * _FAINT)
    return ~fine


def gram(x: np.ndarray) -> np.ndarray:
    """x^T x of float32[m, d] rows, float32[d, d]; float64[d, d] where squares of a column leave float32's range.

    Such columns, of values below about 1e-15 or above 1e18, are brought to about 1 for the product by powers of two,
    which cost no digits.
    """
    # NumPy hands A.T @ A to the symmetric BLAS routine: half the work of a general product.
    with np.errstate(over="ignore", invalid="ignore"):
        product: np.ndarray = x.T @ x
    columns = np.flatnonzero(faded(product.diagonal(), len(x)))
    peaks = np.abs(x[:, columns]).max(axis=0, initial=0.0)
    columns, peaks = columns[peaks > 0], peaks[peaks > 0]
    if not len(columns):
        return product
    scale = np.ones(x.shape[1])
    scale[columns] = np.ldexp(1.0, -np.frexp(peaks)[1])
    scaled = (x * scale).astype(np.float32)
    return (scaled.T @ scaled) / np.outer(scale, scale)


class Moments:
    """Running count, mean, scatter matrix, minimum and maximum of rows; merges exactly.

    Rows come as float32[m, d]. Each block is centred on its own mean before its float32 Gram matrix is
    taken, and blocks are combined in float64 by the parallel update of Chan, Golub & LeVeque (1979,
    eq. 2.1), so a large mean costs no digits. Memory: two d x d float64 matrices.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = np.empty(0)
        self.scatter = np.empty((0, 0))
        self.min = np.empty(0, np.float32)
        self.max = np.empty(0, np.float32)

    def update(self, x: np.ndarray) -> None:
        """Add the rows of float32[m, d]."""
        if not len(x):
            return
        mean = x.mean(axis=0, dtype=np.float64)
        shift = mean.astype(np.float32)
        centred = x - shift
        scatter = gram(centred)
        # The shift is rounded to float32, which shows only where the spread is close to that rounding.
        rest = mean - shift
        if np.any(len(x) * rest**2 > 1e-9 * scatter.diagonal()):
            scatter = scatter - len(x) * np.outer(rest, rest)
        self._add(len(x), mean, scatter, x.min(axis=0), x.max(axis=0))

    def merge(self, other: Moments) -> None:
        """Add all rows of another; ValueError when the widths differ."""
        if other.n == 0:
            return
        self._add(other.n, other.mean, other.scatter, other.min, other.max)

    def _add(self, n: int, mean: np.ndarray, scatter: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean, scatter.astype(np.float64)
            self.min, self.max = low, high
            return
        if mean.shape != self.mean.shape:
            raise ValueError(f"vectors of {len(mean)} numbers beside vectors of {len(self.mean)}")
        total = self.n + n
        delta = mean - self.mean
        # At thousands of columns each pass over the matrix counts: two of them, both in place.
        np.add(self.scatter, scatter, out=self.scatter)
        self.scatter = dger(self.n * n / total, delta, delta, a=self.scatter.T, overwrite_a=True).T
        self.mean = self.mean + delta * (n / total)
        self.min = np.minimum(self.min, low)
        self.max = np.maximum(self.max, high)
        self.n = total

    def stats(self) -> Stats:
        return Stats(self.n, self.mean, self.scatter / max(self.n - 1, 1), self.min, self.max)


class Gram:
    """The sum of x^T x over blocks of rows: float32 products, added up in float64. Memory: two d x d matrices."""

    def __init__(self) -> None:
        self._total = np.zeros((0, 0))

    def add(self, x: np.ndarray) -> None:
        """Add the rows of float32[m, d], m at least 1."""
        product = gram(x).astype(np.float64)
        self._total = self._total + product if self._total.size else product

    def total(self) -> np.ndarray:
        """float64[d, d], or float64[0, 0] where nothing was added."""
        return self._total


@dataclass
class Stats:
    """What is known of vectors without looking at them again.

    mean float64[d]; cov float64[d, d] (divisor n - 1); min and max float[d], or None after a projection,
    which leaves the range unknown.
    """

    n: int
    mean: np.ndarray
    cov: np.ndarray
    min: np.ndarray | None = None
    max: np.ndarray | None = None

    @property
    def width(self) -> int:
        return len(self.mean)

    def scaled(self, scale: np.ndarray, offset: np.ndarray) -> Stats:
        """Statistics of ``x * scale + offset`` for positive float64[d] scales."""
        low = None if self.min is None else self.min * scale + offset
        high = None if self.max is None else self.max * scale + offset
        return Stats(self.n, self.mean * scale + offset, self.cov * np.outer(scale, scale), low, high)

    def projected(self, centre: np.ndarray, components: np.ndarray) -> Stats:
        """Statistics of ``(x - centre) @ components`` for float64[d, k] components."""
        return Stats(self.n, (self.mean - centre) @ components, components.T @ self.cov @ components)

    def select(self, columns: np.ndarray) -> Stats:
        """Statistics of some columns alone, given as int[k] positions."""
        low = None if self.min is None else self.min[columns]
        high = None if self.max is None else self.max[columns]
        return Stats(self.n, self.mean[columns], self.cov[np.ix_(columns, columns)], low, high)
