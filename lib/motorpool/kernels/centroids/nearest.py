"""The nearest centroid of each row, for several models at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from motorpool.kernels.distances import distance_factors, squared_distances


class NearestCentroids:
    """NearestCentroids centroids of several models, in float64, for blocks of rows.

    ``models`` are float32[k_i, d]. Ties go to the lower cluster number. Rows are shifted by the mean of
    all centroids first, so that a large common offset costs no digits.
    """

    def __init__(self, models: Sequence[np.ndarray]) -> None:
        stacked = np.concatenate(models).astype(np.float64)
        self.shift = stacked.mean(axis=0)
        self.edges = np.cumsum([0, *(len(m) for m in models)])
        self.factors = distance_factors(stacked - self.shift)

    @property
    def spans(self) -> list[tuple[int, int]]:
        return list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True))

    def label(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int32[n, models] cluster numbers, float32[n, models] distances and strengths of float32[n, d] rows."""
        squared = squared_distances(x - self.shift, self.factors)
        clusters = np.stack([squared[:, a:b].argmin(axis=1) for a, b in self.spans], axis=1)
        own = clusters + self.edges[:-1]
        first = np.take_along_axis(squared, own, axis=1)
        np.put_along_axis(squared, own, np.inf, axis=1)
        second = np.stack([squared[:, a:b].min(axis=1) for a, b in self.spans], axis=1)
        distances, others = np.sqrt(np.maximum(first, 0.0)), np.sqrt(np.maximum(second, 0.0))
        return clusters.astype(np.int32), distances.astype(np.float32), strengths(distances, others)


def strengths(distances: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 from float64 distances to the nearest centroid and to the next one, infinite where there is none.

    1 - nearest / next, a row's silhouette by centroids alone (Hruschka and others, A survey of evolutionary algorithms
    for clustering, 2009): 0 on the border of two clusters, 1 at the centroid. NaN where there is one cluster only.
    """
    shares = distances / np.where(others > 0, others, 1.0)
    # A row at two equal centroids belongs to neither more than to the other.
    found = np.where(others > 0, 1.0 - shares, 0.0)
    return np.where(np.isinf(others), np.nan, found).astype(np.float32)
