"""DBSCAN by Voronoi cells with a halo: equal to the way over all pairs and to scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances

from motorpool.backend.engine import ArrayEngine
from motorpool.cluster.density import cells
from motorpool.cluster.density.cells import fit_dbscan_cells
from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.cluster.labelled import Labelled
from motorpool.errors import MotorpoolError
from motorpool.kernels.cells import engines
from motorpool.kernels.cells.engines import LocalEngine, SklearnEngine
from motorpool.kernels.cells.halo import VoronoiCells
from motorpool.kernels.pairs.geometry import Metric, exact_gap, to_distance, to_gap
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.kernels.trees.components import LINK_DTYPE, PART_DTYPE, number, parts_of
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange

Blocked = Callable[..., DataFrame]


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def blobs(n: int, d: int = 4) -> np.ndarray:
    """Blobs of unequal width, and a tenth of the rows anywhere."""
    x, _ = make_blobs(n, d, centers=6, cluster_std=[0.3, 0.5, 0.6, 0.8, 1.0, 0.4], random_state=3)
    x[: n // 10] = np.random.default_rng(0).uniform(-12, 12, (n // 10, d))
    return x.astype(np.float32)


def shapes() -> np.ndarray:
    moons, _ = make_moons(500, noise=0.05, random_state=0)
    circles, _ = make_circles(400, noise=0.03, factor=0.4, random_state=0)
    return np.concatenate([moons, circles + 4]).astype(np.float32)


def lattice(n: int, d: int = 3, below: int = 9) -> np.ndarray:
    """Small whole numbers: many rows twice, and many distances exactly at a radius."""
    return np.random.default_rng(1).integers(0, below, (n, d)).astype(np.float32)


def exact_gaps(a: np.ndarray, b: np.ndarray, metric: Metric) -> np.ndarray:
    return np.array([[exact_gap(x, y, metric == "cosine") for y in b] for x in a])


# -- the halo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 2000.0])
@pytest.mark.parametrize("kind", ["blobs", "lattice"])
def test_a_halo_holds_every_row_within_eps_of_a_cell(kind: str, offset: float, metric: Metric) -> None:
    x = (blobs(500) if kind == "blobs" else lattice(500)) + np.float32(offset)
    gaps = exact_gaps(x, x, metric)
    eps = tuple(to_distance(np.quantile(gaps, [0.002, 0.02, 0.2]), metric).tolist())
    centres = np.random.default_rng(5).choice(x, 12, replace=False).astype(np.float64)
    if metric == "cosine":
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    grid = VoronoiCells(centres, metric)
    own = grid.own(x)
    first = grid.first_needed(x, own, eps)
    assert (first[np.arange(len(x)), own] == 0).all()
    for e, radius in enumerate(eps):
        needed = np.stack([(gaps[:, own == c] <= to_gap(radius, metric)).any(axis=1) for c in range(12)], axis=1)
        assert not (needed & (first > e)).any()
    # The smallest halo is no more than a few times what it must be, and the largest leaves rows out.
    needed = np.stack([(gaps[:, own == c] <= to_gap(eps[0], metric)).any(axis=1) for c in range(12)], axis=1)
    assert (first == 0).sum() < 6 * needed.sum()
    assert (first == len(eps)).any()


def test_a_row_exactly_at_eps_from_the_plane_is_needed_and_the_next_is_not() -> None:
    grid = VoronoiCells(np.array([[-10.0], [10.0]]), "euclidean")
    x = np.array([[-10.0], [0.0], [3.0], [np.nextafter(np.float32(3), np.float32(4))]], np.float32)
    own = grid.own(x)
    assert own.tolist() == [0, 0, 1, 1]
    assert grid.first_needed(x, own, (3.0, 5.0))[:, 0].tolist() == [0, 0, 0, 1]
    assert grid.first_needed(x, own, (3.0, 5.0))[:, 1].tolist() == [2, 0, 0, 0]


def test_centres_in_one_place_need_each_others_rows() -> None:
    grid = VoronoiCells(np.zeros((2, 3)), "euclidean")
    x = blobs(20, 3)
    assert (grid.first_needed(x, grid.own(x), (1e-9,)) == 0).all()


# -- engines: the contract of every one ---------------------------------------------------------------


@pytest.fixture(params=[SklearnEngine(), ArrayEngine("numpy")], ids=["sklearn", "array"])
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    made: LocalEngine = request.param
    return made


CONTRACT = [
    ("euclidean", blobs(220), 1.3),
    ("euclidean", blobs(220) + np.float32(5000), 1.3),
    # Matrix products instead of trees.
    ("euclidean", blobs(220, 24), 6.0),
    ("euclidean", lattice(220), 2.0),
    # The square of this root is below 3 in float64: rows at a squared distance of 3 are outside.
    ("euclidean", lattice(220), float(np.sqrt(3.0))),
    ("euclidean", lattice(220, 18, 3), 3.0),
    ("euclidean", np.repeat(blobs(11), 20, axis=0), 1e-12),
    ("cosine", blobs(220), 0.02),
    ("cosine", blobs(220) + np.float32(5000), 1e-8),
    ("cosine", lattice(220), float(1 - 1 / np.sqrt(2.0))),
    # Rows without a direction are at 1 from all others, and from each other.
    ("cosine", lattice(220, 2, 3), 1.0),
    ("cosine", lattice(220, 2, 3), 0.99),
]


@pytest.mark.parametrize("pairs", [2**24, 1000])
@pytest.mark.parametrize(("metric", "x", "eps"), CONTRACT)
def test_an_engine_knows_core_rows_components_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, metric: Metric, x: np.ndarray, eps: float, pairs: int
) -> None:
    monkeypatch.setattr(engines, "_PAIRS", pairs)
    gaps = exact_gaps(x, x, metric)
    near = gaps <= to_gap(eps, metric)
    np.fill_diagonal(near, True)
    own, least = 150, (1, 3, 9, 30)
    counts = near.sum(axis=1)
    assert np.array_equal(engine.core(x, own, metric, eps, least).rows, counts[:own, None] >= np.array(least))

    core = np.stack([counts >= 3, np.arange(len(x)) % 3 == 0, np.zeros(len(x), bool)], axis=1)
    found = engine.components(x, metric, eps, core).rows
    assert found.dtype == np.int32
    for column in range(core.shape[1]):
        marked = core[:, column]
        assert (found[~marked, column] == -1).all()
        n, theirs = connected_components(near[np.ix_(marked, marked)], directed=False)
        both = set(zip(theirs.tolist(), found[marked, column].tolist(), strict=True))
        # One to one, and numbered without gaps.
        assert len(both) == n
        assert {mine for _, mine in both} == set(range(n))

    index, away = engine.nearest(x[:60], x[100:], metric, eps)
    to = gaps[:60, 100:].astype(np.float32)
    best = np.where(near[:60, 100:], to, np.inf)
    assert np.array_equal(away, best.min(axis=1))
    assert np.array_equal(index, np.where(np.isfinite(away), best.argmin(axis=1), -1))


def test_an_engine_takes_no_rows(engine: LocalEngine) -> None:
    none, some = np.empty((0, 3), np.float32), blobs(4, 3)
    assert engine.core(some, 0, "euclidean", 1.0, (1, 2)).rows.shape == (0, 2)
    assert engine.components(none, "euclidean", 1.0, np.empty((0, 2), bool)).rows.shape == (0, 2)
    index, gaps = engine.nearest(some, none, "cosine", 1.0)
    assert index.tolist() == [-1] * 4
    assert np.isinf(gaps).all()
    assert len(engine.nearest(none, some, "cosine", 1.0)[0]) == 0


# -- components --------------------------------------------------------------------------------------


def test_components_are_merged_and_numbered_by_their_first_row() -> None:
    # Model 0: (0, 5) - (1, 2) - (2, 0) are one, (1, 7) stands alone. Model 1: (0, 0) alone.
    parts = np.array([(0, 0, 5, 40), (0, 1, 2, 30), (0, 1, 7, 10), (0, 2, 0, 20), (1, 0, 0, 99)], PART_DTYPE)
    links = np.array([(0, 1, 2, 0, 5), (0, 2, 0, 1, 2), (0, 1, 2, 2, 0)], LINK_DTYPE)
    numbers = number(parts, links)
    assert numbers.of(parts["model"], parts["place"], parts["root"]).tolist() == [1, 1, 0, 1, 0]
    assert numbers.sizes(3).tolist() == [2, 1, 0]


def test_without_components_there_are_no_clusters() -> None:
    parts = parts_of(3, np.arange(4), np.full((4, 2), -1, np.int32))
    assert number(parts, np.empty(0, LINK_DTYPE)).sizes(2).tolist() == [0, 0]


def test_the_parts_of_a_place() -> None:
    parts = parts_of(3, np.array([9, 7, 8]), np.array([[2, -1], [2, 0], [1, 0]], np.int32))
    assert parts.tolist() == [(0, 3, 1, 8), (0, 3, 2, 7), (1, 3, 0, 7)]


# -- DBSCAN ------------------------------------------------------------------------------------------


def rows_of(labelled: Labelled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, labels and distances in the order of the ids."""
    found = [b for batch in labelled.df.toArrow().to_batches() for b in labelled.blocks_of(batch)]
    ids = np.concatenate([b.ids for b in found])
    assert sorted(ids.tolist()) == list(range(len(ids)))
    order = np.argsort(ids)
    columns = ([b.x for b in found], [b.labels for b in found], [b.facts[0] for b in found])
    x, labels, distances = (np.concatenate(column)[order] for column in columns)
    labelled.df.unpersist()
    return x, labels, distances


