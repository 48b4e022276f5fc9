"""A live line on the terminal that says how far Spark's running jobs are."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class SparkProgress:
    """Shows the tasks of the active Spark stages while it is open; nothing where stderr is no terminal."""

    def __init__(self, spark: SparkSession, console: Console) -> None:
        self._console = console
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        # Spark Connect has no status tracker: there the log lines alone tell the progress.
        self._tracker: Any = getattr(getattr(spark, "_sc", None), "statusTracker", lambda: None)()

    def __enter__(self) -> SparkProgress:
        if self._console.is_terminal and self._tracker is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("Spark tasks", total=None)
            while not self._stop.wait(0.5):
                infos = [self._tracker.getStageInfo(i) for i in self._tracker.getActiveStageIds()]
                done = sum(i.numCompletedTasks for i in infos if i)
                total = sum(i.numTasks for i in infos if i)
                bar.update(task, completed=done, total=total or None)
