"""Labels by the nearest centroid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks, metrics
from motorpool.backend.seam import CPU, Backend
from motorpool.cluster.labelled import Labelled, LabelledBlock


class Nearest:
    """Nearest centroids of several models, in float64, for blocks of rows.

    ``models`` are float32[k_i, d]. Ties go to the lower cluster number. Rows are shifted by the mean of
    all centroids first, so that a large common offset costs no digits.
    """

    def __init__(self, models: Sequence[np.ndarray]) -> None:
        stacked = np.concatenate(models).astype(np.float64)
        self.shift = stacked.mean(axis=0)
        self.edges = np.cumsum([0, *(len(m) for m in models)])
        self.factors = metrics.distance_factors(stacked - self.shift)

    @property
    def spans(self) -> list[tuple[int, int]]:
        return list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True))

    def label(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, models] cluster numbers and float32[n, models] distances of float32[n, d] rows."""
        squared = metrics.squared_distances(x - self.shift, self.factors)
        clusters = np.stack([squared[:, a:b].argmin(axis=1) for a, b in self.spans], axis=1)
        found = np.take_along_axis(squared, clusters + self.edges[:-1], axis=1)
        return clusters.astype(np.int32), np.sqrt(np.maximum(found, 0.0)).astype(np.float32)


def by_centroids(block_df: DataFrame, models: Sequence[np.ndarray], backend: Backend = CPU) -> Labelled:
    """Every image's cluster in, and distance to, each model's (float32[k_i, d]) nearest centroid."""
    nearest = backend.nearest(models)

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, x in blocks.block_arrays(batch):
            clusters, distances = nearest.label(x)
            yield LabelledBlock(ids, x, clusters, distances)

    return Labelled(block_df, label, tuple(len(m) for m in models), nearest.shift)
