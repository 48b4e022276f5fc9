"""What every benchmark shares: each contender runs in a process of its own, timed, with the memory of its tree.

A contender is a Python function ``name(args) -> dict`` of a benchmark script. It runs as ``script --contender
name``, marks its steps with `step`, and returns an independent score. The parent samples the memory of the
whole process tree (Spark's JVM and Python workers too) as the sum of proportional set sizes (PSS), which counts
shared pages once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HERE = Path(__file__).parent
DATA = Path(os.environ.get("MOTORPOOL_BENCH_DATA", HERE / "data"))
RESULTS = HERE / "results"

_STEP, _RESULT = "@step ", "@result "


@contextmanager
def step(name: str) -> Iterator[None]:
    """Mark a step of a contender: its seconds and peak memory become a row of their own."""
    print(f"{_STEP}begin {name}", flush=True)
    began = time.perf_counter()
    yield
    print(f"{_STEP}end {name} {time.perf_counter() - began:.3f}", flush=True)


@dataclass
class Outcome:
    """One contender: seconds and peak GiB of the whole process and of each step, and what it returned.

    ``own_gib`` is the peak of what is no page of a mapped file, which the kernel takes back where memory is short; for
    each step, too.
    """

    name: str
    seconds: float
    peak_gib: float
    own_gib: float = 0.0
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)
    own_of_steps: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None

    @property
    def work_seconds(self) -> float:
        """Those of the step `work`, without the start of Python and Spark; of all where it was not reached."""
        return self.steps["work"][0] if "work" in self.steps else self.seconds


def _tree_memory(root: psutil.Process) -> tuple[float, float]:
    """GiB of a process tree, each shared page by its share: all of it, and without pages of mapped files."""
    total, own = 0, 0
    for process in [root, *root.children(recursive=True)]:
        try:
            with open(f"/proc/{process.pid}/smaps_rollup") as f:
                found = {line.split(":")[0]: int(line.split()[1]) for line in f if line.startswith("Pss")}
        except (OSError, psutil.Error):
            continue
        total += found.get("Pss", 0)
        own += found.get("Pss", 0) - found.get("Pss_File", 0)
    return total / 2**20, own / 2**20


def run_contender(
    script: str,
    name: str,
    args: Sequence[str] = (),
    timeout: float = 3600,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Run one contender in a fresh process and watch it; ``told`` gets what is known so far after every step."""
    print(f"--- {name} {' '.join(args)}", file=sys.stderr, flush=True)
    command = [sys.executable, script, "--contender", name, *args]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    outcome = Outcome(name, 0.0, 0.0)
    current: list[str] = []
    done = threading.Event()

    def watch() -> None:
        root = psutil.Process(child.pid)
        # Reading smaps_rollup of a large JVM takes tens of milliseconds of one core.
        while not done.wait(2.0):
            try:
                pss, own = _tree_memory(root)
            except psutil.Error:
                return
            outcome.peak_gib, outcome.own_gib = max(outcome.peak_gib, pss), max(outcome.own_gib, own)
            for step_name in list(current):
                seconds, peak = outcome.steps.get(step_name, (0.0, 0.0))
                outcome.steps[step_name] = (seconds, max(peak, pss))
                outcome.own_of_steps[step_name] = max(outcome.own_of_steps.get(step_name, 0.0), own)
            if time.perf_counter() - began > timeout:
                outcome.failed = f"stopped after {timeout:.0f} s"
                for process in [*root.children(recursive=True), root]:
                    process.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    for line in child.stdout or ():
        if line.startswith(_STEP + "begin "):
            current.append(line[len(_STEP) + 6 :].strip())
            print(f"    {current[-1]} ...", file=sys.stderr, flush=True)
        elif line.startswith(_STEP + "end "):
            name_, seconds = line[len(_STEP) + 4 :].rsplit(maxsplit=1)
            current.remove(name_)
            outcome.steps[name_] = (float(seconds), outcome.steps.get(name_, (0.0, 0.0))[1])
            print(f"    {name_}: {float(seconds):.1f} s", file=sys.stderr, flush=True)
            told(outcome)
        elif line.startswith(_RESULT):
            outcome.result = json.loads(line[len(_RESULT) :])
    status = child.wait()
    done.set()
    thread.join()
    outcome.seconds = time.perf_counter() - began
    if status and not outcome.failed:
        outcome.failed = f"exit status {status}"
    print(
        f"    {outcome.seconds:.1f} s, {outcome.peak_gib:.2f} GiB {outcome.failed or ''}", file=sys.stderr, flush=True
    )
    return outcome


