"""Near pairs of two sets of rows: partners and connected rows as by comparing all pairs in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from motorpool.kernels.pairs.alike import PARTNER, SHORT, axes_of, best_partners, find_alike, shorten
from motorpool.kernels.pairs.geometry import prepare


def copies(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows in threes about a common one, some farther from it than others, of any length; and two zero rows."""
    rng = np.random.default_rng(seed)
    base = np.repeat(rng.normal(size=(n // 3 + 1, d)), 3, axis=0)[:n]
    x = base + rng.normal(size=(n, d)) * rng.choice([0.01, 0.1, 0.3, 1.0], (n, 1))
    x *= rng.uniform(0.1, 10, (n, 1))
    x[[5, 9]] = 0
    return x.astype(np.float32)


def gaps_of(x: np.ndarray) -> np.ndarray:
    """One minus the cosine of all pairs, float64[n, n]; 1 for zero rows, infinite for a row and itself."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    gaps = np.maximum(1.0 - x @ x.T, 0.0)
    np.fill_diagonal(gaps, np.inf)
    return gaps


def partners_of(gaps: np.ndarray, ids: np.ndarray, limit: float, most: int) -> list[tuple[int, int]]:
    """By row, nearest first, ties to the lower id."""
    found = []
    for i in np.argsort(ids):
        near = np.flatnonzero(gaps[i] <= limit)
        found += [(int(ids[i]), int(ids[j])) for j in sorted(near, key=lambda j: (gaps[i, j], ids[j]))[:most]]
    return found


def groups_of(n: int, left: np.ndarray, right: np.ndarray) -> list[list[int]]:
    """Connected rows, by number."""
    labels = connected_components(coo_matrix((np.ones(len(left)), (left, right)), (n, n)))[1]
    return sorted(np.flatnonzero(labels == label).tolist() for label in set(labels.tolist()))


@pytest.mark.parametrize(
    ("n", "d", "limit", "most"),
    [(901, 200, 0.01, 3), (901, 200, 0.3, 2), (1300, 200, 0.05, 10), (700, 20, 0.05, 3), (300, 150, 1.2, 5)],
)
def test_as_by_comparing_all_pairs(n: int, d: int, limit: float, most: int) -> None:
    x, rng = copies(n, d), np.random.default_rng(1)
    ids, cut = rng.permutation(n) * 3, n // 3
    axes = axes_of(x[: n // 2])
    assert (axes is None) == (d <= 2 * SHORT)
    a, b = (shorten(prepare(ids[s], x[s], "cosine"), axes) for s in (slice(cut), slice(cut, n)))
    assert axes is None or a.x.shape == (cut, SHORT)
    found = [find_alike(a, a, limit, most), find_alike(b, b, limit, most), find_alike(a, b, limit, most)]
    gaps = gaps_of(x)
    listed = best_partners(np.concatenate([part for f in found for part in (f.of_a, f.of_b)]), most)
    expected = partners_of(gaps, ids, limit, most)
    assert len(expected) > 100
    assert list(zip(listed["image_id"].tolist(), listed["other_id"].tolist(), strict=True)) == expected
    at = np.argsort(ids)
    rows, others = (at[listed[name] // 3] for name in ("image_id", "other_id"))
    np.testing.assert_allclose(listed["gap"], gaps[rows, others], atol=1e-12)
    forest = at[np.concatenate([f.forest for f in found]) // 3]
    assert groups_of(n, *forest.T) == groups_of(n, *np.nonzero(gaps <= limit))
    # Each set's own edges are a forest.
    for f in found:
        ends, both = np.unique(f.forest, return_inverse=True)
        assert len(groups_of(len(ends) + 1, *both.reshape(-1, 2).T)) == len(ends) + 1 - len(f.forest)


def test_rows_that_are_listed_nowhere_connect_all_the_same() -> None:
    """Two bundles of close rows, and one pair across that is no row's best."""
    rng = np.random.default_rng(3)
    x = np.zeros((40, 160), np.float32)
    x[:20, 0], x[20:, 0], x[20:, 1] = 1, np.cos(0.14), np.sin(0.14)
    x[:, 2:] = rng.normal(size=(40, 158)) * 1e-4
    rows = shorten(prepare(np.arange(40), x, "cosine"), axes_of(x))
    found = find_alike(rows, rows, 0.01, 2)
    listed = best_partners(found.of_a, 2)
    assert (listed["image_id"] // 20 == listed["other_id"] // 20).all()
    assert groups_of(40, *found.forest.T) == [list(range(40))]


def test_parallel_rows_at_the_limit_zero() -> None:
    x = copies(60, 140)
    x[30:] = 4 * x[:30]
    rows = shorten(prepare(np.arange(60), x, "cosine"), axes_of(x))
    found = find_alike(rows, rows, 0.0, 3)
    # A multiple by a power of two has the cosine 1 to the last digit; zero rows have 0 with all, each other too.
    assert {tuple(sorted(edge)) for edge in found.forest.tolist()} <= {(i, i + 30) for i in range(30)}
    assert len(found.of_b) == 0
    assert all(abs(p["image_id"] - p["other_id"]) == 30 and p["gap"] == 0 for p in found.of_a)
    assert 20 < len(found.forest) <= 28


def test_one_row_and_none() -> None:
    one = prepare(np.array([7]), np.ones((1, 200), np.float32), "cosine")
    rows = shorten(one, axes_of(one.raw))
    found = find_alike(rows, rows, 0.5, 3)
    assert [len(part) for part in found] == [0, 0, 0]
    assert len(best_partners(np.empty(0, PARTNER), 3)) == 0


def test_axes_are_orthonormal_and_shortening_brings_no_rows_nearer() -> None:
    x = copies(500, 300)
    axes = axes_of(x[:40])
    assert axes is not None
    # No more axes than rows tell of.
    assert axes.shape == (40, 300)
    np.testing.assert_allclose(axes @ axes.T, np.eye(40), atol=1e-12)
    rows = prepare(np.arange(500), x, "cosine")
    short = shorten(rows, axes)
    np.testing.assert_allclose(np.linalg.norm(short.x, axis=1), np.linalg.norm(rows.x, axis=1), atol=1e-6)
    gaps = 1.0 - short.x.astype(np.float64) @ short.x.T.astype(np.float64)
    np.fill_diagonal(gaps, 0)
    assert (gaps <= gaps_of(x) + short.slack).all()
