"""Places within runs of equal keys, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from motorpool.kernels.runs import place_in_run


@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("n_keys", [1, 2])
def test_places_count_within_each_run(n: int, n_keys: int) -> None:
    rng = np.random.default_rng(n)
    keys = [rng.integers(0, 3, n) for _ in range(n_keys)]
    expected, place = [], 0
    for i, row in enumerate(zip(*keys, strict=True)):
        same = i > 0 and row == tuple(key[i - 1] for key in keys)
        place = place + 1 if same else 0
        expected.append(place)
    found = place_in_run(*keys)
    assert found.dtype == np.int64
    assert found.tolist() == expected
