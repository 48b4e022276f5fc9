"""A new outlier method is one entry: the config, the stage, the tables and the report take it from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import Column, SparkSession

from cases import blobs, run_of, write_case
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError
from motorpool.outliers.method import OutlierMethod, Scored
from motorpool.outliers.reasons import Words
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.outliers.resources import Resources
from motorpool.pipeline.run import run_pipeline

ROWS = 30


def distance(resources: Resources) -> Scored:
    """The distance to the mean of all rows."""
    table = resources.vectors.select("image_id", "vector").toArrow()
    x = np.array(table.column("vector").to_pylist())
    scores = np.linalg.norm(x - x.mean(axis=0), axis=1).tolist()
    rows = list(zip(table.column("image_id").to_pylist(), scores, strict=True))
    return Scored(resources.vectors.sparkSession.createDataFrame(rows, "image_id BIGINT, score DOUBLE"))


def reason(words: Words) -> Column:
    return words.say("It lies far from the mean of all: ", words.ratio)


@pytest.fixture
def toy() -> Iterator[OutlierMethod]:
    entry = OutlierMethod("mean_distance", "distance to the mean", distance, reason, default=False, settings=("seed",))
    OUTLIER_METHODS.register(entry)
    yield entry
    OUTLIER_METHODS.unregister(entry.name)


def test_a_method_is_added_in_one_place(spark: SparkSession, tmp_path: Path, toy: OutlierMethod) -> None:
    x = blobs(ROWS, 4)
    x[7] += 100
    ctx = run_of(
        spark, write_case(tmp_path / "case", ROWS, {"x": x}), tmp_path / "lake", "parquet",
        features=[{"descriptor": "x"}], cluster={"models": [{"algorithm": "kmeans", "k": [2]}]},
        outliers={"methods": [toy.name], "share": 0.04}, report={"members": 1, "sample": 0},
    )  # fmt: skip
    run_pipeline(ctx)
    scores = {r["image_id"]: r for r in ctx.lake.read("outliers", method=toy.name).collect()}
    expected = np.linalg.norm(x - x.mean(axis=0, dtype=np.float64), axis=1)
    assert [scores[i]["score"] for i in range(ROWS)] == pytest.approx(expected, rel=1e-5)
    assert [i for i in scores if scores[i]["is_outlier"]] == [7]
    (row,) = ctx.lake.read("outlier_methods", method=toy.name).collect()
    assert (row["params"], row["n_outliers"]) == ({"share": "0.04", "seed": "42"}, 1)
    (told,) = ctx.lake.read("outlier_reasons", method=toy.name).collect()
    assert told["image_id"] == 7
    assert told["reason"].startswith("It lies far from the mean of all: 1")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "distance to the mean" in page
    assert told["reason"] in page
    # Once it is gone, a config no longer knows it, and a method of its name may come.
    OUTLIER_METHODS.unregister(toy.name)
    with pytest.raises(ConfigError, match=r"methods\[0\]: 'mean_distance': Input should be 'isolation_forest'"):
        parse_config({"lake": {"path": "x"}, "outliers": {"methods": [toy.name]}})
    OUTLIER_METHODS.register(toy)
    with pytest.raises(ValueError, match="'mean_distance': is registered already"):
        OUTLIER_METHODS.register(toy)


def test_a_config_without_methods_asks_for_those_that_are_default(toy: OutlierMethod) -> None:
    config = parse_config({"lake": {"path": "x"}, "outliers": {}})
    assert config.outliers is not None
    assert config.outliers.methods == [m.name for m in OUTLIER_METHODS.values() if m.default]
    assert toy.name not in config.outliers.methods
