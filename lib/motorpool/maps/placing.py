"""Maps of a whole table in two or three dimensions, from one pass to fit them and few to place every image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from motorpool.backend.protocol import CPU, Backend
from motorpool.features.program import Op
from motorpool.features.spec import Step
from motorpool.features.steps import fit_step
from motorpool.kernels.maps.landmarks import Landmarks, Placed, Rows
from motorpool.kernels.maps.layouts import LayOut, Layout
from motorpool.kernels.moments import Stats
from motorpool.maps.method import MapMethod
from motorpool.maps.registry import MAP_METHODS
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import run_tasks

#: One row per image and map of a feature set; ``z`` is null in two dimensions.
PLACES = "features STRING, image_id BIGINT, method STRING, x FLOAT, y FLOAT, z FLOAT"


@dataclass(frozen=True)
class Axes:
    """The first principal axes of a table, all rows taken: scikit-learn's PCA up to sign.

    The largest entry of an axis is positive. Coordinates beyond the number of rows or columns are 0.
    """

    op: Op
    dims: int

    @classmethod
    def of(cls, stats: Stats, dims: int) -> Axes:
        op, _ = fit_step(Step("pca", min(dims, stats.n, stats.width)), stats, None, "projections")
        return cls(op, dims)

    def to_rows(self) -> list[list[float]]:
        """The ``axes`` of ``projection_methods``: the centre, then an axis for each dimension.

        One that the rows are too few, or too narrow, to have is zero.
        """
        axes = np.zeros((self.dims, len(self.op.fields["centre"])))
        found = self.op.fields["components"].T[: self.dims]
        axes[: len(found)] = found
        rows: list[list[float]] = np.vstack([self.op.fields["centre"], axes]).tolist()
        return rows

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]]) -> Axes:
        """Back from `to_rows`."""
        centre, *axes = np.asarray([list(row) for row in rows], np.float64)
        return cls(Op("project", {"centre": centre, "components": np.stack(axes, axis=1)}), len(axes))

    def first(self, dims: int) -> Axes:
        """The first ``dims`` of these axes; their coordinates are the same."""
        return Axes(self.op, min(dims, self.dims))

    def project(self, x: np.ndarray) -> np.ndarray:
        """float32[n, dims] of float32[n, d]; coordinates beyond float32 are its largest numbers."""
        found = np.zeros((len(x), self.dims), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            y = self.op.run(x)[:, : self.dims]
        if not np.isfinite(y).all():
            largest = np.finfo(np.float32).max
            exact = (x - self.op.fields["centre"]) @ self.op.fields["components"]
            y = np.clip(exact[:, : self.dims], -largest, largest)
        found[:, : y.shape[1]] = y
        return found


@dataclass(frozen=True)
class LaidOut:
    """A layout of a sample, the seconds of one task that it took, and the backend that made it."""

    placed: Placed
    seconds: float
    backend: str = "cpu"


class Sampled(NamedTuple):
    """A table's sample, its principal axes, and the layouts that are asked for of it."""

    sample: Rows
    axes: Axes
    layouts: Sequence[Layout]


def lay_out_all(spark: SparkSession, tables: Sequence[Sampled], backend: Backend = CPU) -> list[list[LaidOut]]:
    """Samples laid out in every way asked for, one Spark task of one core each; all samples travel to each.

    Layouts start from the first of the principal ``axes``, as many as they have dimensions. One that ``backend`` does
    not have is made on the CPU, and says so. ValueError for a method that lays nothing out.
    """
    asked = [(t, layout) for t in tables for layout in t.layouts]
    if not asked:
        return [[] for _ in tables]
    # Executors know the registry as it was installed, not what has been added to it here.
    methods = [MAP_METHODS[layout.method] for _, layout in asked]
    here = [_own_layout(method) for method in methods]

    def run(index: int) -> LaidOut:
        began = time.monotonic()
        (rows, axes, _), layout = asked[index]
        method = methods[index]
        own = backend.layout_of(method.name, layout.dims)
        placed = (own or here[index])(rows.x, axes.first(layout.dims).project(rows.x), layout)
        return LaidOut(Placed(placed, method.kernel), time.monotonic() - began, backend.name if own else CPU.name)

    costs = [len(t.sample) * method.cost * layout.dims**2 for method, (t, layout) in zip(methods, asked, strict=True)]
    done = iter(run_tasks(spark, costs, run))
    return [[next(done) for _ in t.layouts] for t in tables]


def _own_layout(method: MapMethod) -> LayOut:
    if method.lay_out is None:
        raise ValueError(f"{method.name} lays nothing out: it places rows by their principal axes")
    return method.lay_out


def place_all(
    features: str, block_df: DataFrame, axes: Mapping[str, Axes], sample: Rows, layouts: Mapping[str, Placed]
) -> DataFrame:
    """Every row of a feature set's blocks on every map, as PLACES: by principal axes, or among the layouts of a sample.

    Lazy, one pass for all axes and one for each layout (at once, and held, where the driver holds the blocks); maps by
    their names. Images of the sample are where their layout has put them, the others where `Landmarks` does, the same
    in any blocks: exact where the sample is all rows. Memory of a task: the sample, and what `Landmarks` says for one
    map.
    """

    def by_axes(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                for name, found in axes.items():
                    yield _pack(features, name, ids, found.project(x))

    def by_layout(name: str, batches: Batches) -> Batches:
        landmarks = Landmarks(sample, {name: layouts[name]})
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                yield _pack(features, name, ids, landmarks.place(ids, x)[name])

    values = (len(axes) + len(layouts)) * 6 * blocks.n_held(block_df)
    passes: list[Callable[[Batches], Batches]] = [by_axes] if axes else []
    passes += [partial(by_layout, name) for name in layouts]
    return blocks.together([blocks.mapped(block_df, run, PLACES, values) for run in passes])


def _pack(features: str, name: str, ids: np.ndarray, places: np.ndarray) -> pa.RecordBatch:
    n = len(ids)
    coordinates = [pa.array(np.ascontiguousarray(column), pa.float32()) for column in places.T]
    if len(coordinates) == 2:
        coordinates.append(pa.nulls(n, pa.float32()))
    set_of, method = (pa.repeat(pa.scalar(text, pa.string()), n) for text in (features, name))
    columns = [set_of, pa.array(ids), method, *coordinates]
    return pa.RecordBatch.from_arrays(columns, names=["features", "image_id", "method", "x", "y", "z"])
