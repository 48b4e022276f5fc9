"""Scores from nearest neighbours: how far away they are, and whether they lie closer together than the image to them.

Both read what `neighbours.search` has found with ``Wanted(k=K)``, K at least the k asked for here, and look at
no pair of rows again: ``state`` must be there until the result is read. Distances are those of the search, exact. With
fewer than k other rows all of them are taken, as scikit-learn does; among rows at equal distance the search
prefers lower ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.kernels.pairs.geometry import to_distance
from motorpool.neighbours.queries import nearest_rows
from motorpool.neighbours.search import FOUND, GAPS, IDS
from motorpool.neighbours.shards import Arranged, Shard, load, of_kinds, over_shards
from motorpool.outliers.scores import SCORES, pack_lists, pack_scores
from motorpool.spark import blocks

#: Keeps densities finite where more than k rows are equal; scikit-learn's number, so that scores agree there too.
_LEAST_REACH = 1e-10

#: From int64[n] ids, float64[n, k] distances and int64[n, k] neighbours' ids to float64[n] scores.
_Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
#: From the same to rows of a table.
Pack = Callable[[np.ndarray, np.ndarray, np.ndarray], pa.RecordBatch]


def over_neighbours(arranged: Arranged, state: DataFrame, k: int, pack: Pack, schema: str) -> DataFrame:
    """What ``pack`` makes of the k nearest rows found, one task for each shard. The vectors stay where they are.

    Nearest first. Where there are fewer other rows than k, the ids of the missing ones are -1.
    """
    metric = arranged.metric

    def work(_: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
        (ids,), (gaps,), (others,) = found[IDS], found[GAPS], found[FOUND]
        yield pack(ids, to_distance(gaps[:, :k], metric), others[:, :k])

    return over_shards(arranged, of_kinds(state, IDS, GAPS, FOUND), work, schema, with_rows=False)


def nearest(arranged: Arranged, state: DataFrame, n: int) -> DataFrame:
    """``image_id BIGINT, neighbours ARRAY<BIGINT>``: up to ``n`` nearest rows found, nearest first."""

    def pack(ids: np.ndarray, _: np.ndarray, others: np.ndarray) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(ids), pack_lists(others, others >= 0)], ["image_id", "neighbours"])

    return over_neighbours(arranged, state, n, pack, "image_id BIGINT, neighbours ARRAY<BIGINT>")


def knn_distance(arranged: Arranged, state: DataFrame, k: int, *, mean: bool = False) -> DataFrame:
    """The distance to the k-th nearest other row (Ramaswamy, Rastogi & Shim, 2000) as SCORES.

    With ``mean``, the mean distance to the k nearest (Angiulli & Pizzuti, 2002, who sum them). Lazy but for a look at
    one shard's state. Raises ValueError where there is one row only, or ``state`` holds fewer than k neighbours.
    """

    def score(_: np.ndarray, distances: np.ndarray, __: np.ndarray) -> np.ndarray:
        return distances.mean(axis=1) if mean else distances[:, -1]

    return _score(arranged, state, _at_most(arranged, state, k), score)


def distance_to_nearest(
    study: Arranged, queries: DataFrame, k: int, seed: int, persist: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """The distance of rows that are not of ``study`` to its k-th nearest row, Euclidean, as SCORES: `knn_distance`.

    With as many rows as that takes of ``study`` itself: k, or all but one. ``queries`` (blocks) is persisted, and
    ``persist`` keeps what is found until the result has been read. Exact, by the pass of `nearest_rows`.
    """
    found = persist(nearest_rows(study, queries, max(1, min(k, study.n - 1)), seed=seed))
    gap = F.greatest(F.element_at("gaps", -1), F.lit(0.0))
    return found.select("image_id", F.sqrt(2 * gap).alias("score"))


def local_outlier_factor(arranged: Arranged, state: DataFrame, k: int) -> DataFrame:
    """How much denser the k nearest rows lie than the row itself (Breunig, Kriegel, Ng & Sander, 2000) as SCORES.

    About 1 for rows amid others of their kind. Exact: equal to scikit-learn's LocalOutlierFactor with its sign
    turned. Like it, a neighbourhood has k rows even where more are tied at its rim (definition 4 takes them all), and
    1e-10 is added to the mean reachability distance: among more than k equal rows the density is 1e10, and a row
    with such neighbours has a very large, finite factor.

    Three passes over ``state``, the last when the result is read. A row needs the k-distances and then the
    densities of rows anywhere, so these travel by way of the driver: 16 bytes for each row, on it (twice that for
    a moment) and in every Python worker. Joining the n x k pairs of rows instead would need no such arrays, but
    shuffles k times as much, twice; and where n^2 / 2 distances can be searched, 16 n bytes can be held.

    Raises ValueError as `knn_distance`.
    """
    k = _at_most(arranged, state, k)
    k_distance = _Known.of(_score(arranged, state, k, lambda _, distances, __: distances[:, -1]))

    def density(_: np.ndarray, distances: np.ndarray, others: np.ndarray) -> np.ndarray:
        # Equations (5) and (6): never nearer to a neighbour than that one's own k-th neighbour is.
        reach = np.maximum(distances, k_distance[others])
        result: np.ndarray = 1.0 / (reach.mean(axis=1) + _LEAST_REACH)
        return result

    densities = _Known.of(_score(arranged, state, k, density))

    def factor(ids: np.ndarray, _: np.ndarray, others: np.ndarray) -> np.ndarray:
        result: np.ndarray = densities[others].mean(axis=1) / densities[ids]
        return result

    return _score(arranged, state, k, factor)


@dataclass(frozen=True)
class _Known:
    """A number for every row of the table: ids int64[n] ascending, values float64[n]."""

    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, scores: DataFrame) -> _Known:
        table = blocks.table(scores)
        ids, values = (table.column(c).to_numpy() for c in ("image_id", "score"))
        order = np.argsort(ids)
        return cls(ids[order], values[order])

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        """float64 values of int64 ids, in the same shape."""
        return self.values[np.searchsorted(self.ids, ids)]


def _at_most(arranged: Arranged, state: DataFrame, k: int) -> int:
    """The neighbours to use: k, or all other rows where there are fewer."""
    if k < 1:
        raise ValueError(f"k = {k}: expected at least one neighbour")
    if arranged.n == 1:
        raise ValueError("a single row has no neighbours to compare it with")
    row = state.where(F.col("kind") == GAPS).select("data").first()
    held = load(bytes(row["data"])).shape[1] if row else 0
    if held < k:
        raise ValueError(f"k = {k}, but the search kept {held} neighbours a row: search with Wanted(k={k})")
    return min(k, arranged.n - 1)


def _score(arranged: Arranged, state: DataFrame, k: int, score: _Score) -> DataFrame:
    """SCORES of ``score``."""

    def pack(ids: np.ndarray, distances: np.ndarray, others: np.ndarray) -> pa.RecordBatch:
        return pack_scores(ids, score(ids, distances, others))

    return over_neighbours(arranged, state, k, pack, SCORES)
