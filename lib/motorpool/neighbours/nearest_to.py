"""The nearest rows to a few given ones, in one pass over the table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.kernels.pairs.geometry import Metric, exact_gaps, to_distance
from motorpool.spark import blocks


class _Lists:
    """The k nearest rows so far of every query: gaps float64[q, k] and ids int64[q, k], nearest first."""

    def __init__(self, n_queries: int, k: int) -> None:
        self.gaps = np.full((n_queries, k), np.inf)
        # Stands for "none yet", and comes behind every id.
        self.ids = np.full((n_queries, k), np.iinfo(np.int64).max)

    def offer(self, query: int, gaps: np.ndarray, ids: np.ndarray) -> None:
        all_gaps = np.concatenate([self.gaps[query], gaps])
        all_ids = np.concatenate([self.ids[query], ids])
        order = np.lexsort((all_ids, all_gaps))[: self.gaps.shape[1]]
        self.gaps[query], self.ids[query] = all_gaps[order], all_ids[order]

    def merge(self, other: _Lists) -> None:
        for query in range(len(self.gaps)):
            self.offer(query, other.gaps[query], other.ids[query])


def nearest_to(
    vectors: DataFrame | Iterable[pa.RecordBatch], query_ids: np.ndarray, queries: np.ndarray, k: int, metric: Metric
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of float32[q, d] ``queries`` the ids int64 and distances float64 of its k nearest rows, nearest first.

    ``vectors`` has ``image_id`` and ``vector``: a DataFrame, which Spark looks through, or batches, which this process
    does. Rows of the query's own id in int64[q] ``query_ids`` are left out. Exact: distances are worked out in float64,
    ties go to the lower id. Lists are shorter than k where there are fewer rows. One pass of n q products of d numbers.
    Memory of a task and of the driver: one Arrow batch and the lists.
    """

    def start() -> _Lists:
        return _Lists(len(queries), k)

    def look(state: _Lists, batch: pa.RecordBatch) -> None:
        ids, x = blocks.batch_ids(batch), blocks.to_matrix(batch.column("vector"))
        rows = np.arange(len(ids))
        for query, own in enumerate(query_ids):
            others = rows[ids != own]
            gaps = exact_gaps(queries, x, np.full(len(others), query), others, metric == "cosine")
            state.offer(query, gaps, ids[others])

    if isinstance(vectors, DataFrame):
        lists = blocks.fold(vectors.select("image_id", "vector"), start, look)
    else:
        lists = start()
        for batch in vectors:
            look(lists, batch)
    found = []
    for gaps, ids in zip(lists.gaps, lists.ids, strict=True):
        there = np.isfinite(gaps)
        found.append((ids[there], to_distance(gaps[there], metric)))
    return found
