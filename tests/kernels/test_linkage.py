"""Agglomeration of weighted points against scipy's and scikit-learn's, and against rows that are really repeated."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from motorpool.kernels.trees.linkage import Method, _chain, cut, linkage

METHODS: tuple[Method, ...] = get_args(Method)


def blobs(m: int, d: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)) + rng.normal(size=(7, d))[rng.integers(7, size=m)] * 2


def first_rows_ascend(labels: np.ndarray) -> bool:
    found, first = np.unique(labels, return_index=True)
    return found.tolist() == list(range(len(found))) and bool((np.diff(first) > 0).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("d", [1, 5, 40])
def test_weights_of_one_are_scipy_and_scikit_learn(method: Method, d: int) -> None:
    # Far from the origin, where distances from norms and products would be off.
    x = blobs(300, d, seed=d) + 1e4
    merges = linkage(x, np.ones(len(x)), method)
    expected = hierarchy.linkage(x, method)
    assert merges.dtype == np.float64
    assert np.array_equal(merges[:, [0, 1, 3]], expected[:, [0, 1, 3]])
    assert np.allclose(merges[:, 2], expected[:, 2], rtol=1e-9, atol=0)
    for k in (1, 2, 5, 40, 299, 300):
        labels = cut(merges, k)
        assert labels.dtype == np.int32
        assert labels.max() == k - 1
        assert first_rows_ascend(labels)
        known = AgglomerativeClustering(k, linkage=method).fit_predict(x)
        assert adjusted_rand_score(known, labels) == 1, k


@pytest.mark.parametrize("method", METHODS)
def test_float32_points(method: Method) -> None:
    x = blobs(60).astype(np.float32)
    assert np.array_equal(linkage(x, np.ones(60), method), linkage(x.astype(np.float64), np.ones(60), method))


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_is_that_many_equal_points(method: Method) -> None:
    rng = np.random.default_rng(1)
    x, weights = blobs(80, seed=2), rng.integers(1, 9, 80)
    merges = linkage(x, weights.astype(np.float64), method)
    expected = hierarchy.linkage(np.repeat(x, weights, axis=0), method)
    # Equal points merge first, at height 0.
    equal = len(expected) - len(merges)
    assert np.all(expected[:equal, 2] == 0)
    assert np.allclose(merges[:, 2], expected[equal:, 2], rtol=1e-9, atol=0)
    assert np.array_equal(merges[:, 3], expected[equal:, 3])
    for k in (2, 3, 10, 50):
        known = hierarchy.fcluster(expected, k, "maxclust")
        assert adjusted_rand_score(known, np.repeat(cut(merges, k), weights)) == 1, k


def test_ward_heights_are_sums_of_squares() -> None:
    x, weights = blobs(50, seed=3), np.random.default_rng(0).uniform(0.1, 30, 50)
    merges = linkage(x, weights, "ward")

    def within(labels: np.ndarray) -> float:
        parts = [labels == c for c in range(labels.max() + 1)]
        return sum(float(weights[p] @ np.square(x[p] - np.average(x[p], 0, weights[p])).sum(axis=1)) for p in parts)

    for k in (1, 2, 7, 49):
        assert np.isclose(within(cut(merges, k)), np.square(merges[: 50 - k, 2]).sum() / 2, rtol=1e-9)
    assert np.isclose(merges[-1, 3], weights.sum())


def test_weighted_average_by_hand() -> None:
    # 0 and 1 merge; 3 of weight is at 0 and 1 of weight at 1: their mean distance to 10 is (3 * 10 + 9) / 4.
    merges = linkage(np.array([[0.0], [10.0], [1.0]]), np.array([3.0, 2.0, 1.0]), "average")
    assert merges.tolist() == [[0, 2, 1, 4], [1, 3, 9.75, 6]]


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_and_ties(method: Method) -> None:
    # A grid with every point three times: 0 and 1 are the heights of most merges.
    grid = np.array([[i, j] for i in range(6) for j in range(6)] * 3, np.float64)
    merges = linkage(grid, np.ones(len(grid)), method)
    assert np.array_equal(merges[:72, 2], np.zeros(72))
    assert np.all(np.diff(merges[:, 2]) >= 0)
    labels = cut(merges, 36)
    assert np.array_equal(labels, np.tile(np.arange(36), 3))
    # Whatever the ties decide, cuts are nested and have the number of clusters that was asked for.
    for k in range(1, 108):
        coarse, fine = cut(merges, k), cut(merges, k + 1)
        assert coarse.max() + 1 == k
        assert len(np.unique(fine * 108 + coarse)) == k + 1
    if method == "single":
        assert np.array_equal(merges[72:, 2], np.ones(35))
    if method == "complete":
        # Nothing is rounded, so scipy's ties are the same.
        assert np.array_equal(merges, hierarchy.linkage(grid, "complete"))


@pytest.mark.parametrize("method", METHODS)
def test_equidistant_points(method: Method) -> None:
    x, weights = np.eye(60) * 0.1, np.random.default_rng(4).uniform(1, 3, 60)
    merges = linkage(x, weights, method)
    assert np.all(np.diff(merges[:, 2]) >= 0)
    assert np.isclose(merges[-1, 3], weights.sum())
    if method != "ward":
        assert np.allclose(merges[:, 2], 0.1 * np.sqrt(2))


@pytest.mark.parametrize("update", [0, 1, 2])
def test_no_merge_is_below_those_it_is_made_of(update: int) -> None:
    # Means of equal distances may differ in the last bit, downwards too; then sorting would part child and parent.
    weights = np.random.default_rng(4).uniform(1, 3, 60)
    height = np.zeros(60)
    for a, b, grown in zip(*_chain(np.full((60, 60), 0.1), weights, update), strict=True):
        assert grown >= max(height[a], height[b])
        height[a] = height[b] = grown


@pytest.mark.parametrize("method", METHODS)
def test_one_and_two_points(method: Method) -> None:
    one = linkage(np.ones((1, 3)), np.array([5.0]), method)
    assert one.shape == (0, 4)
    assert cut(one, 1).tolist() == [0]
    two = linkage(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([1.0, 3.0]), method)
    height = 5 * np.sqrt(2 * 3 / 4) if method == "ward" else 5
    assert np.allclose(two, [[0, 1, height, 4]])
    assert cut(two, 1).tolist() == [0, 0]
    assert cut(two, 2).tolist() == [0, 1]


def test_what_is_refused() -> None:
    x, ones = blobs(5), np.ones(5)
    merges = linkage(x, ones, "ward")
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"n_clusters = {k}: expected 1 to 5"):
            cut(merges, k)
    with pytest.raises(ValueError, match="method = 'median'"):
        linkage(x, ones, "median")  # type: ignore[arg-type]
    for points, weights in ((x, np.ones(4)), (x[:0], ones[:0]), (x[0], ones)):
        with pytest.raises(ValueError, match=r"expected \(m, d\) and \(m,\)"):
            linkage(points, weights, "ward")
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weights must be positive and finite"):
            linkage(x, np.array([1, 1, wrong, 1, 1]), "average")
    for wrong in (np.nan, np.inf, 1e200):
        bad = x.copy()
        bad[2, 1] = wrong
        with pytest.raises(ValueError, match="points must be finite"):
            linkage(bad, ones, "single")
