"""What the curves and bars show: panels of series, computed once for the drawn pictures and the interactive ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from motorpool.kernels.scores import Score
from motorpool.report.palette import Palettes, colours_of
from motorpool.report.scoring import table_scores
from motorpool.report.wording import algorithm_name, capital, label_of, records

#: What clusters are called, by model and cluster; None where nobody has named them.
Titles = Mapping[str, Mapping[int, str | None]]
#: Small multiples that a person compares on one page.
MAX_PANELS = 24
#: Charts whose bars are clusters: those that new titles change.
BY_CLUSTER = ("cluster_sizes", "drift")
#: Clusters that one bar chart names.
MAX_BARS = 40
#: Parameters that say how many clusters a model must find.
_COUNTS = ("k", "n_clusters", "n_components")
#: Parameters that tell where a model comes from, not what it is.
_PROVENANCE = frozenset(
    {*_COUNTS, "seed", "members", "mean_nmi", "tree_of", "micro_clusters_of", "eps", "quantile", "curve_k"}
)


@dataclass(frozen=True)
class Series:
    """One line, cloud of points or set of bars. ``hollow`` marks points that stand for less than the others.

    Points without a place, at NaN or infinity, are left out: neither paper nor JSON has one for them.
    """

    name: str
    x: list[float]
    y: list[float]
    kind: str = "line"
    colour: int = 0
    text: list[str] = field(default_factory=list)
    hollow: list[bool] = field(default_factory=list)
    #: Of bars that stand for clusters: their numbers, and the colours that these have.
    clusters: list[int] = field(default_factory=list)
    fill: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        placed = [math.isfinite(x) and math.isfinite(y) for x, y in zip(self.x, self.y, strict=True)]
        if not all(placed):
            for name in ("x", "y", "text", "hollow", "clusters", "fill"):
                values = getattr(self, name)
                # All but the first two may be left out.
                kept = [v for v, ok in zip(values, placed, strict=True) if ok] if values else values
                object.__setattr__(self, name, kept)


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    #: The model whose clusters the bars are.
    model_id: str = ""


@dataclass(frozen=True)
class Chart:
    """Panels that answer one question. ``name`` is the picture's file; ``share_y`` where their values compare."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    share_y: bool = False
    note: str = ""

    @property
    def heading(self) -> dict[str, str]:
        """What the page says above it."""
        return {"name": self.name, "title": self.title, "note": self.note}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Chart:
        panels = [
            Panel(**panel | {"series": tuple(Series(**series) for series in panel["series"])})
            for panel in data["panels"]
        ]
        return cls(**{**data, "panels": tuple(panels)})

    def retitled(self, titles: Titles) -> Chart:
        """With the bars of clusters called as ``titles`` has them; models that it lacks stay as they are."""
        panels = [
            replace(p, series=tuple(_called(s, titles[p.model_id]) if s.clusters else s for s in p.series))
            if p.model_id in titles
            else p
            for p in self.panels
        ]
        return replace(self, panels=tuple(panels))


def _called(series: Series, titles: Mapping[int, str | None]) -> Series:
    return replace(series, text=[_bar_name(titles.get(cluster), cluster) for cluster in series.clusters])


def _bar_name(title: Any, cluster: int) -> str:
    return label_of(title, cluster) if cluster >= 0 else "noise"


def score_charts(models: pd.DataFrame) -> Iterator[Chart]:
    """A chart for every score, with a panel for every feature set: the best feature sets first, 24 at most.

    Only comparable scores share their axis: the others depend on a feature set's width and scale. Lines join
    models that were asked for a number of clusters; density-based ones are points, left out far beyond the lines.
    """
    scored = models.assign(line=_line_names(models), asked=[_asked(p) for p in models["params"]])
    order = list(dict.fromkeys(scored["features"]))
    colours = {name: i for i, name in enumerate(sorted(set(scored["line"])))}
    reach = max(30.0, 1.5 * float(scored["asked"].max()) if scored["asked"].notna().any() else 0.0)
    for score in table_scores():
        known = scored[scored[score.name].notna()]
        inside = known[known["n_clusters"] <= reach]
        panels = [
            _score_panel(name, part, score, colours)
            for name in order
            if len(part := inside[inside["features"] == name])
        ]
        if panels:
            notes = []
            if len(known) > len(inside):
                notes.append(f"{len(known) - len(inside):,} models with more than {reach:.0f} clusters are not drawn.")
            if len(panels) > MAX_PANELS:
                notes.append(f"The first {MAX_PANELS} of {len(panels)} feature sets.")
            title = f"{capital(score.long_title or score.title)} over the number of clusters"
            yield Chart(score_chart_name(score), title, tuple(panels[:MAX_PANELS]), score.comparable, " ".join(notes))


