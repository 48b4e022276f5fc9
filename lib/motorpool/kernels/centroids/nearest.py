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

    def label(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, models] cluster numbers and float32[n, models] distances of float32[n, d] rows."""
        squared = squared_distances(x - self.shift, self.factors)
        clusters = np.stack([squared[:, a:b].argmin(axis=1) for a, b in self.spans], axis=1)
        found = np.take_along_axis(squared, clusters + self.edges[:-1], axis=1)
        return clusters.astype(np.int32), np.sqrt(np.maximum(found, 0.0)).astype(np.float32)
