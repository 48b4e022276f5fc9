"""Labels of many centroid models at once: one row per image, one array element per model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks, metrics
from motorpool.blocks import Batches

WIDE_SCHEMA = "image_id BIGINT, clusters ARRAY<INT>, distances ARRAY<FLOAT>"


class Nearest:
    """Nearest centroids of several models, in float64, for blocks of rows.

    ``models`` are float32[k_i, d]. Ties go to the lower cluster number. Rows are shifted by the mean of
    all centroids first, so that a large common offset costs no digits.
    """

    def __init__(self, models: Sequence[np.ndarray]) -> None:
        stacked = np.concatenate(models).astype(np.float64)
        self.shift = stacked.mean(axis=0)
        self.centroids = stacked - self.shift
        self.edges = np.cumsum([0, *(len(m) for m in models)])
        self._factors = metrics.distance_factors(self.centroids)

    @property
    def spans(self) -> list[tuple[int, int]]:
        return list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True))

    def squared(self, x: np.ndarray) -> np.ndarray:
        """Squared distances float64[n, K] of float32[n, d] rows to the centroids of all models."""
        return np.maximum(metrics.squared_distances(x - self.shift, self._factors), 0.0)

    def labels(self, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, models] cluster numbers and float32[n, models] distances from ``squared``."""
        clusters = np.stack([squared[:, a:b].argmin(axis=1) for a, b in self.spans], axis=1)
        at = clusters + self.edges[:-1]
        distances = np.sqrt(np.take_along_axis(squared, at, axis=1))
        return clusters.astype(np.int32), distances.astype(np.float32)


def assign(block_df: DataFrame, models: Sequence[np.ndarray]) -> DataFrame:
    """Every image's cluster in, and distance to, each model's nearest centroid.

    ``clusters[i]`` and ``distances[i]`` belong to ``models[i]`` (float32[k_i, d]). Columns: WIDE_SCHEMA.
    """
    nearest = Nearest(models)
    n_models = len(models)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                clusters, distances = nearest.labels(nearest.squared(x))
                offsets = pa.array(np.arange(0, (len(ids) + 1) * n_models, n_models, dtype=np.int32))
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(ids),
                        pa.ListArray.from_arrays(offsets, pa.array(clusters.reshape(-1))),
                        pa.ListArray.from_arrays(offsets, pa.array(distances.reshape(-1))),
                    ],
                    names=["image_id", "clusters", "distances"],
                )

    return block_df.mapInArrow(run, WIDE_SCHEMA)
