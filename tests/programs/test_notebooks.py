"""The notebooks: they run on another lake, are stored with outputs, and their helpers do what they say."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession
from test_sql_cookbook import build

from cases import blobs, run_of, write_case
from motorpool import notebook
from motorpool.config.load import load_config
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.ingest import run_ingest

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
            assert bool(FIGURE.search(cell.source)) == any(PLOTLY in o["data"] for o in cell.outputs)
    # Spark may leave the empty folder of its warehouse.
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_figure_is_stored_as_json_and_as_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    if "BROWSER_PATH" not in os.environ and not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))):
        pytest.skip("no Chromium or Chrome in the PATH, and BROWSER_PATH names none")
    cell = nbformat.v4.new_code_cell('import plotly.express as px\n\npx.bar(x=["a", "b"], y=[1, 3], height=300)')
    build.execute([nbformat.v4.new_notebook(cells=[cell])], tmp_path)
    (output,) = cell.outputs
    assert set(output["data"]) == {PLOTLY, "image/png"}
    assert picture_of(output["data"]["image/png"]).size == (700, 300)


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
            assert {o.output_type for o in cell.outputs} <= {kind}

    def test_no_path_of_a_machine(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
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
            (output,) = cell.outputs
            assert set(output["data"]) == {PLOTLY, "image/png"}
            assert output["data"][PLOTLY]["layout"]["title"]["text"]
            picture = picture_of(output["data"]["image/png"])
            assert min(picture.size) >= 300
            assert np.asarray(picture.convert("L")).std() > 5, "an empty figure"
        assert sum(len(json.dumps(c.outputs[0]["data"][PLOTLY])) for c in cells) < MAX_JSON

    def test_photos(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        outputs = [o["data"] for c in cells for o in c.get("outputs", [])]
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


class TestParameter:
    def test_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert notebook.parameter("lake", "demo/lake") == "demo/lake"
        monkeypatch.setenv("MOTORPOOL_LAKE", "other")
        assert notebook.parameter("lake", "demo/lake") == "other"

    def test_widgets_of_databricks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Widgets:
            made: dict[str, str] = {}  # noqa: RUF012

            def text(self, name: str, default: str) -> None:
                self.made.setdefault(name, default)

            def get(self, name: str) -> str:
                return self.made[name]

        class Shell:
            user_ns = {"dbutils": type("Utils", (), {"widgets": Widgets()})()}  # noqa: RUF012

        monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: Shell())
        assert notebook.parameter("lake", "main.cars") == "main.cars"
        Widgets.made["lake"] = "main.trucks"
        assert notebook.parameter("lake", "main.cars") == "main.trucks"


@pytest.fixture(scope="class", params=["delta", "parquet"])
def run(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("open")
    write_case(folder / "case", 12, {"osnet": blobs(12, 3)})
    ctx = run_of(spark, folder / "case", folder / "lake", request.param)
    run_ingest(ctx)
    return ctx


class TestOpenLake:
    def test_a_folder(self, run: Context) -> None:
        lake = notebook.open_lake(str(run.config.lake.path))
        assert lake.spark.sparkContext is run.spark.sparkContext
        assert lake.spark.sql("SELECT count(*) AS n FROM images").first() == (12,)
        assert "<table" in str(lake.spark.sql("SELECT 1 AS a")._repr_html_())

    def test_a_config(self, run: Context, tmp_path: Path) -> None:
        conf = tmp_path / "run.yaml"
        conf.write_text(f"lake: {{path: {run.config.lake.path}, format: {run.config.lake.format}}}\n")
        assert notebook.open_lake(str(conf)).read("images").count() == 12

    def test_no_lake(self, spark: SparkSession, tmp_path: Path) -> None:
        with pytest.raises(LakeError, match=f"{tmp_path}/none: holds no tables of motorpool"):
            notebook.open_lake(f"{tmp_path}/none")
        with pytest.raises(LakeError, match="no_such_schema: holds no tables"):
            notebook.open_lake("no_such_schema")

    def test_attributes(self, run: Context, sample_run: Context) -> None:
        assert notebook.attributes(run.lake).count() == 0
        found = notebook.attributes(sample_run.lake)
        assert found.columns == ["image_id", "attribute", "value"]
        images = sample_run.lake.read("images")
        assert {r[0]: r[1] for r in found.groupBy("attribute").count().collect()} == {
            c: images.where(f"{c} IS NOT NULL").count()
            for c in ("body_type", "color", "view", "outlier")
            if images.where(f"{c} IS NOT NULL").count()
        }


class TestShowPhotos:
    RED, BLUE = (200, 20, 20), (20, 20, 200)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name, colour in (("red", self.RED), ("blue", self.BLUE)):
            Image.new("RGB", (60, 40), colour).save(tmp_path / f"{name}.jpg", quality=95)
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
        return tmp_path

    def pixels(self, picture: notebook.Picture) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(picture.data))).astype(int)

    def test_order_and_placeholders(self, spark: SparkSession, root: Path) -> None:
        paths = ["blue.jpg", "red.jpg", "missing.jpg", "broken.jpg", "../red.jpg"]
        frame = spark.createDataFrame([(i, p) for i, p in enumerate(paths)], "i INT, path STRING").orderBy("i")
        shown = self.pixels(notebook.show_photos(frame, root, columns=3, side=40))
        assert shown.shape == (2 * 43 + 3, 3 * 43 + 3, 3)
        middles = [shown[3 + 8 + 43 * (i // 3), 3 + 8 + 43 * (i % 3)] for i in range(5)]
        for middle, colour in zip(middles, (self.BLUE, self.RED), strict=False):
            assert np.abs(middle - colour).max() < 12
        for middle in middles[2:]:
            assert np.ptp(middle) < 12, "a placeholder is grey"

    def test_a_line_for_each_value(self, spark: SparkSession, root: Path) -> None:
        rows = [(0, "b", "blue.jpg"), (1, "a", "red.jpg"), (2, "b", "blue.jpg"), (3, "b", "red.jpg")]
        frame = spark.createDataFrame(rows, "i INT, head STRING, path STRING").orderBy("i")
        shown = self.pixels(notebook.show_photos(frame, root, by="head", columns=2, side=40))
        left = shown.shape[1] - (2 * 43)
        assert shown.shape[0] == 2 * 43 + 3
        assert np.abs(shown[20, left + 20] - self.BLUE).max() < 12
        assert np.abs(shown[20, left + 43 + 20] - self.BLUE).max() < 12, "the third of b has no place"
        assert np.abs(shown[43 + 20, left + 20] - self.RED).max() < 12
        assert (shown[43 + 20, left + 43 + 20] > 240).all(), "a has one photo"

    def test_ids(self, spark: SparkSession, root: Path) -> None:
        images = spark.createDataFrame([(1, "red.jpg"), (2, "blue.jpg")], "image_id BIGINT, path STRING")
        images.createOrReplaceTempView("images")
        try:
            shown = self.pixels(notebook.show_photos([2, 1], root, side=40))
        finally:
            spark.catalog.dropTempView("images")
        assert np.abs(shown[20, 20] - self.BLUE).max() < 12
        assert np.abs(shown[20, 63] - self.RED).max() < 12

    def test_limit(self, spark: SparkSession, root: Path) -> None:
        frame = spark.range(30).selectExpr("'red.jpg' AS path", "id % 3 AS g")
        assert self.pixels(notebook.show_photos(frame, root, columns=5, limit=7, side=40)).shape[:2] == (89, 218)
        assert self.pixels(notebook.show_photos(frame, root, by="g", columns=4, limit=4, side=40)).shape[0] <= 132

    def test_mistakes(self, spark: SparkSession, root: Path) -> None:
        frame = spark.createDataFrame([("red.jpg",)], "path STRING")
        with pytest.raises(ConfigError, match="no column 'cluster', only path"):
            notebook.show_photos(frame, root, by="cluster")
        with pytest.raises(ConfigError, match="no column 'path'"):
            notebook.show_photos(spark.range(1), root)
        with pytest.raises(ConfigError, match="no rows"):
            notebook.show_photos(frame.where("false"), root)
        with pytest.raises(CaseError, match="none"):
            notebook.show_photos(frame, root / "none")
