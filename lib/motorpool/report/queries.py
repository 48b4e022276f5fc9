"""What the report reads: bounded rows of the tables on the driver, as pandas frames.

Nothing here grows with the images: frames have a row for each model, cluster, feature set or sampled image. A table
that the lake lacks gives None or an empty frame with its columns, and the page says which command makes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from motorpool.config.run import CONSENSUS
from motorpool.interpret.members import exemplars
from motorpool.interpret.stored import from_text
from motorpool.interpret.wording import named_colour
from motorpool.lake import Lake
from motorpool.report.wording import records

#: Stands for all appends together in the table ``drift``.
ALL_APPENDS = "all"
#: More models than this make a table that no browser sorts at once; the first of the ranking are kept.
MAX_MODELS = 5_000
#: Photos of a cluster in its CSV file, those nearest the centre.
LIST_ROWS = 1_000
#: Photos of each kind on a card.
PER_KIND = 8

_RANKING = ("rank", "rank_in_features", "score")


@dataclass(frozen=True)
class Overview:
    """How much the lake holds, in images, vehicles (0: the paths name none) and models."""

    n_images: int
    n_vehicles: int
    n_models: int
    n_ranked: int


@dataclass(frozen=True)
class Tree:
    """An agglomerative tree: merges float64[m - 1, 4] as `linkage.linkage` gives them, and one cut of it, int[m]."""

    merges: np.ndarray
    clusters: np.ndarray


def has(lake: Lake, table: str) -> bool:
    """Whether the lake holds the table with a row or more."""
    return lake.exists(table) and lake.count(table) > 0


def to_frame(df: DataFrame) -> pd.DataFrame:
    """All rows, with maps and arrays as plain Python values, whatever Spark's Arrow settings are."""
    columns = df.columns
    return pd.DataFrame([r.asDict(recursive=True) for r in df.collect()], columns=columns)


def fetched(
    lake: Lake, table: str, order: Sequence[str], columns: Sequence[str] = (), **keys: Sequence[str]
) -> pd.DataFrame:
    """The rows of a small table, which takes no Spark job, in the order of some columns, nulls first."""
    names = list(columns) or Lake.schema(table).names
    rows = pd.DataFrame(lake.rows(table, names, **keys), columns=names)
    return rows.sort_values(list(order), kind="stable", na_position="first", ignore_index=True)


def overview(lake: Lake) -> Overview:
    images = lake.fitted(lake.read("images"))
    row = images.agg(F.count("*").alias("n"), F.count_distinct("vehicle_id").alias("vehicles")).first()
    lake.check("models")
    states = [r["status"] for r in lake.rows("models", ["status"])]
    if row is None:
        raise RuntimeError("an aggregate without groups gave no row")
    return Overview(int(row["n"]), int(row["vehicles"]), len(states), states.count("ok"))


def models(lake: Lake) -> pd.DataFrame:
    """One row per model with its place in the ranking (null: not ranked), the ranked ones first, at most 5,000."""
    board = lake.leaderboard().select("model_id", *_RANKING)
    found = (
        lake.read("models")
        .join(board, on="model_id", how="left")
        .orderBy(F.col("rank").asc_nulls_last(), "features", "algorithm", "n_clusters", "model_id")
        .limit(MAX_MODELS)
    )
    return to_frame(found)


def feature_sets(lake: Lake) -> pd.DataFrame:
    """``features, explained_variance_curve``."""
    lake.check("feature_sets")
    return fetched(lake, "feature_sets", ["features"], ["features", "explained_variance_curve"])


def k_distances(lake: Lake) -> pd.DataFrame:
    """All curves: some hundred rows for each feature set, metric and k."""
    # Lakes of earlier versions hold infinite ones, of fewer images than k.
    found = fetched(lake, "k_distances", ["features", "metric", "k", "quantile"])
    return found[found["distance"] < np.inf].reset_index(drop=True)


def clusters(lake: Lake, model_ids: Sequence[str]) -> pd.DataFrame:
    """The clusters of the models, without centroids."""
    columns = Lake.schema("clusters", without=["centroid"]).names
    return fetched(lake, "clusters", ["model_id", "cluster"], columns, model_id=model_ids)


def colours(clusters: pd.DataFrame) -> dict[int, str | None]:
    """By cluster of one model, the name of its colour where its evidence has one."""
    return {
        int(row["cluster"]): named_colour(from_text(row["evidence"])) if isinstance(row["evidence"], str) else None
        for row in records(clusters)
    }


def agreement(lake: Lake) -> pd.DataFrame:
    return fetched(lake, "agreement", ["model_a", "model_b"])


def nuisance(lake: Lake) -> pd.DataFrame:
    """How far models follow columns that they should not: a row for each model and column."""
    return fetched(lake, "nuisance", ["model_id", "column_name"])


