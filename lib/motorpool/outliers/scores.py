"""What every outlier score is (one float64 per image, higher for images that fit in less), and columns to say it in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

SCORES = "image_id BIGINT, score DOUBLE"


def pack_scores(ids: np.ndarray, scores: np.ndarray) -> pa.RecordBatch:
    """int64[n] ids and float64[n] scores as rows of SCORES."""
    return pa.RecordBatch.from_arrays(
        [pa.array(ids, pa.int64()), pa.array(scores, pa.float64())], ["image_id", "score"]
    )


def pack_lists(values: np.ndarray, taken: np.ndarray) -> pa.ListArray:
    """The values int64[n, k] that bool[n, k] takes, as a list<bigint> column."""
    offsets = np.concatenate([[0], np.cumsum(taken.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[taken], pa.int64()))
