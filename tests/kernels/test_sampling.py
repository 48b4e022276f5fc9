"""Hashes that look uniform, and samples that depend on the rows' ids alone."""

from __future__ import annotations

import numpy as np
import pytest

from motorpool.kernels.sampling import RowSample, uniform_hash


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1])
@pytest.mark.parametrize("first", [0, 10**12, -500])
def test_hashes_are_uniform(seed: int, first: int) -> None:
    u = uniform_hash(np.arange(first, first + 20_000), seed)
    assert u.dtype == np.float64
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, 50, (0, 1))[0]
    # Chi-squared with 49 degrees of freedom is below 100 but for one time in 40,000.
    assert (np.square(counts - 400) / 400).sum() < 100
    neighbours = np.corrcoef(u[:-1], u[1:])[0, 1]
    assert abs(neighbours) < 0.03


def test_hashes_depend_on_id_and_seed_alone() -> None:
    ids = np.arange(5000)
    u = uniform_hash(ids, 7)
    assert np.array_equal(uniform_hash(ids[::-1], 7), u[::-1])
    assert len(np.unique(u)) == len(ids)
    for other in (6, 8, 42):
        assert abs(np.corrcoef(u, uniform_hash(ids, other))[0, 1]) < 0.05


def drawn(size: int, seed: int, parts: list[np.ndarray]) -> np.ndarray:
    """Ids of the sample whose states saw one part each and were merged in order; rows hold their id twice."""
    total = RowSample(size, seed)
    for ids in parts:
        state = RowSample(size, seed)
        for piece in np.array_split(ids, 3):
            state.update(piece, np.repeat(piece[:, None], 2, axis=1).astype(np.float32))
        total.merge(state)
    rows = total.rows()
    assert np.array_equal(rows[:, 0], rows[:, 1])
    return rows[:, 0].astype(int)


@pytest.mark.parametrize("size", [1, 10, 300, 1999])
def test_samples_are_those_with_the_smallest_hashes_however_the_rows_are_split(size: int) -> None:
    ids = np.arange(2000)
    expected = ids[np.argsort(uniform_hash(ids, 3))][:size]
    rng = np.random.default_rng(0)
    for cuts in ([], [1], [1000], [0, 0, 500, 501, 1990], range(10, 2000, 10)):
        shuffled = rng.permutation(ids)
        assert np.array_equal(drawn(size, 3, np.split(shuffled, list(cuts))), expected)


@pytest.mark.parametrize("size", [50, 51, 1000])
def test_all_rows_when_there_are_no_more_than_asked_for(size: int) -> None:
    assert sorted(drawn(size, 1, np.array_split(np.arange(50), 4))) == list(range(50))


def test_every_row_is_drawn_equally_often() -> None:
    ids, size, seeds = np.arange(100), 20, 1000
    times = np.zeros(len(ids))
    for seed in range(seeds):
        times[drawn(size, seed, [ids])] += 1
    assert times.sum() == size * seeds
    # Binomial(1000, 0.2): mean 200, standard deviation 12.6.
    assert np.all(np.abs(times - 200) < 5 * 12.7)


def test_memory_stays_within_two_samples() -> None:
    state = RowSample(100, 0)
    for first in range(0, 20_000, 50):
        ids = np.arange(first, first + 50)
        state.update(ids, np.zeros((50, 2), np.float32))
        assert sum(map(len, state._rows)) <= 200
    assert state.rows().shape == (100, 2)


def test_no_rows_at_all() -> None:
    assert RowSample(5, 0).rows().shape == (0, 0)
    state = RowSample(5, 0)
    state.update(np.empty(0, np.int64), np.empty((0, 3), np.float32))
    assert state.rows().shape == (0, 3)
    assert [len(part) for part in RowSample(5, 0).by_id()] == [0, 0]


@pytest.mark.parametrize(("values", "kept"), [(None, 40), (100, 33), (3, 1), (2, 1)])
def test_of_wide_rows_it_takes_fewer_whatever_state_meets_them_first(values: int | None, kept: int) -> None:
    ids = np.random.default_rng(1).permutation(500)
    rows = np.repeat(ids[:, None], 3, axis=1).astype(np.float32)
    total = RowSample(40, 7, values)
    for part in np.array_split(np.arange(500), 4):
        state = RowSample(40, 7, values)
        state.update(ids[part], rows[part])
        total.merge(state)
    smallest = np.argsort(uniform_hash(np.arange(500), 7))[:kept]
    assert np.array_equal(total.rows()[:, 0], smallest)
    found, x = total.by_id()
    assert np.array_equal(found, np.sort(smallest))
    assert np.array_equal(x, np.repeat(found[:, None], 3, axis=1))
