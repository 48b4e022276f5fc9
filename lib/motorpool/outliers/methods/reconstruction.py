"""The entry of the reconstruction error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motorpool.outliers.method import OutlierMethod, Scored

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from motorpool.features.program import Program
    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources


def _score(resources: Resources) -> Scored:
    from motorpool.outliers.reconstruction import pca_error

    program = resources.program
    return Scored(pca_error(resources.read_descriptors(program), program))


def _score_new(study: Resources, new: Resources) -> DataFrame:
    return _score(new).scores


def _reason(words: Words) -> Column:
    return words.say("The components leave out much of it: a length of ", words.ratio)


def _refusal(program: Program) -> str | None:
    from motorpool.outliers.reconstruction import reconstructs

    return None if reconstructs(program) else "no pca or svd step comes first"


# Dark and blank frames leave out less than ordinary ones, so it made the consensus worse on labelled cases.
PCA_ERROR = OutlierMethod(
    "pca_error", "PCA error", _score, _reason, default=False, refusal=_refusal, score_new=_score_new
)
