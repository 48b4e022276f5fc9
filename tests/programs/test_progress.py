"""What commands tell while they work: whole lines with their times, what is done of what, the time left."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from motorpool.pipeline import pace as pace_module
from motorpool.pipeline.pace import Counted, Pace, current_step, duration, step, timed
from motorpool.progress import LogLines, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def written() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose lines go where no terminal is, and what has come there."""
    out = io.StringIO()
    logger = logging.getLogger("motorpool.of_these_tests")
    handler = LogLines(Console(file=out, width=80))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, out
    logger.removeHandler(handler)


def test_lines_of_a_file_are_whole(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = written
    long = "x" * 300
    for _ in range(3):
        logger.info("%s [bold]not markup[/bold]", long)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(r"\d\d:\d\d:\d\d x{300} \[bold\]not markup\[/bold\]", line)


def test_a_terminal_leaves_steps_to_the_live_line() -> None:
    for is_terminal, expected in ((True, 1), (False, 2)):
        out = io.StringIO()
        handler = LogLines(Console(file=out, force_terminal=is_terminal, width=80))
        logger = logging.getLogger("motorpool.of_these_tests")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.info("a step ...", extra={"step": True})
        logger.info("news")
        logger.removeHandler(handler)
        assert len(out.getvalue().splitlines()) == expected


def test_the_innermost_step_is_told() -> None:
    def fail() -> None:
        with step("inner"):
            assert current_step() == "inner"
            raise ValueError("x")

    assert current_step() == ""
    with timed("outer"):
        with pytest.raises(ValueError, match="x"):
            fail()
        assert current_step() == "outer"
    assert current_step() == ""


def test_the_time_left_follows_from_the_pace(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motorpool")
    pace = Pace.of(["a", "b", "c", "d"], {"a": 10.0, "b": 10.0, "c": 20.0, "d": 10.0})
    assert pace.seconds_left() is None
    with pace.stage("a"):
        clock.now += 30
    # A fifth took 30 s.
    assert pace.seconds_left() == pytest.approx(120)
    with pace.stage("b"):
        # It had nothing to do: neither what it was expected to take nor what it took counts.
        clock.now += 1
    assert pace.seconds_left() == pytest.approx(90)
    with pace.stage("c"):
        models = Counted(pace, 4, "models")
        clock.now += 30
        models.add(2)
        assert pace.seconds_left() == pytest.approx(60)
        assert pace.text() == "c (3 of 4) · 2 of 4 models · 61 s so far, about 60 s left"
        clock.now += 30
        models.add(2)
    assert pace.seconds_left() == pytest.approx(30)
    with pace.stage("d"):
        clock.now += 30
    assert pace.seconds_left() == pytest.approx(0)
    assert [r.getMessage() for r in caplog.records if r.name == "motorpool"] == [
        "stage 1 of 4, a: 30 s; about 2 min left",
        "stage 2 of 4, b: 1 s; about 90 s left",
        "c: 2 of 4 models; about 60 s left",
        "stage 3 of 4, c: 4 of 4 models, 60 s; about 30 s left",
        "stage 4 of 4, d: 30 s",
    ]


def test_nothing_is_known_of_a_stage_alone(clock: Clock) -> None:
    pace = Pace.of(["a"])
    with pace.stage("a"):
        clock.now += 50
        assert pace.seconds_left() is None
        assert pace.text() == "50 s so far"
    assert Pace().seconds_left() is None


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5000, "83 min"), (7300, "2 h 2 min")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_the_live_line_is_one_line() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=40)
    with Progress(console, Pace.of(["ingest", "features"]), lambda: "reading " + "x" * 200):
        pass
    plain = re.sub(r"\x1b\[[\d?;]*[A-Za-z]", "", out.getvalue())
    assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= 40
