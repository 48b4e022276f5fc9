"""Values of attributes for all images: scores in Spark tasks, the vote of vehicles, and what is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.special import log_softmax

from motorpool.features.vehicle_steps import own_vehicle
from motorpool.kernels.labels.calibration import Calibration
from motorpool.kernels.labels.votes import shared
from motorpool.labelling.candidates import Part
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

LABELS = "image_id BIGINT, attribute STRING, value STRING, probability FLOAT, accepted BOOLEAN, source STRING"
_SCORES = "image_id BIGINT, vehicle STRING, source INT, scores ARRAY<DOUBLE>"
_IMAGES = "image_id BIGINT, vehicle STRING, scores ARRAY<DOUBLE>"


@dataclass(frozen=True)
class Labeller:
    """What labels one attribute: its values, the fitted parts, and how scores become probabilities.

    ``vote``: the photos of a vehicle vote. ``threshold`` None accepts no label but those of people. ``method`` names
    the way for photos that do not vote.
    """

    attribute: str
    values: tuple[str, ...]
    parts: Sequence[Part] = field(repr=False)
    calibration: Calibration
    threshold: float | None
    vote: bool
    method: str


def label_images(
    images: DataFrame,
    sources: Mapping[str, DataFrame],
    labellers: Sequence[Labeller],
    answers: DataFrame,
    outliers: DataFrame,
) -> DataFrame:
    """One row per image and attribute, as LABELS.

    ``images`` has ``image_id, vehicle_id``. ``sources`` have ``image_id`` and either ``vector`` or ``cluster``, by the
    names that the parts of ``labellers`` read; an image that a source lacks counts as an average one there. ``answers``
    is ``image_id, attribute, code, own``: what people said of a photo (``own``) or of another photo of its vehicle, a
    photo and attribute once; ``code`` INT is the value's position, -1 where people cannot tell it, -2 where they
    disagree.
    ``outliers`` has ``image_id`` of images that are not accepted and do not vote.

    Every source is read once, by one pass that takes the scores of all attributes; only scores are shuffled, 8 bytes
    for each value, image and source, once by image and once by vehicle. Memory of a task: some Arrow batches.
    """
    columns = _columns(labellers)
    width = sum(len(c.values) for c in labellers)
    names = list(sources)
    base = images.select(
        "image_id",
        own_vehicle().alias("vehicle"),
        F.lit(-1).alias("source"),
        F.array().cast("array<double>").alias("scores"),
    )
    scored = [_scores(sources[name], at, name, labellers, columns, width) for at, name in enumerate(names)]
    rows = reduce(DataFrame.unionByName, scored, base)
    one = _by_image(rows, names, labellers, columns, width)
    odd = outliers.select("image_id", F.lit(True).alias("outlier"))
    marked = one.join(odd, on="image_id", how="left").withColumn("outlier", F.coalesce("outlier", F.lit(False)))
    voted = _voted(marked, labellers, columns, width)
    by_image = answers.groupBy("image_id").agg(
        F.map_from_entries(F.collect_list(F.struct("attribute", F.struct("code", "own")))).alias("answers")
    )
    known = voted.join(by_image, on="image_id", how="left")
    codes = [F.col("answers")[c.attribute] for c in labellers]
    return known.select(
        "image_id",
        "scores",
        "outlier",
        F.array(*(F.coalesce(code["code"], F.lit(-3)) for code in codes)).alias("codes"),
        F.array(*(F.coalesce(code["own"], F.lit(False)) for code in codes)).alias("own"),
    ).mapInArrow(_decide(labellers, columns), LABELS)


def _columns(labellers: Sequence[Labeller]) -> list[slice]:
    """Where each attribute's values lie in the scores."""
    ends = np.cumsum([0, *(len(c.values) for c in labellers)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def _scores(
    frame: DataFrame, at: int, name: str, labellers: Sequence[Labeller], columns: Sequence[slice], width: int
) -> DataFrame:
    """The scores by one source's parts, all attributes side by side."""
    column = "vector" if "vector" in frame.columns else "cluster"
    parts = [(c, part) for c, who in zip(columns, labellers, strict=True) for part in who.parts if part.source == name]

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if not len(batch):
                continue
            rows = (
                blocks.to_matrix(batch.column(column))
                if column == "vector"
                else batch.column(column).to_numpy(zero_copy_only=False)
            )
            found = np.zeros((len(batch), width))
            for where, part in parts:
                found[:, where] += part.scores(rows)
            yield _pack(batch.column("image_id"), pa.nulls(len(batch), pa.string()), found, at)

    return frame.select("image_id", column).mapInArrow(run, _SCORES)


def _pack(ids: pa.Array, vehicles: pa.Array, scores: np.ndarray, source: int | None = None) -> pa.RecordBatch:
    width = scores.shape[1]
    offsets = pa.array(np.arange(0, (len(ids) + 1) * width, width, dtype=np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(scores).ravel()))
    columns, names = [ids, vehicles, lists], ["image_id", "vehicle", "scores"]
    if source is not None:
        columns.insert(2, pa.array(np.full(len(ids), source, np.int32)))
        names.insert(2, "source")
    return pa.RecordBatch.from_arrays(columns, names=names)


def _by_image(
    rows: DataFrame, names: Sequence[str], labellers: Sequence[Labeller], columns: Sequence[slice], width: int
) -> DataFrame:
    """The log probabilities of all attributes, one row per image of the base; sources that lack it count as average."""
    unknown = np.zeros((len(names), width))
    for where, who in zip(columns, labellers, strict=True):
        for part in who.parts:
            unknown[names.index(part.source), where] += part.unknown()
    total = unknown.sum(axis=0)

    def finish(batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = batch.column("image_id").to_numpy()
        source = batch.column("source").to_numpy()
        base = source < 0
        starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
        place = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ids))))
        scores = np.tile(total, (len(starts), 1))
        given = batch.column("scores").flatten().to_numpy().reshape(-1, width)
        np.add.at(scores, place[~base], given - unknown[source[~base]])
        for where in columns:
            scores[:, where] = log_softmax(scores[:, where], axis=1)
        # A source may hold images that are not among the lake's.
        here = np.zeros(len(starts), bool)
        here[place[base]] = True
        vehicles = batch.column("vehicle").filter(pa.array(base))
        return _pack(pa.array(ids[starts][here]), vehicles, scores[here])

    def run(batches: Batches) -> Batches:
        for whole in _whole_images(batches):
            yield finish(whole)

    ordered = rows.repartition("image_id").sortWithinPartitions("image_id", "source")
    return ordered.mapInArrow(run, _IMAGES)


