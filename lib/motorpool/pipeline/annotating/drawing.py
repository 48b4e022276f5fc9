"""Draw: which photos people look at, as a CSV file whose column ``value`` they fill in."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from motorpool.errors import ConfigError, LakeError
from motorpool.kernels.labels.audit import allocate
from motorpool.kernels.labels.typical import typical_rows
from motorpool.lake import Lake
from motorpool.pipeline.annotating.attributes import check_name
from motorpool.pipeline.annotating.population import images_of, looked_at, shuffled, untaught, without_outliers
from motorpool.pipeline.context import explained
from motorpool.pipeline.labelling.sources import vectors_of
from motorpool.pipeline.output.files import whole_file

log = logging.getLogger(__name__)

COLUMNS = ("path", "attribute", "value", "suggested", "why", "draw", "purpose", "stratum", "weight")
#: Photos of which typical ones are found, and a bound on their float32 numbers (128 MiB).
_SAMPLE, _VALUES = 20_000, 32 * 2**20
#: Photos looked at already that typical ones keep away from, at most.
_KNOWN = 2_000
#: Of a vehicle so many photos are drawn at most, and only where there are not enough vehicles.
_ROUNDS = 20


@dataclass(frozen=True)
class Look:
    """A photo to look at: a line of the file."""

    image_id: int
    path: str
    why: str
    suggested: str = ""
    stratum: str = ""
    weight: float | None = None


@dataclass(frozen=True)
class Drawn:
    """The id of the draw, its photos, and what the person who drew should know."""

    draw: str
    looks: list[Look]
    notes: list[str]


def check_attributes(attributes: Sequence[str]) -> None:
    """ConfigError for a name that no attribute can have, or that stands twice."""
    for at, attribute in enumerate(attributes):
        check_name(attribute)
        if attribute in attributes[:at]:
            raise ConfigError(f"--attribute {attribute}: is given twice")


def draw(lake: Lake, attribute: str, n: int, purpose: str, seed: int, features: Sequence[str] | None = None) -> Drawn:
    """At most ``n`` photos that nobody has looked at for this attribute; the same for the same lake and seed.

    ``train``: typical photos of the vehicles that nobody has looked at, one of each; once there are labels, half of the
    photos are those whose labels are least sure. Where vehicles run out, further photos of them follow. Typical is what
    is typical in ``features`` side by side, each of the same weight; by default one feature set of every descriptor:
    whitened within vehicles, or else that of the best model. ``audit``: a random sample of the accepted labels (of all,
    where none is accepted but those of vehicles that labels were learned from; of all images, where there are no
    labels), one photo of each vehicle that nobody has looked at, stratified by value. Driver memory: a sample of at
    most 20,000 vectors, and the photos drawn.

    LakeError where no photo is left.
    """
    with explained():
        chosen, notes = (_for_audit if purpose == "audit" else _for_training)(lake, attribute, n, seed, features)
    if not chosen:
        raise LakeError(
            f"no photo is left for {attribute}: "
            + ("every vehicle has been looked at" if purpose == "audit" else "every photo has been looked at")
        )
    if len(chosen) < n:
        notes.append(f"{len(chosen):,} photos instead of {n:,}: no more are left")
    content = json.dumps([attribute, purpose, seed, [look.image_id for look in chosen]])
    mark = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Drawn(f"{purpose}-{labels_mark(lake, attribute)}-{mark}", chosen, notes)


def labels_mark(lake: Lake, attribute: str) -> str:
    """A name for the labels of an attribute as they are now: all that they depend on, hashed."""
    rows = lake.rows("label_sets", ["params"], attribute=[attribute])
    if not rows:
        return "unlabelled"
    return hashlib.sha256(json.dumps(sorted(dict(rows[0]["params"] or {}).items())).encode()).hexdigest()[:10]


def write_looks(drawn: Mapping[str, Drawn], purpose: str, out: Path) -> None:
    """The CSV file of the draws by attribute, whole or not at all. ConfigError where it cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for attribute, part in drawn.items():
        for look in part.looks:
            weight = "" if look.weight is None else repr(look.weight)
            row = (look.path, attribute, "", look.suggested, look.why, part.draw, purpose, look.stratum, weight)
            writer.writerow(row)
    with whole_file(out) as f:
        f.write(text.getvalue().encode())


# -- training ------------------------------------------------------------------------------------------


def _for_training(
    lake: Lake, attribute: str, n: int, seed: int, features: Sequence[str] | None
) -> tuple[list[Look], list[str]]:
    labelled = _labels(lake, attribute)
    n_unsure = n // 2 if labelled is not None else 0
    free = _free(lake, attribute, seed)
    names = features or _features(lake)
    typical, vehicles = _typical(lake, free, attribute, names, n - n_unsure, seed)
    looks = list(typical)
    if labelled is not None:
        looks += _unsure(free, labelled, n - len(looks), vehicles, seed)
        looks = _suggest(looks, labelled)
    where = f"feature sets {', '.join(names)} side by side" if len(names) > 1 else f"feature set {names[0]}"
    return looks, [f"typical photos are those of the {where}"]


