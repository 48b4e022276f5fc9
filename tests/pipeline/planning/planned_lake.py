"""A lake that holds what `ingest` writes last, made without Spark, and commands that are to start none."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from review_lake import write


def lake_of(folder: Path, fmt: str, n_rows: int = 24, n_dropped: int = 0, **descriptors: int) -> Path:
    """The table `sources` alone, with descriptors of so many columns."""
    rows = [
        {"descriptor": name, "file": f"{name}.pickle", "n_rows": n_rows, "n_columns": width, "dtype": "float32",
         "n_dropped": n_dropped, "paths_fingerprint": "1", "ingested_at": datetime.now(UTC), "computed_by": None}
        for name, width in descriptors.items()
    ]  # fmt: skip
    write(folder, "sources", rows, fmt)
    return folder


def without_java(folder: Path, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own that finds no Java, and fails where PySpark has asked for one."""
    code = (
        "import sys; from motorpool.cli import main; from pyspark import SparkContext\n"
        "status = main(sys.argv[1:]); assert SparkContext._gateway is None; sys.exit(status)"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAVA_HOME"} | {"PATH": str(folder)}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, cwd=cwd)
