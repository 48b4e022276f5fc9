"""The section on labels: per attribute how often they are right, what is accepted, what is left for people, photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool.lake import Lake
from motorpool.percentages import percent
from motorpool.report import label_queries, page
from motorpool.report.figures import charts, data_files, drawing
from motorpool.report.photos.album import Album, Wanted
from motorpool.report.verdict import Fact, headline
from motorpool.report.wording import is_missing, records
from motorpool.texts import counted

#: Sides in pixels of the photos of a value, and of those that are left for people.
TILE, SINGLE = 96, 128
#: Values of an attribute with photos, and values in its table of confusion: the largest ones.
MAX_VALUES, MAX_CONFUSED = 24, 20
#: By how much probabilities promise less than was measured where the page says so: no label is ever certain.
WORTH_TELLING = 0.02
#: Clusters that one model without labels is described by.
_TITLES = 8

#: What each way of labelling looks at, as a sentence names it.
_WAYS = {"clusters": "named clusters", "probe": "a linear classifier", "nearest": "the nearest annotated photos"}


class LabelSection:
    """Reads the tables and draws the curves into ``folder/figures`` as it is made; photos come with the album.

    Driver memory: a row per attribute and value, and ``PER_VALUE`` photos of each.
    """

    def __init__(self, lake: Lake, folder: Path, best: pd.DataFrame, clusters: pd.DataFrame, seed: int) -> None:
        self._sets = label_queries.label_sets(lake)
        names = self._sets["attribute"].tolist()
        self._counts = label_queries.counts(lake, names)
        self._photos = label_queries.photos(lake, names, seed)
        self._audits = label_queries.audits(lake, names)
        self._separates = [] if names else _separated(best, clusters)
        chart = charts.label_chart(self._sets)
        self.charts = [] if chart is None else [chart]
        for made in self.charts:
            drawing.draw_chart(made, folder / "figures" / f"{made.name}.png")
            data_files.write_chart(made, folder / "figures" / f"{made.name}.csv")

    def wanted(self) -> Iterator[Wanted]:
        for row in records(self._photos):
            yield row["image_id"], row["path"], TILE if row["accepted"] else SINGLE

    def context(self, album: Album) -> dict[str, Any]:
        """Writes the montages and pictures, and returns what the templates show."""
        return {
            "attributes": [self._attribute(number, row, album) for number, row in enumerate(records(self._sets))],
            "label_headline": _headline(records(self._sets)),
            "label_chart": self.charts[0].heading if self.charts else None,
            "separates": self._separates,
        }

    def _attribute(self, number: int, row: Mapping[str, Any], album: Album) -> dict[str, Any]:
        name = row["attribute"]
        counts = self._counts[self._counts["attribute"] == name]
        photos = self._photos[self._photos["attribute"] == name]
        audits = self._audits[self._audits["attribute"] == name]
        audit_of = {r["value"]: r for r in records(audits)}
        # Images of which people say nothing else than that it cannot be told.
        n_unclear = int(counts.loc[counts["value"].isna(), "n"].sum())
        counts = counts[counts["value"].notna()]
        values = [
            self._value(number, at, value, photos, audit_of.get(value["value"]), album)
            for at, value in enumerate(records(counts.head(MAX_VALUES)))
        ]
        left = row["n_images"] - row["n_accepted"]
        return {
            "name": name,
            "anchor": f"attribute-{number}",
            "per_vehicle": row["per"] == "vehicle",
            "facts": _facts(row, audit_of.get(None)),
            "values": values,
            "values_cut": len(counts) > len(values),
            "n_values": len(counts),
            "unclear": f"Of {counted(n_unclear, 'photo')} people say that it cannot be told." if n_unclear else "",
            "left": [
                {"file": file, "text": _why_left(shot), "path": shot["path"]}
                for shot in records(photos[~photos["accepted"]])
                if (file := album.single(shot["image_id"], SINGLE))
            ],
            "n_left": left,
            "confusion": _confusion(row, counts["value"].tolist()),
        }

    def _value(
        self,
        number: int,
        at: int,
        row: Mapping[str, Any],
        photos: pd.DataFrame,
        audit: Mapping[str, Any] | None,
        album: Album,
    ) -> dict[str, Any]:
        shown = photos[photos["accepted"] & (photos["value"] == row["value"])]
        made = album.montage(f"label-{number}-{at}", shown["image_id"].astype(int).tolist(), TILE, columns=8)
        accepted = row["n_accepted"] / row["n"]
        return {
            "value": row["value"],
            "photos_text": counted(int(row["n"]), "photo"),
            "accepted": accepted,
            "accepted_text": percent(accepted),
            "audit": _audit_text(audit),
            "verdict": audit["verdict"] if audit else "",
            "photos": made,
        }


def _headline(sets: list[dict[str, Any]]) -> str:
    if not sets:
        return "No labels yet: people have not looked at any photo"
    told = [f"{percent(r['share_accepted'])} have an accepted {r['attribute']}" for r in sets[:4]]
    return "Of the photos, " + (f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0])


def _facts(row: Mapping[str, Any], audit: Mapping[str, Any] | None) -> list[Fact]:
    name, n, accepted = row["attribute"], int(row["n_images"]), int(row["n_accepted"])
    left = n - accepted
    low, high = percent(row["accuracy_low"]), percent(row["accuracy_high"])
    way = _WAYS.get(row["method"], row["method"])
    target = percent(row["target"])
    enough = (
        f"No probability is high enough for {target} right labels: more looks are needed."
        if is_missing(row["threshold"])
        else f"{accepted:,} of {n:,}: those that are likely enough, from {percent(row['threshold'])} on, for {target} "
        "of them to be right. Outliers are left for people."
    )
    return [
        Fact(
            percent(row["accuracy"]),
            "of all labels are right",
            f"Measured on vehicles that were held out, {low} to {high} (95 % interval).{_expected(row)} Learned from "
            f"{int(row['n_looks']):,} looks, by {way} on {', '.join(row['features'])}.",
        ),
        Fact(percent(row["share_accepted"]), "of the photos are accepted", enough),
        Fact(
            f"{left:,}",
            "photo is left for people" if left == 1 else "photos are left for people",
            "Choose those that tell most:",
            f"motorpool annotate draw --conf FILE --attribute {name} --out looks.csv",
        ),
        _audit_fact(row, audit),
    ]


def _expected(row: Mapping[str, Any]) -> str:
    """What the labels' probabilities promise where that is less than was measured, as after looks at typical photos."""
    if is_missing(row["expected"]) or row["expected"] > row["accuracy"] - WORTH_TELLING:
        return ""
    return f" On photos nobody looked at the probabilities promise {percent(row['expected'])}."


