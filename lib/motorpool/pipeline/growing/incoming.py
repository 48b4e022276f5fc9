"""New images come in: a case is compared with the lake, then its images and descriptors are written behind the others.

The row in ``appends`` that says so begins it, ``images`` is written last: whatever an append that was stopped has left
behind it is replaced by the next one, which takes the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.descriptors import Descriptor, check_keys, open_array_files, read_vectors, with_columns
from motorpool.case.folder import find_case
from motorpool.case.images import check_columns, check_paths, check_vehicle_column, read_images
from motorpool.case.sources import shown
from motorpool.case.tables import read_paths
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import (
    Append,
    appends_of,
    case_text,
    check_descriptors_of,
    check_widths_of,
    shown_case,
    write_vectors,
)
from motorpool.pipeline.ingesting.bad_rows import listed_bad_rows, refusing_bad_rows, rows_to_drop, without
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import held_group_columns
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Behind every image id.
_LAST = 2**63 - 1
#: Images that a message names.
_NAMED = 3


@dataclass(frozen=True)
class Came:
    """What a case has brought: ``n_rows`` images in it, of which ``n_known`` were in the lake already.

    ``append`` is None where none of the others could be used. ``n_dropped`` have NaN or infinity.
    """

    append: Append | None
    n_rows: int
    n_known: int
    n_new: int
    n_dropped: int


def bring_in(ctx: Context, config: CaseConfig) -> Came:
    """Write the images of a case that the lake lacks to ``images`` and ``descriptors``.

    Image ids go on behind the lake's in the order of the case: row i is the first free id plus i. Images whose path the
    lake has are left out if their vectors are those of the lake. Rows with NaN or infinity follow
    ``case.on_bad_rows``: refused, or left out and listed in ``bad_rows``. Columns of the attributes file that the
    table ``images`` lacks are left out, with a warning. Everything is checked before the first write, and vectors while
    they are converted.

    Raises CaseError for a case that lacks a descriptor of the lake, or a column that groups of a feature set are told
    by, has a descriptor of another width, or names an image of the lake with other vectors; LakeError where the lake
    holds no case. Memory does not grow with the images.
    """
    lake, spark = ctx.lake, ctx.spark
    lake.check("sources")
    sources = lake.rows("sources", ["descriptor", "n_rows", "n_columns"])
    widths = {str(r["descriptor"]): int(r["n_columns"]) for r in sources}
    case = find_case(config)
    who = shown_case(config)
    check_descriptors_of(case, widths, who)
    further = sorted(set(case.descriptors) - set(widths))
    if further:
        log.info("append: %s: left out, as the lake does not have it: %s", who, ", ".join(further))
    arrays = open_array_files(case, list(widths))
    check_widths_of(arrays, widths)
    with ExitStack() as stack:
        stack.enter_context(explained())
        check_vehicle_column(spark, case, config.vehicle_column)
        asking = {c: f"feature set {name} of the lake" for c, name in held_group_columns(lake).items()}
        check_columns(spark, case, asking)
        paths = stack.enter_context(blocks.kept(read_paths(spark, case.images_paths)))
        with timed(f"append: checking {shown(case.images_paths)}"):
            n_rows, fingerprint = check_paths(paths, case.images_paths)
        descriptors = with_columns(spark, arrays, case, paths, n_rows, list(widths))
        check_widths_of(descriptors, widths)
        check_keys(descriptors)
        there = lake.read("images").select(F.col("image_id").alias("lake_id"), "path")
        known = stack.enter_context(blocks.kept(paths.join(there, on="path", how="inner")))
        n_known = known.count()
        if n_known:
            with timed(f"append: comparing {counted(n_known, 'image')} that the lake has already"):
                _check_same(lake, descriptors, known, who)
        came = appends_of(lake)
        unfinished = came[-1] if came and not came[-1].finished else None
        if unfinished and unfinished.row["paths_fingerprint"] == fingerprint:
            # Stopped when its images were in.
            row = unfinished.row
            return Came(unfinished, n_rows, int(row["n_known"]), int(row["n_images"]), int(row["n_dropped"]))
        if n_known == n_rows:
            return Came(None, n_rows, n_known, 0, 0)
        stack.enter_context(refusing_bad_rows(spark, descriptors))
        bad_rows = stack.enter_context(rows_to_drop(spark, descriptors, n_rows, config.on_bad_rows))
        # Not `without`: they may be many.
        others = paths.join(known.select("image_id"), on="image_id", how="left_anti")
        new = others if bad_rows is None else without(others, bad_rows.select("image_id").distinct())
        dropped = None
        if bad_rows is not None:
            before = lake.read("bad_rows").select("path")
            dropped = listed_bad_rows(bad_rows, others.join(before, on="path", how="left_anti"))
        n_new, n_dropped = new.count(), dropped.count() if dropped is not None else 0
        if not n_new:
            return Came(None, n_rows, n_known, 0, n_dropped)
        images = _described(lake, read_images(paths, case, config.vehicle_pattern, config.vehicle_column))
        first = came[-1].images.stop if came else max(int(r["n_rows"]) for r in sources)
        append = Append(
            {
                "append_id": str(first), "case": case_text(config), "first_image_id": first, "n_rows": n_rows,
                "n_images": n_new, "n_known": n_known, "n_dropped": n_dropped, "paths_fingerprint": fingerprint,
                "created_at": None, "finished_at": None,
            }
        )  # fmt: skip
        # An append that was stopped may have had more rows.
        behind = range(first, _LAST)
        lake.replace_rows("appends", [append.row], {"append_id": [append.append_id]})
        with timed(f"append: converting {counted(len(widths), 'descriptor')} of {counted(n_new, 'image')}"):
            vectors = read_vectors(spark, descriptors, refuse=config.on_bad_rows == "refuse")
            wanted = vectors.join(new.select("image_id"), on="image_id", how="left_semi")
            write_vectors(lake, _renumbered(wanted, first), behind, widths, n_new)
        none = lake.read("bad_rows").limit(0)
        listed = none if dropped is None else _renumbered(dropped, first)
        lake.replace_images("bad_rows", listed, behind, n_values=n_dropped * (2 + len(widths)))
        with timed("append: writing images"):
            wanted = images.join(new.select("image_id"), on="image_id", how="left_semi")
            lake.replace_images("images", _renumbered(wanted, first), behind)
        return Came(append, n_rows, n_known, n_new, n_dropped)


def _renumbered(rows: DataFrame, first: int) -> DataFrame:
    return rows.withColumn("image_id", F.col("image_id") + F.lit(first).cast("bigint"))


def _check_same(lake: Lake, descriptors: Mapping[str, Descriptor], known: DataFrame, who: str) -> None:
    """CaseError, which names some, where images that the lake has come with other vectors.

    ``known`` is ``image_id`` (of the case), ``path`` and ``lake_id``. One join of their vectors.
    """
    spark = lake.spark
    coming = read_vectors(spark, descriptors, refuse=False).join(known, on="image_id", how="inner")
    there = lake.read("descriptors", descriptor=list(descriptors)).select(
        F.col("image_id").alias("lake_id"), "descriptor", F.col("vector").alias("held")
    )
    beside = coming.join(there, on=["lake_id", "descriptor"], how="left")
    other = beside.where(~F.col("vector").eqNullSafe(F.col("held"))).select("path", "descriptor")
    n = other.select("path").distinct().count()
    if not n:
        return
    by_path = other.groupBy("path").agg(F.array_sort(F.collect_set("descriptor")).alias("descriptors"))
    first = by_path.orderBy("path").limit(_NAMED).collect()
    listed = "; ".join(f"{r['path']} ({', '.join(r['descriptors'])})" for r in first)
    raise CaseError(
        f"{who}: {n:,} of its paths are in the lake already, with other vectors: {listed}. An image of the lake keeps "
        "its vectors: give a new photo another path, leave these out, or make a new lake"
    )


def _described(lake: Lake, images: DataFrame) -> DataFrame:
    """``images`` in the columns of the lake's table, null in those that the case lacks."""
    columns = lake.read("images").columns
    left_out = [c for c in images.columns if c not in columns]
    if left_out:
        log.warning("append: attributes that the lake's images do not have are left out: %s", ", ".join(left_out))
    missing = [c for c in columns if c not in images.columns]
    nulls = [F.lit(None).cast("string").alias(c) for c in missing]
    return reduce(lambda df, c: df.withColumn(c[0], c[1]), zip(missing, nulls, strict=True), images).select(
        *(f"`{c}`" for c in columns)
    )
