"""What an algorithm is to the rest of the package: one entry, read wherever algorithms differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from motorpool.cluster.grid import CurveKey, Metric, ModelGrid

if TYPE_CHECKING:
    import numpy as np
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.models import FittedModels, ModelSpec
    from motorpool.cluster.stored import NewImages
    from motorpool.kernels.pairs.sweep import Wanted

G = TypeVar("G", bound=ModelGrid)
#: k-distances float64[m], ascending, by metric and k.
Curves = Mapping[CurveKey, "np.ndarray"]


@dataclass(frozen=True)
class Algorithm(Generic[G]):
    """A way to cluster, as `registry` keeps it. ``name`` is that of configs and tables, ``title`` that of the report.

    - ``grid``: the class of its grids in a config.
    - ``fit``: fits some models of a grid, side by side, and labels all rows. An UnfitError fails all of them.
    - ``stored``: which arrays of `Facts.parameters` label new images, and ``relabel`` how: both or neither. A model
      without these arrays has no labels to give.
    - ``unlabelling``: why a model of these parameters labels no new images though others of its algorithm do, in a few
      words; None where it does.
    - ``borrowed``: arrays that another model may hold for this one, each with the parameter that has that model's id.
    - ``by_density``: whether it leaves images as noise, -1, and small clusters are natural to it. The labels of all
      others are counted without a look for noise.
    - ``tells_far``: whether a new image's distance, beside those of the fitted images, says how unusual it is. It does
      not where the distance is not to a mean of many images: of 0 to core images, or to micro-clusters of a few.
    - ``noun``: the title in a sentence such as "KMeans with 6 clusters", where it is not the title itself.
    - ``draws_tree``: whether ``merges`` and ``clusters`` among its arrays are a tree, which the report draws.
    - ``parts``: a number for each model; models of one number are fitted together. Default: all are.
    - ``wanted``: what these models need of the pass over all pairs of rows, which the grids of one metric share; None:
      nothing. `Fitting.neighbours` gives what the pass finds.
    """

    name: str
    title: str
    grid: type[G]
    fit: Callable[[Fitting, G, Sequence[ModelSpec]], FittedModels]
    stored: tuple[str, ...] = ()
    relabel: Callable[[NewImages], DataFrame] | None = None
    unlabelling: Callable[[Mapping[str, str]], str | None] = lambda params: None
    borrowed: Mapping[str, str] = field(default_factory=dict)
    by_density: bool = False
    tells_far: bool = False
    noun: str = ""
    draws_tree: bool = False
    parts: Callable[[G, Sequence[ModelSpec]], Sequence[int]] | None = None
    wanted: Callable[[G, Sequence[ModelSpec], Curves], tuple[Metric, Wanted] | None] | None = None

    def __post_init__(self) -> None:
        if bool(self.stored) != (self.relabel is not None):
            raise ValueError(f"algorithm {self.name!r}: give both `stored` and `relabel`, or neither of them")
