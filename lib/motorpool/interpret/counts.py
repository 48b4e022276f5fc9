"""What the labels of models say beside other columns: counts for every cluster, by grouping, never row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

#: Attribute columns with more values than this are names or measurements, not kinds.
MAX_VALUES = 64
#: Medians of measured photos; tallness is height by width.
NUMBERS = ("brightness", "contrast", "sharpness", "width", "tallness")
#: Columns of ``images`` that are no attributes.
_OWN = ("image_id", "path", "vehicle_id")


@dataclass(frozen=True)
class Counts:
    """What was counted for all clusters of some models: some rows for each cluster, on the driver.

    photos, medians: see `summarise_photos`; vehicles: `count_vehicles`, None where no vehicle is known; attributes:
    `count_attributes`; labels: those of its columns that are labels. Empty frames where there was nothing to count.
    """

    photos: pd.DataFrame = field(default_factory=pd.DataFrame)
    medians: pd.DataFrame = field(default_factory=pd.DataFrame)
    vehicles: pd.DataFrame | None = None
    attributes: pd.DataFrame = field(default_factory=pd.DataFrame)
    labels: Sequence[str] = ()

    def of_model(self, model_id: str) -> Counts:
        """The rows of one model."""

        def own(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["model_id"] == model_id] if len(frame) else frame

        vehicles = None if self.vehicles is None else own(self.vehicles)
        return Counts(own(self.photos), own(self.medians), vehicles, own(self.attributes), self.labels)


def count_vehicles(wide: DataFrame, images: DataFrame, model_ids: Sequence[str]) -> DataFrame:
    """``model_id, cluster, n_vehicles, n_whole``: vehicles with photos in a cluster, and those with all theirs.

    ``wide`` is `members.gathered`, ``images`` has image_id and vehicle_id. A vehicle is whole where it has two photos
    or more and all of them lie in the cluster. Exact.
    """
    known = images.where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    long = _long(wide.join(known, on="image_id", how="inner"), model_ids, "vehicle_id")
    counted = long.groupBy("model_id", "vehicle_id", "cluster").count()
    of_vehicle = Window.partitionBy("model_id", "vehicle_id")
    whole = (F.col("count") == F.sum("count").over(of_vehicle)) & (F.col("count") >= 2)
    return (
        counted.withColumn("whole", whole)
        .where(F.col("cluster") >= 0)
        .groupBy("model_id", "cluster")
        .agg(F.count("*").alias("n_vehicles"), F.count_if("whole").alias("n_whole"))
    )


def attribute_columns(images: DataFrame) -> tuple[list[str], list[str]]:
    """The columns of ``images`` that tell kinds, and those left out for having more than MAX_VALUES values."""
    columns = [c for c in images.columns if c not in _OWN]
    if not columns:
        return [], []
    # As exact as approx_count_distinct to 1 %, whose 1,639 columns of a buffer for each column take Spark seconds to
    # compile.
    row = images.agg(*(_n_values(F.col(f"`{c}`")).alias(c) for c in columns)).first()
    few = [c for c in columns if row is not None and 0 < row[c] <= MAX_VALUES]
    return few, [c for c in columns if row is not None and row[c] > MAX_VALUES]


def _n_values(column: Column) -> Column:
    """About how many values a column has: exact for dozens, beyond that to about 1 %."""
    hashed = F.when(column.isNotNull(), F.xxhash64(column))
    return F.hll_sketch_estimate(F.hll_sketch_agg(hashed, F.lit(14)))


def attributes_fingerprint(images: DataFrame, columns: Sequence[str]) -> str:
    """A number, as text, of what ``images`` tells in some columns: the same for any partitions; empty for none."""
    if not columns:
        return ""
    hashed = F.xxhash64("image_id", *(F.col(f"`{c}`") for c in columns)).cast("decimal(38,0)")
    row = images.agg(F.sum(hashed).alias("sum")).first()
    return str(row["sum"]) if row is not None else ""


def count_attributes(wide: DataFrame, images: DataFrame, columns: Sequence[str], model_ids: Sequence[str]) -> DataFrame:
    """``model_id, cluster, attribute, value, count, vehicles``: images of every cluster with every known value.

    Images without a value count nowhere. At most MAX_VALUES values of every column. Exact.
    """
    pairs = F.array(
        *(F.struct(F.lit(c).alias("attribute"), F.col(f"`{c}`").cast("string").alias("value")) for c in columns)
    )
    told = images.select("image_id", "vehicle_id", F.explode(pairs).alias("told")).select(
        "image_id", "vehicle_id", "told.attribute", "told.value"
    )
    known = told.where(F.col("value").isNotNull())
    long = _long(known.join(wide, on="image_id", how="inner"), model_ids, "attribute", "value", "vehicle_id")
    return (
        long.where(F.col("cluster") >= 0)
        .groupBy("model_id", "cluster", "attribute", "value")
        .agg(F.count("*").alias("count"), F.count_distinct("vehicle_id").alias("vehicles"))
    )


def summarise_photos(photos: DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts (``model_id, cluster, what, value, count``) and medians of the measured photos of every cluster.

    ``photos`` has model_id and cluster beside `appearance.APPEARANCE_SCHEMA`. ``what`` is status, color or light;
    medians have one column for each of NUMBERS. On the driver: some rows a cluster.
    """
    pairs = F.array(*(F.struct(F.lit(c).alias("what"), F.col(c).alias("value")) for c in ("status", "color", "light")))
    told = photos.select("model_id", "cluster", F.explode(pairs).alias("told"))
    counts = (
        told.select("model_id", "cluster", "told.what", "told.value")
        .where(F.col("value").isNotNull())
        .groupBy("model_id", "cluster", "what", "value")
        .count()
    )
    numbers = photos.where("status = 'ok'").withColumn("tallness", F.col("height") / F.col("width"))
    medians = numbers.groupBy("model_id", "cluster").agg(*(F.median(c).alias(c) for c in NUMBERS))
    return counts.toPandas(), medians.toPandas()


def _long(wide: DataFrame, model_ids: Sequence[str], *columns: str) -> DataFrame:
    """One row per image and model: ``model_id, cluster`` and the columns named."""
    names = F.array(*(F.lit(m) for m in model_ids))
    return wide.select(F.posexplode("clusters").alias("model", "cluster"), *columns).select(
        F.get(names, F.col("model")).alias("model_id"), "cluster", *columns
    )
