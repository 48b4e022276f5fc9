"""How long a run takes, roughly: from what was measured on two cores, and the sizes that are known before Spark starts.

The constants below are of one machine (see docs/figures.md) and of data like that of the sample case. Other machines
and data are off by one factor for the most part, so the times *left* in a run, which follow from its own pace, are
nearer than those that `motorpool check` gives before it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from motorpool.cluster.models import ModelSpec
from motorpool.cluster.registry import ALGORITHMS
from motorpool.config.run import Config
from motorpool.features.spec import FeatureSet
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.pipeline.planning.checks import Findings
from motorpool.pipeline.planning.held import Held, held_in
from motorpool.pipeline.planning.opening import Opened
from motorpool.pipeline.planning.plan import models_of

#: Where a width cannot be told.
_USUAL_WIDTH = 100
_GIB = 2**30
#: The cores that the constants were measured on.
_CORES = 2
#: Between this and its inverse lie most runs, as shares of what is expected.
SPREAD = 2.0

# Seconds of a step whatever its size, on any number of cores: planning, small tables, commits. Each of the first two
# stages takes _WARM_UP more: Java compiles what it runs often, and Python's workers load their libraries.
_START, _STAGE, _PASS, _WARM_UP = 11.0, 2.5, 1.0, 12.0
# Seconds on two cores of what grows with the data: a GiB read or written; a number of a row, for each centre that it is
# compared with, over all passes; a number of a pair of rows; a label written; a photo measured; an image laid out.
_BYTES, _CENTRES, _PAIRS, _LABEL, _PHOTO, _LAID_OUT = 6 / _GIB, 4e-9, 4e-11, 5e-7, 6e-3, 2e-3
#: Photos that are measured of a model at most, and those of a cluster.
_PHOTOS, _PHOTOS_OF_CLUSTER = 20_000, 64
#: Algorithms that look at all pairs of rows once, however many models they make of it.
_BY_PAIRS = ("dbscan", "hdbscan")


@dataclass(frozen=True)
class _Sizes:
    """Rows, the width of each feature set, and how much faster than two cores this machine is."""

    n: int
    widths: Mapping[str, int]
    speed: float

    def pairs(self, features: str) -> float:
        """Seconds of a pass over all pairs of rows."""
        return self.n**2 * (self.widths[features] + 20) * _PAIRS / self.speed

    def data(self, seconds: float) -> float:
        return seconds / self.speed


def expected_seconds(config: Config, found: Findings) -> dict[str, float]:
    """Seconds of every stage that has something to do, as far as small tables tell what the lake holds already.

    Where the number of images is not known, only the parts that do not depend on it. On a cluster this machine's cores
    stand for the cluster's.
    """
    held = found.held
    widths = {
        spec.name: found.widths[spec.name].columns if spec.name in found.widths else _USUAL_WIDTH
        for spec in config.feature_sets
    }
    n = found.opened.n_rows if found.opened else max((rows for rows, _ in found.shapes.values()), default=0)
    sizes = _Sizes(n, widths, (os.cpu_count() or _CORES) / _CORES)
    in_lake = held.models if held else set()
    models = {spec: [m for m in models_of(config, spec) if m.model_id not in in_lake] for spec in config.feature_sets}
    seconds = {
        "ingest": _ingest(found, sizes),
        "features": _features(config, found, sizes),
        "cluster": sum(_clustering(spec, of, sizes) for spec, of in models.items()),
        "vehicles": 2 * _STAGE if config.vehicles.models_per_features and any(models.values()) else 0.0,
        "outliers": _outliers(config, held, sizes),
        "project": _maps(config, held, sizes),
        "label": 0.0,
    }
    # Nobody has looked at photos of a lake that is made now.
    if config.labels and (held is None or held.has("annotations")):
        seconds["label"] = _STAGE + len(config.labels.attributes) * 2 * _STAGE
    if config.consensus:
        seconds["consensus"] = 2 * _STAGE + sizes.data(n * len(config.consensus.n_clusters) * _LABEL)
    if config.nuisance:
        n_models = sum(map(len, models.values())) * len(config.nuisance.columns)
        seconds["nuisance"] = _STAGE + sizes.data(n * n_models * _LABEL)
    if config.report is not None:
        photos = min(_PHOTOS, n, _PHOTOS_OF_CLUSTER * 10) if found.photos else 0
        if any(models.values()) or held is None or not held.has("interpretations"):
            seconds["interpret"] = 2 * _STAGE + sizes.data(len(config.features) * photos * _PHOTO)
        seconds["report"] = 8 * _STAGE + sizes.data(photos * _PHOTO)
    seconds = {stage: s for stage, s in seconds.items() if s}
    return {stage: s + (_WARM_UP if at < 2 else 0.0) for at, (stage, s) in enumerate(seconds.items())}


def expected_of_append(config: Config, opened: Opened | None) -> dict[str, float]:
    """Seconds of every stage of an append that has something to do; empty where only Spark can tell."""
    held = held_in(config.lake)
    if held is None or opened is None:
        return {}
    sizes = _Sizes(opened.n_rows, held.widths, (os.cpu_count() or _CORES) / _CORES)
    columns = sum(width for _, width in held.descriptors.values())
    labelled = sizes.data(len(held.models) * sizes.n * _LABEL)
    seconds = {
        "images": 4 * _STAGE + _WARM_UP + sizes.data(sizes.n * columns * 4 * _BYTES),
        "features": len(held.definitions) * _PASS + sizes.data(sizes.n * columns * 4 * _BYTES),
        "labels": len(held.models) * _PASS + labelled,
        "outliers": len(held.scored) * 4 * _STAGE,
        "places": 4 * _STAGE if held.has("projection_methods") else 0.0,
        "attributes": 4 * _STAGE if held.has("label_sets") else 0.0,
        "drift": 4 * _STAGE + labelled if held.models else 0.0,
        "finish": _PASS,
    }
    if config.photo_quality is not None:
        seconds["quality"] = _STAGE + sizes.data(sizes.n * _PHOTO)
    if seconds["features"]:
        seconds["features"] += _WARM_UP
    return seconds


def starting_seconds() -> float:
    """Seconds that Java, Spark and Delta take to start."""
    return _START


def _ingest(found: Findings, sizes: _Sizes) -> float:
    if found.opened is None:
        return 0.0
    there = found.held.descriptors if found.held else {}
    missing = [d.shape for name, d in found.opened.descriptors.items() if name not in there]
    if not missing and there:
        return _STAGE
    return 2 * _STAGE + sizes.data(sum(rows * columns * 4 for rows, columns in missing) * _BYTES)


def _features(config: Config, found: Findings, sizes: _Sizes) -> float:
    there = found.held.definitions if found.held else {}
    seconds = 0.0
    for spec in config.feature_sets:
        if spec.name not in there:
            columns = sum(found.shapes.get(name, (0, _USUAL_WIDTH))[1] for name in spec.descriptors)
            seconds += _PASS + sizes.data(sizes.n * columns * 4 * _BYTES)
    return seconds


def _clustering(spec: FeatureSet, models: list[ModelSpec], sizes: _Sizes) -> float:
    """Seconds of a feature set's models: they share their passes."""
    seconds = 0.0
    for algorithm in {m.algorithm for m in models}:
        own = [m for m in models if m.algorithm == algorithm]
        seconds += _STAGE + sizes.data(len(own) * sizes.n * _LABEL)
        if algorithm in _BY_PAIRS:
            seconds += sizes.pairs(spec.name)
        else:
            asked = ALGORITHMS[algorithm].grid.asked
            centres = sum(asked(dict(m.params)) or 1 for m in own)
            seconds += sizes.data(sizes.n * sizes.widths[spec.name] * centres * _CENTRES)
    return seconds


def _outliers(config: Config, held: Held | None, sizes: _Sizes) -> float:
    if config.outliers is None:
        return 0.0
    asked = config.outliers.features or [spec.name for spec in config.feature_sets]
    missing = [name for name in asked if held is None or name not in held.scored]
    seconds = _STAGE if missing else 0.0
    for name in missing:
        methods = [OUTLIER_METHODS[m] for m in config.outliers.methods]
        seconds += _STAGE + _PASS * len(methods)
        if any("neighbours" in m.needs for m in methods):
            seconds += sizes.pairs(name)
    return seconds


def _maps(config: Config, held: Held | None, sizes: _Sizes) -> float:
    maps = config.projections
    if maps is None:
        return 0.0
    laid_out = [m for m in maps.methods if m != "pca"]
    each = _PASS + len(laid_out) * len(maps.dims) * sizes.data(min(sizes.n, maps.sample) * _LAID_OUT)
    asked = maps.features or [spec.name for spec in config.feature_sets]
    missing = [name for name in asked if held is None or name not in held.mapped]
    return each * len(missing) + _STAGE if missing else 0.0