def _whole_images(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Batches anew, so that all rows of an image, which come in a row, are in one of them."""
    rest: pa.RecordBatch | None = None
    for batch in batches:
        if not len(batch):
            continue
        joined = batch if rest is None else pa.concat_batches([rest, batch])
        ids = joined.column("image_id").to_numpy()
        cut = int(np.searchsorted(ids, ids[-1]))
        if cut:
            yield joined.slice(0, cut)
        rest = joined.slice(cut)
    if rest is not None:
        yield rest


def _voted(one: DataFrame, labellers: Sequence[Labeller], columns: Sequence[slice], width: int) -> DataFrame:
    """The scores of images; those of attributes of vehicles are their vehicle's. Outliers have no vote."""
    votes = [i for c, who in zip(columns, labellers, strict=True) if who.vote for i in range(c.start, c.stop)]
    if not votes:
        return one
    sums = one.groupBy("vehicle").agg(
        F.count_if(~F.col("outlier")).alias("photos"),
        *(F.sum(F.when(F.col("outlier"), 0.0).otherwise(F.col("scores")[i])).alias(f"s{i}") for i in votes),
    )
    sums = sums.select("vehicle", "photos", F.array(*(f"s{i}" for i in votes)).alias("sums"))
    at = np.array(votes)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                scores = batch.column("scores").flatten().to_numpy().reshape(-1, width).copy()
                found = batch.column("sums").flatten().to_numpy().reshape(-1, len(at))
                scores[:, at] = shared(found, batch.column("photos").to_numpy())
                packed = _pack(batch.column("image_id"), batch.column("vehicle"), scores)
                yield packed.append_column("outlier", batch.column("outlier"))

    return one.join(sums, on="vehicle", how="inner").mapInArrow(run, f"{_IMAGES}, outlier BOOLEAN")


def _decide(labellers: Sequence[Labeller], columns: Sequence[slice]) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            n = len(batch)
            if not n:
                continue
            scores = batch.column("scores").flatten().to_numpy().reshape(n, -1)
            codes = batch.column("codes").flatten().to_numpy().reshape(n, -1)
            own = batch.column("own").flatten().to_numpy(zero_copy_only=False).reshape(n, -1)
            outlier = batch.column("outlier").to_numpy(zero_copy_only=False)
            for at, (where, who) in enumerate(zip(columns, labellers, strict=True)):
                yield _labels(who, batch.column("image_id"), scores[:, where], codes[:, at], own[:, at], outlier)

    return run


def _labels(
    who: Labeller, ids: pa.Array, scores: np.ndarray, answers: np.ndarray, own: np.ndarray, outlier: np.ndarray
) -> pa.RecordBatch:
    """Labels of one attribute: what people said first, then the likeliest value."""
    probabilities = who.calibration.probabilities(scores)
    code = probabilities.argmax(axis=1)
    top = probabilities.max(axis=1)
    answered, unclear, disagreed = answers >= 0, answers == -1, answers == -2
    code = np.where(answered, answers, code)
    top = np.where(answered, 1.0, top)
    enough = top >= who.threshold if who.threshold is not None else np.zeros(len(top), bool)
    accepted = (answered | enough) & ~outlier & ~unclear & ~disagreed
    machine = "vehicle" if who.vote else who.method
    source = np.where((answered | unclear) & own, "person", np.where(answered, "vehicle", machine))
    return pa.RecordBatch.from_arrays(
        [
            ids,
            pa.array([who.attribute] * len(ids)),
            pa.array(np.array([*who.values], object)[code], pa.string(), mask=unclear),
            pa.array(top.astype(np.float32), mask=unclear),
            pa.array(accepted),
            pa.array(source.astype(object), pa.string()),
        ],
        names=["image_id", "attribute", "value", "probability", "accepted", "source"],
    )
