"""The page: what the templates show, as plain values, and the files that it is made of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motorpool.config.run import LakeConfig, local_folder
from motorpool.interpret.stored import from_text
from motorpool.interpret.wording import AND, ATTRIBUTES, LABELS, PEOPLE, PHOTOS, parts_of
from motorpool.report.gaps import gaps
from motorpool.report.palette import ALARM, COLOURS, GREY, Palettes, as_css, colour_of, css_variables, on_dark
from motorpool.report.scoring import table_scores
from motorpool.report.wording import algorithm_name, capital, is_missing, number, records, share, title_of

#: Where a title comes from, on its card.
SOURCES = {
    PEOPLE: "named by people",
    ATTRIBUTES: "from the attributes file",
    LABELS: "from the labels that are accepted",
    PHOTOS: "from the photos, measured",
}
#: What the shares of a title's part are counted of.
_COUNTED = {ATTRIBUTES: "images in the attributes file", LABELS: "accepted labels", PHOTOS: "measured photos"}
#: A title of a smaller share than this is marked: a quarter of the photos show something else.
SURE = 0.75

SECTIONS = (
    ("labels", "Labels"),
    ("verdict", "Verdict"),
    ("drift", "New images"),
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
        ("model_id", "Model id", "text"),
        ("params", "Parameters", "text"),
        ("remark", "Remark", "text"),
    ]


#: Between two sentences of a description.
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z0-9])")
#: What the page was made of, for `motorpool titles` to write it again.
PAGE = "data/page.json"
#: Parameters that are lists of ids, of no use to a reader.
_HIDDEN = frozenset({"members", "tree_of", "micro_clusters_of"})


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
            {"number": True, "id": False, "v": noise, "text": "–" if noise is None else share(noise)},
            *(_cell(model[s.name], s.decimals) for s in table_scores()),
            _text(model["model_id"]) | {"id": True},
            _text(", ".join(f"{k} {v}" for k, v in params.items())),
            _text(remark(model)),
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


def remark(model: Mapping[str, Any]) -> str:
    """Why a model is not ranked, and what to look at before it is used; empty where there is nothing to say."""
    why = "" if not is_missing(model["rank"]) else model["reason"] or model["status"]
    return "; ".join(text for text in (why, model["warning"]) if isinstance(text, str) and text)


def _cell(value: Any, digits: int) -> dict[str, Any]:
    return {
        "number": True,
        "id": False,
        "v": None if is_missing(value) else float(value),
        "text": number(value, digits),
    }


def _text(text: str) -> dict[str, Any]:
    return {"number": False, "v": None, "text": text, "id": False}


def cluster_items(
    clusters: pd.DataFrame, model_id: str, limit: int, palette: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """The clusters of a model as the page shows them, the largest first, at most ``limit``."""
    part = clusters[clusters["model_id"] == model_id].sort_values(["size", "cluster"], ascending=[False, True])
    return [
        {
            "anchor": f"c-{model_id}-{int(row['cluster'])}",
            "cluster": int(row["cluster"]),
            **title_facts(row),
            "size": int(row["size"]),
            "share": float(row["share"]),
            "share_text": share(row["share"]),
            "colour": as_css(colour_of(int(row["cluster"]), palette)),
            "photos": None,
            "montages": [],
            "list": None,
            "listed": 0,
            "command": "",
        }
        for row in records(part.head(limit))
    ]


def title_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of ``clusters`` says about the title: all on a card that new titles change."""
    title = title_of(row["title"], int(row["cluster"]))
    return {
        "title": title,
        "titled": isinstance(row["title"], str) and bool(row["title"].strip()),
        "sentences": _SENTENCE.split(row["description"].strip()) if isinstance(row["description"], str) else [],
        "source": _sources(row["title_from"]) if isinstance(row["title_from"], str) else "",
        "sure": "" if is_missing(row["title_share"]) else share(row["title_share"]),
        "unsure": not is_missing(row["title_share"]) and float(row["title_share"]) < SURE,
        "basis": _basis(row, title),
    }


def _sources(title_from: str) -> str:
    """Where a title comes from, in words; what another version wrote there says nothing."""
    return AND.join(SOURCES[source] for source in title_from.split(AND) if source in SOURCES)


