"""Moments against NumPy in float64, alone, merged, and through blocks and folds on Spark."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame

from motorpool.kernels.moments import Moments
from motorpool.spark import blocks

OFFSETS = (0.0, 1e4, 1e6)


def made(n: int, d: int, offset: float, seed: int = 0) -> np.ndarray:
    """Correlated float32[n, d] with spreads from 1 to 0.01, far from the origin."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.geomspace(1, 0.01, d)[:, None]
    return (rng.normal(size=(n, d)) @ mix + offset * rng.uniform(0.5, 1.5, d)).astype(np.float32)


def filled(*parts: np.ndarray) -> Moments:
    state = Moments()
    for part in parts:
        state.update(part)
    return state


def check(state: Moments, x: np.ndarray) -> None:
    """The state against float64 NumPy; errors count in standard deviations, not in units of the offset."""
    exact = x.astype(np.float64)
    stats = state.stats()
    cov = np.atleast_2d(np.cov(exact, rowvar=False)) if len(x) > 1 else np.zeros((x.shape[1],) * 2)
    spread = np.sqrt(np.diag(cov))
    assert stats.n == len(x)
    assert np.all(np.abs(stats.mean - exact.mean(axis=0)) <= 1e-6 * spread + 1e-15 * np.abs(exact).max())
    assert np.all(np.abs(stats.cov - cov) <= 2e-6 * np.outer(spread, spread))
    assert stats.min is not None
    assert stats.max is not None
    assert np.array_equal(stats.min, x.min(axis=0))
    assert np.array_equal(stats.max, x.max(axis=0))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("cuts", [[], [1], [250], [499], [0, 3, 3, 50, 51], list(range(1, 500, 7))], ids=str)
def test_any_split_of_the_rows_gives_the_same_moments(offset: float, cuts: list[int]) -> None:
    x = made(500, 12, offset)
    check(filled(*np.split(x, cuts)), x)


@pytest.mark.parametrize("offset", OFFSETS)
def test_merging_in_any_order(offset: float) -> None:
    x = made(400, 8, offset, seed=1)
    parts = np.split(x, [5, 6, 200, 390])
    rng = np.random.default_rng(2)
    for _ in range(5):
        states = [filled(parts[i]) for i in rng.permutation(len(parts))]
        # Merge two neighbours at a time until one is left: a tree, as on a cluster.
        while len(states) > 1:
            at = int(rng.integers(len(states) - 1))
            states[at].merge(states.pop(at + 1))
        check(states[0], x)


def test_far_apart_parts_keep_their_digits() -> None:
    x = np.concatenate([made(300, 6, 0.0), made(300, 6, 1e5, seed=3)])
    check(filled(x[:300], x[300:]), x)


def test_empty_states_and_empty_blocks_change_nothing() -> None:
    x = made(50, 4, 10.0)
    state = filled(x[:0], x, x[:0])
    state.merge(Moments())
    other = Moments()
    other.merge(state)
    check(other, x)
    assert Moments().n == 0


def test_merging_leaves_the_other_state_alone() -> None:
    x = made(90, 4, 10.0)
    total, first, second = Moments(), filled(x[:40]), filled(x[40:])
    before = copy.deepcopy(first)
    total.merge(first)
    total.merge(second)
    assert np.array_equal(first.scatter, before.scatter)
    check(total, x)


@pytest.mark.parametrize("offset", OFFSETS)
def test_one_row(offset: float) -> None:
    check(filled(made(1, 5, offset)), made(1, 5, offset))


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678, -1e6])
def test_constant_columns_have_no_variance_at_all(value: float) -> None:
    x = made(300, 5, 0.0)
    x[:, [1, 3]] = value
    stats = filled(*np.split(x, [7, 120])).stats()
    assert stats.min is not None
    assert stats.max is not None
    assert np.array_equal(stats.min[[1, 3]], stats.max[[1, 3]])
    assert np.all(stats.cov[[1, 3]] == 0)
    assert np.array_equal(stats.mean[[1, 3]], np.full(2, np.float32(value), np.float64))


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors of 3 numbers beside vectors of 4"):
        filled(made(9, 4, 0.0), made(9, 3, 0.0))


