"""Duplicates and neighbours of a lake that has grown: a run searches again, among all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from cases import contents, image_paths, run_of, write_case, write_paths
from motorpool.config.run import CaseConfig
from motorpool.pipeline.growing.append import run_append
from motorpool.pipeline.run import run_pipeline

ROWS, NEW = 40, 6
STUDY: dict[str, Any] = {
    "features": [{"name": "o", "descriptor": "osnet", "steps": []}],
    "duplicates": {"similarity": 0.999},
    "neighbours": {"k": 2, "metric": "euclidean"},
}


def make_case(folder: Path, first: int, x: np.ndarray) -> Path:
    write_case(folder, len(x), {"osnet": x})
    write_paths(folder / "images_paths.csv", image_paths(1000)[first : first + len(x)])
    return folder


def test_appended_images_are_among_duplicates_and_neighbours(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS + NEW, 8)).astype(np.float32)
    x[ROWS + 2] = x[7]
    first = make_case(tmp_path / "first", 0, x[:ROWS])
    ctx = run_of(spark, first, tmp_path / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    assert ctx.lake.count("duplicates") == 0

    run_append(ctx, CaseConfig(path=str(make_case(tmp_path / "more", ROWS, x[ROWS:]))))
    run_pipeline(ctx)
    (pair,) = ctx.lake.rows("duplicates")
    assert (pair["image_id"], pair["other_id"], pair["kind"]) == (7, ROWS + 2, "vector")
    gaps = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    nearest = ctx.lake.read("neighbours").toPandas().sort_values(["image_id", "rank"])
    assert nearest["neighbour_id"].tolist() == np.argsort(gaps, axis=1, kind="stable")[:, :2].ravel().tolist()

    before = contents(ctx.lake)
    run_pipeline(ctx)
    assert contents(ctx.lake) == before
