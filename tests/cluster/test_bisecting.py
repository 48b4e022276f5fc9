"""Bisecting k-means against scikit-learn's, against its own definition, and where rows are few or equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.cluster import BisectingKMeans
from sklearn.decomposition import PCA

from motorpool.cluster.centroids.bisecting import by_tree, fit_bisecting
from motorpool.cluster.centroids.bisecting_growth import Growth
from motorpool.cluster.labelled import LabelledBlock
from motorpool.kernels.centroids.group_sums import GroupSums
from motorpool.kernels.trees.bisecting_tree import BisectingTree, Planes
from motorpool.spark import coreset
from motorpool.spark.coreset import draw_coreset, measure_spread

KS = [2, 3, 5, 8, 12]


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def blobs(n: int, d: int = 6, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Nine overlapping clouds of unequal size and width."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.normal(size=(9, d)) * 3, rng.uniform(0.5, 1.5, 9)
    which = rng.choice(9, n, p=[0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.03, 0.02])
    return (centres[which] + rng.normal(size=(n, d)) * widths[which, None] + offset).astype(np.float32)


def walk(tree: BisectingTree, x: np.ndarray, k: int) -> np.ndarray:
    """The node of every row among the clusters of k, step by step as scikit-learn's predict goes."""
    at = np.zeros(len(x), np.int64)
    for split in range(min(k, tree.largest) - 1):
        here = np.flatnonzero(at == np.flatnonzero(tree.left == 2 * split + 1)[0])
        sides = tree.centroids[[2 * split + 1, 2 * split + 2]].astype(np.float64)
        squared = np.square(x[here][:, None].astype(np.float64) - sides).sum(axis=2)
        at[here] = 2 * split + 1 + squared.argmin(axis=1)
    return at


def inertia(tree: BisectingTree, x: np.ndarray, k: int) -> float:
    return float(np.square(x - tree.centroids[walk(tree, x, k)].astype(np.float64)).sum())


