"""How far Spark's running jobs are: a live line on a terminal, a line of the log every minute elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

log = logging.getLogger(__name__)

#: Seconds between looks, and between lines of the log.
_LOOK, _LINE = 0.5, 60.0


class SparkProgress:
    """Shows the tasks of the active Spark stages while it is open, and what ``doing`` says they are for."""

    def __init__(self, spark: SparkSession, console: Console, doing: Callable[[], str] = lambda: "") -> None:
        self._console = console
        self._doing = doing
        self._stop = threading.Event()
        # Spark Connect has no status tracker: there the other log lines alone tell the progress.
        self._tracker: Any = getattr(getattr(spark, "_sc", None), "statusTracker", lambda: None)()
        watch = self._draw if console.is_terminal else self._tell
        self._thread = threading.Thread(target=watch, daemon=True)

    def __enter__(self) -> SparkProgress:
        if self._tracker is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _tasks(self) -> tuple[int, int]:
        """Tasks done and tasks in all of the stages that run now."""
        infos = [self._tracker.getStageInfo(i) for i in self._tracker.getActiveStageIds()]
        return sum(i.numCompletedTasks for i in infos if i), sum(i.numTasks for i in infos if i)

    def _draw(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("Spark tasks", total=None)
            while not self._stop.wait(_LOOK):
                done, total = self._tasks()
                text = escape(self._doing()) or "Spark tasks"
                bar.update(task, completed=done, total=total or None, description=text)

    def _tell(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(_LINE):
            done, total = self._tasks()
            if total:
                minutes = (time.monotonic() - began) / 60
                log.info("%s: %d of %d Spark tasks, %.0f min so far", self._doing() or "working", done, total, minutes)
