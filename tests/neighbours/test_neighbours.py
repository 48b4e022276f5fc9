"""All pairs of rows, exactly: counts, neighbours, the spanning tree, DBSCAN and HDBSCAN against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.datasets import make_circles, make_moons
from sklearn.metrics import adjusted_rand_score

from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanModels, HdbscanParameters, fit_hdbscan
from motorpool.cluster.labelled import Labelled
from motorpool.kernels.pairs.geometry import Metric, prepare, to_distance
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours import shards
from motorpool.neighbours.curve import curve_of, k_distances
from motorpool.neighbours.exchange import load
from motorpool.neighbours.search import COUNTS, FOUND, GAPS, IDS, search
from motorpool.neighbours.shards import Arranged, arrange


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """So that a few thousand rows take several tasks."""
    return lambda rows: monkeypatch.setattr(shards, "_shard_rows", lambda *_: rows)


def clouds(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    """Clouds of unequal size and width, and a tenth of the rows anywhere."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.uniform(-8, 8, (6, d)), rng.uniform(0.3, 1.0, 6)
    which = rng.choice(6, n, p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05])
    x = centres[which] + rng.normal(size=(n, d)) * widths[which, None]
    x[: n // 10] = rng.uniform(-10, 10, (n // 10, d))
    return x.astype(np.float32)


def grid_points(n: int) -> np.ndarray:
    """Small whole numbers: many rows twice, and many distances exactly at a radius."""
    return np.random.default_rng(1).integers(0, 12, (n, 3)).astype(np.float32)


def by_id(state: DataFrame, kind: str) -> np.ndarray:
    found: dict[str, dict[int, np.ndarray]] = {}
    for row in state.collect():
        found.setdefault(row["kind"], {})[row["shard"]] = load(row["data"])
    ids = np.concatenate([found[IDS][s] for s in sorted(found[IDS])])
    return np.concatenate([found[kind][s] for s in sorted(found[IDS])])[np.argsort(ids)]


def rows_of(labelled: Labelled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, distances and strengths in the order of the ids."""
    found = [b for batch in labelled.df.toArrow().to_batches() for b in labelled.blocks_of(batch)]
    order = np.argsort(np.concatenate([b.ids for b in found]))
    columns = ([b.labels for b in found], [b.facts[0] for b in found], [b.facts[1] for b in found])
    labels, distances, strengths = (np.concatenate(column)[order] for column in columns)
    return labels, distances, strengths


# -- rows in shards ----------------------------------------------------------------------------------


def test_shards_hold_every_row_once_and_never_too_many(
    on_spark: Callable[..., DataFrame], small_shards: Callable[[int], None]
) -> None:
    small_shards(400)
    x = np.concatenate([clouds(2500), np.zeros((900, 5), np.float32)])
    arranged = arrange(on_spark(x, 4), "euclidean", 0)
    # Every shard comes to a task of its own.
    assert (
        arranged.pieces.rdd.glom().map(lambda rows: len({r["shard"] for r in rows})).collect()
        == [1] * arranged.n_shards
    )
    found: dict[int, list[int]] = {}
    for row in arranged.pieces.collect():
        ids = np.frombuffer(row["ids"], np.int64)
        assert np.array_equal(np.frombuffer(row["data"], np.float32).reshape(len(ids), -1), x[ids])
        found.setdefault(row["shard"], []).extend(ids.tolist())
    arranged.release()
    assert sorted(i for ids in found.values() for i in ids) == list(range(len(x)))
    assert set(found) == set(range(arranged.n_shards))
    # The equal rows share a cell that is dealt out by hash: even, but not exactly.
    assert max(len(ids) for ids in found.values()) < 480


def test_a_plan_fills_shards_and_splits_large_cells() -> None:
    first, parts, n_shards = shards._plan(np.array([3, 4, 25, 2, 2, 6, 5]), 10)
    assert first.tolist() == [0, 0, 1, 4, 4, 4, 5]
    assert parts.tolist() == [1, 1, 3, 1, 1, 1, 1]
    assert n_shards == 6


# -- pass 1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_counts_and_nearest_neighbours(
    blocked: Callable[..., DataFrame], small_shards: Callable[[int], None], metric: Metric, offset: float
) -> None:
    small_shards(500)
    x = clouds(1700) + np.float32(offset)
    truth = cdist(x.astype(np.float64), x.astype(np.float64), metric)
    radii = tuple(np.quantile(truth, [0.001, 0.02, 0.3]).tolist())
    arranged = arrange(blocked(x), metric, 0)
    state = search(arranged, Wanted(radii, 40, 7))
    counts = by_id(state, COUNTS)
    for e, radius in enumerate(radii):
        exact = (truth <= radius).sum(axis=1)
        assert np.array_equal(np.minimum(counts[:, e], 40), np.minimum(exact, 40))
    np.fill_diagonal(truth, np.inf)
    nearest = np.sort(truth, axis=1)[:, :7]
    assert np.allclose(to_distance(by_id(state, GAPS), metric), nearest, rtol=1e-6, atol=1e-7)
    found = by_id(state, FOUND)
    assert np.allclose(np.take_along_axis(truth, found, axis=1), nearest, rtol=1e-6, atol=1e-7)
    arranged.release()


def test_fewer_rows_than_neighbours(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(3)
    arranged = arrange(blocked(x), "euclidean", 0)
    state = search(arranged, Wanted((1e9,), 100, 5))
    assert by_id(state, COUNTS).tolist() == [[3], [3], [3]]
    assert np.isfinite(by_id(state, GAPS)).sum(axis=1).tolist() == [2, 2, 2]
    assert (by_id(state, FOUND)[:, 2:] == -1).all()
    arranged.release()


def test_a_zero_vector_has_no_direction() -> None:
    rows = prepare(np.arange(2), np.array([[0, 0], [3, 4]], np.float32), "cosine")
    assert (rows.half.sum() - rows.x[0] @ rows.x[1]) == 1.0


def test_the_k_distance_curve(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(1200)
    found = k_distances(blocked(x), "euclidean", [8], 0)[8]
    truth = np.sort(np.sort(cdist(x.astype(np.float64), x.astype(np.float64)), axis=1)[:, 7])
    assert np.allclose(found, truth, rtol=1e-4, atol=1e-4)
    curve = curve_of(found, 8)
    # A tenth of the rows lies anywhere: the curve bends where they begin.
    assert 80 <= curve.knee <= 95


# -- DBSCAN ------------------------------------------------------------------------------------------


def check_dbscan(
    block_df: DataFrame,
    x: np.ndarray,
    eps: tuple[float, ...],
    min_samples: tuple[int, ...],
    metric: Metric = "euclidean",
) -> Arranged:
    """Every cell of the grid has scikit-learn's core rows, their labels and its noise."""
    arranged = arrange(block_df, metric, 0)
    radii = (*eps, eps[-1] * 1.5)
    labelled = fit_dbscan(
        arranged, search(arranged, Wanted(radii, max(min_samples) + 3)), radii, DbscanParameters(eps, min_samples)
    )
    labels, distances, _ = rows_of(labelled)
    truth = cdist(x.astype(np.float64), x.astype(np.float64), metric)
    for cell, (e, m) in enumerate((e, m) for e in eps for m in min_samples):
        theirs = DBSCAN(eps=e, min_samples=m, metric="precomputed").fit(truth)
        core = np.zeros(len(x), bool)
        core[theirs.core_sample_indices_] = True
        assert np.array_equal(distances[:, cell] == 0, core), (e, m)
        assert np.array_equal(labels[core, cell], theirs.labels_[core]), (e, m)
        assert np.array_equal(labels[:, cell] < 0, theirs.labels_ < 0), (e, m)
        assert labelled.sizes[cell] == theirs.labels_.max() + 1
        border = np.flatnonzero(~core & (labels[:, cell] >= 0))
        if len(border):
            # The nearest core row decides, and is within eps.
            near = np.where(core, truth[border], np.inf)
            assert np.allclose(distances[border, cell], near.min(axis=1), rtol=1e-5, atol=1e-6)
            assert near.min(axis=1).max() <= e
            own = np.where(labels[:, cell] == labels[border, cell][:, None], near, np.inf)
            assert np.allclose(own.min(axis=1), near.min(axis=1), rtol=1e-6, atol=1e-7)
        assert np.isnan(distances[labels[:, cell] < 0, cell]).all()
    labelled.df.unpersist()
    return arranged


@pytest.mark.parametrize("rows", [None, 350])
def test_dbscan_from_all_noise_to_one_cluster(
    blocked: Callable[..., DataFrame], small_shards: Callable[[int], None], rows: int | None
) -> None:
    if rows:
        small_shards(rows)
    x = clouds(1500)
    arranged = check_dbscan(blocked(x, 3), x, (1e-4, 0.5, 0.8, 1.2, 2.5, 50.0), (1, 4, 10, 60))
    assert (arranged.n_shards > 3) == (rows is not None)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_dbscan_of_shapes(
    blocked: Callable[..., DataFrame], small_shards: Callable[[int], None], metric: Metric
) -> None:
    small_shards(300)
    moons, _ = make_moons(700, noise=0.05, random_state=0)
    circles, _ = make_circles(500, noise=0.03, factor=0.4, random_state=0)
    x = np.concatenate([moons, circles + 4]).astype(np.float32)
    check_dbscan(blocked(x), x, (0.002, 0.05, 0.12, 0.3), (3, 8), metric)


def test_dbscan_with_duplicates_and_distances_exactly_at_eps(
    blocked: Callable[..., DataFrame], small_shards: Callable[[int], None]
) -> None:
    small_shards(400)
    x = grid_points(1500)
    check_dbscan(blocked(x), x, (0.5, 1.0, 2.0), (2, 5, 9, 25))


def test_dbscan_far_from_the_origin(blocked: Callable[..., DataFrame], small_shards: Callable[[int], None]) -> None:
    small_shards(400)
    x = clouds(900) + np.float32(3000)
    check_dbscan(blocked(x), x, (0.5, 1.0, 2.5), (4, 10))


def test_dbscan_of_real_descriptors(
    blocked: Callable[..., DataFrame],
    small_shards: Callable[[int], None],
    case_vectors: Callable[[str], np.ndarray],
) -> None:
    small_shards(700)
    x = case_vectors("vdc_type")[:, :100]
    far = np.sort(cdist(x, x), axis=1)[:, 8]
    eps = tuple(float(v) for v in np.quantile(far.astype(np.float64), [0.05, 0.3, 0.7]))
    check_dbscan(blocked(x), x, eps, (3, 8, 30))


@pytest.mark.parametrize("n", [1, 2])
def test_dbscan_of_very_few_rows(blocked: Callable[..., DataFrame], n: int) -> None:
    x = clouds(n)
    check_dbscan(blocked(x, 1), x, (1e-3, 1e3), (1, 2, 3))


# -- HDBSCAN -----------------------------------------------------------------------------------------


def hdbscan(
    block_df: DataFrame, min_samples: int, sizes: tuple[int, ...], metric: Metric = "euclidean", k: int = 8
) -> HdbscanModels:
    arranged = arrange(block_df, metric, 0)
    nearest = search(arranged, Wanted(k=max(k, min_samples - 1)))
    return fit_hdbscan(arranged, nearest, HdbscanParameters(sizes, min_samples))


def tree_weights(x: np.ndarray, min_samples: int, metric: Metric) -> np.ndarray:
    away = cdist(x.astype(np.float64), x.astype(np.float64), metric)
    np.fill_diagonal(away, 0.0)
    core = np.sort(away, axis=1)[:, min_samples - 1]
    reach = np.maximum(np.maximum(away, core[:, None]), core)
    # An edge of weight zero is no edge to scipy: a shift leaves the tree as it is.
    return np.sort(minimum_spanning_tree(np.triu(reach + 1.0, 1)).data) - 1.0


@pytest.mark.parametrize(
    ("x", "min_samples", "k", "metric"),
    [
        (clouds(1500), 5, 8, "euclidean"),
        # Lists of one neighbour prove little: nearly every round searches all pairs.
        (clouds(1200, seed=3), 1, 1, "euclidean"),
        (clouds(1200, seed=2), 5, 8, "cosine"),
        (grid_points(900), 4, 6, "euclidean"),
        (np.repeat(clouds(60), 12, axis=0), 5, 8, "euclidean"),
    ],
    ids=["clouds", "short lists", "cosine", "ties", "duplicates"],
)
def test_the_tree_and_the_clusters_of_hdbscan(
    blocked: Callable[..., DataFrame],
    small_shards: Callable[[int], None],
    x: np.ndarray,
    min_samples: int,
    k: int,
    metric: Metric,
) -> None:
    small_shards(400)
    sizes = (5, 20, 60)
    models = hdbscan(blocked(x), min_samples, sizes, metric, k)
    assert np.allclose(np.sort(models.tree.distance), tree_weights(x, min_samples, metric), rtol=1e-6, atol=1e-9)
    assert models.tree.searches > 0
    labels, distances, strengths = rows_of(models.labelled)
    assert np.isnan(distances).all()
    for m, size in enumerate(sizes):
        assert np.array_equal(labels[:, m], models.flat[m].labels)
        assert np.array_equal(strengths[:, m], models.flat[m].strengths)
        theirs = HDBSCAN(size, min_samples=min_samples, metric=metric, algorithm="brute", copy=True)
        if len(np.unique(models.tree.distance)) > 0.8 * len(x):
            assert adjusted_rand_score(theirs.fit(x.astype(np.float64)).labels_, labels[:, m]) > 0.99
    models.labelled.df.unpersist()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_hdbscan_of_very_few_rows(blocked: Callable[..., DataFrame], n: int) -> None:
    models = hdbscan(blocked(clouds(n), 1), 5, (2, 5))
    labels, _, _ = rows_of(models.labelled)
    assert labels.shape == (n, 2)
    assert len(models.tree.distance) == n - 1


# -- through Spark -----------------------------------------------------------------------------------


def test_dbscan_and_hdbscan_through_spark(
    on_spark: Callable[..., DataFrame], small_shards: Callable[[int], None]
) -> None:
    """Shuffles, joins and kept results as they are, several shards each."""
    small_shards(300)
    x = clouds(800)
    df = on_spark(x, 3)
    check_dbscan(df, x, (0.5, 1.2), (4, 10)).release()
    models = hdbscan(df, 5, (5, 20))
    assert np.allclose(np.sort(models.tree.distance), tree_weights(x, 5, "euclidean"), rtol=1e-6, atol=1e-9)
    assert np.array_equal(rows_of(models.labelled)[0][:, 1], models.flat[1].labels)
    models.labelled.df.unpersist()


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_what_shards_find_for_each_other_merges_as_it_comes(
    blocked: Callable[..., DataFrame],
    small_shards: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    """Of nine shards each gets arrays of eight others: the same as where one shard has all rows, ties and all."""
    x, wanted = grid_points(450), Wanted((0.5, 1.0, 1.5), 9, 7)
    monkeypatch.setattr(shards, "_MERGED_AT_ONCE", at_once)

    def found() -> tuple[int, dict[int, tuple[list[int], list[float], list[int]]]]:
        arranged = arrange(blocked(x), "euclidean", 0)
        arrays: dict[str, dict[int, np.ndarray]] = {}
        for row in search(arranged, wanted).collect():
            arrays.setdefault(row["kind"], {})[row["shard"]] = load(row["data"])
        ids, others, gaps, counts = (
            np.concatenate([arrays[kind][shard] for shard in range(arranged.n_shards)]).tolist()
            for kind in (IDS, FOUND, GAPS, COUNTS)
        )
        return arranged.n_shards, dict(zip(ids, zip(others, gaps, counts, strict=True), strict=True))

    one, whole = found()
    small_shards(50)
    several, merged = found()
    assert (one, several > 8) == (1, True)
    assert merged == whole
