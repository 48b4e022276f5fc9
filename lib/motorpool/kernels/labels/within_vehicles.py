"""A space in which the photos of a vehicle lie close: differences that vehicles themselves show count less there."""

from __future__ import annotations

import numpy as np

from motorpool.kernels.scatter import discriminants


def whitening(x: np.ndarray, vehicles: np.ndarray, *, shrink: float = 0.05, n_columns: int = 40) -> np.ndarray | None:
    """A matrix float64[d, m] whose columns scale down what varies within vehicles; None without two photos of one.

    ``x`` float[n, d] and ``vehicles`` int64[n], any order. The scatter within vehicles, of which ``shrink`` is spread
    over all directions alike, becomes that of the unit matrix; of the rest the ``n_columns`` directions are kept in
    which vehicles differ most (linear discriminant analysis with vehicles as classes). The rows' mean square in the
    new columns is 1. Memory: two float64 copies of x.
    """
    _, vehicle, counts = np.unique(vehicles, return_inverse=True, return_counts=True)
    n_inner = len(x) - len(counts)
    if n_inner < 1 or len(counts) < 2:
        return None
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, vehicle, centred)
    means /= counts[:, None]
    inner = centred - means[vehicle]
    within = inner.T @ inner / n_inner
    if not np.trace(within) > 0:
        return None
    means *= np.sqrt(counts)[:, None]
    _, directions = discriminants(within, means.T @ means, shrink)
    found = directions[:, :n_columns]
    size = float(np.sqrt(np.mean((centred @ found) ** 2)))
    return found / size if size > 0 else None
