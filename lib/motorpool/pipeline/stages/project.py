"""Projections: maps of all images in two or three dimensions, of every feature set, by every method."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from motorpool.maps.placing import Axes, Sampled, lay_out_all, place_all
from motorpool.maps.registry import MAP_METHODS, check_packages
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.pace import Counted, timed
from motorpool.pipeline.stages.features import gathered, held_values
from motorpool.pipeline.study import forget, forget_all, log_not_asked, outdate
from motorpool.spark import blocks
from motorpool.spark.tasks import run_tasks
from motorpool.texts import counted

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

    def layout(self, config: ProjectionConfig, seed: int) -> Layout:
        return Layout(self.method.name, self.dims, config.n_neighbors, config.perplexity, seed)


@dataclass(frozen=True)
class _Asked:
    """What is to be done for a feature set: ``maps`` to make, names of those that are ``kept`` and of those that go."""

    features: str
    maps: Sequence[_Map]
    kept: Sequence[str]
    outdated: Sequence[str]


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
    asked = []
    for features, n in n_images.items():
        maps = {m.name: m for m in _possible(config, features, n)}
        there = stored.get(features, {})
        kept = [name for name, m in maps.items() if there.get(name) == m.params(config, ctx.config.seed)]
        pending = [m for m in maps.values() if m.name not in kept]
        asked.append(_Asked(features, pending, kept, sorted(there.keys() - set(kept))))
    sets_done = Counted(ctx.pace, sum(bool(a.maps or a.outdated) for a in asked), "feature set")
    for some in _together(ctx, [a for a in asked if a.maps]):
        n_maps = sum(len(a.maps) for a in some)
        with explained(), timed(f"project: {counted(n_maps, 'map')} of {counted(len(some), 'feature set')}"):
            _make_maps(ctx, config, some)
        sets_done.add(len(some))
    for a in asked:
        if a.outdated and not a.maps:
            _outdate(ctx, a)
            _write_places(ctx, [_kept(ctx, a)], [a])
            forget(ctx, "projection_methods", {"features": [a.features], "method": a.outdated})
            sets_done.add()
    gone = stored.keys() - n_images.keys()
    _forget_sets(ctx, gone)
    if not sets_done.of and not gone:
        log.info("project: all maps of the study are in the lake, nothing to do")


def _stored(ctx: Context) -> dict[str, dict[str, dict[str, str]]]:
    """The parameters of the maps in the lake, by feature set and name; of those that can place new images."""
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in ctx.lake.rows("projection_methods", ["features", "method", "params", "axes"]):
        # Maps from before their axes were kept are made again.
        method = method_of(row["method"])
        kept = row["axes"] is not None or method is None or method.lay_out is not None
        found[row["features"]][row["method"]] = row["params"] if kept else {}
    return dict(found)


def method_of(name: str) -> MapMethod | None:
    """The method of a map in the lake (``pca2``, ``umap3``); None for one that is known no more."""
    return MAP_METHODS.get(name[:-1])


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


def _together(ctx: Context, asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """Feature sets whose maps are made, and written, together: those of few images take two Spark jobs between them."""
    some: list[_Asked] = []
    held = 0
    for a in asked:
        n_values = held_values(ctx, a.features)
        if some and (n_values is None or held + n_values > blocks.HELD_VALUES):
            yield some
            some, held = [], 0
        some.append(a)
        held += blocks.HELD_VALUES if n_values is None else n_values
    if some:
        yield some


def _make_maps(ctx: Context, config: ProjectionConfig, asked: Sequence[_Asked]) -> None:
    """The pending maps of some feature sets, written together; those that are kept stay as they are, no others do."""
    began, seed = time.monotonic(), ctx.config.seed
    for a in asked:
        _outdate(ctx, a)
    with ExitStack() as stack:
        stack.callback(_say, ctx, "")
        block_dfs = [stack.enter_context(gathered(ctx, a.features)) for a in asked]
        seen = [first_pass(block_df, config.sample, JUDGED, seed) for block_df in block_dfs]
        principal = [Axes.of(s.stats, max(m.dims for m in a.maps)) for a, s in zip(asked, seen, strict=True)]
        laying = time.monotonic()
        layouts = [{m.name: m.layout(config, seed) for m in a.maps if m.method.lay_out} for a in asked]
        tables = [Sampled(s.sample, p, list(of.values())) for s, p, of in zip(seen, principal, layouts, strict=True)]
        for of in layouts:
            if of:
                _warn_of_cpu(ctx, of)
        sets = counted(len(asked), "feature set")
        _say(ctx, f"laying out {counted(max(len(s.sample) for s in seen), 'image')} of {sets}" if any(layouts) else "")
        done = lay_out_all(ctx.spark, tables, ctx.backend)
        laying = time.monotonic() - laying
        laid_out = [dict(zip(of, d, strict=True)) for of, d in zip(layouts, done, strict=True)]
        places = []
        _say(ctx, f"placing the images of {sets} on their maps")
        for a, block_df, s, p, laid in zip(asked, block_dfs, seen, principal, laid_out, strict=True):
            axes = _axes(a, p)
            placed = {name: found.placed for name, found in laid.items()}
            places += [place_all(a.features, block_df, axes, s.sample, placed), *([_kept(ctx, a)] if a.kept else [])]
        _write_places(ctx, places, asked)
        trusted = _trust(ctx, [(a, s.judged) for a, s in zip(asked, seen, strict=True)])
    shared = (time.monotonic() - began - laying) / sum(len(a.maps) for a in asked)
    rows = [
        {
            "features": a.features,
            "method": m.name,
            "params": m.params(config, seed),
            "n_images": s.stats.n,
            "n_fitted": len(s.sample) if m.name in laid else s.stats.n,
            "trustworthiness": found[m.name],
            "seconds": shared + (laid[m.name].seconds if m.name in laid else 0.0),
            "backend": laid[m.name].backend if m.name in laid else "cpu",
            "axes": axes[m.name].to_rows() if m.name in axes else None,
        }
        for a, s, laid, found, axes in zip(asked, seen, laid_out, trusted, map(_axes, asked, principal), strict=True)
        for m in a.maps
    ]
    for a in asked:
        if a.kept:
            rows += ctx.lake.rows("projection_methods", features=[a.features], method=a.kept)
    ctx.lake.replace_rows("projection_methods", rows, {"features": [a.features for a in asked]})


def _axes(a: _Asked, principal: Axes) -> dict[str, Axes]:
    """The axes of the new maps that have no layout, by the maps' names."""
    return {m.name: principal.first(m.dims) for m in a.maps if not m.method.lay_out}


