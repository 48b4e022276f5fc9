"""One pass over vectors that is enough to fit standard, min-max, PCA and SVD steps, in any chain of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
        block = Moments()
        block.n = len(x)
        shift = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = x - shift
        # The shift is rounded to float32, so the centred rows keep a tiny mean of their own.
        rest = centred.mean(axis=0, dtype=np.float64)
        block.mean = shift + rest
        # NumPy hands A.T @ A to the symmetric BLAS routine: half the work of a general product.
        block.scatter = (centred.T @ centred).astype(np.float64)
        block.scatter -= block.n * np.outer(rest, rest)
        block.min = x.min(axis=0)
        block.max = x.max(axis=0)
        self.merge(block)

    def merge(self, other: Moments) -> None:
        """Add all rows of another; ValueError when the widths differ."""
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self.mean, self.scatter = other.n, other.mean, other.scatter.copy()
            self.min, self.max = other.min, other.max
            return
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"vectors of {len(other.mean)} numbers beside vectors of {len(self.mean)}")
        n = self.n + other.n
        delta = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(delta, delta * (self.n * other.n / n))
        self.mean = self.mean + delta * (other.n / n)
        self.min = np.minimum(self.min, other.min)
        self.max = np.maximum(self.max, other.max)
        self.n = n

    def stats(self) -> Stats:
        return Stats(self.n, self.mean, self.scatter / max(self.n - 1, 1), self.min, self.max)


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
