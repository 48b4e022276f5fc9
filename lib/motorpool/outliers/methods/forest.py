"""The entry of the isolation forest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motorpool.outliers.method import OutlierMethod, Scored

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources


def _score(resources: Resources) -> Scored:
    from motorpool.outliers.forest import isolation_forest

    return Scored(isolation_forest(resources.block_df, seed=resources.seed))


def _score_new(study: Resources, new: Resources) -> DataFrame:
    from motorpool.outliers.forest import isolation_forest

    return isolation_forest(study.block_df, seed=study.seed, scored=new.block_df)


def _reason(words: Words) -> Column:
    return words.say("Unlike most images in several ways at once (isolation forest ", words.level, ")")


ISOLATION_FOREST = OutlierMethod(
    "isolation_forest", "isolation forest", _score, _reason, settings=("seed",), score_new=_score_new
)
