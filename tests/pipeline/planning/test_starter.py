"""`motorpool init`: the config that it writes can be loaded, checked and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planned_lake import without_java
from pyspark.sql import SparkSession

from cases import blobs, image_paths, write_attributes, write_case, write_paths
from motorpool import cli
from motorpool.config.load import load_config
from motorpool.config.run import DEFAULT_VEHICLE_PATTERN, Config
from motorpool.maps import registry
from motorpool.pipeline.planning import opening

ROWS = 40


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "case", ROWS, {"osnet": blobs(ROWS, 120), "vdc_type": blobs(ROWS, 3)})


def init(case: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Config, str, str]:
    """The config that is written, its text, and what the command says; `check` has no objections."""
    capsys.readouterr()
    assert cli.main(["init", str(case), "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    assert err == ""
    text = out.read_text()
    assert 20 <= len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 160
    assert cli.main(["check", "--conf", str(out)]) == 0
    assert "No mistakes found." in capsys.readouterr().out
    return load_config(out), text, said


class TestConfig:
    @pytest.fixture(autouse=True)
    def no_spark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("motorpool.cli.common.build_session", lambda *_, **__: pytest.fail("Spark was started"))

    def test_of_a_case(self, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_attributes(case / "attributes.csv", [{"path": p, "color": "red"} for p in image_paths(ROWS)[:30]])
        for path in image_paths(ROWS)[:7]:
            photo = case / "raw_data" / path.replace("\\", "/")
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.touch()
        config, text, said = init(case, tmp_path / "studies" / "first.yaml", capsys)
        assert config.case is not None
        assert (config.case.path, config.case.vehicle_pattern) == (str(case), DEFAULT_VEHICLE_PATTERN)
        assert config.lake.path == str(tmp_path / "studies" / "first" / "lake")
        # No more columns than there are, nor than there are images.
        assert [s.name for s in config.feature_sets] == ["osnet-pca40", "vdc_type-pca3"]
        assert config.cluster.models[0].model_dump()["k"] == tuple(range(2, 16))
        assert config.report is not None
        assert config.projections is not None
        assert "# of 120 columns" in text
        assert "in 40 of the 40 paths, by the default pattern" in text
        assert "# attributes.csv describes 30 of the 40 paths." in text
        assert "# table images: color" in text
        assert "# Photos: 7 of the 40 paths have one in raw_data." in text
        for line in (
            "40 images, 2 descriptors",
            "vehicles by the usual pattern: 40 of the 40 paths",
            "attributes.csv: 30 of the 40 paths; columns: color",
            f"photos: 7 of the 40 paths, in {case}/raw_data",
        ):
            assert f"{case}: {line}\n" in said
        assert said.endswith(f"  motorpool run --conf {tmp_path}/studies/first.yaml\n")

    def test_of_a_case_without_vehicles(self, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        paths = [f"shop/{i}.jpg" for i in range(ROWS)]
        write_paths(case / "images_paths.csv", paths)
        config, text, _ = init(case, tmp_path / "a.yaml", capsys)
        assert config.case is not None
        assert config.case.vehicle_pattern is None
        assert "The paths name no vehicles (0 of the 40 paths)" in text
        assert "# No photos found." in text
        write_attributes(case / "attributes.csv", [{"path": p, "vehicle_id": i % 3} for i, p in enumerate(paths)])
        config, _, _ = init(case, tmp_path / "b.yaml", capsys)
        assert config.case is not None
        assert config.case.vehicle_column == "vehicle_id"

    def test_names_that_yaml_would_read_otherwise(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        case = write_case(tmp_path / "my case: [1], #2 {x} 'y'", ROWS, {"1": blobs(ROWS, 3), "true": blobs(ROWS, 2)})
        config, _, _ = init(case, tmp_path / "new study", capsys)
        assert config.case is not None
        assert config.case.path == str(case)
        assert [s.name for s in config.feature_sets] == ["1-pca3", "true-pca2"]
        # The config itself has the name that its folder would have.
        assert config.lake.path == str(tmp_path / "new study-study" / "lake")

    def test_tiny_and_narrow(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        case = write_case(tmp_path / "case", 2, {"a": blobs(2, 1), "b": blobs(2, 5)})
        config, _, _ = init(case, tmp_path / "run.yaml", capsys)
        assert [s.name for s in config.feature_sets] == ["a", "b-pca2"]
        assert config.cluster.models[0].model_dump()["k"] == (2,)
        assert config.projections is None

    def test_packages_that_are_not_installed(
        self, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(registry, "find_spec", lambda name: None)
        monkeypatch.setattr("motorpool.errors.importlib.util.find_spec", lambda name: None)
        config, text, _ = init(case, tmp_path / "run.yaml", capsys)
        assert config.report is None
        assert config.projections is not None
        assert config.projections.methods == ["pca"]
        assert "# umap too: pip install umap-learn" in text
        assert "pip install matplotlib plotly jinja2" in text

    def test_veri_wilds_own_attributes(self, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [f"{p.split(chr(92))[2]}/{p.split(chr(92))[3][:-4]};1;red" for p in image_paths(ROWS)[:10]]
        (case / "attributes.csv").write_text("\n".join(["id/image;Camera ID;Color", *rows]))
        _, text, _ = init(case, tmp_path / "run.yaml", capsys)
        assert "# attributes.csv describes 10 of the 40 paths." in text
        assert "# table images: camera_id, color" in text

    def test_long_lists(
        self, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of a long list the beginning is read; attributes are in any order, so long ones are not looked through."""
        write_attributes(case / "attributes.csv", [{"path": p, "color": "red"} for p in image_paths(ROWS)])
        monkeypatch.setattr(opening, "_QUICK_BYTES", 100)
        monkeypatch.setattr("motorpool.pipeline.planning.starter._LOOKED_AT", 10)
        _, text, _ = init(case, tmp_path / "run.yaml", capsys)
        assert "in 10 of the first 10 paths" in text
        assert "# attributes.csv describes not counted." not in text
        assert "# attributes.csv describes some of the paths." in text

    def test_mistakes(self, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run.yaml"
        out.write_text("mine")
        assert cli.main(["init", str(case), "--out", str(out)]) == 2
        expected = f"motorpool: --out {out}: exists already: name another file, or remove it first\n"
        assert capsys.readouterr() == ("", expected)
        assert out.read_text() == "mine"
        np.save(case / "descriptors" / "short.npy", blobs(3, 2))
        (case / "descriptors" / "none.npy").touch()
        assert cli.main(["init", str(case), "--out", str(tmp_path / "new.yaml")]) == 2
        err = capsys.readouterr().err
        assert "none.npy" in err
        assert "short.npy: 3 rows" in err
        assert cli.main(["init", str(tmp_path / "nowhere"), "--out", str(tmp_path / "new.yaml")]) == 2
        assert capsys.readouterr().err == f"motorpool: case.path {tmp_path}/nowhere: there is no such folder\n"
        assert not (tmp_path / "new.yaml").exists()
        (tmp_path / "file").touch()
        assert cli.main(["init", str(case), "--out", str(tmp_path / "file" / "new.yaml")]) == 2


def test_no_java_is_asked_for(case: Path, tmp_path: Path) -> None:
    done = without_java(tmp_path, "init", "case", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert load_config(tmp_path / "run.yaml").lake.path == "run/lake"


@pytest.mark.slow
def test_it_runs(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole pipeline, by the commands that are told, up to a report."""
    case, out = write_case(tmp_path / "case", ROWS, {"osnet": blobs(ROWS, 5)}), str(tmp_path / "first.yaml")
    assert cli.main(["init", str(case), "--out", out]) == 0
    assert f"{case}: 40 images, 1 descriptor\n" in capsys.readouterr().out
    small = ["--set", "cluster.models.0.k=[2,3]", "--set", "projections.methods=[pca]", "--set", "lake.format=parquet"]
    assert cli.main(["run", "--conf", out, *small]) == 0
    assert "40 images, 2 models" in capsys.readouterr().out
    assert (tmp_path / "first" / "report" / "index.html").is_file()
    assert cli.main(["status", "--lake", str(tmp_path / "first" / "lake")]) == 0
    assert f"Report: {tmp_path}/first/report/index.html" in capsys.readouterr().out
