"""HDBSCAN's flat clusters against the hdbscan library and scikit-learn, and with ties against their definition."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

import hdbscan
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score

from motorpool.kernels.trees.condense import FlatClusters, SingleLinkage, flat_clusters, single_linkage

Selection = Literal["eom", "leaf"]
SELECTIONS: tuple[Selection, ...] = ("eom", "leaf")


def reachability(x: np.ndarray, min_samples: int) -> np.ndarray:
    """float64[n, n]; the point itself counts among the ``min_samples`` (scikit-learn's way, not the library's)."""
    distance = cdist(x, x)
    core = np.sort(distance, axis=1)[:, min(min_samples, len(x)) - 1]
    return np.maximum(distance, np.maximum(core[:, None], core))


def spanning_tree(distance: np.ndarray) -> SingleLinkage:
    """A minimum spanning tree by scipy, which takes a weight of 0 for no edge: so of the weights' ranks."""
    _, rank = np.unique(distance, return_inverse=True)
    edges = minimum_spanning_tree(np.triu(rank.reshape(distance.shape) + 1.0, 1)).tocoo()
    return single_linkage(edges.row, edges.col, distance[edges.row, edges.col], len(distance))


def without_ties(distance: np.ndarray) -> np.ndarray:
    """Every distance moved by some billionths of itself, so that the order of edges has nothing to decide."""
    noise = np.triu(np.random.default_rng(0).uniform(0, 1e-9, distance.shape), 1)
    return distance * (1 + noise + noise.T)


def blobs() -> np.ndarray:
    return make_blobs(400, 4, centers=6, cluster_std=[0.4, 0.6, 0.8, 1, 1.2, 2], random_state=3)[0]


def moons() -> np.ndarray:
    return make_moons(400, noise=0.08, random_state=1)[0]


def uniform() -> np.ndarray:
    return np.random.default_rng(5).random((300, 3))


def repeated() -> np.ndarray:
    return np.repeat(np.random.default_rng(6).normal(size=(100, 2)), 3, axis=0)


DATA = (blobs, moons, uniform, repeated)


def renumbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels numbered by first row, and the old number of each new one."""
    found, first = np.unique(labels[labels >= 0], return_index=True)
    old = found[np.argsort(first)]
    new = np.full(labels.max() + 2, -1)
    new[old] = np.arange(len(old))
    return new[labels], old


@pytest.mark.parametrize("make", DATA)
def test_heights_are_those_of_the_libraries(make: Callable[[], np.ndarray]) -> None:
    x = make()
    tree = spanning_tree(reachability(x, 5))
    # The library's min_samples leaves the point itself out: 4 there is 5 here and in scikit-learn.
    library = hdbscan.HDBSCAN(min_samples=4, approx_min_span_tree=False).fit(x).single_linkage_tree_.to_numpy()
    assert np.allclose(tree.height, library[:, 2], rtol=1e-12)
    assert np.allclose(tree.height, HDBSCAN(min_samples=5, copy=True).fit(x)._single_linkage_tree_["value"])
    assert tree.n == len(x)
    assert np.all(tree.left < tree.right)
    assert np.array_equal(np.sort(np.concatenate([tree.left, tree.right])), np.arange(2 * len(x) - 2))
    sizes = np.concatenate([np.ones(len(x), np.int64), tree.size])
    assert np.array_equal(tree.size, sizes[tree.left] + sizes[tree.right])


@pytest.mark.parametrize("min_cluster_size", [2, 3, 8, 16, 64, 500])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("method", SELECTIONS)
@pytest.mark.parametrize("make", DATA[:3])
def test_without_ties_all_is_equal_to_the_libraries(
    make: Callable[[], np.ndarray], method: Selection, single: bool, min_cluster_size: int
) -> None:
    distance = without_ties(reachability(make(), 5))
    np.fill_diagonal(distance, 0)
    n = len(distance)
    flat = flat_clusters(spanning_tree(distance), min_cluster_size, method=method, allow_single_cluster=single)
    # To the nearest neighbour it is near any distance anyway: min_samples = 1 adds nothing to the reachability.
    library = hdbscan.HDBSCAN(
        min_cluster_size,
        min_samples=1,
        metric="precomputed",
        cluster_selection_method=method,
        allow_single_cluster=single,
    ).fit(distance)
    if single and (min_cluster_size > n or (method == "leaf" and library.labels_.max() < 0)):
        # There the library calls fewer rows than it was asked for a cluster, or forgets the only leaf.
        assert flat.n_clusters == (0 if min_cluster_size > n else 1)
        return
    labels, old = renumbered(library.labels_)
    assert np.array_equal(flat.labels, labels)
    assert np.allclose(flat.strengths, library.probabilities_, rtol=1e-6, atol=0)
    assert np.allclose(flat.glosh, library.outlier_scores_, rtol=1e-6, atol=1e-7)
    assert (flat.labels.dtype, flat.strengths.dtype, flat.glosh.dtype) == (np.int32, np.float32, np.float32)
    assert len(flat.births) == len(flat.deaths) == len(flat.persistence) == flat.n_clusters == len(old)
    if not single:
        assert np.allclose(flat.persistence, library.cluster_persistence_[old])
        known = HDBSCAN(
            min_cluster_size, min_samples=1, metric="precomputed", cluster_selection_method=method, copy=True
        ).fit(distance)
        assert np.array_equal(flat.labels, renumbered(known.labels_)[0])
        assert np.allclose(flat.strengths, known.probabilities_, rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", DATA[:2])
@pytest.mark.parametrize("min_cluster_size", [16, 40])
def test_with_ties_the_libraries_differ_in_single_rows(make: Callable[[], np.ndarray], min_cluster_size: int) -> None:
    x = make()
    flat = flat_clusters(spanning_tree(reachability(x, 5)), min_cluster_size)
    library = hdbscan.HDBSCAN(min_cluster_size, min_samples=4, approx_min_span_tree=False).fit(x)
    known = HDBSCAN(min_cluster_size, min_samples=5, copy=True).fit(x)
    assert flat.n_clusters > 1
    assert adjusted_rand_score(library.labels_, flat.labels) > 0.99
    assert adjusted_rand_score(known.labels_, flat.labels) > 0.99


class Reference:
    """Campello et al. (2013) word by word on a full matrix: cut all edges of the largest weight, look again.

    ``leaves`` holds for every row its cluster and lambda; ``clusters`` parent, birth, death and stability.
    """

    def __init__(self, distance: np.ndarray, min_cluster_size: int) -> None:
        self.distance, self.least = distance, min_cluster_size
        self.leaves: dict[int, tuple[int, float]] = {}
        self.clusters: list[dict] = []
        self.grow(np.arange(len(distance)), None, 0.0)

    def grow(self, rows: np.ndarray, parent: int | None, birth: float) -> None:
        me = len(self.clusters)
        self.clusters.append({"parent": parent, "birth": birth, "stability": 0.0, "death": 0.0})
        while len(rows):
            within = self.distance[np.ix_(rows, rows)]
            # The largest distance whose edges hold the cluster together.
            levels = np.unique(within[~np.eye(len(rows), dtype=bool)])
            holds = bisect_left(levels, True, key=lambda w: bool(connected_components(csr_array(within <= w))[0] == 1))
            level = levels[holds]
            parts = connected_components(csr_array(within < level))[1]
            now = np.inf if level == 0 else 1 / level
            self.clusters[me]["death"] = now
            pieces = [rows[parts == p] for p in range(parts.max() + 1)]
            large = [p for p in pieces if len(p) >= self.least]
            small = [p for p in pieces if len(p) < self.least]
            gone = small + (large if len(large) > 1 else [])
            self.clusters[me]["stability"] += sum(len(p) * (now - birth) for p in gone)
            self.leaves |= {int(row): (me, now) for p in small for row in p}
            if len(large) > 1:
                for piece in large:
                    self.grow(piece, me, now)
            rows = large[0] if len(large) == 1 else rows[:0]

    def excess(self, cluster: int) -> tuple[float, list[int]]:
        """Largest total stability at or below a cluster, and the clusters that have it."""
        below = [self.excess(c) for c, of in enumerate(self.clusters) if of["parent"] == cluster]
        total = sum(value for value, _ in below)
        own = self.clusters[cluster]["stability"]
        if cluster > 0 and own >= total:
            return own, [cluster]
        return total, [c for _, chosen in below for c in chosen]

    def check(self, flat: FlatClusters, method: Selection) -> None:
        parents = {of["parent"] for of in self.clusters}
        leaf = [c for c in range(1, len(self.clusters)) if c not in parents]
        chosen = self.excess(0)[1] if method == "eom" else leaf
        labels, strengths, glosh = [], [], []
        for row in range(len(self.distance)):
            cluster, now = self.leaves[row]
            deepest = max(of["death"] for c, of in enumerate(self.clusters) if cluster in self.line(c))
            glosh.append(0.0 if now == deepest else 1 - now / deepest)
            above = [c for c in self.line(cluster) if c in chosen]
            labels.append(above[0] if above else -1)
            death = self.clusters[above[0]]["death"] if above else np.inf
            strengths.append(1.0 if above and now >= death else now / death if above else 0.0)
        new, old = renumbered(np.array(labels))
        assert np.array_equal(flat.labels, new)
        assert np.allclose(flat.strengths, strengths, rtol=1e-6, atol=0)
        assert np.allclose(flat.glosh, glosh, rtol=1e-6, atol=1e-7)
        assert np.allclose(flat.stabilities, [self.clusters[c]["stability"] for c in old])
        assert np.allclose(flat.births, [self.clusters[c]["birth"] for c in old])
        assert np.allclose(flat.deaths, [self.clusters[c]["death"] for c in old])

    def line(self, cluster: int | None) -> list[int]:
        """The cluster and its ancestors."""
        found = []
        while cluster is not None:
            found.append(cluster)
            cluster = self.clusters[cluster]["parent"]
        return found


def lattice() -> np.ndarray:
    """Whole numbers, some of them many times: nearly everything ties, and some distances are 0."""
    return np.random.default_rng(8).binomial(12, 0.5, (90, 2)).astype(np.float64)


@pytest.mark.parametrize("min_samples", [1, 2, 5])
@pytest.mark.parametrize("make", [lattice, *DATA])
def test_ties_and_duplicates_by_definition(make: Callable[[], np.ndarray], min_samples: int) -> None:
    distance = reachability(make()[:90], min_samples)
    tree = spanning_tree(distance)
    for min_cluster_size in (2, 3, 4, 7, 20):
        reference = Reference(distance, min_cluster_size)
        for method in SELECTIONS:
            reference.check(flat_clusters(tree, min_cluster_size, method=method), method)


@pytest.mark.parametrize("make", [lattice, repeated, moons])
@pytest.mark.parametrize("method", SELECTIONS)
def test_rows_and_edges_in_any_order(make: Callable[[], np.ndarray], method: Selection) -> None:
    distance = reachability(make(), 4)
    n, rng = len(distance), np.random.default_rng(2)
    for min_cluster_size in (3, 10):
        flat = flat_clusters(spanning_tree(distance), min_cluster_size, method=method)
        for _ in range(3):
            order = rng.permutation(n)
            other = flat_clusters(spanning_tree(distance[np.ix_(order, order)]), min_cluster_size, method=method)
            back = np.argsort(order)
            assert np.array_equal(renumbered(other.labels[back])[0], flat.labels)
            assert np.array_equal(other.strengths[back], flat.strengths)
            assert np.array_equal(other.glosh[back], flat.glosh)


def test_two_clusters_by_hand() -> None:
    # Three rows and four, one apart within, eight apart: from lambda 1/8 to 1.
    x = np.array([10.0, 0, 11, 1, 12, 2, 13])[:, None]
    flat = flat_clusters(spanning_tree(reachability(x, 1)), 3)
    assert flat.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert flat.strengths.tolist() == [1] * 7
    assert flat.glosh.tolist() == [0] * 7
    assert np.allclose(flat.stabilities, [4 * 7 / 8, 3 * 7 / 8])
    assert np.allclose(flat.persistence, [7 / 8, 7 / 8])
    assert np.allclose(flat.births, 1 / 8)
    assert np.allclose(flat.deaths, 1)


def test_enough_equal_rows_are_a_cluster_of_infinite_density() -> None:
    x = np.array([0.0, 0, 0, 0, 1, 20, 21, 22, 23, 90])[:, None]
    flat = flat_clusters(spanning_tree(reachability(x, 1)), 3)
    assert flat.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, -1]
    assert flat.strengths.tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 0]
    # The last row left the root, in which the densest place is infinitely dense.
    assert flat.glosh.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert np.isinf(flat.stabilities[0])
    assert np.isclose(flat.stabilities[1], 4 * (1 - 1 / 19))
    assert flat.persistence.tolist() == [0.8, 0]
    assert np.isinf(flat.deaths[0])


def test_the_root_as_a_cluster_by_hand() -> None:
    # Six rows that never split; the seventh left early, yet its lambda of 1/20 is part of the stability of all.
    x = np.array([0.0, 1, 2, 3, 4, 5, 25])[:, None]
    tree = spanning_tree(reachability(x, 1))
    assert flat_clusters(tree, 4).n_clusters == 0
    for method in SELECTIONS:
        flat = flat_clusters(tree, 4, method=method, allow_single_cluster=True)
        assert flat.labels.tolist() == [0] * 6 + [-1]
        assert flat.strengths.tolist() == [1] * 6 + [0]
        assert np.allclose(flat.glosh, [0] * 6 + [0.95])
        assert np.allclose(flat.stabilities, 6.05)
        assert np.allclose(flat.persistence, 6.05 / 7)
        assert (flat.births.tolist(), flat.deaths.tolist()) == ([0], [1])


def test_births_and_deaths_are_what_new_points_need() -> None:
    x, rng = moons(), np.random.default_rng(9)
    new = np.concatenate([x[::4] + rng.normal(scale=0.05, size=(100, 2)), rng.uniform(-2, 3, (100, 2))])
    flat = flat_clusters(spanning_tree(reachability(x, 1)), 8, method="leaf")
    library = hdbscan.HDBSCAN(
        8, min_samples=1, cluster_selection_method="leaf", prediction_data=True, approx_min_span_tree=False
    ).fit(x)
    assert np.array_equal(renumbered(library.labels_)[0], flat.labels)
    expected, strengths = hdbscan.approximate_predict(library, new)
    # The library's new point reaches out to its second neighbour at min_samples = 1, and joins its first.
    distance = cdist(new, x)
    at, lambdas = flat.labels[distance.argmin(axis=1)], 1 / np.sort(distance, axis=1)[:, 1]
    joined = (at >= 0) & (lambdas > flat.births[at])
    old = renumbered(library.labels_)[1]
    assert 20 < joined.sum() < 180
    assert np.array_equal(np.where(joined, old[at], -1), expected)
    assert np.allclose(np.minimum(lambdas / flat.deaths[at], 1)[joined], strengths[joined])


def test_one_and_two_rows() -> None:
    none = np.empty(0, np.int64)
    for single in (False, True):
        one = flat_clusters(single_linkage(none, none, np.empty(0), 1), 2, allow_single_cluster=single)
        assert (one.labels.tolist(), one.strengths.tolist(), one.glosh.tolist()) == ([-1], [0], [0])
        assert one.n_clusters == 0
    for weight in (0.0, 0.5):
        tree = single_linkage(np.array([1]), np.array([0]), np.array([weight]), 2)
        assert (tree.left.tolist(), tree.right.tolist(), tree.size.tolist()) == ([0], [1], [2])
        assert flat_clusters(tree, 2).labels.tolist() == [-1, -1]
        both = flat_clusters(tree, 2, allow_single_cluster=True)
        assert (both.labels.tolist(), both.strengths.tolist(), both.glosh.tolist()) == ([0, 0], [1, 1], [0, 0])
        assert both.persistence.tolist() == [1]
        assert flat_clusters(tree, 3, allow_single_cluster=True).labels.tolist() == [-1, -1]


@pytest.mark.parametrize("method", SELECTIONS)
def test_equal_rows(method: Selection) -> None:
    tree = spanning_tree(np.zeros((9, 9)))
    assert flat_clusters(tree, 3, method=method).labels.tolist() == [-1] * 9
    flat = flat_clusters(tree, 3, method=method, allow_single_cluster=True)
    assert flat.labels.tolist() == [0] * 9
    assert flat.strengths.tolist() == [1] * 9
    assert flat.glosh.tolist() == [0] * 9


def test_a_tree_as_deep_as_it_has_rows() -> None:
    # Row i + 1 hangs from row i, at ever larger distances, but for one gap in the middle.
    n = 200_000
    weights = np.linspace(1, 2, n - 1)
    weights[n // 2 - 1] = 10
    flat = flat_clusters(single_linkage(np.arange(n - 1), np.arange(1, n), weights, n), 50)
    assert np.array_equal(flat.labels, np.repeat([0, 1], n // 2))
    # The last to hold out are the first 50 rows of each half, and the others leave one by one.
    halves = flat.strengths.reshape(2, -1)
    assert np.all(halves[:, :50] == 1)
    assert np.all(np.diff(halves[:, 50:].astype(np.float64)) <= 0)
    assert np.allclose(halves[:, -1], [2 / 3, 3 / 4], atol=1e-3)


def test_what_is_refused() -> None:
    ends, weights = (np.array([0, 1]), np.array([1, 2])), np.array([1.0, 2.0])
    tree = single_linkage(*ends, weights, 3)
    with pytest.raises(ValueError, match="min_cluster_size = 1"):
        flat_clusters(tree, 1)
    with pytest.raises(ValueError, match="method = 'best'"):
        flat_clusters(tree, 2, method="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a tree of 4 rows has 3 edges"):
        single_linkage(*ends, weights, 4)
    with pytest.raises(ValueError, match="a tree of 0 rows"):
        single_linkage(ends[0][:0], ends[1][:0], weights[:0], 0)
    with pytest.raises(ValueError, match="edges must join rows 0 to 2"):
        single_linkage(ends[0], ends[1] + 1, weights, 3)
    with pytest.raises(ValueError, match="a cycle"):
        single_linkage(ends[0], np.array([1, 0]), weights, 3)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weights must be finite"):
            single_linkage(*ends, np.array([1.0, wrong]), 3)