def _audit_fact(row: Mapping[str, Any], audit: Mapping[str, Any] | None) -> Fact:
    name = row["attribute"]
    if audit is None or not audit["n"]:
        draw = f"motorpool annotate draw --conf FILE --attribute {name} --purpose audit --out audit.csv"
        return Fact("No audit", "yet", "Draw photos that measure how often the accepted labels are right:", draw)
    which = "accepted labels" if audit["accepted"] else "labels"
    looks = (
        f"{int(audit['right']):,} of {int(audit['n']):,} looks found them right: {percent(audit['low'])} to "
        f"{percent(audit['high'])} ({percent(audit['confidence'])} interval)."
    )
    label = f"of the {which} are right by audit"
    if audit["created_at"] < row["created_at"]:
        again = f"motorpool audit --conf FILE --attribute {name}"
        return Fact(
            percent(audit["accuracy"]), label, f"{looks} The labels are newer than this audit; repeat it:", again
        )
    return Fact(percent(audit["accuracy"]), label, f"{looks} Verdict: {audit['verdict']}.")


def _why_left(shot: Mapping[str, Any]) -> str:
    if shot["outlier"]:
        return f"an outlier, {shot['value']} perhaps" if shot["value"] else "an outlier"
    if is_missing(shot["probability"]):
        return "people could not tell"
    return f"{shot['value']}, {percent(shot['probability'])} sure"


def _audit_text(audit: Mapping[str, Any] | None) -> str:
    """How often a value is right by audit; empty where no look tells."""
    if audit is None or not audit["n"]:
        return ""
    return (
        f"{percent(audit['accuracy'])} ({percent(audit['low'])} to {percent(audit['high'])}, {int(audit['n']):,} looks)"
    )


def _confusion(row: Mapping[str, Any], order: list[str]) -> dict[str, Any] | None:
    """Held-out photos by value and label: counts, and their share of the value's, as the table shows them."""
    found = {(c["value"], c["label"]): c["n"] for c in row["confusion"] or ()}
    named = {v for pair in found for v in pair}
    values = [v for v in order if v in named] + sorted(named - set(order))
    values = values[:MAX_CONFUSED]
    if len(values) < 2:
        return None
    rows = []
    for value in values:
        counts = [found.get((value, label), 0.0) for label in values]
        total = sum(n for (v, _), n in found.items() if v == value)
        cells = [{"text": f"{n:,.0f}" if n else "", "v": n / total if total else 0.0} for n in counts]
        rows.append({"value": value, "cells": cells})
    return {"labels": values, "rows": rows, "cut": len(named) > len(values)}


def _separated(best: pd.DataFrame, clusters: pd.DataFrame) -> list[dict[str, Any]]:
    """What the best model of each feature set seems to tell apart, by the titles of its largest clusters."""
    found = []
    for model in records(best):
        items = page.cluster_items(clusters, model["model_id"], _TITLES)
        if items:
            more = int((clusters["model_id"] == model["model_id"]).sum()) - len(items)
            found.append(
                {
                    "model": headline(model),
                    "model_id": model["model_id"],
                    "anchor": items[0]["anchor"],
                    "clusters": items,
                    "more": f"and {more:,} more" if more else "",
                }
            )
    return found
