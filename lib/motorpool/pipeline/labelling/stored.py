"""What labels new images by attributes: the programs that ``label_sets`` keeps, and their labels as columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.config.labels import columns_of
from motorpool.errors import ConfigError
from motorpool.labelling.apply import Labeller, label_images
from motorpool.labelling.program import from_rows
from motorpool.lake import Lake
from motorpool.lake.local_tables import Tables

T = TypeVar("T")


def label_rows(
    tables: Tables,
    lake: str,
    columns: Sequence[str],
    attributes: Collection[str] | None = None,
    needed_by: str | None = None,
) -> list[dict[str, Any]]:
    """``columns`` of ``label_sets``, by the attribute's name; of ``attributes`` alone where these are given.

    ConfigError for attributes that the lake has no labels of, and, with the option that is ``needed_by``, for a lake
    without any.
    """
    rows = {str(r["attribute"]): r for r in tables.rows("label_sets", ["attribute", *columns])}
    return asked_labels(rows, lake, attributes, needed_by)


def asked_labels(
    rows: Mapping[str, T], lake: str, attributes: Collection[str] | None = None, needed_by: str | None = None
) -> list[T]:
    """What ``rows`` has of each attribute, by its name; of ``attributes`` alone where these are given.

    ConfigError as for `label_rows`.
    """
    unknown = [name for name in attributes or () if name not in rows]
    if unknown or (needed_by and not rows):
        who, what = (f"--attribute {unknown[0]}", "it") if unknown else (needed_by, "attributes")
        there = f"it has those of {', '.join(sorted(rows))}" if rows else "it has none at all"
        raise ConfigError(
            f"{who}: the lake {lake} holds no labels of {what} (table label_sets); {there}. `motorpool annotate "
            "draw` and `motorpool label` make them"
        )
    return [rows[name] for name in sorted(rows if attributes is None else set(attributes))]


def stored_labellers(lake: Lake, attributes: Collection[str] | None = None) -> list[Labeller]:
    """What labelled each attribute of the lake, by name; of ``attributes`` alone where these are given.

    ConfigError for attributes that the lake has no labels of. Driver memory: the stored programs, of which those with
    annotated photos (`nearest`) have up to 20,000 rows.
    """
    found = []
    for row in label_rows(lake, str(lake), ["method", "per", "classes", "program"], attributes):
        parts, calibration, threshold = from_rows(row["program"])
        vote = row["per"] == "vehicle"
        name, values = row["attribute"], tuple(row["classes"])
        found.append(Labeller(name, values, parts, calibration, threshold, vote, row["method"]))
    return found


def nobody(spark: SparkSession) -> DataFrame:
    """The answers that there are where nobody has looked, for `label_images`."""
    return spark.createDataFrame([], "image_id BIGINT, attribute STRING, code BIGINT, own BOOLEAN")


def attribute_columns(images: DataFrame, sources: Mapping[str, DataFrame], labellers: Sequence[Labeller]) -> DataFrame:
    """``image_id`` and the columns of each attribute (`columns_of`), one row per image, by `label_images`.

    Nobody has looked at new images, and none of them is known as an outlier. One shuffle of the labels more.
    """
    spark = images.sparkSession
    labels = label_images(images, sources, labellers, nobody(spark), spark.createDataFrame([], "image_id BIGINT"))
    columns = [
        F.max(F.when(F.col("attribute") == who.attribute, F.col(given))).alias(column)
        for who in labellers
        for column, given in zip(columns_of(who.attribute), ("value", "probability", "accepted"), strict=True)
    ]
    return labels.groupBy("image_id").agg(*columns)
