"""Projections: maps of all images in two or three dimensions, of every feature set, by every method."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU
from motorpool.config.run import ProjectionConfig
from motorpool.errors import ConfigError, LakeError
from motorpool.kernels.maps.landmarks import Rows
from motorpool.kernels.maps.layouts import Layout
from motorpool.kernels.maps.quality import JUDGED, trust
from motorpool.maps.first_pass import first_pass
from motorpool.maps.method import MapMethod
from motorpool.maps.placing import Axes, lay_out_all, place_all
from motorpool.maps.registry import MAP_METHODS, check_packages
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import Counted, timed
from motorpool.pipeline.study import forget, forget_all, log_not_asked, outdate
from motorpool.spark import blocks
from motorpool.spark.tasks import run_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Map:
    """One map of a feature set. Its name tells the dimensions: ``pca2``, ``umap3``."""

    method: MapMethod
    dims: int

    @property
    def name(self) -> str:
        return f"{self.method.name}{self.dims}"

    def params(self, config: ProjectionConfig, seed: int) -> dict[str, str]:
        """What the places and their trustworthiness depend on: other values mean another map."""
        # The seed draws the images to judge by, too.
        return {key: str(getattr(config, key)) for key in self.method.settings} | {"seed": str(seed)}


def asked_maps(config: ProjectionConfig, seed: int) -> dict[str, dict[str, str]]:
    """What each map depends on that is asked of a feature set, by its name: ``pca2``, ``umap3``."""
    maps = (_Map(MAP_METHODS[method], dims) for method in config.methods for dims in config.dims)
    return {m.name: m.params(config, seed) for m in maps}


def run_project(ctx: Context) -> None:
    """Place every image on maps in two or three dimensions, by every method, of every feature set asked for.

    The row in ``projection_methods`` is written last, so a map without it is made again, and so is one whose ``params``
    are others. Maps that the config no longer asks for go out of both tables. Raises ConfigError where a feature set
    has fewer columns than ``projections.dims`` asks for, EnvironmentMissingError where a method's package is not
    installed, LakeError where the lake lacks a feature set.
    """
    config = ctx.config.projections
    stored = _stored(ctx)
    if config is None:
        log_not_asked("project", "the config has no section `projections`", stored)
        _forget_sets(ctx, stored)
        return
    check_packages(config.methods)
    n_images = _sizes(ctx, config)
    changed = False
    sets_done = Counted(ctx.pace, len(n_images), "feature sets")
    for features, n in n_images.items():
        maps = {m.name: m for m in _possible(config, features, n)}
        there = stored.get(features, {})
        kept = [name for name, m in maps.items() if there.get(name) == m.params(config, ctx.config.seed)]
        pending = [m for m in maps.values() if m.name not in kept]
        outdated = there.keys() - set(kept)
        if outdated:
            # Were this run killed, their rows must not stand for places of other values, or none.
            outdate(ctx, "projection_methods", {"features": [features], "method": outdated})
        if pending:
            with explained(), timed(f"project: {', '.join(m.name for m in pending)} of {features}"):
                _make_maps(ctx, config, features, pending, kept, outdated)
        elif outdated:
            _write_places(ctx, features, _kept(ctx, features, kept), len(kept))
            forget(ctx, "projection_methods", {"features": [features], "method": outdated})
        changed |= bool(pending or outdated)
        if changed:
            sets_done.add()
    gone = stored.keys() - n_images.keys()
    _forget_sets(ctx, gone)
    if not changed and not gone:
        log.info("project: all maps of the study are in the lake, nothing to do")


def _stored(ctx: Context) -> dict[str, dict[str, dict[str, str]]]:
    """The parameters of the maps in the lake, by feature set and name."""
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in ctx.lake.rows("projection_methods", ["features", "method", "params"]):
        found[row["features"]][row["method"]] = row["params"]
    return dict(found)


def _forget_sets(ctx: Context, gone: Collection[str]) -> None:
    """Take feature sets out of both tables."""
    if gone:
        forget_all(ctx, ("projections", "projection_methods"), {"features": gone})


def _sizes(ctx: Context, config: ProjectionConfig) -> dict[str, int]:
    """The number of images of every feature set to project."""
    names = [fs.name for fs in ctx.config.feature_sets if config.features is None or fs.name in config.features]
    ctx.lake.check("feature_sets")
    rows = {r["features"]: r for r in ctx.lake.rows("feature_sets", ["features", "n_features", "n_images"])}
    absent = [name for name in names if name not in rows]
    if absent:
        raise LakeError(f"feature set {absent[0]!r} is not in the lake {ctx.lake}: run `motorpool features` first")
    narrow = [name for name in names if rows[name]["n_features"] < max(config.dims)]
    if narrow:
        wide = [name for name in names if name not in narrow]
        raise ConfigError(
            f"projections.dims: {max(config.dims)} dimensions of {narrow[0]!r}, which has "
            f"{rows[narrow[0]]['n_features']} column(s): lower projections.dims, or name other feature sets in "
            f"projections.features{': ' + ', '.join(wide) if wide else ''}"
        )
    return {name: int(rows[name]["n_images"]) for name in names}


def _possible(config: ProjectionConfig, features: str, n: int) -> list[_Map]:
    """The maps that a feature set has images enough for."""
    maps = [_Map(MAP_METHODS[method], dims) for method in config.methods for dims in config.dims]
    left_out = [m for m in maps if n < m.method.least_rows]
    if left_out:
        what = f"{', '.join(m.name for m in left_out)} of {features}"
        least = min(m.method.least_rows for m in left_out)
        log.info("project: %s left out: it has %d images, and they take at least %d", what, n, least)
    return [m for m in maps if m not in left_out]


def _make_maps(
    ctx: Context,
    config: ProjectionConfig,
    features: str,
    maps: Sequence[_Map],
    kept: Sequence[str],
    outdated: Collection[str],
) -> None:
    """Some maps of one feature set, written together; those that are ``kept`` stay as they are, no others do."""
    began, seed = time.monotonic(), ctx.config.seed
    layouts = {
        m.name: Layout(m.method.name, m.dims, config.n_neighbors, config.perplexity, seed)
        for m in maps
        if m.method.lay_out
    }
    block_df = blocks.persist(blocks.gather(ctx.lake.fitted(ctx.lake.read("features", features=features))))
    try:
        seen = first_pass(block_df, config.sample, JUDGED, seed)
        n, n_fitted = seen.stats.n, len(seen.sample)
        principal = Axes.of(seen.stats, max(m.dims for m in maps))
        laying = time.monotonic()
        if layouts:
            _say(ctx, f"{features}: laying out {n_fitted:,} of {n:,} images by {', '.join(layouts)}")
            _warn_of_cpu(ctx, layouts)
        done = lay_out_all(ctx.spark, seen.sample, principal, list(layouts.values()), ctx.backend)
        laying = time.monotonic() - laying
        laid_out = dict(zip(layouts, done, strict=True))
        axes = {m.name: principal.first(m.dims) for m in maps if not m.method.lay_out}
        placed = {name: found.placed for name, found in laid_out.items()}
        placed_df = place_all(block_df, axes, seen.sample, placed).withColumn("features", F.lit(features))
        _say(ctx, f"{features}: placing {n:,} images on {len(maps)} map(s)")
        _write_places(ctx, features, placed_df.unionByName(_kept(ctx, features, kept)), len(maps) + len(kept))
        _say(ctx, f"{features}: judging by {len(seen.judged):,} images")
        trusted = _trust(ctx, features, seen.judged, maps)
    finally:
        ctx.doing = ""
        block_df.unpersist()
    shared = (time.monotonic() - began - laying) / len(maps)
    rows = [
        {
            "features": features,
            "method": m.name,
            "params": m.params(config, seed),
            "n_images": n,
            "n_fitted": n_fitted if m.name in laid_out else n,
            "trustworthiness": trusted[m.name],
            "seconds": shared + (laid_out[m.name].seconds if m.name in laid_out else 0.0),
            "backend": laid_out[m.name].backend if m.name in laid_out else "cpu",
        }
        for m in maps
    ]
    names = sorted({*(m.name for m in maps), *outdated})
    ctx.lake.replace_rows("projection_methods", rows, {"features": [features], "method": names})


def _write_places(ctx: Context, features: str, places: DataFrame, n_maps: int) -> None:
    values = ctx.values(len(places.columns) * n_maps)
    ctx.lake.replace("projections", places, {"features": [features]}, values)


def _warn_of_cpu(ctx: Context, layouts: Mapping[str, Layout]) -> None:
    """Say which maps the backend cannot make."""
    absent = [name for name, lay in layouts.items() if ctx.backend.layout_of(lay.method, lay.dims) is None]
    if absent and ctx.backend.name != CPU.name:
        log.warning("project: %s on the cpu: the %s backend does not have it", ", ".join(absent), ctx.backend.name)


def _say(ctx: Context, text: str) -> None:
    ctx.doing = text
    log.info("project: %s", text)


def _kept(ctx: Context, features: str, names: Sequence[str]) -> DataFrame:
    """The maps of a feature set that are in the lake and stay there."""
    return ctx.lake.read_or_empty("projections", features=features, method=names)


def _trust(ctx: Context, features: str, judged: Rows, maps: Sequence[_Map]) -> dict[str, float | None]:
    """The trustworthiness of every map as the table holds it, on the images drawn to judge by."""
    names = [m.name for m in maps]
    wanted = ctx.spark.createDataFrame(pa.table({"image_id": judged.ids}))
    places = ctx.lake.read("projections", features=features).where(F.col("method").isin(names))
    table = places.join(F.broadcast(wanted), "image_id", "left_semi").toArrow().sort_by("image_id")
    on_map = []
    for m in maps:
        rows = table.filter(pc.field("method") == m.name)
        on_map.append(np.column_stack([rows.column(c).to_numpy() for c in "xyz"[: m.dims]]))
    found = run_tasks(ctx.spark, [1.0] * len(maps), lambda i: trust(judged.x, on_map[i]))
    for name, value in zip(names, found, strict=True):
        if value is not None:
            log.info("project: %s of %s has a trustworthiness of %.3f", name, features, value)
    return dict(zip(names, found, strict=True))
