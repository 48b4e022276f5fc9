"""The sections with photos: the clusters' cards, the vehicles that fall apart, and the outliers with their reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool.config.run import CONSENSUS, ReportConfig
from motorpool.interpret.overrides import Named, names_of
from motorpool.lake import Lake
from motorpool.outliers.consensus import WEIGHTS, weights_from
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.report import page, queries
from motorpool.report.commands import Commands
from motorpool.report.figures import data_files
from motorpool.report.palette import Palettes
from motorpool.report.photos.album import Album, Wanted
from motorpool.report.verdict import headline
from motorpool.report.wording import is_missing, number, ordinal, records, share

#: Sides in pixels of a montage's tiles and of a single photo.
TILE, SINGLE = 96, 160
#: Clusters of the recommended model that the verdict shows.
FIRST = 10
#: Outliers of each single method; vehicles in the list, and photos of each.
PER_METHOD, VEHICLES, DISSENTING = 12, 20, 6

_KINDS = {
    "exemplar": "nearest the centre",
    "typical": "drawn at random",
    "borderline": "at the border",
}


class PhotoSection:
    """Reads which photos are to be shown as it is made; the photos themselves come with the album."""

    def __init__(
        self,
        lake: Lake,
        settings: ReportConfig,
        folder: Path,
        best: pd.DataFrame,
        clusters: pd.DataFrame,
        palettes: Palettes,
    ) -> None:
        self._settings, self._best, self._clusters, self._palettes = settings, best, clusters, palettes
        self._commands = Commands.of(lake)
        self._n_images = lake.count("images")
        self._cards = self._make_cards()
        carded = [(card["model_id"], item["cluster"]) for card in self._cards for item in card["clusters"]]
        self._members = pd.DataFrame(columns=["model_id", "cluster", "kind", "position", "image_id", "path"])
        if carded:
            self._write_lists(lake, folder, pd.DataFrame(carded, columns=["model_id", "cluster"]))
            self._members = queries.members(lake, pd.DataFrame(carded, columns=["model_id", "cluster"]))
        self._outliers = queries.outliers(lake, settings.outliers, min(PER_METHOD, settings.outliers))
        self._reasons = queries.reasons(lake, set(self._outliers["image_id"]))
        self._has_reasons = queries.has(lake, "outlier_reasons")
        self._methods = queries.methods(lake, "outlier_methods")
        self._counts: dict[str, float] = {}
        self._vehicles = pd.DataFrame()
        if self._cards:
            self._counts, self._vehicles = queries.vehicles(lake, self._cards[0]["model_id"], VEHICLES)
        dissenting = {i for found in self._vehicles.get("dissenting", ()) for i in found[:DISSENTING]}
        self._paths = queries.paths(lake, dissenting)

    def _make_cards(self) -> list[dict[str, Any]]:
        """The best model of each feature set with its largest clusters, all equally many: ``report.cards`` together."""
        shown = self._best.head(max(1, self._settings.cards))
        each = max(1, self._settings.cards // max(1, len(shown)))
        rows = records(shown)
        names = names_of([Named(m["model_id"], m["features"], m["algorithm"], int(m["n_clusters"])) for m in rows])
        return [
            {
                "model_id": model["model_id"],
                "name": names[model["model_id"]],
                "features": model["features"],
                "headline": headline(model),
                "n_clusters": int(model["n_clusters"]),
                "export": self._commands.export(model["model_id"]),
                "review": self._commands.review(model["model_id"]),
                "clusters": page.cluster_items(
                    self._clusters,
                    model["model_id"],
                    max(each, FIRST if not at else 1),
                    self._palettes.get(model["model_id"]),
                ),
            }
            for at, model in enumerate(rows)
        ]

    def _write_lists(self, lake: Lake, folder: Path, carded: pd.DataFrame) -> None:
        """A CSV file of the photos of every cluster that has a card, and which it is."""
        found = queries.cluster_photos(lake, carded)
        of_cluster = dict(iter(found.groupby(["model_id", "cluster"])))
        for at, card in enumerate(self._cards, 1):
            # Names in a lake are not trusted: no folder is left by them.
            where = re.sub(r"[^\w.+-]", "_", card["features"])
            for item in card["clusters"]:
                rows = of_cluster.get((card["model_id"], item["cluster"]))
                item["command"] = self._commands.cluster(card["model_id"], item["cluster"])
                if rows is None:
                    continue
                file = f"lists/{at}-{where}-k{card['n_clusters']}-cluster-{item['cluster']}.csv"
                item |= {"list": file, "listed": len(rows)}
                columns = ("path", "vehicle_id", "distance")
                data_files.write_rows(folder / file, columns, _csv_rows(rows, columns))

    def wanted(self) -> Iterator[Wanted]:
        for row in records(self._members):
            yield row["image_id"], row["path"], TILE
        for row in records(self._outliers):
            yield row["image_id"], row["path"], SINGLE
        for image_id, path in self._paths.items():
            yield image_id, path, TILE

    def context(self, album: Album) -> dict[str, Any]:
        """Writes the montages and pictures, and returns what the templates show."""
        self._add_montages(album)
        n_first = min(FIRST, len(self._cards[0]["clusters"])) if self._cards else 0
        every = [item for card in self._cards for item in card["clusters"]]
        n_all = sum(card["n_clusters"] for card in self._cards)
        return {
            "n_strip": n_first,
            "more_clusters": self._cards[0]["n_clusters"] - n_first if self._cards else 0,
            "models_with_cards": self._cards,
            "named_models": bool(self._settings.named_models),
            "untitled": not any(item["titled"] for item in every),
            "cards_cut": len(every) < n_all,
            "cards_shown": len(every),
            "cards_all": n_all,
            "photos_text": "Photos nearest the centre are not typical of the whole: look at those drawn at random too."
            if album.has_any() and set(self._members["kind"]) - {"exemplar"}
            else "",
            "vehicles": self._vehicle_rows(album),
            "gallery": self._gallery(album),
            "no_reasons": not self._has_reasons,
        }

    def _add_montages(self, album: Album) -> None:
        of_cluster = dict(iter(self._members.groupby(["model_id", "cluster"])))
        for card in self._cards:
            for item in card["clusters"]:
                rows = of_cluster.get((card["model_id"], item["cluster"]))
                if rows is None:
                    continue
                for kind in sorted(set(rows["kind"]), key=lambda k: (list(_KINDS).index(k) if k in _KINDS else 9, k)):
                    of_kind = rows[rows["kind"] == kind].sort_values("position")
                    ids = of_kind["image_id"].astype(int).tolist()
                    name = f"{item['anchor']}-{len(item['montages'])}"
                    made = album.montage(name, ids, TILE, columns=4)
                    shot = {"file": None, "n": len(ids)} if made is None else made
                    label = _KINDS.get(kind, kind)
                    item["montages"].append({**shot, "label": label, "paths": of_kind["path"].tolist()})
        for item in self._cards[0]["clusters"][:FIRST] if self._cards else ():
            rows = of_cluster.get((self._cards[0]["model_id"], item["cluster"]))
            if rows is not None:
                ids = rows[rows["kind"] == "exemplar"].sort_values("position")["image_id"].astype(int).tolist()
                made = album.montage(f"strip-{item['cluster']}", ids, TILE, columns=8)
                item["photos"] = made["file"] if made else None

    def _vehicle_rows(self, album: Album) -> dict[str, Any] | None:
        if not self._counts:
            return None
        rows = []
        for at, row in enumerate(records(self._vehicles)):
            ids = [int(i) for i in row["dissenting"]][:DISSENTING]
            made = album.montage(f"vehicle-{at}", ids, TILE, columns=DISSENTING)
            rows.append(
                {
                    "vehicle_id": row["vehicle_id"],
                    "n_photos": int(row["n_photos"]),
                    "cluster": "noise" if row["cluster"] < 0 else int(row["cluster"]),
                    "agreement": share(row["agreement"]),
                    "photos": made["file"] if made else None,
                    "n_shown": len(ids),
                    "n_dissenting": len(row["dissenting"]),
                }
            )
        n, whole = int(self._counts["n"]), int(self._counts["whole"])
        return {
            "model": self._cards[0]["headline"],
            "n": n,
            "whole": whole,
            "whole_text": share(whole / n),
            "rows": rows,
        }

    def _gallery(self, album: Album) -> list[dict[str, Any]]:
        groups = []
        reasons = {i: self._reasons[self._reasons["image_id"] == i] for i in set(self._reasons["image_id"])}
        # The consensus first, the others by name.
        for method in sorted(set(self._outliers["method"]), key=lambda m: (m != CONSENSUS, m)):
            rows = self._outliers[self._outliers["method"] == method].sort_values(["place", "features", "image_id"])
            images = [
                {
                    "path": row["path"],
                    "file": album.single(int(row["image_id"]), SINGLE),
                    "place": _place_text(row, self._n_images),
                    "reasons": _reasons_of(reasons.get(int(row["image_id"])), method),
                    "score_text": _score_text(row),
                }
                for row in records(rows)
            ]
            groups.append({"name": _title(method), "text": self._method_text(method), "images": images})
        return groups

    def _method_text(self, method: str) -> str:
        rows = self._methods[self._methods["method"] == method]
        if method == CONSENSUS:
            n = 0 if rows.empty else int(rows.iloc[0]["n_outliers"])
            evidence = "" if rows.empty else _evidence(dict(rows.iloc[0]["params"]))
            return f"{n:,} images are outliers by all methods and feature sets together. {evidence}The first of them:"
        return f"The first in one of {len(rows)} feature sets; scores of different sets do not compare."


def _title(method: str) -> str:
    known = OUTLIER_METHODS.get(method)
    return "all methods together" if method == CONSENSUS else known.title if known else method


def _evidence(params: dict[str, str]) -> str:
    """A sentence, with the space behind it, on the methods that lead the consensus; empty where all count equally."""
    if WEIGHTS not in params:
        return ""
    leading = params["leading"].split(", ")
    most: dict[str, float] = {}
    for (_, method), weight in weights_from(params[WEIGHTS]).items():
        most[method] = max(weight, most.get(method, 0.0))
    others = sorted(((weight, _title(m)) for m, weight in most.items() if m not in leading), reverse=True)
    shown = ", ".join(f"{title} {weight:.2f}" for weight, title in others)
    sentence = (
        f"The vehicles lead ({' and '.join(_title(m) for m in leading)}): every method counts as far as it agrees"
    )
    return sentence + (f" with them (largest weights of the others: {shown}). " if others else " with them. ")


def _reasons_of(rows: pd.DataFrame | None, method: str) -> list[str]:
    """The reasons of the method shown first, then of others, each said once, three at most."""
    if rows is None:
        return []
    first = sorted(records(rows), key=lambda r: (r["method"] != method, r["method"], r["features"]))
    return list(dict.fromkeys(str(r["reason"]) for r in first))[:3]


def _place_text(row: dict[str, Any], n_images: int) -> str:
    """How far in front an image is: a number that means the same for every method."""
    place = int(row["place"])
    first = "The most unusual" if place == 1 else f"The {ordinal(place)} most unusual"
    where = "" if row["features"] == CONSENSUS else f" on {row['features']}"
    return f"{first} of {n_images:,} images{where}."


def _score_text(row: dict[str, Any]) -> str:
    return f"Score {number(row['score'], 2)}."


def _csv_rows(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[list[Any]]:
    for row in records(rows):
        yield [None if is_missing(row[name]) else row[name] for name in columns]