def _labels(lake: Lake, attribute: str) -> DataFrame | None:
    """``image_id, value, probability, accepted, source`` of an attribute; None where it has no labels."""
    if not lake.rows("label_sets", ["attribute"], attribute=[attribute]):
        return None
    return lake.read("image_labels", attribute=attribute).drop("attribute")


def _free(lake: Lake, attribute: str, seed: int) -> DataFrame:
    """``image_id, path, vehicle, round``: photos to learn from that nobody has looked at.

    ``round`` counts the photos of a vehicle in random order, behind those looked at: 0 is the first of its vehicle.
    Vehicles that are kept aside for audits are left out.
    """
    seen = looked_at(lake, attribute)
    of_vehicle = seen.groupBy("vehicle").agg(F.count("*").alias("n"), F.bool_or("audited").alias("audited"))
    free = without_outliers(lake, images_of(lake)).join(seen.select("image_id"), on="image_id", how="left_anti")
    order = Window.partitionBy("vehicle").orderBy(shuffled(seed), "image_id")
    before = F.coalesce("n", F.lit(0))
    return (
        free.join(of_vehicle, on="vehicle", how="left")
        .where(~F.coalesce("audited", F.lit(False)))
        .select("image_id", "path", "vehicle", (F.row_number().over(order) - 1 + before).alias("round"))
        .where(F.col("round") < _ROUNDS)
    )


def _features(lake: Lake) -> list[str]:
    """One feature set of every descriptor: whitened within vehicles if there is one, or else that of the best model.

    Feature sets of several descriptors count where a descriptor has none of its own.
    """
    lake.check("feature_sets")
    sets = {r["features"]: r for r in lake.rows("feature_sets", ["features", "descriptors", "steps"])}
    if not sets:
        raise LakeError(f"the lake {lake} has no feature sets: run `motorpool features` first")
    rank: dict[str, int] = {}
    if lake.exists("models"):
        best = lake.leaderboard().groupBy("features").agg(F.min("rank").alias("rank")).collect()
        rank = {r["features"]: r["rank"] for r in best}

    def order(name: str) -> tuple[bool, float, str]:
        whitened = any(step.startswith("vehicle_whiten") for step in sets[name]["steps"] or ())
        return not whitened, rank.get(name, math.inf), name

    first: dict[frozenset[str], str] = {}
    for name in sorted(sets, key=order):
        first.setdefault(frozenset(sets[name]["descriptors"]), name)
    alone = frozenset().union(*(of for of in first if len(of) == 1))
    return sorted(name for of, name in first.items() if len(of) == 1 or not of <= alone)