def drift(lake: Lake) -> pd.DataFrame:
    """How far appended images differ: a row for each model and append, and for each model over `ALL_APPENDS`."""
    return fetched(lake, "drift", ["append_id", "model_id"])


def appends(lake: Lake) -> pd.DataFrame:
    """All appends, in the order in which they came."""
    return fetched(lake, "appends", ["first_image_id"])


def appended_sizes(lake: Lake, model_ids: Sequence[str]) -> pd.DataFrame:
    """``model_id, cluster, n`` of the appended images in the clusters of some models, -1 for noise."""
    first = lake.first_appended()
    labels = lake.read_or_empty("labels", model_id=list(model_ids)).where(F.col("image_id") >= F.lit(first))
    counts = labels.groupBy("model_id", "cluster").agg(F.count("*").alias("n"))
    return to_frame(counts.orderBy("model_id", "cluster"))


def tree(lake: Lake, model_id: str, tree_of: str) -> Tree | None:
    """The stored tree of an agglomerative model; None where the lake does not hold it.

    Driver memory: 32 bytes for each of at most 16,384 merges, besides the rows as Spark brings them.
    """
    rows = lake.read_or_empty("parameters")
    of_model = (F.col("model_id") == model_id) & (F.col("field") == "clusters")
    of_tree = (F.col("model_id") == tree_of) & (F.col("field") == "merges")
    found = {r["field"]: np.array(r["values"]).reshape(r["shape"]) for r in rows.where(of_model | of_tree).collect()}
    if set(found) != {"merges", "clusters"} or not len(found["merges"]):
        return None
    return Tree(found["merges"], found["clusters"].astype(np.int64))


def map_images(lake: Lake, n: int, seed: int) -> pd.DataFrame:
    """``image_id, path, vehicle_id`` of a uniform sample of ``n`` images, drawn by the hash of their ids, in its order.

    The same images for every map, so that a photo can be followed from one to the next. A cluster of a share s has
    about s n of them.
    """
    drawn = lake.fitted(lake.read("images")).select("image_id", "path", "vehicle_id")
    return to_frame(drawn.orderBy(F.xxhash64("image_id", F.lit(seed)), "image_id").limit(n))


def _of_images(df: DataFrame, image_ids: np.ndarray) -> DataFrame:
    wanted = df.sparkSession.createDataFrame(pd.DataFrame({"image_id": image_ids}), "image_id BIGINT")
    return df.join(F.broadcast(wanted), on="image_id", how="inner")


def projection_names(lake: Lake, features: Sequence[str]) -> pd.DataFrame:
    """``features, method, dims`` (2 or 3) of the projections of the given feature sets."""
    found = lake.read_or_empty("projections", features=features)
    dims = F.when(F.count("z") > 0, 3).otherwise(2).alias("dims")
    return to_frame(found.groupBy("features", "method").agg(dims).orderBy("features", "method"))


def projections(lake: Lake, features: str, image_ids: np.ndarray) -> pd.DataFrame:
    """``method, image_id, x, y, z`` of the sampled images in one feature set."""
    found = lake.read("projections", features=features)
    return _of_images(found, image_ids).select("method", "image_id", "x", "y", "z").toPandas()


def labels(lake: Lake, model_ids: Sequence[str], image_ids: np.ndarray) -> pd.DataFrame:
    """``model_id, image_id, cluster`` of the sampled images."""
    found = lake.read("labels", model_id=model_ids)
    return _of_images(found, image_ids).select("model_id", "image_id", "cluster").toPandas()


def outlier_ids(lake: Lake, image_ids: np.ndarray) -> set[int]:
    """Those of the sampled images that the consensus of the outlier methods flags."""
    return {int(r["image_id"]) for r in _of_images(lake.consensus_outliers(), image_ids).collect()}


def methods(lake: Lake, table: str) -> pd.DataFrame:
    """A table with a row for each method of a feature set: ``outlier_methods``, ``projection_methods``."""
    return fetched(lake, table, ["features", "method"])


# -- pictures --------------------------------------------------------------------------------------


def members(lake: Lake, wanted: pd.DataFrame) -> pd.DataFrame:
    """``model_id, cluster, kind, position, image_id, path`` of the photos that stand for the ``wanted`` clusters.

    ``wanted`` is ``model_id, cluster``. From ``cluster_members`` for models that the interpretation has looked at;
    for others the exemplars of ``clusters`` alone, as kind ``exemplar``. At most 8 of each kind.
    """
    columns = ("model_id", "cluster", "kind", "position", "image_id")
    pairs = F.broadcast(lake.spark.createDataFrame(wanted, "model_id STRING, cluster INT"))
    of_pairs = lake.read_or_empty("clusters").join(pairs, on=["model_id", "cluster"], how="inner")
    found = exemplars(of_pairs, PER_KIND).withColumn("kind", F.lit("exemplar")).select(*columns)
    members = (
        lake.read_or_empty("cluster_members").join(pairs, on=["model_id", "cluster"], how="inner").select(*columns)
    )
    rest = found.join(members.select("model_id").distinct(), on="model_id", how="left_anti").select(*columns)
    first = Window.partitionBy("model_id", "cluster", "kind").orderBy("position", "image_id")
    numbered = members.withColumn("position", F.row_number().over(first) - 1)
    shown = numbered.where(F.col("position") < PER_KIND).unionByName(rest)
    images = lake.read("images").select("image_id", "path")
    joined = shown.join(images, on="image_id", how="inner").select(*columns, "path")
    return to_frame(joined.orderBy("model_id", "cluster", "kind", "position"))


