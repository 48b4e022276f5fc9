"""What every command ends with: 0 done, 1 failed, 2 the user's mistake, 130 stopped. A command without its cases fails.

Mistakes, failures and stops are tried in one process that starts no Spark. There a command is stopped by Ctrl-C where
it waits for a named pipe that it is given to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from PIL import Image
from pyspark.sql import SparkSession

from cases import blobs, image_paths, run_of, write_case
from motorpool import cli
from motorpool.pipeline.run import STAGES, run_pipeline

ROWS = 24
ATTRIBUTES = [
    {"path": path.replace("\\", "/"), "colour": ("red", "blue")[i // 3 % 2]} for i, path in enumerate(image_paths(ROWS))
]
STUDY: dict[str, Any] = {
    "features": [{"descriptor": "osnet", "steps": ["standard"]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3]}]},
    "labels": {"attributes": {"colour": {}}},
}


@dataclass(frozen=True)
class Cases:
    """Arguments behind the command's name, or in place of them why there is no such case."""

    done: Sequence[str] | str
    failure: Sequence[str] | str
    mistake: Sequence[str]
    stop: Sequence[str] | str


LAKE = ("--lake", "{lake}")
#: A folder that is not there: a failure, since a run may make it any time.
NONE = ("--lake", "{tmp}/none")
CONF = ("--conf", "{conf}")
#: A config that never comes.
PIPE = ("--conf", "{pipe}")
#: The process of these cases finds no Java.
STAGE = Cases(CONF, CONF, (*CONF, "--set", "sed=1"), PIPE)
OUT = ("--out", "{tmp}/new.csv")

CASES: dict[str, Cases] = {
    **{name: STAGE for name in ("run", *STAGES) if name != "report"},
    "report": Cases((*LAKE, "--out", "{tmp}/page"), NONE, ("--set", "seed=1", *LAKE), PIPE),
    "sample": Cases(
        ("{tmp}/made", "--images", "12", "--no-images"),
        "it needs no more than a folder to write, and what is wrong with that is a mistake",
        ("{tmp}/made", "--images", "0"),
        ("{pipe}.case", "--images", "20000"),
    ),
    "sample-answers": Cases(
        ("{case}", "{looks}"),
        "what can be wrong with its two files is a mistake",
        ("{case}", "{tmp}/none.csv"),
        ("{case}", "{pipe}"),
    ),
    "sql": Cases((*LAKE, "SELECT 1"), (*NONE, "SELECT 1"), ("SELECT 1",), (*PIPE, "SELECT 1")),
    "similar": Cases((*LAKE, ATTRIBUTES[0]["path"]), (*NONE, "x.jpg"), (*LAKE, "x.jpg", "--n", "0"), (*PIPE, "x.jpg")),
    "export": Cases((*LAKE, *OUT), (*NONE, *OUT), (*LAKE, *OUT, "--limit", "3"), (*PIPE, *OUT)),
    "assign": Cases(
        (*LAKE, "--case", "{case}", *OUT),
        (*NONE, "--case", "{case}", *OUT),
        (*LAKE, "--case", "{tmp}/none", *OUT),
        (*PIPE, "--case", "{case}", *OUT),
    ),
    "append": Cases(
        (*CONF, "--case", "{case}"),
        (*CONF, "--case", "{case}"),
        (*CONF, "--case", "{case}", "--once"),
        (*PIPE, "--case", "{case}"),
    ),
    "match": Cases(
        (*LAKE, "--earlier", "{earlier}"),
        (*LAKE, "--earlier", "{tmp}/none"),
        ("--earlier", "{lake}"),
        (*PIPE, "--earlier", "{lake}"),
    ),
    "titles": Cases(
        (*LAKE, "--titles", "{titles}"), (*NONE, "--titles", "{titles}"), (*LAKE, "--titles", "{tmp}/none.yaml"), PIPE
    ),
    "serve": Cases(
        "test_serve starts servers and stops them",
        (*NONE, "--port", "{port}"),
        (*LAKE, "--host", "no.such.host.invalid"),
        (*PIPE, "--port", "{port}"),
    ),
    "review": Cases(
        (*LAKE, "--attribute", "colour", "--import"),
        (*NONE, "--attribute", "colour", "--import"),
        (*LAKE, "--attribute", "colour", "--import", "--no-import"),
        PIPE,
    ),
    "audit": Cases(
        "test_annotating audits a lake with drawn looks",
        (*NONE, "--attribute", "colour"),
        (*LAKE, "--attribute", "colour", "--target", "2"),
        (*PIPE, "--attribute", "colour"),
    ),
    "annotate draw": Cases(
        (*LAKE, "--attribute", "colour", "--n", "4", *OUT),
        (*NONE, "--attribute", "colour", *OUT),
        (*LAKE, "--attribute", "a/b", *OUT),
        (*PIPE, "--attribute", "colour", *OUT),
    ),
    "annotate import": Cases(
        (*LAKE, "{answers}", "--attribute", "colour"),
        (*NONE, "{answers}", "--attribute", "colour"),
        (*LAKE, "{tmp}/none.csv"),
        (*PIPE, "{answers}", "--attribute", "colour"),
    ),
    "init": Cases(
        ("{case}", "--out", "{tmp}/new.yaml"),
        "it needs no more than the case, and what is wrong with that is a mistake",
        ("{tmp}/none",),
        "it reads headers and writes a page, in no time that Ctrl-C could be sent to",
    ),
    "check": Cases(CONF, "all that it can find is a mistake", (*CONF, "--set", "sed=1"), PIPE),
    "describe": Cases(
        ("--images", "{photos}", "--builtin", "color_histogram", "--out", "{tmp}/described"),
        ("--images", "{photos}", "--builtin", "color_histogram", "--out", "{tmp}/described"),
        ("--images", "{tmp}/none", "--builtin", "hog", "--out", "{tmp}/described"),
        "without Spark it looks at names alone, in no time that Ctrl-C could be sent to",
    ),
    "doctor": Cases((), (), ("--nothing",), ()),
    "status": Cases(LAKE, NONE, (), PIPE),
}


