"""The Python API: its page's examples, what it finds by itself, and photos side by side."""

from __future__ import annotations

import doctest
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyspark.sql import SparkSession

import motorpool
from cases import blobs, run_of, write_case
from motorpool import api
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.ingest import run_ingest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


@pytest.fixture
def demo(sample_run: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sample's lake and case as the demo has them; the current one."""
    (tmp_path / "demo").mkdir()
    for name in ("lake", "case"):
        (tmp_path / "demo" / name).symlink_to(Path(str(sample_run.config.lake.path)).parent / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTORPOOL_LAKE", raising=False)
    monkeypatch.delenv("MOTORPOOL_IMAGES", raising=False)
    return tmp_path


def test_the_examples_of_the_page(demo: Path) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    done = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags)
    assert done.attempted >= 12
    assert done.failed == 0


def test_every_function_is_on_the_page() -> None:
    text = PAGE.read_text()
    public = [n for n in vars(api.Lake) if not n.startswith("_") and n not in ("close", "path")]
    for name in (*(f"lake.{n}" for n in public), "motorpool.open_lake", "motorpool.run", "motorpool.assign"):
        assert name in text, name
        assert getattr(getattr(api, "Lake" if "lake." in name else name.split(".")[1]), "__doc__", None)


class TestOpenLake:
    def test_the_demo_is_found_from_below(self, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Jupyter starts kernels: in the folder of the notebook."""
        (demo / "notebooks").mkdir()
        monkeypatch.chdir(demo / "notebooks")
        with motorpool.open_lake() as lake:
            assert repr(lake) == "Lake('../demo/lake')"
            assert len(lake.images()) == 240
            assert lake.show([0]).data[:2] == b"\xff\xd8"

    def test_no_demo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MOTORPOOL_LAKE", raising=False)
        with pytest.raises(LakeError, match="set MOTORPOOL_LAKE, or run `make demo`"):
            motorpool.open_lake()

    def test_the_environment_comes_before_the_demo(self, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOTORPOOL_LAKE", str(demo / "demo" / "lake"))
        with motorpool.open_lake() as lake:
            assert lake.path == str((demo / "demo" / "lake").resolve())

    def test_widgets_of_databricks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Widgets:
            made: dict[str, str] = {}  # noqa: RUF012

            def text(self, name: str, default: str) -> None:
                self.made.setdefault(name, default)

            def get(self, name: str) -> str:
                return self.made[name]

        class Shell:
            user_ns = {"dbutils": type("Utils", (), {"widgets": Widgets()})()}  # noqa: RUF012

        monkeypatch.delenv("MOTORPOOL_LAKE", raising=False)
        monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: Shell())
        assert api._setting("lake") is None
        Widgets.made["lake"] = "main.trucks"
        assert api._setting("lake") == "main.trucks"

    @pytest.mark.parametrize("form", ["delta", "parquet"])
    def test_a_config(self, spark: SparkSession, tmp_path: Path, form: str) -> None:
        write_case(tmp_path / "case", 12, {"osnet": blobs(12, 3)})
        ctx = run_of(spark, tmp_path / "case", tmp_path / "lake", form)
        run_ingest(ctx)
        conf = tmp_path / "run.yaml"
        conf.write_text(f"lake: {{path: {ctx.config.lake.path}, format: {form}}}\n")
        for location in (conf, tmp_path / "lake"):
            with motorpool.open_lake(location) as lake:
                assert len(lake.images()) == 12
                assert lake.spark.sql("SELECT count(*) AS n FROM images").first() == (12,)

    def test_no_lake(self, spark: SparkSession, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        with pytest.raises(LakeError, match=f"{tmp_path}/none: holds no tables of motorpool"):
            motorpool.open_lake(tmp_path / "none")
        with pytest.raises(LakeError, match="no_such_schema: holds no tables"):
            motorpool.open_lake("no_such_schema")

    def test_reading_starts_no_java(self, demo: Path) -> None:
        program = (
            "import motorpool\nlake = motorpool.open_lake()\nlake.leaderboard(), lake.labels('color'), lake.show([1])\n"
            "from pyspark import SparkContext\nassert SparkContext._gateway is None"
        )
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=demo)


class TestAnswers:
    def test_values_agree_with_the_tables(self, demo: Path, sample_run: Context) -> None:
        with motorpool.open_lake() as lake:
            best = lake.leaderboard()["model_id"].iloc[0]
            wanted = sample_run.lake.read("labels", model_id=best).toPandas().set_index("image_id")["cluster"]
            assert lake.assignments().set_index("image_id")["cluster"].to_dict() == wanted.to_dict()
            assert lake.clusters()["size"].sum() == (wanted >= 0).sum()
            color = lake.labels("color").set_index("image_id")
            assert lake.labels().set_index("image_id")["color"].to_dict() == color["value"].to_dict()
            flagged = sample_run.lake.consensus_outliers().toPandas()["image_id"]
            assert set(lake.outliers()["image_id"]) == set(flagged)
            assert dict(lake.tables()[["name", "rows"]].values.tolist())["images"] == 240

    def test_spark_gives_the_same_frames(self, demo: Path, spark: SparkSession) -> None:
        with motorpool.open_lake() as lake, motorpool.open_lake(engine="spark") as other:
            pd.testing.assert_frame_equal(lake.leaderboard(), other.leaderboard(), check_dtype=False)
            pd.testing.assert_frame_equal(lake.labels("view"), other.labels("view"), check_dtype=False)
            pd.testing.assert_frame_equal(lake.columns("models"), other.columns("models"))

    def test_export(self, demo: Path) -> None:
        with motorpool.open_lake() as lake:
            written = pd.read_csv(lake.export("best.csv"))
            assert written["cluster"].tolist() == lake.assignments()["cluster"].tolist()

    def test_assign_labels_the_lakes_own_images_as_they_are(self, demo: Path, spark: SparkSession) -> None:
        with motorpool.open_lake() as lake:
            board = lake.leaderboard()
            model = board.loc[board["algorithm"] == "kmeans", "model_id"].iloc[0]
            found = motorpool.assign(lake, "demo/case", model=model, attributes=[])
            assert found["cluster"].tolist() == lake.assignments(model)["cluster"].tolist()

    def test_run_opens_what_it_made(self, spark: SparkSession, tmp_path: Path) -> None:
        write_case(tmp_path / "case", 12, {"osnet": blobs(12, 3)})
        (tmp_path / "run.yaml").write_text(
            f"case: {{path: {tmp_path}/case}}\nlake: {{path: {tmp_path}/lake, format: parquet}}\n"
            "features: [{descriptor: osnet}]\ncluster: {models: [{algorithm: kmeans, k: 2}]}\n"
        )
        with motorpool.run(tmp_path / "run.yaml", **{"cluster.models.0.k": 3}) as lake:
            assert lake.clusters()["cluster"].tolist() == [0, 1, 2]
        with pytest.raises(ConfigError):
            motorpool.run(tmp_path / "run.yaml", **{"cluster.nothing": 1})


class TestShow:
    RED, BLUE = (200, 20, 20), (20, 20, 200)

    @pytest.fixture
    def lake(self, demo: Path) -> api.Lake:
        for name, colour in (("red", self.RED), ("blue", self.BLUE)):
            Image.new("RGB", (60, 40), colour).save(demo / f"{name}.jpg", quality=95)
        (demo / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
        return motorpool.open_lake(images=demo)

    def pixels(self, picture: api.Picture) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(picture.data))).astype(int)

    def test_order_and_placeholders(self, lake: api.Lake) -> None:
        paths = ["blue.jpg", "red.jpg", "missing.jpg", "broken.jpg", "../red.jpg"]
        shown = self.pixels(lake.show(pd.DataFrame({"path": paths}), columns=3, side=40))
        assert shown.shape == (2 * 43 + 3, 3 * 43 + 3, 3)
        middles = [shown[3 + 8 + 43 * (i // 3), 3 + 8 + 43 * (i % 3)] for i in range(5)]
        for middle, colour in zip(middles, (self.BLUE, self.RED), strict=False):
            assert np.abs(middle - colour).max() < 12
        for middle in middles[2:]:
            assert np.ptp(middle) < 12, "a placeholder is grey"

    def test_a_line_for_each_value(self, lake: api.Lake) -> None:
        rows = pd.DataFrame({"head": ["b", "a", "b", "b"], "path": ["blue.jpg", "red.jpg", "blue.jpg", "red.jpg"]})
        shown = self.pixels(lake.show(rows, by="head", columns=2, side=40))
        left = shown.shape[1] - (2 * 43)
        assert shown.shape[0] == 2 * 43 + 3
        assert np.abs(shown[20, left + 20] - self.BLUE).max() < 12
        assert np.abs(shown[20, left + 43 + 20] - self.BLUE).max() < 12, "the third of b has no place"
        assert np.abs(shown[43 + 20, left + 20] - self.RED).max() < 12
        assert (shown[43 + 20, left + 43 + 20] > 240).all(), "a has one photo"

    def test_ids_and_clusters(self, demo: Path) -> None:
        with motorpool.open_lake() as lake:
            paths = lake.images().set_index("image_id")["path"]
            wanted = lake.show(pd.DataFrame({"path": [paths[7], paths[2]]}))
            assert lake.show([7, 2, 10**9]) == wanted
            nearest = lake.assignments().query("cluster == 1").sort_values(["distance", "image_id"])
            assert lake.show(cluster=1, limit=5) == lake.show(nearest.head(5))

    def test_limit(self, lake: api.Lake) -> None:
        frame = pd.DataFrame({"path": ["red.jpg"] * 30, "g": [i % 3 for i in range(30)]})
        assert self.pixels(lake.show(frame, columns=5, limit=7, side=40)).shape[:2] == (89, 218)
        assert self.pixels(lake.show(frame, by="g", columns=4, limit=4, side=40)).shape[0] <= 132

    def test_mistakes(self, lake: api.Lake, demo: Path) -> None:
        frame = pd.DataFrame({"path": ["red.jpg"]})
        with pytest.raises(ConfigError, match="no column 'cluster', only path"):
            lake.show(frame, by="cluster")
        with pytest.raises(ConfigError, match="no column 'path'"):
            lake.show(pd.DataFrame({"a": [1]}))
        with pytest.raises(ConfigError, match="no photos"):
            lake.show(frame.head(0))
        with pytest.raises(ConfigError, match="give photos"):
            lake.show()
        with pytest.raises(CaseError, match="none"):
            motorpool.open_lake(images=demo / "none").show([1])

    def test_photos_that_nobody_finds(self, demo: Path) -> None:
        shutil.copytree(demo / "demo" / "lake", demo / "alone" / "lake")
        shutil.rmtree(demo / "alone" / "lake" / "sources")
        with pytest.raises(CaseError, match=r"open_lake\(\.\.\., images=FOLDER\)"):
            motorpool.open_lake(demo / "alone" / "lake").show([1])


def test_an_answer_names_no_folder_of_the_machine(demo: Path) -> None:
    """Notebooks are stored with what they show."""
    assert os.sep not in repr(motorpool.open_lake()).replace("demo/lake", "")
