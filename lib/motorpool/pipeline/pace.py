"""How far a run is, stage by stage, and how long the rest of it takes.

The time left is what was expected of the rest, corrected by how long the finished stages really took. Both are known
only so far: machines differ, and so do stages. Both spreads are counted in logarithms, and where they leave the time
left unknown by more than a factor of two, none is told.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from motorpool.texts import counted

log = logging.getLogger("motorpool")

#: Standard deviations, in natural logarithms: of machines from the one that the expected times are of (two of three
#: are between half and twice as fast), and of stages from their machine's pace.
_MACHINE, _STAGE = 0.8, 0.45
#: A stage of so many seconds says half as much of the pace as a long one: trifles take seconds.
_TRIFLE = 4.0
#: The time left is told where it is right by this factor four times of five.
_KNOWN, _FOUR_OF_FIVE = 2.0, 1.28
#: A stage that took less than this share of what was expected of it had nothing to do, and tells nothing of the pace.
_SKIPPED = 0.2
#: Seconds below which a stage or a step needs no line of its own, and those between lines that count parts.
_SHORT, _BETWEEN = 1.0, 10.0

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
    """Log a step when it has ended, with the seconds it took; below a second it is for those who look for details."""
    log.debug("%s ...", what)
    began = time.monotonic()
    with step(what):
        yield
    took = time.monotonic() - began
    # On a terminal the live line says what is going on.
    log.log(logging.INFO if took >= _SHORT else logging.DEBUG, "%s: %.1f s", what, took, extra={"step": True})


class Seen(NamedTuple):
    """What was expected of a stage, or of its finished part, and what it took; ``share`` is 1 for a whole stage."""

    expected: float
    took: float
    share: float = 1.0

    @property
    def weight(self) -> float:
        return self.share * self.expected / (self.expected + _TRIFLE) / _STAGE**2


def pace_of(seen: Sequence[Seen]) -> tuple[float, float]:
    """How many times as long as expected this machine takes, and the variance of the factor's logarithm.

    The factor is drawn towards 1 the more, the less was seen.
    """
    said = sum(s.weight for s in seen) + 1 / _MACHINE**2
    return math.exp(sum(s.weight * math.log(max(s.took, 1e-3) / s.expected) for s in seen) / said), 1 / said


def time_left(seen: Sequence[Seen], rest: Sequence[float], now: Seen | None = None) -> float | None:
    """Seconds that are left of a run; None where they are not known to within a factor of two.

    ``rest`` are seconds expected of the stages to come. ``now`` is the stage that runs: the seconds expected of all of
    it, those that it has taken, and the share of it that is done, 0 where it does not count its parts.
    """
    factor, spread = pace_of(seen)
    current = unsure = 0.0
    if now is not None and now.expected:
        share = min(now.share, 1.0)
        done = Seen(share * now.expected, now.took, share)
        if share:
            factor, spread = pace_of([*seen, done])
            own = max(now.took, 1e-3) / done.expected
            current = now.expected * (1 - share) * own**share * factor ** (1 - share)
        else:
            if now.took > now.expected * factor:
                # It is slower than the others were, by an amount that is not known yet: the spread stays.
                factor, _ = pace_of([*seen, now._replace(share=1.0)])
            current = max(now.expected * factor - now.took, 0.0)
        # The more of its parts are done, the more their own pace says.
        unsure = now.expected * factor * (1 - share) ** 2
    later = [seconds * factor for seconds in rest]
    left = current + sum(later)
    if not left:
        return None if now is not None else 0.0
    deviation = math.sqrt(spread * (unsure + sum(later)) ** 2 + _STAGE**2 * (unsure**2 + sum(s**2 for s in later)))
    return left if _FOUR_OF_FIVE * deviation / left <= math.log(_KNOWN) else None


@dataclass
class Pace:
    """``expected`` are seconds by stage, in the order in which they run. Stages of 0 seconds have nothing to do.

    Read by another thread, which shows it.
    """

    expected: Mapping[str, float] = field(default_factory=dict)
    #: The stage that runs, the number of those before it, and what it has done of what.
    current: str = ""
    n_done: int = 0
    counts: tuple[int, int, str] = (0, 0, "")
    began: float = field(default_factory=lambda: time.monotonic())
    #: When the stage began, when its parts were last counted, and when a line last told of it.
    _stage_began: float = 0.0
    _counted: float = 0.0
    _told: float = 0.0
    _seen: list[Seen] = field(default_factory=list)
    _ended: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, stages: Collection[str], expected: Mapping[str, float] | None = None) -> Pace:
        """A pace of these stages; of those that ``expected`` does not name nothing is expected."""
        return cls({name: (expected or {}).get(name, 0.0) for name in stages})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell of a stage when it has ended: one line, with the time left for the run."""
        self.counts = (0, 0, "")
        self._stage_began = self._counted = self._told = time.monotonic()
        self.current = name
        yield
        took, expected = time.monotonic() - self._stage_began, self.expected.get(name, 0.0)
        if expected and took >= _SKIPPED * expected:
            self._seen.append(Seen(expected, took))
        self._ended.add(name)
        self.n_done += 1
        done, of, noun = self.counts
        self.current, self.counts = "", (0, 0, "")
        if took >= _SHORT and len(self.expected) > 1:
            what = f"{done:,} of {counted(of, noun)}, " if of else ""
            stage = f"stage {self.n_done} of {len(self.expected)}, {name}"
            log.info("%s: %s%s%s", stage, what, duration(took), self._left_text("; "))

    def count(self, done: int, of: int, noun: str) -> None:
        """What the stage has done of what; a line now and then where there is more to come. ``noun`` is a singular."""
        now = time.monotonic()
        self.counts, self._counted = (done, of, noun), now
        if 0 < done < of and now - self._told >= _BETWEEN:
            self._told = now
            left = self._left_text("; ")
            log.info("%s: %s of %s%s", self.current or "done", f"{done:,}", counted(of, noun), left)

    def seconds_left(self) -> float | None:
        """For the whole run; None where it is not known to within a factor of two."""
        if not any(self.expected.values()):
            return None
        current, (done, of, _) = self.current, self.counts
        later = [s for name, s in self.expected.items() if s and name != current and name not in self._ended]
        now = None
        if current:
            took = (self._counted if done else time.monotonic()) - self._stage_began
            now = Seen(self.expected.get(current, 0.0), took, done / of if of else 0.0)
        left = time_left(self._seen, later, now)
        return left if left is None or not (current and done) else max(0.0, left - (time.monotonic() - self._counted))

    def text(self) -> str:
        """Stage, counts and times on one line."""
        done, of, noun = self.counts
        named = self.current and len(self.expected) > 1
        parts = [f"{self.current} ({self.n_done + 1} of {len(self.expected)})" if named else ""]
        parts += [f"{done:,} of {counted(of, noun)}" if of else ""]
        parts += [f"{duration(time.monotonic() - self.began)} so far{self._left_text(', ')}"]
        return " · ".join(part for part in parts if part)

    def _left_text(self, before: str) -> str:
        left = self.seconds_left()
        return f"{before}about {_roughly(left)} left" if left is not None and left >= _SHORT else ""


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


def _roughly(seconds: float) -> str:
    """As `duration`, but to ten seconds: nobody knows it better."""
    return duration(max(10.0, 10.0 * round(seconds / 10)) if seconds < 100 else seconds)
