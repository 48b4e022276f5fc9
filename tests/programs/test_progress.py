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
        logger.info("a step: 2.0 s", extra={"step": True})
        logger.info("news")
        logger.removeHandler(handler)
        assert len(out.getvalue().splitlines()) == expected


def test_a_step_has_one_line_and_a_short_one_none(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motorpool")
    for seconds in (0.9, 5.0):
        with timed(f"ingest: step of {seconds} s"):
            clock.now += seconds
    assert [r.getMessage() for r in caplog.records] == ["ingest: step of 5.0 s: 5.0 s"]


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


#: Seconds of the demo's study by stage, as expected of two cores, and as three runs took beside other work.
EXPECTED = {
    "ingest": 17.4, "features": 18.5, "cluster": 20.2, "vehicles": 5.0, "outliers": 13.5, "project": 38.5,
    "interpret": 28.0, "report": 23.8,
}  # fmt: skip
BUSY = [35.5, 37.0, 29.8, 9.2, 14.8, 45.5, 44.3, 26.6]
VERY_BUSY = [68.0, 108.0, 61.0, 25.0, 35.0, 142.0, 119.0, 112.0]
BUSIEST = [117.0, 145.0, 37.0, 18.0, 54.0, 216.0, 187.0, 207.0]
#: The first as well on a machine that is four times as fast.
RECORDED = {"busy": BUSY, "very busy": VERY_BUSY, "busiest": BUSIEST, "fast": [seconds / 4 for seconds in BUSY]}


@pytest.mark.parametrize("run", list(RECORDED))
def test_the_time_left_is_right_within_a_factor_of_two(clock: Clock, run: str) -> None:
    pace = Pace.of(list(EXPECTED), EXPECTED)
    took = RECORDED[run]
    told = []
    for i, name in enumerate(EXPECTED):
        with pace.stage(name):
            for tenth in range(10):
                really = took[i] * (1 - tenth / 10) + sum(took[i + 1 :])
                left = pace.seconds_left()
                if left is not None:
                    told.append((i, left / really))
                clock.now += took[i] / 10
    assert min(i for i, _ in told) == 1, "a stage must have ended before anything is known"
    assert max(i for i, _ in told) >= 6
    right = [0.5 <= ratio <= 2 for _, ratio in told]
    assert sum(right) >= 0.9 * len(right), told


def test_nothing_is_told_that_is_not_known(clock: Clock) -> None:
    # One long stage is nearly all of the run, and a short one before it says little of it.
    pace = Pace.of(["ingest", "cluster"], {"ingest": 5.0, "cluster": 5000.0})
    with pace.stage("ingest"):
        clock.now += 9
    assert pace.seconds_left() is None
    with pace.stage("cluster"):
        models = Counted(pace, 100, "model")
        clock.now += 100
        models.add(1)
        assert pace.seconds_left() is None
        clock.now += 5900
        models.add(59)
        # Its own parts say it: 100 s each.
        assert pace.seconds_left() == pytest.approx(4000, rel=0.15)


def test_stages_with_nothing_to_do_say_nothing_of_the_pace(clock: Clock) -> None:
    pace = Pace.of(["a", "b", "c", "d", "e"], {"a": 40.0, "b": 40.0, "c": 40.0, "d": 40.0})
    with pace.stage("a"):
        clock.now += 80
    before = pace.seconds_left()
    assert before is not None
    with pace.stage("b"):
        clock.now += 1
    assert pace.seconds_left() == pytest.approx(before * 2 / 3)


def test_what_is_told_of_stages(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motorpool")
    pace = Pace.of(["a", "b", "c"], {"a": 1000.0, "b": 1000.0, "c": 1000.0})
    with pace.stage("a"):
        clock.now += 1000
    with pace.stage("b"):
        models = Counted(pace, 100, "model")
        clock.now += 500
        models.add(50)
        assert pace.text() == "b (2 of 3) · 50 of 100 models · 25 min so far, about 25 min left"
        clock.now += 5
        models.add(1)
        clock.now += 495
        models.add(49)
    with pace.stage("c"):
        clock.now += 1000
    assert [r.getMessage() for r in caplog.records if r.name == "motorpool"] == [
        "stage 1 of 3, a: 17 min; about 33 min left",
        "b: 50 of 100 models; about 25 min left",
        "stage 2 of 3, b: 100 of 100 models, 17 min; about 17 min left",
        "stage 3 of 3, c: 17 min",
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
