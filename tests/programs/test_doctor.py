"""`motorpool doctor`: what a machine has and lacks, in processes that find other things than this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from motorpool import doctor
from motorpool.spark.jvm import jars

ROOT = Path(__file__).resolve().parents[2]
#: Hides packages as if they were not installed, and fails where PySpark has asked for a JVM.
_HIDE = """
import sys
from importlib.machinery import PathFinder
hidden, found = sys.argv.pop(1).split(","), PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.split(".")[0] in hidden else found(name, *more)
from motorpool.cli import main
status = main(sys.argv[1:])
from pyspark import SparkContext
assert SparkContext._gateway is None
sys.exit(status)
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for the PATH, with a Java."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool(folder, "java", "echo 'openjdk version \"21.0.1\"' >&2")
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run(tools: Path, hidden: str = "nothing", **env: str) -> tuple[int, dict[str, list[str]], str]:
    """The exit status, what was found by the name of the thing (status, text), and the last line."""
    kept = {k: v for k, v in os.environ.items() if k not in ("JAVA_HOME", "SPARK_HOME", "SPARK_LOCAL_DIRS")}
    done = subprocess.run(
        [sys.executable, "-c", _HIDE, hidden, "doctor"],
        capture_output=True,
        text=True,
        env=kept | {"PATH": str(tools)} | env,
    )
    assert done.stderr == ""
    *lines, empty, last = done.stdout.splitlines()
    assert empty == ""
    found = {}
    for line in lines:
        status, what, told = re.split(r"  +", line, maxsplit=2)
        assert status in ("ok", "missing", "note")
        found[what] = [status, told]
    return done.returncode, found, last


def test_a_machine_that_has_what_it_takes(tools: Path) -> None:
    status, found, last = run(tools)
    assert (status, last) == (0, "Motorpool can run here.")
    assert found["Python"] == ["ok", f"{sys.version.split()[0]} ({sys.executable})"]
    assert found["Java"] == ["ok", f"21 ({tools}/java)"]
    assert re.fullmatch(r"4\.0\.\d+", found["PySpark"][1])
    assert found["GPU"][0] == "note"
    assert re.fullmatch(r"\d+", found["cores"][1])
    assert re.match(r"\d+\.\d GiB", found["memory"][1])
    assert re.match(r"\d+\.\d GiB free", found["temp folder"][1])


def test_what_nothing_runs_without(tools: Path, tmp_path: Path) -> None:
    (tools / "java").unlink()
    status, found, last = run(tools, "delta", SPARK_LOCAL_DIRS=str(tmp_path / "none"))
    assert (status, last) == (1, "Missing: Java, Delta Lake, temp folder. Nothing runs here without.")
    assert "apt-get install openjdk-17-jre-headless" in found["Java"][1]
    assert "pip install 'delta-spark" in found["Delta Lake"][1]
    assert "none" in found["temp folder"][1]
    tool(tools, "java", "echo 'openjdk version \"11.0.1\"' >&2")
    assert "is Java 11" in run(tools)[1]["Java"][1]


def test_optional_packages_and_jars_that_are_fetched_later(tools: Path, tmp_path: Path) -> None:
    status, found, _ = run(tools, "jinja2,umap,starlette,cupy", HOME=str(tmp_path))
    assert status == 0
    expected = "jinja2, umap not installed, needed for maps and the report alone: pip install jinja2 umap-learn"
    assert found["report"] == ["note", expected]
    assert found["review"][1].endswith("pip install starlette")
    assert found["gpu"][0] == "note"
    assert found["Delta Lake"][0] == "note"
    assert "the first start fetches it from Maven Central" in found["Delta Lake"][1]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", ["ok", "NVIDIA H200, 143771 MiB"]),
        ("echo 'no devices were found' >&2; exit 9", ["note", "nvidia-smi finds none: no devices were found"]),
    ],
)
def test_a_gpu(tools: Path, script: str, expected: list[str]) -> None:
    tool(tools, "nvidia-smi", script)
    status, told = run(tools)[1]["GPU"]
    assert status == expected[0]
    assert told.endswith(expected[1])


def test_without_pyspark() -> None:
    """The one command that works there: it says what to install."""
    code = _HIDE.split("from motorpool.cli", maxsplit=1)[0] + "import motorpool.cli"
    done = subprocess.run([sys.executable, "-c", code, "pyspark", "doctor"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^missing  PySpark +not installed: pip install 'pyspark>=4.0.0,<4.1'$", done.stdout, re.MULTILINE)


def test_delta_among_sparks_own_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPARK_HOME", str(tmp_path / "spark"))
    assert jars.find_delta() is None
    (tmp_path / "spark" / "jars").mkdir(parents=True)
    jar = tmp_path / "spark" / "jars" / "delta-spark_2.13-4.0.1.jar"
    jar.touch()
    assert jars.find_delta() == jar


def test_a_container_with_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, limit in (("max\n", None), ("1073741824\n", 2**30)):
        (tmp_path / "memory.max").write_text(text)
        assert doctor._memory_limit(tmp_path / "memory.max") == limit
    assert doctor._memory_limit(tmp_path / "none") is None
    monkeypatch.setattr(doctor, "_memory_limit", lambda: 2**30)
    memory = list(doctor._machine())[-1]
    assert memory.status == "note"
    assert memory.told.startswith("1.0 GiB for this container, of ")


def test_extras_are_those_of_the_package() -> None:
    """What `pip install '.[report]'` brings is what is looked for."""
    setup = (ROOT / "setup.py").read_text()
    for name, (_, modules) in doctor.extras().items():
        block = re.search(rf'"{name}": \[(.*?)\]', setup, re.DOTALL)
        assert block is not None
        packages = {re.match(r"[\w-]+", text)[0] for text in re.findall(r'"([^"]+)"', block[1])}  # type: ignore[index]
        if name == "gpu":
            assert {p.split("-cu")[0] for p in packages} == set(modules.values())
        else:
            assert packages == set(modules.values())
    assert f'python_requires=">={".".join(map(str, doctor._PYTHON))}"' in setup
