"""Scores of images that a study was not fitted on, against scikit-learn's, fitted on the study alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from motorpool.backend.protocol import CPU
from motorpool.neighbours import shards
from motorpool.outliers.methods.neighbours import KNN_DISTANCE, LOF
from motorpool.outliers.resources import Resources

FIRST_NEW = 10_000


def blobs(n: int, seed: int) -> np.ndarray:
    """Clouds of unequal density, of which every seed has the same, and one row in twenty between them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(4, 5)) * 6
    which = rng.integers(4, size=n)
    x = centres[which] + rng.normal(size=(n, 5)) * np.array([0.3, 0.6, 1.0, 2.0])[which, None]
    lost = rng.random(n) < 0.05
    x[lost] = rng.uniform(-15, 15, (int(lost.sum()), 5))
    return x.astype(np.float32)


def _not_asked(*_: Any) -> Any:
    raise AssertionError("scores of neighbours take vectors alone")


def resources(spark: SparkSession, x: np.ndarray, first: int, k: int) -> Resources:
    rows = pd.DataFrame({"image_id": np.arange(first, first + len(x)), "vector": x.tolist()})
    vectors = spark.createDataFrame(rows, "image_id BIGINT, vector ARRAY<FLOAT>").repartition(3)
    return Resources(vectors, k, 7, CPU, {}, None, _not_asked, _not_asked, _not_asked, lambda text: None)


def fetch(scores: DataFrame) -> np.ndarray:
    found = scores.toPandas().sort_values("image_id")
    assert found["image_id"].tolist() == list(range(FIRST_NEW, FIRST_NEW + len(found)))
    return found["score"].to_numpy()


def study_of(case: str) -> np.ndarray:
    x = blobs(6 if case == "few" else 420, seed=3)
    if case == "duplicates":
        # Pairs, and one row as often as k + 5: rows behind k + 1 equal ones do not find themselves.
        x[100:140] = x[140:180]
        x[200:215] = x[199]
    return x


# scikit-learn warns of what it does with equal rows, and with fewer rows than k: both are to be equal too.
@pytest.mark.filterwarnings("ignore:Duplicate values", "ignore:n_neighbors:UserWarning")
@pytest.mark.parametrize(
    ("case", "n_new", "searches_all"),
    [
        ("spread", 3, False),
        ("spread", 150, True),
        ("duplicates", 4, False),
        ("duplicates", 150, True),
        ("few", 4, True),
    ],
)
def test_new_images_are_scored_as_novelties(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, case: str, n_new: int, searches_all: bool
) -> None:
    """Exact, whether the neighbourhoods of a few images alone are searched, or all pairs of the study."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 150)
    k, x, y = 10, study_of(case), blobs(n_new, seed=8)
    if case == "duplicates":
        y[0], y[1] = x[199], x[120]
    study, new = resources(spark, x, 0, k), resources(spark, y, FIRST_NEW, k)
    assert LOF.score_new is not None
    assert KNN_DISTANCE.score_new is not None
    try:
        factors, distances = fetch(LOF.score_new(study, new)), fetch(KNN_DISTANCE.score_new(study, new))
        assert ("found" in study.__dict__) == searches_all
    finally:
        new.release()
        study.release()
    rows, asked = x.astype(np.float64), y.astype(np.float64)
    # A tree takes every distance from its definition; products would see duplicates as 1e-7 apart.
    expected = LocalOutlierFactor(n_neighbors=k, novelty=True, algorithm="kd_tree").fit(rows)
    np.testing.assert_allclose(factors, -expected.score_samples(asked), rtol=1e-6)
    tree = NearestNeighbors(n_neighbors=min(k, len(x) - 1), algorithm="kd_tree").fit(rows)
    np.testing.assert_allclose(distances, tree.kneighbors(asked)[0][:, -1], rtol=1e-6, atol=1e-12)