def cluster_photos(lake: Lake, wanted: pd.DataFrame) -> pd.DataFrame:
    """``model_id, cluster, position, path, vehicle_id, distance`` of the first LIST_ROWS photos of the wanted clusters.

    ``wanted`` is ``model_id, cluster``. Those nearest the centre come first, or where a model has no distances, the
    strongest. Driver memory: some 200 bytes a row.
    """
    pairs = F.broadcast(lake.spark.createDataFrame(wanted, "model_id STRING, cluster INT"))
    models = sorted(set(wanted["model_id"]))
    labels = lake.read_or_empty("labels", model_id=models).join(pairs, on=["model_id", "cluster"], how="inner")
    order = [F.col("distance").asc_nulls_last(), F.col("strength").desc_nulls_last(), F.col("image_id")]
    first = Window.partitionBy("model_id", "cluster").orderBy(*order)
    placed = labels.withColumn("position", F.row_number().over(first)).where(F.col("position") <= LIST_ROWS)
    images = lake.read("images").select("image_id", "path", "vehicle_id")
    joined = placed.join(images, on="image_id", how="inner")
    found = joined.select("model_id", "cluster", "position", "path", "vehicle_id", "distance").toPandas()
    return found.sort_values(["model_id", "cluster", "position"], ignore_index=True)


def paths(lake: Lake, image_ids: Collection[int]) -> dict[int, str]:
    """The paths of some images."""
    if not image_ids:
        return {}
    found = _of_images(lake.read("images").select("image_id", "path"), np.array(sorted(image_ids), np.int64))
    return {int(r["image_id"]): str(r["path"]) for r in found.collect()}


def outliers(lake: Lake, per_consensus: int, per_method: int) -> pd.DataFrame:
    """``method, features, image_id, path, score, place`` of the images that stand out most.

    The consensus's first ``per_consensus``, and for every other method the images with the best places in any feature
    set, because scores of different sets do not compare; an image comes once for each method.
    """
    flagged = lake.read_or_empty("outliers").where("is_outlier")
    order = Window.partitionBy("features", "method").orderBy(F.col("score").desc(), "image_id")
    placed = flagged.withColumn("place", F.row_number().over(order))
    limit = F.when(F.col("method") == CONSENSUS, per_consensus).otherwise(per_method)
    near = placed.where(F.col("place") <= limit)
    once = Window.partitionBy("method", "image_id").orderBy("place", "features")
    of_method = Window.partitionBy("method").orderBy("place", "features", "image_id")
    chosen = (
        near.withColumn("nth", F.row_number().over(once))
        .where("nth = 1")
        .withColumn("nth", F.row_number().over(of_method))
        .where(F.col("nth") <= limit)
        .join(lake.read("images").select("image_id", "path"), on="image_id", how="inner")
        .select("method", "features", "image_id", "path", "score", "place")
    )
    return to_frame(chosen.orderBy("method", "place", "features", "image_id"))


def reasons(lake: Lake, image_ids: Collection[int]) -> pd.DataFrame:
    """``features, method, image_id, reason`` of the images shown."""
    columns = ("features", "method", "image_id", "reason")
    if not image_ids:
        return pd.DataFrame(columns=columns)
    found = _of_images(lake.read_or_empty("outlier_reasons"), np.array(sorted(image_ids), np.int64))
    return to_frame(found.where("reason IS NOT NULL").select(*columns).orderBy("image_id", "features", "method"))


def vehicles(lake: Lake, model_id: str, n: int) -> tuple[dict[str, float], pd.DataFrame]:
    """How many vehicles a model holds whole, and the ``n`` of two or more photos whose photos disagree most."""
    empty = pd.DataFrame(columns=["vehicle_id", "cluster", "n_photos", "agreement", "dissenting"])
    several: Column = F.col("n_photos") >= 2
    of_model = lake.read_or_empty("vehicles", model_id=model_id).where(several)
    row = of_model.agg(F.count("*").alias("n"), F.count_if(F.col("agreement") == 1).alias("whole")).first()
    if row is None or not row["n"]:
        return {}, empty
    worst = of_model.where("agreement < 1").orderBy("agreement", F.col("n_photos").desc(), "vehicle_id").limit(n)
    return {"n": row["n"], "whole": row["whole"]}, to_frame(worst.select(*empty.columns))
