"""Ingest: a case folder becomes the tables ``images``, ``descriptors``, ``bad_rows`` and ``sources``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case.arrays import ArrayFile, Split, open_array
from motorpool.case.files import redact
from motorpool.case.folder import Case, find_case
from motorpool.case.images import check_paths, check_vehicle_column, describe_images, read_images
from motorpool.case.tables import read_paths
from motorpool.errors import CaseError, LakeError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context, explained, timed
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

log = logging.getLogger(__name__)

#: Bytes of float32 that one task converts: the size of the Parquet files it writes.
_SPLIT_BYTES = 96 * 2**20
#: Bytes of float32 in one Arrow batch on its way to Spark.
_CHUNK_BYTES = 16 * 2**20


def run_ingest(ctx: Context) -> None:
    """Read the case and write its tables. Does nothing where the lake already holds them.

    Everything is checked before the first table changes, and vectors while they are converted, before
    their transaction commits. Attributes that have changed since are written anew. Descriptors that the config no
    longer names stay in the lake. Raises CaseError for a case that cannot be used, LakeError when the lake holds
    another one: with other paths or files, other vehicles, or without images that this config would keep.
    """
    config = ctx.config.require_case()
    case = find_case(config)
    check_vehicle_column(case, config.vehicle_column)
    arrays = {name: open_array(path) for name, path in case.descriptors.items()}
    with explained():
        paths = blocks.persist(read_paths(ctx.spark, case.images_paths))
        try:
            with timed(f"ingest: checking {redact(case.images_paths)}"):
                n_images, fingerprint = check_paths(paths, case.images_paths)
            check_lengths(arrays, n_images, case)
            new = _not_yet_in_lake(ctx, arrays, fingerprint)
            written = ctx.lake.exists("sources") and _write_attributes(ctx, case, paths)
            if not new:
                if not written:
                    log.info("ingest: the lake already holds these %s images, nothing to do", f"{n_images:,}")
                return
            _write(ctx, case, {name: arrays[name] for name in new}, paths, n_images, fingerprint)
        finally:
            paths.unpersist()


def check_lengths(arrays: dict[str, ArrayFile], n_images: int, case: Case) -> None:
    """CaseError where a descriptor has more or fewer rows than the case has images."""
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
    known = {row["descriptor"]: row for row in ctx.lake.rows("sources")}
    advice = f"use another lake.path, or remove {ctx.lake} first"
    for source in known.values():
        if source["paths_fingerprint"] != fingerprint:
            raise LakeError(f"the lake {ctx.lake} holds another case (its image paths differ): {advice}")
    for name, array in arrays.items():
        row = known.get(name)
        if row and (row["n_rows"], row["n_columns"]) != array.shape:
            raise LakeError(
                f"the lake {ctx.lake} holds {name} as {row['n_rows']:,} x {row['n_columns']}, but {array.name} is "
                f"{array.shape[0]:,} x {array.shape[1]}: {advice}"
            )
        if row and (_last(row["file"]), row["dtype"]) != (_last(array.name), str(array.dtype)):
            raise LakeError(
                f"the lake {ctx.lake} holds {name} from {row['file']} ({row['dtype']}), but case.descriptors now gives "
                f"{array.name} ({array.dtype}): name the former file, give the new one another name, or {advice}"
            )
    _check_dropped(ctx, arrays, advice)
    return [name for name in arrays if name not in known]


def _last(path: str) -> str:
    """The last part of a path: a case may have moved since."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _check_dropped(ctx: Context, arrays: Collection[str], advice: str) -> None:
    """LakeError where the lake leaves out images that a first run with this config would keep, or refuse."""
    for row in ctx.lake.read("bad_rows").select("descriptors").distinct().collect():
        if ctx.config.require_case().on_bad_rows == "refuse":
            raise LakeError(
                f"the lake {ctx.lake} leaves out images with NaN or infinity (see its table bad_rows), and "
                f"case.on_bad_rows is now refuse: set it to drop, or mend the files and {advice}"
            )
        if not set(row["descriptors"]) & set(arrays):
            raise LakeError(
                f"the lake {ctx.lake} leaves out images that are bad in {', '.join(row['descriptors'])} only (see its "
                f"table bad_rows), which the config does not name any more: name it again, or {advice}"
            )


