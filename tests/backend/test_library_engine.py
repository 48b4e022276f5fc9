"""DBSCAN by a library's own class in pandas UDFs, merged over cells: equal to the exact ways, ties at eps included."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import make_blobs, make_circles, make_moons

from cuml_stand_in import Cluster
from motorpool.backend import device as devices
from motorpool.backend.library import CumlDbscan, Library, LibraryEngine, SklearnDbscan, library_engine
from motorpool.cluster.density import cells
from motorpool.cluster.density.cells import fit_dbscan_cells, fit_dbscan_library
from motorpool.cluster.density.dbscan import DbscanParameters
from motorpool.cluster.labelled import Labelled
from motorpool.errors import MotorpoolError
from motorpool.kernels.cells.engines import SklearnEngine
from motorpool.kernels.pairs.geometry import Metric, exact_gap, to_gap
from strict_arrays import StrictDevice

Blocked = Callable[..., DataFrame]
EXACT = SklearnEngine()
ENGINE = library_engine("sklearn", EXACT)


class Rounding:
    """A library as careless as is allowed: squared distances off by as much as float32 products may be, each way."""

    name: Library = "sklearn"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, radius: float, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
        rows = x.astype(np.float64)
        half = 0.5 * np.square(rows).sum(axis=1)
        squared = 2.0 * (half[:, None] + half - rows @ rows.T)
        off = np.random.default_rng(self.seed).choice([-1.0, 1.0], squared.shape)
        off = np.triu(off, 1) + np.triu(off, 1).T
        squared = np.maximum(squared + off * 2.0 * (x.shape[1] + 2) * 2.0**-24 * (half[:, None] + half), 0.0)
        near = squared <= np.float64(np.float32(radius)) ** 2
        np.fill_diagonal(near, True)
        core = near.sum(axis=1) >= min_samples
        labels = np.full(len(x), -1, np.int64)
        labels[core] = connected_components(near[np.ix_(core, core)], directed=False)[1]
        for row in np.flatnonzero(~core):
            met = np.flatnonzero(near[row] & core)
            labels[row] = labels[met[0]] if len(met) else -1
        return labels, core


def blobs(n: int, d: int = 4) -> np.ndarray:
    x, _ = make_blobs(n, d, centers=6, cluster_std=[0.3, 0.5, 0.6, 0.8, 1.0, 0.4], random_state=3)
    x[: n // 10] = np.random.default_rng(0).uniform(-12, 12, (n // 10, d))
    return x.astype(np.float32)


def shapes() -> np.ndarray:
    moons, _ = make_moons(500, noise=0.05, random_state=0)
    circles, _ = make_circles(400, noise=0.03, factor=0.4, random_state=0)
    return np.concatenate([moons, circles + 4]).astype(np.float32)


def lattice(n: int, d: int = 3, below: int = 9) -> np.ndarray:
    return np.random.default_rng(1).integers(0, below, (n, d)).astype(np.float32)


def skewed() -> np.ndarray:
    """Nearly all rows in one dense place, so that one cell has most of them."""
    rng = np.random.default_rng(2)
    return np.concatenate([rng.normal(0, 0.05, (700, 3)), rng.uniform(-30, 30, (120, 3))]).astype(np.float32)


def huge() -> np.ndarray:
    """Rows that float32 products cannot hold among ordinary ones."""
    x = blobs(200)
    x[::40] *= np.float32(1e30)
    x[1::40] = x[::40]
    return x


# -- the engine --------------------------------------------------------------------------------------


CONTRACT: list[tuple[Metric, np.ndarray, float]] = [
    ("euclidean", blobs(220), 1.3),
    ("euclidean", blobs(220) + np.float32(5000), 1.3),
    ("euclidean", blobs(220, 24), 6.0),
    ("euclidean", lattice(220), 2.0),
    ("euclidean", lattice(220), float(np.sqrt(3.0))),
    ("euclidean", lattice(220, 18, 3), 3.0),
    ("euclidean", np.repeat(blobs(11), 20, axis=0), 1e-12),
    ("euclidean", huge(), 1.3),
    ("euclidean", blobs(220) * np.float32(1e-25), 1.3e-25),
    ("cosine", blobs(220), 0.02),
    ("cosine", blobs(220) + np.float32(5000), 1e-8),
    ("cosine", lattice(220), float(1 - 1 / np.sqrt(2.0))),
    # Rows without a direction are at 1 from all others, and from each other.
    ("cosine", lattice(220, 2, 3), 1.0),
    ("cosine", lattice(220, 2, 3), 0.99),
]


@pytest.mark.parametrize("dbscan", [SklearnDbscan(), Rounding(), Rounding(1)], ids=["sklearn", "rounding", "other"])
@pytest.mark.parametrize(("metric", "x", "eps"), CONTRACT)
def test_what_the_library_rounds_is_decided_in_float64(dbscan: Any, metric: Metric, x: np.ndarray, eps: float) -> None:
    engine = LibraryEngine(dbscan, EXACT)
    near = np.array([[exact_gap(a, b, metric == "cosine") for b in x] for a in x]) <= to_gap(eps, metric)
    np.fill_diagonal(near, True)
    own, least = 150, (1, 2, 3, 9, 30, 1000)
    counts = near.sum(axis=1)
    assert np.array_equal(engine.core(x, own, metric, eps, least).rows, counts[:own, None] >= np.array(least))

    core = np.stack([counts >= 3, np.arange(len(x)) % 3 == 0, np.zeros(len(x), bool)], axis=1)
    found = engine.components(x, metric, eps, core).rows
    truth = EXACT.components(x, metric, eps, core).rows
    assert found.dtype == np.int32
    for column in range(core.shape[1]):
        assert np.array_equal(found[:, column] < 0, truth[:, column] < 0)
        both = set(zip(found[:, column].tolist(), truth[:, column].tolist(), strict=True))
        assert len(both) == len({a for a, _ in both}) == len({b for _, b in both})
        assert set(found[core[:, column], column]) == set(range(found[:, column].max() + 1))


def test_rows_are_open_where_distances_lie_at_eps_and_nowhere_else() -> None:
    x = lattice(220, below=6)
    ties = ENGINE.core(x, 220, "euclidean", 2.0, (1, 9, 1000)).opened
    assert ties[0] == 0
    assert ties[1] > 5
    assert ties[2] == 0
    # No distance of the lattice lies near this one.
    assert ENGINE.core(x, 220, "euclidean", 2.1, (3, 9)).opened.tolist() == [0, 0]
    every = np.ones((220, 1), bool)
    assert ENGINE.components(x, "euclidean", 2.1, every).opened.tolist() == [0]
    assert ENGINE.components(x, "euclidean", 1.0, every).opened[0] > 20


def test_a_pair_at_eps_joins_two_large_components_at_the_cost_of_one_row() -> None:
    # Two chains, one step of exactly eps apart; only the shorter one is looked at.
    x = np.concatenate([np.arange(60) * 0.5, 29.5 + 1.0 + np.arange(40) * 0.5])[:, None].astype(np.float32)
    found = ENGINE.components(x, "euclidean", 1.0, np.ones((100, 1), bool))
    assert set(found.rows[:, 0]) == {0}
    assert found.opened.tolist() == [40]
    apart = x.copy()
    apart[60:] = np.nextafter(apart[60:], np.float32(100))
    found = ENGINE.components(apart, "euclidean", 1.0, np.ones((100, 1), bool))
    assert found.rows[:, 0].tolist() == [0] * 60 + [1] * 40


def test_the_engine_takes_no_rows() -> None:
    none, some = np.empty((0, 3), np.float32), blobs(4, 3)
    assert ENGINE.core(some, 0, "euclidean", 1.0, (1, 2)).rows.shape == (0, 2)
    assert ENGINE.core(some[:1], 1, "cosine", 0.1, (1, 2)).rows.tolist() == [[True, False]]
    assert ENGINE.components(none, "euclidean", 1.0, np.empty((0, 2), bool)).rows.shape == (0, 2)
    assert ENGINE.nearest(some, none, "cosine", 1.0)[0].tolist() == [-1] * 4


# -- cuML --------------------------------------------------------------------------------------------


@pytest.fixture
def cuml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A stand-in with as much memory for batches as is asked for, in MiB."""
    cluster = Cluster(getattr(request, "param", 2**20))
    monkeypatch.setitem(sys.modules, "cuml", ModuleType("cuml"))
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)  # type: ignore[arg-type]
    monkeypatch.setitem(devices.DEVICES, "cupy", StrictDevice)
    return cluster


