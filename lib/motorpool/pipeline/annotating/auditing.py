"""Audit: how often labels are right, from the photos that were drawn for it: rows of ``audits``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.errors import LakeError
from motorpool.kernels.labels.audit import Looks, accuracy_of, verdict
from motorpool.lake import Lake
from motorpool.pipeline.annotating.drawing import labels_mark
from motorpool.pipeline.annotating.population import images_of, looked_at, untaught
from motorpool.pipeline.context import explained

#: Why a look does not count, and the words for it.
_REASONS = {
    "disagreed": "on {n} photos people disagree",
    "unclear": "on {n} photos it cannot be told",
    "learned": "{n} photos show vehicles that labels were learned from",
    "other": "{n} photos have a label that is not accepted",
    "unweighted": "{n} photos were not drawn by `motorpool annotate draw`, and so say nothing about the others",
}


@dataclass(frozen=True)
class Audited:
    """The rows written to ``audits``, all values first, and what limits them."""

    rows: list[dict[str, Any]]
    notes: list[str]


def audit(lake: Lake, attribute: str, target: float | None = None, confidence: float = 0.95) -> Audited:
    """Estimate how often the accepted labels of an attribute are right, and each value of them; write it down.

    Where none is accepted but those of vehicles that labels were learned from, of all labels. ``target`` is by default
    what the labels were made for. Looks count once a photo: not where people disagree or cannot tell, nor where labels
    were learned from the vehicle. LakeError without labels or without audit annotations.
    """
    label_set = next(iter(lake.rows("label_sets", ["attribute", "target"], attribute=[attribute])), None)
    if label_set is None:
        others = sorted(r["attribute"] for r in lake.rows("label_sets", ["attribute"]))
        raise LakeError(
            f"{attribute}: the lake {lake} has no labels of this attribute to audit"
            + (f"; it has {', '.join(others)}" if others else ": run `motorpool label` first")
        )
    goal = label_set["target"] if target is None else target
    with explained():
        sizes = _sizes(lake, attribute)
        accepted = not untaught(lake, attribute).where("accepted").isEmpty()
        cells = [row.asDict() for row in _cells(lake, attribute, accepted).collect()]
    if not cells:
        raise LakeError(
            f"{attribute}: nobody has looked at photos for an audit yet: `motorpool annotate draw --attribute "
            f"{attribute} --purpose audit` draws some, `motorpool annotate import` takes the answers"
        )
    counted = [c for c in cells if c["status"] == "counts"]
    shared = {
        "attribute": attribute,
        "accepted": accepted,
        "confidence": confidence,
        "target": goal,
    }
    # Two values that become one leave nothing to tell.
    mergeable = len(sizes.keys() | {c["found"] for c in counted}) > 2
    rows = []
    for value in (None, *sorted(sizes)):
        own = [c for c in counted if value is None or c["label"] == value]
        found = accuracy_of(_looks(own), confidence)
        wrong = _wrong(own) if mergeable else {}
        n_images = sum(n[accepted] for v, n in sizes.items() if value in (None, v))
        rows.append(
            shared
            | {"value": value, "n_images": n_images, "n": found.n, "right": found.right, "accuracy": found.accuracy}
            | {"low": found.low, "high": found.high, "verdict": verdict(found, goal, wrong, value)}
        )
    with lake.held():
        lake.replace_rows("audits", rows, {"attribute": [attribute]})
    return Audited(rows, _notes(cells, lake, attribute, accepted))


def _sizes(lake: Lake, attribute: str) -> dict[str, tuple[int, int]]:
    """Labels of every value that no person gave, and how many of them are accepted."""
    labels = lake.read("image_labels", attribute=attribute).where("source <> 'person'")
    rows = labels.groupBy("value").agg(F.count("*").alias("n"), F.count_if("accepted").alias("accepted")).collect()
    return {r["value"]: (int(r["n"]), int(r["accepted"])) for r in rows if r["value"] is not None}


def _cells(lake: Lake, attribute: str, accepted: bool) -> DataFrame:
    """Looks summed by status, draw, stratum, label and value found: few rows, however many looks."""
    audits = lake.read_or_empty("annotations", attribute=attribute).where("purpose = 'audit'")
    answer = F.coalesce("value", F.lit("?"))
    looks = audits.groupBy("image_id").agg(
        F.min(answer).alias("found"),
        (F.min(answer) != F.max(answer)).alias("disagreed"),
        F.max(F.struct("draw", "stratum", "weight")).alias("drawn"),
    )
    vehicles = (
        looked_at(lake, attribute).where("trained").select("vehicle").distinct().withColumn("learned", F.lit(True))
    )
    labels = lake.read("image_labels", attribute=attribute).select(
        "image_id", F.col("value").alias("label"), "accepted", "source"
    )
    joined = (
        looks.join(images_of(lake).drop("path"), on="image_id", how="inner")
        .join(vehicles, on="vehicle", how="left")
        .join(labels, on="image_id", how="left")
    )
    of_these = F.col("label").isNotNull() & (F.col("accepted") if accepted else F.lit(True))
    status = (
        F.when(F.col("disagreed"), "disagreed")
        .when(F.col("found") == "?", "unclear")
        .when(F.coalesce("learned", F.col("source") == "person"), "learned")
        .when(~of_these, "other")
        .when(F.col("drawn.weight").isNull(), "unweighted")
        .otherwise("counts")
    )
    weight = F.coalesce("drawn.weight", F.lit(1.0))
    return (
        joined.groupBy(
            status.alias("status"),
            F.coalesce("drawn.draw", F.lit("")).alias("draw"),
            F.coalesce("drawn.stratum", F.lit("")).alias("stratum"),
            "label",
            "found",
        )
        .agg(F.count("*").alias("n"), F.sum(weight).alias("weight"), F.sum(weight * weight).alias("weight_sq"))
        .orderBy("status", "draw", "stratum", "label", "found")
    )


def _looks(cells: Sequence[Mapping[str, Any]]) -> Looks:
    """The sums of every stratum of every draw."""
    strata = {key: i for i, key in enumerate(dict.fromkeys((c["draw"], c["stratum"]) for c in cells))}
    sums = np.zeros((5, len(strata)))
    for c in cells:
        right = c["label"] == c["found"]
        sums[:, strata[c["draw"], c["stratum"]]] += (
            c["n"], right * c["n"], c["weight"], right * c["weight"], c["weight_sq"],
        )  # fmt: skip
    return Looks(*sums)


def _wrong(cells: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """The other values that looks at labels of one value found: their number, and their share of the weights."""
    total = sum(c["weight"] for c in cells)
    wrong: dict[str, tuple[int, float]] = {}
    for c in cells:
        if c["found"] != c["label"]:
            n, share = wrong.get(c["found"], (0, 0.0))
            wrong[c["found"]] = (n + c["n"], share + c["weight"] / total)
    return wrong


def _notes(cells: Sequence[Mapping[str, Any]], lake: Lake, attribute: str, accepted: bool) -> list[str]:
    notes = []
    if not accepted:
        notes.append("accepted are only labels of vehicles that people have looked at, so these figures are of all")
    left_out = {reason: sum(c["n"] for c in cells if c["status"] == reason) for reason in _REASONS}
    reasons = [_REASONS[reason].format(n=f"{n:,}") for reason, n in left_out.items() if n]
    if reasons:
        notes.append(f"looks that do not count: {', '.join(reasons)}")
    mark = labels_mark(lake, attribute)
    older = sum(c["n"] for c in cells if c["status"] == "counts" and c["draw"].split("-")[1:2] != [mark])
    if older:
        notes.append(
            f"{older:,} photos were drawn from other labels than there are now: the figures leave out what is accepted "
            "since then; draw again for all of them"
        )
    return notes
