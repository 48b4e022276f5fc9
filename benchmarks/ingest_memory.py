"""The memory of the Python workers while a large pickle is ingested into a Delta lake, without the JVM's.

    python benchmarks/ingest_memory.py [--images 416314] [--small 100000]

Three pickles of float32 with 2,560 columns: efficientnet-b7 of the full case (4.3 GB), and two of random values with
--small rows, in C order and in Fortran order. Equal figures for the two sizes say that memory does not follow the
file; for the two orders, that it does not follow the layout either.

Every Python process of the tree is sampled four times a second: its proportional set size (PSS), which counts a
page shared by k processes as 1/k of it, and the kernel's own high-water mark of its resident set size (RSS), which
counts it whole and misses no peak between two samples. Makes its cases and the lake under benchmarks/data, and
removes them again; the full case stays.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness import DATA, entry, full_case, run_contender, step, write_report

CASES = DATA / "ingest-memory-cases"
LAKE = DATA / "lake-ingest-memory"
COLUMNS = 2560
INTERVAL_S = 0.25
MIB = 2**20
#: The modules that fork Spark's Python workers: Motorpool's on one machine, Spark's own elsewhere.
_DAEMONS = {"motorpool.spark.worker_daemon", "pyspark.daemon"}


@dataclass
class Peaks:
    """Peak bytes of every Python process below this one, by pid, and of all of them at once."""

    role: dict[int, str] = field(default_factory=dict)
    pss: dict[int, int] = field(default_factory=dict)
    rss: dict[int, int] = field(default_factory=dict)
    workers_at_once: int = 0
    python_at_once: int = 0

    def largest(self, role: str, of: dict[int, int]) -> float:
        """MiB of the largest process with this role."""
        return max((of[pid] for pid, r in self.role.items() if r == role), default=0) / MIB

    def workers(self) -> list[int]:
        return sorted(pid for pid, role in self.role.items() if role == "worker")

    def sample(self) -> None:
        now: dict[str, int] = {}
        for process in psutil.Process().children(recursive=True):
            try:
                role = self.role.get(process.pid) or _role(process)
                pss = _kib(f"/proc/{process.pid}/smaps_rollup", "Pss:") if role else 0
                rss = _kib(f"/proc/{process.pid}/status", "VmHWM:") if role else 0
            except (OSError, StopIteration, psutil.Error):
                continue  # it ended while we looked
            if role:
                self.role[process.pid] = role
                self.pss[process.pid] = max(self.pss.get(process.pid, 0), pss)
                self.rss[process.pid] = max(self.rss.get(process.pid, 0), rss)
                now[role] = now.get(role, 0) + pss
        self.workers_at_once = max(self.workers_at_once, now.get("worker", 0))
        self.python_at_once = max(self.python_at_once, sum(now.values()))


def _role(process: psutil.Process) -> str:
    """What a process is to Spark: driver, daemon (which forks the workers) or worker; empty for the JVM."""
    if not process.name().startswith("python"):
        return ""
    if not _DAEMONS & set(process.cmdline()):
        return "driver"
    # A worker is a fork of the daemon and keeps its command line.
    parent = process.parent()
    return "worker" if parent is not None and _DAEMONS & set(parent.cmdline()) else "daemon"


def _kib(file: str, key: str) -> int:
    """A line of a /proc file that is given in KiB, in bytes."""
    with open(file) as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key)) * 1024


@contextmanager
def watched() -> Iterator[Peaks]:
    """Sample the Python processes below this one until the block ends."""
    peaks, done = Peaks(), threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_S):
            peaks.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def random_case(rows: int, order: str) -> Path:
    """A case of one pickle; random values are the same stream of bytes in either order."""
    from motorpool_sample.pickle_writer import write_pickle_header, write_pickle_trailer

    folder = CASES / f"{order}-{rows}"
    (folder / "descriptors").mkdir(parents=True)
    rng = np.random.default_rng(1)
    with (folder / "descriptors" / "efficientnet-b7.pickle").open("wb") as f:
        write_pickle_header(f, (rows, COLUMNS), "float32", fortran=order == "Fortran")
        for start in range(0, rows, 1000):
            f.write(rng.random((min(1000, rows - start), COLUMNS), np.float32).tobytes())
        write_pickle_trailer(f)
    with (folder / "images_paths.csv").open("w") as paths:
        paths.write("paths\n")
        paths.writelines(f"veriwild/1/{i // 10:05d}/{i:06d}.jpg\n" for i in range(rows))
    return folder


def ingest(args: argparse.Namespace) -> dict[str, Any]:
    from motorpool.config.load import parse_config
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.ingest import run_ingest

    case = Path(args.case)
    config = parse_config(
        {
            "case": {
                "images_paths": str(case / "images_paths.csv"),
                "descriptors": {"efficientnet-b7": str(case / "descriptors" / "efficientnet-b7.pickle")},
            },
            "lake": {"path": str(LAKE), "format": "delta"},
        }
    )
    with step("session"):
        ctx = Context.start(config)
    with step("ingest"):
        run_ingest(ctx)
    written = ctx.lake.read("descriptors").selectExpr("count(*)", "min(size(vector))", "max(size(vector))").first()
    return {"rows": written[0], "columns": [written[1], written[2]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=416_314)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = entry({"ingest": ingest}, parser)
    if args is None:
        return
    shutil.rmtree(CASES, ignore_errors=True)
    rows: list[list[Any]] = []
    processes: list[list[Any]] = []
    for count, order in ((args.images, "C"), (args.small, "C"), (args.small, "Fortran")):
        case = full_case(count) if not rows else random_case(count, order)
        shutil.rmtree(LAKE, ignore_errors=True)
        with watched() as peaks:
            outcome = run_contender(__file__, "ingest", ["--case", str(case)])
        shutil.rmtree(LAKE, ignore_errors=True)
        if outcome.failed or outcome.result != {"rows": count, "columns": [COLUMNS, COLUMNS]}:
            raise SystemExit(f"{count:,} rows in {order} order: {outcome.failed or outcome.result}")
        what = f"{count:,} x {COLUMNS:,}, {order} order"
        size = (case / "descriptors" / "efficientnet-b7.pickle").stat().st_size
        rows.append(
            [
                what,
                size / MIB,
                outcome.steps["ingest"][0],
                peaks.largest("worker", peaks.pss),
                peaks.largest("worker", peaks.rss),
                peaks.workers_at_once / MIB,
                peaks.largest("driver", peaks.pss),
                peaks.python_at_once / MIB,
                outcome.peak_gib * 1024,
            ]
        )
        for number, pid in enumerate(peaks.workers(), 1):
            processes.append([what, number, peaks.pss[pid] / MIB, peaks.rss[pid] / MIB])
        shutil.rmtree(CASES, ignore_errors=True)
    header = ["pickle", "file", "seconds", "largest worker, PSS", "largest worker, RSS", "all workers at once, PSS",
              "driver, PSS", "all Python at once, PSS", "with the JVM, PSS"]  # fmt: skip
    write_report(
        "ingest_memory",
        f"Memory of the Python processes while {args.images:,} x {COLUMNS:,} float32 are ingested",
        [
            ("Peaks (MiB)", header, rows),
            ("Every worker (MiB)", ["pickle", "worker", "peak PSS", "peak RSS"], processes),
        ],
        f"PSS sampled every {INTERVAL_S} s (with the JVM: every 2 s); RSS is the kernel's high-water mark and counts "
        "shared pages whole. Seconds are the stage's, without starting Spark. One run each.",
    )


if __name__ == "__main__":
    main()