def by_all_pairs(block_df: DataFrame, grid: DbscanParameters, metric: Metric) -> Labelled:
    arranged = arrange(block_df, metric, 0)
    labelled = fit_dbscan(arranged, search(arranged, Wanted(grid.eps, max(grid.min_samples))), grid.eps, grid)
    arranged.release()
    return labelled


def check(
    block_df: DataFrame,
    x: np.ndarray,
    grid: DbscanParameters,
    n_cells: int | None,
    metric: Metric = "euclidean",
    *,
    ties: tuple[float, ...] = (),
) -> np.ndarray:
    """Both ways give the same tables, and scikit-learn's core rows, partition and noise. The labels.

    For eps in ``ties`` scikit-learn rounds other sums, and only the two ways are compared.
    """
    found = fit_dbscan_cells(block_df, grid, metric=metric, seed=0, engine=SklearnEngine(), n_cells=n_cells)
    other = by_all_pairs(block_df, grid, metric)
    assert found.sizes == other.sizes
    assert np.allclose(found.origin, other.origin)
    rows, labels, distances = rows_of(found)
    _, their_labels, their_distances = rows_of(other)
    assert np.array_equal(rows, x)
    assert np.array_equal(labels, their_labels)
    assert np.array_equal(distances, their_distances, equal_nan=True)
    truth = pairwise_distances(x.astype(np.float64), metric=metric)
    for model, (eps, least) in enumerate(product(grid.eps, grid.min_samples)):
        if eps in ties:
            continue
        theirs = DBSCAN(eps=eps, min_samples=least, metric="precomputed").fit(truth)
        core = np.isin(np.arange(len(x)), theirs.core_sample_indices_)
        assert np.array_equal(distances[:, model] == 0, core), (eps, least)
        assert np.array_equal(labels[core, model], theirs.labels_[core]), (eps, least)
        assert np.array_equal(labels[:, model] < 0, theirs.labels_ < 0), (eps, least)
        border = np.flatnonzero(~core & (labels[:, model] >= 0))
        if len(border):
            # The cluster of the nearest core row.
            to = truth[np.ix_(border, core)]
            assert np.allclose(distances[border, model], to.min(axis=1), rtol=1e-5, atol=1e-6)
            same = labels[core, model] == labels[border, model][:, None]
            assert np.allclose(np.where(same, to, np.inf).min(axis=1), to.min(axis=1), rtol=1e-6, atol=1e-7)
    return labels


