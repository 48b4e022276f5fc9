"""Agglomeration of all rows: scikit-learn's where micro-clusters are rows, close to it where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

from motorpool.cluster.hierarchy.agglomerative import Agglomerations, by_micro_clusters, fit_agglomerative
from motorpool.cluster.hierarchy.micro_clusters import fit_micro_clusters
from motorpool.kernels.centroids.group_sums import GroupSums
from motorpool.kernels.nearest import NearestPoint
from motorpool.kernels.trees.linkage import Method
from motorpool.spark import coreset

METHODS: tuple[Method, ...] = get_args(Method)


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def blobs(n: int, d: int = 6, offset: float = 0.0, seed: int = 0, apart: float = 3.0) -> np.ndarray:
    """Six clouds of unequal size and width."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.normal(size=(6, d)) * apart, rng.uniform(0.5, 1.5, 6)
    which = rng.choice(6, n, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    return (centres[which] + rng.normal(size=(n, d)) * widths[which, None] + offset).astype(np.float32)


def labels(df: DataFrame, found: Agglomerations, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 labels and float32 distances [n, linkages], by image_id."""
    labelled = by_micro_clusters(df, found.micro, [tree.clusters[n_clusters] for tree in found.trees])
    table = labelled.wide().toArrow().sort_by("image_id")
    shape = table.num_rows, len(found.trees)
    values = [np.array(table.column(c).combine_chunks().flatten()) for c in ("clusters", "distances")]
    assert table.column("strengths").combine_chunks().flatten().null_count == table.num_rows * len(found.trees)
    assert labelled.sizes == tuple(values[0].reshape(shape).max(axis=0) + 1)
    return values[0].reshape(shape), values[1].reshape(shape)


def test_rows_are_their_own_micro_clusters(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(500, offset=1e3)
    df, ks = blocked(x), [1, 2, 7, 60, 500]
    found = fit_agglomerative(df, ks, METHODS, micro_clusters=500, seed=1)
    assert found.micro.exact
    assert found.micro.inertia == 0
    assert np.array_equal(found.micro.centroids, x)
    assert found.micro.sizes.tolist() == [1] * 500
    assert [tree.linkage for tree in found.trees] == list(METHODS)
    for k in ks:
        clusters, distances = labels(df, found, k)
        assert not distances.any()
        for i, tree in enumerate(found.trees):
            assert tree.merges.shape == (499, 4)
            assert np.array_equal(clusters[:, i], tree.clusters[k])
            known = AgglomerativeClustering(k, linkage=tree.linkage).fit_predict(x.astype(np.float64))
            assert adjusted_rand_score(known, clusters[:, i]) == 1, (tree.linkage, k)


def test_repeated_rows_share_a_micro_cluster(blocked: Callable[..., DataFrame]) -> None:
    distinct = blobs(120, seed=2)
    which = np.concatenate([np.arange(120), np.random.default_rng(0).integers(120, size=480)])
    x = distinct[np.random.default_rng(1).permutation(which)]
    df = blocked(x)
    found = fit_agglomerative(df, [3, 20, 119], METHODS, micro_clusters=120, seed=1)
    assert found.micro.exact
    assert sorted(found.micro.sizes) == sorted(np.bincount(which))
    for k in (3, 20, 119):
        clusters, distances = labels(df, found, k)
        assert not distances.any()
        for i, method in enumerate(METHODS):
            known = AgglomerativeClustering(k, linkage=method).fit_predict(x.astype(np.float64))
            assert adjusted_rand_score(known, clusters[:, i]) == 1, (method, k)


def test_fewer_distinct_rows_than_clusters(blocked: Callable[..., DataFrame]) -> None:
    x = np.repeat(blobs(3), 10, axis=0)
    df = blocked(x)
    found = fit_agglomerative(df, [2, 3, 5], ["ward", "single"], seed=1)
    for k in (3, 5):
        clusters, _ = labels(df, found, k)
        assert np.array_equal(clusters, np.repeat([[0], [1], [2]], 10, axis=0).repeat(2, axis=1))


def test_micro_clusters_of_many_rows(on_spark: Callable[..., DataFrame]) -> None:
    x = blobs(3000, d=10, apart=4.0)
    df = on_spark(x)
    found = fit_agglomerative(df, [6], METHODS, micro_clusters=300, seed=1)
    micro = found.micro
    assert not micro.exact
    assert 290 <= len(micro.sizes) <= 300
    assert micro.sizes.min() >= 1
    assert micro.sizes.sum() == len(x)
    clusters, distances = labels(df, found, 6)
    nearest = pairwise_distances_argmin(x, micro.centroids)
    assert np.array_equal(clusters, np.stack([tree.clusters[6][nearest] for tree in found.trees], axis=1))
    assert np.allclose(distances, np.linalg.norm(x - micro.centroids[nearest], axis=1)[:, None], rtol=1e-5, atol=1e-5)
    for i, method in enumerate(METHODS[:3]):
        known = AgglomerativeClustering(6, linkage=method).fit_predict(x.astype(np.float64))
        assert adjusted_rand_score(known, clusters[:, i]) > 0.98, method


def test_single_linkage_follows_a_chain_of_micro_clusters(blocked: Callable[..., DataFrame]) -> None:
    # Two rings, one within the other: only single linkage tells them apart.
    rng = np.random.default_rng(0)
    angle, outer = rng.uniform(0, 2 * np.pi, 3000), rng.random(3000) < 0.7
    radius = np.where(outer, 10.0, 3.0) + rng.normal(scale=0.2, size=3000)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    df = blocked(x)
    found = fit_agglomerative(df, [2], ["single", "ward"], micro_clusters=200, seed=1)
    clusters, _ = labels(df, found, 2)
    assert adjusted_rand_score(outer, clusters[:, 0]) == 1
    assert adjusted_rand_score(outer, clusters[:, 1]) < 0.5


def test_micro_clusters_are_means_of_their_rows(
    blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "CORESET_ROWS", 300)
    x = blobs(2000, seed=4, offset=1e3)
    micro = fit_micro_clusters(blocked(x), 100, seed=1)
    assert not micro.exact
    weighted = micro.sizes @ micro.centroids.astype(np.float64) / len(x)
    assert np.allclose(weighted, x.mean(axis=0, dtype=np.float64), rtol=0, atol=1e-4)
    # Three passes bring centroids near to their rows: no row is nearer to another on average by much.
    settled = np.square(x - micro.centroids[pairwise_distances_argmin(x, micro.centroids)].astype(np.float64)).sum()
    assert settled <= micro.inertia <= 1.05 * settled
    total = np.square(x - x.mean(axis=0, dtype=np.float64)).sum()
    assert micro.inertia < 0.2 * total


def test_the_same_result_on_any_partitions(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(1000, seed=5)
    first = fit_agglomerative(blocked(x, 3), [4], METHODS, micro_clusters=80, seed=3)
    again = fit_agglomerative(blocked(x, 7), [4], METHODS, micro_clusters=80, seed=3)
    assert np.array_equal(first.micro.sizes, again.micro.sizes)
    assert np.allclose(first.micro.centroids, again.micro.centroids, rtol=0, atol=1e-5)
    for left, right in zip(first.trees, again.trees, strict=True):
        assert np.array_equal(left.clusters[4], right.clusters[4])


def test_one_row_and_equal_rows(blocked: Callable[..., DataFrame]) -> None:
    for x in (blobs(1), np.full((30, 4), 12.34, np.float32)):
        df = blocked(x, 1)
        found = fit_agglomerative(df, [1], METHODS, seed=1)
        assert found.micro.sizes.tolist() == [len(x)]
        clusters, distances = labels(df, found, 1)
        assert not clusters.any()
        assert not distances.any()


def test_what_makes_no_sense_is_refused(blocked: Callable[..., DataFrame]) -> None:
    df = blocked(blobs(6))
    with pytest.raises(ValueError, match=r"n_clusters = 7 asks for more clusters than there are rows \(6\)"):
        fit_agglomerative(df, [2, 7], ["ward"], seed=1)
    with pytest.raises(ValueError, match=r"n_clusters = 7: more than there are micro-clusters; raise .*=5"):
        fit_agglomerative(df, [2, 7], ["ward"], micro_clusters=5, seed=1)
    with pytest.raises(ValueError, match=r"n_clusters = \[0\]: expected one number or more, each at least 1"):
        fit_agglomerative(df, [0], ["ward"], seed=1)
    with pytest.raises(ValueError, match=r"linkages = \['median'\]: expected one or more of ward, average"):
        fit_agglomerative(df, [2], ["median"], seed=1)  # type: ignore[list-item]


@pytest.mark.parametrize("d", [1, 3, 100])
def test_the_nearest_point_is_that_of_float64(d: int) -> None:
    rng = np.random.default_rng(d)
    points = (rng.normal(size=(200, d)) + 100).astype(np.float32)
    # One far-off point makes the products of all others coarse.
    points[5] = 1e5
    x = np.concatenate([points, rng.normal(size=(500, d)).astype(np.float32) + 100])
    nearest, squared = NearestPoint(points).find(x)
    gaps = np.square(x[:, None].astype(np.float64) - points[None]).sum(axis=2)
    assert np.array_equal(nearest[:200], np.arange(200))
    assert not squared[:200].any()
    assert np.array_equal(nearest, gaps.argmin(axis=1))
    assert np.allclose(squared, gaps.min(axis=1), rtol=1e-9)


def test_products_beyond_float32() -> None:
    points = np.array([[1e25, 0], [-1e25, 0], [0, 2e25]], np.float32)
    assert NearestPoint(points).find(points[::-1])[0].tolist() == [2, 1, 0]
    assert NearestPoint(points[:1]).find(points)[0].tolist() == [0, 0, 0]


def test_group_sums_merge_and_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(100, 3)) + 1e6, rng.integers(4, size=100)
    parts = [GroupSums(5, 3), GroupSums(5, 3)]
    points = np.full((5, 3), 1e6)
    for part, span in zip(parts, (slice(30), slice(30, None)), strict=True):
        part.update(x[span] - points[groups[span]], groups[span])
    parts[0].merge(parts[1])
    assert parts[0].counts.tolist() == [*np.bincount(groups), 0]
    for g in range(4):
        rows = x[groups == g]
        assert np.allclose(points[g] + parts[0].shifts[g], rows.mean(axis=0), rtol=1e-14)
        assert np.isclose(parts[0].inertia[g], np.square(rows - rows.mean(axis=0)).sum(), rtol=1e-8)
    assert not parts[0].shifts[4].any()
    assert parts[0].inertia[4] == 0
