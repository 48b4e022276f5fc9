"""The descriptors of a case: opened, compared with its images, and read as rows of vectors.

A descriptor is an array file, whose row i is that of image i, or gives the rows of images by itself: a column of a
table (`vector_columns`), or what is computed from photos.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.arrays import ArrayFile, Split, open_array
from motorpool.case.folder import Case
from motorpool.case.sources import needs_spark, open_source, shown
from motorpool.case.vector_columns import BAD_ROW, NOT_FINITE, finite_rows, open_vector_column
from motorpool.config.run import VectorColumnConfig
from motorpool.errors import CaseError
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each


class Header(Protocol):
    """What is known of a descriptor before it is read or computed.

    Where it is, (images, numbers of a vector), and the type of numbers.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype: ...


class RowsByImage(Header, Protocol):
    """A descriptor that gives rows by ``image_id``."""

    def vectors(self, *, refuse: bool) -> DataFrame:
        """``image_id, vector``, unordered; with ``refuse`` a bad row of a file fails its task (`BAD_ROW`)."""
        ...

    def bad_rows(self) -> DataFrame:
        """``image_id, reason`` of the images that have no vector to work with."""
        ...

    def check_keys(self) -> None:
        """CaseError where images have no row, or several."""
        ...


Descriptor = ArrayFile | RowsByImage
_Task = tuple[str, ArrayFile, Split]

#: Bytes of float32 that one task converts: the size of the Parquet files it writes.
_SPLIT_BYTES = 96 * 2**20
#: Bytes of float32 in one Arrow batch on its way to Spark.
_CHUNK_BYTES = 16 * 2**20


def open_array_files(case: Case, names: Collection[str] | None = None) -> dict[str, ArrayFile]:
    """The descriptors of a case, or some of them, that are array files: their headers, without Spark.

    CaseError for one that cannot be read, and where the images are in no order that rows could have.
    """
    chosen = {n: source for n, source in case.descriptors.items() if names is None or n in names}
    files = {name: source for name, source in chosen.items() if isinstance(source, str)}
    if files and needs_spark(case.images_paths):
        first = next(iter(files))
        raise CaseError(
            f"case.descriptors.{first}: {shown(files[first])} is an array, whose row i is that of image i, but the "
            f"rows of {shown(case.images_paths)} have no order: name a table's column for it, or give the paths as a "
            "CSV or Parquet file"
        )
    return {name: open_array(path) for name, path in files.items()}


def with_columns(
    spark: SparkSession,
    arrays: Mapping[str, ArrayFile],
    case: Case,
    paths: DataFrame,
    n_images: int,
    names: Collection[str] | None = None,
) -> dict[str, Descriptor]:
    """All descriptors of a case that are read, or some: the ``arrays``, and those in columns of tables.

    ``paths`` (``image_id, path``) has ``n_images`` rows. CaseError where an array has more or fewer rows, and for a
    column that cannot be read.
    """
    check_lengths(arrays, n_images, case)
    found: dict[str, Descriptor] = dict(arrays)
    columns = {
        name: source
        for name, source in case.descriptors.items()
        if isinstance(source, VectorColumnConfig) and (names is None or name in names)
    }
    if columns:
        # Once for all of them: a folder of many files has as many footers.
        images = open_source(spark, case.images_paths)
        for name, source in columns.items():
            found[name] = open_vector_column(spark, source, paths, n_images, case.images_paths, images)
    return found


def check_lengths(arrays: Mapping[str, ArrayFile], n_images: int, case: Case) -> None:
    """CaseError where an array has more or fewer rows than the case has images."""
    if any(a.shape[0] != n_images for a in arrays.values()):
        counts = "; ".join(f"{a.name}: {a.shape[0]:,} rows" for a in arrays.values())
        raise CaseError(
            f"row i of every descriptor must be row i of {shown(case.images_paths)}, which has {n_images:,} rows, but "
            f"found {counts}"
        )


def check_keys(descriptors: Mapping[str, Descriptor]) -> None:
    """CaseError where images have no row in a table of vectors, or several."""
    for descriptor in descriptors.values():
        if not isinstance(descriptor, ArrayFile):
            descriptor.check_keys()


def read_vectors(spark: SparkSession, descriptors: Mapping[str, Descriptor], *, refuse: bool) -> DataFrame:
    """All rows of all descriptors, ``image_id, descriptor, vector``; with ``refuse`` a bad row fails its task."""
    frames = [
        column.vectors(refuse=refuse).select("image_id", F.lit(name).alias("descriptor"), "vector")
        for name, column in _by_image(descriptors).items()
    ]
    tasks = _tasks(descriptors)

    def vectors(task: _Task) -> Batches:
        for name, ids, x, good in _chunks(task):
            if refuse and not good.all():
                raise ValueError(BAD_ROW)
            yield pa.RecordBatch.from_arrays(
                [pa.array(ids), pa.repeat(name, len(ids)), blocks.to_list_array(x)],
                names=["image_id", "descriptor", "vector"],
            )

    if tasks or not frames:
        schema = "image_id BIGINT, descriptor STRING, vector ARRAY<FLOAT>"
        frames.insert(0, one_each(spark, tasks, vectors, schema))
    return reduce(DataFrame.unionByName, frames)


def find_bad_rows(spark: SparkSession, descriptors: Mapping[str, Descriptor]) -> DataFrame:
    """``image_id, descriptor, reason`` of every row with NaN or infinity (or beyond float32), and of broken photos."""
    frames = [
        column.bad_rows().select("image_id", F.lit(name).alias("descriptor"), "reason")
        for name, column in _by_image(descriptors).items()
    ]
    tasks = _tasks(descriptors)

    def bad_rows(task: _Task) -> Batches:
        for name, ids, _, good in _chunks(task):
            bad = ids[~good]
            yield pa.RecordBatch.from_arrays(
                [pa.array(bad), pa.repeat(name, len(bad)), pa.repeat(NOT_FINITE, len(bad))],
                names=["image_id", "descriptor", "reason"],
            )

    if tasks or not frames:
        frames.insert(0, one_each(spark, tasks, bad_rows, "image_id BIGINT, descriptor STRING, reason STRING"))
    return reduce(DataFrame.unionByName, frames)


def _by_image(descriptors: Mapping[str, Descriptor]) -> dict[str, RowsByImage]:
    return {name: d for name, d in descriptors.items() if not isinstance(d, ArrayFile)}


def _tasks(descriptors: Mapping[str, Descriptor]) -> list[_Task]:
    tasks: list[_Task] = []
    for name, array in descriptors.items():
        if isinstance(array, ArrayFile):
            rows = max(1, _SPLIT_BYTES // (4 * array.shape[1]))
            tasks += [(name, array, split) for split in array.splits(rows)]
    return tasks


def _chunks(task: _Task) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Read a split of an array, chunk by chunk.

    Yields the descriptor, int64[m] row numbers, float32[m, d] rows, and bool[m], true for rows that are all finite.
    Memory: two chunks of 16 MiB, the one in use and the one being read.
    """
    name, array, split = task
    for first, x in array.read(split, max(1, _CHUNK_BYTES // (4 * array.shape[1]))):
        yield name, np.arange(first, first + len(x)), x, finite_rows(x)
