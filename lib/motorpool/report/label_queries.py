"""What the section on labels reads: a row for each attribute and value, and some photos of each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pyspark.sql import Window
from pyspark.sql import functions as F

from motorpool.lake import Lake
from motorpool.report.queries import fetched, to_frame

#: Accepted photos of each value, and photos of each attribute that are left for people.
PER_VALUE, PER_ATTRIBUTE = 8, 12


def label_sets(lake: Lake) -> pd.DataFrame:
    """The table without its programs."""
    return fetched(lake, "label_sets", ["attribute"], Lake.schema("label_sets", without=["program"]).names)


def audits(lake: Lake, attributes: Sequence[str]) -> pd.DataFrame:
    """The last audits; ``value`` is None in an attribute's row for all its values."""
    found = fetched(lake, "audits", ["attribute", "value"])
    return found[found["attribute"].isin(attributes)]


def counts(lake: Lake, attributes: Sequence[str]) -> pd.DataFrame:
    """``attribute, value, n, n_accepted``: the images by their labels, the most frequent first."""
    labels = lake.read_or_empty("image_labels", attribute=attributes)
    found = labels.groupBy("attribute", "value").agg(
        F.count("*").alias("n"), F.count_if("accepted").alias("n_accepted")
    )
    return to_frame(found.orderBy("attribute", F.col("n").desc(), "value"))


def photos(lake: Lake, attributes: Sequence[str], seed: int) -> pd.DataFrame:
    """``attribute, value, accepted, outlier, image_id, path, probability`` of photos, drawn by the hash of their ids.

    8 accepted ones of each value, and 12 of each attribute that are left for people. ``outlier`` is true for outliers
    of the consensus, which are left whatever their probability.
    """
    labels = lake.read_or_empty("image_labels", attribute=attributes)
    drawn = F.xxhash64("image_id", F.lit(seed))
    group = F.when(F.col("accepted"), F.col("value"))
    of_group = Window.partitionBy("attribute", "accepted", group).orderBy(drawn, "image_id")
    limit = F.when(F.col("accepted"), PER_VALUE).otherwise(PER_ATTRIBUTE)
    shown = labels.withColumn("position", F.row_number().over(of_group)).where(F.col("position") <= limit)
    images = lake.read("images").select("image_id", "path")
    marked = lake.consensus_outliers().withColumn("outlier", F.lit(True))
    joined = shown.join(images, on="image_id", how="inner").join(marked, on="image_id", how="left")
    columns = ("attribute", "value", "accepted", "outlier", "image_id", "path", "probability")
    ordered = joined.na.fill({"outlier": False}).orderBy("attribute", "accepted", "value", "position")
    return to_frame(ordered.select(*columns)).astype({"accepted": bool, "outlier": bool})
