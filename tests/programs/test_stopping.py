"""Ctrl-C and SIGTERM at many moments of real programs: one sentence, status 130, nothing left running."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from cases import blobs, write_case
from motorpool import stopping
from standalone import wait_for

ROWS = 60
#: Spark's start, on a busy machine.
PATIENCE = 300.0
STUDY = {
    "features": [{"descriptor": "osnet", "steps": ["standard"]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 3]}]},
    "report": {},
    "spark": {"master": "local[2]", "driver.memory": "1g"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    write_case(folder / "case", ROWS, {"osnet": blobs(ROWS, 4)})
    sections = {"case": {"path": str(folder / "case")}, "lake": {"path": str(folder / "lake"), "format": "parquet"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(sections | STUDY))
    return folder


@dataclass
class Program:
    """A program on a terminal of its own, and what it has written there."""

    pid: int
    terminal: int
    text: str = ""

    def read(self, seconds: float) -> bool:
        """Read what comes within so many seconds; False where the program has closed its terminal."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def read_until(self, seen: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not seen():
            assert self.read(0.05), f"it ended: {self.text}"
            assert time.monotonic() < end, self.text

    def status(self) -> int:
        """The exit status, after all that it has to say."""
        end = time.monotonic() + 60
        while self.read(0.1):
            assert time.monotonic() < end, f"it does not end: {self.text}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def processes(self) -> list[str]:
        """What belongs to its session: JVM and Python workers too."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:200])
        return found


def started(*args: object) -> Program:
    command = [sys.executable, "-m", "motorpool", *map(str, args)]
    pid, terminal = pty.fork()
    if pid == 0:
        # Whoever started the tests may ignore it: background jobs of a shell do.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The live line is cut where the terminal ends.
        os.execve(command[0], command, os.environ | {"COLUMNS": "200"})
    return Program(pid, terminal)


@pytest.fixture
def program(request: pytest.FixtureRequest, folder: Path) -> Iterator[Program]:
    made = started(*(str(a).format(folder=folder) for a in request.param))
    yield made
    with suppress(ProcessLookupError):
        os.killpg(made.pid, signal.SIGKILL)


def assert_stopped(program: Program) -> None:
    assert program.status() == 130, program.text
    # Terminals show the keys that are pressed, also those that come too late.
    plain = re.sub(r"\x1b\[[\d?;]*[A-Za-z]", "", program.text).rstrip()
    assert plain.removesuffix("^C").rstrip().endswith(stopping.SENTENCE)
    for word in ("Traceback", "Py4J", "Exception"):
        assert word not in program.text
    wait_for("the end of all processes", lambda: not program.processes(), 20)


RUN = ("run", "--conf", "{folder}/run.yaml")


def jvm_runs(program: Program) -> bool:
    return any("spark" in command and "java" in command for command in program.processes())


#: Moments, by what is seen of the program.
MOMENTS: dict[str, Callable[[Program], bool]] = {
    "its first second": lambda program: bool(program.processes()),
    "the start of the JVM": jvm_runs,
    "reading": lambda program: "ingest (1 of " in program.text,
    "fitting": lambda program: "features (2 of " in program.text,
    "writing": lambda program: "scoring and labelling" in program.text,
    "the report": lambda program: "figures" in program.text,
}


def by_terminal(program: Program) -> None:
    """As people do: the command, the JVM and whatever else is in the foreground get it."""
    os.write(program.terminal, b"\x03")


def by_signal(number: signal.Signals) -> Callable[[Program], None]:
    return lambda program: os.kill(program.pid, number)


def twice(program: Program) -> None:
    by_terminal(program)
    time.sleep(0.2)
    with suppress(OSError):
        by_terminal(program)


@pytest.mark.slow
@pytest.mark.parametrize(("program"), [RUN], indirect=True)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_stopped(program: Program, moment: str) -> None:
    """One after the other: each goes on where the one before was stopped."""
    # Before Python has read its first line of ours, nothing of ours can answer.
    wait_for("the program", lambda: catches(program.pid, signal.SIGINT) and catches(program.pid, signal.SIGTERM), 60)
    program.read_until(lambda: MOMENTS[moment](program))
    by_terminal(program)
    assert_stopped(program)


@pytest.mark.slow
@pytest.mark.parametrize(("program"), [RUN], indirect=True)
@pytest.mark.parametrize("stop", [by_signal(signal.SIGINT), by_signal(signal.SIGTERM), twice])
def test_other_ways_to_stop(program: Program, stop: Callable[[Program], None]) -> None:
    program.read_until(lambda: "ingest (1 of " in program.text)
    stop(program)
    assert_stopped(program)


@pytest.fixture(scope="module")
def lake(folder: Path) -> Path:
    program = started("run", "--conf", folder / "run.yaml")
    end = time.monotonic() + 2 * PATIENCE
    while program.read(0.1):
        assert time.monotonic() < end, program.text
    assert os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1]) == 0, program.text
    return folder / "lake"


LAKE = ("--lake", "{folder}/lake")


@pytest.mark.slow
@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize(
    "program",
    [
        ("sql", *LAKE, "SELECT count(*) FROM range(100000000) a CROSS JOIN range(1000000) b WHERE hash(a.id) = b.id"),
        ("report", *LAKE, "--out", "{folder}/page"),
        ("export", *LAKE, "--engine", "spark", "--out", "{folder}/export.csv"),
        ("assign", *LAKE, "--case", "{folder}/case", "--out", "{folder}/new.csv"),
        ("label", "--conf", "{folder}/run.yaml"),
        ("serve", *LAKE, "--port", "10477"),
    ],
    ids=lambda arguments: arguments[0],
    indirect=True,
)
def test_other_commands(program: Program, folder: Path) -> None:
    program.read_until(lambda: jvm_runs(program))
    # Some way into the start of the JVM, or into what follows.
    began = time.monotonic()
    program.read_until(lambda: time.monotonic() - began > 3)
    by_terminal(program)
    assert_stopped(program)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    text = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", text, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


# -- without Spark ---------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[dict[int, object]]:
    """Handlers of a program that has its own, which are there again afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_program_gets_its_handlers_back(handlers: dict[int, object]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = stopping.listen()
    assert stopping.is_listening()
    stopping.give_back(before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_so(handlers: dict[int, object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = stopping.listen()
    assert signal.SIGINT not in before
    os.kill(os.getpid(), signal.SIGINT)
    stopping.give_back(before)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_server_is_asked_first(handlers: dict[int, object]) -> None:
    # Programs that are started in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told: list[int] = []
    with stopping.asked(lambda: told.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == [1]
        assert stopping.is_listening()
    assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]
