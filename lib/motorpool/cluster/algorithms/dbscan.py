"""DBSCAN: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from motorpool.cluster.algorithm import Algorithm, Curves
from motorpool.cluster.grid import CurveKey, Metric, ModelGrid, Params, combined
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.settings import parse_counts
from motorpool.texts import as_number

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.stored import NewImages
    from motorpool.kernels.pairs.sweep import Wanted

#: The quantiles of the k-distances that ``eps: auto`` stands for.
AUTO_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
#: The parameter that tells how often a library's rounding left open whether a row is core, or what it is joined with:
#: float64 decided it then.
DECIDED = "decided_in_float64"
#: Combinations of eps and min_samples that a joining pass takes at most where most of them are no model: 12 bytes a row
#: each.
_MODELS_OF_A_PASS = 128

#: Rows within a radius: 512 is the largest that published studies ask for.
NeighbourCount = Annotated[int, Field(ge=1, le=100_000)]


def _parse_eps(value: Any) -> Any:
    """``auto``, or distances above 0: ascending, each once."""
    if value == "auto":
        return value
    items = [as_number(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not 0 < item <= sys.float_info.max:
            raise ValueError(f"{item!r}: expected `auto` or distances above 0, e.g. [0.5, 1, 2]")
    if not items:
        raise ValueError("is empty: name at least one distance, or `auto`")
    return tuple(sorted({float(item) for item in items}))


class DbscanGrid(ModelGrid):
    """DBSCAN for every eps and min_samples; ``eps: auto`` takes eight quantiles of each min_samples' k-distances."""

    crossed = ("eps", "min_samples")
    shared = ("metric",)
    seeded = False

    algorithm: Literal["dbscan"] = Field(description="Name of the algorithm.")
    eps: Annotated[Literal["auto"] | tuple[float, ...], BeforeValidator(_parse_eps)] = Field(
        description="Distances within which images are neighbours, or `auto`: eight quantiles (2 % to 90 %) of the "
        "distances to the `min_samples`-th nearest image."
    )
    min_samples: Annotated[tuple[NeighbourCount, ...], BeforeValidator(parse_counts)] = Field(
        description="Neighbours that make an image a core image, the image itself included."
    )
    metric: Metric = Field(default="euclidean", description="Distance between images.")
    # Two ways to the same labels, so no part of what a model is.
    way: Literal["pairs", "cells"] = Field(
        default="pairs",
        description="Two ways to the same labels. `pairs` compares all pairs of images twice, for all models at once. "
        "`cells` cuts space into parts and runs a plain DBSCAN on each part and the images within eps of it; it needs "
        "few columns and a small `eps`.",
    )
    engine: Literal["exact", "sklearn", "cuml"] = Field(
        default="exact",
        description="What clusters a part under `way: cells`: Motorpool's own kernels (`exact`), or a library's DBSCAN "
        "in a pandas UDF, scikit-learn's or, on GPUs, cuML's. The labels are the same.",
    )

    @model_validator(mode="after")
    def _check(self) -> DbscanGrid:
        if self.engine != "exact" and self.way != "cells":
            raise ValueError(f"engine: {self.engine} clusters the parts of `way: cells`: set `way: cells` beside it")
        n = len(self.min_samples) * (len(AUTO_QUANTILES) if self.eps == "auto" else len(self.eps))
        # A task remembers 12 bytes for each of its 131,072 rows and each model of the grid.
        if n > 512:
            raise ValueError(f"asks for {n} models, and at most 512 share their passes: make it two grids")
        return self

    def variants(self, seed: int) -> Iterator[Params]:
        if self.eps == "auto":
            shared = {"eps": "auto", "metric": self.metric, "seed": seed}
            for params in combined(shared, {"quantile": AUTO_QUANTILES, "min_samples": self.min_samples}):
                # The curve that eps is a quantile of: with (features, metric) the key of `k_distances`.
                yield params | {"curve_k": params["min_samples"]}
        else:
            yield from super().variants(seed)

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        return ("cuml",) if self.engine == "cuml" else ()

    @property
    def curves(self) -> tuple[CurveKey, ...]:
        """The curves that eps is taken from, or else one to choose eps by."""
        ks = self.min_samples if self.eps == "auto" else self.min_samples[:1]
        return tuple((self.metric, k) for k in ks)

    def reads(self, params: Params) -> CurveKey | None:
        return (self.metric, int(params["curve_k"])) if self.eps == "auto" else None

    def refusal(self, params: Params, n: int) -> str | None:
        curve = self.reads(params)
        if curve is not None and 0 < n < curve[1]:
            return f"eps: auto needs as many images as min_samples = {curve[1]:,}, and there are {n:,}"
        return super().refusal(params, n)


