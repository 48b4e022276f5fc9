"""Appended images get what the lake holds of the others: vectors, labels and values of attributes.

Each append is treated as `motorpool assign` treats a case: by what the lake has stored, photos of a vehicle beside the
others of the same append. Rows of one append and feature set, model or attribute come in one write, so whatever has
some of them has all, and the rest is made by whoever looks next.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import reduce, wraps

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.stored import StoredModel
from motorpool.errors import ConfigError
from motorpool.features.fit import transform
from motorpool.features.vehicle_steps import Vehicles
from motorpool.labelling.apply import Labeller, label_images
from motorpool.lake import Lake
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import Append, appends_of, number_of
from motorpool.pipeline.labelling.counts import count_labels
from motorpool.pipeline.labelling.stored import nobody, stored_labellers
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import load_program, wide_descriptors
from motorpool.pipeline.stored_models import label_new, load_model, relabels
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Models whose labels are written together.
_MODELS_AT_ONCE = 16

Stage = Callable[[Context], None]


def caught_up(stage: Stage, *steps: Stage) -> Stage:
    """A stage, and then what gives appended images their rows of it."""

    @wraps(stage)
    def both(ctx: Context) -> None:
        stage(ctx)
        for step in steps:
            step(ctx)

    return both


def lacking(lake: Lake, table: str, key: str, wanted: Sequence[str]) -> Iterator[tuple[Append, list[str]]]:
    """The appends of which some of the ``wanted`` values of ``key`` have no row in a table, with these, in order."""
    appends = appends_of(lake)
    if not appends or not wanted:
        return
    rows = lake.read_or_empty(table).where(F.col("image_id") >= appends[0].images.start)
    found = rows.select(key, number_of(appends).alias("append_id")).distinct().collect()
    there = {(r["append_id"], r[key]) for r in found}
    for append in appends:
        missing = [value for value in wanted if (append.append_id, value) not in there]
        if missing:
            yield append, missing


# -- vectors -------------------------------------------------------------------------------------------


def add_features(ctx: Context) -> None:
    """Give appended images their vectors of every feature set, by the program that the lake keeps."""
    lake = ctx.lake
    rows = lake.rows("feature_sets", ["features", "descriptors", "n_features"])
    sets = {str(r["features"]): r for r in sorted(rows, key=lambda r: str(r["features"]))}
    for append, missing in lacking(lake, "features", "features", list(sets)):
        with explained(), timed(f"append: {counted(len(missing), 'feature set')} of append {append.append_id}"):
            vehicles = None
            for name in missing:
                program = load_program(lake, name)
                if program.of_vehicles and vehicles is None:
                    vehicles = Vehicles.of(append.among(lake.read("images")))
                wide = wide_descriptors(lake, program.descriptors, append.among, program.group_columns)
                vectors = transform(wide, program, vehicles if program.of_vehicles else None)
                values = len(append.images) * (int(sets[name]["n_features"]) + 2)
                named = vectors.withColumn("features", F.lit(name))
                lake.replace_images("features", named, append.images, {"features": [name]}, values)


# -- labels --------------------------------------------------------------------------------------------


def labelling_models(lake: Lake) -> tuple[dict[str, StoredModel], Counter[str]]:
    """The models that label new images, by id, and how many with labels do not, by their algorithm.

    Driver memory: the stored arrays.
    """
    models: dict[str, StoredModel] = {}
    others: Counter[str] = Counter()
    if not lake.exists("models"):
        return models, others
    columns = ["model_id", "algorithm", "params", "n_clusters", "n_noise", "status"]
    for row in sorted(lake.rows("models", columns), key=lambda r: str(r["model_id"])):
        if row["status"] == "failed" or not (row["n_clusters"] or 0) + (row["n_noise"] or 0):
            continue
        if not relabels(row["algorithm"], row["params"]):
            others[row["algorithm"]] += 1
            continue
        try:
            models[row["model_id"]] = load_model(lake, row["model_id"], f"model {row['model_id']}")
        except ConfigError:
            # It puts all images into one cluster, or none, and so has no labels.
            log.debug("append: model %s has no labels to give", row["model_id"])
    return models, others


def add_labels(ctx: Context) -> None:
    """Give appended images their labels by every model that labels new images."""
    lake = ctx.lake
    if not appends_of(lake):
        return
    models, _ = labelling_models(lake)
    for append, missing in lacking(lake, "labels", "model_id", list(models)):
        with explained(), timed(f"append: labels by {counted(len(missing), 'model')} of append {append.append_id}"):
            by_features: dict[str, list[StoredModel]] = defaultdict(list)
            for model_id in missing:
                by_features[models[model_id].features].append(models[model_id])
            for features, own in sorted(by_features.items()):
                with blocks.kept(append.among(lake.read("features", features=features))) as vectors:
                    if vectors.isEmpty():
                        log.info("append: %s has no vectors of append %s", features, append.append_id)
                        continue
                    for at in range(0, len(own), _MODELS_AT_ONCE):
                        _label(ctx, append, vectors.select("image_id", "vector"), own[at : at + _MODELS_AT_ONCE])


def _label(ctx: Context, append: Append, vectors: DataFrame, models: Sequence[StoredModel]) -> None:
    with ExitStack() as stack:
        frames = []
        for model in models:
            rows = label_new(ctx.lake, model, vectors)
            stack.callback(rows.unpersist)
            unknown = F.lit(None).cast("float").alias("outlier_score")
            frames.append(rows.select(F.lit(model.model_id).alias("model_id"), *rows.columns, unknown))
        labels = reduce(DataFrame.unionByName, frames)
        values = len(append.images) * len(labels.columns) * len(models)
        ctx.lake.replace_images("labels", labels, append.images, {"model_id": [m.model_id for m in models]}, values)


# -- attributes ----------------------------------------------------------------------------------------


def add_attributes(ctx: Context) -> None:
    """Give appended images a value of every attribute that the lake has labels of, by the program that it keeps.

    Photos of a vehicle vote with the others of their append. What people have said of appended photos counts from the
    next `motorpool label` on, which learns from it.
    """
    lake = ctx.lake
    if not appends_of(lake):
        return
    labellers = {who.attribute: who for who in stored_labellers(lake)}
    done: set[str] = set()
    for append, missing in lacking(lake, "image_labels", "attribute", list(labellers)):
        with explained(), timed(f"append: {', '.join(missing)} of append {append.append_id}"):
            asked = [labellers[name] for name in missing]
            labels = label_images(
                append.among(lake.read("images")),
                _sources(lake, append, asked),
                asked,
                nobody(ctx.spark),
                append.among(lake.consensus_outliers()),
            )
            values = len(append.images) * len(labels.columns) * len(asked)
            lake.replace_images("image_labels", labels, append.images, {"attribute": missing}, values)
            done |= set(missing)
    if done or any(not a.finished for a in appends_of(lake)):
        _count_anew(lake, sorted(labellers))


def _sources(lake: Lake, append: Append, labellers: Sequence[Labeller]) -> Mapping[str, DataFrame]:
    """What the parts of labellers read of an append's images: clusters of models, vectors of feature sets."""
    frames = {}
    for part in (part for who in labellers for part in who.parts):
        table, key = ("labels", "model_id") if part.kind == "table" else ("features", "features")
        frames[part.source] = append.among(lake.read(table, **{key: part.source}))
    return frames


def _count_anew(lake: Lake, attributes: Sequence[str]) -> None:
    """Bring the numbers of images and of accepted labels in ``label_sets`` to what ``image_labels`` holds."""
    if not attributes:
        return
    counts = count_labels(lake.read("image_labels", attribute=list(attributes)))
    rows = lake.rows("label_sets", attribute=attributes)
    changed = []
    for row in rows:
        counted = counts[row["attribute"]].columns
        if any(row[name] != value for name, value in counted.items()):
            changed.append(row | counted)
    if changed:
        lake.replace_rows("label_sets", changed, {"attribute": [str(r["attribute"]) for r in changed]})


# -- all of it -----------------------------------------------------------------------------------------


def finish(ctx: Context) -> None:
    """Note that the appends' images have everything; to be called when they do."""
    now = datetime.now(UTC)
    rows = [dict(a.row) | {"finished_at": now} for a in appends_of(ctx.lake) if not a.finished]
    if rows:
        ctx.lake.replace_rows("appends", rows, {"append_id": [str(r["append_id"]) for r in rows]})
