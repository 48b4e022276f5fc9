"""What a photo looks like, measured: a named colour, the light, brightness, sharpness, and the frame's size.

No network, no learning: a photo of 64 x 64 pixels in CIELAB (CIE 15; by LittleCMS, so white point D50), some 3 ms each.
Vehicles fill the middle of road-camera crops, and road and roadside their edge: the colour is that of the middle,
where it is not also that of the edge, and the light is judged by the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyspark.sql import DataFrame

from motorpool.photos.cielab import to_lab
from motorpool.photos.source import Photo, open_images
from motorpool.spark.blocks import Batches

#: Photos are decoded to at most this many pixels a side, and measured at _SIDE.
DECODED = 256
_SIDE = 64
_EDGE = 8

# The eleven basic colour terms (Berlin & Kay 1969) and silver, which the trade tells from grey. Chromatic ones are
# bands of the CIELAB hue angle in degrees; pixels of a chroma below _CHROMA have none.
_CHROMA = 18.0
_BANDS = (
    ("red", 345, 46), ("orange", 46, 76), ("yellow", 76, 108), ("green", 108, 225), ("blue", 225, 295),
    ("purple", 295, 345),
)  # fmt: skip
#: Orange of a low chroma is brown, and red of a high lightness and little yellow pink.
_BROWN_CHROMA = 40.0
_PINK_LIGHTNESS, _PINK_FROM, _PINK_TO = 55.0, 335, 20
#: The middle's share that a hue must cover to be the vehicle's colour. Glass, tyres and road have none.
_COVERED = 0.18
#: Lightness of what has no hue, up to: black, grey, silver; white above.
_GREYS = (("black", 33.0), ("grey", 52.0), ("silver", 67.0), ("white", float("inf")))
COLORS = (*(name for name, _, _ in _BANDS), "brown", "pink", *(name for name, _ in _GREYS))

#: Median lightness of the frame's edge, up to: night, dim (dusk, or a storm), then day. Glare is bright without black.
_NIGHT, _DIM = 13.0, 33.0
_GLARE, _GLARE_BLACK = 57.0, 27.0
LIGHTS = ("night", "dim", "day", "glare")
#: Standard deviation of lightness below which a frame shows nothing.
_BLANK = 3.0

# The edge of a frame is taken for mid grey in plain light, as a grey world (Buchsbaum 1980), which takes exposure and
# tint out of the vehicle's colour; bounded, because roadsides have colours of their own.
_MID_GREY, _LEAST_GAIN, _MOST_GAIN, _MOST_TINT = 112.0, 0.62, 2.2, 1.25


@dataclass(frozen=True)
class Appearance:
    """One photo. ``status`` is ``ok``, or why there is no photo (see `images.Photo`), and then all else is None.

    color: one of COLORS, None at night and for blank frames. light: one of LIGHTS. brightness, contrast: median and
    standard deviation of CIELAB lightness, 0 to 100. sharpness: variance of the Laplacian of the grey photo (0 to 255)
    at 128 pixels a side (Pech-Pacheco et al. 2000). width, height: pixels of the file.
    """

    status: str
    color: str | None = None
    light: str | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    width: int | None = None
    height: int | None = None


APPEARANCE_SCHEMA = (
    "image_id BIGINT, status STRING, color STRING, light STRING, brightness DOUBLE, contrast DOUBLE, "
    "sharpness DOUBLE, width INT, height INT"
)


def measure_photos(images: DataFrame, root: str, tasks: int) -> DataFrame:
    """APPEARANCE_SCHEMA for every row of ``images`` (``image_id, path``), read below ``root`` in ``tasks`` tasks.

    Photos that are missing or broken have a status that says so. Memory of a task: a photo, and a zip's entries.
    """

    def run(batches: Batches) -> Batches:
        photos = open_images(root)
        for batch in batches:
            rows = (measure(photos.photo(p, DECODED)) for p in batch.column("path").to_pylist())
            yield _batch(batch.column("image_id"), rows)

    return images.select("image_id", "path").repartition(tasks, "image_id").mapInArrow(run, APPEARANCE_SCHEMA)


def _batch(image_id: pa.Array, rows: Iterator[Appearance]) -> pa.RecordBatch:
    kinds = (pa.string(), pa.string(), pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.int32(), pa.int32())
    columns: list[tuple[Any, ...]] = list(zip(*(astuple(row) for row in rows), strict=True)) or [()] * len(kinds)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
    names = [f.name for f in fields(Appearance)]
    return pa.RecordBatch.from_arrays([image_id, *arrays], names=["image_id", *names])


def measure(photo: Photo) -> Appearance:
    """The appearance of one photo."""
    if photo.image is None or photo.size is None:
        return Appearance(str(photo.problem))
    small = photo.image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    lab = to_lab(small)
    light, contrast = name_light(lab), float(lab[..., 0].std())
    seen = light != "night" and contrast >= _BLANK
    return Appearance(
        "ok",
        name_color(to_lab(_in_plain_light(small))) if seen else None,
        light,
        float(np.median(lab[..., 0])),
        contrast,
        sharpness(photo.image),
        *photo.size,
    )


def name_light(lab: np.ndarray) -> str:
    """The light, one of LIGHTS, of float32[64, 64, 3] CIELAB."""
    lightness = lab[..., 0]
    edge = float(np.median(lightness[_edge()]))
    if edge < _NIGHT:
        return "night"
    if edge < _DIM:
        return "dim"
    washed_out = edge > _GLARE and float(np.percentile(lightness, 5)) > _GLARE_BLACK
    return "glare" if washed_out else "day"


def name_color(lab: np.ndarray) -> str:
    """The middle's colour, one of COLORS, of float32[64, 64, 3] CIELAB in plain light.

    A hue whose share of the middle exceeds _COVERED after half its share of the edge; else by the lightness that
    seven tenths of what has no hue are below, as the darker part is glass, grille, tyres and shadow.
    """
    hues = _hues(lab)
    weight, edge = _middle(), _edge()
    covered = {n: float(weight[hues == n].sum()) - 0.5 * float((hues[edge] == n).mean()) for n in set(hues.flat) - {""}}
    # Shading spreads one paint over neighbouring names: together they may show what none shows alone.
    if sum(max(0.0, share) for share in covered.values()) > _COVERED:
        return str(max(covered, key=lambda n: (covered[n], n)))
    plain = hues == ""
    order = np.argsort(lab[..., 0][plain])
    below = np.cumsum(weight[plain][order])
    lightness = float(lab[..., 0][plain][order][np.searchsorted(below, 0.7 * below[-1])])
    return next(name for name, limit in _GREYS if lightness < limit)


def sharpness(image: Image.Image) -> float:
    """Variance of the discrete Laplacian of an RGB picture, in grey levels squared at 128 pixels a side."""
    grey = np.asarray(image.convert("L").resize((128, 128), Image.Resampling.BILINEAR), np.float32)
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var())


def _hues(lab: np.ndarray) -> np.ndarray:
    """The name of each pixel's hue, str[64, 64]; empty where it has none."""
    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    chroma, angle = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    names = np.full(lightness.shape, "", dtype="<U8")
    for name, start, end in _BANDS:
        names[_within(angle, start, end)] = name
    names[(names == "orange") & (chroma < _BROWN_CHROMA)] = "brown"
    names[_within(angle, _PINK_FROM, _PINK_TO) & (lightness > _PINK_LIGHTNESS)] = "pink"
    names[chroma < _CHROMA] = ""
    return names