def machine() -> dict[str, str]:
    """Where and with what the figures were measured."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    packages = ("pyspark", "delta-spark", "numpy", "pyarrow", "scikit-learn")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores ({model}), {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{p: version(p) for p in packages},
    }


def write_report(
    name: str,
    title: str,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]],
    notes: str,
    folder: Path = RESULTS,
) -> None:
    """Write ``<name>.md`` (tables and notes) and ``.json`` (the rows) into a folder, ``results`` by default."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine()
    lines = [f"# {title}", "", "; ".join(f"{k} {v}" for k, v in facts.items()), ""]
    for caption, header, rows in tables:
        lines += [
            f"## {caption}",
            "",
            "| " + " | ".join(header) + " |",
            "| " + " | ".join("---" for _ in header) + " |",
        ]
        lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in rows]
        lines.append("")
    lines += [notes.strip(), ""]
    (folder / f"{name}.md").write_text("\n".join(lines))
    content = {
        **facts,
        "tables": [{"caption": c, "columns": list(h), "rows": [list(r) for r in rs]} for c, h, rs in tables],
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    print("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def entry(
    contenders: dict[str, Callable[[argparse.Namespace], dict[str, Any]]], parser: argparse.ArgumentParser
) -> argparse.Namespace | None:
    """Parse arguments; when this process is a contender, run it and return None."""
    parser.add_argument("--contender", choices=sorted(contenders), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender is None:
        return args
    result = contenders[args.contender](args)
    print(_RESULT + json.dumps(result), flush=True)
    return None


def full_case(images: int, seed: int = 1) -> Path:
    """A sample case without photos under DATA, made once."""
    folder = DATA / f"case-{images}-{seed}"
    if not folder.exists():
        from motorpool_sample import make_sample_case

        folder.parent.mkdir(parents=True, exist_ok=True)
        make_sample_case(folder, images, seed, with_images=False)
    return folder


def write_light_case(folder: Path, images: int, widths: Mapping[str, int]) -> None:
    """The sample case with some of its descriptors alone, given with their widths, streamed; a new folder."""
    from motorpool_sample.descriptors import DescriptorSource
    from motorpool_sample.pickle_writer import write_pickle_header, write_pickle_trailer
    from motorpool_sample.truth import draw_truth

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "descriptors").mkdir(parents=True)
    truth = draw_truth(images, 1)
    with (folder / "images_paths.csv").open("w", newline="") as f:
        f.write("paths\r\n")
        f.writelines(truth.path(i).replace("/", "\\") + "\r\n" for i in range(truth.images))
    source = DescriptorSource(truth)
    for name, width in widths.items():
        with (folder / "descriptors" / f"{name}.pickle").open("wb") as out:
            write_pickle_header(out, (truth.images, width), "float32")
            for block in source.blocks(name):
                out.write(block.tobytes())
            write_pickle_trailer(out)


def read_components(folder: Path, rows: int | None = None) -> np.ndarray:
    """float32[rows, columns] of what `write_components` wrote: the first rows by image, or all as they lie."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder)
    if rows is not None:
        table = table.sort_by("image_id").slice(0, rows)
    return table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def write_components(folder: Path, images: int, columns: int) -> None:
    """Parquet files of that many standardised principal components of the full case's vdc_type."""
    from pyspark.sql import functions as F

    from motorpool.case.arrays import open_array
    from motorpool.case.descriptors import read_vectors
    from motorpool.features.fit import Fitter
    from motorpool.features.spec import FeatureSet, Part, Step
    from motorpool.spark.session import build_session

    spark = build_session(delta=False)
    array = open_array(str(full_case(images) / "descriptors" / "vdc_type.pickle"))
    wide = read_vectors(spark, {"x": array}, refuse=True).select("image_id", F.col("vector").alias("x"))
    spec = FeatureSet("f", (Part("x"),), (Step("pca", columns), Step("standard")))
    with Fitter(wide, [spec], 0) as fitter:
        (fitted,) = fitter.fit()
        fitter.transform(fitted).write.mode("overwrite").parquet(str(folder))


def stored_vectors(spark: SparkSession, folder: Path, name: str = "vector", images: int | None = None) -> DataFrame:
    """Vectors of Parquet files, of all images or the first, as stages get those of a lake (`Lake.fitted_vectors`)."""
    import pyarrow.dataset as ds

    from motorpool.lake.task_files.scan import row_groups, scan

    return scan(spark, row_groups(ds.dataset(folder, format="parquet"), folder, None), name, images)


@contextmanager
def component_blocks(spark: SparkSession, folder: Path, images: int, columns: int) -> Iterator[DataFrame]:
    """Blocks of the first images of what `write_components` wrote, as stages get those of a feature set.

    (`motorpool.pipeline.stages.features.gathered`.)
    """
    import pyarrow.parquet as pq

    from motorpool.spark import block_files, blocks

    if images * columns <= blocks.HELD_VALUES:
        yield blocks.gather_here(spark, pq.read_table(folder, filters=[("image_id", "<", images)]))
        return
    with block_files.kept(blocks.gather(stored_vectors(spark, folder, images=images))) as block_df:
        yield block_df


class Job(NamedTuple):
    """A job of Spark's: when it began and ended, in seconds, and the line of code that asked for it, where known."""

    began: float
    ended: float
    asked: str


def event_log(folder: Path) -> dict[str, str]:
    """Settings of a session whose jobs `jobs_in` reads."""
    told = {"enabled": "true", "compress": "false", "dir": f"file://{folder}"}
    return {f"spark.eventLog.{key}": value for key, value in told.items()}


def jobs_in(folder: Path) -> list[Job]:
    """The jobs that ended, by a session's event log, in the order of their beginnings."""
    began: dict[int, tuple[float, str]] = {}
    jobs = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        for line in file.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {"Event": ""}
            if event["Event"] == "SparkListenerJobStart":
                asked = event.get("Properties", {}).get("callSite.short", "")
                began[event["Job ID"]] = event["Submission Time"] / 1000, asked
            elif event["Event"] == "SparkListenerJobEnd":
                start, asked = began[event["Job ID"]]
                jobs.append(Job(start, event["Completion Time"] / 1000, asked))
    return sorted(jobs)


def idle(jobs: Sequence[Job], began: float, ended: float) -> float:
    """Seconds between two times in which no job was at work."""
    busy, at = 0.0, began
    for job in jobs:
        busy += max(0.0, min(job.ended, ended) - max(job.began, at))
        at = max(at, min(job.ended, ended))
    return ended - began - busy
