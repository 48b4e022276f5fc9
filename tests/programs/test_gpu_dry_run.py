"""The benchmark of a GPU from end to end without one, on few rows: every contender ends, and what it found agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DRY_RUN = (
    "--accelerator", "cpu", "--images", "600", "--sample", "300", "--cuml-rows", "400", "--raw-columns", "300",
    "--heap", "1g", "--many-rows", "4000", "--beyond-rows", "3000", "--beyond-columns", "60",
)  # fmt: skip
STEPS = ["moments", "kmeans", "scores", "dbscan", "hdbscan", "umap"]


def dry_run(data: Path) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "MOTORPOOL_BENCH_DATA": str(data), "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *DRY_RUN]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=1800)


def test_the_dry_run_ends_with_its_report(tmp_path: Path) -> None:
    ran = dry_run(tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "gpu_dry_run.json").read_text())
    seconds, found, repeated = report["tables"]
    assert seconds["columns"] == ["step", "arrays", "libraries", "cpu", "cpu / arrays"]
    assert [row[0] for row in seconds["rows"]] == STEPS
    for name, arrays, libraries, cpu, _ in seconds["rows"]:
        # Maps are laid out by no library here.
        assert [value is None for value in (arrays, libraries, cpu)] == [False, name == "umap", False]
    told = {name: json.loads(what) for name, _, what, failed in found["rows"] if failed is None}
    assert told.keys() == {"arrays", "libraries", "cpu"}
    assert told["arrays"]["inertia"] == pytest.approx(told["cpu"]["inertia"], rel=1e-4)
    assert told["arrays"]["explained"] == pytest.approx(told["cpu"]["explained"], rel=1e-5)
    for key in ("clusters", "clusters by HDBSCAN"):
        assert told["arrays"][key] == told["cpu"][key]
    assert told["libraries"]["explained"] == pytest.approx(told["cpu"]["explained"], rel=1e-4)
    assert {failed for *_, failed in repeated["rows"]} == {None}
    reports = {name: json.loads(what) for name, _, _, what, _ in repeated["rows"]}
    for rows in ("400", "4,000"):
        # Clouds of a thousand rows by turns: of the first 400, each has a few.
        few = reports[f"DBSCAN, {rows} x 768: arrays"]
        assert 0.05 < few["noise"] / int(rows.replace(",", "")) < 0.15
        assert few["clusters"] == 4
    assert reports["DBSCAN, 400 x 768: sklearn"] == reports["DBSCAN, 400 x 768: arrays"]
    ours, theirs = (reports[f"PCA and KMeans, 3,000 x 60: {who}"] for who in ("arrays", "libraries"))
    assert ours["explained"] == pytest.approx(theirs["explained"], rel=1e-4)
    # Twenty clouds: with as many clusters the two may end in other places.
    assert min(ours["inertia"]) < 1.5 * min(theirs["inertia"])
    # What is large is removed.
    assert not list(tmp_path.glob("gpu-*/"))

    again = dry_run(tmp_path)
    assert again.returncode == 0
    assert "an earlier run has found all of this" in again.stderr
    assert "---" not in again.stderr
