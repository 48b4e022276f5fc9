"""The notebooks: they run on another lake, are stored with outputs, and their helpers do what they say."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image
from test_sql_cookbook import build

from motorpool.config.load import load_config
from motorpool.pipeline.context import Context

MAX_BYTES = 600_000
#: Of the JSON of all figures of a notebook.
MAX_JSON = 200_000
PLOTLY = "application/vnd.plotly.v1+json"
#: A call of Plotly Express, as the notebooks import it.
FIGURE = re.compile(r"\bpx\.")
#: Folders of the machine that made the outputs.
ABSOLUTE = re.compile(r"(?<![\w./])/(?:tmp|work|home|root|Users|opt|var)/")


@pytest.mark.slow
def test_all_run_on_another_lake(sample_run: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One kernel for all, a fresh namespace for each; a cell that fails raises."""
    monkeypatch.setenv("MOTORPOOL_LAKE", str(sample_run.config.lake.path))
    monkeypatch.setenv("MOTORPOOL_IMAGES", f"{sample_run.config.case.path}/raw_data")  # type: ignore[union-attr]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebooks = [nbformat.read(path, as_version=4) for path in build.NOTEBOOKS]
    assert len(notebooks) == 6
    # As JSON only: pictures need a browser, and a test below has one drawn.
    build.execute(notebooks, tmp_path, renderers="plotly_mimetype")
    for ran in notebooks:
        code = [c for c in ran.cells if c.cell_type == "code"]
        assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
        # A query or a picture in every cell but those that prepare.
        assert sum(bool(c.outputs) for c in code) >= len(code) - 2
        for cell in code:
            assert bool(FIGURE.search(cell.source)) == any(PLOTLY in o["data"] for o in shown(cell))
    # Spark may leave the empty folder of its warehouse.
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_figure_is_stored_as_json_and_as_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    if "BROWSER_PATH" not in os.environ and not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))):
        pytest.skip("no Chromium or Chrome in the PATH, and BROWSER_PATH names none")
    cell = nbformat.v4.new_code_cell('import plotly.express as px\n\npx.bar(x=["a", "b"], y=[1, 3], height=300)')
    build.execute([nbformat.v4.new_notebook(cells=[cell])], tmp_path)
    (output,) = (o for o in cell.outputs if o.output_type == "display_data")
    assert set(output["data"]) == {PLOTLY, "image/png"}
    assert picture_of(output["data"]["image/png"]).size == (700, 300)


def shown(cell: Any) -> list[Any]:
    """What a cell shows, without the line that says why Spark has to answer."""
    return [o for o in cell.outputs if not (o.output_type == "stream" and o.text.startswith("Spark answers"))]


def picture_of(stored: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(stored)))


@pytest.mark.parametrize("path", build.NOTEBOOKS, ids=lambda p: p.stem)
class TestStored:
    def test_outputs(self, path: Path) -> None:
        stored = nbformat.read(path, as_version=4)
        nbformat.validate(stored)
        assert path.stat().st_size < MAX_BYTES
        code = [c for c in stored.cells if c.cell_type == "code"]
        assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
        assert sum(bool(c.outputs) for c in code) >= len(code) - 2
        for cell in code:
            # Plotly's figures display themselves.
            kind = "display_data" if FIGURE.search(cell.source) else "execute_result"
            assert {o.output_type for o in shown(cell)} <= {kind}

    def test_no_path_of_a_machine(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            for output in shown(cell) if cell.cell_type == "code" else ():
                for kind, value in output["data"].items():
                    text = value if isinstance(value, str) else json.dumps(value)
                    assert kind.startswith("image/") or not ABSOLUTE.search(text), text[:300]

    def test_figures(self, path: Path) -> None:
        """One call each, with the query beside it; as JSON, and as a picture where that is not drawn."""
        cells = [c for c in nbformat.read(path, as_version=4).cells if FIGURE.search(c.source)]
        wanted = {
            "1_tour_of_the_tables": 1, "2_choose_a_model": 3, "3_read_the_clusters": 3, "4_outliers": 2,
            "6_from_photos_to_labels": 2,
        }  # fmt: skip
        assert len(cells) == wanted.get(path.stem, 0)
        for cell in cells:
            assert len(FIGURE.findall(cell.source)) == 1
            (output,) = (o for o in cell.outputs if o.output_type == "display_data")
            assert set(output["data"]) == {PLOTLY, "image/png"}
            assert output["data"][PLOTLY]["layout"]["title"]["text"]
            picture = picture_of(output["data"]["image/png"])
            assert min(picture.size) >= 300
            assert np.asarray(picture.convert("L")).std() > 5, "an empty figure"
        assert sum(len(json.dumps(c.outputs[0]["data"][PLOTLY])) for c in cells) < MAX_JSON

    def test_photos(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        outputs = [o["data"] for c in cells if c.cell_type == "code" for o in shown(c)]
        photos = [d["image/jpeg"] for d in outputs if "image/jpeg" in d]
        wanted = {
            "1_tour_of_the_tables": 1, "3_read_the_clusters": 3, "4_outliers": 2, "6_from_photos_to_labels": 3,
        }  # fmt: skip
        assert len(photos) == wanted.get(path.stem, 0)
        for data in photos:
            # Placeholders and margins are flat; photos are not.
            assert np.asarray(picture_of(data)).std() > 30


def test_the_second_run_asks_for_all_of_the_first() -> None:
    """What a config does not ask for goes out of the lake: outliers, maps, and vehicles of the first run would."""
    first, second = (
        load_config(str(build.ROOT / name)).model_dump() for name in ("conf/sample.yaml", "notebooks/study.yaml")
    )
    *models, dbscan = second["cluster"]["models"]
    assert dbscan["algorithm"] == "dbscan"
    second["cluster"]["models"] = models
    assert first["consensus"] is None
    assert second.pop("consensus") is not None
    del first["consensus"]
    assert first == second
