"""Every algorithm, outlier method and map on the smallest cases and on values of any size, from files to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from cases import blobs, write_case
from motorpool import cli
from motorpool.cluster.registry import ALGORITHMS
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.maps.registry import MAP_METHODS
from motorpool.outliers.registry import OUTLIER_METHODS

#: A grid of each algorithm, which asks for 2 clusters at least.
GRIDS: dict[str, dict[str, Any]] = {
    "kmeans": {"k": [2, 3]},
    "minibatch_kmeans": {"k": [2]},
    "bisecting_kmeans": {"k": [2, 3]},
    "agglomerative": {"n_clusters": [2, 3], "linkage": ["ward", "single"]},
    "dbscan": {"eps": "auto", "min_samples": [2]},
    "hdbscan": {"min_cluster_size": [2, 5], "min_samples": 2},
    "gaussian_mixture": {"n_components": [2], "covariance_type": ["full", "spherical"]},
}
BLOBS = blobs(30, 4)
CASES: dict[str, dict[str, np.ndarray]] = {
    "one image": {"x": BLOBS[:1]},
    "two images": {"x": BLOBS[:2]},
    "three images, as many as clusters": {"x": BLOBS[:3]},
    "values": {
        "equal": np.repeat(BLOBS[:1], 30, axis=0),
        "duplicates": np.concatenate([BLOBS[:1], np.repeat(BLOBS[1:2], 29, axis=0)]),
        "tiny": BLOBS * np.float32(1e-30),
        "huge": BLOBS * np.float32(1e30),
        "far": np.concatenate([np.full((1, 4), 1e25, np.float32), BLOBS[1:]]),
    },
}


def test_all_algorithms_are_asked_for() -> None:
    assert set(GRIDS) == set(ALGORITHMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_reaches_its_report(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arrays = CASES[name]
    write_case(tmp_path / "case", len(next(iter(arrays.values()))), arrays)
    content = {
        "case": {"path": str(tmp_path / "case")},
        "lake": {"path": str(tmp_path / "lake"), "format": "parquet"},
        "features": [{"descriptor": d} for d in arrays],
        "cluster": {"models": [{"algorithm": a} | grid for a, grid in GRIDS.items()]},
        "outliers": {"methods": list(OUTLIER_METHODS)},
        "projections": {"methods": list(MAP_METHODS)},
        "report": {},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    status = cli.main(["run", "--conf", str(tmp_path / "run.yaml")])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert (tmp_path / "report" / "index.html").is_file()
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
    models = lake.read("models").select("features", "algorithm", "status", "reason").collect()
    assert {(m["features"], m["algorithm"]) for m in models} == {(d, a) for d in arrays for a in GRIDS}
    for model in models:
        assert (model["status"] == "ok") == (model["reason"] is None), model
    # More clusters than images, or none to tell apart, cannot be ranked.
    if name == "one image":
        assert all(m["status"] != "ok" for m in models)
        assert "No model can be ranked" in out


def test_a_case_without_images_is_refused(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "case", 0, {"x": BLOBS[:0]})
    content = {
        "case": {"path": str(tmp_path / "case")},
        "lake": {"path": str(tmp_path / "lake"), "format": "parquet"},
        "features": [{"descriptor": "x"}],
        "cluster": {"models": [{"algorithm": "kmeans", "k": 2}]},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["run", "--conf", str(tmp_path / "run.yaml")]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "--debug" not in message
    assert str(tmp_path / "case") in message