def check_fixed_point(tree: BisectingTree, x: np.ndarray) -> None:
    """Every node's centroid, size and inertia are those of its rows, and the largest inertia is split first."""
    assert tree.converged
    for node in range(len(tree.left)):
        # The clustering that the node is a cluster of.
        rows = x[walk(tree, x, (node - 1) // 2 + 2 if node else 1) == node].astype(np.float64)
        mean = rows.mean(axis=0)
        assert abs(len(rows) - tree.sizes[node]) <= 0.005 * len(x)
        own = np.square(rows - mean).sum()
        assert len(rows) * np.square(mean - tree.centroids[node]).sum() <= 2e-3 * own + 1e-9 * tree.inertia[0]
        assert np.isclose(own, tree.inertia[node], rtol=0.02, atol=1e-9 * tree.inertia[0])
    for k in range(1, tree.largest):
        leaves = tree.leaves(k)
        assert tree.left[leaves[tree.inertia[leaves].argmax()]] == 2 * k - 1


def check_as_good(df: DataFrame, x: np.ndarray, ks: Sequence[int]) -> None:
    trees = [fit_bisecting(df, ks, seed=s) for s in range(3)]
    for tree in trees:
        check_fixed_point(tree, x)
    for k in ks:
        known = [BisectingKMeans(k, random_state=s).fit(x.astype(np.float64)).inertia_ for s in range(9)]
        found = [inertia(tree, x, k) for tree in trees]
        assert np.median(found) <= 1.02 * np.median(known), k
        for tree, value in zip(trees, found, strict=True):
            assert np.isclose(tree.inertia[tree.leaves(k)].sum(), value, rtol=2e-3), k


def test_blobs_far_from_the_origin(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(2000, offset=1e4)
    check_as_good(blocked(x), x, KS)


def test_real_descriptors(blocked: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(30, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    check_as_good(blocked(x), x, KS)


def test_more_rows_than_the_coreset(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver reads this number; what it computes from it travels to the workers.
    monkeypatch.setattr(coreset, "CORESET_ROWS", 60)
    monkeypatch.setattr("motorpool.cluster.centroids.bisecting._CORESET_ROWS_PER_CLUSTER", 20)
    x = blobs(3000, seed=3)
    df = blocked(x)
    assert len(draw_coreset(df, measure_spread(df), 0, 120).rows) < 160
    # What the coreset alone says is off: passes over all rows put it right.
    check_as_good(df, x, [3, 6])


def least_margin(tree: BisectingTree, row: np.ndarray, node: int) -> float:
    """1 less the distance to the own side's centroid over that to the other's, the least from a leaf to the top."""
    margins = []
    while node:
        other = node + 1 if node % 2 else node - 1
        own, beside = (float(np.linalg.norm(row - tree.centroids[i].astype(np.float64))) for i in (node, other))
        margins.append(1 - own / beside)
        node = (node - 1) // 2
        node = int(np.flatnonzero(tree.left == 2 * node + 1)[0])
    return min(margins)


def test_labels_are_a_walk_down_the_tree(on_spark: Callable[..., DataFrame]) -> None:
    x = blobs(900, seed=1)
    df, ks = on_spark(x), [1, 2, 5, 12]
    tree = fit_bisecting(df, ks, seed=1)
    labelled = by_tree(df, tree, ks)
    assert labelled.sizes == (1, 2, 5, 12)
    rows: dict[int, list[np.ndarray]] = {}
    for batch in df.toArrow().to_batches():
        for block in labelled.blocks_of(batch):
            assert isinstance(block, LabelledBlock)
            assert (block.labels.dtype, block.distances.dtype) == (np.int32, np.float32)
            assert block.strengths is not None
            assert block.strengths.dtype == np.float32
            found = zip(block.ids.tolist(), block.labels, block.distances, block.strengths, strict=True)
            rows |= {i: parts for i, *parts in found}
    labels = np.stack([rows[i][0] for i in range(len(x))])
    distances = np.stack([rows[i][1] for i in range(len(x))])
    strengths = np.stack([rows[i][2] for i in range(len(x))])
    assert np.isnan(strengths[:, 0]).all()
    for model, k in enumerate(ks):
        nodes = walk(tree, x, k)
        if k > 1:
            expected = [least_margin(tree, row, int(node)) for row, node in zip(x, nodes, strict=True)]
            assert np.allclose(strengths[:, model], expected, atol=1e-4)
        assert np.array_equal(tree.leaves(k)[labels[:, model]], nodes)
        assert np.allclose(distances[:, model], np.linalg.norm(x - tree.centroids[nodes], axis=1), rtol=1e-5)
    # Nested: a cluster of more is within one of fewer.
    for fewer, more in zip(labels.T[:-1], labels.T[1:], strict=True):
        assert len(np.unique(np.stack([fewer, more]), axis=1).T) == more.max() + 1


def test_scikit_learn_on_clusters_that_are_plain_to_see(blocked: Callable[..., DataFrame]) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [100, 0], [0, 300], [100, 310]])
    x = (centres[rng.integers(4, size=400)] + rng.normal(size=(400, 2))).astype(np.float32)
    tree = fit_bisecting(blocked(x), [2, 3, 4], seed=1)
    for k in (2, 3, 4):
        known = BisectingKMeans(k, n_init=10, random_state=0).fit(x.astype(np.float64))
        found = tree.centroids[tree.leaves(k)]
        assert np.allclose(found[np.lexsort(found.T)], known.cluster_centers_[np.lexsort(known.cluster_centers_.T)])
        assert np.isclose(tree.inertia[tree.leaves(k)].sum(), known.inertia_)


def test_the_same_result_again_and_on_any_partitions(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(300, seed=5)
    df, ks = blocked(x, 3), [2, 5]
    first, again = fit_bisecting(df, ks, seed=3), fit_bisecting(df, ks, seed=3)
    assert np.array_equal(first.centroids, again.centroids)
    assert np.array_equal(first.inertia, again.inertia)
    other = fit_bisecting(blocked(x, 7), ks, seed=3)
    assert np.array_equal(first.left, other.left)
    assert np.array_equal(first.sizes, other.sizes)
    assert np.allclose(first.centroids, other.centroids, atol=1e-5)


def test_more_clusters_than_distinct_rows(blocked: Callable[..., DataFrame]) -> None:
    distinct = blobs(3, seed=2, offset=0.1)
    x = np.repeat(distinct, [10, 20, 30], axis=0)
    tree = fit_bisecting(blocked(x), [2, 3, 5, 60], seed=1)
    assert tree.converged
    assert tree.largest == 3
    assert sorted(tree.sizes[tree.leaves(60)]) == [10, 20, 30]
    assert tree.inertia[tree.leaves(5)].sum() <= 1e-9
    assert by_tree(blocked(x), tree, [2, 3, 5]).sizes == (2, 3, 3)


def test_equal_rows_and_one_row(blocked: Callable[..., DataFrame]) -> None:
    for x in (np.full((30, 4), 12.34, np.float32), blobs(1)):
        tree = fit_bisecting(blocked(x, 1), [1], seed=1)
        assert tree.converged
        assert tree.left.tolist() == [-1]
        assert np.array_equal(tree.centroids, x[:1])
        assert tree.sizes.tolist() == [len(x)]
        assert abs(tree.inertia[0]) < 1e-9
    assert fit_bisecting(blocked(np.full((30, 4), 12.34, np.float32)), [4], seed=1).largest == 1


def test_as_many_clusters_as_rows_and_no_more(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(6, seed=4)
    df = blocked(x)
    tree = fit_bisecting(df, [1, 6], seed=1)
    leaves = tree.centroids[tree.leaves(6)]
    assert np.allclose(leaves[np.lexsort(leaves.T)], x[np.lexsort(x.T)], atol=1e-5)
    assert np.isclose(tree.inertia[0], np.square(x - x.mean(axis=0, dtype=np.float64)).sum())
    with pytest.raises(ValueError, match=r"k = 7 asks for more clusters than there are rows \(6\)"):
        fit_bisecting(df, [2, 7], seed=1)
    with pytest.raises(ValueError, match=r"k = \[0, 2\]: expected one number or more, each at least 1"):
        fit_bisecting(df, [0, 2], seed=1)
    with pytest.raises(ValueError, match="k = 0: must be at least 1"):
        tree.leaves(0)


def test_the_search_ends_at_max_iter(blocked: Callable[..., DataFrame]) -> None:
    said: list[str] = []
    tree = fit_bisecting(blocked(blobs(400)), [8], seed=1, max_iter=1, progress=said.append)
    assert not tree.converged
    assert tree.n_iter == 1
    assert tree.largest == 8
    assert said[0] == "7 splits on 400 of 400 rows"
    assert len(said) == 2


def test_a_split_whose_rows_have_all_gone_to_one_side_starts_again() -> None:
    x = np.concatenate([blobs(50, seed=1), blobs(50, seed=2) + 50]).astype(np.float64)
    known = coreset.Spread()
    known.update(x)
    growth = Growth(coreset.Coreset(x, np.ones(len(x))), known, seed=0, n_init=1, tol=1e-4)
    growth.grow(3)
    # Both sides of the second split are moved to where no row is nearest to the first of them.
    split = growth.left.index(3)
    growth.centres[3] = growth.centres[3] + 1e6
    for _ in range(30):
        centres = np.stack(growth.centres)
        rows = x - known.mean
        at = Planes.of(np.array(growth.left), centres).descend(rows)
        sums = GroupSums(*centres.shape)
        sums.update(rows - centres[at], at)
        growth.move(sums)
    assert not growth.moving
    assert growth.left[split] == 3
    assert min(growth.counts) > 0
    assert growth.order(3) == ([0, split], [], [])