def _outdate(ctx: Context, a: _Asked) -> None:
    """Were this run killed, rows of what goes must not stand for places of other values, or none."""
    if a.outdated:
        outdate(ctx, "projection_methods", {"features": [a.features], "method": a.outdated})


def _write_places(ctx: Context, places: Sequence[DataFrame], asked: Sequence[_Asked]) -> None:
    n_maps = sum(len(a.maps) + len(a.kept) for a in asked)
    rows = blocks.together(places)
    values = ctx.values(len(rows.columns) * n_maps)
    ctx.lake.replace("projections", rows, {"features": [a.features for a in asked]}, values)


def _warn_of_cpu(ctx: Context, layouts: Mapping[str, Layout]) -> None:
    """Say which maps the backend cannot make."""
    absent = [name for name, lay in layouts.items() if ctx.backend.layout_of(lay.method, lay.dims) is None]
    if absent and ctx.backend.name != CPU.name:
        log.warning("project: %s on the cpu: the %s backend does not have it", ", ".join(absent), ctx.backend.name)


def _say(ctx: Context, text: str) -> None:
    ctx.doing = text
    if text:
        log.debug("project: %s", text)


def _kept(ctx: Context, a: _Asked) -> DataFrame:
    """The maps of a feature set that are in the lake and stay there; appended images get their places anew."""
    return ctx.lake.fitted(ctx.lake.read_or_empty("projections", features=a.features, method=a.kept))


def _trust(ctx: Context, asked: Sequence[tuple[_Asked, Rows]]) -> list[dict[str, float | None]]:
    """The trustworthiness of every map as the table holds it, on the images drawn to judge by."""
    judged = [
        (a.features, name, rows.x, places)
        for a, rows in asked
        for name, places in places_of(ctx, a.features, [m.name for m in a.maps], rows.ids)
    ]
    costs = [float(len(x)) ** 2 for _, _, x, _ in judged]
    found = run_tasks(ctx.spark, costs, lambda i: trust(judged[i][2], judged[i][3]))
    trusted: dict[str, dict[str, float | None]] = {a.features: {} for a, _ in asked}
    for (features, name, _, _), value in zip(judged, found, strict=True):
        trusted[features][name] = value
    for features, by_map in trusted.items():
        told = ", ".join(f"{value:.3f} of {name}" for name, value in by_map.items() if value is not None)
        if told:
            log.info("project: trustworthiness of the maps of %s: %s", features, told)
    return list(trusted.values())


def places_of(
    ctx: Context, features: str, maps: Sequence[str], image_ids: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """The places of some images on maps of a feature set, float32[m, dims] in the order of their ids, by the map."""
    places = ctx.lake.read("projections", features=features, method=maps)
    if blocks.held(places) is not None:
        everywhere = blocks.table(places)
        table = everywhere.filter(pc.is_in(everywhere.column("image_id"), pa.array(image_ids)))
    else:
        wanted = ctx.spark.createDataFrame(pa.table({"image_id": image_ids}))
        table = places.join(F.broadcast(wanted), "image_id", "left_semi").toArrow()
    table = table.sort_by("image_id")
    for name in maps:
        rows = table.filter(pc.field("method") == name)
        yield name, np.column_stack([rows.column(c).to_numpy() for c in "xyz"[: int(name[-1])]])