def _typical(
    lake: Lake, free: DataFrame, attribute: str, features: Sequence[str], n: int, seed: int
) -> tuple[list[Look], set[str]]:
    """Typical photos, and their vehicles."""
    width = {r["features"]: r["n_features"] for r in lake.rows("feature_sets", ["features", "n_features"])}
    for name in features:
        if name not in width:
            raise ConfigError(f"feature set {name}: the lake has {', '.join(sorted(width)) or 'no feature sets'}")
    most = max(n, min(_SAMPLE, _VALUES // max(1, sum(width[name] for name in features))))
    sample = free.orderBy("round", shuffled(seed + 1), "image_id").limit(most).toArrow().sort_by("image_id")
    parts, there = _vectors(lake, features, sample.column("image_id").to_numpy())
    rows, scales = sample.filter(pa.array(there)), [_scale(part) for part in parts]
    x = _side_by_side(parts, scales)
    known = _learned(lake, attribute, features, seed) if lake.exists("annotations") else None
    y = _side_by_side(known, scales) if known is not None else None
    turn = rows.column("round").to_numpy()
    looks: list[Look] = []
    vehicles: set[str] = set()
    for number in np.unique(turn):
        part = np.flatnonzero(turn == number)
        chosen, stands_for = typical_rows(x[part], n - len(looks), seed, y)
        for row, like in zip(part[chosen].tolist(), stands_for.tolist(), strict=True):
            image_id, path = (rows.column(c)[row].as_py() for c in ("image_id", "path"))
            looks.append(Look(image_id, path, f"typical of {like:,} photos" if like > 1 else "typical"))
            vehicles.add(rows.column("vehicle")[row].as_py())
        if len(looks) >= n:
            break
    return looks, vehicles


def _learned(lake: Lake, attribute: str, features: Sequence[str], seed: int) -> list[np.ndarray] | None:
    """Vectors float32[k, d] in each feature set of photos that labels are learned from, a random part of very many.

    None without any.
    """
    seen = looked_at(lake, attribute).where("trained").select("image_id").orderBy(shuffled(seed), "image_id")
    ids = np.sort(seen.limit(_KNOWN).toArrow().column("image_id").to_numpy())
    parts, there = _vectors(lake, features, ids)
    return parts if there.any() else None


def _vectors(lake: Lake, features: Sequence[str], ids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Vectors float32[m, d] in each feature set of the images, ascending ``ids``, that have all; bool[n]: which do."""
    found = [vectors_of(lake, name, ids) for name in features]
    there = np.all([np.isfinite(x).all(axis=1) for x in found], axis=0)
    return [x[there] for x in found], there


def _scale(x: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean of the rows, and the root of the variance of all columns together; 1 where nothing varies."""
    if not len(x):
        return np.zeros(x.shape[1]), 1.0
    mean = x.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(np.mean(((x - mean) ** 2).sum(axis=1))))
    return mean, spread or 1.0


def _side_by_side(parts: Sequence[np.ndarray], scales: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """float32[n, d of all]: the parts beside each other, each centred and divided by its spread."""
    placed = [(x - mean) / spread for x, (mean, spread) in zip(parts, scales, strict=True)]
    return np.hstack(placed).astype(np.float32)


def _unsure(free: DataFrame, labelled: DataFrame, n: int, taken: set[str], seed: int) -> list[Look]:
    """Photos whose labels are least sure, one of each vehicle that is not taken."""
    by_doubt = Window.partitionBy("vehicle").orderBy("probability", shuffled(seed), "image_id")
    rows = (
        free.join(labelled.where("source <> 'person'"), on="image_id", how="inner")
        .withColumn("place", F.row_number().over(by_doubt))
        .where("place = 1")
        .orderBy(F.col("round") > 0, "probability", shuffled(seed), "image_id")
        .limit(n + len(taken))
        .collect()
    )
    looks = [
        Look(r["image_id"], r["path"], f"unsure: {r['probability']:.0%}") for r in rows if r["vehicle"] not in taken
    ]
    return looks[:n]


def _suggest(looks: Sequence[Look], labelled: DataFrame) -> list[Look]:
    values = _values_of(labelled, (look.image_id for look in looks))
    return [replace(look, suggested=values.get(look.image_id, "")) for look in looks]


def _values_of(labelled: DataFrame, ids: Iterable[int]) -> dict[int, str]:
    spark = labelled.sparkSession
    wanted = spark.createDataFrame(pa.table({"image_id": pa.array(list(ids), pa.int64())}))
    rows = labelled.join(F.broadcast(wanted), on="image_id", how="inner").select("image_id", "value").collect()
    return {r["image_id"]: r["value"] or "" for r in rows}


# -- audits --------------------------------------------------------------------------------------------


def _for_audit(
    lake: Lake, attribute: str, n: int, seed: int, features: Sequence[str] | None
) -> tuple[list[Look], list[str]]:
    """Two phases: one random photo of every vehicle, then a random sample of these in each stratum."""
    if features is not None:
        raise ConfigError("--features chooses typical photos, and an audit draws at random: leave it out")
    population, of = _population(lake, attribute)
    seen = looked_at(lake, attribute).select("vehicle").distinct()
    fresh = population.join(seen, on="vehicle", how="left_anti")
    of_vehicle = Window.partitionBy("vehicle")
    one = (
        fresh.withColumn("photos", F.count("*").over(of_vehicle))
        .withColumn("place", F.row_number().over(of_vehicle.orderBy(shuffled(seed), "image_id")))
        .where("place = 1")
    )
    sizes = {r["value"]: int(r["count"]) for r in one.groupBy("value").count().orderBy("value").collect()}
    parts = dict(zip(sizes, allocate(np.array(list(sizes.values()), np.int64), n).tolist(), strict=True))
    stratum = Window.partitionBy("value").orderBy(shuffled(seed + 1), "image_id")
    wanted = F.create_map(*(F.lit(x) for item in parts.items() for x in item)) if parts else F.lit(None)
    rows = (
        one.withColumn("place", F.row_number().over(stratum))
        .where(F.col("place") <= wanted[F.col("value")])
        # Strata side by side would tell those who look what the label is.
        .orderBy(shuffled(seed + 2), "image_id")
        .collect()
        if parts
        else []
    )
    number = {value: str(i + 1) for i, value in enumerate(sizes)}
    looks = [
        Look(
            r["image_id"],
            r["path"],
            "random",
            stratum=number[r["value"]],
            weight=r["photos"] * sizes[r["value"]] / parts[r["value"]],
        )
        for r in rows
    ]
    return looks, [f"a sample of {of}, one photo of each of {sum(sizes.values()):,} vehicles that nobody has looked at"]


def _population(lake: Lake, attribute: str) -> tuple[DataFrame, str]:
    """``image_id, path, vehicle, value`` of the images that an audit is of, and what they are."""
    if _labels(lake, attribute) is None:
        images = without_outliers(lake, images_of(lake))
        return images.withColumn("value", F.lit("")), "all images, since there are no labels"
    labels = untaught(lake, attribute)
    accepted = labels.where("accepted")
    if accepted.isEmpty():
        return labels, "all labels, since accepted are only those of vehicles that people have looked at"
    return accepted, "the accepted labels"
