"""The SQL server: asked over the wire by beeline and by a Python client, and gone without a trace when stopped."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from cases import blobs, run_of, write_case
from motorpool import cli, serve
from motorpool.errors import ConfigError
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import run_pipeline

impala = pytest.importorskip("impala.dbapi", reason="needs a Python client: pip install impyla")

STUDY = {
    "features": [{"descriptor": "osnet", "steps": ["standard"]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3]}]},
}
#: Spark's start, on a busy machine.
PATIENCE = 240


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return _lake(spark, tmp_path_factory.mktemp("served"), "delta")


def _lake(spark: SparkSession, folder: Path, lake_format: str) -> Context:
    write_case(folder / "case", 24, {"osnet": blobs(24, 4)})
    ctx = run_of(spark, folder / "case", folder / "lake", lake_format, **STUDY)
    run_pipeline(ctx)
    return ctx


@dataclass
class Served:
    process: subprocess.Popen[str]
    port: int
    said: str
    cwd: Path
    temporary: Path

    @property
    def url(self) -> str:
        return f"jdbc:hive2://127.0.0.1:{self.port}/default"

    def ask(self, query: str) -> list[tuple]:
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return cursor.fetchall()

    def do(self, statement: str) -> None:
        """A statement that gives no rows."""
        with contextlib.closing(self.connect()) as connection:
            connection.cursor().execute(statement)

    def connect(self) -> Any:
        return impala.connect("127.0.0.1", self.port, auth_mechanism="PLAIN", user="anyone", timeout=PATIENCE)

    def stop(self, sign: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(sign)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@contextlib.contextmanager
def serving(folder: Path, lake: str) -> Iterator[Served]:
    """`motorpool serve` in a process of its own, in an empty folder, with a folder for temporary files of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cwd, temporary = folder / "cwd", folder / "tmp"
    cwd.mkdir()
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "motorpool.cli", "serve", "--lake", lake, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield Served(process, port, _read_until(process, "beeline"), cwd, temporary)
    finally:
        process.kill()
        process.wait()


def _read_until(process: subprocess.Popen[str], word: str) -> str:
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=lambda: [lines.put(x) for x in iter(process.stdout.readline, "")], daemon=True).start()
    said, end = "", time.monotonic() + PATIENCE
    while word not in said:
        if process.poll() is not None:
            raise AssertionError(f"the server ended: {process.stderr.read()}")  # type: ignore[union-attr]
        assert time.monotonic() < end, f"the server said only {said!r}"
        with contextlib.suppress(queue.Empty):
            said += lines.get(timeout=0.5)
    return said


@pytest.fixture(scope="module")
def served(lake: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), str(lake.config.lake.path)) as server:
        yield server