def _write_attributes(ctx: Context, case: Case, paths: DataFrame) -> bool:
    """Bring ``images`` to what the case tells about them now; False where the table says so already.

    One small job where nothing has changed. LakeError where an image has another vehicle than in the table, since
    features, scores and outliers may rest on it.
    """
    config = ctx.config.require_case()
    in_lake = ctx.lake.read("images")
    lost = ctx.lake.read("bad_rows").select("image_id")
    described = without(describe_images(paths, case, config.vehicle_pattern, config.vehicle_column), lost)
    others = sorted(set(described.columns) - {"image_id", "path", "vehicle_id"})
    same_columns = set(described.columns) == set(in_lake.columns)
    columns = others if same_columns else []
    (of_case, of_lake) = _summed(described, columns).unionAll(_summed(in_lake, columns)).collect()
    if same_columns and of_case == of_lake:
        return False
    # Before anything else, so that a mistake in the attributes file is called one.
    images = without(read_images(paths, case, config.vehicle_pattern, config.vehicle_column), lost)
    if of_case["vehicles"] != of_lake["vehicles"]:
        raise LakeError(
            f"the lake {ctx.lake} holds these images with other vehicles than case.vehicle_pattern, "
            "case.vehicle_column and the attributes file give now: set them as they were, or use another lake.path, or "
            f"remove {ctx.lake} first"
        )
    with timed("ingest: the attributes have changed, writing images"):
        ctx.lake.overwrite("images", images)
    return True


def _summed(images: DataFrame, columns: Sequence[str]) -> DataFrame:
    """One row, the same for any partitions: a sum of hashes for the vehicles and one for some other columns."""
    hashed = {"vehicles": ["vehicle_id"], "attributes": columns}
    return images.agg(
        *(
            F.sum(F.xxhash64("image_id", *(f"`{c}`" for c in some)).cast("decimal(38,0)")).alias(name)
            for name, some in hashed.items()
        )
    )


def _write(
    ctx: Context, case: Case, arrays: dict[str, ArrayFile], paths: DataFrame, n_images: int, fingerprint: str
) -> None:
    lake = ctx.lake
    added = lake.exists("sources")
    config = ctx.config.require_case()
    images = read_images(paths, case, config.vehicle_pattern, config.vehicle_column)
    # Images that an earlier descriptor lost are lost to later ones too.
    lost = lake.read_or_empty("bad_rows").select("image_id") if added else None
    with rows_to_drop(ctx.spark, arrays, n_images, config.on_bad_rows, lost) as bad_rows:
        if bad_rows is not None and not added:
            lost = bad_rows.select("image_id").distinct()
            log.info("ingest: the table bad_rows lists what is left out")
        total = sum(a.shape[0] * a.shape[1] * 4 for a in arrays.values())
        with timed(f"ingest: converting {len(arrays)} descriptors of {n_images:,} images ({total / 2**30:.2f} GiB)"):
            _write_vectors(ctx, arrays, lost)
        if not added:
            with timed("ingest: writing images"):
                lake.overwrite("images", without(images, lost))
                if bad_rows is None:
                    lake.overwrite_rows("bad_rows", [])
                else:
                    lake.overwrite("bad_rows", _listed(bad_rows, paths))
        elif bad_rows is not None:
            known = lake.read("bad_rows").select("image_id", F.explode("descriptors").alias("descriptor"))
            lake.overwrite("bad_rows", _listed(known.unionByName(bad_rows), paths))
        n_dropped = lost.count() if lost is not None else 0
    names = lake.schema("sources").names
    now = datetime.now(UTC)
    rows = [(n, a.name, *a.shape, str(a.dtype), n_dropped, fingerprint, now) for n, a in arrays.items()]
    lake.replace_rows("sources", [dict(zip(names, row, strict=True)) for row in rows], {"descriptor": list(arrays)})


