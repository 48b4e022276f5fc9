"""Tiny cases on disk, and what tests ask of a lake afterwards."""

from __future__ import annotations

import csv
import math
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from motorpool.config.load import parse_config
from motorpool.lake import Lake
from motorpool.lake.reading import Answer
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context

#: The published descriptors' names, a few columns wide.
WIDTHS = {"efficientnet-b7": 12, "osnet": 8, "vdc_color": 5, "vdc_type": 6}
#: Columns that tell when and how long, and so differ between runs that are otherwise equal.
CLOCK = ("created_at", "ingested_at", "seconds")


def blobs(rows: int, columns: int, groups: int = 3, seed: int = 3) -> np.ndarray:
    """float32[rows, columns] around ``groups`` centres; row i belongs to centre i % groups."""
    rng = np.random.default_rng([seed, columns])
    centres = rng.normal(size=(groups, columns)) * 6
    return (centres[np.arange(rows) % groups] + rng.normal(size=(rows, columns))).astype(np.float32)


def image_paths(rows: int, photos: int = 3) -> list[str]:
    """The published spelling, Windows separators and all; ``photos`` of every vehicle."""
    return [f"veriwild\\{1 + i % 10}\\{i // photos + 1:05d}\\{i + 1:06d}.jpg" for i in range(rows)]


def write_paths(file: Path, paths: Iterable[str], header: str = "paths", newline: str = "\n") -> None:
    file.write_bytes("".join(f"{line}{newline}" for line in (header, *paths)).encode())


def write_attributes(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with open(file, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_case(
    folder: Path,
    rows: int = 60,
    arrays: Mapping[str, np.ndarray] | None = None,
    attributes: Sequence[Mapping[str, object]] | None = None,
) -> Path:
    """A case folder in the published layout: one pickle per array, images_paths.csv, no photos."""
    if arrays is None:
        arrays = {name: blobs(rows, width) for name, width in WIDTHS.items()}
    (folder / "descriptors").mkdir(parents=True)
    for name, array in arrays.items():
        (folder / "descriptors" / f"{name}.pickle").write_bytes(pickle.dumps(array))
    write_paths(folder / "images_paths.csv", image_paths(rows))
    if attributes is not None:
        write_attributes(folder / "attributes.csv", attributes)
    return folder


def run_of(spark: SparkSession, case: Path | None, lake: Path, lake_format: str = "delta", **more: Any) -> Context:
    """A run in the tests' own session; ``more`` are further sections, ``case_options`` keys of ``case``."""
    case_section = {} if case is None else {"path": str(case)}
    case_section |= more.pop("case_options", {})
    config = parse_config({"case": case_section, "lake": {"path": str(lake), "format": lake_format}, **more})
    return Context(config, spark, Lake(spark, config.lake))


def prepared(lake: Lake, folder: Path) -> Path:
    """A new lake in ``folder`` with the case and the feature sets of a Parquet lake, and nothing that follows."""
    for table in ("images", "bad_rows", "descriptors", "sources", "features", "feature_sets"):
        shutil.copytree(f"{lake.config.path}/{table}", folder / table)
    return folder


def contents(lake: Lake, *, clock: bool = True) -> dict[str, list[str]]:
    """Every table that exists, as sorted text; without ``clock`` the columns that tell the time are left out."""
    found = {}
    for name in TABLES:
        if lake.exists(name):
            df = lake.read(name)
            kept = [c for c in df.columns if clock or c not in CLOCK]
            found[name] = sorted(str(sorted(row.asDict(recursive=True).items())) for row in df.select(*kept).collect())
    return found


def versions(lake: Lake) -> dict[str, int]:
    """The latest version of every Delta table."""
    return {
        name: lake.spark.sql(f"DESCRIBE HISTORY delta.`{lake.config.path}/{name}`").first()["version"]  # type: ignore[index]
        for name in TABLES
        if lake.exists(name)
    }


def jobs_so_far(spark: SparkSession) -> int:
    """Jobs that the session has started, by the number of the last one: Spark forgets the oldest."""
    return 1 + max(spark.sparkContext.statusTracker().getJobIdsForGroup(None), default=-1)


def package_zip(path: Path) -> None:
    """The package as a zip for spark-submit's --py-files."""
    lib = Path(__file__).resolve().parents[1] / "lib"
    with zipfile.ZipFile(path, "w") as z:
        for file in sorted((lib / "motorpool").rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                z.write(file, file.relative_to(lib))


def leftovers(lake_folder: Path) -> list[str]:
    """Staging folders that a write has left behind."""
    return [p.name for p in lake_folder.iterdir() if p.name.startswith("_")] if lake_folder.is_dir() else []


def uneven_blobs(n: int, d: int = 6, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Six overlapping clouds of unequal size and width."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.normal(size=(6, d)) * 3, rng.uniform(0.5, 1.5, 6)
    which = rng.choice(6, n, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    return (centres[which] + rng.normal(size=(n, d)) * widths[which, None] + offset).astype(np.float32)


def inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid, by their definition, in float64."""
    gaps = x[:, None, :].astype(np.float64) - centroids[None].astype(np.float64)
    return float(np.square(gaps).sum(axis=2).min(axis=1).sum())


def same(value: Any, other: Any) -> bool:
    """Equal; doubles may differ in how sums of theirs were rounded."""
    if isinstance(value, float) and isinstance(other, float):
        return (math.isnan(value) and math.isnan(other)) or math.isclose(value, other, rel_tol=1e-12, abs_tol=1e-15)
    if isinstance(value, dict) and isinstance(other, dict):
        return set(value) == set(other) and all(same(v, other[k]) for k, v in value.items())
    if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def assert_same(found: Answer, wanted: Answer, ordered: bool = True) -> list[tuple[Any, ...]]:
    assert found.columns == wanted.columns
    rows, others = list(found.rows()), list(wanted.rows())
    if not ordered:
        rows, others = sorted(rows, key=repr), sorted(others, key=repr)
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert same(row, other), f"{row} is not Spark's {other}"
    return rows
