"""Ingest: a case folder becomes the tables ``images``, ``descriptors``, ``bad_rows`` and ``sources``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.descriptors import Descriptor, Header, check_keys, open_array_files, read_vectors, with_columns
from motorpool.case.folder import Case, find_case
from motorpool.case.images import check_paths, check_vehicle_column, describe_images, read_images
from motorpool.case.sources import shown
from motorpool.case.tables import read_paths
from motorpool.case.vector_columns import ColumnHeader
from motorpool.describe.described import PhotoDescriptor, open_describers, photos_of
from motorpool.describe.describer import Describer
from motorpool.errors import LakeError
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import write_late
from motorpool.pipeline.ingesting.bad_rows import computed_of, listed_bad_rows, refusing_bad_rows, rows_to_drop, without
from motorpool.pipeline.ingesting.describing import clear, compute
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import held_group_columns
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)


def run_ingest(ctx: Context) -> None:
    """Read the case and write its tables. Does nothing where the lake already holds them.

    Everything is checked before the first table changes, and vectors while they are converted, before their transaction
    commits. Those that are computed from photos go to the table ``described`` first. Attributes that have changed since
    are written anew. Descriptors that the config no longer names stay in the lake. Raises CaseError for a case that
    cannot be used, LakeError when the lake holds another one: with other paths or files, other vehicles, or without
    images that this config would keep, or where a column has changed that a feature set is fitted with.
    """
    config = ctx.config.require_case()
    case = find_case(config)
    arrays = open_array_files(case)
    describers = open_describers(case)
    root = photos_of(config, describers) if describers else ""
    with explained():
        check_vehicle_column(ctx.spark, case, config.vehicle_column)
        paths = blocks.persist(read_paths(ctx.spark, case.images_paths))
        try:
            with timed(f"ingest: checking {shown(case.images_paths)}"):
                n_images, fingerprint = check_paths(paths, case.images_paths)
            descriptors = with_columns(ctx.spark, arrays, case, paths, n_images)
            headers = {name: _header(name, descriptors, describers, n_images) for name in case.descriptors}
            new = _not_yet_in_lake(ctx, headers, describers, fingerprint)
            written = ctx.lake.exists("sources") and _write_attributes(ctx, case, paths)
            if not new:
                clear(ctx)
                if not written:
                    log.info("ingest: the lake already holds these %s images, nothing to do", f"{n_images:,}")
                return
            check_keys({name: descriptors[name] for name in new if name in descriptors})
            computed = {name: describers[name] for name in new if name in describers}
            if computed:
                descriptors |= compute(ctx, computed, paths, n_images, fingerprint, root)
            _write(ctx, case, {name: descriptors[name] for name in new}, paths, n_images, fingerprint)
            clear(ctx)
        finally:
            paths.unpersist()


def _header(
    name: str, descriptors: Mapping[str, Descriptor], describers: Mapping[str, Describer], n_images: int
) -> Header:
    if name in descriptors:
        return descriptors[name]
    describer = describers[name]
    return ColumnHeader(describer.name, (n_images, describer.width), np.dtype(np.float32))


def _not_yet_in_lake(
    ctx: Context, descriptors: Mapping[str, Header], describers: Mapping[str, Describer], fingerprint: str
) -> list[str]:
    """Descriptors still to be ingested; LakeError when the lake was made from another case."""
    if not ctx.lake.exists("sources"):
        return list(descriptors)
    known = {row["descriptor"]: row for row in ctx.lake.rows("sources")}
    for source in known.values():
        if source["paths_fingerprint"] != fingerprint:
            raise other_case(str(ctx.lake))
    check_sources(known, descriptors, str(ctx.lake), {name: d.fingerprint for name, d in describers.items()})
    computed = {name for name, row in known.items() if row["computed_by"] is not None}
    _check_dropped(ctx, descriptors, computed, _advice(str(ctx.lake)))
    return [name for name in descriptors if name not in known]


def _advice(lake: str) -> str:
    return f"use another lake.path, or remove {lake} first"


def other_case(lake: str) -> LakeError:
    """What to say of a lake that was made from images with other paths."""
    return LakeError(
        f"the lake {lake} holds another case (its image paths differ): add new images by `motorpool append`, "
        f"{_advice(lake)}"
    )


def dropped_before(lake: str) -> LakeError:
    """What to say of a lake that leaves out images which are now to be refused."""
    return LakeError(
        f"the lake {lake} leaves out images with NaN or infinity (see its table bad_rows), and "
        f"case.on_bad_rows is now refuse: set it to drop, or mend the files and {_advice(lake)}"
    )


def check_sources(
    known: Mapping[str, Mapping[str, Any]],
    descriptors: Mapping[str, Header],
    lake: str,
    fingerprints: Mapping[str, str],
) -> None:
    """LakeError where the rows of ``sources``, by descriptor, tell of other files than are given now.

    ``fingerprints``: of what computes those descriptors that are computed from photos.
    """
    advice = _advice(lake)
    for name, given in descriptors.items():
        row = known.get(name)
        if row is None:
            continue
        computed_by = fingerprints.get(name)
        if row["computed_by"] != computed_by:
            raise LakeError(
                f"the lake {lake} holds {name} from {row['file']}, but case.descriptors now gives {given.name}: "
                "another network, or photos that are prepared in another way, or vectors that are read and not "
                f"computed. Give it another name, or {advice}"
            )
        if (row["n_rows"], row["n_columns"]) != given.shape:
            raise LakeError(
                f"the lake {lake} holds {name} as {row['n_rows']:,} x {row['n_columns']}, but {given.name} is "
                f"{given.shape[0]:,} x {given.shape[1]}: {advice}"
            )
        if computed_by is None and (_last(row["file"]), row["dtype"]) != (_last(given.name), str(given.dtype)):
            raise LakeError(
                f"the lake {lake} holds {name} from {row['file']} ({row['dtype']}), but case.descriptors now gives "
                f"{given.name} ({given.dtype}): name the former file, give the new one another name, or {advice}"
            )


def _last(path: str) -> str:
    """The last part of a path: a case may have moved since."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _check_dropped(ctx: Context, descriptors: Collection[str], computed: Collection[str], advice: str) -> None:
    """LakeError where the lake leaves out images that a first run with this config would keep, or refuse.

    Images that have no vector of a ``computed`` descriptor are always left out.
    """
    for row in ctx.lake.fitted(ctx.lake.read("bad_rows")).select("descriptors").distinct().collect():
        if ctx.config.require_case().on_bad_rows == "refuse" and set(row["descriptors"]) - set(computed):
            raise dropped_before(str(ctx.lake))
        if not set(row["descriptors"]) & set(descriptors):
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
    everything = ctx.lake.read("images")
    in_lake = ctx.lake.fitted(everything)
    lost = ctx.lake.fitted(ctx.lake.read("bad_rows")).select("image_id")
    described = without(describe_images(paths, case, config.vehicle_pattern, config.vehicle_column), lost)
    others = sorted(set(described.columns) - {"image_id", "path", "vehicle_id"})
    same_columns = set(described.columns) == set(in_lake.columns)
    columns = others if same_columns else []
    groups = held_group_columns(ctx.lake)
    held = [c for c in groups if c in described.columns]
    (of_case, of_lake) = _summed(described, columns, held).unionAll(_summed(in_lake, columns, held)).collect()
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
    if len(held) < len(groups) or of_case["groups"] != of_lake["groups"]:
        raise LakeError(
            f"feature set {next(iter(groups.values()))} of the lake {ctx.lake} was fitted with other values of "
            f"{', '.join(groups)} than the attributes file gives now: put the former ones back, or use another "
            f"lake.path, or remove {ctx.lake} first"
        )
    first = ctx.lake.first_appended()
    if first is not None:
        # What an appended case says about its images stays, in the columns that there still are.
        kept = [f"`{c}`" for c in images.columns if c in everything.columns]
        appended = everything.where(F.col("image_id") >= first).select(*kept)
        images = images.unionByName(appended, allowMissingColumns=True)
    with timed("ingest: the attributes have changed, writing images"):
        ctx.lake.overwrite("images", images)
    return True


