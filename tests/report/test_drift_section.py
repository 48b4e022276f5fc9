"""The section on appended images: there where something was appended, with the lake's numbers in words and bars."""

from __future__ import annotations

import html
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from motorpool.config.run import ReportConfig
from motorpool.lake import Lake
from motorpool.pipeline.stages.report import write_report
from motorpool.report.figures.charts import Chart, drift_chart
from motorpool.report.sections.drift_section import _facts, _measures
from motorpool.report.titles import write_retitled
from report_lake import EVIL_TITLE, make_lake

FITTED, NEW = 120, 40


def drift_row(append_id: str, model_id: str, due: bool) -> dict[str, Any]:
    why = "40 % of the images are far from every cluster, where 1 % are usual" if due else None
    return {
        "append_id": append_id, "model_id": model_id, "n_images": NEW if append_id == "all" else NEW // 2, "n_far": 16,
        "share_far": 0.4, "usual_far": 0.01, "far_from": 1.5, "psi": 0.314, "psi_by_chance": 0.2, "refit_due": due,
        "reason": why,
    }  # fmt: skip


def grow(lake: Lake, due: bool, appends: int = 2) -> None:
    """Images behind the others: of the best model half in cluster 0, half noise; every other one is far."""
    model_id = lake.leaderboard().orderBy("rank").first()["model_id"]
    each = NEW // appends
    now = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)
    lake.overwrite_rows(
        "appends",
        [
            {
                "append_id": str(FITTED + i * each), "case": "{}", "first_image_id": FITTED + i * each, "n_rows": each,
                "n_images": each, "n_known": 0, "n_dropped": 0, "paths_fingerprint": "x", "created_at": now,
                "finished_at": now,
            }
            for i in range(appends)
        ],
    )  # fmt: skip
    spark, ids = lake.spark, range(FITTED, FITTED + NEW)
    images = [(i, f"veriwild/1/09999/{i:06d}.jpg", "09999") for i in ids]
    lake.replace_images("images", spark.createDataFrame(images, lake.read("images").schema), ids)
    rows = [(model_id, i, 0 if i % 2 else -1, 2.0 if i % 4 == 1 else 1.0, None, None) for i in ids]
    labels = spark.createDataFrame(rows, Lake.schema("labels"))
    lake.replace_images("labels", labels, ids, {"model_id": [model_id]})
    names = ["all", *(str(FITTED + i * each) for i in range(appends))]
    lake.overwrite_rows("drift", [drift_row(name, model_id, due) for name in names])


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def section_of(folder: Path) -> str:
    page = (folder / "index.html").read_text()
    found = re.search(r'<section id="drift".*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def charts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data" / "page.json").read_text())["charts"]


@pytest.mark.parametrize("due", [True, False])
def test_it_says_what_new_images_differ_in_and_what_to_do(spark: SparkSession, tmp_path: Path, due: bool) -> None:
    lake = make_lake(spark, tmp_path, images=FITTED, models=30)
    out = tmp_path / "report"
    write_report(lake, ReportConfig(), out, None, 1)
    assert section_of(out) == ""
    assert 'href="#drift"' not in (out / "index.html").read_text()
    assert "drift" not in charts_of(out)

    grow(lake, due, appends=2 if due else 1)
    write_report(lake, ReportConfig(), out, None, 1)
    section = section_of(out)
    text = text_of(section)
    assert 'href="#drift">New images<' in (out / "index.html").read_text()
    assert ("New images: a new fit is due" in text) == due
    assert f"40 images came in {'2 appends' if due else '1 append'} after" in text
    assert "40 % of the new images lie far from every cluster 16 of 40; of the images that the model was" in text
    assert "0.31 shift between the clusters" in text
    assert "stay below 0.20 by chance" in text
    assert f"Of 1 model that label new images, {int(due)} should be fitted anew." in text
    assert ("motorpool match --lake NEW_LAKE --earlier" in text) == due
    # A table of appends only where there are several.
    assert section.count("2026-05-04 03:02") == (2 if due else 0)
    assert EVIL_TITLE not in (out / "index.html").read_text()
    # The query that it shows gives the far images: noise, and those behind the limit.
    shown = re.search(r'data-copy="(motorpool sql [^"]*far.csv)"', section)
    assert shown is not None
    query = shlex.split(html.unescape(shown[1]))[6]
    lake.register(query)
    far = [r["path"] for r in spark.sql(query).collect()]
    ids = [int(path[-10:-4]) for path in far]
    assert sorted(ids) == [i for i in range(FITTED, FITTED + NEW) if i % 4 != 3]

    chart = Chart.from_json(charts_of(out)["drift"])
    before, after = chart.panels[0].series
    assert (before.name, after.name) == ("fitted images", "new images")
    assert before.clusters == after.clusters == [-1, 0, 1, 2, 3, 4, 5]
    assert before.x == pytest.approx([0, *[100 / 6] * 6])
    assert after.x == [50.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert before.text[0] == "noise"
    assert (out / "figures" / "drift.png").stat().st_size > 5_000
    assert "new images" in (out / "figures" / "drift.csv").read_text()

    # New titles reach its bars, and leave the noise what it is.
    model_id = chart.panels[0].model_id
    clusters = pd.DataFrame(lake.rows("clusters", model_id=[model_id])).assign(title="red vans")
    write_retitled(out, clusters)
    again = Chart.from_json(charts_of(out)["drift"]).panels[0].series[1].text
    assert again[:2] == ["noise", "0  red vans"]
    assert section_of(out) == section


@pytest.mark.parametrize(
    ("algorithm", "far_from", "far"),
    [("kmeans", 1.5, "40 %"), ("dbscan", None, "40 %"), ("gaussian_mixture", None, "–"), ("agglomerative", None, "–")],
)
def test_what_an_algorithm_does_not_tell_is_not_claimed(algorithm: str, far_from: float | None, far: str) -> None:
    row = drift_row("all", "m", False) | {"algorithm": algorithm, "far_from": far_from, "why": None}
    fact, shift, due = _facts(row)
    assert fact.value == far
    assert ("does not tell which images are far" in fact.text) == (far == "–")
    assert _measures(row)["far"] == far
    assert (shift.value, due.value, due.label) == ("0.31", "No", "new fit is due")


def test_bars_of_models_of_any_size() -> None:
    models = pd.DataFrame(
        [("m", "set", 100, 0), ("n", "other", 2, 5)], columns=["model_id", "features", "n_clusters", "n_noise"]
    )
    clusters = pd.DataFrame(
        [("m", c, 100 - c, None) for c in range(100)] + [("n", 0, 5, "a"), ("n", 1, 0, None)],
        columns=["model_id", "cluster", "size", "title"],
    )
    new = pd.DataFrame([("m", 99, 3), ("n", 0, 1)], columns=["model_id", "cluster", "n"])
    large, small = drift_chart(models, clusters, new).panels
    assert len(large.series[0].x) == 40
    # The largest share of either comes first.
    assert large.series[0].clusters[:2] == [99, 0]
    assert large.title == "set: 100 clusters, the largest 40"
    # A cluster without images, then or now, has no bars.
    assert small.series[0].clusters == [0, -1]
    assert [s.x for s in small.series] == [[50.0, 50.0], [100.0, 0.0]]
    assert small.series[0].text == ["0  a", "noise"]
