"""Typical rows: one of each group, the largest first, none that stands for what is known."""

from __future__ import annotations

import numpy as np

from motorpool.kernels.labels.typical import typical_rows

#: Five groups of 200, 100, 50, 20 and 10 rows.
GROUP = np.repeat(np.arange(5), [200, 100, 50, 20, 10])


def groups() -> np.ndarray:
    rng = np.random.default_rng(5)
    return (np.eye(5, 6)[GROUP] * 40 + rng.normal(size=(len(GROUP), 6))).astype(np.float32)


def test_one_row_of_every_group_near_its_centre_and_the_largest_group_first() -> None:
    x = groups()
    rows, stands_for = typical_rows(x, 5, seed=1)
    assert GROUP[rows].tolist() == [0, 1, 2, 3, 4]
    assert stands_for.tolist() == [200, 100, 50, 20, 10]
    for group, row in enumerate(rows):
        members = np.flatnonzero(group == GROUP)
        gaps = np.linalg.norm(x[members] - x[members].mean(axis=0), axis=1)
        assert row == members[gaps.argmin()]


def test_groups_that_were_looked_at_come_last() -> None:
    x = groups()
    rows, _ = typical_rows(x, 2, seed=1, known=x[[0, 210, 330]])
    assert GROUP[rows].tolist() == [3, 4]


def test_the_same_seed_draws_the_same_rows_and_none_twice() -> None:
    x = groups()
    rows, _ = typical_rows(x, 60, seed=4)
    assert rows.tolist() == typical_rows(x, 60, seed=4)[0].tolist()
    assert rows.tolist() != typical_rows(x, 60, seed=5)[0].tolist()
    assert len(set(rows.tolist())) == 60


def test_equal_rows_and_few_rows() -> None:
    same = np.zeros((30, 3), np.float32)
    assert len(set(typical_rows(same, 7, seed=1)[0].tolist())) == 7
    assert typical_rows(same[:4], 7, seed=1)[0].tolist() == [0, 1, 2, 3]
    assert typical_rows(same[:0], 7, seed=1)[0].tolist() == []