def _basis(row: Mapping[str, Any], title: str) -> list[str]:
    """What each part of a made title rests on, in words; none for titles that people gave, and of earlier versions."""
    if not isinstance(row["evidence"], str) or row["title_from"] == PEOPLE:
        return []
    found = []
    for part in parts_of(title, from_text(row["evidence"])):
        if part.share is not None and part.of is not None and part.usual is not None:
            found.append(
                f"{capital(part.topic)}: {part.value} on {share(part.share)} of {part.of:,} {_COUNTED[part.counted]} "
                f"(usually {share(part.usual)})."
            )
    return found


def write_data(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """A data file that a page opened from disk can load: a script that hands over JSON."""
    # Angle brackets are written as escapes, so that no text can end a script wherever the file is put.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    (folder / f"{name}.js").write_text(f"motorpool.put({json.dumps(name)},{text});\n", encoding="ascii")


def chart_data(
    charts: Iterable[Any],
    tree: Mapping[str, Any] | None,
    maps: Sequence[Mapping[str, Any]],
    palettes: Palettes,
    titles: Mapping[str, Mapping[int, str]],
) -> dict[str, Any]:
    """``data/charts.js``: the palettes, what clusters are called, the charts by name, the tree, and which maps are."""
    data: dict[str, Any] = {
        "colours": COLOURS, "grey": GREY, "alarm": ALARM, "on_dark": on_dark(), "palettes": palettes, "titles": titles,
        "maps": list(maps),
    }  # fmt: skip
    data |= {chart.name: chart.to_json() for chart in charts}
    if tree is not None:
        data["dendrogram"] = {"tree": dict(tree)}
    return data


def lake_name(config: LakeConfig) -> str:
    """A lake by its absolute path, or its name in a catalog."""
    if config.path is None:
        return ".".join(name for name in (config.catalog, config.schema_name) if name)
    folder = local_folder(config.path)
    return config.path.rstrip("/") if folder is None else str(folder.resolve())


def lake_at(config: LakeConfig, out: Path) -> dict[str, str]:
    """Where the lake of a report in the folder ``out`` is: seen from there, so that both can move together."""
    name = lake_name(config)
    in_folder = config.path is not None and local_folder(config.path) is not None
    return {"folder": os.path.relpath(name, out.resolve())} if in_folder else {"name": name}


def lake_of(folder: Path) -> str:
    """The `lake_name` of the report in a folder; empty for one of an earlier version, and where the lake is gone."""
    try:
        found = read(folder)[0]["lake_at"]
        if "name" in found:
            return str(found["name"])
        there = (folder / found["folder"]).resolve()
        return str(there) if there.exists() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write(folder: Path, context: Mapping[str, Any], charts: Mapping[str, Any]) -> None:
    """``index.html``, ``data/charts.js``, and ``data/page.json``, from which `read` gives both again."""
    write_data(folder / "data", "charts", charts)
    kept = json.dumps({"context": context, "charts": charts}, default=_plain, separators=(",", ":"), allow_nan=False)
    # As in data files: no text can become a tag, whatever opens this one.
    (folder / PAGE).write_text(kept.replace("<", "\\u003c"), encoding="ascii")
    # As it is read again, so that both ways give one page.
    (folder / "index.html").write_text(_rendered(json.loads(kept)["context"]), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, dataclasses by field."""
    return value.item() if isinstance(value, np.generic) else vars(value)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The context and the charts of the page in a folder; OSError or ValueError where it holds none."""
    found = json.loads((folder / PAGE).read_text(encoding="ascii"))
    return found["context"], found["charts"]


def _rendered(context: Mapping[str, Any]) -> str:
    """Every value of the context is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not by the files' ending, which is j2.
    env = Environment(
        loader=PackageLoader("motorpool.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    # The one section that is not there where there is nothing to say.
    sections = [section for section in SECTIONS if section[0] != "drift" or context["drift"]]
    return env.get_template("index.html.j2").render(
        **context, gaps=gaps(), sections=sections, board_columns=board_columns()
    )


def write_assets(folder: Path) -> None:
    """``assets/``: what every page has."""
    assets = folder / "assets"
    assets.mkdir()
    for name in ("style.css", "report.js", "charts.js", "maps.js", "titles.js"):
        (assets / name).write_bytes(resources.files("motorpool.report").joinpath("static", name).read_bytes())
    with (assets / "style.css").open("a", encoding="utf-8") as f:
        f.write(css_variables())
    write_plotly(assets)


def write_plotly(assets: Path) -> None:
    """plotly.js as the Python package brings it: 4.8 MB, the one large file that the page needs."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    (assets / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
