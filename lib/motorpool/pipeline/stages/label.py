"""Label: from the looks of people to a value of every attribute for all images: ``image_labels`` and ``label_sets``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from motorpool.config.labels import AttributeConfig
from motorpool.config.run import CONSENSUS
from motorpool.labelling.apply import Labeller, label_images
from motorpool.labelling.candidates import Source
from motorpool.labelling.compare import Choice, compare
from motorpool.labelling.program import program_rows
from motorpool.percentages import percent
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.labelling.counts import LabelCounts, count_labels
from motorpool.pipeline.labelling.looks import Looks, answers_of_images, read_looks
from motorpool.pipeline.labelling.sources import (
    Learning,
    cluster_sources,
    learning,
    most_rows,
    sample_vehicles,
    vector_sources,
)
from motorpool.pipeline.pace import timed
from motorpool.pipeline.study import fingerprint, forget, log_not_asked, outdate, rank
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Models whose clusters are named, at most: the first of the study's leaderboard.
_MAX_MODELS = 100


@dataclass(frozen=True)
class _Readable:
    """What attributes may be learned from: definitions and widths of feature sets, and the feature sets of models.

    ``outliers`` are the params of the consensus of outlier methods, whose outliers nothing is learned from.
    """

    definitions: Mapping[str, str]
    widths: Mapping[str, int]
    models: Mapping[str, str]
    outliers: Sequence[Mapping[str, str]]


def run_label(ctx: Context) -> None:
    """Label all images by every attribute of the config, from what people said about some of them.

    For each attribute the ways of `candidates` are compared on vehicles that are held out, and the best labels all
    images. Attributes without looks are left out with a warning, as are those of which all looks say one value. The row
    in ``label_sets`` is written last; its ``params`` hold all that the labels depend on, so what changed is labelled
    again. Labels of attributes that the config no longer names go out, with their audits; annotations stay.

    Raises ConfigError where annotations name values that the config does not.
    """
    config = ctx.config.labels
    attributes = dict(config.attributes) if config else {}
    stored = _stored(ctx)
    gone = set(stored) - set(attributes)
    if not attributes:
        log_not_asked("label", "the config names no attribute in `labels`", gone)
        _forget(ctx, gone)
        return
    with explained():
        looks = read_looks(ctx, attributes)
    for name in attributes:
        problem = _problem(name, looks.get(name))
        if problem:
            log.warning("label: %s", problem)
            looks.pop(name, None)
            gone |= {name} & set(stored)
    _forget(ctx, gone)
    if not looks:
        return
    readable = _readable(ctx)
    params = {name: _params(ctx, attributes[name], item, readable) for name, item in looks.items()}
    pending = [name for name in looks if stored.get(name) != params[name]]
    if not pending:
        log.info("label: all attributes with looks are labelled, nothing to do")
        return
    outdated = sorted(set(pending) & set(stored))
    if outdated:
        outdate(ctx, "label_sets", {"attribute": outdated})
    with explained(), timed(f"label: {', '.join(pending)}"):
        _label(ctx, {name: (attributes[name], looks[name]) for name in pending}, readable, params)


# -- what is there -------------------------------------------------------------------------------------


def _stored(ctx: Context) -> dict[str, dict[str, str]]:
    """The params of every label set in the lake, by its attribute."""
    rows = ctx.lake.rows("label_sets", ["attribute", "params"])
    return {r["attribute"]: dict(r["params"] or {}) for r in rows}


def _forget(ctx: Context, attributes: set[str]) -> None:
    """Take attributes out of the tables: first what says that their labels are complete."""
    if attributes:
        log.info("label: %s: the labels go out of the lake", ", ".join(sorted(attributes)))
        for table in ("label_sets", "image_labels", "audits"):
            if ctx.lake.exists(table):
                forget(ctx, table, {"attribute": attributes})


def _problem(name: str, looks: Looks | None) -> str | None:
    """Why an attribute cannot be labelled, and what to do about it; None where it can."""
    draw = f"motorpool annotate draw --attribute {name}"
    if looks is None:
        return (
            f"{name}: nobody has looked at a photo for it yet, so it gets no labels. `{draw}` chooses photos to "
            "look at, `motorpool annotate import` takes the answers"
        )
    usable = looks.usable
    found = sorted({looks.values[code] for code in usable["code"]})
    if len(found) < 2:
        answers = (
            f"all {len(usable):,} of them say {found[0]!r}"
            if found
            else "none of them gives a value that people agree on"
        )
        return (
            f"{name}: {len(looks.photos):,} photos were looked at, and {answers}: labels need photos of two values. "
            f"`{draw}` chooses more photos"
        )
    if usable["vehicle_id"].fillna(usable["image_id"].astype(str)).nunique() < 2:
        return f"{name}: all photos looked at show one vehicle: labels need photos of others. `{draw}` chooses some"
    return None


def _readable(ctx: Context) -> _Readable:
    wanted = [f.name for f in ctx.config.feature_sets]
    rows = ctx.lake.rows("feature_sets", ["features", "definition", "n_features"])
    rows = [r for r in rows if not wanted or r["features"] in wanted]
    # A consensus labels no new images, so labels that need one would not either.
    ranked = [m for m in rank(ctx).models if m.features != CONSENSUS][:_MAX_MODELS] if ctx.lake.exists("models") else []
    return _Readable(
        {r["features"]: r["definition"] for r in sorted(rows, key=lambda r: str(r["features"]))},
        {r["features"]: int(r["n_features"]) for r in rows},
        {m.model_id: m.features for m in ranked},
        [r["params"] or {} for r in ctx.lake.rows("outlier_methods", ["params"], features=[CONSENSUS])],
    )


def _params(ctx: Context, config: AttributeConfig, looks: Looks, readable: _Readable) -> dict[str, str]:
    """All that the labels of an attribute depend on, as text."""
    seen = {
        "features": {n: d for n, d in readable.definitions.items() if config.features is None or n in config.features},
        "models": sorted(readable.models),
        "outliers": [sorted(params.items()) for params in readable.outliers],
    }
    return {
        "per": config.per,
        "target": str(config.target),
        "looks": looks.fingerprint,
        "seed": str(ctx.config.seed),
        "lake": fingerprint(seen),
    }


# -- labels --------------------------------------------------------------------------------------------


def _label(
    ctx: Context,
    asked: Mapping[str, tuple[AttributeConfig, Looks]],
    readable: _Readable,
    params: Mapping[str, dict[str, str]],
) -> None:
    began = time.monotonic()
    outliers = ctx.lake.consensus_outliers()
    most = most_rows(list(readable.widths.values()))
    taught = {
        name: learning(ctx, looks, config.per == "vehicle", outliers, most, ctx.config.seed)
        for name, (config, looks) in asked.items()
    }
    sources = _sources(ctx, asked, taught, readable)
    choices = {}
    for name, (config, _) in asked.items():
        known = taught[name].known
        if not sources[name]:
            named = ", ".join(config.features or [])
            log.warning("label: %s: none of its feature sets is in the lake%s", name, f": {named}" if named else "")
            continue
        if len(np.unique(known.values)) < 2 or len(np.unique(known.vehicles)) < 2:
            log.warning(
                "label: %s: without outliers, the photos looked at show one value or one vehicle alone: look at more",
                name,
            )
            continue
        with timed(f"label: {name}: comparing ways on {counted(len(taught[name].ids), 'photo')} of known value"):
            choices[name] = compare(known, sources[name], ctx.config.seed, config.target)
        _tell(name, choices[name], config)
    _forget(ctx, {name for name in asked if name not in choices} & set(_stored(ctx)))
    if not choices:
        return
    labellers = [_labeller(name, choice, *asked[name]) for name, choice in choices.items()]
    needed = {part.source for who in labellers for part in who.parts}
    frames: dict[str, DataFrame] = {}
    for source in sorted(needed):
        if source in readable.definitions:
            frames[source] = ctx.lake.read("features", features=source)
        else:
            frames[source] = ctx.lake.read("labels", model_id=source)
    answers = answers_of_images(ctx, [asked[name][1] for name in choices])
    labels = label_images(ctx.lake.read("images"), frames, labellers, answers, outliers)
    names = list(choices)
    with timed(f"label: labelling all images by {', '.join(names)}"):
        ctx.lake.replace("image_labels", labels, {"attribute": names}, ctx.values(len(labels.columns) * len(names)))
    counts = count_labels(ctx.lake.read("image_labels", attribute=names))
    seconds = (time.monotonic() - began) / len(names)
    rows = [
        _row(who, choices[who.attribute], *asked[who.attribute], counts[who.attribute], readable)
        | {"params": params[who.attribute], "seconds": seconds}
        for who in labellers
    ]
    ctx.lake.replace_rows("label_sets", rows, {"attribute": names})
    for name in names:
        n, good = counts[name].n, counts[name].accepted
        log.info(
            "label: %s: %s of %s photos are accepted, %s are left for people",
            name,
            f"{good:,}",
            f"{n:,}",
            f"{n - good:,}",
        )


def _sources(
    ctx: Context,
    asked: Mapping[str, tuple[AttributeConfig, Looks]],
    taught: Mapping[str, Learning],
    readable: _Readable,
) -> dict[str, dict[tuple[str, str], Source]]:
    """What is known of the photos to learn from, by attribute and source."""
    found: dict[str, dict[tuple[str, str], Source]] = {name: {} for name in asked}

    def may(name: str, features: str) -> bool:
        allowed = asked[name][0].features
        return allowed is None or features in allowed

    models = [m for m, features in readable.models.items() if any(may(name, features) for name in asked)]
    for name, clusters in cluster_sources(ctx, models, {n: t.ids for n, t in taught.items()}).items():
        found[name] |= {key: s for key, s in clusters.items() if may(name, readable.models[key[0]])}
    sample = sample_vehicles(ctx)
    for features in readable.definitions:
        wanted = {name: t.ids for name, t in taught.items() if may(name, features)}
        if wanted:
            for name, vectors in vector_sources(ctx, features, wanted, sample).items():
                found[name] |= vectors
    return found


def _labeller(name: str, choice: Choice, config: AttributeConfig, looks: Looks) -> Labeller:
    return Labeller(
        name,
        looks.values,
        choice.parts,
        choice.calibration,
        choice.threshold,
        config.per == "vehicle",
        choice.members[0][0].way,
    )


def _tell(name: str, choice: Choice, config: AttributeConfig) -> None:
    best = choice.members[0][0]
    log.info(
        "label: %s: %s right (%s to %s) on %s that were held out, by %s on %s%s",
        name, percent(choice.accuracy), percent(choice.low), percent(choice.high),
        f"{choice.n_units:,} {'vehicles' if config.per == 'vehicle' else 'photos'}", best.way,
        ", ".join(best.features), f" and {len(choice.members) - 1} more" if len(choice.members) > 1 else "",
    )  # fmt: skip


def _row(
    who: Labeller,
    choice: Choice,
    config: AttributeConfig,
    looks: Looks,
    counts: LabelCounts,
    readable: _Readable,
) -> dict[str, Any]:
    """A row of ``label_sets``."""
    members = [c for c, _ in choice.members]
    return {
        "attribute": who.attribute,
        "method": who.method,
        "features": sorted({readable.models.get(f, f) for c in members for f in c.features}),
        "per": config.per,
        "target": config.target,
        "classes": list(who.values),
        "n_looks": len(looks.usable),
        "n_unclear": looks.n_unclear,
        "n_disagreed": looks.n_disagreed,
        "accuracy": choice.accuracy,
        "accuracy_low": choice.low,
        "accuracy_high": choice.high,
        "threshold": choice.threshold,
        **counts.columns,
        "candidates": [
            {
                "method": m.candidate.way,
                "sources": list(m.candidate.features),
                "number": m.candidate.number,
                "accuracy": m.accuracy,
                "log_loss": m.log_loss,
            }
            for m in choice.candidates
        ],
        "curve": [{"looks": looks_, "accuracy": accuracy} for looks_, accuracy in choice.curve],
        "confusion": [
            {"value": a, "label": b, "n": float(choice.confusion[i, j])}
            for i, a in enumerate(who.values)
            for j, b in enumerate(who.values)
            if choice.confusion[i, j]
        ],
        "program": program_rows(who.parts, who.calibration, who.threshold),
    }
