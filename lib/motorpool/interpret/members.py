"""Which images stand for a cluster: those nearest its centre, typical ones, and those on its border.

The order of images within a cluster is a number for each of them (a hash, a silhouette); every task keeps the first of
each of its batches, so only a bounded number of rows for each cluster is ever sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from motorpool.cluster.ensemble.agreement import label_matrix
from motorpool.kernels.distances import distance_factors, squared_distances
from motorpool.kernels.runs import place_in_run
from motorpool.kernels.sampling import uniform_hash
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Orders a batch: float64[n, models], lower is earlier, NaN is left out.
Order = Callable[[pa.RecordBatch, np.ndarray], np.ndarray]

#: The first images of a batch, in the order of ``value``; ``model`` is a position.
_FIRST = "model INT, cluster INT, image_id BIGINT, value DOUBLE"
_GATHERED = "image_id BIGINT, clusters ARRAY<INT>, strengths ARRAY<FLOAT>"
_CHOSEN = "model_id STRING, cluster INT, image_id BIGINT, position INT"


def gathered(labels: DataFrame, model_ids: Sequence[str]) -> DataFrame:
    """``image_id, clusters ARRAY<INT>, strengths ARRAY<FLOAT>``: each image in the models named, in their order.

    ``labels`` has at most one row per model and image. A cluster of -1 is noise, or an image that the model has no
    label for. One shuffle of the labels.
    """

    def each(value: Column) -> Column:
        return F.array(*(F.max(F.when(F.col("model_id") == m, value)) for m in model_ids))

    cluster = F.coalesce(F.col("cluster"), F.lit(-1))
    chosen = labels.where(F.col("model_id").isin(list(model_ids)))
    return (
        chosen.groupBy("image_id")
        .agg(each(cluster).alias("found"), each(F.col("strength")).alias("strengths"))
        .select("image_id", F.transform("found", lambda c: F.coalesce(c, F.lit(-1))).alias("clusters"), "strengths")
    )


def picked(wide: DataFrame, positions: Sequence[int]) -> DataFrame:
    """`gathered` of those of its models that have some positions; held where ``wide`` is."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            n = len(batch)
            ends = pa.array(np.arange(n + 1, dtype=np.int32) * len(positions))
            lists = []
            for name in ("clusters", "strengths"):
                values = batch.column(name).flatten()
                width = len(values) // max(1, n)
                at = np.arange(n)[:, None] * width + np.array(positions)
                lists.append(pa.ListArray.from_arrays(ends, values.take(pa.array(at.reshape(-1)))))
            yield pa.RecordBatch.from_arrays(
                [batch.column("image_id"), *lists], names=["image_id", "clusters", "strengths"]
            )

    return blocks.mapped(wide, run, _GATHERED)


def typical(wide: DataFrame, model_ids: Sequence[str], n: Mapping[str, int], seed: int) -> DataFrame:
    """``model_id, cluster, image_id, position``: of each cluster a uniform sample of ``n[model_id]`` images.

    ``wide`` is `gathered`. The sample goes by the hash of the image's id and the seed, so it does not depend on the
    partitions, a smaller one is the beginning of a larger one, and models share many of their images.
    """

    def by_hash(batch: pa.RecordBatch, found: np.ndarray) -> np.ndarray:
        return np.repeat(uniform_hash(blocks.batch_ids(batch), seed)[:, None], found.shape[1], axis=1)

    return _first(wide, by_hash, model_ids, n)


def borderline(
    wide: DataFrame, vectors: DataFrame, centroids: Mapping[str, np.ndarray], n: Mapping[str, int]
) -> DataFrame:
    """``model_id, cluster, image_id, position``: the images of each cluster that are nearly another one's.

    Those of the lowest simplified silhouette (b - a) / max(a, b), with a the distance to the own centroid and b that
    to the nearest other one (Hruschka, de Castro & Campello 2004), in float64. ``wide`` is `gathered` for the models
    of ``centroids`` (float32[k, d], in their order); ``vectors`` has image_id and their feature set's vector. A model
    with one cluster has no border. One join by image.
    """
    models = list(centroids)
    stacked = np.concatenate([centroids[m] for m in models]).astype(np.float64)
    shift = stacked.mean(axis=0)
    factors = distance_factors(stacked - shift)
    edges = np.cumsum([0, *(len(centroids[m]) for m in models)])

    def by_silhouette(batch: pa.RecordBatch, found: np.ndarray) -> np.ndarray:
        squared = squared_distances(blocks.to_matrix(batch.column("vector")) - shift, factors)
        distances = np.sqrt(np.maximum(squared, 0.0))
        return np.stack([silhouettes(distances[:, a:b], f) for a, b, f in _spans(edges, found)], axis=1)

    return _first(blocks.joined(wide, vectors), by_silhouette, models, n)


