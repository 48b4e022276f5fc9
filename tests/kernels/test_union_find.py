"""Union-find against scipy's connected components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from motorpool.kernels.trees import union_find


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("n", "n_pairs"), [(1, 0), (2, 1), (300, 150), (300, 900)])
def test_sets_are_the_connected_components_and_go_by_their_lowest_number(
    dtype: type[np.integer], n: int, n_pairs: int
) -> None:
    left, right = np.random.default_rng(n_pairs).integers(n, size=(2, n_pairs)).astype(dtype)
    parents = np.arange(n, dtype=dtype)
    joined = union_find.unite(parents, left, right)
    n_sets, labels = connected_components(coo_array((np.ones(n_pairs), (left, right)), shape=(n, n)), directed=False)
    lowest = np.array([np.flatnonzero(labels == label)[0] for label in range(n_sets)])
    roots = union_find.roots(parents)
    assert roots.dtype == dtype
    assert np.array_equal(roots, lowest[labels])
    assert joined.sum() == n - n_sets
    # The pairs that joined are a spanning forest by themselves.
    again = np.arange(n, dtype=dtype)
    assert union_find.unite(again, left[joined], right[joined]).all()
    assert np.array_equal(union_find.roots(again), roots)
    assert [union_find.find(parents, at) for at in range(n)] == roots.tolist()
