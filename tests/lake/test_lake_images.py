"""Rows of some images are replaced beside those of others, by this process and by tasks, in both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from motorpool import lake as lake_module
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.lake import Lake

NEW, LAST = range(10, 20), 2**63 - 1


def labels(lake: Lake, rows: list[tuple[str, int, int]]) -> Any:
    found = [(m, i, c, None, None, None) for m, i, c in rows]
    return lake.spark.createDataFrame(found, lake.schema("labels"))


def held(lake: Lake) -> list[tuple[str, int, int]]:
    return sorted((r["model_id"], r["image_id"], r["cluster"]) for r in lake.read("labels").collect())


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
@pytest.mark.parametrize("n_values", [None, 100], ids=["by tasks", "by this process"])
def test_rows_of_some_images(
    spark: SparkSession, tmp_path: Path, lake_format: Any, n_values: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this process reads is of no files.
    monkeypatch.setattr(lake_module, "FEW_READ", -1)
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format=lake_format))
    old = [(m, i, 0) for m in "ab" for i in range(3)]
    lake.replace("labels", labels(lake, old), {"model_id": ["a", "b"]})
    files = set(lake.read("labels").inputFiles())
    keys = {"model_id": ["a", "b"]}
    lake.replace_images("labels", labels(lake, [("a", 10, 1), ("b", 11, 1), ("a", 19, 2)]), NEW, keys, n_values)
    assert held(lake) == sorted([*old, ("a", 10, 1), ("a", 19, 2), ("b", 11, 1)])
    assert files < set(lake.read("labels").inputFiles())
    # In the place of the former ones, of these models alone, and where there are none any more.
    lake.replace_images("labels", labels(lake, [("a", 12, 3)]), NEW, {"model_id": ["a"]}, n_values)
    assert held(lake) == sorted([*old, ("a", 12, 3), ("b", 11, 1)])
    lake.replace_images("labels", labels(lake, []), NEW, {"model_id": ["b"]}, n_values)
    lake.replace_images("labels", labels(lake, [("b", 20, 4)]), range(20, 25), {"model_id": ["b"]}, n_values)
    assert held(lake) == sorted([*old, ("a", 12, 3), ("b", 20, 4)])
    assert lake.count("labels") == len(old) + 2
    assert files < set(lake.read("labels").inputFiles())
    # All from an image on.
    lake.replace_images("labels", labels(lake, [("b", 20, 6)]), range(20, LAST), {"model_id": ["b"]}, n_values)
    assert held(lake) == sorted([*old, ("a", 12, 3), ("b", 20, 6)])
    # A model that is made again has what it is given alone.
    lake.replace("labels", labels(lake, [("a", 0, 5)]), {"model_id": ["a"]})
    assert [r for r in held(lake) if r[0] == "a"] == [("a", 0, 5)]


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
def test_a_table_without_partitions(spark: SparkSession, tmp_path: Path, lake_format: Any) -> None:
    """Further columns stay."""
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format=lake_format))
    columns = "image_id BIGINT, path STRING, vehicle_id STRING, site STRING"
    lake.overwrite("images", spark.createDataFrame([(i, f"{i}.jpg", None, "n") for i in range(3)], columns))
    for n in (3, 2):
        new = spark.createDataFrame([(10 + i, f"{n}-{i}.jpg", None, "s") for i in range(n)], columns)
        lake.replace_images("images", new, range(10, LAST))
        found = sorted((r["image_id"], r["path"], r["site"]) for r in lake.read("images").collect())
        assert found == [(i, f"{i}.jpg", "n") for i in range(3)] + [(10 + i, f"{n}-{i}.jpg", "s") for i in range(n)]


def test_other_rows_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
    keys = {"model_id": ["a"]}
    for row in (("a", 20, 0), ("a", 9, 0), ("b", 10, 0)):
        with pytest.raises(LakeError, match=r"table 'labels': .* is not among the rows to replace"):
            lake.replace_images("labels", labels(lake, [row]), NEW, keys, 100)
    with pytest.raises(ValueError, match="replace needs at least one key"):
        lake.replace_images("labels", labels(lake, [("a", 10, 0)]), NEW)
    assert not lake.exists("labels")
    assert lake.first_appended() is None
