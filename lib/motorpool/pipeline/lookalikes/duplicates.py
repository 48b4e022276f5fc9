"""Duplicates: images that show the same, by photo files and by the vectors of feature sets, in pairs and in groups."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.files import redact
from motorpool.config.duplicates import PHOTOS, DuplicatesConfig
from motorpool.config.run import Config
from motorpool.errors import ConfigError
from motorpool.interpret.counts import attributes_fingerprint
from motorpool.neighbours.alike import PARTNERS, equal_rows, find_alike_rows, vector_digests
from motorpool.photos.digests import file_digests
from motorpool.photos.source import find_images
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.lookalikes.searched import check_sets, forget_searches, searches_to_make, with_appended
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks

log = logging.getLogger(__name__)

#: The tables of this stage: what says that the others are complete comes last.
_TABLES = ("duplicates", "duplicate_groups", "duplicate_searches")
#: Files that a task reads: some seconds.
_FILES_A_TASK = 5000
#: The entry of ``params`` that only Spark can tell: a hash of what the column of the split holds.
SPLITS = "splits"


def run_duplicates(ctx: Context) -> None:
    """Find images that show the same: equal photo files, equal vectors, and vectors of a high cosine.

    Exact, in every feature set asked for. Equal images form groups without being compared; of each only the first is
    compared with all other images. The row in ``duplicate_searches`` is written last, so a search without it is made
    again, and so is one whose ``params`` are others. What the config no longer asks for goes out of all tables. Raises
    ConfigError where ``images`` has no column ``duplicates.split``, LakeError where the lake lacks a feature set.
    """
    config = ctx.config.duplicates
    if config is None:
        forget_searches(ctx, "duplicates", _TABLES)
        return
    for name, params in searches_to_make(ctx, "duplicates", _TABLES, _asked(ctx, config)):
        with explained(), timed(f"duplicates: comparing {name}"):
            _search(ctx, config, name, params)


def asked_searches(config: Config) -> dict[str, dict[str, str]]:
    """What each search depends on that a config asks for, but for the values of the split, by its feature set.

    CaseError where the config names photos that are not there.
    """
    asked = config.duplicates
    if asked is None:
        return {}
    sets = [fs.name for fs in config.feature_sets if not fs.merges_vehicles]
    names = asked.features if asked.features is not None else sets
    split = {"split": asked.split or ""}
    found = {name: {"similarity": str(asked.similarity), "partners": str(asked.partners)} | split for name in names}
    root = _photos(config) if asked.photos else None
    return found | ({PHOTOS: {"photos": redact(root)} | split} if root else {})


def _photos(config: Config) -> str | None:
    return find_images(config.case) if config.case is not None else None


def _asked(ctx: Context, config: DuplicatesConfig) -> dict[str, dict[str, str]]:
    """`asked_searches` with what the column of the split holds, and with the images that were appended."""
    of_vectors = asked_searches(ctx.config)
    of_photos = {PHOTOS: of_vectors.pop(PHOTOS)} if PHOTOS in of_vectors else {}
    check_sets(ctx, list(of_vectors))
    found = with_appended(ctx, of_vectors) | of_photos
    if config.photos and PHOTOS not in found:
        log.info(
            "duplicates: photo files are not compared: case.images_root names none, and the case folder holds none"
        )
    if config.split is None:
        return found
    images = ctx.lake.read("images")
    if config.split not in images.columns:
        raise ConfigError(
            f"duplicates.split: {config.split!r}: the table images has no such column; it has "
            f"{', '.join(images.columns)}"
        )
    values = {SPLITS: attributes_fingerprint(images, [config.split])}
    return {name: params | values for name, params in found.items()}


@dataclass(frozen=True)
class _Told:
    """What a search has found: ``image_id, first_id`` of images equal to others, PARTNERS of those that come first, and
    which of these are connected, int64[g, 2] (see `Alike`)."""

    n_images: int
    equal: DataFrame
    partners: DataFrame
    connected: np.ndarray


def _search(ctx: Context, config: DuplicatesConfig, name: str, params: dict[str, str]) -> None:
    """Write one search: pairs, groups, and then what says that they are there."""
    began = time.monotonic()
    with ExitStack() as held:

        def keep(df: DataFrame) -> DataFrame:
            return held.enter_context(blocks.kept(df))

        told = _of_files(ctx, keep) if name == PHOTOS else _of_vectors(ctx, config, name, keep)
        images = _images(ctx, config.split)
        pairs = _pairs(told, "file" if name == PHOTOS else "vector", images).withColumn("features", F.lit(name))
        # An image has some near partners, and is equal to one other or is the first of its equals.
        values = ctx.values(len(pairs.columns) * (config.partners + 1))
        ctx.lake.replace("duplicates", pairs, {"features": [name]}, values)
        groups = _groups(told, images).withColumn("features", F.lit(name))
        ctx.lake.replace("duplicate_groups", groups, {"features": [name]}, ctx.values(len(groups.columns)))
    n_groups = ctx.lake.read("duplicate_groups", features=name).where("is_keeper").count()
    row = {
        "features": name,
        "params": params,
        "n_images": told.n_images,
        "n_pairs": ctx.lake.count("duplicates", features=[name]),
        "n_groups": n_groups,
        "n_duplicates": ctx.lake.count("duplicate_groups", features=[name]) - n_groups,
        "seconds": time.monotonic() - began,
    }
    ctx.lake.replace_rows("duplicate_searches", [row], {"features": [name]})
    log.info(
        "duplicates: %s: %s of %s images are duplicates of others, in %s groups",
        name, f"{row['n_duplicates']:,}", f"{told.n_images:,}", f"{n_groups:,}",
    )  # fmt: skip


def _of_files(ctx: Context, keep: Callable[[DataFrame], DataFrame]) -> _Told:
    root = _photos(ctx.config)
    assert root is not None
    # Appended photos lie in folders of their own.
    images = ctx.lake.fitted(ctx.lake.read("images"))
    n = images.count()
    tasks = max(blocks.parallelism(ctx.spark), math.ceil(n / _FILES_A_TASK))
    digests = keep(file_digests(images, root, tasks))
    n_read = digests.count()
    if n_read < n:
        log.warning("duplicates: %s of %s photo files are missing or cannot be read", f"{n - n_read:,}", f"{n:,}")
    none = ctx.spark.createDataFrame([], PARTNERS)
    return _Told(n_read, keep(equal_rows(digests)), none, np.empty((0, 2), np.int64))


def _of_vectors(ctx: Context, config: DuplicatesConfig, name: str, keep: Callable[[DataFrame], DataFrame]) -> _Told:
    vectors = ctx.lake.read("features", features=name).select("image_id", "vector")
    equal = keep(equal_rows(vector_digests(vectors)))
    others = equal.where("image_id <> first_id")
    n_others = others.count()
    if n_others:
        log.info("duplicates: %s: %s images are equal to others", name, f"{n_others:,}")
        vectors = vectors.join(others.select("image_id"), on="image_id", how="left_anti")
    block_df = keep(blocks.gather(vectors))

    def say(text: str) -> None:
        ctx.doing = text
        log.debug("duplicates: %s: %s", name, text)

    try:
        alike = find_alike_rows(block_df, 1.0 - config.similarity, config.partners, ctx.config.seed, say)
    finally:
        ctx.doing = ""
    n_images = ctx.lake.count("features", features=[name])
    return _Told(n_images, equal, keep(alike.partners), alike.groups)


def _images(ctx: Context, split: str | None) -> DataFrame:
    """``image_id, vehicle_id, split``."""
    column = F.lit(None) if split is None else F.col("`" + split.replace("`", "``") + "`")
    return ctx.lake.read("images").select("image_id", "vehicle_id", column.cast("string").alias("split"))


def _pairs(told: _Told, equal: str, images: DataFrame) -> DataFrame:
    """The rows of ``duplicates``; those of equal images are of the kind ``equal``."""
    exact = told.equal.where("image_id <> first_id").selectExpr(
        "first_id AS image_id", "image_id AS other_id", f"'{equal}' AS kind", "CAST(1 AS DOUBLE) AS similarity"
    )
    # A pair that both images list is there twice, with the same gap.
    near = told.partners.selectExpr(
        "least(image_id, other_id) AS image_id", "greatest(image_id, other_id) AS other_id", "'near' AS kind",
        "1 - gap AS similarity",
    ).distinct()  # fmt: skip
    one = images.selectExpr("image_id", "vehicle_id AS vehicle", "split AS its_split")
    other = images.selectExpr("image_id AS other_id", "vehicle_id AS other_vehicle", "split AS other_split")
    both = exact.unionByName(near).join(one, on="image_id", how="inner").join(other, on="other_id", how="inner")
    return both.selectExpr(
        "image_id", "other_id", "kind", "similarity", "vehicle = other_vehicle AS same_vehicle",
        "its_split = other_split AS same_split",
    )  # fmt: skip


def _groups(told: _Told, images: DataFrame) -> DataFrame:
    """The rows of ``duplicate_groups``."""
    ids, group = (pa.array(np.ascontiguousarray(column)) for column in told.connected.T)
    connected = images.sparkSession.createDataFrame(pa.table({"first_id": ids, "group_id": group}))
    equal = told.equal.join(connected, on="first_id", how="left").selectExpr(
        "image_id", "coalesce(group_id, first_id) AS group_id"
    )
    # Those that are equal to no other image.
    alone = connected.join(told.equal, on="first_id", how="left_anti").selectExpr("first_id AS image_id", "group_id")
    members = equal.unionByName(alone)
    counts = (
        members.join(images, on="image_id", how="inner")
        .groupBy("group_id")
        .agg(
            F.count("*").alias("n_images"),
            F.count_distinct("vehicle_id").alias("n_vehicles"),
            F.count_distinct("split").alias("n_splits"),
        )
    )
    found = members.join(counts, on="group_id", how="inner")
    return found.withColumn("is_keeper", F.col("image_id") == F.col("group_id"))
