"""How far clusterings follow columns of a table, such as the camera: normalised mutual information, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.features.vehicle_steps import BROADCAST_IMAGES
from motorpool.spark import blocks

#: How rarely values without any connection to the clusters reach `Followed.by_chance`.
CHANCE = 0.001
#: Digits behind the point that do not depend on the order in which tasks add up.
_DIGITS = 12


@dataclass(frozen=True)
class Followed:
    """One model beside one column: images with a label and a value, and what both know of each other.

    Entropies are in nats: of the clusters, noise among them as one of its own; of the values; and of both together.
    """

    n_images: int
    n_clusters: int
    n_values: int
    of_clusters: float
    of_values: float
    joint: float

    @property
    def nmi(self) -> float:
        """Mutual information over the mean of both entropies, as scikit-learn's normalized_mutual_info_score has it.

        1 where there is a single cluster and a single value, 0 where there is one of them alone.
        """
        if self.n_clusters == self.n_values == 1:
            return 1.0
        total = self.of_clusters + self.of_values
        return round(min(max(2 * (total - self.joint) / total, 0.0), 1.0), _DIGITS)

    @property
    def by_chance(self) -> float:
        """The figure that values without any connection to the clusters stay below in 999 of 1,000 draws, at most 1.

        Twice the images times the mutual information is then chi-squared with (clusters - 1) (values - 1) degrees of
        freedom (the G-test), an approximation for large counts.
        """
        # Importing it takes a while, and few commands need it.
        from scipy.stats import chi2

        freedom = (self.n_clusters - 1) * (self.n_values - 1)
        if not freedom:
            return 0.0
        information = float(chi2.ppf(1 - CHANCE, freedom)) / (2 * self.n_images)
        return round(min(2 * information / (self.of_clusters + self.of_values), 1.0), _DIGITS)


def follow_columns(
    labels: DataFrame, images: DataFrame, columns: Sequence[str], n_images: int
) -> dict[tuple[str, str], Followed]:
    """By model and column, how far the clusters follow it; none where no image has both a label and a value.

    ``labels`` has model_id, image_id and cluster, ``images`` image_id and the columns, whose nulls are left out. One
    pass over the labels of all models; the contingency tables stay on the executors, and so nothing on the driver grows
    with clusters, values or images: it gets a row for each model and column.
    """
    told = F.array(*(F.struct(F.lit(c).alias("column_name"), F.col(f"`{c}`").cast("string").alias("value"))
                     for c in columns))  # fmt: skip
    side = images.select("image_id", told.alias("told"))
    side = F.broadcast(side) if n_images <= BROADCAST_IMAGES else side
    both = labels.select("model_id", "image_id", "cluster").join(side, on="image_id", how="inner")
    pairs = both.select("model_id", "cluster", F.explode("told").alias("told")).where(F.col("told.value").isNotNull())
    keys = ["model_id", "column_name"]
    entries = (
        pairs.select("model_id", "told.column_name", "cluster", "told.value")
        .groupBy(*keys, "cluster", "value")
        .agg(F.count("*").alias("n"))
    )
    with blocks.kept(entries) as entries:
        clusters = entries.groupBy(*keys, "cluster").agg(F.sum("n").alias("n"))
        values = entries.groupBy(*keys, "value").agg(F.sum("n").alias("n"))
        found = _summed(entries, keys, "joint")
        for frame, name in ((clusters, "clusters"), (values, "values")):
            found = found.join(_summed(frame, keys, name).drop("images"), on=keys, how="inner")
        rows = found.collect()
    return {
        (r["model_id"], r["column_name"]): Followed(
            int(r["images"]),
            int(r["n_clusters"]),
            int(r["n_values"]),
            *(math.log(r["images"]) - r[f"logs_{name}"] / r["images"] for name in ("clusters", "values", "joint")),
        )
        for r in rows
    }


def _summed(counts: DataFrame, keys: Sequence[str], name: str) -> DataFrame:
    """By model and column: how many counts there are, their sum, and that of n ln n."""
    return counts.groupBy(*keys).agg(
        F.count("*").alias(f"n_{name}"),
        F.sum("n").alias("images"),
        F.sum(F.col("n") * F.log(F.col("n").cast("double"))).alias(f"logs_{name}"),
    )
