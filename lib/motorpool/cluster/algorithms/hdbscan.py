"""HDBSCAN: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from motorpool.cluster.algorithm import Algorithm, Curves
from motorpool.cluster.grid import Metric, ModelGrid
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.settings import parse_counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.stored import NewImages
    from motorpool.kernels.pairs.sweep import Wanted

#: Lists of this many neighbours hold the first rounds of a spanning tree: each round that they miss is a search.
LISTED = 16


class HdbscanGrid(ModelGrid):
    """HDBSCAN for every min_cluster_size, from one spanning tree."""

    crossed = ("min_cluster_size",)
    shared = ("min_samples", "method", "metric")
    seeded = False

    algorithm: Literal["hdbscan"] = Field(description="Name of the algorithm.")
    min_cluster_size: Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(parse_counts)] = Field(
        description="Smallest sizes of a cluster: there is a model for each of them."
    )
    min_samples: int = Field(
        default=5,
        ge=1,
        le=256,
        description="Number of neighbours that measure how dense it is around an image, the image itself included, as "
        "scikit-learn counts.",
    )
    method: Literal["eom", "leaf"] = Field(
        default="eom",
        description="Which clusters of the tree are taken: `eom` (excess of mass) or its `leaf` clusters.",
    )
    metric: Metric = Field(default="euclidean", description="Distance between images.")


def _wanted(grid: HdbscanGrid, specs: Sequence[ModelSpec], curves: Curves) -> tuple[Metric, Wanted]:
    """Lists of neighbours: those that core distances need, and some more for the tree."""
    from motorpool.kernels.pairs.sweep import Wanted

    return grid.metric, Wanted(k=max(grid.min_samples - 1, LISTED))


def _fit(fitting: Fitting, grid: HdbscanGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan

    near = fitting.neighbours(grid.metric)
    began = time.monotonic()
    asked = HdbscanParameters(tuple(numbers(specs, "min_cluster_size")), grid.min_samples, grid.method)
    models = fit_hdbscan(near.arranged, near.state, asked, fitting.progress, fitting.backend)
    seconds = near.seconds_each + (time.monotonic() - began) / len(specs)
    facts = [
        Facts(seconds, parameters={"births": f.births, "deaths": f.deaths}, backend=fitting.backend.name)
        for f in models.flat
    ]
    return FittedModels.of(models.labelled, specs, facts, models.labelled.df.unpersist)


def _relabel(new: NewImages) -> DataFrame:
    """The cluster of the nearest image of the study by mutual reachability, where it is dense enough there."""
    from motorpool.cluster.density.new_images import by_reachability
    from motorpool.spark import blocks

    params, arrays = new.model.params, new.model.arrays
    block_df = blocks.persist(new.blocks)
    try:
        return by_reachability(
            block_df,
            new.study_vectors(),
            new.study_labels(),
            arrays["births"],
            arrays["deaths"],
            min_samples=int(params["min_samples"]),
            metric=cast(Metric, params["metric"]),
            progress=new.progress,
        )
    finally:
        block_df.unpersist()


ALGORITHM = Algorithm(
    "hdbscan",
    "HDBSCAN",
    HdbscanGrid,
    _fit,
    stored=("births", "deaths"),
    relabel=_relabel,
    by_density=True,
    wanted=_wanted,
)