@pytest.mark.slow
class TestClients:
    def test_what_it_says(self, served: Served, lake: Context) -> None:
        tables, address, example = served.said.splitlines()
        names = tables.removeprefix(f"{lake.config.lake.path}: ").split(", ")
        assert names == [*(t for t in TABLES if lake.lake.exists(t)), "assignments", "leaderboard"]
        assert served.url in address
        assert example == f'  beeline -u {served.url} -e "SELECT * FROM leaderboard LIMIT 10"'

    def test_beeline(self, served: Served, lake: Context) -> None:
        query = "SELECT rank, features, n_clusters, model_id FROM leaderboard ORDER BY rank"
        done = subprocess.run(
            ["beeline", "-u", served.url, "--silent=true", "--outputformat=csv2", "-e", query],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            # Beside the interpreter lie beeline, and the Python that it asks where Spark is.
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        assert done.returncode == 0, done.stderr
        # Without a terminal it still prints its prompt.
        answer = re.sub(r"^0: jdbc:\S+> ", "", done.stdout, flags=re.MULTILINE)
        rows = [r for r in csv.reader(io.StringIO(answer)) if len(r) == 4]
        lake.lake.register()
        expected = [[str(v) for v in row] for row in lake.spark.sql(query).collect()]
        assert rows == [["rank", "features", "n_clusters", "model_id"], *expected]
        assert len(expected) == 2

    def test_python(self, served: Served, lake: Context) -> None:
        # A FLOAT travels as its shortest decimal, a DOUBLE as it is.
        query = "SELECT image_id, model_id, cluster, double(distance) FROM labels ORDER BY model_id, image_id"
        lake.lake.register()
        assert served.ask(query) == [tuple(row) for row in lake.spark.sql(query).collect()]

    def test_tables_can_be_listed(self, served: Served) -> None:
        with contextlib.closing(served.connect()) as connection:
            cursor = connection.cursor()
            cursor.get_tables(database_name="default")
            kinds = {row[2]: row[3] for row in cursor.fetchall()}
        assert (kinds["labels"], kinds["leaderboard"]) == ("TABLE", "VIEW")

    def test_an_earlier_version_by_name(self, served: Served, lake: Context) -> None:
        path = f"{lake.config.lake.path}/parameters"
        last = lake.spark.sql(f"DESCRIBE HISTORY delta.`{path}`").first()["version"]  # type: ignore[index]
        for version in range(last + 1):
            expected = lake.spark.read.format("delta").option("versionAsOf", version).load(path).count()
            assert served.ask(f"SELECT count(*) FROM parameters VERSION AS OF {version}") == [(expected,)]

    def test_a_mistake_is_the_clients_alone(self, served: Served) -> None:
        with pytest.raises(impala.Error, match="lables"):
            served.ask("SELECT * FROM lables")
        assert served.ask("SELECT count(*) FROM images") == [(24,)]

    def test_new_rows_are_seen(self, served: Served, lake: Context) -> None:
        rows = lake.spark.createDataFrame([(7, "x.jpg", ["osnet"], "NaN or infinity")], lake.lake.schema("bad_rows"))
        before = served.ask("SELECT count(*) FROM bad_rows")
        lake.lake.overwrite("bad_rows", rows)
        assert (before, served.ask("SELECT image_id, path FROM bad_rows")) == ([(0,)], [(7, "x.jpg")])

    def test_the_port_is_taken(
        self, served: Served, lake: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("motorpool.cli.common.build_session", lambda *_, **__: pytest.fail("Spark was started"))
        args = ["serve", "--lake", str(lake.config.lake.path), "--port", str(served.port)]
        assert cli.main(args) == 2
        assert f"--port {served.port}: is in use on 127.0.0.1: choose another with --port" in capsys.readouterr().err

    def test_ctrl_c_leaves_nothing(self, served: Served) -> None:
        """The last test of this server."""
        assert [p.name for p in served.temporary.glob("motorpool-serve-*")]
        assert served.stop(signal.SIGINT) == (0, "Stopped.\n")
        assert list(served.cwd.iterdir()) == []
        assert list(served.temporary.glob("motorpool-serve-*")) == []
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", served.port), timeout=5):
            pass


@pytest.mark.slow
def test_a_parquet_lake_by_a_relative_path(spark: SparkSession, tmp_path: Path) -> None:
    ctx = _lake(spark, tmp_path, "parquet")
    ctx.lake.register()
    with serving(tmp_path, "../lake") as server:
        for query in (
            "SELECT count(*), count(DISTINCT model_id) FROM labels",
            "SELECT model_id, image_id, cluster FROM assignments ORDER BY ALL",
            "SELECT features, typeof(features), n_features FROM feature_sets",
            "SELECT typeof(descriptor), typeof(vector), count(*) FROM descriptors GROUP BY ALL",
        ):
            assert server.ask(query) == [tuple(row) for row in ctx.spark.sql(query).collect()]
        # An entry is a name: to drop it leaves the files.
        server.do("DROP TABLE labels")
        with pytest.raises(impala.Error, match="labels"):
            server.ask("SELECT count(*) FROM labels")
        assert ctx.lake.read("labels").count() == 48
        assert server.stop(signal.SIGTERM) == (0, "Stopped.\n")
        assert list(server.cwd.iterdir()) == []


class TestAddress:
    @pytest.fixture
    def warnings(self, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
        # Commands keep their log to themselves.
        serve.log.addHandler(caplog.handler)
        yield caplog
        serve.log.removeHandler(caplog.handler)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
    def test_loopback(self, host: str, warnings: pytest.LogCaptureFixture) -> None:
        serve.check_address(host, _free())
        assert warnings.records == []

    def test_any_other_host_is_warned_of(self, warnings: pytest.LogCaptureFixture) -> None:
        port = _free()
        serve.check_address("0.0.0.0", port)
        (said,) = {r.getMessage() for r in warnings.records if r.levelno == logging.WARNING}
        assert "--host 0.0.0.0 lets other machines in, and nobody is asked for a password" in said
        assert f"port {port}" in said

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("192.0.2.1", r"--host 192\.0\.2\.1: is no address of this machine"),
            ("nowhere.invalid", r"--host nowhere\.invalid: is no host that this machine knows"),
        ],
    )
    def test_refused(self, host: str, expected: str) -> None:
        with pytest.raises(ConfigError, match=expected):
            serve.check_address(host, _free())

    def test_a_listener_without_spark(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ConfigError, match=f"--port {port}: is in use on 127"):
                serve.check_address("127.0.0.1", port)
        serve.check_address("127.0.0.1", port)

    def test_url(self) -> None:
        assert serve.Address("127.0.0.1", 10000).url == "jdbc:hive2://127.0.0.1:10000/default"
        assert serve.Address("::1", 1, "cars").url == "jdbc:hive2://[::1]:1/cars"

    @pytest.mark.parametrize("port", ["0", "65536", "ten"])
    def test_no_port(self, capsys: pytest.CaptureFixture[str], port: str) -> None:
        assert cli.main(["serve", "--lake", "x", "--port", port]) == 2
        assert "--port" in capsys.readouterr().err


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
