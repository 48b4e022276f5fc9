"""Grids as wide as a config allows: every narrowed integer and every fixed number of bits at its bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.spatial.distance import cdist
from sklearn.preprocessing import StandardScaler

from all_pairs import by_cells, by_pairs, check_against_scikit_learn, searched, two_shards
from motorpool.backend.protocol import CPU, ArrayBackend
from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.kernels.cells.engines import SklearnEngine
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.kernels.trees import components
from motorpool.kernels.trees.components import (
    LINK_DTYPE,
    MAX_MODELS,
    MAX_PLACES,
    MAX_ROOTS,
    PART_DTYPE,
    number,
    parts_of,
)
from motorpool.neighbours.search import COUNTS, search, shard_bit
from motorpool.neighbours.shards import arrange


def spread_out(n: int) -> np.ndarray:
    """Two clouds, and a fifth of the rows anywhere: neighbours by the ten and by the hundred."""
    rng = np.random.default_rng(0)
    m = 2 * n // 5
    parts = [rng.normal(0, 0.3, (m, 4)), rng.normal(5, 0.3, (m, 4)), rng.uniform(-3, 8, (n - 2 * m, 4))]
    return np.concatenate(parts).astype(np.float32)


def grid_of(n_eps: int, n_least: int) -> DbscanParameters:
    # A cloud has 256 rows: larger min_samples need neighbours from elsewhere too.
    one = 0.9 if n_least < 200 else 1.2 if n_least < 300 else 10.0
    eps = np.geomspace(0.2, 9.0, n_eps) if n_eps > 1 else np.array([one])
    return DbscanParameters(tuple(eps.tolist()), tuple(range(1, n_least + 1)) if n_least > 1 else (5,))


WIDTHS = [(1, 1), (127, 1), (128, 1), (255, 1), (256, 1), (512, 1), (1, 127), (1, 128), (1, 255), (1, 256), (1, 512)]


@pytest.mark.parametrize(("n_eps", "n_least"), [*WIDTHS, (16, 32)])
def test_all_models_of_a_grid_are_scikit_learns(n_eps: int, n_least: int) -> None:
    x, grid = spread_out(640), grid_of(n_eps, n_least)
    truth = cdist(x.astype(np.float64), x.astype(np.float64))
    labels, distances = by_pairs(x, grid)
    check_against_scikit_learn(truth, grid, labels, distances)
    if grid.n_models > 1:
        # The last model has core rows, and models differ.
        core = distances == 0
        assert core[:, -1].any()
        assert len({core[:, model].tobytes() for model in range(grid.n_models)}) > min(grid.n_models // 3, 50)


@pytest.mark.parametrize(("n_eps", "n_least"), [(128, 1), (1, 256), (512, 1), (1, 512)])
def test_cells_give_the_same_for_wide_grids(n_eps: int, n_least: int) -> None:
    x, grid = spread_out(200), grid_of(n_eps, n_least)
    found = by_cells(x, grid, np.array([[0.0] * 4, [5.0] * 4, [2.5] * 4]), SklearnEngine())
    for mine, theirs in zip(found, by_pairs(x, grid), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("enough", [1, 127, 128, 255, 256, 32_768, 65_536, 100_000])
@pytest.mark.parametrize("backend", [CPU, ArrayBackend("numpy")], ids=["cpu", "array"])
def test_neighbours_are_counted_up_to_what_is_asked_for(backend: CPU, enough: int) -> None:  # type: ignore[valid-type]
    """min_samples goes up to 100,000; rows beyond 65,536 would overflow sixteen bits."""
    x = np.zeros((900, 1), np.float32)
    shards = searched(two_shards(x, "euclidean"), Wanted((1.0,), enough), "euclidean", backend)
    counts = np.concatenate([s.state[COUNTS][:, 0] for s in shards])
    assert (counts >= min(enough, 900)).all()
    assert (counts <= 900).all()


@pytest.mark.slow
def test_more_equal_rows_than_any_narrow_integer_holds() -> None:
    """Copies in one place, and min_samples on both sides of their number."""
    x = np.zeros((33_000, 1), np.float32)
    x[-1] = 3.0
    labels, _ = by_pairs(x, DbscanParameters((1.0, 4.0), (32_768, 32_999, 33_000, 100_000)))
    first, last = labels[0].tolist(), labels[-1].tolist()
    assert first == [0, 0, -1, -1, 0, 0, 0, -1]
    assert last == [-1, -1, -1, -1, 0, 0, 0, -1]
    assert (labels[:-1] == labels[0]).all()


def test_codes_of_components_hold_the_largest_numbers() -> None:
    ids = np.array([5, 6])
    for model in (0, 127, 128, 255, 256, 511, 512, MAX_MODELS):
        parts = np.array([(model, MAX_PLACES, MAX_ROOTS, 5), (model, 0, 0, 6)], PART_DTYPE)
        assert parts["model"].tolist() == [model] * 2
        links = np.array([(model, 0, 0, MAX_PLACES, MAX_ROOTS)], LINK_DTYPE)
        numbers = number(parts, links)
        assert numbers.sizes(model + 1).tolist() == [0] * model + [1]
        assert numbers.of(model, MAX_PLACES, np.array([MAX_ROOTS])).tolist() == [0]
    assert components.code_of(MAX_MODELS, MAX_PLACES, np.array([MAX_ROOTS]))[0] == np.iinfo(np.int64).max
    parts_of(MAX_PLACES, ids, np.array([[MAX_ROOTS], [-1]], np.int32))
    with pytest.raises(ValueError, match="place 16,777,216"):
        parts_of(MAX_PLACES + 1, ids, np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match="root 16,777,216"):
        parts_of(0, ids, np.full((2, 1), MAX_ROOTS + 1, np.int32))


@pytest.mark.parametrize("links", [1, 127, 128, 255, 256, 257, 512, 65_536])
def test_components_that_many_tasks_have_linked_are_one(links: int) -> None:
    parts = np.array([(0, 0, 0, 7), (0, 1, 0, 3)], PART_DTYPE)
    numbers = number(parts, np.repeat(np.array([(0, 0, 0, 1, 0)], LINK_DTYPE), links))
    assert numbers.sizes(1).tolist() == [1]


def test_a_grid_that_cannot_be_numbered_is_refused() -> None:
    DbscanParameters((1.0,), tuple(range(1, MAX_MODELS + 1)))
    with pytest.raises(
        ValueError, match="a grid of 2 eps and 16,384 min_samples has 32,768 models, and at most 32,767"
    ):
        DbscanParameters((1.0, 2.0), tuple(range(1, 16_385)))


def test_every_shard_has_a_bit_of_its_own_up_to_64() -> None:
    bits = [int(shard_bit(s)) for s in range(130)]
    assert len(set(bits[:64])) == 64
    assert max(bits) == 2**63
    assert bits[64:128] == bits[:64]


def test_two_hundred_models_in_one_run(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    from motorpool.neighbours import shards

    monkeypatch.setattr(shards, "_shard_rows", lambda *_: 250)
    x = StandardScaler().fit_transform(spread_out(600)).astype(np.float32)
    grid = DbscanParameters((0.25,), tuple(range(2, 202)))
    arranged = arrange(blocked(x), "euclidean", 0)
    labelled = fit_dbscan(arranged, search(arranged, Wanted(grid.eps, 201)), grid.eps, grid)
    table = labelled.wide().toArrow().sort_by("image_id")
    labels, distances = (
        np.array(table.column(c).to_pylist(), float).astype(t)
        for c, t in (("clusters", np.int32), ("distances", np.float32))
    )
    check_against_scikit_learn(cdist(x.astype(np.float64), x.astype(np.float64)), grid, labels, distances)
    assert len({labels[:, m].tobytes() for m in range(200)}) > 40
    arranged.release()
    labelled.df.unpersist()
