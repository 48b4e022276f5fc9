"""Mistakes in config and case are told before Spark starts, all at once, with exit status 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from planned_lake import lake_of, without_java

from cases import blobs, image_paths, write_attributes, write_case, write_paths
from motorpool import cli
from motorpool.config.load import parse_config
from motorpool.config.run import CaseConfig, LakeConfig
from motorpool.errors import ConfigError
from motorpool.maps import registry
from motorpool.pipeline.planning import opening
from motorpool.pipeline.planning.assigning import check_assign
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.planning.packages import check_catalog
from motorpool.pipeline.run import STAGES, check_config
from review_lake import write

ROWS = 24
ARRAYS = {"osnet": blobs(ROWS, 4), "vdc_type": blobs(ROWS, 3)}
STUDY: dict[str, Any] = {
    "features": [{"descriptor": "osnet", "steps": [{"pca": 2}]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3]}]},
}
#: The paths of the case as tables have them.
PLAIN = [path.replace("\\", "/") for path in image_paths(ROWS)]
Change = Callable[[Path], None]


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr("motorpool.pipeline.context.build_session", fail)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "case", ROWS, ARRAYS)


def config_of(case: Path | None, lake: str | Path = "x", fmt: str = "parquet", **more: Any) -> dict[str, Any]:
    section = {"path": str(case)} if case else {}
    section |= more.pop("case_options", {})
    return {"case": section or None, "lake": {"path": str(lake), "format": fmt}, **STUDY, **more}


def problems(config: dict[str, Any], *stages: str) -> list[str]:
    return look(parse_config(config), stages or STAGES).problems


# Each of these mistakes was told only after Spark had started, or after the ingest.


def remove(name: str) -> Change:
    def change(case: Path) -> None:
        shutil.rmtree(case / name) if (case / name).is_dir() else (case / name).unlink()

    return change


def save(name: str, array: np.ndarray) -> Change:
    return lambda case: np.save(case / "descriptors" / name, array)


def text(name: str, content: str) -> Change:
    return lambda case: (case / name).write_text(content) and None


MISTAKES: list[tuple[str, Change, str]] = [
    ("no case", remove("."), "case.path {case}: there is no such folder"),
    ("no list of paths", remove("images_paths.csv"), "case.path {case}: holds no images_paths.csv"),
    ("no descriptors", remove("descriptors"), "descriptors: there is no such folder"),
    ("an array that is none", text("descriptors/b.npy", "hello"), "{case}/descriptors/b.npy"),
    ("an array of numbers that are whole", save("b.npy", np.ones((ROWS, 2), int)), "{case}/descriptors/b.npy"),
    ("an array that is too short", save("b.npy", blobs(ROWS - 1, 3)), "b.npy: 23 rows"),
    (
        "more paths than rows",
        lambda case: write_paths(case / "images_paths.csv", image_paths(ROWS + 2)),
        "which has 26 rows, but found {case}/descriptors/osnet.pickle: 24 rows",
    ),
    ("another header", text("images_paths.csv", "photo,n\nx.jpg,1\n"), "needs a column `paths`, found photo, n"),
    ("an empty list", text("images_paths.csv", "paths\n"), "holds no paths"),
    (
        "a blank path",
        lambda case: write_paths(case / "images_paths.csv", [*image_paths(ROWS - 1), '""']),
        "images_paths.csv: 1 paths are empty, the first in row 23",
    ),
    (
        "paths that are there twice",
        lambda case: write_paths(case / "images_paths.csv", [*image_paths(ROWS - 3), "x.jpg", "./x.jpg", "x.jpg"]),
        "images_paths.csv: paths must be unique, found 1 more than once: x.jpg (3 times, first in row 21)",
    ),
    ("attributes without paths", text("attributes.csv", "photo,color\nx,red\n"), "needs a column `path`, found photo"),
    ("a column that tables cannot have", text("attributes.csv", "path,my color\nx,red\n"), "rename it without spaces"),
]


class TestTheCase:
    @pytest.mark.parametrize(("change", "expected"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
    @pytest.mark.parametrize("stages", [("ingest",), tuple(STAGES)], ids=["ingest", "run"])
    def test_a_mistake_is_found(self, case: Path, change: Change, expected: str, stages: tuple[str, ...]) -> None:
        assert problems(config_of(case), *stages) == []
        change(case)
        (found,) = problems(config_of(case), *stages)
        assert expected.format(case=case) in found

    def test_stages_that_read_tables_alone_go_on_without_the_case(self, case: Path, tmp_path: Path) -> None:
        """The ingest looks at the case even where the lake holds everything, as it has always done."""
        lake = lake_of(tmp_path / "lake", "parquet", osnet=4)
        shutil.rmtree(case)
        config = config_of(case, lake, report={}, projections={"methods": ["pca"]}, outliers={})
        for stage in STAGES:
            assert bool(problems(config, stage)) == (stage == "ingest")

    def test_without_the_list_of_paths_the_rest_is_looked_at(self, case: Path) -> None:
        (case / "images_paths.csv").unlink()
        np.save(case / "descriptors" / "short.npy", blobs(ROWS - 1, 3))
        found = problems(config_of(case, features=[{"descriptor": "osnt"}]))
        assert [text.split(":")[0] for text in found] == [
            f"case.path {case}",
            "row i of every descriptor must be the same image, but they differ in length",
            "features[0] (osnt)",
        ]
        shutil.rmtree(case / "descriptors")
        found = problems(config_of(case))
        assert [text.split(":")[0] for text in found] == [f"case.path {case}", f"{case}/descriptors"]

    def test_files_named_one_by_one(self, case: Path) -> None:
        options = {
            "descriptors": {"osnet": str(case / "none.npy"), "vdc_type": str(case / "descriptors" / "vdc_type.pickle")},
            "images_paths": str(case / "none.csv"),
            "attributes": str(case / "none_too.csv"),
        }
        found = problems(config_of(None, case_options=options))
        assert [text.split(":")[0] for text in found] == [
            str(case / n) for n in ("none.npy", "none.csv", "none_too.csv")
        ]

    def test_columns_of_tables(self, tmp_path: Path) -> None:
        """Parquet tables by their footers; those that only Spark opens are left to the ingest."""
        file = tmp_path / "emb.parquet"
        vectors = pa.array(ARRAYS["osnet"].tolist(), pa.list_(pa.float32()))
        pq.write_table(pa.table({"image": image_paths(ROWS), "emb": vectors, "truck": ["x"] * ROWS}), file)
        case: dict[str, Any] = {
            "images_paths": {"file": str(file), "column": "image"},
            "descriptors": {"osnet": {"file": str(file), "column": "emb"}},
        }
        assert problems(config_of(None, case_options=case)) == []
        found = look(parse_config(config_of(None, case_options=case)), STAGES)
        assert found.opened is not None
        assert (found.opened.n_rows, found.shapes["osnet"]) == (ROWS, (ROWS, 4))
        assert found.widths["osnet-pca2"].columns == 2
        (told,) = problems(config_of(None, case_options=case, features=[{"descriptor": "osnt"}]))
        assert "osnt" in told
        (told,) = problems(config_of(None, case_options={**case, "vehicle_column": "car"}))
        assert "has no column 'car', which case.vehicle_column names; it has path, truck" in told
        wrong = {"images_paths": {"file": str(file), "column": "img"}, "descriptors": case["descriptors"]}
        (told,) = problems(config_of(None, case_options=wrong))
        assert "emb.parquet: img: has no such column of texts or numbers; it has image, truck" in told
        wrong = {**case, "descriptors": {"osnet": {"file": str(file), "column": "truck"}}}
        (told,) = problems(config_of(None, case_options=wrong))
        assert "column 'truck' holds string, expected lists of float16" in told
        of_spark = {"table": "some.where", "column": "x"}
        case = {"images_paths": of_spark, "descriptors": {"osnet": of_spark}}
        assert problems(config_of(None, case_options=case)) == []

    def test_a_vehicle_column_that_is_not_there(self, case: Path) -> None:
        config = config_of(case, case_options={"vehicle_column": "car"})
        assert "the case has no attributes file" in problems(config)[0]
        write_attributes(case / "attributes.csv", [{"path": p, "truck": "a"} for p in image_paths(ROWS)])
        (found,) = problems(config)
        assert "attributes.csv: has no column 'car', which case.vehicle_column names; it has path, truck" in found

    def test_a_long_list_of_paths_is_left_to_the_ingest(self, case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Arrays are still compared with each other."""
        monkeypatch.setattr(opening, "_QUICK_BYTES", 100)
        write_paths(case / "images_paths.csv", image_paths(ROWS + 2))
        assert problems(config_of(case)) == []
        np.save(case / "descriptors" / "b.npy", blobs(ROWS + 2, 3))
        (found,) = problems(config_of(case))
        assert "they differ in length" in found
        assert "b.npy: 26 rows; " in found
        text("images_paths.csv", f"photo,n\n{'x' * 200},1\n")(case)
        assert "needs a column `paths`, found photo, n" in problems(config_of(case))[0]

    def test_photos_that_the_config_names(self, case: Path) -> None:
        config = config_of(case, report={}, case_options={"images_root": str(case / "photos")})
        for stages in (("interpret",), ("report",), tuple(STAGES)):
            (found,) = problems(config, *stages)
            assert found == f"case.images_root {case}/photos: there is no such folder or file"
        assert problems(config, "ingest", "features", "cluster") == []
        (case / "photos").mkdir()
        assert problems(config) == []

    def test_photos_and_splits_that_stages_need(self, case: Path) -> None:
        (found,) = problems(config_of(case, photo_quality={}))
        assert found.startswith("photo_quality: needs photos, but case.images_root names none")
        asked = config_of(case, duplicates={"split": "part"})
        (found,) = problems(asked)
        assert found == "duplicates.split: 'part': the case has no such attribute; it has image_id, path, vehicle_id"
        # The lake may know it.
        assert problems(asked, "duplicates") == []
        write_attributes(case / "attributes.csv", [{"path": p, "part": "a"} for p in image_paths(ROWS)])
        assert problems(asked) == []
        away = config_of(case, duplicates={}, photo_quality={}, case_options={"images_root": str(case / "photos")})
        assert set(problems(away)) == {f"case.images_root {case}/photos: there is no such folder or file"}


