"""`motorpool check`: what would run and how large it gets, told without Spark."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from planned_lake import lake_of, without_java

from cases import blobs, write_case
from motorpool import cli
from motorpool.config.load import parse_config
from motorpool.config.run import CaseConfig, Config
from motorpool.pipeline.planning import plan
from motorpool.pipeline.planning.assigning import check_append
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.planning.plan import Plan, SizePlan, models_of, plan_of
from motorpool.pipeline.planning.times import expected_of_append, expected_seconds
from motorpool.pipeline.run import STAGES
from motorpool.pipeline.study import model_ids
from review_lake import write

ROWS = 24
STUDY: dict[str, Any] = {
    "features": [
        {"descriptor": "osnet", "steps": [{"pca": 2}]},
        {"name": "both", "join": [{"descriptor": "osnet", "steps": [{"pca": 0.9}]}, {"descriptor": "vdc_type"}]},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [2, 3]},
            {"algorithm": "kmeans", "k": [3, 4], "features": ["both"]},
            {"algorithm": "hdbscan", "min_cluster_size": [3], "features": ["osnet-pca2"]},
        ]
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    case = write_case(tmp_path / "case", ROWS, {"osnet": blobs(ROWS, 4), "vdc_type": blobs(ROWS, 3)})
    sections = {"case": {"path": str(case)}, "lake": {"path": str(tmp_path / "new" / "lake"), "format": "parquet"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections | STUDY))
    return tmp_path


def config_of(folder: Path, **more: Any) -> Config:
    return parse_config(yaml.safe_load((folder / "run.yaml").read_text()) | more)


def planned(config: Config) -> Plan:
    found = look(config, STAGES)
    assert found.problems == []
    return plan_of(config, found)


class TestPlan:
    def test_of_a_new_lake(self, folder: Path) -> None:
        config = config_of(folder)
        told = planned(config)
        assert (told.n_images, told.photos) == (ROWS, None)
        assert [(d.name, d.columns, d.n_bytes, d.in_lake) for d in told.descriptors] == [
            ("osnet", 4, ROWS * 16, False),
            ("vdc_type", 3, ROWS * 12, False),
        ]
        # A share of variance keeps four columns at most; k = 3 is asked for twice and made once.
        assert [(s.name, str(s.width), s.n_models) for s in told.sets] == [
            ("osnet-pca2", "2", 3),
            ("both", "up to 7", 3),
        ]
        assert {a.name: (a.n_models, a.n_in_lake) for a in told.algorithms} == {"kmeans": (5, 0), "hdbscan": (1, 0)}
        assert sum(a.n_models for a in told.algorithms) == len(model_ids(config) or ())
        # image_id 8, cluster 4, distance 4, strength 4, outlier_score 4.
        assert told.sizes == [
            SizePlan("descriptors", ROWS * 28, ROWS * 28),
            SizePlan("features", ROWS * 36, ROWS * 36, exact=False),
            SizePlan("labels", ROWS * 6 * 24, ROWS * 6 * 24, exact=False),
        ]
        # The folder is not there yet.
        assert told.free is not None
        assert abs(told.free - shutil.disk_usage(folder).free) < 2**30

    @pytest.mark.parametrize("fmt", ["delta", "parquet"])
    def test_of_a_lake_that_holds_some(self, folder: Path, fmt: str) -> None:
        lake = lake_of(folder / "lake", fmt, osnet=4)
        config = config_of(folder, lake={"path": str(lake), "format": fmt})
        spec = config.feature_sets[0]
        row = {"features": spec.name, "definition": spec.definition, "n_features": 2}
        write(lake, "feature_sets", [row], fmt)
        ids = sorted(m.model_id for m in plan.models_of(config, spec) if m.algorithm == "kmeans")
        write(lake, "models", [{"model_id": m, "status": "ok"} for m in [*ids, "of-another-config"]], fmt)
        told = planned(config)
        assert [d.in_lake for d in told.descriptors] == [True, False]
        assert [s.in_lake for s in told.sets] == [True, False]
        assert {a.name: a.n_in_lake for a in told.algorithms} == {"kmeans": 2, "hdbscan": 0}
        assert [size.n_missing for size in told.sizes] == [ROWS * 12, ROWS * 28, ROWS * 4 * 24]

    def test_of_a_lake_that_only_spark_can_read(self, folder: Path) -> None:
        told = planned(config_of(folder, lake={"path": "s3a://bucket/lake"}))
        assert {*(d.in_lake for d in told.descriptors), *(a.n_in_lake for a in told.algorithms), told.free} == {None}

    def test_every_stage_says_what_it_is_asked(self, folder: Path) -> None:
        assert list(planned(config_of(folder)).stages) == list(STAGES)
        assert {s for s, asked in planned(config_of(folder)).stages.items() if asked} == {
            "ingest", "features", "cluster", "vehicles",
        }  # fmt: skip
        more: dict[str, Any] = {
            "consensus": {"n_clusters": [2, 3]}, "outliers": {"methods": ["lof"]}, "report": {},
            "projections": {"methods": ["pca"], "dims": [2, 3], "features": ["both"]},
            "labels": {"attributes": {"view": {}}}, "vehicles": {"models_per_features": "all"},
            "duplicates": {"features": ["both"]}, "neighbours": {"k": 3}, "photo_quality": {},
            "nuisance": {"columns": ["camera", "hour"]},
        }  # fmt: skip
        (folder / "case" / "raw_data").mkdir()
        (folder / "case" / "attributes.csv").write_text("path,camera,hour\n")
        told = planned(config_of(folder, **more))
        assert None not in told.stages.values()
        assert told.stages["consensus"] == "2 models"
        assert told.stages["nuisance"] == "camera, hour"
        assert told.stages["outliers"] == "lof on 2 feature sets"
        assert told.stages["project"] == "pca2, pca3 of 1 feature set"
        assert told.stages["duplicates"] == "1 feature set and the photo files, similarity 0.99"
        assert told.stages["neighbours"] == "the 3 nearest in 2 feature sets"
        assert told.photos == str(folder / "case" / "raw_data")
        assert told.stages["vehicles"] == "votes in all models of each set"
        assert told.algorithms[-1].name == "consensus"


class TestTheCommand:
    def call(self, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        return without_java(folder, "check", "--conf", str(folder / "run.yaml"), *args)

    def test_a_plan(self, folder: Path) -> None:
        done = self.call(folder, "--set", "seed=7", "--set", "spark.driver.memory=2 g")
        assert (done.returncode, done.stderr) == (0, "")
        assert "24 images; photos: none" in done.stdout
        for part in ("│ osnet-pca2  │", "│ hdbscan   │", "│ ingest     │ the case", "GiB are free where the lake lies"):
            assert part in done.stdout
        command = f"  motorpool run --conf {folder}/run.yaml --set seed=7 --set 'spark.driver.memory=2 g'\n"
        assert done.stdout.endswith(command)
        assert not (folder / "new").exists()

    def test_mistakes(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "case" / "images_paths.csv").unlink()
        overrides = ["--set", "cluster.models=[]"]
        done = self.call(folder, *overrides)
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds no images_paths.csv" in done.stderr
        assert "cluster.models: is empty" in done.stderr
        # The very words of `run`.
        assert cli.main(["run", "--conf", str(folder / "run.yaml"), *overrides]) == 2
        assert capsys.readouterr().err == done.stderr

    def test_a_disk_that_is_too_small(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.setattr(plan, "_free", lambda config: 1000)
        assert cli.main(["check", "--conf", str(folder / "run.yaml")]) == 0
        assert "<0.01 GiB are free" in capsys.readouterr().out


class TestTimes:
    MORE: ClassVar[dict[str, Any]] = {
        "labels": {"attributes": {"colour": {}}},
        "outliers": {"methods": ["isolation_forest"], "features": ["both"]},
        "projections": {"methods": ["pca"], "features": ["both"]},
        "report": {},
    }

    def expected(self, config: Config) -> dict[str, float]:
        return expected_seconds(config, look(config, STAGES))

    def test_of_a_new_lake(self, folder: Path) -> None:
        expected = self.expected(config_of(folder, **self.MORE))
        # Nobody has looked at photos of a lake that is made now.
        assert set(expected) == {
            "ingest", "features", "cluster", "vehicles", "outliers", "project", "interpret", "report"
        }  # fmt: skip
        assert list(expected)[:2] == ["ingest", "features"]

    def test_what_the_lake_holds_takes_no_time(self, folder: Path) -> None:
        config = config_of(folder, **self.MORE)
        lake = lake_of(folder / "new" / "lake", "parquet", osnet=4, vdc_type=3)
        told = planned(config)
        write(
            lake,
            "feature_sets",
            [{"features": s.name, "definition": "", "n_features": 2} for s in told.sets],
            "parquet",
        )
        models = [spec.model_id for features in config.feature_sets for spec in models_of(config, features)]
        write(lake, "models", [{"model_id": m} for m in models], "parquet")
        for table in ("outlier_methods", "projection_methods"):
            write(lake, table, [{"features": "both", "method": "x"}], "parquet")
        write(lake, "interpretations", [{"model_id": models[0]}], "parquet")
        found = look(config, STAGES)
        assert set(expected_seconds(config, found)) == {"ingest", "report"}
        write(lake, "annotations", [{"image_id": 0, "attribute": "colour"}], "parquet")
        assert set(expected_seconds(config, found)) == {"ingest", "label", "report"}

    def test_of_an_append(self, folder: Path) -> None:
        config = config_of(folder)
        new = CaseConfig(path=str(folder / "case"))
        few = expected_of_append(config, check_append(new))
        lake = lake_of(folder / "new" / "lake", "parquet", osnet=4, vdc_type=3)
        write(lake, "models", [{"model_id": str(i)} for i in range(60)], "parquet")
        many = expected_of_append(config, check_append(new))
        # There was nothing that could label the images.
        assert few["labels"] == few["drift"] == few["attributes"] == 0
        assert many["labels"] > 10
        assert many["drift"] > 0
