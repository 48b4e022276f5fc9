"""The entries of methods that look at an image's nearest neighbours alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motorpool.outliers.method import OutlierMethod, Scored

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources


def _knn_distance(resources: Resources) -> Scored:
    from motorpool.outliers.local import knn_distance

    return Scored(knn_distance(resources.arranged, resources.found, resources.k), resources.nearest)


def _knn_distance_of_new(study: Resources, new: Resources) -> DataFrame:
    from motorpool.outliers.local import distance_to_nearest

    return distance_to_nearest(new.nearest_in(study))


def _knn_distance_reason(words: Words) -> Column:
    return words.say(f"Few images are like it: its {words.k} nearest reach as far as ", words.ratio)


def _lof(resources: Resources) -> Scored:
    from motorpool.outliers.local import local_outlier_factor

    return Scored(local_outlier_factor(resources.arranged, resources.found, resources.k), resources.nearest)


def _lof_of_new(study: Resources, new: Resources) -> DataFrame:
    from motorpool.outliers.local import local_outlier_factor_of_new

    return local_outlier_factor_of_new(new.nearest_in(study), study.nearest_others, new.persist)


def _lof_reason(words: Words) -> Column:
    return words.say(f"It lies apart from its {words.k} nearest, which are closer together (factor ", words.level, ")")


KNN_DISTANCE = OutlierMethod(
    "knn_distance",
    "distance to neighbours",
    _knn_distance,
    _knn_distance_reason,
    needs=frozenset({"neighbours"}),
    settings=("k", "seed"),
    score_new=_knn_distance_of_new,
)
LOF = OutlierMethod(
    "lof",
    "local outlier factor",
    _lof,
    _lof_reason,
    needs=frozenset({"neighbours"}),
    settings=("k", "seed"),
    score_new=_lof_of_new,
)
