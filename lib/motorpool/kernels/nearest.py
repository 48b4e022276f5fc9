"""The nearest of many points: most of the work in float32, and the result of float64."""

from __future__ import annotations

import numpy as np

from motorpool.kernels.distances import distance_factors, squared_distances

#: Rows compared with all points at a time: 16 MiB of float32 for 4,096 points.
_ROWS = 1024
_UNIT = float(np.finfo(np.float32).eps) / 2


class NearestPoint:
    """Finds for blocks of rows the nearest of float[m, d] points; ties go to the lower number.

    One float32 matrix product compares a row with all points. A row whose two best are closer than the rounding of
    this product (Higham 2002, Accuracy and stability of numerical algorithms, eq. 3.5) is compared again in float64.
    Memory: 20 m d bytes, and for each search 1,024 x m numbers.
    """

    def __init__(self, points: np.ndarray) -> None:
        # About the points' mean, so that a large common offset costs no digits.
        self.shift = points.mean(axis=0, dtype=np.float64)
        self._points = points - self.shift
        half_squares = 0.5 * np.square(self._points).sum(axis=1)
        # |x - p|^2 = |x|^2 - 2 (x.p - |p|^2 / 2): the nearest point has the largest bracket.
        with np.errstate(over="ignore"):
            self._factors = np.concatenate([self._points.T, -half_squares[None]]).astype(np.float32)
        self._exact_factors = distance_factors(self._points)
        self._farthest = float(np.sqrt(2.0 * half_squares.max()))

    def find(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[n] numbers of the nearest points of float32[n, d] rows, and float64[n] squared distances."""
        nearest, squared = np.empty(len(x), np.int64), np.empty(len(x))
        for start in range(0, len(x), _ROWS):
            part = slice(start, start + _ROWS)
            nearest[part], squared[part] = self._find(x[part] - self.shift)
        return nearest, squared

    def _find(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, width = x.shape
        wide = np.ones((n, width + 1), np.float32)
        wide[:, :width] = x
        # What overflows float32 is unsure, below.
        with np.errstate(over="ignore", invalid="ignore"):
            closeness = wide @ self._factors
        rows = np.arange(n)
        nearest = closeness.argmax(axis=1)
        best = closeness[rows, nearest].astype(np.float64)
        closeness[rows, nearest] = -np.inf
        second = closeness.max(axis=1)
        squared = self._squared(x, nearest)
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        # A point that is nearer still lies no farther out than this.
        reach = np.minimum(length + np.sqrt(squared), self._farthest)
        # The product's d + 1 terms, and the rounding of what goes into it.
        error = (width + 4) * _UNIT * (length * reach + 0.5 * reach**2)
        # Written so that infinities and their differences are unsure too.
        with np.errstate(invalid="ignore"):
            unsure = np.flatnonzero(~(best - second > 2.0 * error))
        if len(unsure):
            nearest[unsure] = squared_distances(x[unsure], self._exact_factors).argmin(axis=1)
            squared[unsure] = self._squared(x[unsure], nearest[unsure])
        return nearest, squared

    def _squared(self, x: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        gaps = x - self._points[nearest]
        result: np.ndarray = np.einsum("ij,ij->i", gaps, gaps)
        return result
