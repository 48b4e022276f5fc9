"""Vectors of any float32 numbers: neighbours, DBSCAN and HDBSCAN as in float64, on both ways and backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.neighbors import LocalOutlierFactor

from all_pairs import by_cells, by_pairs, check_against_scikit_learn, searched, two_shards
from motorpool.backend.engine import ArrayEngine
from motorpool.backend.protocol import CPU, ArrayBackend, Backend
from motorpool.cluster.density.cells import fit_dbscan_cells
from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
from motorpool.cluster.density.new_images import by_core_rows, by_reachability
from motorpool.kernels.cells.engines import SklearnEngine
from motorpool.kernels.pairs.geometry import (
    FLOOR,
    Metric,
    as_short,
    gap_type,
    prepare,
    to_distance,
    to_gap,
    unit_of,
)
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.kernels.pairs.tiles import TILE_ROWS, tiles_of
from motorpool.kernels.trees.condense import flat_clusters, single_linkage
from motorpool.neighbours import shards as shards_module
from motorpool.neighbours.curve import _gaps, _middle, curve_of, k_distances
from motorpool.neighbours.queries import nearest_rows
from motorpool.neighbours.search import COUNTS, search
from motorpool.neighbours.shards import arrange
from motorpool.neighbours.spanning import _outgoing
from motorpool.outliers import stray_groups
from motorpool.outliers.local import knn_distance, local_outlier_factor

LARGEST = float(np.finfo(np.float32).max)


def clouds(n: int, d: int = 3) -> np.ndarray:
    """Three clouds and some rows anywhere, near 1."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, d))[np.arange(n) % 3] * 3 + rng.normal(size=(n, d)) * 0.3
    x[: n // 8] = rng.uniform(-4, 4, (n // 8, d))
    return x.astype(np.float32)


def with_rows(x: np.ndarray, *values: float) -> np.ndarray:
    """The same, some rows in their midst replaced by others: constant, and one next to each."""
    x = x.copy()
    for at, value in enumerate(values):
        x[7 + 3 * at] = value
        x[8 + 3 * at] = np.nextafter(np.float32(value), np.float32(0))
    return x


def tiny_beside(x: np.ndarray, tiny: float) -> np.ndarray:
    """Half of the rows so small that their squares vanish in float32, half as they are."""
    x = x.copy()
    x[::2] *= np.float32(tiny)
    return x


def many_equal(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[np.arange(len(x)) % 100 != 0] = x[3]
    return x


CASES: dict[str, tuple[np.ndarray, tuple[float, ...]]] = {
    "near 1": (clouds(160), (0.3, 0.8)),
    "1e-30": (clouds(160) * np.float32(1e-30), (3e-31, 8e-31)),
    "1e-38": (clouds(160) * np.float32(1e-38), (3e-39, 8e-39)),
    "1e-15": (clouds(160) * np.float32(1e-15), (3e-16, 8e-16)),
    "1e15": (clouds(160) * np.float32(1e15), (3e14, 8e14)),
    "1e25": (clouds(160) * np.float32(1e25), (3e24, 8e24)),
    "1e30": (clouds(160) * np.float32(1e30), (3e29, 8e29)),
    "1e37": (clouds(160) * np.float32(1e37), (3e36, 8e36)),
    "around 1e25": (np.float32(1e25) + clouds(160) * np.float32(1e20), (3e19, 8e19)),
    "one row at 1e25": (with_rows(clouds(160), 1e25), (0.3, 0.8)),
    "rows at 1e18, 1e19, 2e19 and 3e19": (with_rows(clouds(160), 1e18, 1e19, 2e19, 3e19), (0.3, 0.8, 3e12)),
    "the largest numbers there are": (with_rows(clouds(160), LARGEST, -LARGEST, 1e38), (0.8, 1e33, 1e39)),
    "tiny among ordinary": (tiny_beside(clouds(160), 1e-30), (3e-31, 8e-31, 0.3)),
    "ordinary among tiny": (tiny_beside(clouds(161), 1e-30)[:160], (8e-31, 0.8)),
    "1e-30 and 1e30": (with_rows(clouds(160) * np.float32(1e-30), 1e30, -1e30), (8e-31, 1e25)),
    "identical rows": (np.full((160, 3), 0.7, np.float32), (1e-3,)),
    "identical rows at 1e25": (np.full((160, 3), 1e25, np.float32), (1e-3, 1e25)),
    "99 % duplicates": (many_equal(clouds(160)), (1e-3, 0.8, 4.0)),
    "99 % duplicates at 1e30": (many_equal(clouds(160) * np.float32(1e30)), (1e27, 8e29)),
    "99 % duplicates at 1e-30": (many_equal(clouds(160) * np.float32(1e-30)), (1e-33, 8e-31)),
    "one row": (clouds(1), (0.8,)),
    "two rows": (clouds(2), (0.8, 20.0)),
    "two rows at 1e25": (np.full((2, 3), 1e25, np.float32), (0.8,)),
    "three rows": (clouds(3), (0.8, 20.0)),
    "one of three rows at 1e25": (with_rows(clouds(30), 1e25)[6:9:1], (0.8, 20.0)),
}
BACKENDS = [pytest.param(CPU, id="cpu"), pytest.param(ArrayBackend("numpy"), id="array")]


def distances_of(x: np.ndarray) -> np.ndarray:
    return cdist(x.astype(np.float64), x.astype(np.float64))


def units_of(x: np.ndarray) -> list[float]:
    """The unit that `arrange` chooses and none at all: it makes no difference but speed."""
    return list(dict.fromkeys([unit_of(x), 1.0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_dbscan_by_pairs_is_scikit_learns(case: str, backend: Backend) -> None:
    x, eps = CASES[case]
    if len(x) < 2:
        pytest.skip("two shards have two rows")
    grid = DbscanParameters(eps, (1, 2, 5, 30))
    for unit in units_of(x):
        labels, distances = by_pairs(x, grid, backend=backend, unit=unit)
        check_against_scikit_learn(distances_of(x), grid, labels, distances)


@pytest.mark.parametrize("engine", [SklearnEngine(), ArrayEngine("numpy")], ids=["sklearn", "array"])
@pytest.mark.parametrize("case", CASES)
def test_dbscan_by_cells_is_the_same(case: str, engine: SklearnEngine) -> None:
    x, eps = CASES[case]
    grid = DbscanParameters(eps, (1, 2, 5, 30))
    centres = np.unique(x[:: max(1, len(x) // 4)].astype(np.float64), axis=0)
    labels, distances = by_cells(x, grid, centres, engine)
    check_against_scikit_learn(distances_of(x), grid, labels, distances)
    if len(x) > 1:
        theirs, their_distances = by_pairs(x, grid)
        assert np.array_equal(labels, theirs)
        assert np.array_equal(distances, their_distances, equal_nan=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_counts_and_nearest_rows_are_those_of_float64(case: str, backend: Backend, metric: Metric) -> None:
    x, radii = CASES[case]
    if len(x) < 2:
        pytest.skip("two shards have two rows")
    truth = distances_of(x)
    if metric == "cosine":
        unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        truth, radii = 1.0 - unit @ unit.T, (0.013, 0.3)
    k = min(7, len(x) - 1)
    for unit_used in units_of(x):
        shards = searched(two_shards(x, metric, unit=unit_used), Wanted(radii, 40, k), metric, backend)
        counts = np.concatenate([s.state[COUNTS] for s in shards])
        for e, radius in enumerate(radii):
            assert np.array_equal(np.minimum(counts[:, e], 40), np.minimum((truth <= radius).sum(axis=1), 40))
        nearest = np.sort(np.where(np.eye(len(x), dtype=bool), np.inf, truth), axis=1)[:, :k]
        found = to_distance(np.concatenate([s.state["gaps"] for s in shards]), metric)
        assert np.allclose(found, nearest, rtol=1e-6, atol=1e-12 if metric == "cosine" else 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_the_lightest_edges_are_those_of_float64(case: str, backend: Backend) -> None:
    """A round of the spanning tree where every row is a part of its own."""
    x, _ = CASES[case]
    if len(x) < 2:
        pytest.skip("two shards have two rows")
    k = min(3, len(x) - 1)
    truth = distances_of(x)
    core = np.sort(truth, axis=1)[:, k]
    for unit in units_of(x):
        shards = searched(two_shards(x, "euclidean", unit=unit), Wanted((), 1, k), "euclidean", backend)
        for shard in shards:
            n = len(shard.rows)
            shard.state |= {"part": shard.rows.ids.astype(np.int32), "core": shard.state["gaps"][:, k - 1]}
            shard.state |= {"active": np.ones(n, bool), "bound": np.full(n, np.inf)}
        for a, b in (shards, shards[::-1]):
            edges = _outgoing(a, b, False, backend)
            assert edges["part"].tolist() == a.rows.ids.tolist()
            reach = np.maximum(truth, np.maximum(core[:, None], core))[np.ix_(a.rows.ids, b.rows.ids)]
            assert np.allclose(to_distance(edges["gap"], "euclidean"), reach.min(axis=1), rtol=1e-6, atol=0)


def test_rows_exactly_at_eps_in_tiles_of_equal_rows() -> None:
    """Tiles without an extent, whose distance is the level that float32 rounds down."""
    eps = float(np.float32(0.3))
    assert np.float32(to_gap(eps, "euclidean")) < to_gap(eps, "euclidean")
    x = np.zeros((4 * TILE_ROWS, 1), np.float32)
    x[TILE_ROWS // 2 :] = np.float32(0.3)
    rows = prepare(np.arange(len(x)), np.sort(x, axis=0), "euclidean")
    a, b = rows.take(slice(0, 64)), rows.take(slice(2 * TILE_ROWS, None))
    assert a.raw[-1] != b.raw[0]
    reach = float(np.float32(to_gap(eps, "euclidean")))
    assert len(list(tiles_of(a).products(tiles_of(b), lambda i, j: reach, same=False))) == 1
    grid = DbscanParameters((eps,), (len(x), len(x) + 1))
    labels, _ = by_pairs(x, grid)
    assert (labels == [0, -1]).all()


@pytest.mark.parametrize("case", CASES)
def test_gaps_of_the_k_distance_curve(case: str) -> None:
    """Of float32's accuracy, and of float64's where rows are too large for it."""
    x, _ = CASES[case]
    for unit in units_of(x)[:1]:
        some, rows = (prepare(np.arange(len(part)), part, "euclidean", None, unit) for part in (x[::3], x))
        found = _gaps(some, rows, cosine=False).astype(np.float64)
        truth = to_gap(cdist(some.raw.astype(np.float64), rows.raw.astype(np.float64)), "euclidean") * some.scale
        size = some.half[:, None].astype(np.float64) + rows.half
        bound = np.where(np.isnan(size), 1e-9 * truth, size * some.slack + FLOOR)
        assert (np.abs(found - truth) <= bound).all()


def test_a_few_rows_far_away_do_not_move_the_middle_of_the_curve() -> None:
    x = clouds(160)
    assert np.array_equal(_middle(x), x.mean(axis=0, dtype=np.float64))
    far = with_rows(x, 1e25)
    some = prepare(np.arange(160), far, "euclidean", _middle(far), unit_of(far, _middle(far)))
    found = np.sort(to_distance(_gaps(some, some, cosine=False) / some.scale, "euclidean"), axis=1)[:, 2]
    assert np.allclose(found, np.sort(distances_of(far), axis=1)[:, 2], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["eom", "leaf"])
@pytest.mark.parametrize("factor", [2.0**-140, 2.0**-100, 2.0**85, 2.0**127])
def test_clusters_of_a_tree_do_not_depend_on_its_unit(factor: float, method: Literal["eom", "leaf"]) -> None:
    x = many_equal(clouds(300))
    x[::2] = clouds(150)
    tree = minimum_spanning_tree(np.triu(distances_of(x) + 1.0, 1)).tocoo()
    trees = [single_linkage(tree.row, tree.col, (tree.data - 1.0) * by, 300) for by in (1.0, factor)]
    plain, scaled = (flat_clusters(tree, 5, method=method) for tree in trees)
    assert plain.n_clusters > 1
    for name in ("labels", "strengths", "glosh", "persistence"):
        assert np.array_equal(getattr(plain, name), getattr(scaled, name)), name
    assert np.array_equal(plain.births / factor, scaled.births)
    assert np.array_equal(plain.deaths / factor, scaled.deaths)


def test_stray_groups_at_any_distance() -> None:
    """The score is that of distances over the unit of two ordinary photos, and finite."""
    known = stray_groups._Photos(np.arange(6), np.array([1, 1, 2, 2, 3, 3]), np.linspace(0.5, 3.0, 6))
    distances = np.sort(np.random.default_rng(0).uniform(0, 1, (6, 5)), axis=1)
    others = np.array([[j for j in range(6) if j != i] for i in range(6)])
    plain = stray_groups._score(known, 0.5, np.arange(6), distances, others).column("score").to_numpy()
    for factor in (2.0**-100, 2.0**100):
        found = stray_groups._score(known, 0.5 * factor, np.arange(6), distances * factor, others)
        assert np.array_equal(found.column("score").to_numpy(), plain)
    far = stray_groups._score(known, 1e-38, np.arange(6), distances * 1e38, others).column("score").to_numpy()
    assert np.isfinite(far).all()


# -- what float32 can hold ---------------------------------------------------------------------------


def test_ordinary_rows_are_multiplied_as_they_are() -> None:
    for scale in (1e-11, 1.0, 1e11):
        x = clouds(100) * np.float32(scale)
        assert unit_of(x) == 1.0
        rows = prepare(np.arange(100), x, "euclidean")
        assert rows.x is rows.raw
        assert rows.scale == 1.0
        assert np.isfinite(rows.half).all()
    assert unit_of(np.zeros((5, 2), np.float32)) == 1.0
    assert unit_of(np.zeros((0, 2), np.float32)) == 1.0
    assert unit_of(with_rows(clouds(100), 1e38, 1e30)) == 1.0


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e37])
def test_a_unit_is_a_power_of_two_that_brings_rows_near_1(scale: float) -> None:
    x = clouds(100) * np.float32(scale)
    unit = unit_of(x)
    assert np.frexp(unit)[0] == 0.5
    rows = prepare(np.arange(100), x, "euclidean", unit=unit)
    assert 0.1 < np.median(np.abs(rows.x).max(axis=1)) < 10
    assert np.array_equal(rows.x.astype(np.float64), x.astype(np.float64) * unit)
    assert rows.scale == unit * unit


def test_rows_too_large_for_products_have_no_half() -> None:
    x = np.array([[1e25, 0], [1e19, 0], [2e19, 2e19], [1, 2]], np.float32)
    rows = prepare(np.arange(4), x, "euclidean")
    assert np.isnan(rows.half).tolist() == [True, True, True, False]
    assert rows.x.tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]
    assert np.array_equal(rows.raw, x)
    assert np.isinf(tiles_of(rows).radii[0])
    assert np.isfinite(prepare(np.arange(4), x, "cosine").half).all()


def test_gaps_are_kept_as_float32_where_that_holds_them() -> None:
    for eps, kept in (
        (1e-8, np.float32),
        (1e-10, np.float64),
        (1.0, np.float32),
        (1e19, np.float32),
        (1e20, np.float64),
    ):
        assert gap_type(to_gap(np.array([eps]), "euclidean")) is kept
    assert gap_type(np.array([1.0, 1e-30])) is np.float64


def test_a_short_gap_has_the_digits_of_float32_and_the_range_of_float64() -> None:
    gaps = np.random.default_rng(0).uniform(1e-6, 1e6, 1000)
    assert [as_short(g) for g in gaps.tolist()] == gaps.astype(np.float32).astype(np.float64).tolist()
    assert as_short(1 / 3 * 2.0**-400) == float(np.float32(1 / 3)) * 2.0**-400
    assert as_short(1 / 3 * 2.0**400) == float(np.float32(1 / 3)) * 2.0**400
    assert as_short(0.0) == 0.0
    assert as_short(np.inf) == np.inf


# -- with Spark --------------------------------------------------------------------------------------

#: One of each kind is quick to have; `make test-slow` goes through the others.
SPARK_CASES = [
    "1e30", "two rows",
    *(pytest.param(case, marks=pytest.mark.slow) for case in (
        "1e-30", "one row at 1e25", "tiny among ordinary", "99 % duplicates", "one row", "three rows"
    )),
]  # fmt: skip


@pytest.mark.parametrize("case", SPARK_CASES)
def test_all_of_density_in_one_run(
    blocked: Callable[..., DataFrame], wide: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Both ways of DBSCAN, HDBSCAN, k-distances, nearest rows, outlier scores, and labels of new rows."""
    monkeypatch.setattr(shards_module, "_shard_rows", lambda *_: 90)
    x, eps = CASES[case]
    n, truth, df = len(x), distances_of(x), blocked(x, 1)
    grid = DbscanParameters(eps, (1, 4))
    arranged = arrange(df, "euclidean", 0)
    k = 4
    state = search(arranged, Wanted(eps, 4, k))

    # DBSCAN, both ways.
    found = {}
    for way, labelled in (
        ("pairs", fit_dbscan(arranged, state, eps, grid)),
        ("cells", fit_dbscan_cells(df, grid, metric="euclidean", seed=0, engine=SklearnEngine())),
    ):
        table = labelled.wide().toArrow().sort_by("image_id")
        found[way] = (
            np.array(table.column("clusters").to_pylist(), np.int32),
            np.array(table.column("distances").to_pylist(), float).astype(np.float32),
        )
        check_against_scikit_learn(truth, grid, *found[way])
        labelled.df.unpersist()
    assert np.array_equal(found["pairs"][0], found["cells"][0])

    # HDBSCAN: the tree's weight, and finite strengths and scores.
    models = fit_hdbscan(arranged, state, HdbscanParameters((2, 5), 3))
    core = np.sort(truth, axis=1)[:, min(2, n - 1)]
    reach = np.maximum(truth, np.maximum(core[:, None], core))
    scale = reach.max() or 1.0
    # An edge of weight 0 is none to SciPy, so all are lifted.
    tree = minimum_spanning_tree(np.triu(reach / scale + 1.0, 1)).data - 1.0 if n > 1 else np.zeros(0)
    assert np.allclose(np.sort(models.tree.distance / scale), np.sort(tree), rtol=1e-6, atol=1e-12)
    zero = np.triu(reach == 0, 1)
    if zero.any():
        assert (models.tree.distance == 0).any()
    for flat in models.flat:
        for numbers in (flat.strengths, flat.glosh):
            assert np.isfinite(numbers).all()
            assert ((numbers >= 0) & (numbers <= 1)).all()
        assert not np.isnan(flat.births).any()
        assert not np.isnan(flat.deaths).any()
        assert not np.isnan(flat.persistence).any()

    # k-distances.
    curve = k_distances(df, "euclidean", [2], 0)[2]
    wanted = np.sort(np.sort(truth, axis=1)[:, 1]) if n > 1 else np.array([np.inf])
    typical = np.median(np.abs(x))
    assert np.allclose(curve, wanted, rtol=1e-3, atol=2e-3 * typical)
    if n > 1:
        assert np.isfinite(curve_of(curve, 2).distances).all()

    # Outlier scores.
    if n > 1:
        few = min(k, n - 1)
        scores = knn_distance(arranged, state, k).toArrow().sort_by("image_id").column("score").to_numpy()
        assert np.allclose(scores, np.sort(truth, axis=1)[:, few], rtol=1e-6, atol=0)
        factors = local_outlier_factor(arranged, state, k).toArrow().sort_by("image_id").column("score").to_numpy()
        assert np.isfinite(factors).all()
        if n > 10:
            far = LocalOutlierFactor(n_neighbors=few, metric="precomputed").fit(truth)
            own = -far.negative_outlier_factor_
            same = _clear_neighbours(truth, few)
            assert np.allclose(factors[same], own[same], rtol=1e-6)

    # Labels of new rows: the study's own get theirs again.
    vectors = wide(1, vector=x)
    labels, away = found["pairs"]
    known = df.sparkSession.createDataFrame(
        [(i, int(labels[i, 1]), float(away[i, 1])) for i in range(n)], "image_id BIGINT, cluster INT, distance DOUBLE"
    ).replace(float("nan"), None)
    if (labels[:, 1] >= 0).any():
        again = by_core_rows(df, vectors, known, eps[0], "euclidean").toArrow().sort_by("image_id")
        assert again.column("cluster").to_pylist() == labels[:, 1].tolist()
        again_away = np.array(again.column("distance").to_pylist(), float)
        assert np.allclose(again_away, away[:, 1], rtol=1e-6, atol=0, equal_nan=True)
    flat = models.flat[0]
    strengths = df.sparkSession.createDataFrame(
        [(i, int(flat.labels[i]), float(flat.strengths[i])) for i in range(n)],
        "image_id BIGINT, cluster INT, strength FLOAT",
    )
    joined = (
        by_reachability(df, vectors, strengths, flat.births, flat.deaths, min_samples=3, metric="euclidean")
        .toArrow()
        .sort_by("image_id")
    )
    assert joined.column("cluster").to_pylist() == flat.labels.tolist()
    assert np.allclose(joined.column("strength").to_numpy(), flat.strengths, rtol=1e-5)
    near = nearest_rows(arranged, df, 1, seed=0).toArrow()
    assert [g[0] for g in near.column("gaps").to_pylist()] == [0.0] * n
    state.unpersist()
    arranged.release()


def _clear_neighbours(truth: np.ndarray, k: int) -> np.ndarray:
    """Rows among whose neighbours and theirs no two are equally far, so that there is one neighbourhood alone."""
    by_distance = np.sort(truth, axis=1)
    clear = by_distance[:, k] < by_distance[:, k + 1]
    neighbours = np.argsort(truth, axis=1)[:, 1 : k + 1]
    first = clear & clear[neighbours].all(axis=1)
    return first & first[neighbours].all(axis=1)