@pytest.mark.parametrize(("n_cells", "partitions"), [(9, 3), (1, 2), (None, 1)])
def test_cells_from_all_noise_to_one_cluster(blocked: Blocked, n_cells: int | None, partitions: int) -> None:
    x = blobs(1100)
    grid = DbscanParameters((1e-4, 0.4, 0.8, 1.5, 100.0), (1, 2, 6, 40))
    labels = check(blocked(x, partitions), x, grid, n_cells)
    # min_samples = 2 at the smallest eps and 40 at the largest.
    assert (labels[:, 1] == -1).all()
    assert (labels[:, -1] == 0).all()


@pytest.mark.parametrize(("metric", "eps"), [("euclidean", (0.05, 0.12, 0.3)), ("cosine", (0.0005, 0.02))])
def test_cells_follow_shapes_across_their_walls(blocked: Blocked, metric: Metric, eps: tuple[float, ...]) -> None:
    x = shapes()
    check(blocked(x), x, DbscanParameters(eps, (3, 8)), 9, metric)


def test_distances_exactly_at_eps_and_duplicates(blocked: Blocked) -> None:
    x = lattice(900)
    # The square of the root of 3 is below 3 in float64, those of the roots of 2 and 5 are above.
    root2, root3, root5 = np.sqrt([2.0, 3.0, 5.0]).tolist()
    check(blocked(x), x, DbscanParameters((0.5, 1.0, root2, root3, 2.0, root5), (2, 5, 9, 25)), 8, ties=(root3,))


