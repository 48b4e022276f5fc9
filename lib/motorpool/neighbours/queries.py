"""The nearest rows of one table for every row of another; they give new rows the labels of old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.kernels.pairs.counting import Listed, nearest_tile
from motorpool.kernels.pairs.geometry import Rows, to_gap
from motorpool.kernels.pairs.loops import UP, Tile, points_of, precision_of
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.neighbours.exchange import moved, of_kinds, together
from motorpool.neighbours.search import FOUND, GAPS, IDS
from motorpool.neighbours.shards import Arranged, Shard, arrange, over_pairs, over_shards
from motorpool.spark import blocks

#: One row per query: its nearest rows, nearest first, and their gaps (see `geometry.to_distance`).
NEAREST = "image_id BIGINT, neighbours ARRAY<BIGINT>, gaps ARRAY<DOUBLE>"

#: The kind of array that a shard of queries gets from each of the study's.
_LISTS = "lists"
#: Stands for "none yet"; larger than every id, so that a row whose gap is exactly the limit is still taken.
_NONE = np.iinfo(np.int64).max


def nearest_rows(
    study: Arranged,
    queries: DataFrame,
    k: int,
    *,
    within: float | None = None,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> DataFrame:
    """The k nearest rows of ``study`` for every row of ``queries`` (blocks), exact, as NEAREST; persisted.

    Rows are compared as `geometry` says, ties go to the lower id. Arrays are shorter than k where there are fewer
    rows, or fewer ``within`` that distance (which itself is within). Both tables have ids of their own: a query that
    is a row of ``study`` too finds itself. ``queries`` is read several times: persist it.

    Queries are arranged in shards like ``study``, and a task compares a shard of each; then every shard of queries
    merges what its tasks have found. Cost: n m products of d numbers for n queries and m rows, less what the
    triangle inequality leaves out. Memory of a task: two shards, and a few times 16 k bytes for each query of one.
    Nothing of either table's length reaches the driver.
    """
    if k < 1:
        raise ValueError(f"k = {k}: expected at least one neighbour")
    limit = np.inf if within is None else float(to_gap(within, study.metric))
    cosine, first = study.metric == "cosine", study.n_shards
    asked = arrange(queries, study.metric, seed)
    try:
        # Products of the two need the same shift.
        pieces = together(study.pieces, moved(asked.pieces, first))
        both = replace(study, pieces=pieces, n_shards=first + asked.n_shards)
        pairs = [(a, first + b) for a in range(first) for b in range(asked.n_shards)]

        def work(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
            assert b is not None
            gaps, found = _nearest(b.rows, a.rows, k, limit, cosine)
            yield b.index - first, _LISTS, np.concatenate([gaps, found.view(np.float64)], axis=1)
            if a.index == 0:
                yield b.index - first, IDS, b.rows.ids

        def merge(_: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
            yield _pack(found[IDS][0], *_lists(found[_LISTS][0]))

        progress(f"{asked.n:,} rows in {asked.n_shards} shards: looking for their nearest of {study.n:,}")
        merging = {_LISTS: _merged}
        found = over_pairs(both, pairs, work)
        return blocks.computed(over_shards(asked, found, merge, NEAREST, with_rows=False, merging=merging))
    finally:
        asked.release()


def nearest_others(study: Arranged, rows: DataFrame, k: int, *, seed: int) -> DataFrame:
    """As `nearest_rows`, for ``rows`` (blocks) that are of ``study`` themselves: the nearest others, not the row."""
    found = nearest_rows(study, rows, k + 1, seed=seed)
    # A row is not among them where k + 1 rows of lower ids equal it.
    pairs = F.filter(F.arrays_zip("neighbours", "gaps"), lambda pair: pair["neighbours"] != F.col("image_id"))
    others = found.select("image_id", F.slice(pairs, 1, k).alias("pairs"))
    try:
        return blocks.computed(others.select("image_id", "pairs.neighbours", "pairs.gaps"))
    finally:
        found.unpersist()


def nearest_of_all(arranged: Arranged, state: DataFrame, k: int) -> DataFrame:
    """What `search` has found, in the form of `nearest_rows`: the k nearest other rows of every row, as NEAREST.

    Lazy. ``state`` holds k neighbours or more; where there are fewer other rows, arrays are shorter.
    """

    def work(_: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
        (ids,), (gaps,), (others,) = found[IDS], found[GAPS], found[FOUND]
        yield _pack(ids, gaps[:, :k], np.where(others[:, :k] < 0, _NONE, others[:, :k]))

    return over_shards(arranged, of_kinds(state, IDS, GAPS, FOUND), work, NEAREST, with_rows=False)


def _nearest(queries: Rows, rows: Rows, k: int, limit: float, cosine: bool) -> tuple[np.ndarray, np.ndarray]:
    """gaps float64[n, k] ascending and found int64[n, k] of the nearest ``rows``; _NONE where there are fewer."""
    gaps, found = np.full((len(queries), k), limit), np.full((len(queries), k), _NONE)
    # Gaps beyond float32 become infinite, and a limit is rounded up: it is never too small.
    with np.errstate(over="ignore"):
        limits = np.full(len(queries), limit * rows.scale).astype(np.float32) * UP
    listed = Listed(gaps, found, limits)
    # The other side keeps no lists: nothing is nearer than minus infinity.
    unlisted = Listed(
        np.full((len(rows), 1), -np.inf), np.zeros((len(rows), 1), np.int64), np.full(len(rows), -np.inf, np.float32)
    )
    x, y, precision = points_of(queries), points_of(rows), precision_of(rows, cosine)

    def widest(i: slice, _: slice) -> float:
        return float(limits[i].max())

    for i0, j0, products in tiles_of(queries).products(tiles_of(rows), widest, same=False):
        nearest_tile(Tile(products, i0, j0, False), precision, x, y, listed, unlisted)
    return gaps, found


def _lists(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64[n, k] gaps and int64[n, k] ids of one array with both, side by side and bit by bit."""
    gaps, found = np.split(packed, 2, axis=1)
    return gaps, np.ascontiguousarray(found).view(np.int64)


def _merged(several: Sequence[np.ndarray]) -> np.ndarray:
    """The nearest of the lists of several shards, which have no row in common."""
    parts = [_lists(packed) for packed in several]
    gaps, ids = (np.concatenate(lists, axis=1) for lists in zip(*parts, strict=True))
    order = np.lexsort((ids, gaps), axis=1)[:, : parts[0][0].shape[1]]
    return np.concatenate(
        [np.take_along_axis(gaps, order, 1), np.take_along_axis(ids, order, 1).view(np.float64)], axis=1
    )


def _pack(ids: np.ndarray, gaps: np.ndarray, found: np.ndarray) -> pa.RecordBatch:
    filled = found != _NONE
    offsets = pa.array(np.cumsum([0, *filled.sum(axis=1)]).astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values[filled])) for values in (found, gaps)]
    return pa.RecordBatch.from_arrays([pa.array(ids), *lists], names=["image_id", "neighbours", "gaps"])
