"""Labels of new rows by density: rows near enough to a cluster's rows belong to it, all others are noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.kernels.pairs.geometry import Metric, to_distance
from motorpool.neighbours.queries import nearest_rows
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: The labels of new rows; distance and strength are null where the algorithm has none.
ASSIGNED = "image_id BIGINT, cluster INT, distance FLOAT, strength FLOAT"

Say = Callable[[str], None]


def by_core_rows(
    block_df: DataFrame,
    vectors: DataFrame,
    labels: DataFrame,
    eps: float,
    metric: Metric,
    *,
    seed: int = 0,
    progress: Say = lambda text: None,
) -> DataFrame:
    """DBSCAN's labels of new rows (persisted blocks) as ASSIGNED, persisted: the cluster of the nearest core row
    within ``eps``, ties to the lower id, else noise. ``distance`` is that to the core row, null for noise.

    ``vectors`` (image_id, vector) and ``labels`` (image_id, cluster, distance) are the study's; its core rows are those
    at distance 0. Exact, and what `fit_dbscan` does with rows that are not core: so the study's own rows get
    their labels again. (Two core rows of different clusters whose gaps are equal in float32 alone may swap a row; and
    under cosine a zero row is at distance 1 of itself, so it is noise where min_samples = 1 made it a cluster.)
    A new row makes no row core, whatever number of them come together.

    Cost and memory are those of `nearest_rows` among the core rows.
    """
    core = labels.where((F.col("distance") == 0) & (F.col("cluster") >= 0)).select("image_id", "cluster")
    with _arranged(vectors.join(core, "image_id", "left_semi"), metric, seed) as study:
        near = nearest_rows(study, block_df, 1, within=eps, seed=seed, progress=progress)
    gap = F.get("gaps", F.lit(0))
    found = near.select("image_id", F.get("neighbours", F.lit(0)).alias("neighbour"), gap.alias("gap"))
    of = core.select(F.col("image_id").alias("neighbour"), "cluster")
    assigned = found.join(of, "neighbour", "left").select(
        "image_id",
        F.coalesce("cluster", F.lit(-1)).cast("int").alias("cluster"),
        _distance(F.col("gap"), metric).cast("float").alias("distance"),
        F.lit(None).cast("float").alias("strength"),
    )
    try:
        return blocks.computed(assigned)
    finally:
        near.unpersist()


def by_reachability(
    block_df: DataFrame,
    vectors: DataFrame,
    labels: DataFrame,
    births: np.ndarray,
    deaths: np.ndarray,
    *,
    min_samples: int,
    metric: Metric,
    seed: int = 0,
    progress: Say = lambda text: None,
) -> DataFrame:
    """HDBSCAN's labels of new rows (persisted blocks) as ASSIGNED, persisted; ``strength`` is the membership.

    ``vectors`` (image_id, vector) and ``labels`` (image_id, cluster, strength) are the study's; births and deaths
    float64[k] are the clusters' lambdas (`condense.FlatClusters`). Of a new row's 2 (min_samples - 1) nearest rows
    the one nearest by mutual reachability, then by distance, then by id, decides: the new row joins its cluster
    where lambda = 1 / mutual reachability is above the cluster's birth, and is noise otherwise, as in the hdbscan
    library's approximate_predict. Its strength is lambda over the cluster's death, but no more than that row's own:
    it leaves the cluster together with that row.

    A new row's core distance is that to its min_samples-th nearest row. A row of the study, which finds itself
    first, has the core distance that it had, is its own nearest, and gets its label and its strength again (but for
    zero rows under cosine, which are at distance 1 of themselves).

    Approximate: clusters stay those of the study, whatever new rows would add; and rows beyond the nearest
    ones, that might be nearer by mutual reachability, are not looked at. The library differs in two things: its core
    distances of the study's rows leave out one neighbour where new rows are labelled, so that at the rims of clusters
    another row may decide (one of 1,600 rows scattered over blobs and moons got another label); and its strength may
    be more than that of the row that decides.

    Core distances of the study are not stored: they are searched again, for the rows that new ones have met. Cost:
    `nearest_rows` twice, and a shuffle of 2 (min_samples - 1) small rows for each new one.
    """
    k = max(min_samples, 2 * (min_samples - 1))
    with ExitStack() as held:
        with _arranged(vectors, metric, seed) as study:
            near = nearest_rows(study, block_df, k, seed=seed, progress=progress)
            held.callback(near.unpersist)
            own_core = F.get("gaps", F.least(F.lit(min_samples), F.size("gaps")) - 1)
            pairs = near.select(
                "image_id",
                (own_core if min_samples > 1 else F.lit(0.0)).alias("own_core"),
                F.explode_outer(F.arrays_zip("neighbours", "gaps")).alias("met"),
            ).select("image_id", "own_core", F.col("met.neighbours").alias("neighbour"), F.col("met.gaps").alias("gap"))
            met = vectors.join(pairs.select(F.col("neighbour").alias("image_id")).distinct(), "image_id", "left_semi")
            cores = _core_gaps(study, met, min_samples, seed, progress)
            held.callback(cores.unpersist)
        clustered = cores.join(labels.select("image_id", "cluster", "strength"), "image_id", "inner")
        joined = pairs.join(clustered.withColumnRenamed("image_id", "neighbour"), "neighbour", "left")
        # Structs compare field by field. No neighbour at all means noise.
        mutual = F.coalesce(F.greatest("gap", "own_core", "core"), F.lit(float("inf"))).alias("mutual_reachability")
        cluster = F.coalesce("cluster", F.lit(-1)).cast("int").alias("cluster")
        nearest = F.min(F.struct(mutual, "gap", "neighbour", cluster, "strength")).alias("nearest")
        found = joined.groupBy("image_id").agg(nearest).select("image_id", "nearest.*")

        def run(batches: Batches) -> Batches:
            for batch in batches:
                yield _joined(batch, births, deaths, metric)

        return blocks.computed(found.mapInArrow(run, ASSIGNED))


def _core_gaps(study: Arranged, met: DataFrame, min_samples: int, seed: int, progress: Say) -> DataFrame:
    """``image_id, core``: the gaps of some of the study's rows to their (min_samples - 1)-th nearest others; persisted.

    Fewer rows than that: the farthest there is stands in, as in `spanning_tree`.
    """
    if min_samples == 1:
        return blocks.persist(met.select("image_id", F.lit(0.0).alias("core")))
    block_df = blocks.persist(blocks.gather(met))
    try:
        near = nearest_rows(study, block_df, min_samples, seed=seed, progress=progress)
    finally:
        block_df.unpersist()
    # Every row finds itself; among more equal rows than are asked for, perhaps not.
    others = F.filter(F.arrays_zip("neighbours", "gaps"), lambda met: met["neighbours"] != F.col("image_id"))["gaps"]
    core = F.get(others, F.least(F.lit(min_samples - 1), F.size(others)) - 1)
    try:
        return blocks.computed(near.select("image_id", F.coalesce(core, F.lit(0.0)).alias("core")))
    finally:
        near.unpersist()


def _joined(batch: pa.RecordBatch, births: np.ndarray, deaths: np.ndarray, metric: Metric) -> pa.RecordBatch:
    """ASSIGNED rows from the nearest row's mutual_reachability (a gap), cluster and strength."""
    cluster = batch.column("cluster").to_numpy(zero_copy_only=False)
    theirs = batch.column("strength").to_numpy(zero_copy_only=False)
    with np.errstate(divide="ignore"):
        level = 1.0 / to_distance(batch.column("mutual_reachability").to_numpy(zero_copy_only=False), metric)
    inside = cluster >= 0
    inside[inside] = level[inside] > births[cluster[inside]]
    death = deaths[cluster[inside]]
    whole = level[inside] >= death
    strengths = np.zeros(len(cluster), np.float32)
    strengths[inside] = np.where(whole, 1.0, level[inside] / np.where(whole, 1.0, death))
    strengths[inside] = np.minimum(strengths[inside], theirs[inside])
    clusters = np.where(inside, cluster, -1).astype(np.int32)
    return pa.RecordBatch.from_arrays(
        [batch.column("image_id"), pa.array(clusters), pa.nulls(len(batch), pa.float32()), pa.array(strengths)],
        names=["image_id", "cluster", "distance", "strength"],
    )


def _distance(gap: Column, metric: Metric) -> Column:
    """`geometry.to_distance` in SQL."""
    return gap if metric == "cosine" else F.sqrt(F.lit(2.0) * gap)


@contextmanager
def _arranged(vectors: DataFrame, metric: Metric, seed: int) -> Iterator[Arranged]:
    """The study's rows in shards, for as long as the block lasts."""
    block_df = blocks.persist(blocks.gather(vectors))
    study = None
    try:
        study = arrange(block_df, metric, seed)
        yield study
    finally:
        if study is not None:
            study.release()
        block_df.unpersist()