def test_cosines_exactly_at_eps_and_rows_without_a_direction(blocked: Blocked) -> None:
    x = lattice(500, 3, 4) - np.float32(1)
    assert (x == 0).all(axis=1).any()
    at_45_degrees = float(1 - 1 / np.sqrt(2.0))
    grid = DbscanParameters((0.05, at_45_degrees, 0.9, 1.0, 1.0 + 1e-9), (3, 10, 40))
    check(blocked(x), x, grid, 7, "cosine", ties=(at_45_degrees, 1.0))


def test_equal_rows_share_a_cell(blocked: Blocked) -> None:
    x = np.repeat(blobs(25), 14, axis=0)
    check(blocked(x), x, DbscanParameters((1e-3, 1.0), (5, 14, 15)), 6)
    same = np.ones((40, 3), np.float32)
    # scikit-learn's KMeans warns that there are fewer different rows than cells.
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        labels = check(blocked(same), same, DbscanParameters((0.1,), (40, 41)), 4)
    assert labels[0].tolist() == [0, -1]


def test_cells_far_from_the_origin(blocked: Blocked) -> None:
    x = blobs(700) + np.float32(3000)
    check(blocked(x), x, DbscanParameters((0.5, 1.0, 2.5), (4, 10)), 8)


@pytest.mark.parametrize(("n", "partitions"), [(1, 1), (2, 1), (6, 9)])
def test_cells_of_very_few_rows(blocked: Blocked, n: int, partitions: int) -> None:
    x = blobs(n)
    check(blocked(x, partitions), x, DbscanParameters((1e-3, 9.0, 1e3), (1, 2, 3)), n)


def test_a_border_row_between_two_clusters_joins_that_of_the_lower_id(on_spark: Blocked) -> None:
    # Row 0 lies halfway between cores of two clusters, in a cell with only one of them.
    x = np.array([[0], [2], [3], [3], [-2], [-3], [-3]], np.float32)
    labels = check(on_spark(x), x, DbscanParameters((2.0,), (4,)), 3)
    assert labels[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_labels_do_not_depend_on_the_cells(blocked: Blocked) -> None:
    x, grid = blobs(800), DbscanParameters((0.6, 0.9), (4, 12))
    df = blocked(x, 4)
    said: list[str] = []
    found = [
        rows_of(fit_dbscan_cells(df, grid, metric="euclidean", seed=s, engine=SklearnEngine(), n_cells=k, progress=p))
        for s, k, p in ((0, 3, said.append), (7, 16, said.append))
    ]
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second, equal_nan=True)
    assert said[0].startswith("3 cells")
    assert said[3].startswith("16 cells")


def test_a_halo_that_is_too_large_is_refused(blocked: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "CELL_ROWS", 300)
    df, x = blocked(blobs(600)), blobs(600)
    with pytest.raises(MotorpoolError, match=r"eps = 50 one cell and its halo hold 600 of 600 rows .* at most 300"):
        fit_dbscan_cells(
            df, DbscanParameters((0.2, 50.0, 60.0), (4,)), metric="euclidean", seed=0, engine=SklearnEngine(), n_cells=8
        )
    check(df, x, DbscanParameters((0.2,), (4,)), 8)


def test_no_rows_are_an_error(blocked: Blocked) -> None:
    df = blocked(blobs(4)).limit(0)
    with pytest.raises(ValueError, match="no rows"):
        fit_dbscan_cells(df, DbscanParameters((1.0,), (2,)), metric="euclidean", seed=0, engine=SklearnEngine())
