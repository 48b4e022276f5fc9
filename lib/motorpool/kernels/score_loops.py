"""Compiled loops of the scores: rows to the sums of their clusters, and distances to what is kept of each cluster.

Labels below zero are noise and count nowhere. Clusters of all models are stacked: cluster c of model m is row
``edges[m] + c``. A model costs the same however many clusters it has, as density-based models have by the hundred.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

#: A number of float32 or float64, whichever numba infers: mypy tells the two apart, and Python does not.
Real = Any

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


class DistanceSums(NamedTuple):
    """Sums over the rows of every cluster: ``squared`` and ``distance`` float64[K] to its mean, and ``silhouette``
    float64[models] of the rows' simplified silhouettes. ``kept_squared`` float64[K, E] and ``kept_ids`` int64[K, E] are
    the rows nearest to the mean."""

    squared: np.ndarray
    distance: np.ndarray
    silhouette: np.ndarray
    kept_squared: np.ndarray
    kept_ids: np.ndarray


@_jit
def add_rows(x: np.ndarray, labels: np.ndarray, edges: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
    """Add float64[n, d] rows with int32[n, models] labels to counts int64[K] and sums float64[K, d]."""
    for i in range(len(x)):
        for m in range(labels.shape[1]):
            if labels[i, m] >= 0:
                at = edges[m] + labels[i, m]
                counts[at] += 1
                for j in range(x.shape[1]):
                    sums[at, j] += x[i, j]


@_jit
def offer(squared: Real, image_id: int, kept_squared: np.ndarray, kept_ids: np.ndarray) -> None:
    """Put a row among a cluster's kept ones, nearest first and ties to the lower id, if it is near enough."""
    last = len(kept_squared) - 1
    if (squared, image_id) >= (kept_squared[last], kept_ids[last]):
        return
    at = last
    while at > 0 and (squared, image_id) < (kept_squared[at - 1], kept_ids[at - 1]):
        kept_squared[at] = kept_squared[at - 1]
        kept_ids[at] = kept_ids[at - 1]
        at -= 1
    kept_squared[at] = squared
    kept_ids[at] = image_id


@_jit
def offer_rows(
    ids: np.ndarray, at: np.ndarray, squared: np.ndarray, kept_squared: np.ndarray, kept_ids: np.ndarray
) -> None:
    """Offer int64[n] rows at float64[n] squared distances to the clusters ``at`` int64[n]."""
    for i in range(len(ids)):
        offer(squared[i], ids[i], kept_squared[at[i]], kept_ids[at[i]])


@_jit
def add_distances(
    ids: np.ndarray,
    labels: np.ndarray,
    d2: np.ndarray,
    edges: np.ndarray,
    counts: np.ndarray,
    sums: DistanceSums,
) -> None:
    """Add rows to ``sums`` by int32[n, models] labels and float64[n, K] squared distances to all means."""
    for i in range(len(ids)):
        for m in range(labels.shape[1]):
            if labels[i, m] < 0:
                continue
            at = edges[m] + labels[i, m]
            own = max(d2[i, at], 0.0)
            sums.squared[at] += own
            a = np.sqrt(own)
            sums.distance[at] += a
            offer(own, ids[i], sums.kept_squared[at], sums.kept_ids[at])
            nearest = np.inf
            for other in range(edges[m], edges[m + 1]):
                if other != at and counts[other] > 0 and d2[i, other] < nearest:
                    nearest = d2[i, other]
            b = np.sqrt(max(nearest, 0.0))
            # As for the silhouette itself, a row alone in its cluster scores 0.
            if counts[at] > 1 and np.isfinite(b) and max(a, b) > 0:
                sums.silhouette[m] += (b - a) / max(a, b)


@_jit
def merge_kept(kept_squared: np.ndarray, kept_ids: np.ndarray, more_squared: np.ndarray, more_ids: np.ndarray) -> None:
    """Offer every cluster the rows that another task has kept of it."""
    for at in range(len(kept_squared)):
        for e in range(more_squared.shape[1]):
            if more_ids[at, e] < 0:
                break
            offer(more_squared[at, e], more_ids[at, e], kept_squared[at], kept_ids[at])
