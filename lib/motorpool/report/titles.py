"""What clusters are called on the page: in one place, so that new titles change it without the rest of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from motorpool.report import page
from motorpool.report.figures import charts, data_files, drawing
from motorpool.report.wording import records, title_of


def all_titles(clusters: pd.DataFrame) -> dict[str, dict[int, str]]:
    """By model and cluster, as legends have them."""
    found: dict[str, dict[int, str]] = {}
    for row in records(clusters):
        found.setdefault(row["model_id"], {})[int(row["cluster"])] = title_of(row["title"], int(row["cluster"]))
    return found


def titles_file(context: Mapping[str, Any]) -> str:
    """The file of titles that a reader may edit: every title of the page, in a comment, and what to type."""
    lines = [
        "# What the clusters on the page are called. To change a title, take the # of its line away and edit it:",
        "#     3: White vans",
        "#     3: {title: White vans, description: Delivery vans of the depot.}",
        "# Two clusters with one title count as one kind. Copy this file out of the report's folder, which the next",
        "# report replaces, and type where it lies:",
        f"#   {context['titles_command']}",
        "# To keep them in later runs, name this file in the config: report: {titles: titles.yaml}",
    ]
    for model in context["models_with_cards"]:
        lines += ["", f"{json.dumps(model['name'], ensure_ascii=False)}:"]
        lines += [
            f"  # {item['cluster']}: {json.dumps(item['title'], ensure_ascii=False)}   # {item['size']:,} images"
            for item in model["clusters"]
        ]
    return "\n".join(lines) + "\n"


def write_retitled(folder: Path, clusters: pd.DataFrame) -> None:
    """Write a report's page again with the titles of the rows of ``clusters``, of the models that are on the page.

    Only what has titles is written: the page, the charts' data, and the pictures with clusters' names. OSError and
    ValueError for a folder without a page, or one of another version.
    """
    context, data = page.read(folder)
    _retitle(context, data, clusters)
    _draw(folder, data, clusters)
    page.write(folder, context, data)


def models_of(folder: Path) -> list[str]:
    """The models whose titles the page in a folder shows."""
    context, data = page.read(folder)
    tree = [data["dendrogram"]["tree"]["model_id"]] if "dendrogram" in data else []
    return sorted({*data["titles"], *tree, *(model["model_id"] for model in context["models_with_cards"])})


def _retitle(context: dict[str, Any], data: dict[str, Any], clusters: pd.DataFrame) -> None:
    rows = {(row["model_id"], int(row["cluster"])): row for row in records(clusters)}
    titles = _by_model(clusters)
    shown = [(model["model_id"], item) for model in context["models_with_cards"] for item in model["clusters"]]
    for found in context["separates"]:
        shown += [(found["model_id"], item) for item in found["clusters"]]
    for model_id, item in shown:
        row = rows.get((model_id, item["cluster"]))
        if row is not None:
            item |= page.title_facts(row)
    data["titles"] = all_titles(clusters[clusters["model_id"].isin(list(data["titles"]))])
    for name, found in data.items():
        if name in charts.BY_CLUSTER:
            data[name] = charts.Chart.from_json(found).retitled(titles).to_json()
        elif name == "dendrogram":
            tree = found["tree"]
            tree["names"] = drawing.names_of_leaves(tree, titles.get(tree["model_id"], {}))


def _draw(folder: Path, data: Mapping[str, Any], clusters: pd.DataFrame) -> None:
    titles = _by_model(clusters)
    for name in charts.BY_CLUSTER:
        if name in data:
            chart = charts.Chart.from_json(data[name])
            drawing.draw_chart(chart, folder / "figures" / f"{name}.png")
            data_files.write_chart(chart, folder / "figures" / f"{name}.csv")
    if "dendrogram" in data:
        tree = data["dendrogram"]["tree"]
        palette = {int(c): colour for c, colour in data["palettes"].get(tree["model_id"], {}).items()}
        drawing.draw_tree(tree, titles.get(tree["model_id"], {}), folder / "figures" / "dendrogram.png", palette)


def _by_model(clusters: pd.DataFrame) -> dict[str, dict[int, str | None]]:
    found: dict[str, dict[int, str | None]] = {}
    for row in records(clusters):
        title = row["title"] if isinstance(row["title"], str) else None
        found.setdefault(row["model_id"], {})[int(row["cluster"])] = title
    return found
