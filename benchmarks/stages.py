"""Where the demo's run spends its time: jobs, commits, gaps between jobs and processor time by stage.

    python benchmarks/stages.py [--images 2000] [--before results/stages.json]

The study of `make demo` into a new lake. With ``--before``, the table of an earlier result is shown above the new one:
run it with the code before a change, and keep the file. Jobs come from Spark's event log, commits from the tables'
logs by when they were written, processor time from all processes of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from demo import CASE, CONF, EVENT_LOG, EVENTS, FOLDER, LAKE, motorpool
from harness import entry, idle, jobs_in, run_contender, step, write_report

HEADER = ["stage", "seconds", "Spark jobs", "seconds without a job", "commits to tables", "processor seconds"]


def processor_seconds() -> float:
    """Of this process and all that it has started, those that have ended too."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A run in this process, stage by stage."""
    from motorpool.cli import main as command
    from motorpool.pipeline.pace import Pace

    shutil.rmtree(FOLDER / "lake", ignore_errors=True)
    shutil.rmtree(EVENTS, ignore_errors=True)
    EVENTS.mkdir(parents=True)
    stages: list[tuple[str, float, float, float]] = []
    original = Pace.stage

    @contextmanager
    def watched(pace: Pace, name: str) -> Iterator[None]:
        began, used = time.time(), processor_seconds()
        with original(pace, name):
            yield
        stages.append((name, began, time.time(), processor_seconds() - used))

    Pace.stage = watched  # type: ignore[method-assign]
    began = time.time()
    with step("work"):
        paths = ("--set", f"case.path={CASE}", "--set", f"lake.path={LAKE}")
        command(["run", "--conf", str(CONF), *paths, *EVENT_LOG])
    ended, used = time.time(), processor_seconds()
    all_jobs = jobs_in(EVENTS)
    commits = [file.stat().st_mtime for file in LAKE.glob("*/_delta_log/*.json")]

    def row(name: str, start: float, stop: float, cpu: float) -> list[Any]:
        jobs = sum(start <= job.began < stop for job in all_jobs)
        done = sum(start <= at < stop for at in commits)
        return [name, stop - start, jobs, idle(all_jobs, start, stop), done, cpu]

    rows = [row(*stage) for stage in stages if stage[2] - stage[1] > 0.5]
    return {"rows": [*rows, row("everything, with the start of Spark", began, ended, used)]}


def report(rows: list[list[Any]], images: int, before: Path | None) -> None:
    """Write the table, and above it that of an earlier result."""
    tables = []
    if before:
        earlier = json.loads(before.read_text())
        tables.append((f"Before: commit {earlier['commit']}", HEADER, earlier["tables"][-1]["rows"]))
    tables.append(("Now", HEADER, rows))
    write_report(
        "stages",
        f"The demo's study of {images:,} images, by stage",
        tables,
        "One run each; where other work was beside it, jobs, commits and processor seconds tell more than seconds.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--before", type=Path)
    args = entry({"run": run}, parser)
    if args is None:
        return
    if not CASE.exists():
        motorpool("sample", str(CASE), "--images", str(args.images), "--seed", "1")
    done = run_contender(__file__, "run", ["--images", str(args.images)])
    report(done.result["rows"], args.images, args.before)
    shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
