"""What an outlier method is to the rest of the package: one entry, read wherever methods differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from motorpool.features.program import Program
    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources

Need = Literal["neighbours", "vehicles"]


class ModelRow(NamedTuple):
    """A model of the study that found clusters; ``bic`` is None where its algorithm has none."""

    model_id: str
    n_noise: int
    bic: float | None


@dataclass(frozen=True)
class Labels:
    """Whose labels a method reads: those of the models of one algorithm that ``choose`` takes.

    ``choose`` gets these models in the order of their ids, at least one, and the largest number of noise images with
    which a model is not degenerate. It may take none of them.
    """

    algorithm: str
    choose: Callable[[Sequence[ModelRow], float], Sequence[ModelRow]]


class Scored(NamedTuple):
    """``scores``: image_id BIGINT, score DOUBLE, each image once, higher for images that fit in less, null for those of
    which nothing is known. ``facts``, for reasons: image_id and some of neighbours ARRAY<BIGINT>, n_photos BIGINT and
    distance DOUBLE.
    """

    scores: DataFrame
    facts: DataFrame | None = None


@dataclass(frozen=True)
class OutlierMethod:
    """A way to score images, as `registry` keeps it. ``name`` is that of configs and tables, ``title`` the report's.

    - ``score``: scores one feature set with what `Resources` has. Scores are read before the resources are released.
    - ``reason``: the sentence, without its full stop, on why an image is an outlier, from `Words`.
    - ``default``: whether a config that names no methods asks for it.
    - ``needs``: ``neighbours``, other images at all; ``vehicles``, several photos of a vehicle, each with its vector.
    - ``settings``: keys of the section ``outliers``, or ``seed``, that scores depend on.
    - ``labels``: the models whose labels it reads; without any, the method is left out.
    - ``refusal``: why it cannot score the features of a program, None where it can.
    - ``score_new``: SCORES of new images against those that ``score`` has scored, from the resources of both; None: it
      would have to be fitted again, or knows of the new ones too little.
    - ``may_lack``: whether images may have no score, which then count as usual ones.
    """

    name: str
    title: str
    score: Callable[[Resources], Scored]
    reason: Callable[[Words], Column]
    default: bool = True
    needs: frozenset[Need] = frozenset()
    settings: tuple[str, ...] = ()
    labels: Labels | None = None
    refusal: Callable[[Program], str | None] | None = None
    score_new: Callable[[Resources, Resources], DataFrame] | None = None
    may_lack: bool = False
