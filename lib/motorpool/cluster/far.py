"""Images that are far from everything that a model was fitted on."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

#: An image farther from its centroid than this share of the fitted ones is far.
NEAR = 0.99


def far_limits(labels: DataFrame) -> DataFrame:
    """``model_id, far_from DOUBLE``: the distance within which NEAR of a model's fitted images lie.

    ``labels`` are the fitted images' rows of the table ``labels``, in models whose algorithm `tells_far`. Approximate,
    with a rank that is wrong by at most a ten-thousandth of the images; null for a model of unknown distances.
    """
    clustered = labels.where(F.col("cluster") >= 0)
    return clustered.groupBy("model_id").agg(
        F.percentile_approx("distance", NEAR, 10_000).cast("double").alias("far_from")
    )


def is_far() -> Column:
    """Of ``cluster, distance, far_from``: whether an image is noise, or farther away than that.

    Null where the distance does not tell, as ``far_from`` is null: for algorithms without `tells_far`.
    """
    return (F.col("cluster") < 0) | (F.col("distance") > F.col("far_from"))
