"""Photos that stand for clusters, and counts of two clusterings: from rows that the driver holds and by tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from cases import jobs_so_far
from motorpool.cluster.ensemble.agreement import contingency
from motorpool.interpret import members
from motorpool.spark import blocks

IDS = ["kmeans", "dbscan", "single"]
ROWS = 300


def labels_of(spark: SparkSession, rows: int) -> DataFrame:
    """Labels of three models: with noise, missing ones, ties of strength, and strengths that are unknown."""
    rng = np.random.default_rng(5)
    made = []
    for m, model_id in enumerate(IDS):
        for image_id in rng.permutation(rows)[: rows - 7 * m]:
            cluster = 0 if model_id == "single" else int(rng.integers(-m, 4))
            strength = None if rng.random() < 0.1 or model_id == "single" else float(rng.integers(0, 5)) / 4
            made.append((model_id, int(image_id) * 3, cluster, strength))
    columns = "model_id STRING, image_id BIGINT, cluster INT, strength FLOAT"
    return spark.createDataFrame(made, columns)


def vectors_of(spark: SparkSession) -> DataFrame:
    """Vectors of other images too, and not of all."""
    x = np.random.default_rng(6).normal(size=(ROWS, 3)).astype(np.float32)
    rows = [(3 * i + (i > 280), x[i].tolist()) for i in range(ROWS)]
    return spark.createDataFrame(rows, "image_id BIGINT, vector ARRAY<FLOAT>")


def rows_of(df: DataFrame) -> list[tuple[object, ...]]:
    return sorted(map(tuple, df.collect()), key=repr)


def chosen(wide: DataFrame, vectors: DataFrame) -> list[list[tuple[object, ...]]]:
    """All ways to choose photos, with fewer than a cluster has and with more."""
    own = members.picked(wide, [1, 0])
    first, centroids = [IDS[1], IDS[0]], np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)
    found = [
        wide,
        own,
        members.typical(wide, IDS, dict.fromkeys(IDS, 9), 3),
        members.by_strength(own, first, {IDS[0]: 4, IDS[1]: 1000}, strongest=True),
        members.by_strength(own, first, {IDS[0]: 4, IDS[1]: 1}, strongest=False),
        members.borderline(own, vectors, dict.fromkeys(first, centroids), dict.fromkeys(first, 5)),
    ]
    return [rows_of(df) for df in found]


@pytest.mark.parametrize("rows", [ROWS, 8, 0])
def test_photos_are_the_same_from_held_rows_and_by_tasks(spark: SparkSession, rows: int) -> None:
    wide, vectors = members.gathered(labels_of(spark, rows), IDS), vectors_of(spark)
    by_tasks = chosen(wide, vectors)
    held = blocks.brought(wide, ROWS * len(IDS))
    assert blocks.held(held) is not None
    before = jobs_so_far(spark)
    picked = members.picked(held, [0, 2])
    for df in (members.typical(held, IDS, dict.fromkeys(IDS, 2), 3), picked):
        assert blocks.held(df) is not None
    assert jobs_so_far(spark) == before
    assert chosen(held, blocks.brought(vectors, 4 * ROWS)) == by_tasks
    assert [len(found) > 0 for found in by_tasks] == [rows > 0] * len(by_tasks)


def test_more_rows_than_are_held_stay_with_the_tasks(spark: SparkSession) -> None:
    vectors = vectors_of(spark)
    assert blocks.brought(vectors, blocks.HELD_VALUES + 1) is vectors
    held = blocks.brought(vectors, blocks.HELD_VALUES)
    assert blocks.brought(held, blocks.HELD_VALUES + 1) is held
    assert blocks.held(blocks.joined(held, vectors)) is None
    assert blocks.joined(held, vectors.select("image_id")).count() == ROWS


@pytest.mark.parametrize("pieces", [1, 4])
def test_counts_are_the_same_from_held_rows_and_by_tasks(spark: SparkSession, pieces: int) -> None:
    wide = members.gathered(labels_of(spark, ROWS), IDS)
    pairs: Sequence[tuple[int, int]] = [(0, 1), (2, 0), (1, 1)]
    rows = blocks.table(wide).combine_chunks()
    size = math.ceil(len(rows) / pieces)
    held = blocks.hold(spark, rows.to_batches(max_chunksize=size), wide.schema)
    assert len(blocks.held(held) or ()) == pieces
    before = jobs_so_far(spark)
    found = contingency(held, pairs)
    assert jobs_so_far(spark) == before
    for table, expected in zip(found, contingency(wide, pairs), strict=True):
        for column in ("a", "b", "n"):
            np.testing.assert_array_equal(getattr(table, column), getattr(expected, column))
        assert table.n_images == len(rows)