def test_scaled_projected_and_selected_statistics_follow_without_a_look_at_the_rows() -> None:
    x = made(200, 6, 3.0).astype(np.float64)
    rng = np.random.default_rng(5)
    scale, offset, centre = rng.uniform(0.5, 2, 6), rng.normal(size=6), rng.normal(size=6)
    components = rng.normal(size=(6, 3))
    columns = np.array([4, 0, 5])
    stats = filled(x.astype(np.float32)).stats()
    scaled = stats.scaled(scale, offset)
    y = x * scale + offset
    assert scaled.min is not None
    assert scaled.max is not None
    assert np.allclose(scaled.mean, y.mean(axis=0), atol=1e-5)
    assert np.allclose(scaled.cov, np.cov(y, rowvar=False), atol=1e-5)
    assert np.allclose([scaled.min, scaled.max], [y.min(axis=0), y.max(axis=0)], atol=1e-5)
    projected = stats.projected(centre, components)
    y = (x - centre) @ components
    assert np.allclose(projected.mean, y.mean(axis=0), atol=1e-5)
    assert np.allclose(projected.cov, np.cov(y, rowvar=False), atol=1e-5)
    assert projected.min is None
    chosen = stats.select(columns)
    assert np.allclose(chosen.cov, np.cov(x[:, columns], rowvar=False), atol=1e-5)
    assert chosen.min is not None
    assert np.array_equal(chosen.min, x[:, columns].min(axis=0).astype(np.float32))


# -- through Spark -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("partitions", "tasks", "on_cluster"), [(1, None, False), (5, None, True), (5, 50, False)])
def test_folding_a_frame(wide: Callable[..., DataFrame], partitions: int, tasks: int | None, on_cluster: bool) -> None:
    x = made(90, 6, 1e4)

    # Nested, so that it is pickled by value: workers do not have this file.
    def add(state: Moments, batch: pa.RecordBatch) -> None:
        state.update(blocks.to_matrix(batch.column("a")))

    df = wide(partitions, a=x)
    check(blocks.fold(df, Moments, add, tasks=tasks, merge_on_cluster=on_cluster), x)


def test_blocks_hold_every_row_once_and_no_more_than_asked(wide: Callable[..., DataFrame]) -> None:
    x = made(9500, 3, 0.0)
    # Arrow batches have 4,096 rows, so blocks of 1,000 straddle them.
    rows = blocks.gather(wide(1, a=x), "a", rows=1000).collect()
    ids = [np.frombuffer(r["ids"], np.int64) for r in rows]
    data = [np.frombuffer(r["data"], np.float32).reshape(-1, r["width"]) for r in rows]
    assert [len(i) for i in ids] == [1000] * 9 + [500]
    order = np.concatenate(ids)
    assert np.array_equal(np.sort(order), np.arange(len(x)))
    assert np.array_equal(np.concatenate(data), x[order])


def test_vectors_of_different_lengths_or_null_are_refused() -> None:
    for rows in ([[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0, 4.0]], [[1.0], None], [[1.0, None], [2.0, 3.0]]):
        with pytest.raises(ValueError, match="differ in length, are null or hold nulls"):
            blocks.to_matrix(pa.array(rows, pa.list_(pa.float32())))


def test_a_slice_of_an_arrow_column_is_read_from_its_own_start() -> None:
    x = made(10, 3, 0.0)
    assert np.array_equal(blocks.to_matrix(blocks.to_list_array(x)[4:9]), x[4:9])
    assert blocks.to_matrix(blocks.to_list_array(x)[4:4]).shape == (0, 0)
