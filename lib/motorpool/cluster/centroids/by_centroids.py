"""Labels by the nearest centroid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import Labelled, LabelledBlock
from motorpool.spark import blocks


def by_centroids(block_df: DataFrame, models: Sequence[np.ndarray], backend: Backend = CPU) -> Labelled:
    """Every image's cluster in, and distance to, each model's (float32[k_i, d]) nearest centroid, and its strength."""
    nearest = backend.nearest(models)

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, x in blocks.block_arrays(batch):
            yield LabelledBlock(ids, x, *nearest.label(x))

    return Labelled(block_df, label, tuple(len(m) for m in models), nearest.shift)
