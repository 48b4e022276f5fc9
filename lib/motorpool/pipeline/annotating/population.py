"""The photos that people may be asked to look at, and what was said about their vehicles already."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.features.vehicle_steps import own_vehicle
from motorpool.lake import Lake


def images_of(lake: Lake) -> DataFrame:
    """``image_id, path, vehicle`` of all images; ``vehicle`` by `own_vehicle`."""
    return lake.read("images").select("image_id", "path", own_vehicle().alias("vehicle"))


def looked_at(lake: Lake, attribute: str) -> DataFrame:
    """``image_id, vehicle, trained, audited`` of the images that somebody looked at for an attribute."""
    annotations = lake.read_or_empty("annotations", attribute=attribute)
    flags = annotations.groupBy("image_id").agg(
        F.bool_or(F.col("purpose") == "train").alias("trained"), F.bool_or(F.col("purpose") == "audit").alias("audited")
    )
    return images_of(lake).drop("path").join(flags, on="image_id", how="inner")


def untaught(lake: Lake, attribute: str) -> DataFrame:
    """``image_id, path, vehicle, value, accepted`` of the labels that can be audited.

    Those of vehicles that labels were learned from would be compared with themselves.
    """
    labels = lake.read("image_labels", attribute=attribute).where("value IS NOT NULL AND source <> 'person'")
    taught = looked_at(lake, attribute).where("trained").select("vehicle").distinct()
    return (
        images_of(lake)
        .join(labels.select("image_id", "value", "accepted"), on="image_id", how="inner")
        .join(taught, on="vehicle", how="left_anti")
    )


def without_outliers(lake: Lake, images: DataFrame) -> DataFrame:
    """Images that are no outliers of the consensus: those look like no other."""
    return images.join(lake.consensus_outliers(), on="image_id", how="left_anti")


def shuffled(seed: int) -> Column:
    """A number that orders images at random, the same for a seed however they are partitioned."""
    return F.xxhash64("image_id", F.lit(seed))
