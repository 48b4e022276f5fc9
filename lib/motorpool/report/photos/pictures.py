"""Small pictures of bounded sets of photos: read in Spark tasks, put together into sheets and montages."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image
from pyspark.sql import SparkSession

from motorpool.case.photo_files import Problem
from motorpool.photos.montage import jpeg, tile
from motorpool.photos.source import Photo, open_images
from motorpool.spark.blocks import Batches

#: Tiles of a sheet each way: a sheet of 96 pixels takes 15 MB in a browser, and only those looked at are loaded.
SHEET = 20
#: Tiles are decoded once more for sheets and montages, so they keep more than those.
_TILE_QUALITY, _SHEET_QUALITY = 85, 66


@dataclass(frozen=True)
class Square:
    """A square picture of a photo as JPEG, or what is wrong with the photo."""

    jpeg: bytes | None
    problem: Problem | None


#: By image and side in pixels.
Squares = Mapping[tuple[int, int], Square]


def read_squares(
    spark: SparkSession, wanted: Iterable[tuple[int, str, int]], root: str
) -> dict[tuple[int, int], Square]:
    """Squares of ``image_id, path, side`` from the photos below ``root``, a folder or a zip.

    Each photo is decoded once for each side asked. Driver memory: 4 KB for each picture of 96 pixels, 8 for 160.
    """
    rows = pd.DataFrame(sorted(set(wanted)), columns=["image_id", "path", "side"])
    if rows.empty:
        return {}
    # A photo takes milliseconds, so tasks of a few hundred keep all cores busy to the end.
    parts = min(256, len(rows) // 256 + 1)
    asked = spark.createDataFrame(rows, "image_id BIGINT, path STRING, side INT").repartition(parts)

    def run(batches: Batches) -> Batches:
        images = open_images(root)
        for batch in batches:
            # Few at a time, so that no answer is large.
            for at in range(0, len(batch), 256):
                part = batch.slice(at, 256)
                data, problems = [], []
                for path, side in zip(part.column("path").to_pylist(), part.column("side").to_pylist(), strict=True):
                    photo = images.photo(path, 2 * side)
                    data.append(None if photo.image is None else jpeg(tile(photo, side), _TILE_QUALITY))
                    problems.append(photo.problem)
                found = [part.column("image_id"), part.column("side"), pa.array(data, pa.binary())]
                names = ["image_id", "side", "jpeg", "problem"]
                yield pa.RecordBatch.from_arrays([*found, pa.array(problems, pa.string())], names=names)

    squares = asked.mapInArrow(run, "image_id BIGINT, side INT, jpeg BINARY, problem STRING")
    return {
        (r["image_id"], r["side"]): Square(None if r["jpeg"] is None else bytes(r["jpeg"]), r["problem"])
        for r in squares.collect()
    }


def together(squares: Sequence[Square], columns: int, side: int) -> Image.Image:
    """Equal squares in rows without gaps, and a frame in the place of each photo that could not be read."""
    rows = math.ceil(len(squares) / columns)
    ground = Image.new("RGB", (min(columns, len(squares)) * side, rows * side), "white")
    for i, square in enumerate(squares):
        ground.paste(_opened(square, side), (i % columns * side, i // columns * side))
    return ground


def _opened(square: Square, side: int) -> Image.Image:
    if square.jpeg is None:
        return tile(Photo("", None, problem=square.problem or "missing"), side)
    with Image.open(io.BytesIO(square.jpeg)) as picture:
        return picture.convert("RGB")


def write_montage(squares: Sequence[Square], columns: int, side: int, out: Path) -> tuple[int, int]:
    """A JPEG of the squares; returns its width and height in pixels."""
    picture = together(squares, columns, side)
    out.write_bytes(jpeg(picture, 78))
    return picture.size


def write_sheets(image_ids: Sequence[int], squares: Squares, side: int, folder: Path) -> list[dict[str, Any]]:
    """Sheets of 20 x 20 squares in the order of the ids, for the maps; ``file`` and ``columns`` of each."""
    sheets: list[dict[str, Any]] = []
    for at in range(0, len(image_ids), SHEET * SHEET):
        part = [squares.get((i, side), Square(None, "missing")) for i in image_ids[at : at + SHEET * SHEET]]
        name = f"sheet-{len(sheets):03d}.jpg"
        picture = together(part, SHEET, side)
        (folder / name).write_bytes(jpeg(picture, _SHEET_QUALITY))
        sheets.append({"file": f"photos/{name}", "columns": picture.width // side})
    return sheets
