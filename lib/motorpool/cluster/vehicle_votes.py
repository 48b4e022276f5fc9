"""What the photos of a vehicle say together: its label by their vote, and the photos that dissent."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

#: Photos that are listed as dissenting, of each vehicle and model.
DISSENTING = 100


def vote(labels: DataFrame, vehicles: DataFrame) -> DataFrame:
    """One row per vehicle and model: model_id, vehicle_id, cluster, n_photos, agreement, dissenting.

    ``labels`` has model_id, image_id and cluster, at most one row per model and image; ``vehicles`` has a unique
    image_id and vehicle_id, none missing. Images without a label in a model do not vote there.

    - cluster: the label that most photos have. Noise, -1, is a label as any other. Of labels with equally many photos
      the lower cluster wins, and noise comes last: it wins where every cluster has fewer.
    - n_photos BIGINT: the photos that voted; agreement DOUBLE in (0, 1]: the share of them with that label.
    - dissenting ARRAY<BIGINT>: those with another, ascending, at most the lowest DISSENTING of them.

    Exact. Two shuffles of the labels, one by image and one by vehicle; memory does not grow with the photos of a
    vehicle, whose sort spills to disk.
    """
    key = ("model_id", "vehicle_id")
    photos = (
        labels.select("model_id", "image_id", "cluster")
        .join(vehicles.select("image_id", "vehicle_id"), on="image_id", how="inner")
        # Everything below needs the photos of a vehicle in one place, and takes them from this one shuffle.
        .repartition(*key)
    )
    counts = photos.groupBy(*key, "cluster").agg(F.count("*").alias("n"))
    preference = F.struct("n", F.col("cluster") >= 0, -F.col("cluster"))
    won = counts.groupBy(*key).agg(
        F.max_by("cluster", preference).alias("cluster"),
        F.sum("n").alias("n_photos"),
        (F.max("n") / F.sum("n")).alias("agreement"),
    )
    nth = F.row_number().over(Window.partitionBy(*key).orderBy("image_id"))
    dissenting = (
        photos.join(won.select(*key, F.col("cluster").alias("voted")), on=list(key), how="inner")
        .where(F.col("cluster") != F.col("voted"))
        .withColumn("nth", nth)
        .where(F.col("nth") <= DISSENTING)
        .groupBy(*key)
        .agg(F.sort_array(F.collect_list("image_id")).alias("dissenting"))
    )
    nobody = F.array().cast("array<bigint>")
    return won.join(dissenting, on=list(key), how="left").select(
        *key, "cluster", "n_photos", "agreement", F.coalesce("dissenting", nobody).alias("dissenting")
    )
