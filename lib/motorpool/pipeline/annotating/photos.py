"""Which image a path means that somebody else has written: another root, other slashes, no extension, a bare name."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.case.tables import normal_path

#: Images with the same last parts that are looked at, at most: with more the path says too little anyway.
_ALIKE = 64


def locate(annotations: DataFrame, images: DataFrame) -> DataFrame:
    """``annotations`` (with ``path STRING``) and ``found ARRAY<BIGINT>``: ids of the images that each path may mean.

    One id where the path is the image's, but for its slashes; or else where, without extensions, one of the two paths
    ends with the other, as ``00001/000001`` and ``raw_data/veriwild/1/00001/000001.jpg`` do with
    ``veriwild/1/00001/000001.jpg``. No id for a path that means no image, several where it says too little. The last
    two parts of ``images`` (``image_id, path``) must not be the same for more than
    _ALIKE of them: no others are looked at.
    """
    known = images.select("image_id", F.col("path").alias("known"), _stem(F.col("path")).alias("stem"))
    keyed = known.select("image_id", "stem", F.explode(F.array_distinct(_keys(F.col("stem")))).alias("key"))
    alike = keyed.groupBy("key").agg(F.slice(F.collect_list(F.struct("image_id", "stem")), 1, _ALIKE).alias("alike"))
    given = annotations.withColumn("known", normal_path("path"))
    exact = given.join(known.drop("stem"), on="known", how="left")
    stem = _stem(F.col("known"))
    # Rows whose image is known match no key.
    key = F.when(F.col("image_id").isNull(), F.element_at(_keys(stem), 1))
    near = exact.withColumn("stem", stem).withColumn("key", key).join(alike, on="key", how="left")
    meant = F.transform(F.filter("alike", _same_end), lambda x: x["image_id"])
    found = F.when(F.col("image_id").isNotNull(), F.array("image_id")).otherwise(
        F.coalesce(meant, F.array().cast("array<bigint>"))
    )
    return near.select(*annotations.columns, found.alias("found"))


def _stem(path: Column) -> Column:
    """A path without the extension, as ``veriwild/1/00001/000001``."""
    return F.regexp_replace(path, r"(?<=[^/])\.[A-Za-z0-9]{1,5}$", "")


def _keys(stem: Column) -> Column:
    """The last two parts of a path and the last alone; the longest that it has comes first."""
    parts = F.split(stem, "/")
    return F.array(
        F.array_join(F.slice(parts, F.greatest(F.size(parts) - 1, F.lit(1)), 2), "/"), F.element_at(parts, -1)
    )


def _same_end(image: Column) -> Column:
    given, known = F.concat(F.lit("/"), F.col("stem")), F.concat(F.lit("/"), image["stem"])
    return given.endswith(known) | known.endswith(given)
