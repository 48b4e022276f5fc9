"""The images of a case: every path checked, its vehicle, and what the attributes file says about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.folder import Case
from motorpool.case.sources import PhotoList, Source, shown
from motorpool.case.tables import attribute_columns, named_columns, read_attributes
from motorpool.config.run import DEFAULT_VEHICLE_PATTERN
from motorpool.errors import CaseError, ConfigError
from motorpool.spark.jvm.java import takes_pattern

log = logging.getLogger(__name__)


def check_paths(paths: DataFrame, images_paths: Source) -> tuple[int, str]:
    """The number of `paths` (``image_id, path``) and a fingerprint of them all, the same for any partitions.

    Raises CaseError, which names the table `images_paths`, for an empty case, and for paths that are blank or not
    unique.
    """
    name = shown(images_paths)
    # A sum of hashes does not depend on the order in which tasks add them; decimals do not overflow.
    hashed = F.xxhash64("image_id", "path").cast("decimal(38,0)")
    row = paths.agg(
        F.count("*").alias("n"),
        F.sum(hashed).alias("sum"),
        F.sum((F.col("path") == "").cast("int")).alias("blank"),
    ).first()
    if row is None or row["n"] == 0:
        what = "photos" if isinstance(images_paths, PhotoList) else "paths"
        raise CaseError(f"{name}: holds no {what}: an empty case cannot be ingested")
    if row["blank"]:
        first = paths.where(F.col("path") == "").agg(F.min("image_id")).first()
        raise _blank(name, row["blank"], first[0] if first else 0)
    twice = paths.groupBy("path").agg(F.count("*").alias("n"), F.min("image_id").alias("row")).where("n > 1")
    worst = twice.orderBy("row").limit(3).collect()
    if worst:
        raise _twice(name, twice.count(), [(r["path"], r["n"], r["row"]) for r in worst])
    return int(row["n"]), str(row["sum"])


def check_paths_here(paths: pa.Array, images_paths: Source) -> None:
    """As `check_paths`, with the paths of all images in this process, in their order."""
    name = shown(images_paths)
    if not len(paths):
        raise CaseError(f"{name}: holds no paths: an empty case cannot be ingested")
    blank = pc.equal(paths, "")
    n_blank = pc.sum(blank).as_py()
    if n_blank:
        raise _blank(name, n_blank, pc.index(blank, True).as_py())
    counts = pc.value_counts(paths)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        # In the order in which they are first met.
        worst = twice.slice(0, 3).to_pylist()
        listed = [(w["values"], w["counts"], pc.index(paths, w["values"]).as_py()) for w in worst]
        raise _twice(name, len(twice), listed)


def _blank(name: str, n: int, first: int) -> CaseError:
    return CaseError(f"{name}: {n:,} paths are empty, the first in row {first}")


def _twice(name: str, n: int, worst: Sequence[tuple[str, int, int]]) -> CaseError:
    """``worst``: some of the paths, how often each is there, and in which row first."""
    listed = "; ".join(f"{path} ({times} times, first in row {row})" for path, times, row in worst)
    return CaseError(f"{name}: paths must be unique, found {n:,} more than once: {listed}")


def check_vehicle_column(spark: SparkSession | None, case: Case, column: str | None) -> None:
    """CaseError where the attributes file lacks the `column` that is to name the vehicles."""
    if column is None:
        return
    if case.attributes is None:
        raise CaseError(
            f"case.vehicle_column {column!r}: the case has no attributes file, where it would be: name one as "
            "case.attributes"
        )
    named = named_columns(spark, case.attributes)
    # The column of the paths is listed by the file's own name.
    names = ["paths" if name == "paths" else column for name, column in named.items()]
    if column not in names:
        raise CaseError(
            f"{shown(case.attributes)}: has no column {column!r}, which case.vehicle_column names; it has "
            f"{', '.join(names)}"
        )
    if column in ("path", "paths"):
        raise CaseError(
            f"case.vehicle_column {column!r}: cannot be the path column: every image has its own path, so no vehicle "
            f"would have two photos. Name another column; {shown(case.attributes)} has {', '.join(names)}"
        )


def check_columns(spark: SparkSession | None, case: Case, asking: Mapping[str, str]) -> None:
    """CaseError where the attributes file lacks a column of ``images``; ``asking`` says of each what needs it."""
    if not asking:
        return
    if case.attributes is None:
        column, who = next(iter(asking.items()))
        raise CaseError(
            f"{who} needs the column {column!r} of the images, but the case of {shown(case.images_paths)} has no "
            f"attributes file: add attributes.csv with the columns path and {column}, or name one as case.attributes"
        )
    names = list(attribute_columns(spark, case.attributes).values())
    for column, who in asking.items():
        if column not in names:
            raise CaseError(
                f"{shown(case.attributes)}: has no column {column!r}, which {who} needs; it has {', '.join(names)}: "
                "add the column"
            )


def read_images(
    paths: DataFrame, case: Case, vehicle_pattern: str | None, vehicle_column: str | None = None
) -> DataFrame:
    """`describe_images`, after a look at what may be wrong with it.

    Raises CaseError for attributes that name an image twice or none of the case, or that lack the column, ConfigError
    for a pattern that Java does not take.
    """
    check_vehicle_column(paths.sparkSession, case, vehicle_column)
    images = describe_images(paths, case, vehicle_pattern, vehicle_column)
    if vehicle_pattern is not None:
        _report_vehicles(paths.select(_vehicle_of(vehicle_pattern).alias("vehicle_id")), vehicle_pattern)
    # A table that gives both has each path once, as that is checked of the paths.
    if case.attributes is not None and case.attributes != case.images_paths:
        _check_attributes(read_attributes(paths, case.attributes), paths, case.attributes)
    if vehicle_column is not None:
        _warn_of_missing(images, f"case.vehicle_column {vehicle_column!r} names")
    return images


def describe_images(
    paths: DataFrame, case: Case, vehicle_pattern: str | None, vehicle_column: str | None = None
) -> DataFrame:
    """``image_id, path, vehicle_id`` of `paths` (``image_id, path``) and the columns of the attributes file.

    A vehicle is the first group of `vehicle_pattern` (a regular expression that Python and Java take) in the path,
    null where there is none; without a pattern it is what the attributes say in `vehicle_column`, by default in
    ``vehicle_id``. Checks nothing and starts no job.
    """
    vehicle = F.lit(None).cast("string") if vehicle_pattern is None else _vehicle_of(vehicle_pattern)
    images = paths.select("image_id", "path", vehicle.alias("vehicle_id"))
    if case.attributes is None:
        return images
    attributes = read_attributes(paths, case.attributes)
    # Names that differ by case alone are one to Spark. Whatever is called vehicle_id gives way to the column that was
    # asked for, and to the path where a pattern is set.
    theirs = next((c for c in attributes.columns if c.lower() == "vehicle_id"), None)
    source = vehicle_column or (theirs if vehicle_pattern is None else None)
    others = [c for c in attributes.columns if c not in ("path", theirs)]
    named = [F.col(f"`{source}`").alias("vehicle_id")] if source is not None else []
    if named:
        images = images.drop("vehicle_id")
    joined = images.join(attributes.select("path", *named, *(f"`{c}`" for c in others)), on="path", how="left")
    return joined.select("image_id", "path", "vehicle_id", *(f"`{c}`" for c in others)).orderBy("image_id")


def check_vehicle_pattern(pattern: str | None) -> None:
    """ConfigError for a pattern that Java does not take; nothing where there is no Java to ask."""
    if pattern not in (None, DEFAULT_VEHICLE_PATTERN) and takes_pattern(_for_java(str(pattern))) is False:
        raise _not_taken(str(pattern))


def _for_java(pattern: str) -> str:
    """Java names a group differently, and only numbers matter here."""
    return re.sub(r"\(\?P<\w+>", "(", pattern)


def _not_taken(pattern: str) -> ConfigError:
    return ConfigError(
        f"case.vehicle_pattern: {pattern!r}: Spark runs it as a Java regular expression, and Java does not take it"
    )


def _vehicle_of(pattern: str) -> Column:
    found = F.regexp_extract("path", _for_java(pattern), 1)
    return F.when(found != "", found)


def _report_vehicles(images: DataFrame, pattern: str) -> None:
    try:
        _warn_of_missing(images, f"case.vehicle_pattern {pattern!r} finds")
    except PySparkException as exc:
        if "INVALID_PARAMETER_VALUE.PATTERN" not in str(exc):
            raise
        raise _not_taken(pattern) from exc


def _warn_of_missing(images: DataFrame, who: str) -> None:
    row = images.agg(F.count("vehicle_id").alias("known"), F.count("*").alias("n")).first()
    if row and row["known"] < row["n"]:
        log.warning(
            "ingest: %s no vehicle in %s of %s paths; their vehicle_id is null",
            who,
            f"{row['n'] - row['known']:,}",
            f"{row['n']:,}",
        )


def _check_attributes(attributes: DataFrame, paths: DataFrame, source: Source) -> None:
    name = shown(source)
    twice = attributes.groupBy("path").count().where("count > 1").orderBy("path").limit(3).collect()
    if twice:
        raise CaseError(f"{name}: each path may have one row, found several for {', '.join(r['path'] for r in twice)}")
    n_rows = attributes.count()
    matched = attributes.join(paths, on="path", how="left_semi").count()
    if matched == 0:
        raise CaseError(
            f"{name}: none of its {n_rows:,} paths is in the case's paths file; both must name images alike"
        )
    if matched < n_rows:
        log.warning("ingest: %s rows of %s name no image of the case and are left out", f"{n_rows - matched:,}", name)
