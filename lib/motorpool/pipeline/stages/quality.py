"""Quality: light, contrast, sharpness, information and frame of every photo, and what is wrong: ``photo_quality``."""

from __future__ import annotations

import logging
import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.files import redact
from motorpool.config.photo_quality import PhotoQualityConfig
from motorpool.config.run import Config
from motorpool.errors import CaseError, ConfigError
from motorpool.photos.quality import flags_of, measure_all
from motorpool.photos.source import find_images
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import appends_of, number_of
from motorpool.pipeline.study import forget_all, log_not_asked, outdate
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Images whose photos are measured at once: what a run that is stopped does again at most.
PART_IMAGES = 32_768
#: Photos of one task: some seconds.
_PHOTOS_A_TASK = 500
#: Part of what measurements depend on: other ways to measure give other numbers.
_RULES = "1"
#: The entries of ``params`` that measurements depend on; flags depend on all.
_MEASURED = ("photos", "rules")


def run_quality(ctx: Context) -> None:
    """Measure every photo (light, contrast, sharpness, information, frame), and flag those of poor quality.

    Photos of appended images lie where their own case says, or with all others where it says nothing. Photos are
    measured in parts of 32,768 images, and the part's row in ``photo_surveys`` is written last, so a part
    without it is measured again. Photos that are missing or broken have rows that say so. Where only limits have
    changed, the flags are made anew and no photo is read. Without the section ``photo_quality`` both tables are
    emptied. Raises ConfigError where the case has no photos, CaseError where it names some that are not there.
    """
    config = ctx.config.photo_quality
    stored = {row["part"]: row["params"] for row in ctx.lake.rows("photo_surveys", ["part", "params"])}
    if config is None:
        log_not_asked("quality", "the config has no section `photo_quality`", stored)
        if stored:
            forget_all(ctx, ("photo_quality", "photo_surveys"), {"part": stored})
        return
    images, n_images, roots = _parts(ctx, photos_of(ctx.config))
    params = {part: asked_params(config, root) for part, root in roots.items()}
    pending = [part for part in roots if stored.get(part) != params[part]]
    if not pending:
        log.info("quality: all photos are measured, nothing to do")
        return
    known = {part for part in pending if _measured(stored.get(part, {})) == _measured(params[part])}
    # Were this run killed, flags of other limits must not stand, nor measurements of other photos.
    for parts, keep in ((known, _MEASURED), (stored.keys() & set(pending) - known, ())):
        if parts:
            outdate(ctx, "photo_surveys", {"part": parts}, keep=keep)
    for part in pending:
        began = time.monotonic()
        n = n_images[part]
        with explained():
            if part in known:
                log.info("quality: flagging %s of part %s anew", counted(n, "photo"), part)
                found = ctx.lake.read("photo_quality", part=part)
                _write(ctx, config, part, found.drop("flags"), n)
            else:
                _measure(ctx, config, roots[part], part, images.where(F.col("part") == part), n)
        _write_done(ctx, part, params[part], time.monotonic() - began)
    _say_flags(ctx)


def _parts(ctx: Context, root: str) -> tuple[DataFrame, dict[str, int], dict[str, str]]:
    """``image_id, path, part`` of all images, and by part, in their order, how many these are and where they lie.

    ``root`` is where the photos of the study lie.
    """
    appends = appends_of(ctx.lake)
    number = F.col("image_id")
    # Of those that were appended behind their append's id, each with its own parts.
    own = F.coalesce(number_of(appends).cast("bigint"), F.lit(0)) if appends else F.lit(0)
    nth = F.expr(f"CAST((image_id - first) DIV {PART_IMAGES} AS STRING)")
    part = F.when(F.col("first") == 0, nth).otherwise(F.concat_ws("-", F.col("first").cast("string"), nth))
    images = ctx.lake.read("images").select("image_id", "path", own.alias("first")).withColumn("part", part)
    rows = images.groupBy("part", "first").count().orderBy(F.min(number)).collect()
    places = {0: root}
    for append in appends:
        try:
            places[append.images.start] = find_images(append.case) or root
        except CaseError as exc:
            log.warning("quality: photos of the images appended as %s are left out: %s", append.append_id, exc)
    known = [row for row in rows if row["first"] in places]
    return images, {r["part"]: r["count"] for r in known}, {r["part"]: places[r["first"]] for r in known}


def photos_of(config: Config) -> str:
    """Where the photos lie; ConfigError where a config that asks for their quality has none."""
    root = find_images(config.case) if config.case is not None else None
    if root is None:
        raise ConfigError(
            "photo_quality: needs photos, but case.images_root names none and the case folder holds none: name their "
            "folder or zip in case.images_root, or leave the section out"
        )
    return root


def asked_params(config: PhotoQualityConfig, root: str) -> dict[str, str]:
    """What the measurements and flags of a part depend on."""
    limits = {name: str(value) for name, value in config.model_dump().items()}
    return {"photos": redact(root), "rules": _RULES} | limits


def _measured(params: dict[str, str]) -> dict[str, str]:
    """What the measurements alone depend on."""
    return {name: params[name] for name in _MEASURED if name in params}


def _measure(ctx: Context, config: PhotoQualityConfig, root: str, part: str, images: DataFrame, n: int) -> None:
    tasks = max(blocks.parallelism(ctx.spark), -(-n // _PHOTOS_A_TASK))
    log.info("quality: measuring %s of %s (part %s) ...", counted(n, "photo"), redact(root), part)
    ctx.doing = f"measuring {counted(n, 'photo')}"
    began = time.monotonic()
    try:
        # Kept before it is written: writing may put all rows into one task, and photos are to be read in many.
        with blocks.kept(measure_all(images, root, tasks)) as measured:
            measured.count()
            seconds = time.monotonic() - began
            rate = f"{n / max(seconds, 1e-3):,.0f}"
            log.info("quality: %s in %.1f s, %s images a second", counted(n, "photo"), seconds, rate)
            _write(ctx, config, part, measured.withColumn("part", F.lit(part)), n)
    finally:
        ctx.doing = ""


def _write(ctx: Context, config: PhotoQualityConfig, part: str, measured: DataFrame, n: int) -> None:
    rows = measured.withColumn("flags", flags_of(config))
    # No photo has more than six flags.
    ctx.lake.replace("photo_quality", rows, {"part": [part]}, n * (len(rows.columns) + 6))


def _write_done(ctx: Context, part: str, params: dict[str, str], seconds: float) -> None:
    counts = ctx.lake.read("photo_quality", part=part).agg(
        F.count("*").alias("n_images"),
        F.count_if(F.size("flags") > 0).alias("n_flagged"),
        F.count_if(F.col("status") != "ok").alias("n_unreadable"),
    )
    row = counts.collect()[0].asDict() | {"part": part, "params": params, "seconds": seconds}
    ctx.lake.replace_rows("photo_surveys", [row], {"part": [part]})


def _say_flags(ctx: Context) -> None:
    flags = ctx.lake.read("photo_quality").select(F.explode("flags").alias("flag")).groupBy("flag").count()
    told = [f"{row['flag']} {row['count']:,}" for row in flags.orderBy(F.desc("count"), "flag").collect()]
    log.info("quality: %s", ", ".join(told) or "no photo is flagged")