def by_strength(wide: DataFrame, model_ids: Sequence[str], n: Mapping[str, int], *, strongest: bool) -> DataFrame:
    """``model_id, cluster, image_id, position``: the images that belong most, or least, by ``labels.strength``.

    For models without vectors, as a consensus; images of unknown strength are left out. Of equal ones the lower id.
    """

    def order(batch: pa.RecordBatch, found: np.ndarray) -> np.ndarray:
        flat = batch.column("strengths").flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        result: np.ndarray = (-1 if strongest else 1) * flat.reshape(found.shape)
        return result

    return _first(wide, order, model_ids, n)


def exemplars(clusters: DataFrame, n: int) -> DataFrame:
    """``model_id, cluster, image_id, position``: the first ``n`` of the exemplars that ``clusters`` holds."""
    nearest = F.posexplode(F.slice("exemplars", 1, n)).alias("position", "image_id")
    return clusters.select("model_id", "cluster", nearest).select("model_id", "cluster", "image_id", "position")


def members(kinds: Sequence[tuple[str, DataFrame]], images: DataFrame) -> DataFrame:
    """Rows of the table ``cluster_members`` from the images of each kind; ``images`` has image_id and path."""
    named = [df.select("model_id", "cluster", F.lit(kind).alias("kind"), "position", "image_id") for kind, df in kinds]
    chosen = reduce(DataFrame.unionByName, named)
    return chosen.join(images.select("image_id", "path"), on="image_id", how="inner").select(
        "model_id", "cluster", "kind", "position", "image_id", "path"
    )


def silhouettes(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Simplified silhouettes float64[n] of rows with float64[n, k] distances to the centroids and int[n] labels.

    NaN for noise and where there is one centroid; 0 for a row as near to both as can be, at no distance.
    """
    found = labels >= 0
    result = np.full(len(labels), np.nan)
    if distances.shape[1] < 2 or not found.any():
        return result
    rest, own = distances[found].copy(), labels[found, None]
    a = np.take_along_axis(rest, own, axis=1)[:, 0]
    np.put_along_axis(rest, own, np.inf, axis=1)
    b = rest.min(axis=1)
    larger = np.maximum(a, b)
    result[found] = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    return result


def _spans(edges: np.ndarray, found: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    return [(int(edges[m]), int(edges[m + 1]), found[:, m]) for m in range(found.shape[1])]


def _first(df: DataFrame, order: Order, model_ids: Sequence[str], n: Mapping[str, int]) -> DataFrame:
    """The first ``n`` of each model's clusters by ``order``; of equal ones the lower id."""
    limits = [n[m] for m in model_ids]

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                found = label_matrix(batch, "clusters")
                yield _firsts(blocks.batch_ids(batch), found, order(batch, found), limits)

    batches = blocks.held(df)
    if batches is not None:
        return blocks.hold(df.sparkSession, _ranked(list(run(batches)), model_ids, limits), _CHOSEN)
    within = Window.partitionBy("model", "cluster").orderBy("value", "image_id")
    names, most = F.array(*(F.lit(m) for m in model_ids)), F.array(*(F.lit(k) for k in limits))
    ranked = df.mapInArrow(run, _FIRST).withColumn("position", F.row_number().over(within) - 1)
    return ranked.where(F.col("position") < F.get(most, F.col("model"))).select(
        F.get(names, F.col("model")).alias("model_id"), "cluster", "image_id", "position"
    )


def _ranked(firsts: Sequence[pa.RecordBatch], model_ids: Sequence[str], limits: Sequence[int]) -> Batches:
    """Of the first images of some batches those of all, as rows of _CHOSEN."""
    if not firsts:
        return
    rows = pa.Table.from_batches(firsts)
    model, cluster, ids, value = (rows.column(name).to_numpy() for name in ("model", "cluster", "image_id", "value"))
    order = np.lexsort((ids, value, cluster, model))
    position = place_in_run(model[order], cluster[order])
    kept = position < np.array(limits)[model[order]]
    chosen = order[kept]
    yield pa.RecordBatch.from_arrays(
        [
            pa.array(model_ids).take(pa.array(model[chosen])),
            pa.array(cluster[chosen]),
            pa.array(ids[chosen]),
            pa.array(position[kept].astype(np.int32)),
        ],
        names=["model_id", "cluster", "image_id", "position"],
    )


def _firsts(ids: np.ndarray, found: np.ndarray, values: np.ndarray, limits: Sequence[int]) -> pa.RecordBatch:
    """Of int64[n] ids the first of every model and cluster, as rows of _FIRST."""
    model, cluster, image_id, value = [], [], [], []
    for m, limit in enumerate(limits):
        use = np.flatnonzero((found[:, m] >= 0) & ~np.isnan(values[:, m]))
        use = use[np.lexsort((ids[use], values[use, m], found[use, m]))]
        kept = use[place_in_run(found[use, m]) < limit]
        model.append(np.full(len(kept), m, np.int32))
        cluster.append(found[kept, m].astype(np.int32))
        image_id.append(ids[kept])
        value.append(values[kept, m])
    columns = [pa.array(np.concatenate(c)) for c in (model, cluster, image_id, value)]
    return pa.RecordBatch.from_arrays(columns, names=["model", "cluster", "image_id", "value"])
