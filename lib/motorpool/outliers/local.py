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
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.kernels.pairs.geometry import to_distance
from motorpool.neighbours.exchange import of_kinds, one_of
from motorpool.neighbours.search import FOUND, GAPS, IDS
from motorpool.neighbours.shards import Arranged, Shard, over_shards
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


def distance_to_nearest(found: DataFrame) -> DataFrame:
    """The distance of rows to the last of their nearest ``found`` (NEAREST, Euclidean), as SCORES.

    `knn_distance` of rows of another table, where as many were looked for as that takes: k, or all rows but one.
    """
    return found.select("image_id", _to_distance(F.element_at("gaps", -1)).alias("score"))


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


def local_outlier_factor_of_new(
    found: DataFrame, nearest_of: Callable[[DataFrame], DataFrame], persist: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """`local_outlier_factor` of rows of another table, against those of the study alone, as SCORES.

    ``found`` has their nearest rows of the study (NEAREST, Euclidean; k, or all but one); ``nearest_of``
    gives as many nearest other rows for those of the study whose ``image_id`` it gets, or for more of them. Exact:
    equal to scikit-learn's LocalOutlierFactor with ``novelty=True`` and its sign turned.

    A new row is compared with the densities of its neighbours, which take the k-distances of their own neighbours. So
    ``nearest_of`` is asked for the former and then for the latter, and no other row of the study counts. Joins shuffle
    k numbers for each of the new rows and of their neighbours; nothing of their number reaches the driver. ``persist``
    keeps what is read several times until the result has been read.
    """
    new = _neighbours(found)
    near = persist(_distinct(new))
    around = persist(nearest_of(near).join(near, on="image_id", how="left_semi"))
    known, edges = around, _neighbours(around)
    beyond = persist(_distinct(edges).join(near, on="image_id", how="left_anti"))
    if not beyond.isEmpty():
        known = around.unionByName(nearest_of(beyond).join(beyond, on="image_id", how="left_semi"))
    reaches = distance_to_nearest(known).withColumnsRenamed({"image_id": "other", "score": "reach"})
    reaches = persist(reaches)
    there = _densities(edges, reaches).withColumnsRenamed({"image_id": "other", "density": "density_there"})
    means = new.join(there, on="other", how="inner").groupBy("image_id").agg(F.avg("density_there").alias("mean"))
    scored = _densities(new, reaches).join(means, on="image_id", how="inner")
    return scored.select("image_id", (F.col("mean") / F.col("density")).alias("score"))


def _neighbours(found: DataFrame) -> DataFrame:
    """``image_id BIGINT, other BIGINT, distance DOUBLE``: a row for each neighbour in NEAREST rows."""
    pairs = F.explode(F.arrays_zip("neighbours", "gaps")).alias("pair")
    distance = _to_distance(F.col("pair.gaps")).alias("distance")
    return found.select("image_id", pairs).select("image_id", F.col("pair.neighbours").alias("other"), distance)


def _distinct(neighbours: DataFrame) -> DataFrame:
    return neighbours.select(F.col("other").alias("image_id")).distinct()


def _to_distance(gap: Column) -> Column:
    """Euclidean; see `geometry.to_distance`."""
    return F.sqrt(2 * F.greatest(gap, F.lit(0.0)))


def _densities(neighbours: DataFrame, reaches: DataFrame) -> DataFrame:
    """``image_id, density`` of rows by all their neighbours, of which ``reaches`` has the k-distance."""
    reach = F.greatest("distance", "reach")
    joined = neighbours.join(reaches, on="other", how="inner")
    return joined.groupBy("image_id").agg((1.0 / (F.avg(reach) + F.lit(_LEAST_REACH))).alias("density"))


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
    gaps = one_of(state, GAPS)
    held = 0 if gaps is None else gaps.shape[1]
    if held < k:
        raise ValueError(f"k = {k}, but the search kept {held} neighbours a row: search with Wanted(k={k})")
    return min(k, arranged.n - 1)


def _score(arranged: Arranged, state: DataFrame, k: int, score: _Score) -> DataFrame:
    """SCORES of ``score``."""

    def pack(ids: np.ndarray, distances: np.ndarray, others: np.ndarray) -> pa.RecordBatch:
        return pack_scores(ids, score(ids, distances, others))

    return over_neighbours(arranged, state, k, pack, SCORES)
