"""Reasons: for every image that a method calls an outlier, what the numbers say in words, and photos to compare."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.outliers.registry import OUTLIER_METHODS

#: Photos named beside a flagged one.
NEIGHBOURS = 5

_FACTS = "method STRING, image_id BIGINT, neighbours ARRAY<BIGINT>, n_photos BIGINT, distance DOUBLE"


def usual_scores(scores: DataFrame) -> DataFrame:
    """``method, usual DOUBLE``: the median score of each method; beyond 10,000 images within 0.01 % of the ranks."""
    return scores.groupBy("method").agg(F.percentile_approx("score", 0.5, 10_000).alias("usual"))


def facts(df: DataFrame, method: str) -> DataFrame:
    """Facts of one method, from image_id and those of neighbours, n_photos and distance that ``df`` has."""
    types = dict(c.split() for c in _FACTS.split(", "))
    columns = [
        (F.col(c) if c in df.columns else F.lit(None)).cast(types[c]).alias(c)
        for c in ("neighbours", "n_photos", "distance")
    ]
    return df.select(F.lit(method).alias("method"), "image_id", *columns)


def no_facts(df: DataFrame) -> DataFrame:
    """Facts of no image, in the session of ``df``."""
    return df.sparkSession.createDataFrame([], _FACTS)


def explain(flagged: DataFrame, usual: DataFrame, known: DataFrame, images: DataFrame, k: int) -> DataFrame:
    """``method, image_id, reason STRING, neighbours ARRAY<BIGINT>, vehicle_id STRING, value DOUBLE, usual DOUBLE``.

    One row for each of ``flagged`` (method, image_id, score). ``usual`` is what `usual_scores` gives, ``known`` the
    `facts` that there are (an image of a method once), ``images`` has image_id and vehicle_id, ``k`` is the number of
    neighbours that were searched. The value is the score, the usual one the median of its method.

    Neighbours are other images to compare, as the method names them in its facts, best first; null where it names none.
    """
    rows = (
        flagged.select("method", "image_id", F.col("score").alias("value"))
        .join(F.broadcast(usual), on="method", how="inner")
        .join(known, on=["method", "image_id"], how="left")
        .join(images.select("image_id", "vehicle_id"), on="image_id", how="left")
    )
    reason = _sentence(k)
    return rows.select(
        "method", "image_id", reason.alias("reason"), "neighbours", "vehicle_id", "value", F.col("usual")
    )


def explain_consensus(flagged: DataFrame, single: DataFrame, usual: DataFrame, images: DataFrame) -> DataFrame:
    """As `explain`, for what the consensus flags: which rankings flag the image too, and how many there are.

    ``single`` are the scores that it is made of: features, method, image_id, is_outlier.
    """
    flagging = (
        single.where("is_outlier")
        .groupBy("image_id", "method")
        .agg(F.sort_array(F.collect_set("features")).alias("features"))
        .groupBy("image_id")
        .agg(
            F.sum(F.size("features")).alias("n_flagging"),
            F.sort_array(F.collect_list(F.struct("method", "features"))).alias("flagging"),
        )
    )
    n_rankings = single.select("features", "method").distinct().agg(F.count("*").alias("n_rankings"))
    rows = (
        flagged.select("method", "image_id", F.col("score").alias("value"))
        .join(F.broadcast(usual), on="method", how="inner")
        .join(flagging, on="image_id", how="left")
        .join(images.select("image_id", "vehicle_id"), on="image_id", how="left")
        .crossJoin(F.broadcast(n_rankings))
    )
    named = F.transform("flagging", lambda v: F.concat(v["method"], F.lit(" on "), F.concat_ws(", ", v["features"])))
    by_some = F.format_string(
        "Flagged by %d of %d rankings: %s.", F.col("n_flagging"), F.col("n_rankings"), F.concat_ws("; ", named)
    )
    by_none = F.format_string("High in several of %d rankings, though none of them flags it.", F.col("n_rankings"))
    reason = F.when(F.col("n_flagging").isNotNull(), by_some).otherwise(by_none)
    nothing = F.lit(None).cast("array<bigint>").alias("neighbours")
    return rows.select("method", "image_id", reason.alias("reason"), nothing, "vehicle_id", "value", F.col("usual"))


@dataclass(frozen=True)
class Words:
    """What the sentence of a method is made of: columns of a flagged image's score and facts, and ways to put them.

    ``k`` is the number of neighbours that were searched.
    """

    k: int

    @property
    def ratio(self) -> Column:
        """The score by how many times the usual one it is, for scores on a scale with a zero."""
        value, usual = F.col("value"), F.col("usual")
        times = self.formatted("%.3g, %.1f times the usual %.3g", value, value / usual, usual)
        return F.when(usual > 0, times).otherwise(self.formatted("%.3g, usually 0", value))

    @property
    def level(self) -> Column:
        """The score beside the usual one."""
        return self.formatted("%.3g, usually %.3g", F.col("value"), F.col("usual"))

    @property
    def percent(self) -> Column:
        """As ``level``, of scores that are shares."""
        return self.formatted("%.0f %% (usually %.0f %%)", 100 * F.col("value"), 100 * F.col("usual"))

    @property
    def other_photos(self) -> Column:
        """The other photos of the image's vehicle, from the fact ``n_photos``."""
        others = F.col("n_photos") - 1
        return F.when(others == 1, F.lit("the other photo")).otherwise(self.formatted("the %d other photos", others))

    @property
    def n_neighbours(self) -> Column:
        return F.size("neighbours")

    @property
    def distance(self) -> Column:
        return F.col("distance")

    @staticmethod
    def formatted(pattern: str, *values: Column) -> Column:
        """Values as text, by a pattern of printf's."""
        return F.format_string(pattern, *values)

    @staticmethod
    def say(*parts: str | Column) -> Column:
        """Text and columns of text, one behind the other."""
        return F.concat(*(F.lit(part) if isinstance(part, str) else part for part in parts))


def _sentence(k: int) -> Column:
    """What the score of a method means, in a sentence."""
    reason, words = F.lit(None).cast("string"), Words(k)
    for method in OUTLIER_METHODS.values():
        sentence = words.say(method.reason(words), ".")
        reason = F.when(F.col("method") == method.name, sentence).otherwise(reason)
    return reason