def _parts(grid: DbscanGrid, specs: Sequence[ModelSpec]) -> list[int]:
    """A pass over pairs joins rows for all its eps with all its min_samples, so with ``eps: auto``, where every
    min_samples has eps of its own, only a few of them share a pass."""
    if grid.eps != "auto":
        return [0] * len(specs)
    asked = numbers(specs, "min_samples")
    least = sorted(set(asked))
    # An engine for cells works for each combination anew.
    most = _MODELS_OF_A_PASS if grid.way == "pairs" else 1
    together = max(1, math.isqrt(most // len(AUTO_QUANTILES)))
    return [least.index(m) // together for m in asked]


def _eps_of(grid: DbscanGrid, spec: ModelSpec, curves: Curves) -> float:
    import numpy as np

    curve = grid.reads(dict(spec.params))
    if curve is None:
        return float(spec.param("eps"))
    return float(np.quantile(curves[curve], float(spec.param("quantile"))))


def _wanted(grid: DbscanGrid, specs: Sequence[ModelSpec], curves: Curves) -> tuple[Metric, Wanted] | None:
    """Neighbours within every eps, counted up to the largest min_samples; nothing by way of cells."""
    from motorpool.kernels.pairs.sweep import Wanted

    if grid.way == "cells":
        return None
    radii = tuple(sorted({_eps_of(grid, s, curves) for s in specs}))
    return grid.metric, Wanted(radii, max(numbers(specs, "min_samples")))


def _fit(fitting: Fitting, grid: DbscanGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    import numpy as np

    from motorpool.backend.library import library_engine
    from motorpool.cluster.density.cells import fit_dbscan_cells, fit_dbscan_library
    from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan

    eps_of = [_eps_of(grid, s, fitting.curves) for s in specs]
    least = numbers(specs, "min_samples")
    asked = DbscanParameters(tuple(sorted(set(eps_of))), tuple(sorted(set(least))))
    near = fitting.neighbours(grid.metric) if grid.way == "pairs" else None
    began = time.monotonic()
    opened = None
    if near is not None:
        labelled = fit_dbscan(near.arranged, near.state, near.radii, asked, fitting.progress, fitting.backend)
    elif grid.engine == "exact":
        labelled = fit_dbscan_cells(
            fitting.block_df,
            asked,
            metric=grid.metric,
            seed=fitting.seed,
            engine=fitting.backend.engine(),
            progress=fitting.progress,
        )
    else:
        labelled, opened = fit_dbscan_library(
            fitting.block_df,
            asked,
            metric=grid.metric,
            seed=fitting.seed,
            engine=library_engine(grid.engine, fitting.backend.engine()),
            progress=fitting.progress,
        )
    at = [
        asked.eps.index(eps) * len(asked.min_samples) + asked.min_samples.index(m)
        for eps, m in zip(eps_of, least, strict=True)
    ]
    seconds = (near.seconds_each if near else 0.0) + (time.monotonic() - began) / len(specs)
    facts = [
        Facts(
            seconds,
            found=({"eps": repr(eps)} if grid.eps == "auto" else {})
            | ({} if opened is None else {DECIDED: str(opened[column])}),
            parameters={"eps": np.array([eps])},
            backend=fitting.backend.name if opened is None else grid.engine,
        )
        for eps, column in zip(eps_of, at, strict=True)
    ]
    return FittedModels.of(labelled.pick(at), specs, facts, labelled.df.unpersist)


def _relabel(new: NewImages) -> DataFrame:
    """The cluster of the nearest core image of the study within eps."""
    from motorpool.cluster.density.new_images import by_core_rows
    from motorpool.spark import blocks

    eps, metric = float(new.model.arrays["eps"][0]), cast(Metric, new.model.params["metric"])
    block_df = blocks.persist(new.blocks)
    try:
        return by_core_rows(block_df, new.study_vectors(), new.study_labels(), eps, metric, progress=new.progress)
    finally:
        block_df.unpersist()


ALGORITHM = Algorithm(
    "dbscan",
    "DBSCAN",
    DbscanGrid,
    _fit,
    stored=("eps",),
    relabel=_relabel,
    by_density=True,
    parts=_parts,
    wanted=_wanted,
)
