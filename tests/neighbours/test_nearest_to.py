"""The nearest rows to a few: equal to sorting all distances in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import DataFrame

from motorpool.kernels.pairs.geometry import Metric
from motorpool.neighbours.nearest_to import nearest_to


def by_sorting(x: np.ndarray, own: int, k: int, metric: Metric) -> list[int]:
    x = x.astype(np.float64)
    if metric == "euclidean":
        gaps = 0.5 * ((x - x[own]) ** 2).sum(axis=1)
    else:
        length = np.linalg.norm(x, axis=1) * np.linalg.norm(x[own])
        gaps = np.where(length > 0, 1 - x @ x[own] / np.where(length > 0, length, 1), 1.0)
    order = [int(i) for i in np.lexsort((np.arange(len(x)), gaps)) if i != own]
    return order[:k]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_equal_to_sorting(wide: Callable[..., DataFrame], metric: Metric, scale: float) -> None:
    x = (np.random.default_rng(0).integers(-3, 4, (300, 4)) * scale).astype(np.float32)
    x[7] = 0
    ids = np.array([0, 7, 299])
    found = nearest_to(wide(3, vector=x), ids, x[ids], 9, metric)
    for own, (near, distances) in zip(ids, found, strict=True):
        assert (np.diff(distances) >= 0).all()
        if metric == "euclidean":
            # Whole numbers: sums are exact, and ties are ties.
            assert near.tolist() == by_sorting(x / np.float32(scale), own, 9, metric)
            expected = np.linalg.norm(x[near].astype(np.float64) - x[own], axis=1)
            np.testing.assert_allclose(distances, expected, rtol=1e-12)
        else:
            assert own not in near
            last = by_sorting(x / np.float32(scale), own, 9, metric)[-1]
            np.testing.assert_allclose(distances[-1], gap(x, own, last), rtol=1e-9, atol=1e-15)


def gap(x: np.ndarray, i: int, j: int) -> float:
    a, b = (v.astype(np.float64) / max(float(np.abs(v).max()), 1e-300) for v in (x[i], x[j]))
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(1 - a @ b / length) if length else 1.0


def test_fewer_rows_than_asked_for(wide: Callable[..., DataFrame]) -> None:
    x = np.array([[0.0], [2.0], [1.0]], np.float32)
    ((near, distances),) = nearest_to(wide(3, vector=x), np.array([0]), x[:1], 9, "euclidean")
    assert (near.tolist(), distances.tolist()) == ([2, 1], [1.0, 2.0])
    ((near, _),) = nearest_to(wide(2, vector=x[:1]), np.array([0]), x[:1], 9, "euclidean")
    assert near.tolist() == []