class TestFeatureSets:
    def test_a_descriptor_that_nobody_has(self, case: Path) -> None:
        sets = [
            {"descriptor": "osnt"},
            {"name": "both", "join": [{"descriptor": "vdc_type"}, {"descriptor": "vdc_typ"}]},
        ]
        (found,) = problems(config_of(case, features=sets))
        assert found.splitlines() == [
            "features[0] (osnt): descriptor 'osnt' is not in the case; it holds osnet, vdc_type",
            "features[1] (both): descriptor 'vdc_typ' is not in the case; it holds osnet, vdc_type",
        ]

    @pytest.mark.parametrize("fmt", ["delta", "parquet"])
    def test_a_descriptor_of_the_lake(self, case: Path, tmp_path: Path, fmt: str) -> None:
        """The case may no longer name it; alone, the stage `features` reads the lake and nothing else."""
        lake = lake_of(tmp_path / "lake", fmt, clip=5)
        config = config_of(case, lake, fmt, features=[{"descriptor": "clip", "steps": ["l2"]}, {"descriptor": "osnet"}])
        assert problems(config) == []
        (found,) = problems(config, "features")
        assert found == "features[1] (osnet): descriptor 'osnet' is not in the lake; it holds clip"
        (found,) = problems(config | {"features": [{"descriptor": "x"}]})
        assert (
            found == "features[0] (x): descriptor 'x' is not in the case or the lake; they hold clip, osnet, vdc_type"
        )

    def test_a_lake_that_only_spark_can_read(self, case: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It may hold the descriptor: a doubt, no mistake."""
        config = config_of(case, features=[{"descriptor": "clip"}]) | {"lake": {"schema": "cars"}}
        found = look(parse_config(config), STAGES)
        assert found.problems == []
        assert found.notes == [
            "features[0] (clip): descriptor 'clip' is not in the case; it holds osnet, vdc_type; whether the lake has "
            "it shows when Spark has started"
        ]
        assert problems(config, "features") == []

    @pytest.mark.parametrize("key", ["PYSPARK_GATEWAY_PORT", "DATABRICKS_RUNTIME_VERSION"])
    def test_a_path_that_the_cluster_may_understand_otherwise(
        self, case: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv(key, "1")
        assert problems(config_of(case, fmt="delta", features=[{"descriptor": "clip"}])) == []
        assert len(problems(config_of(case, "file:/x", fmt="delta", features=[{"descriptor": "clip"}]))) == 1

    def test_a_lake_that_cannot_be_read_here(self, case: Path, tmp_path: Path) -> None:
        (tmp_path / "lake" / "sources").mkdir(parents=True)
        (tmp_path / "lake" / "sources" / "data.parquet").write_text("half of a write")
        assert look(parse_config(config_of(case, tmp_path / "lake")), STAGES).held is None
        assert problems(config_of(case, tmp_path / "lake")) == []

    def test_more_components_than_there_are(self, case: Path) -> None:
        sets = [
            {"descriptor": "osnet", "steps": ["standard", {"pca": 5}]},
            {"descriptor": "osnet", "steps": [{"pca": 0.9}, {"pca": 3}]},
            {"name": "j", "join": [{"descriptor": "osnet"}, {"descriptor": "vdc_type"}], "steps": [{"svd": 8}]},
        ]
        found = problems(config_of(case, features=sets))
        assert found == [
            "feature set osnet-standard-pca5: pca: 5: there are 24 images of 4 columns, so at most 4 components",
            "feature set j: svd: 8: there are 24 images of 7 columns, so at most 7 components",
        ]

    @pytest.mark.parametrize("fmt", ["delta", "parquet"])
    def test_other_steps_under_the_same_name(self, case: Path, tmp_path: Path, fmt: str) -> None:
        lake = lake_of(tmp_path / "lake", fmt, osnet=4)
        (spec,) = parse_config(config_of(case)).feature_sets
        row = {"features": spec.name, "descriptors": ["osnet"], "definition": "other", "n_features": 2}
        write(lake, "feature_sets", [row], fmt)
        (found,) = problems(config_of(case, lake, fmt))
        assert found.startswith("feature set 'osnet-pca2' is in the lake with other steps: other, the config says")


class TestPackages:
    def test_all_that_are_missing_in_one_line(self, case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "find_spec", lambda name: None)
        monkeypatch.setattr("motorpool.errors.importlib.util.find_spec", lambda name: None)
        config = config_of(case, report={}, projections={"methods": ["pca", "umap", "tsne"]})
        (found,) = problems(config)
        assert "projections.methods: umap and tsne need umap-learn, openTSNE; the report needs matplotlib" in found
        assert "pip install umap-learn openTSNE matplotlib plotly jinja2, for the maps on the workers too" in found
        assert problems(config, "ingest", "features", "cluster") == []
        assert "pip install" not in str(problems(config_of(case, projections={"methods": ["pca"]})))

    def test_of_a_gpu(self, case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("motorpool.errors.importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr("motorpool.pipeline.planning.packages.SparkSession.getActiveSession", lambda: None)
        monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
        config = config_of(case, accelerator="gpu")
        (found,) = problems(config)
        assert found.startswith("accelerator: gpu needs cupy, not installed here: pip install 'motorpool[gpu]'")
        # Executors elsewhere may have them.
        assert problems(config | {"spark": {"master": "spark://somewhere:7077"}}) == []
        assert problems(config_of(case, accelerator="auto")) == []


class TestTheCommand:
    def test_everything_is_told_at_once(self, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(case / "descriptors" / "short.npy", blobs(ROWS - 4, 3))
        (case / "descriptors" / "none.npy").write_text("hello")
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "mine.txt").touch()
        config = config_of(case, tmp_path / "lake", features=[{"descriptor": "osnt"}], report={}, cluster={})
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(ConfigError) as caught:
            check_config(parse_config(config), STAGES)
        assert cli.main(["run", "--conf", str(tmp_path / "run.yaml")]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"motorpool: {caught.value}\n")
        for part in ("none.npy", "short.npy: 20 rows", "'osnt' is not in", "cluster.models: is empty", "report.out: "):
            assert part in err
        assert not (tmp_path / "lake").exists()

    def test_no_java_is_asked_for(self, case: Path, tmp_path: Path) -> None:
        """In a process of its own, where Spark could not start: its complaint would be another, with status 1."""
        config = config_of(case, tmp_path / "lake", features=[{"descriptor": "x"}])
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        done = without_java(tmp_path, "run", "--conf", str(tmp_path / "run.yaml"))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("motorpool: features[0] (x): descriptor 'x' is not in the case; it holds osnet")
        assert len(done.stderr.splitlines()) == 1

    def test_an_append(self, case: Path, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config_of(case, tmp_path / "lake")))
        (file,) = (case / "descriptors").glob("osnet.*")
        file.unlink()
        np.save(file.with_suffix(".npy"), ARRAYS["osnet"][:-1])
        for path, wrong in ((tmp_path / "nowhere", "there is no such folder"), (case, "osnet.npy: 23 rows")):
            done = without_java(tmp_path, "append", "--conf", str(tmp_path / "run.yaml"), "--case", str(path))
            assert (done.returncode, done.stdout) == (2, "")
            assert wrong in done.stderr

    def test_titles(self, tmp_path: Path) -> None:
        lake = lake_of(tmp_path / "lake", "parquet", osnet=4)
        model = {"model_id": "a1", "features": "osnet-pca2", "algorithm": "kmeans"}
        write(lake, "models", [model], "parquet")
        write(lake, "clusters", [{"model_id": "a1", "cluster": c} for c in range(3)], "parquet")
        (tmp_path / "titles.yaml").write_text("osnet-pca2 k=4:\n  1: Vans\n")
        where = ("titles", "--lake", str(tmp_path / "lake"), "--titles", str(tmp_path / "titles.yaml"))
        done = without_java(tmp_path, *where)
        assert (done.returncode, done.stdout) == (2, "")
        assert "osnet-pca2 k=4: the lake holds no clusters of such a model" in done.stderr
        (tmp_path / "titles.yaml").write_text("osnet-pca2 k=3:\n  1: Vans\n")
        done = without_java(tmp_path, *where, "--report", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds no report whose titles can be changed" in done.stderr


def test_paths_are_as_spark_reads_them(case: Path) -> None:
    lines = [r" .\a\b.jpg", "././c.jpg", "d/./e.jpg "]
    write_paths(case / "images_paths.csv", lines)
    found = opening.first_paths(opening.find_case(parse_config(config_of(case)).require_case()), 10)
    assert found == ["a/b.jpg", "c.jpg", "d/./e.jpg"]


class TestPatterns:
    """Java is asked, and none of Spark: it is Spark's Java that reads the paths."""

    @pytest.mark.parametrize(
        ("pattern", "taken"), [(r"^(?P<car>\d+)/", True), (r"^([[]\d+)/", False), (r"(a{,2})", False), (r"(x)", True)]
    )
    def test_a_pattern(self, case: Path, pattern: str, taken: bool) -> None:
        found = problems(config_of(case, case_options={"vehicle_pattern": pattern}))
        text = (
            f"case.vehicle_pattern: {pattern!r}: Spark runs it as a Java regular expression, and Java does not take it"
        )
        assert found == ([] if taken else [text])

    def test_without_java(self, case: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("pyspark.SparkContext._gateway", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        assert problems(config_of(case, case_options={"vehicle_pattern": r"(a{,2})"})) == []


class TestTheLake:
    """What the ingest would refuse for want of another lake."""

    @pytest.mark.parametrize("fmt", ["delta", "parquet"])
    def test_another_case(self, case: Path, tmp_path: Path, fmt: str) -> None:
        lake = lake_of(tmp_path / "lake", fmt, osnet=4, vdc_type=3)
        images = [{"image_id": i, "path": path, "vehicle_id": None} for i, path in enumerate(PLAIN)]
        write(lake, "images", images, fmt)
        assert problems(config_of(case, lake, fmt)) == []
        others = image_paths(ROWS)
        write_paths(case / "images_paths.csv", [others[1], others[0], *others[2:]])
        (found,) = problems(config_of(case, lake, fmt))
        advice = f"add new images by `motorpool append`, use another lake.path, or remove {lake} first"
        assert found == f"the lake {lake} holds another case (its image paths differ): {advice}"

    def test_images_that_were_dropped(self, case: Path, tmp_path: Path) -> None:
        """Those that are kept have the case's paths; a run that would refuse bad rows would make another lake."""
        lake = lake_of(tmp_path / "lake", "parquet", n_dropped=2, osnet=4, vdc_type=3)
        kept = [{"image_id": i, "path": p, "vehicle_id": None} for i, p in enumerate(PLAIN) if i > 1]
        write(lake, "images", kept, "parquet")
        drop = {"on_bad_rows": "drop"}
        assert problems(config_of(case, lake, case_options=drop)) == []
        (found,) = problems(config_of(case, lake))
        assert "leaves out images with NaN or infinity (see its table bad_rows)" in found

    def test_another_file_of_a_descriptor(self, case: Path, tmp_path: Path) -> None:
        lake = lake_of(tmp_path / "lake", "parquet", osnet=5)
        (found,) = problems(config_of(case, lake))
        assert f"the lake {lake} holds osnet as 24 x 5, but {case}/descriptors/osnet.pickle is 24 x 4" in found
        lake = lake_of(tmp_path / "other", "parquet", osnet=4)
        (case / "descriptors" / "osnet.pickle").unlink()
        save("osnet.npy", blobs(ROWS, 4))(case)
        (found,) = problems(config_of(case, lake))
        assert "name the former file, give the new one another name" in found


class TestCatalogs:
    """Spark's own catalog ends with the command, so that the next one finds nothing."""

    @pytest.fixture(autouse=True)
    def no_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As if this process had none yet.
        monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
        for name in ("PYSPARK_GATEWAY_PORT", "SPARK_HOME", "SPARK_CONF_DIR"):
            monkeypatch.delenv(name, raising=False)

    def conf(self, case: Path, **more: Any) -> Path:
        file = case.parent / "run.yaml"
        file.write_text(yaml.safe_dump(config_of(case) | {"lake": {"schema": "cars"}} | more))
        return file

    @pytest.mark.parametrize("command", [["run"], ["cluster"], ["sql", "SELECT 1"], ["export", "--out", "x.csv"]])
    def test_is_refused(self, case: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
        conf = self.conf(case)
        assert cli.main([command[0], "--conf", str(conf), *command[1:]]) == 2
        err = capsys.readouterr().err
        assert "lake.schema cars: Spark's own catalog is in memory here, and ends with the command" in err
        assert "lake.path" in err

    def test_check_says_so(self, case: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It may be run elsewhere."""
        assert cli.main(["check", "--conf", str(self.conf(case))]) == 0
        said = capsys.readouterr().out
        assert "Note: on this machine `run` refuses: lake.schema cars" in said
        assert "No mistakes found. Type where it is to run:\n  motorpool run" in said

    def test_those_that_stay(self, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lake = LakeConfig.model_validate({"schema": "cars"})
        check_catalog(lake, {"spark.sql.catalogImplementation": "hive"})
        named = LakeConfig.model_validate({"schema": "cars", "catalog": "unity"})
        with pytest.raises(ConfigError, match=r"no setting spark\.sql\.catalog\.unity says what"):
            check_catalog(named, {})
        check_catalog(named, {"spark.sql.catalog.unity": "io.unitycatalog.spark.UCSingleCatalog"})
        check_catalog(LakeConfig(path="x"), {})
        monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
        (tmp_path / "spark-defaults.conf").write_text("# ours\nspark.sql.catalogImplementation  hive\n")
        check_catalog(lake, {})


class TestAssign:
    @pytest.fixture
    def lake(self, tmp_path: Path) -> Path:
        lake = lake_of(tmp_path / "lake", "parquet", osnet=5)
        write(lake, "feature_sets", [{"features": "f", "descriptors": ["osnet"], "definition": "x", "n_features": 5}],
              "parquet")  # fmt: skip
        models = [
            {"model_id": m, "features": "f", "algorithm": a, "status": "ok", "params": {}}
            for m, a in (("aa", "kmeans"), ("bb", "consensus"))
        ]
        write(lake, "models", models, "parquet")
        return lake

    def refused(self, lake: Path, case: Path, out: Path, model: str | None = None, **more: Any) -> list[str]:
        where = LakeConfig(path=str(lake), format="parquet")
        try:
            check_assign(where, CaseConfig(path=str(case)), model, out, more.get("attributes"))
        except ConfigError as exc:
            return str(exc).splitlines()
        return []

    def test_everything_at_once(self, case: Path, lake: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (case / "images_paths.csv").unlink()
        found = self.refused(lake, case, tmp_path / "file" / "x.csv", "none", attributes=["colour"])
        begins = [
            f"--out {tmp_path}/file/x.csv: cannot be written: Not a directory",
            f"case.path {case}: holds no",
            f"--attribute colour: the lake {lake} holds no labels",
            f"--model none: the lake {lake} holds no such",
        ]
        assert [line[: len(begin)] for line, begin in zip(found, begins, strict=True)] == begins

    def test_a_model_and_its_descriptors(self, case: Path, lake: Path, tmp_path: Path) -> None:
        out = tmp_path / "x.csv"
        assert self.refused(lake, case, out) == []
        (found,) = self.refused(lake, case, out, "aa")
        assert "osnet has 4 columns, but model aa (feature set f) was fitted on 5" in found
        (found,) = self.refused(lake, case, out, "bb")
        assert found.startswith("--model bb (consensus on f): this algorithm leaves no numbers that label new images")
        (case / "descriptors" / "osnet.pickle").unlink()
        (found,) = self.refused(lake, case, out, "aa")
        assert found.startswith("model aa (feature set f) needs the descriptor 'osnet', but the case has vdc_type")
        assert not out.exists()
