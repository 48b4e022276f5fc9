"""Squared distances of rows to points, as one matrix product in float64."""

from __future__ import annotations

import numpy as np


def distance_factors(points: np.ndarray) -> np.ndarray:
    """float64[d + 2, K] for `squared_distances` to float64[K, d] points."""
    norms = np.square(points).sum(axis=1)
    return np.concatenate([-2.0 * points.T, norms[None], np.ones((1, len(points)))])


def squared_distances(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """float64[n, K] from float64[n, d] rows; rounding may leave a trace below zero.

    |x - c|^2 as one matrix product [x, 1, |x|^2] [-2c; |c|^2; 1]: no pass over the result is left to do.
    """
    n, width = x.shape
    wide = np.empty((n, width + 2))
    wide[:, :width] = x
    wide[:, width] = 1.0
    np.einsum("ij,ij->i", x, x, out=wide[:, width + 1])
    result: np.ndarray = wide @ factors
    return result
