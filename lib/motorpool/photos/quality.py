"""The quality of photos, measured: light, contrast, sharpness, information, and the size of the frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.config.photo_quality import PhotoQualityConfig
from motorpool.photos.measures import entropy, sharpness, to_lab
from motorpool.photos.source import Photo, open_images
from motorpool.spark.blocks import Batches

#: Photos are decoded to at most this many pixels a side; their lightness is taken at _SIDE.
DECODED = 256
_SIDE = 64

QUALITY_SCHEMA = (
    "image_id BIGINT, status STRING, error STRING, brightness DOUBLE, contrast DOUBLE, sharpness DOUBLE, "
    "entropy DOUBLE, width INT, height INT"
)
_KINDS: Mapping[str, pa.DataType] = {
    "status": pa.string(), "error": pa.string(), "brightness": pa.float64(), "contrast": pa.float64(),
    "sharpness": pa.float64(), "entropy": pa.float64(), "width": pa.int32(), "height": pa.int32(),
}  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """One photo. ``status`` is ``ok``, or why there is none (`Photo`), which ``error`` then says in words.

    brightness, contrast: median and standard deviation of the CIELAB lightness, 0 to 100. sharpness: variance of the
    Laplacian of the grey photo at 128 pixels a side. entropy: of the grey levels, in bits. width, height: pixels of
    the file.
    """

    status: str
    error: str | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    entropy: float | None = None
    width: int | None = None
    height: int | None = None


def measure_quality(photo: Photo) -> Quality:
    """The quality of one photo."""
    if photo.image is None or photo.size is None:
        return Quality(str(photo.problem), photo.reason)
    lightness = to_lab(photo.image.resize((_SIDE, _SIDE), Image.Resampling.BOX))[..., 0]
    return Quality(
        "ok",
        None,
        float(np.median(lightness)),
        float(lightness.std()),
        sharpness(photo.image),
        entropy(photo.image),
        *photo.size,
    )


def measure_all(images: DataFrame, root: str, tasks: int) -> DataFrame:
    """QUALITY_SCHEMA for every row of ``images`` (``image_id, path``), read below ``root`` in ``tasks`` tasks.

    Memory of a task: a photo, an Arrow batch of rows, and a zip's entries.
    """

    def run(batches: Batches) -> Batches:
        photos = open_images(root)
        for batch in batches:
            found = [astuple(measure_quality(photos.photo(p, DECODED))) for p in batch.column("path").to_pylist()]
            columns: list[tuple[Any, ...]] = list(zip(*found, strict=True)) or [()] * len(_KINDS)
            arrays = [pa.array(values, kind) for values, kind in zip(columns, _KINDS.values(), strict=True)]
            yield pa.RecordBatch.from_arrays([batch.column("image_id"), *arrays], names=["image_id", *_KINDS])

    return images.select("image_id", "path").repartition(tasks, "image_id").mapInArrow(run, QUALITY_SCHEMA)


def flags_of(config: PhotoQualityConfig) -> Column:
    """What is wrong with each row of QUALITY_SCHEMA, ARRAY<STRING>; empty where nothing is."""
    tests = {
        "unreadable": F.col("status") != "ok",
        "dark": F.col("brightness") < config.dark,
        "low_contrast": F.col("contrast") < config.low_contrast,
        "blurred": F.col("sharpness") < config.blurred,
        "low_information": F.col("entropy") < config.low_information,
        "small": F.least("width", "height") < config.least_side,
        "odd_shape": F.greatest("width", "height") > config.most_ratio * F.least("width", "height"),
    }
    return F.array_compact(F.array(*(F.when(test, F.lit(name)) for name, test in tests.items())))
