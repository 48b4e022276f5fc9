"""Near and equal rows of a table through Spark, in several shards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from scipy.sparse.csgraph import connected_components

from motorpool.neighbours import alike, shards
from motorpool.neighbours.alike import equal_rows, find_alike_rows, vector_digests
from motorpool.spark.blocks import to_list_array


def rows_near_others(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    x = np.repeat(rng.normal(size=(n // 2, d)), 2, axis=0) + rng.normal(size=(n, d)) * 0.03
    x[: n // 5] = x[0] + rng.normal(size=(n // 5, d)) * 0.01
    return x.astype(np.float32)


def test_near_rows_of_several_shards(on_spark: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_shard_rows", lambda *_: 250)
    # So that edges are thinned out on the way.
    monkeypatch.setattr(alike, "_EDGES", 100)
    x = rows_near_others(900, 150)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    gaps = 1.0 - unit @ unit.T
    np.fill_diagonal(gaps, np.inf)
    found = find_alike_rows(on_spark(x, 3), 0.002, 4, seed=0)
    partners = found.partners.toArrow().sort_by([("image_id", "ascending"), ("gap", "ascending")])
    found.release()
    expected = [(i, j) for i in range(900) for j in np.argsort(gaps[i])[:4].tolist() if gaps[i, j] <= 0.002]
    assert list(zip(*(partners.column(c).to_pylist() for c in ("image_id", "other_id")), strict=True)) == expected
    labels = connected_components(gaps <= 0.002)[1]
    lowest = np.array([np.flatnonzero(labels == label)[0] for label in labels])
    shared = np.flatnonzero(np.bincount(labels)[labels] > 1)
    assert found.groups.tolist() == np.stack([shared, lowest[shared]], axis=1).tolist()


def test_nothing_is_near(on_spark: Callable[..., DataFrame]) -> None:
    found = find_alike_rows(on_spark(np.eye(5, dtype=np.float32), 2), 0.5, 3, seed=0)
    assert found.partners.isEmpty()
    assert found.groups.shape == (0, 2)
    found.release()


def test_one_row(on_spark: Callable[..., DataFrame]) -> None:
    found = find_alike_rows(on_spark(np.ones((1, 3)), 1), 0.5, 3, seed=0)
    assert (found.partners.count(), found.groups.shape) == (0, (0, 2))
    found.release()


def test_equal_rows(spark: SparkSession) -> None:
    x = np.array([[1, 2], [0, 0], [1, 2], [-0.0, 0], [3, 4], [1, np.nextafter(np.float32(2), 3)], [1, 2]], np.float32)
    ids = np.array([60, 50, 40, 30, 20, 10, 90])
    df = spark.createDataFrame(pa.table({"image_id": ids, "vector": to_list_array(x)})).repartition(3)
    found = equal_rows(vector_digests(df)).collect()
    assert sorted((r["image_id"], r["first_id"]) for r in found) == [(30, 30), (40, 40), (50, 30), (60, 40), (90, 40)]