def test_cumls_dbscan_is_called_as_it_wants(cuml: Cluster) -> None:
    for metric, x, eps in CONTRACT:
        engine = library_engine("cuml", EXACT)
        exact = EXACT.core(x, 150, metric, eps, (2, 9)).rows
        assert np.array_equal(engine.core(x, 150, metric, eps, (2, 9)).rows, exact)
        every = np.ones((len(x), 1), bool)
        found, truth = (one.components(x, metric, eps, every).rows[:, 0] for one in (engine, EXACT))
        assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist()))
    # A quarter of the device's 1 GiB.
    assert set(cuml.asked) == {256}


@pytest.mark.parametrize("cuml", [100], indirect=True)
def test_a_device_without_memory_is_asked_for_less(cuml: Cluster) -> None:
    x = blobs(50)
    assert np.array_equal(CumlDbscan().fit(x, 1.5, 3)[1], SklearnDbscan().fit(x, 1.5, 3)[1])
    assert cuml.asked == [256, 128, 64]


@pytest.mark.parametrize("cuml", [10], indirect=True)
def test_a_device_that_has_no_memory_at_all_is_an_error(cuml: Cluster) -> None:
    with pytest.raises(MotorpoolError, match=r"no memory for DBSCAN of 50 rows of 4 columns: let fewer tasks"):
        CumlDbscan().fit(blobs(50), 1.5, 3)
    assert cuml.asked == [256, 128, 64, 32, 16]


