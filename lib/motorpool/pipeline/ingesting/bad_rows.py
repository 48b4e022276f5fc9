"""Rows with NaN or infinity, and images whose photos cannot be read: refused with their numbers, or dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.descriptors import Descriptor, find_bad_rows
from motorpool.case.vector_columns import BAD_ROW
from motorpool.describe.described import PhotoDescriptor
from motorpool.errors import CaseError, LakeError
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

log = logging.getLogger(__name__)

#: What an image is left out for.
_BAD = "rows with NaN or infinity, photos that cannot be read"


@contextmanager
def rows_to_drop(
    spark: SparkSession,
    descriptors: Mapping[str, Descriptor],
    n_images: int,
    on_bad_rows: Literal["refuse", "drop"],
    lost: DataFrame | None = None,
) -> Iterator[DataFrame | None]:
    """``image_id, descriptor, reason`` of the bad rows, persisted until the end; None for none.

    Where bad rows are refused, which happens while vectors are converted (`refusing_bad_rows`), these are the images
    without a vector of a descriptor that is computed from photos. With ``lost``, the images that are left out already,
    LakeError for bad rows of others.
    """
    checked = dict(descriptors) if on_bad_rows == "drop" else computed_of(descriptors)
    if not checked:
        yield None
        return
    bad_rows = blocks.persist(find_bad_rows(spark, checked))
    try:
        with timed(f"looking for {_BAD}"):
            n_bad = bad_rows.select("image_id").distinct().count()
        n_new = without(bad_rows, lost).select("image_id").distinct().count() if n_bad and lost is not None else 0
        if n_new:
            raise LakeError(
                f"{n_new:,} rows of {', '.join(checked)} hold NaN or infinity, or their photos cannot be read, but the "
                "lake already has descriptors with these rows: ingest all descriptors together into a new lake"
            )
        if n_bad == n_images:
            first = bad_rows.orderBy("image_id").first()
            raise CaseError(
                f"every row holds NaN or infinity, or its photo cannot be read (the first: "
                f"{first['reason'] if first else '?'}): nothing is left to work with"
            )
        if n_bad or on_bad_rows == "drop":
            log.info("leaving out %s of %s images: %s", f"{n_bad:,}", f"{n_images:,}", _BAD)
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
    """The table ``bad_rows``: each image once, with its path, the descriptors it is bad in, and why."""
    by_image = bad_rows.groupBy("image_id").agg(
        F.array_sort(F.collect_set("descriptor")).alias("descriptors"),
        F.array_join(F.array_sort(F.collect_set("reason")), "; ").alias("reason"),
    )
    return by_image.join(paths, on="image_id", how="inner")


def without(df: DataFrame, ids: DataFrame | None) -> DataFrame:
    """The rows of other images than those of ``ids`` (few: every task gets them); a chain stays one."""
    if ids is None:
        return df
    if not blocks.chain(df):
        return df.join(F.broadcast(ids), on="image_id", how="left_anti")
    left_out = ids.select("image_id").toArrow().column("image_id").to_numpy()

    def run(batches: Batches) -> Batches:
        for batch in batches:
            kept = batch.filter(pa.array(~np.isin(blocks.batch_ids(batch), left_out)))
            if len(kept):
                yield kept

    return blocks.in_tasks(df, run, df.schema)


def _describe_bad_rows(spark: SparkSession, descriptors: Mapping[str, Descriptor]) -> str:
    computed = computed_of(descriptors)
    bad = find_bad_rows(spark, {name: d for name, d in descriptors.items() if name not in computed})
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


def computed_of(descriptors: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
    """Those that are computed from photos."""
    return {name: d for name, d in descriptors.items() if isinstance(d, PhotoDescriptor)}
