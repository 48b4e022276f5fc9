"""The command line: what it prints, its exit status, and errors that a person can read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from cases import blobs, run_of, write_case, write_paths
from motorpool import cli
from motorpool.errors import EnvironmentMissingError
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import STAGES
from motorpool.spark import session

ROWS = 24
STUDY = {
    "features": [{"descriptor": "osnet", "steps": ["standard"]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3]}]},
}


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case, a config and, once `motorpool run` has been tested, a lake."""
    folder = tmp_path_factory.mktemp("cli")
    write_case(folder / "case", ROWS, {"osnet": blobs(ROWS, 4)})
    sections = {"case": {"path": str(folder / "case")}, "lake": {"path": str(folder / "lake"), "format": "parquet"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(sections | STUDY))
    return folder


@pytest.fixture(scope="module")
def lake(spark: SparkSession, folder: Path) -> Context:
    ctx = run_of(spark, folder / "case", folder / "lake", "parquet", **STUDY)
    for stage in STAGES.values():
        stage(ctx)
    return ctx


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys: pytest.CaptureFixture[str], status: int, *args: object) -> str:
    """The message: one paragraph on stderr, no traceback, nothing on stdout."""
    found, out, err = call(capsys, *args)
    assert (found, out) == (status, ""), err
    assert "Traceback" not in err
    assert "\n\n" not in err.strip()
    assert 0 < len(err) < 3000
    return err