def _summed(images: DataFrame, columns: Sequence[str], groups: Sequence[str]) -> DataFrame:
    """One row, the same for any partitions: sums of hashes for the vehicles, for some columns, and for the groups'."""
    hashed = {"vehicles": ["vehicle_id"], "attributes": columns, "groups": groups}
    return images.agg(
        *(
            F.sum(F.xxhash64("image_id", *(f"`{c}`" for c in some)).cast("decimal(38,0)")).alias(name)
            for name, some in hashed.items()
        )
    )


def _write(
    ctx: Context, case: Case, descriptors: Mapping[str, Descriptor], paths: DataFrame, n_images: int, fingerprint: str
) -> None:
    lake = ctx.lake
    added = lake.exists("sources")
    config = ctx.config.require_case()
    images = read_images(paths, case, config.vehicle_pattern, config.vehicle_column)
    # Images that an earlier descriptor lost are lost to later ones too.
    lost = lake.fitted(lake.read_or_empty("bad_rows")).select("image_id") if added else None
    with rows_to_drop(ctx.spark, descriptors, n_images, config.on_bad_rows, lost) as bad_rows:
        if bad_rows is not None and not added:
            lost = bad_rows.select("image_id").distinct()
            log.info("ingest: the table bad_rows lists what is left out")
        total = sum(a.shape[0] * a.shape[1] * 4 for a in descriptors.values())
        size = f"{total / 2**30:.2f} GiB"
        with timed(
            f"ingest: converting {counted(len(descriptors), 'descriptor')} of {counted(n_images, 'image')} ({size})"
        ):
            _write_vectors(ctx, descriptors, lost)
        n_dropped = lost.count() if lost is not None else 0
        _check_computed(ctx, descriptors, n_images - n_dropped)
        if added:
            write_late(ctx, {name: given.shape[1] for name, given in descriptors.items()})
        if not added:
            with timed("ingest: writing images"):
                lake.overwrite("images", without(images, lost))
                if bad_rows is None:
                    lake.overwrite_rows("bad_rows", [])
                else:
                    lake.overwrite("bad_rows", listed_bad_rows(bad_rows, paths))
        elif bad_rows is not None:
            everything = lake.read("bad_rows")
            known = lake.fitted(everything).select("image_id", F.explode("descriptors").alias("descriptor"), "reason")
            listed = listed_bad_rows(known.unionByName(bad_rows), paths)
            first = lake.first_appended()
            if first is not None:
                listed = listed.unionByName(everything.where(F.col("image_id") >= first))
            lake.overwrite("bad_rows", listed)
    names = lake.schema("sources").names
    now = datetime.now(UTC)
    values = [
        (n, d.name, *d.shape, str(d.dtype), n_dropped, fingerprint, now, _computed_by(d))
        for n, d in descriptors.items()
    ]
    rows = [dict(zip(names, row, strict=True)) for row in values]
    lake.replace_rows("sources", rows, {"descriptor": list(descriptors)})


