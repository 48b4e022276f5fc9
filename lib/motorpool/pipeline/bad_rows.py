"""Rows with NaN or infinity: refused with their numbers, or dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.descriptors import Descriptor, find_bad_rows
from motorpool.case.vector_columns import BAD_ROW
from motorpool.errors import CaseError, LakeError
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks

log = logging.getLogger(__name__)


@contextmanager
def rows_to_drop(
    spark: SparkSession,
    descriptors: Mapping[str, Descriptor],
    n_images: int,
    on_bad_rows: Literal["refuse", "drop"],
    lost: DataFrame | None = None,
) -> Iterator[DataFrame | None]:
    """``image_id, descriptor`` of the bad rows, persisted until the end; None for none.

    Always None where bad rows are refused, which happens while vectors are converted (`refusing_bad_rows`). With
    ``lost``, the images that are left out already, LakeError for bad rows of others.
    """
    if on_bad_rows == "refuse":
        yield None
        return
    bad_rows = blocks.persist(find_bad_rows(spark, descriptors))
    try:
        with timed("looking for rows with NaN or infinity"):
            n_bad = bad_rows.select("image_id").distinct().count()
        n_new = without(bad_rows, lost).select("image_id").distinct().count() if n_bad and lost is not None else 0
        if n_new:
            raise LakeError(
                f"{n_new:,} rows of {', '.join(descriptors)} hold NaN or infinity, but the lake already has "
                "descriptors with these rows: ingest all descriptors together into a new lake"
            )
        if n_bad == n_images:
            raise CaseError("every row holds NaN or infinity: nothing is left to work with")
        log.info("dropping %s of %s rows, which hold NaN or infinity", f"{n_bad:,}", f"{n_images:,}")
        yield bad_rows if n_bad else None
    finally:
        bad_rows.unpersist()


@contextmanager
def refusing_bad_rows(spark: SparkSession, descriptors: Mapping[str, Descriptor]) -> Iterator[None]:
    """Turn the failure of a task that met a bad row (`read_vectors`) into a CaseError that lists all of them."""
    try:
        yield
    except Exception as exc:  # Which class it is depends on what was done with the vectors.
        if BAD_ROW not in str(exc):
            raise
        raise CaseError(_describe_bad_rows(spark, descriptors)) from exc


def listed_bad_rows(bad_rows: DataFrame, paths: DataFrame) -> DataFrame:
    """The table ``bad_rows``: each image once, with its path and the descriptors it is bad in."""
    by_image = bad_rows.groupBy("image_id").agg(F.array_sort(F.collect_set("descriptor")).alias("descriptors"))
    return by_image.join(paths, on="image_id", how="inner")


def without(df: DataFrame, ids: DataFrame | None) -> DataFrame:
    """The rows of other images than those of ``ids`` (few: they are broadcast)."""
    return df if ids is None else df.join(F.broadcast(ids), on="image_id", how="left_anti")


def _describe_bad_rows(spark: SparkSession, descriptors: Mapping[str, Descriptor]) -> str:
    bad = find_bad_rows(spark, descriptors)
    parts = []
    counts = {r["descriptor"]: r["n"] for r in bad.groupBy("descriptor").agg(F.count("*").alias("n")).collect()}
    for name, count in sorted(counts.items()):
        first = bad.where(F.col("descriptor") == name).select("image_id").orderBy("image_id").limit(5).collect()
        listed = ", ".join(str(r["image_id"]) for r in first)
        parts.append(f"{descriptors[name].name}: {count:,} rows, first {listed}")
    return (
        f"rows with NaN or infinity (or beyond float32): {'; '.join(parts)}. Mend the files, or set "
        "case.on_bad_rows to drop to leave these images out"
    )
