"""The page: what the templates show, as plain values, and the files that it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool.report.palette import ALARM, COLOURS, GREY, colour_of
from motorpool.report.scoring import table_scores
from motorpool.report.wording import algorithm_name, capital, is_missing, number, records, share, title_of

SECTIONS = (
    ("labels", "Labels"),
    ("verdict", "Verdict"),
    ("models", "Models"),
    ("curves", "Curves"),
    ("agreement", "Agreement"),
    ("maps", "Maps"),
    ("clusters", "Clusters"),
    ("vehicles", "Vehicles"),
    ("outliers", "Outliers"),
    ("about", "About"),
)


def board_columns() -> list[tuple[str, str, str]]:
    """Key, heading and kind of the columns of the table of models."""
    # The dagger's note says that these scores do not compare between feature sets.
    scores = [(s.name, capital(s.title) + ("" if s.comparable else " †"), "number") for s in table_scores()]
    return [
        ("rank", "Rank", "number"),
        ("score", "Mean rank", "number"),
        ("features", "Feature set", "text"),
        ("algorithm", "Algorithm", "text"),
        ("n_clusters", "Clusters", "number"),
        ("noise", "Noise", "number"),
        *scores,
        ("params", "Parameters", "text"),
        ("reason", "Why not ranked", "text"),
    ]


#: Parameters that are lists of ids, of no use to a reader.
_HIDDEN = frozenset({"members", "tree_of", "micro_clusters_of"})


@dataclass(frozen=True)
class Gap:
    """What a section lacks, and the command that makes it."""

    what: str
    command: str


def gaps() -> dict[str, Gap]:
    """What each section says where its table is missing or empty."""
    conf = "--conf FILE"

    def lacks(table: str, command: str) -> Gap:
        return Gap(f"the table {table} is missing or empty", f"motorpool {command} {conf}")

    return {
        "clusters": lacks("clusters", "cluster"),
        "scores": Gap("no model has scores", f"motorpool cluster {conf}"),
        "variance": Gap("no feature set has a pca or svd step", f"motorpool features {conf}"),
        "k_distances": Gap(
            "the table k_distances is missing or empty (DBSCAN grids write it)", f"motorpool cluster {conf}"
        ),
        "agreement": lacks("agreement", "consensus"),
        "tree": Gap("the lake holds no agglomerative model with its tree", f"motorpool cluster {conf}"),
        "maps_2d": Gap("the table projections holds no map of two dimensions", f"motorpool project {conf}"),
        "maps_3d": Gap(
            "the table projections holds no map of three dimensions (projections.dims)", f"motorpool project {conf}"
        ),
        "titles": Gap("the clusters have no titles", f"motorpool interpret {conf}"),
        "vehicles": Gap("the table vehicles holds no rows of the first model", f"motorpool vehicles {conf}"),
        "outliers": lacks("outliers", "outliers"),
        "reasons": lacks("outlier_reasons", "outliers"),
    }  # fmt: skip


def board(models: pd.DataFrame, n_images: int) -> list[dict[str, Any]]:
    """The table of models: for each its cells' texts and, where they are numbers, what to sort by."""
    rows = []
    for model in records(models):
        params = {k: v for k, v in sorted(model["params"].items()) if k not in _HIDDEN}
        noise = None if is_missing(model["n_noise"]) or not n_images else model["n_noise"] / n_images
        cells = [
            _cell(model["rank"], 0),
            _cell(model["score"], 3),
            _text(model["features"]),
            _text(algorithm_name(model["algorithm"])),
            _cell(model["n_clusters"], 0),
            {"number": True, "v": noise, "text": "–" if noise is None else share(noise)},
            *(_cell(model[s.name], s.decimals) for s in table_scores()),
            _text(", ".join(f"{k} {v}" for k, v in params.items())),
            _text("" if not is_missing(model["rank"]) else model["reason"] or model["status"]),
        ]
        rows.append(
            {
                "model_id": model["model_id"],
                "features": model["features"],
                "algorithm": algorithm_name(model["algorithm"]),
                "n_clusters": 0 if is_missing(model["n_clusters"]) else int(model["n_clusters"]),
                "rank": None if is_missing(model["rank"]) else int(model["rank"]),
                "cells": cells,
            }
        )
    return rows


def _cell(value: Any, digits: int) -> dict[str, Any]:
    return {"number": True, "v": None if is_missing(value) else float(value), "text": number(value, digits)}


def _text(text: str) -> dict[str, Any]:
    return {"number": False, "v": None, "text": text}


def cluster_items(clusters: pd.DataFrame, model_id: str, limit: int) -> list[dict[str, Any]]:
    """The clusters of a model as the page shows them, the largest first, at most ``limit``."""
    part = clusters[clusters["model_id"] == model_id].sort_values(["size", "cluster"], ascending=[False, True])
    return [
        {
            "anchor": f"c-{model_id}-{int(row['cluster'])}",
            "cluster": int(row["cluster"]),
            "title": title_of(row["title"], int(row["cluster"])),
            "description": row["description"] if isinstance(row["description"], str) else "",
            "size": int(row["size"]),
            "share": float(row["share"]),
            "share_text": share(row["share"]),
            "colour": colour_of(int(row["cluster"])),
            "photos": None,
            "montages": [],
        }
        for row in records(part.head(limit))
    ]


def write_data(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """A data file that a page opened from disk can load: a script that hands over JSON."""
    # Angle brackets are written as escapes, so that no text can end a script wherever the file is put.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    (folder / f"{name}.js").write_text(f"motorpool.put({json.dumps(name)},{text});\n", encoding="ascii")


def chart_data(
    charts: Iterable[Any], tree: Mapping[str, Any] | None, maps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """``data/charts.js``: the palette, the charts by name, the tree, and which maps there are."""
    data: dict[str, Any] = {"colours": COLOURS, "grey": GREY, "alarm": ALARM, "maps": list(maps)}
    data |= {chart.name: chart.to_json() for chart in charts}
    if tree is not None:
        data["dendrogram"] = {"tree": tree}
    return data


def render(folder: Path, context: Mapping[str, Any]) -> None:
    """``index.html`` and ``assets/``; every value of the context is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not by the files' ending, which is j2.
    env = Environment(
        loader=PackageLoader("motorpool.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = env.get_template("index.html.j2").render(**context, sections=SECTIONS, board_columns=board_columns())
    (folder / "index.html").write_text(text, encoding="utf-8")
    assets = folder / "assets"
    assets.mkdir()
    for name in ("style.css", "report.js", "charts.js", "maps.js"):
        (assets / name).write_bytes(resources.files("motorpool.report").joinpath("static", name).read_bytes())
    write_plotly(assets)


def write_plotly(assets: Path) -> None:
    """plotly.js as the Python package brings it: 4.8 MB, the one large file that the page needs."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    (assets / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