def _check_computed(ctx: Context, descriptors: Mapping[str, Descriptor], n_kept: int) -> None:
    """LakeError where a table lacks vectors that were computed: another run may have cleared them away meanwhile."""
    held = {
        name: ctx.lake.fitted(ctx.lake.read("descriptors", descriptor=name)).count()
        for name in computed_of(descriptors)
    }
    lost = [name for name, n in held.items() if n != n_kept]
    if lost:
        if ctx.lake.exists("sources"):
            ctx.lake.replace_rows("sources", [], {"descriptor": lost})
        clear(ctx)
        raise LakeError(
            f"the lake {ctx.lake} lacks vectors of {', '.join(lost)} that were computed: another run has changed the "
            "table described meanwhile. Start this run again when no other computes the same descriptors"
        )


def _computed_by(descriptor: Descriptor) -> str | None:
    return descriptor.fingerprint if isinstance(descriptor, PhotoDescriptor) else None


def _write_vectors(ctx: Context, descriptors: Mapping[str, Descriptor], lost: DataFrame | None) -> None:
    refuse = ctx.config.require_case().on_bad_rows == "refuse"
    vectors = read_vectors(ctx.spark, descriptors, refuse=refuse)
    with refusing_bad_rows(ctx.spark, descriptors):
        values = sum(rows * (width + 2) for rows, width in (a.shape for a in descriptors.values()))
        ctx.lake.replace("descriptors", without(vectors, lost), {"descriptor": list(descriptors)}, values)
