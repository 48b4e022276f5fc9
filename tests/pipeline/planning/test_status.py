"""`motorpool status`: what a lake holds and what a config has left, told without Spark where it lies in a folder."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from planned_lake import lake_of, without_java
from pyspark.sql import SparkSession

from cases import blobs, write_case
from motorpool import cli
from motorpool.config.load import parse_config
from motorpool.config.run import Config, LakeConfig
from motorpool.lake import Lake
from motorpool.lake.local_tables import LocalTables
from motorpool.pipeline.lookalikes.duplicates import asked_searches
from motorpool.pipeline.planning.status import AttributeStatus, SetStatus, left_over, status_of, written_report
from motorpool.pipeline.stages.project import asked_maps
from motorpool.pipeline.study import model_ids
from review_lake import write

ROWS = 24
STUDY: dict[str, Any] = {
    "features": [{"descriptor": "osnet", "steps": [{"pca": 2}]}, {"descriptor": "vdc_type"}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3, 4]}]},
    "projections": {"methods": ["pca", "umap"], "features": ["vdc_type"]},
    "duplicates": {"split": "part"},
    "neighbours": {"k": 3},
}


@pytest.fixture(params=["delta", "parquet"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Config, Path]:
    """A config, and a lake that holds part of what it asks for, looks, and labels of one of two attributes."""
    fmt = request.param
    write_case(tmp_path / "case", ROWS, {"osnet": blobs(ROWS, 4), "vdc_type": blobs(ROWS, 3)})
    sections = {"case": {"path": str(tmp_path / "case")}, "lake": {"path": str(tmp_path / "lake"), "format": fmt}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections | STUDY))
    config = parse_config(sections | STUDY)
    lake = lake_of(tmp_path / "lake", fmt, osnet=4, of_old=7)
    write(lake, "images", [{"image_id": i, "path": f"{i}.jpg"} for i in range(ROWS)], fmt)
    osnet, vdc_type = config.feature_sets
    defined = ((osnet.name, osnet.definition), (vdc_type.name, "other steps"))
    sets = [{"features": n, "definition": d, "n_features": 2, "n_images": ROWS} for n, d in defined]
    write(lake, "feature_sets", sets, fmt)
    ids = sorted(model_ids(config) or ())
    statuses = ("ok", "ok", "degenerate", "failed")
    models = [
        {"model_id": m, "features": osnet.name, "algorithm": "kmeans", "status": s}
        for m, s in zip([*ids[:3], "of-another"], statuses, strict=True)
    ]
    write(lake, "models", [*models, models[0] | {"algorithm": "hdbscan", "model_id": "x"}], fmt)
    projections = config.projections
    assert projections is not None
    maps = asked_maps(projections, config.seed)
    rows = [
        {"features": "vdc_type", "method": "pca2", "params": maps["pca2"]},
        {"features": "vdc_type", "method": "umap2", "params": {"seed": "7"}},
    ]
    write(lake, "projection_methods", rows, fmt)
    searches = [
        {"features": "vdc_type", "params": asked_searches(config)["vdc_type"] | {"splits": "123"}},
        {"features": osnet.name, "params": asked_searches(config)[osnet.name] | {"similarity": "0.5"}},
    ]
    write(lake, "duplicate_searches", searches, fmt)
    write(lake, "neighbour_searches", [{"features": osnet.name, "params": {"k": "3", "metric": "euclidean"}}], fmt)
    looks = [("view", 1, "ada"), ("view", 1, "bob"), ("view", 2, "ada"), ("color", 5, "ada")]
    write(lake, "annotations", [{"attribute": a, "image_id": i, "annotator": who} for a, i, who in looks], fmt)
    label_set = {"attribute": "view", "accuracy": 0.97, "n_images": ROWS, "n_accepted": 20}
    write(lake, "label_sets", [label_set], fmt)
    return config, tmp_path


def tables(config: Config) -> LocalTables:
    return LocalTables(config.lake)


class TestStatus:
    def test_of_a_lake(self, made: tuple[Config, Path]) -> None:
        told = status_of(tables(made[0]))
        assert told.tables == {
            "images": ROWS, "sources": 2, "feature_sets": 2, "models": 5, "projection_methods": 2,
            "duplicate_searches": 2, "neighbour_searches": 1, "annotations": 4, "label_sets": 1,
        }  # fmt: skip
        assert told.sets == [SetStatus("osnet-pca2", 2, ROWS, 5), SetStatus("vdc_type", 2, ROWS, 0)]
        assert {name: dict(counts) for name, counts in told.models.items()} == {
            "hdbscan": {"ok": 1},
            "kmeans": {"ok": 2, "degenerate": 1, "failed": 1},
        }
        assert told.attributes == [AttributeStatus("color", 1), AttributeStatus("view", 2, 0.97, 20, 4)]

    def test_what_is_left(self, made: tuple[Config, Path]) -> None:
        config, folder = made
        found = {s.stage: (s.n_there, s.n_asked, s.noun) for s in left_over(config, tables(config))}
        assert found == {
            "ingest": (1, 2, "descriptors"),
            "features": (1, 2, "feature sets"),
            "cluster": (3, 6, "models"),
            # A map of another seed is made again.
            "project": (1, 2, "maps"),
            # What the column of the split holds does not show here.
            "duplicates": (1, 2, "searches"),
            "neighbours": (1, 2, "searches"),
        }
        (folder / "case").rename(folder / "elsewhere")
        told = {s.stage: s.why for s in left_over(config, tables(config))}
        assert "there is no such folder" in told["ingest"]
        assert left_over(config.model_copy(update={"case": None}), tables(config))[0].why == "the config names no case"

    def test_a_report(self, made: tuple[Config, Path]) -> None:
        config, folder = made
        assert written_report(config.lake, None) is None
        (folder / "report" / "data").mkdir(parents=True)
        (folder / "report" / "data" / "charts.js").touch()
        assert written_report(config.lake, None) == folder / "report"
        assert written_report(config.lake, str(folder / "case")) is None
        assert written_report(LakeConfig(schema="cars"), None) is None


class TestTheCommand:
    def call(self, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        return without_java(folder, "status", *args)

    def test_a_folder(self, made: tuple[Config, Path]) -> None:
        done = self.call(made[1], "--lake", str(made[1] / "lake"))
        assert (done.returncode, done.stderr) == (0, "")
        cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines()]
        for row in (
            ["images", "24"],
            ["osnet-pca2", "2", "24", "5"],
            ["kmeans", "2", "1", "1"],
            ["view", "2", "97 %", "20", "4"],
            ["color", "1", "-", "-", "-"],
        ):
            assert row in cells
        assert done.stdout.endswith("Report: not written, or elsewhere\n")

    def test_a_config(self, made: tuple[Config, Path]) -> None:
        done = self.call(made[1], "--conf", str(made[1] / "run.yaml"))
        assert (done.returncode, done.stderr) == (0, "")
        assert "│ cluster    │ 3 of 6 models       │ 3    │" in done.stdout
        assert "`motorpool run` tells" in done.stdout

    @pytest.mark.parametrize(
        ("args", "status", "expected"),
        [
            (["--lake", "{}/none"], 1, "--lake {}/none: there is no such folder"),
            (["--lake", "{}/case"], 1, "--lake {}/case: holds no tables of motorpool; run `motorpool run` first"),
            (["--conf", "{}/new.yaml"], 1, "the lake {}/new: holds no tables of motorpool; run `motorpool run` first"),
            ([], 2, "give either --lake DIR or --conf FILE"),
        ],
    )
    def test_no_lake(
        self,
        tmp_path: Path,
        args: Sequence[str],
        status: int,
        expected: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("motorpool.cli.common.build_session", lambda *_, **__: pytest.fail("Spark was started"))
        (tmp_path / "case").mkdir()
        (tmp_path / "new.yaml").write_text(f"lake: {{path: {tmp_path}/new}}")
        assert cli.main(["status", *(a.format(tmp_path) for a in args)]) == status
        assert capsys.readouterr().err == f"motorpool: {expected.format(tmp_path)}\n"
        assert not (tmp_path / "new").exists()

    def test_a_catalog(self, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        spark.sql("CREATE DATABASE IF NOT EXISTS of_status")
        lake = Lake(spark, LakeConfig(schema="of_status"))
        row = {"model_id": "m", "features": "a", "algorithm": "kmeans", "params": {}, "status": "ok"}
        lake.overwrite_rows("models", [dict.fromkeys(lake.schema("models").names) | row])
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"lake": {"schema": "of_status"}, **STUDY}))
        try:
            assert cli.main(["status", "--conf", str(tmp_path / "run.yaml")]) == 0
        finally:
            spark.sql("DROP DATABASE of_status CASCADE")
        out = capsys.readouterr().out
        assert "│ models │    1 │" in out
        assert "│ cluster    │ 0 of 6 models       │ 6" in out