def score_chart_name(score: Score) -> str:
    return f"scores-{score.name}"


def _asked(params: dict[str, str]) -> float:
    given = next((params[name] for name in _COUNTS if name in params), None)
    return math.nan if given is None else float(given)


def _line_names(models: pd.DataFrame) -> list[str]:
    """The algorithm, with the values of those parameters in which models of that algorithm differ."""
    differ: dict[str, list[str]] = {}
    for algorithm, part in models.groupby("algorithm", sort=True):
        if math.isnan(_asked(next(iter(part["params"])))):
            differ[str(algorithm)] = []
            continue
        keys = sorted({key for params in part["params"] for key in params} - _PROVENANCE)
        differ[str(algorithm)] = [k for k in keys if len({p.get(k) for p in part["params"]}) > 1]
    return [
        ", ".join([algorithm_name(a), *(p[k] for k in differ[a] if k in p)])
        for a, p in zip(models["algorithm"], models["params"], strict=True)
    ]


def _score_panel(name: str, part: pd.DataFrame, score: Score, colours: dict[str, int]) -> Panel:
    series = []
    for line, rows in part.groupby("line", sort=True):
        rows = rows.sort_values(["n_clusters", "model_id"])
        series.append(
            Series(
                str(line),
                rows["n_clusters"].astype(float).tolist(),
                rows[score.name].astype(float).tolist(),
                "line" if rows["asked"].notna().all() else "points",
                colours[str(line)],
                rows["model_id"].tolist(),
                (rows["status"] != "ok").tolist(),
            )
        )
    return Panel(name, "clusters", score.title, tuple(series))


def variance_chart(feature_sets: pd.DataFrame) -> Chart | None:
    """The share of variance that the first components keep, once for feature sets with the same curve."""
    curves: dict[tuple[float, ...], list[str]] = {}
    for row in records(feature_sets):
        curve = row["explained_variance_curve"]
        if isinstance(curve, list) and curve:
            curves.setdefault(tuple(round(v, 9) for v in curve), []).append(row["features"])
    if not curves:
        return None
    series = []
    for colour, (shares, names) in enumerate(curves.items()):
        total = np.cumsum(shares)
        # A curve of 2,560 components is smooth: its bends are at the start.
        at = np.unique(np.geomspace(1, len(shares), min(len(shares), 200)).astype(int))
        label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike"
        series.append(Series(label, at.astype(float).tolist(), total[at - 1].tolist(), "line", colour))
    panel = Panel("all feature sets", "components", "share of variance kept", tuple(series), log_x=True)
    return Chart("explained_variance", "Variance kept by the first components", (panel,))


def k_distance_chart(k_distances: pd.DataFrame, order: Sequence[str]) -> Chart | None:
    """Distances to the k-th neighbour, smallest first; distances of different feature sets do not compare."""
    panels = []
    # Infinite where there are fewer images than k.
    k_distances = k_distances[np.isfinite(k_distances["distance"].astype(float))]
    place = {name: i for i, name in enumerate(order)}
    groups = sorted(
        k_distances.groupby(["features", "metric"]), key=lambda g: (place.get(str(g[0][0]), len(place)), g[0])
    )
    ks = sorted(set(k_distances["k"]))
    for (features, metric), part in groups[:MAX_PANELS]:
        series = []
        for k, rows in part.groupby("k"):
            rows = rows.sort_values("quantile")
            colour = ks.index(k)
            line = rows["quantile"].astype(float).tolist(), rows["distance"].astype(float).tolist()
            series.append(Series(f"k = {k}", *line, "line", colour))
            knee = rows[rows["knee"].astype(bool)]
            if len(knee):
                at = knee["quantile"].astype(float).tolist(), knee["distance"].astype(float).tolist()
                series.append(Series(f"k = {k}: knee", *at, "points", colour))
        panels.append(Panel(f"{features} ({metric})", "share of images", "distance", tuple(series)))
    note = f"The first {MAX_PANELS} of {len(groups)}." if len(groups) > MAX_PANELS else ""
    return Chart("k_distances", "Distance to the k-th nearest image", tuple(panels), note=note) if panels else None


