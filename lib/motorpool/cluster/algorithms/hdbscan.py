"""HDBSCAN: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from motorpool.cluster.algorithm import Algorithm, Curves
from motorpool.cluster.grid import Metric, ModelGrid, Params
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
    """HDBSCAN for every min_cluster_size: from one spanning tree, or by a library's HDBSCAN in one task."""

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
    engine: Literal["motorpool", "sklearn", "cuml"] = Field(
        default="motorpool",
        description="What fits the models: Motorpool's own kernels, exact for any number of images; or a library's "
        "HDBSCAN, scikit-learn's (`sklearn`) or, on GPUs, cuML's (`cuml`), which takes all images in one task, at most "
        "2 GiB of vectors. A library takes Euclidean distances alone, cuts equal distances in an order of its own, and "
        "gives no outlier score and nothing that labels new images; cuML's is approximate too "
        "([On a GPU](gpu.md#hdbscan-by-a-library)).",
    )

    @model_validator(mode="after")
    def _check(self) -> HdbscanGrid:
        if self.engine != "motorpool" and self.metric != "euclidean":
            raise ValueError(
                f"metric: {self.metric}: engine: {self.engine} has Euclidean distances alone: take a step l2 before "
                "them, or engine: motorpool"
            )
        if self.engine == "cuml" and self.min_samples < 2:
            raise ValueError(
                f"min_samples: {self.min_samples}: engine: cuml takes 2 or more, the image itself included: raise it, "
                "or take engine: motorpool"
            )
        return self

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        return ("cuml",) if self.engine == "cuml" else ()

    def variants(self, seed: int) -> Iterator[Params]:
        # Another engine may find other clusters where distances are equal.
        by = {} if self.engine == "motorpool" else {"engine": self.engine}
        for params in super().variants(seed):
            yield params | by


def _wanted(grid: HdbscanGrid, specs: Sequence[ModelSpec], curves: Curves) -> tuple[Metric, Wanted] | None:
    """Lists of neighbours: those that core distances need, and some more for the tree; nothing for a library."""
    from motorpool.kernels.pairs.sweep import Wanted

    if grid.engine != "motorpool":
        return None
    return grid.metric, Wanted(k=max(grid.min_samples - 1, LISTED))


def _fit(fitting: Fitting, grid: HdbscanGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.backend.library import HDBSCAN_LIBRARIES
    from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan, fit_hdbscan_library

    asked = HdbscanParameters(tuple(numbers(specs, "min_cluster_size")), grid.min_samples, grid.method)
    if grid.engine != "motorpool":
        began = time.monotonic()
        labelled = fit_hdbscan_library(fitting.block_df, asked, HDBSCAN_LIBRARIES[grid.engine](), fitting.progress)
        seconds = (time.monotonic() - began) / len(specs)
        by = [Facts(seconds, backend=grid.engine) for _ in specs]
        return FittedModels.of(labelled, specs, by, labelled.df.unpersist)
    near = fitting.neighbours(grid.metric)
    began = time.monotonic()
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


def _unlabelling(params: Mapping[str, str]) -> str | None:
    """Libraries keep their trees to themselves."""
    return f"engine: {params['engine']} leaves no tree" if "engine" in params else None


ALGORITHM = Algorithm(
    "hdbscan",
    "HDBSCAN",
    HdbscanGrid,
    _fit,
    stored=("births", "deaths"),
    relabel=_relabel,
    unlabelling=_unlabelling,
    by_density=True,
    wanted=_wanted,
)
