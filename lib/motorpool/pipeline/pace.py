"""How far a run is, stage by stage, and how long the rest of it takes if it goes on like that."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger("motorpool")

#: A stage that took less than this share of what was expected of it had nothing to do, and tells nothing of the pace.
_SKIPPED = 0.2
#: The least share of a run that says how long the rest takes.
_LEAST_SHARE = 0.05
#: Seconds below which a stage needs no line of its own.
_SHORT = 1.0

#: The steps that are being timed, the outermost first.
_steps: list[str] = []


def current_step() -> str:
    """What the innermost step says that is going on; empty for nothing."""
    return _steps[-1] if _steps else ""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what goes on to whoever shows it; nothing is logged."""
    _steps.append(what)
    try:
        yield
    finally:
        _steps.pop()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log a step's beginning and its end with the seconds it took."""
    # On a terminal the live line says what is going on.
    log.info("%s ...", what, extra={"step": True})
    began = time.monotonic()
    with step(what):
        yield
    log.info("%s: done in %.1f s", what, time.monotonic() - began, extra={"step": True})


@dataclass
class Pace:
    """``expected`` are seconds by stage, in the order in which they run: right or wrong by one factor, the times left
    are the same. Empty where nothing is known; then stages count alike.

    Read by another thread, which shows it.
    """

    expected: Mapping[str, float] = field(default_factory=dict)
    #: The stage that runs, the number of those before it, and what it has done of what.
    current: str = ""
    n_done: int = 0
    counts: tuple[int, int, str] = (0, 0, "")
    began: float = field(default_factory=lambda: time.monotonic())
    _weight: float = 0.0
    _skipped: float = 0.0
    _lost: float = 0.0

    @classmethod
    def of(cls, stages: Collection[str], expected: Mapping[str, float] | None = None) -> Pace:
        """A pace of these stages; those of which nothing is expected count alike."""
        return cls({name: (expected or {}).get(name, 1.0) for name in stages})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell of a stage when it has ended: one line, with the time left for the run."""
        self.current, self.counts, began = name, (0, 0, ""), time.monotonic()
        if not self.n_done:
            # What Spark took to start says nothing of the stages.
            self._lost = began - self.began
        yield
        took, weight = time.monotonic() - began, self.expected.get(name, 0.0)
        if took < _SKIPPED * weight:
            self._skipped += weight
            self._lost += took
        else:
            self._weight += weight
        self.n_done += 1
        done, of, noun = self.counts
        self.current, self.counts = "", (0, 0, "")
        if took >= _SHORT and len(self.expected) > 1:
            what = f"{done:,} of {of:,} {noun}, " if of else ""
            stage = f"stage {self.n_done} of {len(self.expected)}, {name}"
            log.info("%s: %s%s%s", stage, what, duration(took), self._left_text("; "))

    def count(self, done: int, of: int, noun: str) -> None:
        """What the stage has done of what; a line where there is more to come. ``noun`` is a plural."""
        self.counts = (done, of, noun)
        if 0 < done < of:
            log.info("%s: %s of %s %s%s", self.current or "done", f"{done:,}", f"{of:,}", noun, self._left_text("; "))

    def seconds_left(self) -> float | None:
        """For the whole run, if it goes on as it has; None where too little is done to tell."""
        done, of, _ = self.counts
        part = self.expected.get(self.current, 0.0) * (done / of if of else 0.0)
        total = sum(self.expected.values()) - self._skipped
        share = (self._weight + part) / total if total else 0.0
        if share < _LEAST_SHARE:
            return None
        return max(0.0, time.monotonic() - self.began - self._lost) * (1 - share) / share

    def text(self) -> str:
        """Stage, counts and times on one line."""
        done, of, noun = self.counts
        named = self.current and len(self.expected) > 1
        parts = [f"{self.current} ({self.n_done + 1} of {len(self.expected)})" if named else ""]
        parts += [f"{done:,} of {of:,} {noun}" if of else ""]
        parts += [f"{duration(time.monotonic() - self.began)} so far{self._left_text(', ')}"]
        return " · ".join(part for part in parts if part)

    def _left_text(self, before: str) -> str:
        left = self.seconds_left()
        return f"{before}about {duration(left)} left" if left is not None and left >= _SHORT else ""


@dataclass
class Counted:
    """The parts of a stage, counted as they are done."""

    pace: Pace
    of: int
    noun: str
    done: int = 0

    def __post_init__(self) -> None:
        self.add(0)

    def add(self, parts: int = 1) -> None:
        self.done += parts
        self.pace.count(self.done, self.of, self.noun)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
