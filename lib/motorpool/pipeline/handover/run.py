"""Hand over: labels of attributes become the files of another tool, photos that are left for people first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.context import explained
from motorpool.pipeline.handover import FORMATS
from motorpool.pipeline.handover.format import Attribute, Format, HandOver, Label, Part, Photo, address, beside
from motorpool.pipeline.labelling.stored import label_rows
from motorpool.pipeline.output.files import whole_file, write_csv, write_parquet, write_text
from motorpool.spark import blocks

#: Maps that are drawn, the first that the lake has.
_MAPS = ("umap2", "tsne2", "pca2")


@dataclass(frozen=True)
class Asked:
    """What the command says. ``attributes`` None are all that have labels; ``limit`` None is all photos.

    ``montage`` photos share a task of Label Studio, None for one each. ``features`` and ``map`` name the map that
    Embedding Atlas draws.
    """

    to: str
    attributes: Collection[str] | None = None
    images_url: str | None = None
    limit: int | None = None
    montage: int | None = None
    features: str | None = None
    map: str | None = None


@dataclass(frozen=True)
class HandedOver:
    """Files that were written, how many photos they hold, and for how many of these people are needed."""

    files: list[Path]
    n_photos: int
    n_left: int


def check_hand_over(asked: Asked, out: Path) -> Format:
    """The format, before Spark starts; ConfigError for a file name that the tool would not read."""
    form = FORMATS[asked.to]
    if out.suffix.lower() not in form.extensions:
        raise ConfigError(f"--out {out}: {form.name} reads files that end in {', '.join(form.extensions)}")
    if asked.montage and not form.montages:
        raise ConfigError(f"--montage {asked.montage}: a task of {form.name} shows one photo")
    if (asked.features or asked.map) and form.name != "embedding-atlas":
        raise ConfigError(f"--features and --map choose a map, and {form.name} draws none")
    return form


def hand_over(lake: Lake, asked: Asked, out: Path) -> HandedOver:
    """Write the labels of attributes in the format ``asked.to``, with their probabilities.

    Photos come in this order: those with a label that is not accepted and that nobody has looked at, then by their
    least probability. In a montage photos have the same labels, and montages come by their first photo. ``out`` and
    the files beside it appear whole or not at all.

    Raises ConfigError for attributes without labels, and where the lake has no map for a format that draws one. Driver
    memory: one partition of the file, whatever the format; with ``limit`` that many photos.
    """
    form = check_hand_over(asked, out)
    attributes, version = _attributes(lake, asked.attributes)
    url = asked.images_url if asked.images_url is not None else form.default_url
    with ExitStack() as stack:
        stack.enter_context(explained())
        photos = stack.enter_context(blocks.kept(_photos(lake, [a.name for a in attributes], asked.limit)))
        handed = HandOver(attributes, photos, version, url, asked.montage, lambda: _map(lake, asked))
        files = []
        if form.table is not None:
            rows = form.table(handed)
            write = write_parquet if ".parquet" in form.extensions else write_csv
            write(rows, stack.enter_context(whole_file(out)))
            files.append(out)
        if form.documents is not None:
            for suffix, parts in form.documents(handed).items():
                files.append(beside(out, suffix))
                f = stack.enter_context(whole_file(files[-1]))
                for part in parts:
                    _write_part(photos, part, url, asked.montage, f)
        counts = photos.agg(F.count("*").alias("n"), F.count_if("left").alias("left")).first()
        assert counts is not None
        return HandedOver(files, int(counts["n"]), int(counts["left"]))


def _attributes(lake: Lake, wanted: Collection[str] | None) -> tuple[list[Attribute], str]:
    """The attributes by name, and when their labels were made."""
    rows = label_rows(lake, str(lake), ["classes", "created_at"], wanted, needed_by="--to")
    made = max(str(r["created_at"]) for r in rows)
    return [Attribute(r["attribute"], tuple(r["classes"])) for r in rows], f"motorpool {made[:19]}"


def _photos(lake: Lake, names: list[str], limit: int | None) -> DataFrame:
    """``image_id, path, labels, left, place`` of all photos; ``place`` is that in the order, with gaps."""
    label = F.struct("attribute", "value", "probability", "accepted", "source")
    by_image = lake.read("image_labels", attribute=names).groupBy("image_id")
    labels = by_image.agg(F.sort_array(F.collect_list(label)).alias("labels"))
    rows = labels.join(lake.read("images").select("image_id", "path"), on="image_id", how="inner")
    left = F.exists("labels", lambda x: ~x["accepted"] & (x["source"] != "person"))
    least = F.array_min(F.transform("labels", lambda x: F.coalesce(x["probability"].cast("double"), F.lit(0.0))))
    columns = ("image_id", "path", "labels", left.alias("left"), least.alias("least"))
    ordered = rows.select(*columns).orderBy(F.col("left").desc(), "least", "image_id")
    if limit is not None:
        ordered = ordered.limit(limit)
    return ordered.withColumn("place", F.monotonically_increasing_id()).drop("least")


def _montages(photos: DataFrame, size: int) -> DataFrame:
    """``photos``: arrays of at most ``size`` photos that have the same labels, in the order of their first photo."""
    same = ("left", "values")
    valued = photos.withColumn("values", F.transform("labels", lambda x: x["value"]))
    before = F.row_number().over(Window.partitionBy(*same).orderBy("place")) - 1
    photo = F.struct("place", "image_id", "path", "labels")
    groups = valued.withColumn("montage", F.floor(before / size)).groupBy(*same, "montage")
    arrays = groups.agg(F.sort_array(F.collect_list(photo)).alias("photos"), F.min("place").alias("first"))
    return arrays.orderBy("first").select("photos")


def _write_part(photos: DataFrame, part: Part, url: str | None, montage: int | None, f: BinaryIO) -> None:
    """One part of a text file; its photos are rendered in tasks."""
    f.write(part.head.encode())
    if part.render is not None:
        write_text(photos.select("image_id", "path", "labels"), _lines(part.render, url), part.between, f)
    if part.render_montage is not None and montage is not None:
        write_text(_montages(photos, montage), _montage_lines(part.render_montage, url), part.between, f)
    f.write(part.tail.encode())


def _lines(render: Callable[[Photo], str | None], url: str | None) -> Callable[[dict[str, Any]], str | None]:
    return lambda row: render(_photo(row, url))


def _montage_lines(render: Callable[[Sequence[Photo]], str], url: str | None) -> Callable[[dict[str, Any]], str]:
    return lambda row: render([_photo(photo, url) for photo in row["photos"]])


def _photo(row: Mapping[str, Any], url: str | None) -> Photo:
    labels = [Label(**label) for label in row["labels"]]
    return Photo(row["image_id"], row["path"], address(row["path"], url), labels)


def _map(lake: Lake, asked: Asked) -> DataFrame:
    """``image_id, x, y`` of the map asked for, or of the first of the lake's."""
    held = [(r["features"], r["method"]) for r in lake.rows("projection_methods", ["features", "method"])]
    fitting = [
        (features, method)
        for features, method in sorted(held)
        if asked.features in (None, features) and (asked.map == method or (asked.map is None and method in _MAPS))
    ]
    if not fitting:
        there = ", ".join(f"{method} of {features}" for features, method in sorted(held)) or "none"
        raise ConfigError(
            f"--to embedding-atlas: the lake {lake} has no such map; it has {there}. `motorpool project` draws maps"
        )
    features, method = min(fitting, key=lambda item: (_MAPS.index(item[1]) if item[1] in _MAPS else 9, item[0]))
    return lake.read("projections", features=features).where(F.col("method") == method).select("image_id", "x", "y")
