"""Ingest: a case folder becomes the tables ``images``, ``descriptors``, ``bad_rows`` and ``sources``."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool import blocks
from motorpool.blocks import Batches
from motorpool.case.arrays import ArrayFile, Split, open_array
from motorpool.case.files import redact
from motorpool.case.folder import Case, find_case
from motorpool.case.tables import read_attributes, read_paths
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.stages.context import Context, explained, timed

log = logging.getLogger(__name__)

#: Bytes of float32 that one task converts: the size of the Parquet files it writes.
_SPLIT_BYTES = 96 * 2**20
#: Bytes of float32 in one Arrow batch on its way to Spark.
_CHUNK_BYTES = 16 * 2**20


def run_ingest(ctx: Context) -> None:
    """Read the case and write its tables; does nothing when the lake already holds it.

    Everything is checked before the first table changes, and vectors while they are converted, before
    their transaction commits. Raises CaseError for a case that cannot be used, LakeError when the lake
    holds another one.
    """
    config = ctx.config.require_case()
    case = find_case(config)
    arrays = {name: open_array(path) for name, path in case.descriptors.items()}
    with explained():
        paths = blocks.persist(read_paths(ctx.spark, case.images_paths))
        try:
            with timed(f"ingest: checking {redact(case.images_paths)}"):
                n_images, fingerprint = _check_paths(paths, case)
            _check_shapes(arrays, n_images, case)
            new = _not_yet_in_lake(ctx, arrays, fingerprint)
            if not new:
                log.info("ingest: the lake already holds these %s images, nothing to do", f"{n_images:,}")
                return
            _write(ctx, case, {name: arrays[name] for name in new}, paths, n_images, fingerprint)
        finally:
            paths.unpersist()


def _check_paths(paths: DataFrame, case: Case) -> tuple[int, str]:
    """The number of paths and a fingerprint of them all; refuses an empty case, blanks and duplicates."""
    shown = redact(case.images_paths)
    # A sum of hashes does not depend on the order in which tasks add them; decimals do not overflow.
    hashed = F.xxhash64("image_id", "path").cast("decimal(38,0)")
    row = paths.agg(
        F.count("*").alias("n"),
        F.sum(hashed).alias("sum"),
        F.sum((F.col("path") == "").cast("int")).alias("blank"),
    ).first()
    if row is None or row["n"] == 0:
        raise CaseError(f"{shown}: holds no paths: an empty case cannot be ingested")
    if row["blank"]:
        first = paths.where(F.col("path") == "").agg(F.min("image_id")).first()
        raise CaseError(f"{shown}: {row['blank']:,} paths are empty, the first in row {first[0] if first else '?'}")
    twice = paths.groupBy("path").agg(F.count("*").alias("n"), F.min("image_id").alias("row")).where("n > 1")
    worst = twice.orderBy("row").limit(3).collect()
    if worst:
        listed = "; ".join(f"{r['path']} ({r['n']} times, first in row {r['row']})" for r in worst)
        raise CaseError(f"{shown}: paths must be unique, found {twice.count():,} more than once: {listed}")
    return int(row["n"]), str(row["sum"])


def _check_shapes(arrays: dict[str, ArrayFile], n_images: int, case: Case) -> None:
    wrong = {name: a for name, a in arrays.items() if a.shape[0] != n_images}
    if wrong:
        counts = "; ".join(f"{a.name}: {a.shape[0]:,} rows" for a in arrays.values())
        raise CaseError(
            f"row i of every descriptor must be row i of {redact(case.images_paths)}, which has {n_images:,} rows, but "
            f"found {counts}"
        )


def _not_yet_in_lake(ctx: Context, arrays: dict[str, ArrayFile], fingerprint: str) -> list[str]:
    """Descriptors still to be ingested; LakeError when the lake was made from another case."""
    if not ctx.lake.exists("sources"):
        return list(arrays)
    known = {row["descriptor"]: row for row in ctx.lake.read("sources").collect()}
    advice = f"use another lake.path, or remove {ctx.lake} first"
    for held in known.values():
        if held["paths_fingerprint"] != fingerprint:
            raise LakeError(f"the lake {ctx.lake} holds another case (its image paths differ): {advice}")
    for name, array in arrays.items():
        row = known.get(name)
        if row and (row["n_rows"], row["n_columns"]) != array.shape:
            raise LakeError(
                f"the lake {ctx.lake} holds {name} as {row['n_rows']:,} x {row['n_columns']}, but {array.name} is "
                f"{array.shape[0]:,} x {array.shape[1]}: {advice}"
            )
    return [name for name in arrays if name not in known]


def _write(
    ctx: Context, case: Case, arrays: dict[str, ArrayFile], paths: DataFrame, n_images: int, fingerprint: str
) -> None:
    config, lake = ctx.config.require_case(), ctx.lake
    added = lake.exists("sources")
    images = _images(ctx, case, paths)
    # Images that an earlier descriptor lost are lost to later ones too.
    bad_ids = lake.read_or_empty("bad_rows").select("image_id") if added else None
    if config.on_bad_rows == "drop":
        with timed("ingest: looking for rows with NaN or infinity"):
            bad_rows = blocks.persist(_without(_bad_rows(ctx.spark, arrays), bad_ids))
            n_bad = bad_rows.select("image_id").distinct().count()
        if n_bad and added:
            raise LakeError(
                f"{n_bad:,} rows of {', '.join(arrays)} hold NaN or infinity, but the lake already has descriptors "
                "with these rows: ingest all descriptors together into a new lake"
            )
        if n_bad == n_images:
            raise CaseError("every row holds NaN or infinity: nothing is left to ingest")
        log.info("ingest: dropping %s of %s rows, listed in the table bad_rows", f"{n_bad:,}", f"{n_images:,}")
        if n_bad:
            bad_ids = bad_rows.select("image_id").distinct()
    total = sum(a.shape[0] * a.shape[1] * 4 for a in arrays.values())
    with timed(f"ingest: converting {len(arrays)} descriptors of {n_images:,} images ({total / 2**30:.2f} GiB)"):
        vectors = _vectors(ctx.spark, arrays, refuse=config.on_bad_rows == "refuse")
        try:
            lake.replace("descriptors", _without(vectors, bad_ids), {"descriptor": list(arrays)})
        except Exception as exc:  # Which class it is depends on the kind of write.
            if _BAD_ROW not in str(exc):
                raise
            raise CaseError(_describe_bad_rows(ctx.spark, arrays)) from exc
    if not added:
        with timed("ingest: writing images"):
            lake.overwrite("images", _without(images, bad_ids))
            listed = ctx.spark.createDataFrame([], "image_id BIGINT, path STRING, descriptors ARRAY<STRING>")
            if bad_ids is not None:
                listed = (
                    bad_rows.groupBy("image_id")
                    .agg(F.array_sort(F.collect_set("descriptor")).alias("descriptors"))
                    .join(paths, on="image_id", how="inner")
                )
            lake.overwrite("bad_rows", listed)
    n_dropped = bad_ids.count() if bad_ids is not None else 0
    rows = [(n, a.name, *a.shape, str(a.dtype), n_dropped, fingerprint) for n, a in arrays.items()]
    sources = ctx.spark.createDataFrame(
        rows,
        "descriptor STRING, file STRING, n_rows BIGINT, n_columns INT, dtype STRING, n_dropped BIGINT, "
        "paths_fingerprint STRING",
    )
    lake.replace("sources", sources.withColumn("ingested_at", F.current_timestamp()), {"descriptor": list(arrays)})


def _without(df: DataFrame, ids: DataFrame | None) -> DataFrame:
    return df if ids is None else df.join(F.broadcast(ids), on="image_id", how="left_anti")


# -- images ------------------------------------------------------------------------------------------


def _images(ctx: Context, case: Case, paths: DataFrame) -> DataFrame:
    """``image_id, path, vehicle_id`` and the columns of the attributes file."""
    config = ctx.config.require_case()
    attributes = read_attributes(ctx.spark, case.attributes) if case.attributes else None
    if config.vehicle_pattern is not None:
        # Java names a group differently, and only numbers matter here.
        found = F.regexp_extract("path", re.sub(r"\(\?P<\w+>", "(", config.vehicle_pattern), 1)
        vehicle = F.when(found != "", found)
    else:
        vehicle = F.lit(None).cast("string")
    images = paths.select("image_id", "path", vehicle.alias("vehicle_id"))
    _report_vehicles(images, config.vehicle_pattern)
    if attributes is None:
        return images
    _check_attributes(attributes, paths, str(case.attributes))
    if "vehicle_id" in attributes.columns:
        # The path tells the vehicle where a pattern is set; without one the attributes may.
        if config.vehicle_pattern is None:
            images = images.drop("vehicle_id")
        else:
            attributes = attributes.drop("vehicle_id")
    others = [c for c in attributes.columns if c not in ("path", "vehicle_id")]
    joined = images.join(attributes, on="path", how="left")
    return joined.select("image_id", "path", "vehicle_id", *(f"`{c}`" for c in others)).orderBy("image_id")


def _report_vehicles(images: DataFrame, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        row = images.agg(F.count("vehicle_id").alias("known"), F.count("*").alias("n")).first()
    except PySparkException as exc:
        if "INVALID_PARAMETER_VALUE.PATTERN" not in str(exc):
            raise
        raise ConfigError(
            f"case.vehicle_pattern: {pattern!r}: Spark runs it as a Java regular expression, and Java does not take it"
        ) from exc
    if row and row["known"] < row["n"]:
        log.warning(
            "ingest: case.vehicle_pattern %r finds no vehicle in %s of %s paths; their vehicle_id is null",
            pattern,
            f"{row['n'] - row['known']:,}",
            f"{row['n']:,}",
        )


def _check_attributes(attributes: DataFrame, paths: DataFrame, path: str) -> None:
    shown = redact(path)
    twice = attributes.groupBy("path").count().where("count > 1").orderBy("path").limit(3).collect()
    if twice:
        raise CaseError(f"{shown}: each path may have one row, found several for {', '.join(r['path'] for r in twice)}")
    n_rows = attributes.count()
    matched = attributes.join(paths, on="path", how="left_semi").count()
    if matched == 0:
        raise CaseError(
            f"{shown}: none of its {n_rows:,} paths is in the case's paths file; both must name images alike"
        )
    if matched < n_rows:
        log.warning("ingest: %s rows of %s name no image of the case and are left out", f"{n_rows - matched:,}", shown)


# -- vectors -----------------------------------------------------------------------------------------

_BAD_ROW = "motorpool: a row holds NaN or infinity"
_VECTORS = "image_id BIGINT, descriptor STRING, vector ARRAY<FLOAT>"
_Task = tuple[str, ArrayFile, Split]


def _tasks(arrays: dict[str, ArrayFile]) -> list[_Task]:
    tasks: list[_Task] = []
    for name, array in arrays.items():
        rows = max(1, _SPLIT_BYTES // (4 * array.shape[1]))
        tasks += [(name, array, split) for split in array.splits(rows)]
    return tasks


def _chunks(array: ArrayFile, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """int64[m] row numbers, float32[m, d] rows, and bool[m], true for rows that are all finite."""
    rows = max(1, _CHUNK_BYTES // (4 * array.shape[1]))
    for first, x in array.read(split, rows):
        # A sum is finite only if every term is; one that overflows makes us look again, term by term.
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.isfinite(x.sum(axis=1))
        if not good.all():
            good = np.isfinite(x).all(axis=1)
        yield np.arange(first, first + len(x)), x, good


def _per_task(spark: SparkSession, tasks: Sequence[_Task]) -> DataFrame:
    return spark.range(0, len(tasks), 1, len(tasks))


def _vectors(spark: SparkSession, arrays: dict[str, ArrayFile], *, refuse: bool) -> DataFrame:
    """All rows of all files, one Spark task for each range of rows."""
    tasks = _tasks(arrays)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                name, array, split = tasks[index]
                for ids, x, good in _chunks(array, split):
                    if refuse and not good.all():
                        raise ValueError(_BAD_ROW)
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(ids), pa.array([name] * len(ids)), blocks.to_list_array(x)],
                        names=["image_id", "descriptor", "vector"],
                    )

    return _per_task(spark, tasks).mapInArrow(run, _VECTORS)


def _bad_rows(spark: SparkSession, arrays: dict[str, ArrayFile]) -> DataFrame:
    """``image_id, descriptor`` of every row with NaN or infinity (or beyond float32)."""
    tasks = _tasks(arrays)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                name, array, split = tasks[index]
                for ids, _, good in _chunks(array, split):
                    bad = ids[~good]
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(bad), pa.array([name] * len(bad), pa.string())],
                        names=["image_id", "descriptor"],
                    )

    return _per_task(spark, tasks).mapInArrow(run, "image_id BIGINT, descriptor STRING")


def _describe_bad_rows(spark: SparkSession, arrays: dict[str, ArrayFile]) -> str:
    bad = _bad_rows(spark, arrays)
    parts = []
    counts = {r["descriptor"]: r["n"] for r in bad.groupBy("descriptor").agg(F.count("*").alias("n")).collect()}
    for name, count in sorted(counts.items()):
        first = bad.where(F.col("descriptor") == name).select("image_id").orderBy("image_id").limit(5).collect()
        listed = ", ".join(str(r["image_id"]) for r in first)
        parts.append(f"{arrays[name].name}: {count:,} rows, first {listed}")
    return (
        f"rows with NaN or infinity (or beyond float32): {'; '.join(parts)}. Mend the files, or set "
        "case.on_bad_rows to drop to leave these images out"
    )
