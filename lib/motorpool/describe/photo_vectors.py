"""Vectors of photos, computed in Spark tasks: each photo is decoded once for all that is computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.case.vector_columns import NOT_FINITE
from motorpool.describe.describer import Describer, Vectors
from motorpool.photos.source import Images, open_images
from motorpool.spark.blocks import Batches

SCHEMA = "image_id BIGINT, descriptor STRING, vector ARRAY<FLOAT>, problem STRING"
#: Photos that are worked on at once.
_PHOTOS = 16


def photo_vectors(images: DataFrame, root: str, describers: Mapping[str, Describer], tasks: int) -> DataFrame:
    """SCHEMA of ``images`` (``image_id, path``): a row for each image and descriptor, by ranges of ``image_id``.

    ``problem`` says why there is no vector: what is wrong with the photo below ``root``, or that the vector holds NaN
    or infinity; no photo stops the rest. Memory of a task: the networks, one photo, and 16 that are prepared.
    """

    def run(batches: Batches) -> Batches:
        photos = open_images(root)
        ready = {name: describer.ready() for name, describer in describers.items()}
        for batch in batches:
            for at in range(0, len(batch), _PHOTOS):
                part = batch.slice(at, _PHOTOS)
                yield from _rows(part.column("image_id"), part.column("path").to_pylist(), photos, ready)

    # Photos in tables and tars are read forward, so each task takes neighbours.
    placed = images.select("image_id", "path").repartitionByRange(tasks, "image_id").sortWithinPartitions("image_id")
    return placed.mapInArrow(run, SCHEMA)


def _rows(ids: pa.Array, paths: Sequence[str], photos: Images, ready: Mapping[str, Vectors]) -> Batches:
    prepared: dict[str, list[np.ndarray]] = {name: [] for name in ready}
    problems: list[str | None] = []
    for path in paths:
        photo = photos.photo(path)
        problems.append(f"{photo.problem}: {photo.reason}" if photo.image is None else None)
        if photo.image is not None:
            for name, way in ready.items():
                prepared[name].append(way.prepare(photo.image))
    well = np.array([problem is None for problem in problems])
    for name, way in ready.items():
        vectors = way.vectors(prepared[name]) if prepared[name] else np.empty((0, 0), np.float32)
        finite: np.ndarray = np.all(np.isfinite(vectors), axis=1)
        told = np.array(problems, dtype=object)
        told[np.flatnonzero(well)[~finite]] = NOT_FINITE
        found: list[np.ndarray | None] = [None] * len(told)
        for place, vector, good in zip(np.flatnonzero(well), vectors, finite, strict=True):
            found[place] = vector if good else None
        columns = [ids, pa.repeat(name, len(ids)), pa.array(found, pa.list_(pa.float32())), pa.array(told, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, names=["image_id", "descriptor", "vector", "problem"])
