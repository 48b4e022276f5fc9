"""The figures as PNG pictures for papers and slides, by matplotlib; 150 dots an inch, white ground."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from motorpool.report.figures.charts import Chart, Panel, Series
from motorpool.report.figures.dendrogram import Branches, from_json
from motorpool.report.figures.maps import Map
from motorpool.report.palette import COLOURS, colour_of, colours_of
from motorpool.report.wording import label_of, records

_DPI = 150
_INK = "#30343a"
#: Degrees above the ground from which maps in three dimensions are seen.
_ELEVATION = 18
#: Clusters' numbers on maps: colour alone does not tell clusters apart.
_NUMBER: dict[str, Any] = {
    "fontsize": 9, "weight": "bold", "color": _INK, "ha": "center", "va": "center",
    "path_effects": [withStroke(linewidth=2.2, foreground="white")],
}  # fmt: skip
_STYLE: dict[str, Any] = {"color": _INK, "fontsize": 9}


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, outside of pyplot: nothing global, nothing to close. Sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa0a8")
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.grid(True, color="#e4e6ea", linewidth=0.6)
    axes.set_axisbelow(True)


def _shortened(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _plain(text: str) -> str:
    """Without matplotlib's mathematics, which a dollar sign in a name would start."""
    return text.replace("$", r"\$")


def draw_chart(chart: Chart, out: Path) -> None:
    """The panels as small multiples, three to a row, with one legend below where series have names to tell."""
    bars = any(s.kind == "bars" for p in chart.panels for s in p.series)
    columns = min(2 if bars else 3, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    tallest = max(len(s.x) for p in chart.panels for s in p.series) if bars else 0
    # Bars beside each other take more room.
    slot = 0.2 if max(len(p.series) for p in chart.panels) == 1 else 0.3
    width = 4.6 if bars else 3.6 if columns > 1 else 6.4
    figure = _figure(width * columns, rows * (max(1.6, 0.6 + slot * tallest) if bars else 2.7) + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=chart.share_y)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, chart.panels, strict=False):
        _bare(axes)
        _draw_panel(axes, panel, tallest, handles)
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_visible(False)
    if len(handles) > 1 or (handles and not bars):
        figure.legend(
            handles.values(), [_plain(_shortened(n)) for n in handles], loc="outside lower center",
            ncols=min(len(handles), max(2, int(width * columns / 2.4))), fontsize=8, frameon=False, labelcolor=_INK,
        )  # fmt: skip
    figure.suptitle(chart.title, fontsize=11, color=_INK)
    figure.savefig(out)


