"""The report as a whole: the sections, each from its tables, put together into one folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool import __version__
from motorpool.config.run import ReportConfig
from motorpool.lake import Lake
from motorpool.percentages import percent
from motorpool.report import page, queries
from motorpool.report.commands import Commands
from motorpool.report.palette import palette_of
from motorpool.report.photos.album import Album
from motorpool.report.sections.drift_section import DriftSection
from motorpool.report.sections.label_section import LabelSection
from motorpool.report.sections.map_section import MapSection
from motorpool.report.sections.model_section import ModelSection
from motorpool.report.sections.photo_section import PhotoSection
from motorpool.report.titles import all_titles, titles_file
from motorpool.report.verdict import verdict


@dataclass(frozen=True)
class Built:
    """How many images are on the maps, photos were asked for, and could not be read."""

    n_points: int
    n_asked: int
    n_unreadable: int


def build(
    lake: Lake,
    settings: ReportConfig,
    folder: Path,
    out: Path,
    images_root: str | None,
    seed: int,
    timed: Callable[[str], AbstractContextManager[None]],
) -> Built:
    """Fill the empty ``folder``, which becomes ``out``, with the report; see `stages.report.write_report`.

    ``timed`` says when a part begins and ends.
    """
    for name in ("data", "figures", "photos", "lists"):
        (folder / name).mkdir()
    overview, models, pairs = queries.overview(lake), queries.models(lake), queries.agreement(lake)
    best = _shown(models, settings)
    clusters, feature_sets = queries.clusters(lake, best["model_id"].tolist()), queries.feature_sets(lake)
    palettes = {str(m): palette_of(queries.colours(part)) for m, part in clusters.groupby("model_id")}
    judged = verdict(models, pairs, queries.nuisance(lake))

    with timed("report: figures"):
        label_section = LabelSection(lake, folder, best, clusters, seed)
        drift_section = DriftSection(lake, folder, models)
        model_section = ModelSection(lake, folder, overview, models, best, clusters, pairs, feature_sets, palettes)
    with timed("report: maps"):
        map_section = MapSection(lake, settings, folder, feature_sets["features"].tolist(), best, palettes, seed)
    with timed("report: lists of photos"):
        photo_section = PhotoSection(lake, settings, folder, best, clusters, palettes)
    album = Album(lake.spark, images_root, folder / "photos")
    with timed("report: photos"):
        album.read([*label_section.wanted(), *photo_section.wanted(), *map_section.wanted()])
        map_section.write_points(album)
        context: dict[str, Any] = label_section.context(album) | photo_section.context(album)

    commands = Commands.of(lake)
    context |= model_section.context() | map_section.context() | drift_section.context(commands)
    context |= {
        # The last two parts, which a person knows the lake by; the whole name is at the end of the page.
        "title": "/".join(Path(str(lake)).parts[-2:]),
        "lake": page.lake_name(lake.config),
        "lake_at": page.lake_at(lake.config, out),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "overview": overview,
        "verdict": judged,
        "verdict_export": commands.export(judged.model_id) if judged else "",
        "titles_command": commands.titles(str(out)),
        "noise_text": _noise(best, overview),
        "photos_note": album.note(),
        "without_photos": images_root is None,
    }
    charts = page.chart_data(
        [*label_section.charts, *drift_section.charts, *model_section.charts],
        model_section.tree,
        map_section.index,
        {**model_section.tree_palette, **palettes},
        all_titles(clusters),
    )
    (folder / "titles.yaml").write_text(titles_file(context), encoding="utf-8")
    page.write(folder, context, charts)
    page.write_assets(folder)
    return Built(map_section.n_points, album.n_asked, album.n_unreadable)


def _shown(models: pd.DataFrame, settings: ReportConfig) -> pd.DataFrame:
    """The best model of each feature set, the best of all first, then those that ``report.models`` names."""
    best = models[models["rank_in_features"] == 1].sort_values("rank")
    named = models["model_id"].isin(settings.named_models) & ~models["model_id"].isin(best["model_id"])
    others = named & (models["n_clusters"] > 1)
    return pd.concat([best, models[others]]) if others.any() else best


def _noise(best: Any, overview: queries.Overview) -> str:
    noise = 0 if best.empty else int(best.iloc[0]["n_noise"] or 0)
    return f"{noise:,} images ({percent(noise / overview.n_images)}) are noise, in no cluster." if noise else ""