def test_no_command_pays_for_libraries_that_it_does_not_use() -> None:
    heavy = ("numba", "sklearn", "scipy", "pyspark.ml", "matplotlib", "plotly", "umap", "openTSNE", "cupy", "cuml")
    code = f"import sys, motorpool.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_failed_task_is_told_by_the_end_of_its_traceback(spark: SparkSession) -> None:
    def divide(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from (1 // 0 for _ in batches)
        except ZeroDivisionError as exc:
            raise ValueError("no share for row 7") from exc

    with pytest.raises(PySparkException) as raised:
        spark.range(3).mapInArrow(divide, "id BIGINT").collect()
    assert cli.brief(raised.value) == "PythonException: a task failed: ValueError: no share for row 7"
    assert cli.brief(KeyError("rows")) == "KeyError: 'rows'"


class TestHelp:
    def test_every_command_is_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = call(capsys, "--help")
        assert (status, err) == (0, "")
        for name in ("run", *STAGES, "sample", "sql", "export", "assign"):
            assert f"\n  {name} " in out

    @pytest.mark.parametrize("command", ["run", *STAGES, "sample", "sql", "export", "assign"])
    def test_every_command_explains_itself(self, capsys: pytest.CaptureFixture[str], command: str) -> None:
        status, out, _ = call(capsys, command, "--help")
        assert status == 0
        assert f"Usage: motorpool {command}" in out
        assert len(out.splitlines()) > 4

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call(capsys, "--version")[:2] == (0, "motorpool, version 0.1.0\n")

    def test_the_installed_command(self) -> None:
        done = subprocess.run(
            [Path(sys.executable).with_name("motorpool"), "--version"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "motorpool, version 0.1.0\n")


class TestMistakes:
    """Found before Spark starts: these tests would fail if one asked for a session."""

    @pytest.fixture(autouse=True)
    def no_spark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise AssertionError("Spark was started")

        monkeypatch.setattr("motorpool.spark.session.build_session", fail)
        monkeypatch.setattr("motorpool.cli.common.build_session", fail)
        monkeypatch.setattr("motorpool.pipeline.context.build_session", fail)

    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            (["fly"], "No such command 'fly'"),
            (["run"], "give either --conf FILE"),
            (["run", "--conf", "a.yaml", "--images", "b"], "give either --conf FILE"),
            (["ingest"], "Missing option '--conf'"),
            (["run", "--conf", "none.yaml"], "none.yaml: cannot read the config: No such file"),
            (["run", "--conf", "{conf}", "--set", "sed=1"], "sed: unknown key"),
            (["run", "--conf", "{conf}", "--set", "seed=-1"], "seed: -1:"),
            (["run", "--conf", "{conf}", "--set", "case=null"], "case: is missing"),
            (["ingest", "--conf", "{conf}", "--set", "case=null"], "case: is missing"),
            (["run", "--conf", "{conf}", "--set", "cluster.models=[]"], "cluster.models: is empty"),
            (["cluster", "--conf", "{conf}", "--set", "cluster.models=[]"], "cluster.models: is empty"),
            (["features", "--conf", "{conf}", "--set", "features=[]"], "features: names no feature set"),
            (["sql", "SELECT 1"], "give either --lake DIR or --conf FILE"),
            (["sql", "--lake", "x", "--conf", "y", "SELECT 1"], "give either --lake DIR or --conf FILE"),
            (["sql", "--lake", "x"], "Missing argument 'QUERY'"),
            (["sql", "--lake", "x", "--output", "xml", "SELECT 1"], "'xml' is not one of"),
            (["export", "--lake", "x"], "Missing option '--out'"),
            (["assign", "--lake", "x", "--out", "x.csv"], "Missing option '--case'"),
            (["sample", "x", "--images", "0"], "0 is not in the range"),
        ],
    )
    def test_exit_with_2(
        self, capsys: pytest.CaptureFixture[str], folder: Path, args: list[str], expected: str
    ) -> None:
        err = call(capsys, *(a.replace("{conf}", str(folder / "run.yaml")) for a in args))
        assert err[0] == 2
        assert expected in err[2]
        assert "Traceback" not in err[2]

    def test_several_at_once(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        overrides = ("--set", "case=null", "--set", "features=[]", "--set", "cluster.models=[]")
        err = refused(capsys, 2, "run", "--conf", folder / "run.yaml", *overrides)
        assert err.startswith("motorpool: ")
        assert [w for w in ("case: is missing", "features: names", "cluster.models: is empty") if w not in err] == []

    @pytest.mark.parametrize(
        "command", [["sql", "SELECT 1"], ["export", "--out", "x.csv"], ["assign", "--case", "x", "--out", "x.csv"]]
    )
    def test_a_missing_lake(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]) -> None:
        args = [command[0], "--lake", tmp_path / "none", *command[1:]]
        assert f"--lake {tmp_path / 'none'}: there is no such folder" in refused(capsys, 1, *args)
        args[2] = tmp_path
        assert "holds no tables of motorpool; run `motorpool run` first" in refused(capsys, 1, *args)


class TestRun:
    def test_run_prints_what_it_found_and_what_to_type_next(
        self, capsys: pytest.CaptureFixture[str], folder: Path, lake: Context
    ) -> None:
        status, out, err = call(capsys, "run", "--conf", folder / "run.yaml")
        assert status == 0
        assert "24 images, 2 models, 0 of them left out of the ranking" in out
        assert "The best model of each feature set" in out
        assert f'motorpool sql --lake {folder / "lake"} "SELECT * FROM leaderboard LIMIT 10"' in out
        assert "nothing to do" in err
        for name, stage in STAGES.items():
            assert stage.__doc__ is not None
            status, out, _ = call(capsys, name, "--conf", folder / "run.yaml")
            # The report, asked for by name, is always written anew and says where.
            assert status == 0
            assert out.startswith(str(folder / "report" / "index.html")) if name == "report" else not out

    def test_a_mistake_in_the_data_exits_with_2(
        self, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, spark: SparkSession
    ) -> None:
        """Whether it is found before Spark starts or behind that."""
        args = ["run", "--conf", folder / "run.yaml", "--set", f"lake.path={tmp_path}"]
        err = refused(capsys, 2, *args, "--set", "case.path=/none")
        assert err == "motorpool: case.path /none: there is no such folder\n"
        write_paths(tmp_path / "twice.csv", ["a.jpg"] * ROWS)
        refused_late = call(capsys, *args, "--set", f"case.images_paths={tmp_path / 'twice.csv'}")
        assert refused_late[0] == 2
        assert "twice.csv: paths must be unique" in refused_late[2]

    def test_a_bug_keeps_its_traceback_for_debug(
        self, capsys: pytest.CaptureFixture[str], folder: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(ctx: Context) -> None:
            raise RuntimeError("a wheel came off")

        monkeypatch.setattr("motorpool.pipeline.run.run_pipeline", broken)
        err = refused(capsys, 1, "run", "--conf", folder / "run.yaml")
        assert "motorpool: RuntimeError: a wheel came off" in err
        assert "motorpool --debug" in err
        status, _, err = call(capsys, "--debug", "run", "--conf", folder / "run.yaml")
        assert status == 1
        assert "Traceback" in err
        assert "a wheel came off" in err

    def test_sample(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        status, out, _ = call(capsys, "sample", tmp_path / "case", "--images", 12, "--seed", 3, "--no-images")
        assert status == 0
        assert str(tmp_path / "case") in out
        assert (tmp_path / "case" / "descriptors" / "osnet.pickle").is_file()
        assert call(capsys, "sample", tmp_path / "case", "--images", 12)[0] != 0


class TestSql:
    def ask(self, capsys: pytest.CaptureFixture[str], lake: Context, query: str, *more: object) -> str:
        status, out, err = call(capsys, "sql", "--lake", lake.config.lake.path, query, *more)
        assert status == 0, err
        return out

    def test_table(self, capsys: pytest.CaptureFixture[str], lake: Context) -> None:
        out = self.ask(
            capsys, lake, "SELECT image_id, path, '[red]x[/red]' AS `[b]`, NULL AS n FROM images ORDER BY image_id"
        )
        assert "veriwild/1/00001/000001.jpg" in out
        assert "[red]x[/red]" in out
        assert "[b]" in out
        assert out.count("veriwild") == ROWS

    def test_a_wide_table_is_whole_where_there_is_no_terminal(
        self, capsys: pytest.CaptureFixture[str], lake: Context
    ) -> None:
        out = self.ask(capsys, lake, "SELECT * FROM leaderboard")
        lake.lake.register()
        for column in lake.lake.spark.table("leaderboard").columns:
            assert f" {column} " in out

    def test_limit(self, capsys: pytest.CaptureFixture[str], lake: Context) -> None:
        status, out, err = call(capsys, "sql", "--lake", lake.config.lake.path, "SELECT path FROM images", "--limit", 5)
        assert (status, out.count("veriwild")) == (0, 5)
        assert "The first 5 rows; --limit N shows more" in err

    def test_csv(self, capsys: pytest.CaptureFixture[str], lake: Context) -> None:
        query = (
            "SELECT path, 'a,\"b\"' AS q, NULL AS n, array(1, 2) AS a, map('k', 'v') AS m FROM images ORDER BY image_id"
        )
        out = self.ask(capsys, lake, query, "--output", "csv")
        assert "\r" not in out
        rows = list(csv.reader(io.StringIO(out)))
        assert rows[0] == ["path", "q", "n", "a", "m"]
        assert rows[1] == ["veriwild/1/00001/000001.jpg", 'a,"b"', "", "[1, 2]", '{"k": "v"}']
        assert len(rows) == ROWS + 1

    def test_json(self, capsys: pytest.CaptureFixture[str], lake: Context) -> None:
        out = self.ask(capsys, lake, "SELECT * FROM leaderboard ORDER BY rank", "--output", "json")
        rows = [json.loads(line) for line in out.splitlines()]
        assert [r["rank"] for r in rows] == [1, 2]
        assert isinstance(rows[0]["score"], float)
        assert rows[0]["params"]["k"] in ("2", "3")

    def test_engines(self, capsys: pytest.CaptureFixture[str], lake: Context) -> None:
        query = "SELECT count(*) AS n FROM images"
        for engine in ("auto", "duckdb", "spark"):
            assert self.ask(capsys, lake, query, "--output", "csv", "--engine", engine) == f"n\n{ROWS}\n"
        path = lake.config.lake.path
        status, out, err = call(capsys, "sql", "--lake", path, "SELECT first(1) AS f FROM images", "--output", "csv")
        assert (status, out) == (0, "f\n1\n")
        assert "Spark answers, which takes longer to start: DuckDB is not known to answer alike: First()" in err
        err = refused(capsys, 2, "sql", "--lake", path, "SELECT first(1) AS f FROM images", "--engine", "duckdb")
        assert "use --engine spark" in err

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("SELECT * FROM lables", "lables"),
            ("SELECT cluter FROM labels", "cluter"),
            ("SELEC 1", "SELEC"),
            ("SELECT 1 / (image_id - image_id) FROM images", "DIVIDE_BY_ZERO"),
        ],
    )
    def test_a_bad_query_names_the_tables(
        self, capsys: pytest.CaptureFixture[str], lake: Context, query: str, expected: str
    ) -> None:
        err = refused(capsys, 2, "sql", "--lake", lake.config.lake.path, query)
        assert expected in err
        assert "images, descriptors" in err
        assert "assignments, leaderboard" in err
        assert "JVM" not in err

    def test_the_lake_of_a_config(self, capsys: pytest.CaptureFixture[str], lake: Context, folder: Path) -> None:
        status, out, _ = call(
            capsys, "sql", "--conf", folder / "run.yaml", "SELECT count(*) FROM images", "--output", "csv"
        )
        assert (status, out) == (0, f"count(1)\n{ROWS}\n")


class TestExport:
    def test_the_best_model(self, capsys: pytest.CaptureFixture[str], lake: Context, tmp_path: Path) -> None:
        out = tmp_path / "new" / "best.csv"
        status, said, _ = call(capsys, "export", "--lake", lake.config.lake.path, "--out", out)
        lake.lake.register()
        best = lake.spark.sql("SELECT model_id FROM leaderboard WHERE rank = 1").first()
        assert best is not None
        assert (status, said) == (0, f"{out}: 24 images, clusters of model {best['model_id']}\n")
        content = out.read_bytes()
        assert b"\r" not in content
        lines = content.decode().splitlines()
        expected = lake.spark.sql(
            "SELECT a.path, a.cluster, a.title, a.distance, a.strength, v.cluster AS vote, v.agreement "
            "FROM assignments AS a "
            "LEFT JOIN vehicles AS v ON v.model_id = a.model_id AND v.vehicle_id = a.vehicle_id "
            f"WHERE a.model_id = '{best['model_id']}' ORDER BY a.image_id"
        ).collect()
        head, *rows = csv.reader(lines)
        assert head == [
            "path", "cluster", "outlier", "title", "distance", "strength", "vehicle_cluster", "vehicle_agreement",
        ]  # fmt: skip
        for row, wanted in zip(rows, expected, strict=True):
            assert row[:4] == [wanted["path"], str(wanted["cluster"]), "", wanted["title"] or ""]
            assert float(row[4]) == pytest.approx(wanted["distance"], rel=1e-6)
            assert float(row[5]) == pytest.approx(wanted["strength"], rel=1e-6)
            assert (int(row[6]), float(row[7])) == (wanted["vote"], pytest.approx(wanted["agreement"]))
        assert lines[1].startswith("veriwild/1/00001/000001.jpg,")
        assert list(out.parent.iterdir()) == [out]

    def test_both_engines_write_the_same_file(
        self, capsys: pytest.CaptureFixture[str], lake: Context, tmp_path: Path
    ) -> None:
        files = {}
        for engine in ("duckdb", "spark"):
            out = tmp_path / f"{engine}.csv"
            assert call(capsys, "export", "--lake", lake.config.lake.path, "--out", out, "--engine", engine)[0] == 0
            files[engine] = out.read_text()
        assert files["duckdb"] == files["spark"]

    def test_a_named_model(self, capsys: pytest.CaptureFixture[str], lake: Context, tmp_path: Path) -> None:
        for row in lake.lake.read("models").select("model_id").collect():
            args = ("--out", tmp_path / "x.csv", "--model", row["model_id"])
            status, said, _ = call(capsys, "export", "--lake", lake.config.lake.path, *args)
            assert status == 0
            assert row["model_id"] in said

    @pytest.mark.parametrize("model", ["none", "x' OR '1'='1", "../x"])
    def test_an_unknown_model(
        self, capsys: pytest.CaptureFixture[str], lake: Context, tmp_path: Path, model: str
    ) -> None:
        args = ("--out", tmp_path / "x.csv", "--model", model)
        err = refused(capsys, 2, "export", "--lake", lake.config.lake.path, *args)
        assert f"--model {model}: the lake {lake.config.lake.path} holds no labels of such a model" in err
        assert list(tmp_path.iterdir()) == []

    def test_an_unwritable_out(self, capsys: pytest.CaptureFixture[str], lake: Context, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("kept")
        for out, reason in ((tmp_path / "file" / "x.csv", ""), (tmp_path, "Is a directory")):
            err = refused(capsys, 2, "export", "--lake", lake.config.lake.path, "--out", out)
            assert f"--out {out}: cannot be written: {reason}" in err
        assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


class TestJava:
    @pytest.fixture(autouse=True)
    def no_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As if this process had none yet.
        monkeypatch.setattr(session.SparkSession, "getActiveSession", lambda: None)
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)

    def fake(self, folder: Path, script: str) -> None:
        (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "java").chmod(0o755)

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            (None, "no `java` on the PATH and JAVA_HOME is not set"),
            ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "java is Java 11"),
            ("echo 'java version \"1.8.0_312\"' >&2", "java is Java 8"),
            ("echo nothing", "java -version printed no version ('nothing')"),
            ("exit 3", "java -version printed no version"),
        ],
    )
    def test_what_does_not_fit(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        tmp_path: Path,
        script: str | None,
        expected: str,
    ) -> None:
        if script is not None:
            self.fake(tmp_path, script)
        monkeypatch.setenv("PATH", str(tmp_path))
        err = refused(capsys, 1, "run", "--conf", folder / "run.yaml")
        assert expected in err
        assert "apt-get install openjdk-17-jre-headless" in err

    def test_java_home_comes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
        with pytest.raises(EnvironmentMissingError, match=r"none/bin/java cannot be run.*openjdk-17-jre-headless"):
            session.check_java()
        (tmp_path / "bin").mkdir()
        self.fake(tmp_path / "bin", "echo 'openjdk version \"21.0.1\"' >&2")
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        session.check_java()

    def test_in_a_process_of_its_own(self, folder: Path, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "motorpool.cli", "run", "--conf", folder / "run.yaml"],
            capture_output=True,
            text=True,
            env={"PATH": str(tmp_path)},
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("motorpool: no `java` on the PATH")
        assert len(done.stderr.splitlines()) == 1