@contextmanager
def rows_to_drop(
    spark: SparkSession,
    arrays: dict[str, ArrayFile],
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
    bad_rows = blocks.persist(_bad_rows(spark, arrays))
    try:
        with timed("looking for rows with NaN or infinity"):
            n_bad = bad_rows.select("image_id").distinct().count()
        n_new = without(bad_rows, lost).select("image_id").distinct().count() if n_bad and lost is not None else 0
        if n_new:
            raise LakeError(
                f"{n_new:,} rows of {', '.join(arrays)} hold NaN or infinity, but the lake already has descriptors "
                "with these rows: ingest all descriptors together into a new lake"
            )
        if n_bad == n_images:
            raise CaseError("every row holds NaN or infinity: nothing is left to work with")
        log.info("dropping %s of %s rows, which hold NaN or infinity", f"{n_bad:,}", f"{n_images:,}")
        yield bad_rows if n_bad else None
    finally:
        bad_rows.unpersist()


def _write_vectors(ctx: Context, arrays: dict[str, ArrayFile], lost: DataFrame | None) -> None:
    refuse = ctx.config.require_case().on_bad_rows == "refuse"
    vectors = read_vectors(ctx.spark, arrays, refuse=refuse)
    with refusing_bad_rows(ctx.spark, arrays):
        values = sum(rows * (width + 2) for rows, width in (a.shape for a in arrays.values()))
        ctx.lake.replace("descriptors", without(vectors, lost), {"descriptor": list(arrays)}, values)


@contextmanager
def refusing_bad_rows(spark: SparkSession, arrays: dict[str, ArrayFile]) -> Iterator[None]:
    """Turn the failure of a task that met a bad row (`read_vectors`) into a CaseError that lists all of them."""
    try:
        yield
    except Exception as exc:  # Which class it is depends on what was done with the vectors.
        if _BAD_ROW not in str(exc):
            raise
        raise CaseError(_describe_bad_rows(spark, arrays)) from exc


def _listed(bad_rows: DataFrame, paths: DataFrame) -> DataFrame:
    """The table ``bad_rows``: each image once, with its path and the descriptors it is bad in."""
    by_image = bad_rows.groupBy("image_id").agg(F.array_sort(F.collect_set("descriptor")).alias("descriptors"))
    return by_image.join(paths, on="image_id", how="inner")


def without(df: DataFrame, ids: DataFrame | None) -> DataFrame:
    """The rows of other images than those of ``ids`` (few: they are broadcast)."""
    return df if ids is None else df.join(F.broadcast(ids), on="image_id", how="left_anti")


# -- vectors -----------------------------------------------------------------------------------------

_BAD_ROW = "motorpool: a row holds NaN or infinity"
_Task = tuple[str, ArrayFile, Split]


def read_vectors(spark: SparkSession, arrays: dict[str, ArrayFile], *, refuse: bool) -> DataFrame:
    """All rows of all files, ``image_id, descriptor, vector``; with ``refuse`` a bad row fails its task."""
    tasks = _tasks(arrays)

    def run(batches: Batches) -> Batches:
        for name, ids, x, good in _chunks(tasks, batches):
            if refuse and not good.all():
                raise ValueError(_BAD_ROW)
            yield pa.RecordBatch.from_arrays(
                [pa.array(ids), pa.repeat(name, len(ids)), blocks.to_list_array(x)],
                names=["image_id", "descriptor", "vector"],
            )

    return _per_task(spark, tasks).mapInArrow(run, Lake.schema("descriptors"))


def _bad_rows(spark: SparkSession, arrays: dict[str, ArrayFile]) -> DataFrame:
    """``image_id, descriptor`` of every row with NaN or infinity (or beyond float32)."""
    tasks = _tasks(arrays)

    def run(batches: Batches) -> Batches:
        for name, ids, _, good in _chunks(tasks, batches):
            bad = ids[~good]
            yield pa.RecordBatch.from_arrays(
                [pa.array(bad), pa.repeat(name, len(bad))], names=["image_id", "descriptor"]
            )

    return _per_task(spark, tasks).mapInArrow(run, Lake.schema("descriptors", without=["vector"]))


def _tasks(arrays: dict[str, ArrayFile]) -> list[_Task]:
    tasks: list[_Task] = []
    for name, array in arrays.items():
        rows = max(1, _SPLIT_BYTES // (4 * array.shape[1]))
        tasks += [(name, array, split) for split in array.splits(rows)]
    return tasks


def _per_task(spark: SparkSession, tasks: Sequence[_Task]) -> DataFrame:
    """The numbers of the tasks, each in a partition of its own."""
    return spark.range(0, len(tasks), 1, len(tasks))


def _chunks(tasks: Sequence[_Task], batches: Batches) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Read the tasks whose numbers are in `batches`, chunk by chunk.

    Yields the descriptor, int64[m] row numbers, float32[m, d] rows, and bool[m], true for rows that are all finite.
    Memory: two chunks of 16 MiB, the one in use and the one being read.
    """
    for task in (number for batch in batches for number in batch.column(0).to_pylist()):
        name, array, split = tasks[task]
        for first, x in array.read(split, max(1, _CHUNK_BYTES // (4 * array.shape[1]))):
            # A sum is finite only if every term is; one that overflows makes us look again, term by term.
            with np.errstate(over="ignore", invalid="ignore"):
                good = np.isfinite(x.sum(axis=1))
            if not good.all():
                good = np.isfinite(x).all(axis=1)
            yield name, np.arange(first, first + len(x)), x, good


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