def _draw_panel(axes: Any, panel: Panel, slots: int, handles: dict[str, Any]) -> None:
    axes.set_title(_plain(_shortened(panel.title, 44)), fontsize=9, color=_INK)
    axes.set_xlabel(panel.x_label, **_STYLE)
    axes.set_ylabel(panel.y_label, **_STYLE)
    if panel.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    beside = sum(s.kind == "bars" for s in panel.series)
    for at, series in enumerate(panel.series):
        colour = COLOURS[series.colour % len(COLOURS)]
        if series.kind == "bars":
            drawn = _draw_bars(axes, series, slots, at, beside)
            if beside > 1:
                handles.setdefault(series.name, drawn)
            continue
        if series.kind == "line":
            # Colours repeat in long legends, and so some lines are broken.
            style = ("-", "--", ":")[series.colour // len(COLOURS) % 3]
            mark = "o" if len(series.x) <= 40 else ""
            (drawn,) = axes.plot(series.x, series.y, style, color=colour, marker=mark, markersize=3, linewidth=1.3)
            hollow = [i for i, h in enumerate(series.hollow) if h]
            axes.plot(
                [series.x[i] for i in hollow], [series.y[i] for i in hollow], "o", color="white",
                markeredgecolor=colour, markersize=4,
            )  # fmt: skip
        else:
            face = ["none" if h else colour for h in series.hollow] or colour
            drawn = axes.scatter(series.x, series.y, s=16, facecolors=face, edgecolors=colour, linewidths=0.9)
        handles.setdefault(series.name, drawn)


def _draw_bars(axes: Any, series: Series, slots: int, nth: int, beside: int) -> Any:
    """The ``nth`` of as many sets of bars as stand ``beside`` each other."""
    height = 0.7 / beside
    places = [y + height * (nth - (beside - 1) / 2) for y in series.y]
    # Outlined, since a white bar on white paper is none.
    colour = series.fill or COLOURS[series.colour % len(COLOURS)]
    drawn = axes.barh(places, series.x, color=colour, height=height, edgecolor=_INK, linewidth=0.5)
    axes.set_yticks(series.y, [_plain(_shortened(t, 30)) for t in series.text])
    # As many slots in every panel: bars are equally thick.
    axes.set_ylim(slots - 0.4, -0.6)
    axes.grid(False, axis="y")
    for at, value in zip(places, series.x, strict=True):
        axes.annotate(f" {value:.1f}", (value, at), va="center", fontsize=7 if beside == 1 else 6, color=_INK)
    axes.margins(x=0.12)
    return drawn


def draw_agreement(names: Sequence[str], ari: np.ndarray, out: Path) -> None:
    """The adjusted Rand indices of all pairs as a table of shades, float[n, n], NaN where a pair was not compared."""
    n = len(names)
    figure = _figure(max(4.5, 0.62 * n + 2.6), max(3.6, 0.5 * n + 2.0))
    axes = figure.subplots()
    shown = axes.imshow(ari, cmap="cividis", vmin=min(0.0, np.nanmin(ari)), vmax=1.0)
    labels = [_plain(_shortened(name, 28)) for name in names]
    axes.set_xticks(range(n), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8, color=_INK)
    axes.set_yticks(range(n), labels, fontsize=8, color=_INK)
    for i, j in np.ndindex(n, n):
        if np.isfinite(ari[i, j]):
            axes.text(j, i, f"{ari[i, j]:.2f}", ha="center", va="center", fontsize=8,
                      color="black" if ari[i, j] > 0.5 else "white")  # fmt: skip
    figure.colorbar(shown, ax=axes, shrink=0.8, label="adjusted Rand index")
    axes.set_title("Agreement between the best models", fontsize=11, color=_INK)
    figure.savefig(out)


def draw_dendrogram(
    tree: Branches, title: str, names: Mapping[int, str], out: Path, palette: Mapping[int, str] | None = None
) -> None:
    """The tree lying down, so that the leaves' names can be read; the dashed line is the cut."""
    n = len(tree.leaf_cluster)
    figure = _figure(7.5, 0.17 * n + 1.4)
    axes = figure.subplots()
    _bare(axes)
    axes.grid(False)
    for across, height, cluster in zip(tree.across, tree.height, tree.line_cluster, strict=True):
        axes.plot(height, across, color=colour_of(cluster, palette), linewidth=1.3)
    axes.axvline(tree.cut, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_yticks([5 + 10 * i for i in range(n)], [_plain(_shortened(t)) for t in leaf_names(tree, names)])
    for tick, cluster in zip(axes.get_yticklabels(), tree.leaf_cluster, strict=True):
        tick.set_color(colour_of(cluster, palette))
        tick.set_fontsize(7)
    axes.yaxis.tick_right()
    axes.spines["left"].set_visible(False)
    axes.set_xlim(float(tree.height.max()) * 1.04, 0)
    axes.set_xlabel("height of the merge", **_STYLE)
    axes.set_title(_plain(title), fontsize=11, color=_INK)
    figure.savefig(out)


def draw_tree(tree: Mapping[str, Any], titles: Mapping[int, Any], out: Path, palette: Mapping[int, str]) -> list[str]:
    """The tree of `dendrogram.to_json`, which has a title, with the clusters' titles; returns the leaves' names."""
    names = {cluster: label_of(title, cluster) for cluster, title in titles.items()}
    draw_dendrogram(from_json(tree), tree["title"], names, out, palette)
    return names_of_leaves(tree, titles)


def names_of_leaves(tree: Mapping[str, Any], titles: Mapping[int, Any]) -> list[str]:
    """`leaf_names` of the tree of `dendrogram.to_json`, with the clusters' titles."""
    return leaf_names(from_json(tree), {cluster: label_of(title, cluster) for cluster, title in titles.items()})


def leaf_names(tree: Branches, names: Mapping[int, str]) -> list[str]:
    """``3  red, by day (1,204)`` for every leaf: its cluster, and the images where their number is known.

    ``7 clusters (1,204)`` for a leaf of several.
    """
    return [
        (f"{held:,} clusters" if held > 1 else names.get(c, label_of(None, c))) + ("" if n is None else f" ({n:,})")
        for c, held, n in zip(tree.leaf_cluster, tree.leaf_clusters, tree.leaf_images, strict=True)
    ]


def draw_maps(maps: Sequence[Map], out: Path, points: int) -> None:
    """2-D maps as small multiples, coloured by cluster, with the clusters' numbers; the first ``points`` images."""
    columns = min(3, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = _figure(4.2 * columns, 4.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, shown in zip(grid.flat, maps, strict=False):
        xyz, clusters, left_out = _framed(shown, points)
        axes.scatter(*xyz.T, s=min(6.0, 30_000 / max(1, len(xyz))), c=colours_of(clusters, shown.palette),
                     linewidths=0, alpha=0.75)  # fmt: skip
        if shown.frame.cut:
            axes.set_xlim(shown.frame.low[0], shown.frame.high[0])
            axes.set_ylim(shown.frame.low[1], shown.frame.high[1])
        axes.set_xlabel(left_out, color=_INK, fontsize=8)
        for cluster, at in shown.labels.items():
            axes.annotate(str(cluster), at, **_NUMBER)
        axes.set_title(_plain(f"{_shortened(shown.features)}: {shown.name}"), fontsize=9, color=_INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#c8ccd2")
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    figure.savefig(out)


def _framed(shown: Map, points: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The places float32[m, dims] and clusters int[m] of those of the first ``points`` images that are in the frame.

    With them what is left out, in words; empty where nothing is. The first images are a uniform sample of all.
    """
    known = np.isfinite(shown.xyz).all(axis=1)
    xyz, clusters = shown.xyz[known][:points], shown.clusters[known][:points]
    outside = shown.frame.outside(xyz)
    n = np.count_nonzero(outside)
    return xyz[~outside], clusters[~outside], f"{n:,} of {len(xyz):,} points lie outside the frame" if n else ""


def save_3d(shown: Map, out: Path) -> None:
    _view_3d(shown, 45.0, len(shown.xyz), 6.0, _DPI).savefig(out)


def draw_turning(shown: Map, out: Path, *, frames: int = 36, points: int = 4000, pixels: int = 480) -> None:
    """A GIF of the 3-D map turning once; at most ``points`` points and ``frames`` pictures.

    Its up to 256 colours are those of the clusters, their tints on white and greys, the same in all frames: a palette
    of what one frame shows makes one of two clusters that are alike in it. Some 2 MB. Memory: the frames, pixels²
    bytes each.
    """
    figure = _view_3d(shown, 0.0, points, pixels / 100, 100)
    canvas, axes = FigureCanvasAgg(figure), figure.axes[0]
    pictures: list[Image.Image] = []
    palette = _gif_palette(sorted(set(colours_of(np.unique(shown.clusters), shown.palette))))
    for frame in range(frames):
        axes.view_init(elev=_ELEVATION, azim=360 * frame / frames)  # type: ignore[attr-defined]
        canvas.draw()  # type: ignore[no-untyped-call]
        rgb = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]
        pictures.append(rgb.quantize(palette=palette, dither=Image.Dither.NONE))
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=110, loop=0, optimize=False)


def _gif_palette(colours: Sequence[str]) -> Image.Image:
    """Greys, and every colour with as many tints towards white as there is room for."""
    greys = [round(255 * at / 15) for at in range(16)]
    rgb = [tuple(int(c[at : at + 2], 16) for at in (1, 3, 5)) for c in colours[:240]]
    tints = max(1, min(8, (256 - len(greys)) // max(1, len(rgb))))
    wanted = [(v, v, v) for v in greys]
    for at in range(tints):
        wanted += [(*(round(v + (255 - v) * at / tints) for v in own),) for own in rgb]  # type: ignore[misc]
    picture = Image.new("P", (1, 1))
    picture.putpalette([v for own in wanted for v in own])
    return picture


def _view_3d(shown: Map, azimuth: float, points: int, inches: float, dpi: int) -> Figure:
    figure = Figure(figsize=(inches, inches), dpi=dpi)
    FigureCanvasAgg(figure)
    with rc_context({"grid.color": "#dfe2e7", "grid.linewidth": 0.6}):
        axes: Any = figure.add_axes((0.0, 0.0, 1.0, 0.94), projection="3d")
    xyz, clusters, left_out = _framed(shown, points)
    axes.scatter(*xyz.T, s=5, c=colours_of(clusters, shown.palette), linewidths=0, alpha=0.8, depthshade=False)
    for cluster, at in shown.labels.items():
        axes.text(*at, str(cluster), zorder=10, **_NUMBER)
    if shown.frame.cut:
        for name, low, high in zip("xyz", shown.frame.low, shown.frame.high, strict=True):
            getattr(axes, f"set_{name}lim")(low, high)
    axes.view_init(elev=_ELEVATION, azim=azimuth)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_ticklabels([])
        axis.set_tick_params(length=0, color="#dfe2e7")
        axis.pane.set_alpha(0.03)
        axis.line.set_color("#9aa0a8")
    axes.set_box_aspect((1, 1, 1), zoom=1.05)
    figure.text(0.5, 0.965, _plain(f"{_shortened(shown.features)}: {shown.name}"), ha="center", va="center", **_STYLE)
    figure.text(0.5, 0.02, left_out, ha="center", va="center", color=_INK, fontsize=8)
    return figure


def agreement_matrix(pairs: pd.DataFrame, n_clusters: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """Names ``features (k)`` and the symmetric float64[n, n] of their adjusted Rand indices, 1 on the diagonal."""
    nodes = sorted(
        {
            *zip(pairs["features_a"], pairs["model_a"], strict=True),
            *zip(pairs["features_b"], pairs["model_b"], strict=True),
        }
    )
    at = {model_id: i for i, (_, model_id) in enumerate(nodes)}
    ari = np.full((len(nodes), len(nodes)), np.nan)
    np.fill_diagonal(ari, 1.0)
    for row in records(pairs):
        i, j = at[row["model_a"]], at[row["model_b"]]
        ari[i, j] = ari[j, i] = row["ari"]
    return [f"{features} ({n_clusters[m]})" if m in n_clusters else features for features, m in nodes], ari
