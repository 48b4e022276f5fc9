"""What a command is doing: whole lines of a log with their times, and on a terminal a live line below them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from motorpool.pipeline.pace import Pace, current_step, duration

log = logging.getLogger(__name__)

#: Seconds before the first line of the log that says what goes on, and between the others.
_FIRST_LINE, _LINE = 10.0, 60.0
#: Fewer tasks say nothing of how far a job is.
_FEW_TASKS = 4


class LogLines(logging.Handler):
    """Each record as one line with its time, however long; a terminal breaks it where it ends.

    On a terminal, where a live line says what is going on, steps get no lines of their own.
    """

    def __init__(self, console: Console, *, show_level: bool = False) -> None:
        super().__init__()
        self._console = console
        self._show_level = show_level

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "step", False) and self._console.is_terminal and not self._show_level:
            return
        try:
            when = time.strftime("%H:%M:%S", time.localtime(record.created))
            level = f"{record.levelname:<7} " if self._show_level else ""
            line = Text.assemble((when, "cyan"), f" {level}", (record.getMessage(), _style(record.levelno)))
            self._console.print(line, soft_wrap=True, highlight=False)
            if record.exc_info and self._show_level:
                self._console.print(logging.Formatter().formatException(record.exc_info), soft_wrap=True, markup=False)
        except Exception:
            self.handleError(record)


def _style(level: int) -> str:
    return "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""


class Progress:
    """Shows while it is open what goes on: on a terminal a live line, elsewhere a line of the log after ten
    seconds, and then every minute.

    ``pace`` and ``doing`` are those of a run. What is not known to them is the innermost step that is timed.
    """

    def __init__(self, console: Console, pace: Pace | None = None, doing: Callable[[], str] = lambda: "") -> None:
        self._console = console
        self._pace = pace
        self._doing = doing
        self._began = time.monotonic()
        self._spinner = Spinner("dots")
        self._tracker: Any = None
        self._stop = threading.Event()
        self._live = Live(console=console, get_renderable=self._line, refresh_per_second=4, transient=True)
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def watch(self, spark: SparkSession, doing: Callable[[], str] = lambda: "") -> None:
        """Count the tasks of a session too, and say what ``doing`` says."""
        # Spark Connect has no status tracker: there the log alone tells the progress.
        self._tracker = getattr(getattr(spark, "_sc", None), "statusTracker", lambda: None)()
        self._doing = doing

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._thread.join()

    def _now(self) -> str:
        """What goes on, without the name of the stage where the pace has told it."""
        text = self._doing() or current_step()
        stage = self._pace.current if self._pace else ""
        return text.removeprefix(f"{stage}: ") if stage else text

    def _times(self) -> str:
        return self._pace.text() if self._pace else duration(time.monotonic() - self._began)

    def _tasks(self) -> str:
        """Tasks done of the Spark stages that run now; empty where they are few."""
        if self._tracker is None:
            return ""
        try:
            infos = [self._tracker.getStageInfo(i) for i in self._tracker.getActiveStageIds()]
        except Exception:
            # The JVM is ending, and whoever works with it says why.
            return ""
        done, total = sum(i.numCompletedTasks for i in infos if i), sum(i.numTasks for i in infos if i)
        return f"{done:,} of {total:,} tasks" if total >= _FEW_TASKS else ""

    def _line(self) -> RenderableType:
        parts = (self._times(), self._now(), self._tasks())
        # One line: what does not fit is cut, so that nothing jumps.
        text = Text(" · ".join(part for part in parts if part), no_wrap=True, overflow="ellipsis")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(self._spinner, text)
        return grid

    def _tell(self) -> None:
        # The first comes soon: nobody likes a program that says nothing.
        seconds = _FIRST_LINE
        while not self._stop.wait(seconds):
            seconds = _LINE
            parts = (self._now() or "working", self._times(), self._tasks())
            log.info("%s", " · ".join(part for part in parts if part))


@contextmanager
def working(console: Console, spark: SparkSession) -> Iterator[None]:
    """`Progress` of a command that works in a session that is there."""
    with Progress(console) as progress:
        progress.watch(spark)
        yield
