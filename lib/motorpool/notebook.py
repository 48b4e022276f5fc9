"""What a notebook needs besides SQL: to open a lake, and to see photos.

The same calls work in Jupyter, where a local Spark starts, and on Databricks, where a session is already there.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.config.load import load_config
from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError, LakeError, MotorpoolError
from motorpool.lake import Lake
from motorpool.photos.montage import jpeg, tile
from motorpool.photos.source import Images, open_images
from motorpool.spark.session import build_session
from motorpool.texts import expand_home

#: Rows that are looked at for pictures: text or numbers, a few MB.
MAX_ROWS = 10_000
#: Pixels for the head of a line: 17 letters.
_MARGIN = 128
_INK, _FRAME = (70, 70, 70), (190, 190, 190)


def parameter(name: str, default: str) -> str:
    """A notebook's setting: the environment's ``MOTORPOOL_<NAME>``, else the Databricks widget, else ``default``."""
    value = os.environ.get(f"MOTORPOOL_{name.upper()}")
    if value is not None:
        return value
    widgets = _widgets()
    if widgets is None:
        return default
    widgets.text(name, default)
    return str(widgets.get(name))


def _widgets() -> Any:
    """Databricks' input fields, which a notebook there has without importing anything; None elsewhere."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return getattr(shell.user_ns.get("dbutils"), "widgets", None) if shell else None


def open_lake(location: str) -> Lake:
    """A lake with its tables and views registered, so that ``lake.spark.sql`` finds them by name.

    ``location`` is a lake's folder or URI, a YAML config that names the lake, or ``catalog.schema``. The session is
    the one that is active, as on Databricks, else a local one. In it, query results show as tables of 20 rows.
    Raises LakeError where there is no lake, ConfigError for a config that names none.
    """
    settings: dict[str, str] = {}
    location = expand_home(location)
    if location.lower().endswith((".yaml", ".yml")):
        loaded = load_config(location)
        config, settings = loaded.lake, loaded.spark
    elif re.fullmatch(r"\w+(\.\w+)?", location) and not Path(location).exists():
        *catalog, schema = location.split(".")
        config = LakeConfig.model_validate({"catalog": catalog[0] if catalog else None, "schema": schema})
    else:
        config = LakeConfig(path=location, format="parquet" if _is_parquet(location) else "delta")
    spark = build_session(settings, delta=config.format == "delta")
    for key, value in (("enabled", "true"), ("truncate", "240")):
        spark.conf.set(f"spark.sql.repl.eagerEval.{key}", value)
    lake = Lake(spark, config)
    if not lake.exists("images"):
        raise LakeError(f"{files.redact(location)}: holds no tables of motorpool; run `motorpool run` first")
    lake.register()
    return lake


def _is_parquet(location: str) -> bool:
    folder = Path(location) / "images"
    return folder.is_dir() and not (folder / "_delta_log").is_dir()


def attributes(lake: Lake) -> DataFrame:
    """What the attributes file says, one row for each image and attribute that it knows.

    ``image_id, attribute, value``, all columns of `images` beyond its own; no rows for a case without such a file.
    """
    images = lake.read("images")
    known = [c for c in images.columns if c not in Lake.schema("images").fieldNames()]
    if not known:
        return lake.spark.createDataFrame([], "image_id BIGINT, attribute STRING, value STRING")
    texts = images.select("image_id", *(F.col(f"`{c}`").cast("string").alias(c) for c in known))
    return texts.unpivot("image_id", [F.col(f"`{c}`") for c in known], "attribute", "value").where("value IS NOT NULL")


@dataclass(frozen=True)
class Picture:
    """A JPEG; notebooks show it when it is a cell's last value."""

    data: bytes = field(repr=False)

    def _repr_jpeg_(self) -> bytes:
        return self.data


def show_photos(
    images: DataFrame | Sequence[int],
    images_root: str | Path,
    *,
    by: str | None = None,
    columns: int = 10,
    limit: int = 60,
    side: int = 88,
) -> Picture:
    """Photos side by side as one JPEG, in the order of the rows.

    ``images`` are rows with the column ``path``, or ids of images of the registered table ``images``. With ``by``,
    a column of the rows, each of its values has one line, headed by the value, of its first ``columns`` photos among
    the first 10,000 rows.
    ``images_root`` is what paths start from, a folder or a zip. Missing photos are an empty frame, broken ones a
    crossed-out one. At most ``limit`` photos are read, on the driver, as squares of ``side`` pixels: a few MB.
    Raises ConfigError where the rows lack a column or there are none, CaseError where there is no such folder.
    """
    source = open_images(str(images_root))
    lines = _lines(images, by, columns, limit)
    if not lines:
        raise ConfigError("show_photos: there are no rows to show")
    return _montage(lines, source, side, margin=0 if by is None else _MARGIN)


def _lines(
    images: DataFrame | Sequence[int], by: str | None, columns: int, limit: int
) -> list[tuple[str, Sequence[str]]]:
    """The heads and the paths of each line; together at most ``limit`` paths."""
    frame = images if isinstance(images, DataFrame) else _by_ids(images[:limit])
    lacking = [c for c in ("path", by) if c is not None and c not in frame.columns]
    if lacking:
        raise ConfigError(f"show_photos: the rows have no column {lacking[0]!r}, only {', '.join(frame.columns)}")
    if by is None:
        paths = [row["path"] for row in frame.select("path").limit(limit).collect()]
        return [("", paths[i : i + columns]) for i in range(0, len(paths), columns)]
    groups: dict[str, list[str]] = {}
    for head, path in frame.select(by, "path").limit(MAX_ROWS).collect():
        group = groups.setdefault(str(head), [])
        if len(group) < columns and limit > 0:
            group.append(path)
            limit -= 1
    return [(head, paths) for head, paths in groups.items() if paths]


def _by_ids(image_ids: Sequence[int]) -> DataFrame:
    """The paths of images, in the order of their ids."""
    spark = SparkSession.getActiveSession()
    if spark is None:
        raise MotorpoolError("show_photos: ids need a lake to look them up in: call open_lake first")
    order = spark.createDataFrame([(i, int(x)) for i, x in enumerate(image_ids)], "position INT, image_id BIGINT")
    found = order.join(spark.table("images"), on="image_id", how="inner")
    return found.orderBy("position").select("path")


def _montage(lines: Sequence[tuple[str, Sequence[str]]], source: Images, side: int, margin: int) -> Picture:
    gap = 3
    columns = max(len(paths) for _, paths in lines)
    size = margin + gap + columns * (side + gap), gap + len(lines) * (side + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (head, paths) in enumerate(lines):
        top = gap + y * (side + gap)
        if margin:
            words = "\n".join(textwrap.wrap(head, 17)[:4])
            draw.multiline_text((gap, top + side // 2), words, fill=_INK, font=font, anchor="lm")
        for x, path in enumerate(paths):
            photo = source.photo(path, side=2 * side)
            left = margin + gap + x * (side + gap)
            sheet.paste(tile(photo, side), (left, top))
            # Blank photos are white, as the sheet is.
            draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_FRAME)
    return Picture(jpeg(sheet, 80))
