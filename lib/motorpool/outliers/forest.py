"""Isolation forest: how few random cuts it takes to set an image apart (Liu, Ting & Zhou, 2008)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.sampling import RowSample
from motorpool.outliers.scores import SCORES, pack_scores
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Trees grow on at most this many rows, and this many float32 numbers (128 MiB).
SAMPLE_ROWS = 65_536
SAMPLE_VALUES = 32 * 2**20


def isolation_forest(
    block_df: DataFrame, *, seed: int, n_trees: int = 200, sample: int = 256, scored: DataFrame | None = None
) -> DataFrame:
    """The anomaly score of every row of blocks as SCORES: 2^(-mean depth / depth of a random tree), in (0, 1).

    With ``scored``, blocks too, the scores of its rows instead, by the same trees.

    Two passes. The first draws a uniform sample of the rows by the hash of their ids; on it the driver grows
    ``n_trees`` trees, each on ``sample`` rows (fewer where there are fewer), with scikit-learn's IsolationForest.
    A uniform draw from a uniform sample is one from all rows, so every tree is as good as one of the whole
    table; only the overlap of different trees' rows grows. Up to SAMPLE_ROWS rows no sample is needed, and the scores
    are scikit-learn's for the rows in the order of their ids. The second pass scores block by block, when the result
    is read.

    Memory of the driver: the sample, twice; of a task: the trees, about 90 bytes for each of n_trees x 2 sample nodes.
    Raises ValueError where there are no rows.
    """
    from sklearn.ensemble import IsolationForest

    rows = _draw(block_df, seed)
    # One worker: the driver may share its cores with the executors.
    forest = IsolationForest(n_estimators=n_trees, max_samples=min(sample, len(rows)), random_state=seed, n_jobs=1)
    forest.fit(rows)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                yield pack_scores(ids, -forest.score_samples(x))

    return blocks.mapped(block_df if scored is None else scored, run, SCORES)


def _draw(block_df: DataFrame, seed: int) -> np.ndarray:
    """A uniform sample, float32[m, d] in the order of the images' ids."""
    size, values = SAMPLE_ROWS, SAMPLE_VALUES

    def add(state: RowSample, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    drawn = blocks.fold(block_df, lambda: RowSample(size, seed, values), add, merge_on_cluster=True)
    _, rows = drawn.by_id()
    if not len(rows):
        raise ValueError("there are no rows to grow trees on")
    return rows