def commands(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_has_its_cases() -> None:
    cli.load_all()
    assert sorted(CASES) == sorted(commands(cli.cli))


@pytest.fixture(scope="module")
def places(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A case, its config, a lake of it, and files of annotations; each command gets copies of its own."""
    folder = tmp_path_factory.mktemp("exit")
    case = write_case(folder / "case", ROWS, {"osnet": blobs(ROWS, 4)}, ATTRIBUTES)
    sections = {"case": {"path": str(case)}, "lake": {"path": str(folder / "lake"), "format": "parquet"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(sections | STUDY))
    run_pipeline(run_of(spark, case, folder / "lake", "parquet", **STUDY))
    (folder / "answers.csv").write_text(f"path,colour\n{ATTRIBUTES[0]['path']},red\n")
    (folder / "looks.csv").write_text(f"path,attribute,value\n{ATTRIBUTES[0]['path']},colour,\n")
    (folder / "titles.yaml").write_text("{}\n")
    shutil.copytree(folder / "lake", folder / "earlier")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "photos" / "one.jpg")
    named = {"case": "case", "lake": "lake", "conf": "run.yaml", "answers": "answers.csv", "looks": "looks.csv"}
    named |= {"titles": "titles.yaml", "earlier": "earlier", "photos": "photos"}
    return {key: str(folder / name) for key, name in named.items()} | {"port": str(port)}


def filled(arguments: Sequence[str], places: dict[str, str]) -> list[str]:
    return [a.format(**places) for a in arguments]


@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if not isinstance(cases.done, str)])
def test_done(spark: SparkSession, places: dict[str, str], tmp_path: Path, name: str) -> None:
    arguments = CASES[name].done
    assert cli.main([*name.split(), *filled(arguments, places | {"tmp": str(tmp_path)})]) == 0


@pytest.fixture(scope="module")
def found(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Status and stderr of every case without Spark, by kind and command."""
    tmp = tmp_path_factory.mktemp("cases")
    shutil.copytree(places["lake"], tmp / "lake")
    todo = []
    for name, cases in CASES.items():
        for kind in ("failure", "mistake", "stop"):
            arguments = getattr(cases, kind)
            if not isinstance(arguments, str):
                own = tmp / name.replace(" ", "-") / kind
                own.mkdir(parents=True)
                pipe = own / "pipe"
                os.mkfifo(pipe)
                given = places | {"tmp": str(own), "pipe": str(pipe), "lake": str(tmp / "lake")}
                todo.append((name, kind, [*name.split(), *filled(arguments, given)], str(pipe)))
    where = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": where}
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, input=json.dumps(todo), capture_output=True, text=True, timeout=600, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = {"failure": {}, "mistake": {}, "stop": {}}
    for name, kind, status, err in json.loads(done.stdout):
        results[kind][name] = (status, err)
    return results


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("kind", "expected"), [("failure", 1), ("mistake", 2), ("stop", 130)])
def test_status(found: dict[str, dict[str, Any]], name: str, kind: str, expected: int) -> None:
    if isinstance(getattr(CASES[name], kind), str):
        assert name not in found[kind]
        return
    status, err = found[kind][name]
    assert status == expected, err
    assert "Traceback" not in err
    if kind == "stop":
        assert err.strip() == "Stopped. The same command goes on from here."


# -- the process without Spark ---------------------------------------------------------------------------


def press_ctrl_c_when_read(pipe: Path, over: threading.Event) -> None:
    """Ctrl-C once somebody waits for the pipe, or, where a sample is drawn instead, once its folder is there."""
    while not over.is_set():
        try:
            end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            if list(pipe.parent.glob("*.case")) or list(pipe.parent.glob(".*")):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)
            continue
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        over.wait()
        os.close(end)
        return


def run_all(todo: list[tuple[str, str, list[str], str]]) -> list[tuple[str, str, int, str]]:
    import io

    results = []
    path = os.environ["PATH"]
    for name, kind, arguments, pipe in todo:
        nowhere = Path(pipe).parent / "bin"
        if kind == "failure":
            # Neither Java nor anything else.
            os.environ["PATH"] = str(nowhere)
        if kind == "stop" and name == "doctor":
            nowhere.mkdir()
            (nowhere / "java").write_text(f'#!/bin/sh\nread line < "{pipe}"\n')
            (nowhere / "java").chmod(0o755)
            os.environ["PATH"] = f"{nowhere}:{path}"
        os.environ.pop("JAVA_HOME", None)
        over = threading.Event()
        thread = threading.Thread(target=press_ctrl_c_when_read, args=(Path(pipe), over))
        err = io.StringIO()
        if kind == "stop":
            thread.start()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(arguments)
        over.set()
        if kind == "stop":
            thread.join()
        os.environ["PATH"] = path
        results.append((name, kind, status, err.getvalue()))
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps(run_all(json.loads(sys.stdin.read()))))
