"""The section on maps: one sample of images, its place in every projection, and a photo for many of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motorpool.config.run import CONSENSUS, ReportConfig
from motorpool.lake import Lake
from motorpool.report import page, queries
from motorpool.report.commands import Commands
from motorpool.report.figures import drawing, maps
from motorpool.report.palette import Palettes
from motorpool.report.photos.album import Album, Wanted
from motorpool.report.photos.pictures import SHEET
from motorpool.report.verdict import headline
from motorpool.report.wording import is_missing, map_method, method_name, number, records

#: Feature sets with maps: those of the best models. Each costs 4 to 6 bytes for each point and method.
MAX_MAPS = 8
#: Points that a browser turns smoothly; the first of the sample, whose order is random.
MOST_3D = 8_000
#: Maps in one picture, and the points of each: more only make it large.
MAX_DRAWN, DRAWN_POINTS = 12, 8_000
#: The side in pixels of the photo that pointing at a map shows.
THUMB = 96


class MapSection:
    """Writes ``data/map-N.js`` and the pictures as it is made, ``data/points.js`` and the sheets with the photos."""

    def __init__(
        self,
        lake: Lake,
        settings: ReportConfig,
        folder: Path,
        feature_sets: Sequence[str],
        best: pd.DataFrame,
        palettes: Palettes,
        seed: int,
    ) -> None:
        self._folder, self._settings, self._best, self._palettes = folder, settings, best, palettes
        self._commands = Commands.of(lake)
        #: What the browser chooses from: ``features, file, dims``.
        self.index: list[dict[str, Any]] = []
        self._models: dict[str, np.ndarray] = {}
        self._n_photos = 0
        self._sample = pd.DataFrame(columns=["image_id", "path", "vehicle_id"])
        ranked = [f for f in best["features"] if f != CONSENSUS]
        # In the order of their best models, then those without a ranked one.
        shown = [*ranked, *sorted(set(feature_sets) - set(ranked))]
        names = queries.projection_names(lake, shown)
        if names.empty:
            return
        mapped = [f for f in shown if f in set(names["features"])][:MAX_MAPS]
        self._sample = queries.map_images(lake, settings.points, seed)
        ids = self._sample["image_id"].to_numpy(np.int64)
        self._outliers = queries.outlier_ids(lake, ids)
        self._models = self._labels(lake, mapped, ids)
        self._methods = queries.methods(lake, "projection_methods")
        drawn: list[maps.Map] = []
        for features in mapped:
            drawn += self._write_maps(lake, features, records(names[names["features"] == features]), ids)
        self._draw(drawn)

    @property
    def n_points(self) -> int:
        return len(self._sample)

    def _labels(self, lake: Lake, mapped: Sequence[str], ids: np.ndarray) -> dict[str, np.ndarray]:
        """The sample's clusters in the best model of all, of every mapped feature set and of the consensus."""
        if self._best.empty:
            return {}
        first = self._best["model_id"] == self._best.iloc[0]["model_id"]
        shown = self._best[first | self._best["features"].isin([*mapped, CONSENSUS])]["model_id"].tolist()
        rows = queries.labels(lake, shown, ids)
        return {m: maps.labels_in_order(rows[rows["model_id"] == m], ids) for m in shown}

    def _own_model(self, features: str) -> str | None:
        """The model that colours a map first: the best of its feature set, else the best of all."""
        own = self._best[self._best["features"] == features]["model_id"].tolist()
        return own[0] if own else next(iter(self._models), None)

    def _write_maps(
        self, lake: Lake, features: str, named: Sequence[dict[str, Any]], ids: np.ndarray
    ) -> list[maps.Map]:
        rows = queries.projections(lake, features, ids)
        model_id = self._own_model(features)
        clusters = self._models.get(model_id or "", np.zeros(len(ids), np.int32))
        made, methods = [], []
        # The page shows the most faithful map first.
        for row in sorted(named, key=lambda r: (r["dims"], -self._trust(features, r["method"]))):
            method, dims = row["method"], row["dims"]
            xyz = maps.arrange(rows[rows["method"] == method], ids, dims)
            place = maps.label_positions if dims == 2 else maps.label_medians
            labels = place(xyz, clusters) if model_id else {}
            palette = self._palettes.get(model_id or "", {})
            shown = maps.Map(features, method, method_name(method, dims), xyz, clusters, labels, palette)
            methods.append(
                {
                    "method": method,
                    "name": shown.name,
                    "dims": dims,
                    "caption": self._caption(features, method),
                    "packed": maps.pack(xyz),
                    # As ranges of the axes; null where all points are inside.
                    "frame": np.column_stack([shown.frame.low, shown.frame.high]).tolist() if shown.frame.cut else None,
                    "labelled": model_id,
                    "labels": shown.labels,
                }
            )
            made.append(shown)
        file = f"map-{len(self.index)}"
        page.write_data(self._folder / "data", file, {"features": features, "model_id": model_id, "methods": methods})
        self.index.append({"features": features, "file": file, "dims": sorted({m.dims for m in made})})
        return made

    def _facts(self, features: str, method: str) -> dict[str, Any]:
        """The map's row in ``projection_methods``, empty where there is none."""
        rows = records(self._methods[(self._methods["features"] == features) & (self._methods["method"] == method)])
        return rows[0] if rows else {}

    def _trust(self, features: str, method: str) -> float:
        value = self._facts(features, method).get("trustworthiness")
        return -1.0 if is_missing(value) else float(value)  # type: ignore[arg-type]

    def _caption(self, features: str, method: str) -> str:
        row, parts = self._facts(features, method), []
        if not is_missing(row.get("trustworthiness")):
            parts.append(
                f"Trustworthiness {number(row['trustworthiness'])} (1: all neighbours on the map are neighbours in the "
                "feature set too)."
            )
        fitted: Any = row.get("n_fitted")
        n: Any = row.get("n_images")
        if not is_missing(fitted) and not is_missing(n) and fitted < n:
            parts.append(
                f"Laid out from {int(fitted):,} of {int(n):,} images; the others are placed by their neighbours."
            )
        return " ".join(parts)

    def _draw(self, drawn: list[maps.Map]) -> None:
        flat = [m for m in drawn if m.dims == 2]
        deep = [m for m in drawn if m.dims == 3]
        to = self._folder / "figures"
        if flat:
            drawing.draw_maps(flat[:MAX_DRAWN], to / "maps_2d.png", DRAWN_POINTS)
        if deep:
            best = next((m for m in deep if _turns(m) and m.features == deep[0].features), deep[0])
            drawing.save_3d(best, to / "map_3d.png")
            drawing.draw_turning(best, to / "map_3d.gif")

    def wanted(self) -> Iterator[Wanted]:
        """The sample's first images, as many as ``report.thumbnails`` says; none without maps."""
        for row in records(self._sample.head(self._settings.thumbnails)):
            yield row["image_id"], row["path"], THUMB

    def write_points(self, album: Album) -> None:
        """``data/points.js``: paths, vehicles, clusters and outliers of the sample, and the sheets of its photos."""
        if self._sample.empty:
            return
        ids = self._sample["image_id"].to_numpy(np.int64)
        first = ids[: self._settings.thumbnails].tolist() if album.has_any() else []
        self._n_photos = len(first)
        flagged = np.flatnonzero([int(i) in self._outliers for i in ids])
        models = {}
        for model_id, found in self._models.items():
            model = self._best[self._best["model_id"] == model_id].iloc[0]
            models[model_id] = {"headline": headline(model), "clusters": maps.pack_clusters(found)}
        page.write_data(
            self._folder / "data",
            "points",
            {
                "paths": self._sample["path"].tolist(),
                "vehicles": [None if is_missing(v) else str(v) for v in self._sample["vehicle_id"]],
                "models": models,
                "outliers": maps.pack_positions(flagged) if len(flagged) else None,
                "most_3d": MOST_3D,
                "thumbs": {"per_row": SHEET, "n": len(first), "sheets": album.sheets(first, THUMB)} if first else None,
            },
        )

    def context(self) -> dict[str, Any]:
        dims = {d for item in self.index for d in item["dims"]}
        if self._n_photos < self.n_points:
            pointing = f" {self._n_photos:,} of them have a photo to point at." if self._n_photos else ""
        else:
            pointing = " Point at one to see its photo."
        return {
            "map_commands": [(item["features"], self._commands.maps(item["features"])) for item in self.index],
            "maps_2d": 2 in dims,
            "maps_3d": 3 in dims,
            "maps_text": f"Each point is one of {self.n_points:,} images, drawn at random and the same on all maps."
            + pointing,
        }


def _turns(drawn: maps.Map) -> bool:
    known = map_method(drawn.method, drawn.dims)
    return known is not None and known.turns