@pytest.mark.gpu
def test_cuml_on_a_gpu_is_exact() -> None:
    for metric, x, eps in CONTRACT:
        engine = library_engine("cuml", EXACT)
        found = engine.core(x, 150, metric, eps, (2, 9))
        assert np.array_equal(found.rows, EXACT.core(x, 150, metric, eps, (2, 9)).rows)
        every = np.ones((len(x), 1), bool)
        mine, truth = (one.components(x, metric, eps, every).rows[:, 0] for one in (engine, EXACT))
        assert len(set(zip(mine.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist()))


# -- cells, in pandas UDFs ---------------------------------------------------------------------------


def rows_of(labelled: Labelled) -> list[np.ndarray]:
    found = [b for batch in labelled.df.toArrow().to_batches() for b in labelled.blocks_of(batch)]
    ids = np.concatenate([b.ids for b in found])
    order = np.argsort(ids)
    assert np.array_equal(ids[order], np.arange(len(ids)))
    columns = ([b.x for b in found], [b.labels for b in found], [b.facts[0] for b in found])
    labelled.df.unpersist()
    return [np.concatenate(column)[order] for column in columns]


def check(
    df: DataFrame, grid: DbscanParameters, n_cells: int, metric: Metric = "euclidean", engine: Any = ENGINE
) -> np.ndarray:
    """The exact engine's rows, labels and distances again; how many rows float64 decided."""
    exact = fit_dbscan_cells(df, grid, metric=metric, seed=0, engine=EXACT, n_cells=n_cells)
    found, opened = fit_dbscan_library(df, grid, metric=metric, seed=0, engine=engine, n_cells=n_cells)
    assert found.sizes == exact.sizes
    for mine, theirs in zip(rows_of(found), rows_of(exact), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)
    assert opened.shape == (grid.n_models,)
    return opened


@pytest.mark.parametrize("n_cells", [2, 9])
@pytest.mark.parametrize(
    ("x", "eps", "metric"),
    [
        (blobs(900), (1e-4, 0.4, 0.8, 1.5, 100.0), "euclidean"),
        (shapes(), (0.05, 0.12, 0.3), "euclidean"),
        (shapes(), (0.0005, 0.02), "cosine"),
        (lattice(600), (0.5, 1.0, float(np.sqrt(2)), float(np.sqrt(3)), 2.0), "euclidean"),
        (skewed(), (0.02, 0.1, 5.0), "euclidean"),
        (np.repeat(blobs(25), 14, axis=0), (1e-3, 1.0), "euclidean"),
        (lattice(300, 3, 4) - np.float32(1), (0.05, float(1 - 1 / np.sqrt(2.0)), 1.0), "cosine"),
    ],
    ids=["blobs", "shapes", "shapes-cosine", "ties", "skewed", "duplicates", "no-direction"],
)
def test_labels_are_the_exact_ones(
    in_process: Blocked, x: np.ndarray, eps: tuple[float, ...], metric: Metric, n_cells: int
) -> None:
    check(in_process(x, 3), DbscanParameters(eps, (1, 2, 6, 40)), n_cells, metric)


def test_labels_are_the_exact_ones_whatever_the_library_rounds(in_process: Blocked) -> None:
    grid = DbscanParameters((1.0, 2.0), (3, 9))
    opened = check(in_process(lattice(500), 3), grid, 5, engine=LibraryEngine(Rounding(), EXACT))
    assert (opened[:2] > 0).all()


@pytest.mark.parametrize(("n", "least"), [(1, (1, 2)), (2, (2, 3)), (6, (1, 7))])
def test_very_few_rows_and_more_neighbours_than_rows(in_process: Blocked, n: int, least: tuple[int, ...]) -> None:
    check(in_process(blobs(n), 1), DbscanParameters((1e-3, 9.0, 1e3), least), n)


def test_on_spark_a_cell_is_a_group(on_spark: Blocked) -> None:
    x = np.concatenate([blobs(600), lattice(200, 4) * np.float32(0.5)])
    opened = check(on_spark(x), DbscanParameters((0.5, 1.0), (2, 6)), 7)
    assert opened.sum() > 0


def test_a_group_that_arrow_cannot_carry_is_refused(in_process: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "GROUP_BYTES", 300 * 16)
    with pytest.raises(MotorpoolError, match=r"eps = 50 one cell and its halo hold 600 .* takes at most 300"):
        fit_dbscan_library(
            in_process(blobs(600)), DbscanParameters((50.0,), (4,)), metric="euclidean", seed=0, engine=ENGINE
        )
