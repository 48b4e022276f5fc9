"""The entries of methods that read the labels of clusterings, as they are in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from motorpool.outliers.method import Labels, ModelRow, OutlierMethod, Scored

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources


def _aggregated(resources: Resources, method: str, score: Column) -> Scored:
    """An aggregate of each image's labels by all models that the method reads."""
    from pyspark.sql import functions as F

    found = resources.labels_of(method).groupBy("image_id").agg(score.alias("score"))
    images = resources.vectors.select("image_id")
    # No model to go by: no image stands out.
    known = F.coalesce("score", F.lit(0.0)).alias("score")
    return Scored(images.join(found, "image_id", "left").select("image_id", known))


def _not_too_noisy(models: Sequence[ModelRow], most_noise: float) -> Sequence[ModelRow]:
    return [model for model in models if model.n_noise <= most_noise]


def _dbscan_noise(resources: Resources) -> Scored:
    """The share of the models that leave the image as noise."""
    from pyspark.sql import functions as F

    return _aggregated(resources, DBSCAN_NOISE.name, F.avg((F.col("cluster") < 0).cast("double")))


def _dbscan_noise_of_new(study: Resources, new: Resources) -> DataFrame:
    return _dbscan_noise(new).scores


def _dbscan_noise_reason(words: Words) -> Column:
    return words.say("It is in no cluster in ", words.percent, " of the DBSCAN models")


def _all(models: Sequence[ModelRow], _: float) -> Sequence[ModelRow]:
    return models


def _glosh(resources: Resources) -> Scored:
    """The mean of the models' outlier scores."""
    from pyspark.sql import functions as F

    return _aggregated(resources, GLOSH.name, F.avg("outlier_score").cast("double"))


def _glosh_reason(words: Words) -> Column:
    return words.say("It belongs to no dense group (GLOSH ", words.level, ")")


def _lowest_bic(models: Sequence[ModelRow], _: float) -> Sequence[ModelRow]:
    return sorted(models, key=lambda model: float("inf") if model.bic is None else model.bic)[:1]


def _mixture_density(resources: Resources) -> Scored:
    """Minus the log density."""
    from pyspark.sql import functions as F

    return _aggregated(resources, MIXTURE_DENSITY.name, F.max("outlier_score").cast("double"))


def _mixture_density_reason(words: Words) -> Column:
    return words.say("No Gaussian of the mixture is near it (minus the log density ", words.level, ")")


DBSCAN_NOISE = OutlierMethod(
    "dbscan_noise",
    "DBSCAN noise",
    _dbscan_noise,
    _dbscan_noise_reason,
    labels=Labels("dbscan", _not_too_noisy),
    score_new=_dbscan_noise_of_new,
)
GLOSH = OutlierMethod("glosh", "GLOSH", _glosh, _glosh_reason, labels=Labels("hdbscan", _all))
MIXTURE_DENSITY = OutlierMethod(
    "mixture_density",
    "mixture density",
    _mixture_density,
    _mixture_density_reason,
    labels=Labels("gaussian_mixture", _lowest_bic),
)
