"""Reasons: for every image that a method calls an outlier, what the numbers say in words, and photos to compare."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

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
    neighbours that knn_distance and lof have looked at. The value is the score, the usual one the median of its method.

    Neighbours are other images to compare: the nearest ones, those of other vehicles for stray_groups, and for
    odd_one_out photos that are typical of the vehicle; null where a method knows none. They are ordered, best first.
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
    votes = (
        single.where("is_outlier")
        .groupBy("image_id", "method")
        .agg(F.sort_array(F.collect_set("features")).alias("features"))
        .groupBy("image_id")
        .agg(
            F.sum(F.size("features")).alias("n_votes"),
            F.sort_array(F.collect_list(F.struct("method", "features"))).alias("votes"),
        )
    )
    n_rankings = single.select("features", "method").distinct().agg(F.count("*").alias("n_rankings"))
    rows = (
        flagged.select("method", "image_id", F.col("score").alias("value"))
        .join(F.broadcast(usual), on="method", how="inner")
        .join(votes, on="image_id", how="left")
        .join(images.select("image_id", "vehicle_id"), on="image_id", how="left")
        .crossJoin(F.broadcast(n_rankings))
    )
    named = F.transform("votes", lambda v: F.concat(v["method"], F.lit(" on "), F.concat_ws(", ", v["features"])))
    by_some = F.format_string(
        "Flagged by %d of %d rankings: %s.", F.col("n_votes"), F.col("n_rankings"), F.concat_ws("; ", named)
    )
    by_none = F.format_string("High in several of %d rankings, though none of them flags it.", F.col("n_rankings"))
    reason = F.when(F.col("n_votes").isNotNull(), by_some).otherwise(by_none)
    nothing = F.lit(None).cast("array<bigint>").alias("neighbours")
    return rows.select("method", "image_id", reason.alias("reason"), nothing, "vehicle_id", "value", F.col("usual"))


def _sentence(k: int) -> Column:
    """What the score of a method means, in a sentence."""
    value, usual, others = F.col("value"), F.col("usual"), F.col("n_photos") - 1
    # Scores on a scale with a zero, by how many times the usual one they are; and those without.
    ratio = F.when(
        usual > 0, F.format_string("%.3g, %.1f times the usual %.3g", value, value / usual, usual)
    ).otherwise(F.format_string("%.3g, where 0 is usual", value))
    level = F.format_string("%.3g, where %.3g is usual", value, usual)
    percent = F.format_string("%.0f %%, where %.0f %% is usual", 100 * value, 100 * usual)
    photos = F.when(others == 1, F.lit("the other photo")).otherwise(F.format_string("the %d other photos", others))
    strangers = F.size("neighbours")
    sentences = {
        "isolation_forest": F.concat(F.lit("A few random cuts set it apart: its score is "), level),
        "knn_distance": F.concat(F.lit(f"Its {k} nearest photos reach as far as "), ratio),
        "lof": F.concat(F.lit(f"Its {k} nearest photos lie closer together than it to them, by a factor of "), level),
        "pca_error": F.concat(F.lit("The part of it that the components leave out has a length of "), ratio),
        "dbscan_noise": F.concat(F.lit("The share of DBSCAN models in which it is noise is "), percent),
        "glosh": F.concat(F.lit("It joins HDBSCAN's clusters late or never: its GLOSH score is "), level),
        "mixture_density": F.concat(
            F.lit("The Gaussian mixture finds it improbable: minus the log density is "), level
        ),
        "odd_one_out": F.concat(
            F.lit("Unlike its vehicle: its distance to "), photos, F.lit(", relative to how photos vary, is "), ratio
        ),
        "stray_groups": F.concat(
            F.format_string("It looks like photos of other vehicles (%d of them within ", strangers),
            F.format_string("%.3g), and neither it nor they look like their own vehicle: ", F.col("distance")),
            F.lit("probably one kind of bad frame. Its score is "),
            ratio,
        ),
    }
    reason = F.lit(None).cast("string")
    for method, sentence in sentences.items():
        reason = F.when(F.col("method") == method, F.concat(sentence, F.lit("."))).otherwise(reason)
    return reason
