"""Whether this machine can run Motorpool: Python, Java, Spark, optional packages, GPU, cores, memory, disk.

Starts neither Spark nor a JVM, but for `java -version`, and can be imported where PySpark is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from motorpool.backend.needs import CUML, CUPY, INSTALL, SPARK_RAPIDS_ML
from motorpool.describe.built_in import HOG
from motorpool.describe.network import PACKAGES as NETWORKS
from motorpool.errors import EnvironmentMissingError, not_installed
from motorpool.maps.registry import MAP_METHODS
from motorpool.report import PACKAGES as REPORT
from motorpool.review import PACKAGES as REVIEW
from motorpool.spark.jvm.jars import find_delta
from motorpool.spark.jvm.java import check_java
from motorpool.spark.jvm.start_failures import DELTA_PACKAGE

Status = Literal["ok", "missing", "note"]
#: What `setup.py` asks for.
_PYTHON = (3, 11)
_PYSPARK = "4.0."
_GIB = 2**30
#: Seconds that a tool of the machine may take to answer.
_PATIENCE = 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Without what is ``missing`` a run on this machine fails; a ``note`` may matter."""

    status: Status
    what: str
    told: str


def extras() -> dict[str, tuple[str, dict[str, str]]]:
    """The optional extras: what each is for, and its modules with the distributions that bring them."""
    maps = dict(method.package for method in MAP_METHODS.values() if method.package)
    return {
        "report": ("maps and the report", {name: name for name in REPORT} | maps),
        "review": ("the page on which people look at photos", {name: name for name in REVIEW}),
        "hdf5": ("descriptors in HDF5 files", {"h5py": "h5py"}),
        "onnx": ("descriptors that networks compute from photos", dict(NETWORKS)),
        "hog": ("the built-in descriptor hog", dict([HOG])),
        "gpu": ("accelerator: gpu", {CUPY: CUPY, CUML: CUML, SPARK_RAPIDS_ML: "spark-rapids-ml"}),
    }


def examine() -> list[Finding]:
    """Everything, in the order in which it is told. A second or two."""
    return [_python(), _java(), _spark(), _delta(), *_extras(), _gpu(), *_machine(), _temp()]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether a run with the default settings can work here."""
    return all(finding.status != "missing" for finding in findings)


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as text, a line each, and what follows from them."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        yield f"{finding.status:<7}  {finding.what:<{width}}  {finding.told}"
    yield ""
    lacking = [finding.what for finding in findings if finding.status == "missing"]
    yield f"Missing: {', '.join(lacking)}. Nothing runs here without." if lacking else "Motorpool can run here."


def _python() -> Finding:
    told = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < _PYTHON:
        return Finding("missing", "Python", f"{told}: Motorpool needs {'.'.join(map(str, _PYTHON))} or newer")
    return Finding("ok", "Python", told)


def _java() -> Finding:
    try:
        java, number = check_java()
    except EnvironmentMissingError as exc:
        return Finding("missing", "Java", str(exc))
    return Finding("ok", "Java", f"{number} ({java})")


def _spark() -> Finding:
    found = _version("pyspark")
    if not_installed(["pyspark"]):
        return Finding("missing", "PySpark", "not installed: pip install 'pyspark>=4.0.0,<4.1'")
    if found is None:
        return Finding("note", "PySpark", "is there, but its version is not known; Motorpool is tested with 4.0")
    status: Status = "ok" if found.startswith(_PYSPARK) else "note"
    return Finding(status, "PySpark", found if status == "ok" else f"{found}: Motorpool is tested with 4.0")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _delta() -> Finding:
    if not_installed(["delta"]):
        told = "not installed: pip install 'delta-spark>=4.0.0,<4.1', or use `lake.format: parquet`"
        return Finding("missing", "Delta Lake", told)
    jar = find_delta()
    if jar is not None:
        return Finding("ok", "Delta Lake", f"{DELTA_PACKAGE.rsplit(':', 1)[1]} ({jar})")
    return Finding(
        "note",
        "Delta Lake",
        f"{DELTA_PACKAGE} is not here yet: the first start fetches it from Maven Central. Without a network use "
        "`lake.format: parquet`",
    )


def _extras() -> Iterator[Finding]:
    for name, (purpose, modules) in extras().items():
        lacking = not_installed(modules)
        if not lacking:
            yield Finding("ok", name, f"{', '.join(modules)} ({purpose})")
            continue
        pip = INSTALL if name == "gpu" else f"pip install {' '.join(modules[module] for module in lacking)}"
        yield Finding("note", name, f"{', '.join(lacking)} not installed, needed for {purpose} alone: {pip}")


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("note", "GPU", "no nvidia-smi on the PATH, so no GPU of NVIDIA's; none is needed")
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Finding("note", "GPU", f"{tool} does not answer: {exc}")
    found = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    if said.returncode or not found:
        return Finding("note", "GPU", f"{tool} finds none: {(said.stderr or said.stdout).strip()[:200]}")
    return Finding("ok", "GPU", "; ".join(found))


def _machine() -> Iterator[Finding]:
    # Linux alone tells how many of them this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "cores", str(cores))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _memory_limit()
    if limit is not None and limit < total:
        told = f"{limit / _GIB:.1f} GiB for this container, of {total / _GIB:.1f} GiB of the machine, by which Spark is"
        yield Finding("note", "memory", f"{told} set up: set spark.driver.memory where that is too much")
    else:
        yield Finding("ok", "memory", f"{total / _GIB:.1f} GiB")


def _memory_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """The memory that Linux gives the processes of this container, in bytes; None where it sets no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _temp() -> Finding:
    """The folder in which Spark shuffles."""
    what = "temp folder"
    named = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    try:
        folder = Path(named or tempfile.gettempdir())
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} cannot be written")
    except OSError as exc:
        return Finding("missing", what, f"{exc}: set TMPDIR, or spark.local.dir in the config, to a folder on a disk")
    return Finding("ok", what, f"{free / _GIB:.1f} GiB free ({folder})")