def _within(angle: np.ndarray, start: float, end: float) -> np.ndarray:
    return (angle >= start) & (angle < end) if start < end else (angle >= start) | (angle < end)


def _in_plain_light(small: Image.Image) -> Image.Image:
    """The picture as if its edge were mid grey."""
    x = np.asarray(small, np.float32)
    edge = np.maximum(np.median(x[_edge()], axis=0), 1.0)
    gain = np.clip(_MID_GREY / edge.mean(), _LEAST_GAIN, _MOST_GAIN)
    tint = np.clip(edge.mean() / edge, 1 / _MOST_TINT, _MOST_TINT)
    return Image.fromarray(np.clip(x * (gain * tint), 0, 255).astype(np.uint8))


@cache
def _middle() -> np.ndarray:
    """Weights float64[64, 64] that add up to 1: a Gaussian of 0.18 of the frame about its middle."""
    at = (np.arange(_SIDE) + 0.5) / _SIDE
    across = np.exp(-((at - 0.5) ** 2) / (2 * 0.18**2))
    weight = np.outer(np.exp(-((at - 0.52) ** 2) / (2 * 0.18**2)), across)
    return np.asarray(weight / weight.sum())


@cache
def _edge() -> np.ndarray:
    """bool[64, 64]: the outermost _EDGE pixels."""
    edge = np.ones((_SIDE, _SIDE), bool)
    edge[_EDGE:-_EDGE, _EDGE:-_EDGE] = False
    return edge