def size_chart(best: pd.DataFrame, clusters: pd.DataFrame, palettes: Palettes) -> Chart | None:
    """The clusters' shares of the images in the best model of every feature set: largest first, 40 at most."""
    panels = []
    for model in records(best.head(MAX_PANELS)):
        own = clusters["model_id"] == model["model_id"]
        part = clusters[own].sort_values(["size", "cluster"], ascending=[False, True])
        if part.empty:
            continue
        shown = part.head(MAX_BARS)
        names = [label_of(row["title"], row["cluster"]) for row in records(shown)]
        values = (100 * shown["share"].astype(float)).tolist()
        numbers = shown["cluster"].astype(int).tolist()
        fill = colours_of(numbers, palettes.get(model["model_id"]))
        series = Series("share", values, list(range(len(values))), "bars", 0, names, clusters=numbers, fill=fill)
        more = f", the largest {MAX_BARS}" if len(part) > MAX_BARS else ""
        panels.append(
            Panel(
                f"{model['features']}: {len(part)} clusters{more}",
                "% of images",
                "",
                (series,),
                model_id=model["model_id"],
            )
        )
    return Chart("cluster_sizes", "Sizes of the clusters", tuple(panels)) if panels else None


def drift_chart(models: pd.DataFrame, clusters: pd.DataFrame, new: pd.DataFrame) -> Chart:
    """The clusters' shares of the fitted images and of the appended ones, noise among them: largest first, 40 at most.

    ``models`` has a row for each panel, ``clusters`` the sizes among fitted images, ``new`` (``model_id, cluster, n``)
    those among appended ones.
    """
    panels = []
    for model in records(models.head(MAX_PANELS)):
        own = clusters[clusters["model_id"] == model["model_id"]]
        titles: dict[int, Any] = {int(row["cluster"]): row["title"] for row in records(own)}
        before = dict(zip(own["cluster"].astype(int), own["size"].astype(int), strict=True)) | {
            -1: model["n_noise"] or 0
        }
        of = new[new["model_id"] == model["model_id"]]
        after = dict(zip(of["cluster"].astype(int), of["n"].astype(int), strict=True))
        shares = [
            {cluster: 100 * n / max(sum(counts.values()), 1) for cluster, n in counts.items()}
            for counts in (before, after)
        ]
        order = sorted(
            (c for c in before.keys() | after.keys() if before.get(c) or after.get(c)),
            key=lambda c: (-max(s.get(c, 0.0) for s in shares), c),
        )
        shown = order[:MAX_BARS]
        names = [_bar_name(titles.get(c), c) for c in shown]
        places = [float(at) for at in range(len(shown))]
        series = tuple(
            Series(name, [s.get(c, 0.0) for c in shown], places, "bars", colour, names, clusters=shown)
            for colour, (name, s) in enumerate(zip(("fitted images", "new images"), shares, strict=True))
        )
        more = f", the largest {MAX_BARS}" if len(order) > MAX_BARS else ""
        title = f"{model['features']}: {int(model['n_clusters'])} clusters{more}"
        panels.append(Panel(title, "% of images", "", series, model_id=model["model_id"]))
    return Chart("drift", "Shares of the clusters, then and now", tuple(panels))


def label_chart(label_sets: pd.DataFrame) -> Chart | None:
    """Accuracy on held-out vehicles over the number of looks, a panel for every attribute."""
    panels = []
    for row in records(label_sets):
        curve = row["curve"] or []
        if curve:
            looks = [float(point["looks"]) for point in curve]
            series = Series("accuracy", looks, [100 * float(point["accuracy"]) for point in curve])
            wanted = Series("target", [looks[0], looks[-1]], [100 * float(row["target"])] * 2, "line", 1)
            panels.append(Panel(row["attribute"], "looks", "% right", (series, wanted)))
    if not panels:
        return None
    note = f"The first {MAX_PANELS} of {len(panels)}." if len(panels) > MAX_PANELS else ""
    return Chart("label_curves", "Right labels over the number of looks", tuple(panels[:MAX_PANELS]), True, note)
