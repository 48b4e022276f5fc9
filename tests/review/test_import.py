"""From a review to the table `annotations`: Ctrl-C imports the answers, all of them or none."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from motorpool import cli
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.pipeline.annotating.drawing import COLUMNS
from review_lake import Made, make_lake, path_of

pytest.importorskip("uvicorn", reason="the extra `review` is not installed")

PATIENCE = 120


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command sets one for the process that it is the whole of."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ask(url: str, what: str, **asked: Any) -> dict[str, Any]:
    found = re.fullmatch(r"http://([\d.]+):(\d+)/\?token=(\S+)", url)
    assert found is not None
    host, port, token = found.groups()
    headers = {"Origin": f"http://{host}:{port}", "Cookie": f"motorpool-review-{port}={token}"}
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as connection:
        connection.request("POST", f"/ask/{what}", json.dumps(asked), headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return dict(json.loads(body))


def review(made: Made, people: dict[str, dict[int, str | None]], *options: str) -> tuple[int, str]:
    """A review in which people give these answers, ended by Ctrl-C: its status, and what it printed."""
    said = io.StringIO()
    failures: list[BaseException] = []

    def look() -> None:
        try:
            end = time.monotonic() + PATIENCE
            while (found := re.search(r"http://\S+", said.getvalue())) is None:
                assert time.monotonic() < end, said.getvalue()
                time.sleep(0.05)
            for n, (who, answers) in enumerate(people.items()):
                given = [{"id": i, "value": value} for i, value in answers.items()]
                ask(found[0], "look", who=who)
                ask(found[0], "save", who=who, batch=f"batch {n}", answers=given, take=None)
        except BaseException as exc:
            failures.append(exc)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=look)
    with contextlib.redirect_stdout(said):
        thread.start()
        where = ["--lake", made.lake, "--images", str(made.photos), "--attribute", "colour", "--port", "0"]
        status = cli.main(["review", *where, *options])
        thread.join()
    assert failures == []
    return status, said.getvalue()


def test_answers_are_imported_when_a_review_ends(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_lake(tmp_path, 60)
    lake = Lake(spark, LakeConfig(path=made.lake, format="parquet"))

    def annotations() -> list[tuple[Any, ...]]:
        rows = lake.rows("annotations", ["image_id", "value", "annotator", "purpose", "draw", "weight"])
        return sorted((tuple(row.values()) for row in rows), key=str)

    # Left in the journal, and imported by themselves; then more by the next review.
    status, out = review(made, {"ada": {3: "red", 4: None}, "ben": {4: "blue"}}, "--no-import")
    assert (status, "keeps 3 answers" in out) == (0, True)
    assert annotations() == []
    assert cli.main(["review", "--lake", made.lake, "--attribute", "colour", "--import"]) == 0
    assert f"{made.lake}: colour: 3 new, 0 changed, 0 as before" in capsys.readouterr().out
    status, out = review(made, {"ben": {7: "white"}})
    assert status == 0
    assert f"{made.lake}: colour: 1 new, 0 changed, 0 as before" in out
    assert annotations() == [
        (3, "red", "ada", "train", None, None),
        (4, "blue", "ben", "train", None, None),
        (4, None, "ada", "train", None, None),
        (7, "white", "ben", "train", None, None),
    ]
    assert cli.main(["review", "--lake", made.lake, "--attribute", "colour", "--import"]) == 0
    assert "No answers to import" in capsys.readouterr().out
    status, out = review(made, {})
    assert (status, "No answers to import" in out) == (0, True)
    assert "47 to look at" in out

    # What the import refuses stays, with the lines that are wrong.
    drawn = tmp_path / "audit.csv"
    row = {"path": path_of(5), "attribute": "colour", "purpose": "audit", "draw": "audit-1", "weight": "2"}
    rows = [[r.get(c, "") for c in COLUMNS] for r in (row, row | {"path": path_of(3)})]
    drawn.write_text("".join(",".join(line) + "\n" for line in (COLUMNS, *rows)))
    status, _ = review(made, {"ada": {5: "red", 3: "red"}}, "--draws", str(drawn))
    err = capsys.readouterr().err
    assert status == 2
    file = Path(made.lake).with_name("lake-review") / "colour-answers.csv"
    assert f"{file}: nothing was imported:\n  line 3: {path_of(3)}: labels are learned from this photo" in err
    assert "No answer is lost" in err
    assert len(annotations()) == 4
    assert file.read_text().count("\n") == 3
