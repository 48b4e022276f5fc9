"""The kernels over an array module against those of the CPU.

Without a GPU they run over `strict_arrays`, which has a GPU's rules; tests marked ``gpu`` are the same over cupy.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.cluster import DBSCAN
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score

from cases import run_of, uneven_blobs, write_case
from cuml_stand_in import Manifold
from motorpool.backend import device as devices
from motorpool.backend import gaps
from motorpool.backend.device import check_products, gpu_number, in_pieces, rows_within
from motorpool.backend.layouts import needs_cuml
from motorpool.backend.protocol import CPU, GPU, ArrayBackend, Backend
from motorpool.cluster.centroids.by_centroids import by_centroids
from motorpool.cluster.centroids.kmeans import fit_kmeans
from motorpool.cluster.density.dbscan import DbscanParameters, _Forest, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
from motorpool.cluster.models import Facts, ModelSpec
from motorpool.cluster.score import score_models
from motorpool.errors import EnvironmentMissingError, MotorpoolError
from motorpool.features.spec import FeatureSet, Part
from motorpool.kernels.centroids.lloyd import Lloyd, LloydSums
from motorpool.kernels.cluster_sums import EXEMPLARS, ClusterSpread, ClusterSums
from motorpool.kernels.maps.layouts import Layout
from motorpool.kernels.moments import Gram, Moments
from motorpool.kernels.pairs.geometry import Metric, exact_gaps, prepare, to_gap
from motorpool.kernels.pairs.sweep import Side, Wanted, sweep
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.maps.registry import MAP_METHODS
from motorpool.neighbours import shards
from motorpool.neighbours.search import COUNTS, WHERE, search, shard_bit
from motorpool.neighbours.shards import Shard, arrange
from motorpool.neighbours.spanning import _outgoing
from motorpool.pipeline.models import model_row
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from strict_arrays import StrictDevice


@pytest.fixture(params=["strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "strict":
        monkeypatch.setitem(devices.DEVICES, "strict", StrictDevice)
    # Several tiles of few rows.
    monkeypatch.setattr(gaps, "TILE", 64)
    return ArrayBackend(request.param)


@pytest.fixture
def little_memory(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A device on which blocks must be taken in pieces of a few rows."""
    monkeypatch.setattr(devices, "rows_within", lambda free, per_row, fixed=0: 7)
    return backend


def blobs(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return uneven_blobs(n, d, seed=seed)


def lattice(n: int, d: int = 3, below: int = 6) -> np.ndarray:
    """Small whole numbers: many rows twice, and many distances exactly at a radius."""
    return np.random.default_rng(1).integers(0, below, (n, d)).astype(np.float32)


# -- moments -----------------------------------------------------------------------------------------

VECTORS = {
    "blobs": blobs(300),
    "far": blobs(300) + np.float32(3e4),
    "equal": np.full((50, 4), 12.34, np.float32),
    "one row": blobs(1),
    "one column": blobs(40, 1),
    # Float32 has no number for their mean.
    "coarse": np.float32(1e6)
    + np.float32(0.0625) * np.random.default_rng(0).integers(0, 2, (40, 2)).astype(np.float32),
    "a constant column": np.concatenate([blobs(60), np.full((60, 1), 7, np.float32)], axis=1),
}


def same_moments(found: Moments, truth: Moments) -> None:
    assert found.n == truth.n
    assert np.allclose(found.mean, truth.mean, rtol=1e-12, atol=1e-12)
    scale = np.sqrt(np.outer(truth.scatter.diagonal(), truth.scatter.diagonal()))
    # What the rounding of a far-off mean to float64 leaves.
    noise = 1e-13 * truth.n * np.square(truth.mean).max()
    assert (np.abs(found.scatter - truth.scatter) <= 2e-6 * scale + noise).all()
    assert np.array_equal(found.min, truth.min)
    assert np.array_equal(found.max, truth.max)


@pytest.mark.parametrize("kind", VECTORS)
def test_moments(backend: Backend, kind: str) -> None:
    x = VECTORS[kind]
    found, truth = backend.moments(), Moments()
    for block in np.array_split(x, 3):
        found.update(block)
        truth.update(block)
    exact = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    assert np.allclose(found.stats().cov * max(len(x) - 1, 1), exact.T @ exact, rtol=1e-5, atol=1e-5 * len(x))
    same_moments(found, truth)


def test_moments_in_pieces_and_merged(little_memory: Backend) -> None:
    x = blobs(200)
    left, right, truth = little_memory.moments(), little_memory.moments(), Moments()
    left.update(x[:90])
    right.update(x[90:])
    truth.update(x)
    left.merge(right)
    left.merge(little_memory.moments())
    same_moments(left, truth)
    # It goes on after it was looked at.
    left.update(x[:5])
    assert left.stats().n == 205


def test_moments_travel_as_numbers_of_the_host(backend: Backend) -> None:
    x, truth = blobs(100), Moments()
    truth.update(x)
    found = backend.moments()
    found.update(x)
    sent = pickle.loads(pickle.dumps(found))
    assert isinstance(sent.scatter, np.ndarray)
    same_moments(sent, truth)
    assert pickle.loads(pickle.dumps(backend.moments())).n == 0


def test_moments_of_other_widths_and_of_nothing(backend: Backend) -> None:
    found = backend.moments()
    found.update(blobs(0))
    assert found.n == 0
    found.update(blobs(3, 4))
    with pytest.raises(ValueError, match="vectors of 5 numbers beside vectors of 4"):
        found.update(blobs(3, 5))
    found.stats()
    with pytest.raises(ValueError, match="vectors of 5 numbers beside vectors of 4"):
        found.update(blobs(3, 5))


def test_what_only_merges_needs_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver of a cluster has no GPU."""
    monkeypatch.setitem(devices.DEVICES, "cupy", lambda: pytest.fail("the driver has no GPU"))
    x, labels = blobs(40), (np.arange(40) % 3)[:, None]
    plain = Moments()
    plain.update(x)
    merged = GPU.moments()
    merged.merge(plain)
    assert merged.stats().n == 40
    sums, truth = GPU.cluster_sums([3], 5), ClusterSums([3], 5)
    truth.update(x.astype(np.float64), labels)
    sums.merge(truth)
    spread = GPU.cluster_spread(sums)
    spread.merge(ClusterSpread(truth))
    assert spread.scores()[0].sizes.sum() == 40
    lloyd = GPU.lloyd([x[:2].astype(np.float64)], np.zeros(5))
    lloyd.start().merge(lloyd.start())
    assert GPU.gram().total().size == 0
    for sent in (GPU, merged, sums, spread, lloyd, GPU.engine()):
        pickle.loads(pickle.dumps(sent))


def test_gram(backend: Backend, little_memory: Backend) -> None:
    found, truth = little_memory.gram(), Gram()
    for block in (blobs(50), blobs(3, seed=1)):
        found.add(block)
        truth.add(block)
    assert np.allclose(found.total(), truth.total(), rtol=1e-5, atol=1e-4)


# -- Lloyd's pass ------------------------------------------------------------------------------------


def passed(lloyd: Lloyd, x: np.ndarray, parts: int = 3) -> LloydSums:
    """One pass, as tasks make it: the kernel travels, states merge."""
    total = lloyd.start()
    for ids in np.array_split(np.arange(len(x)), parts):
        state = lloyd.start()
        pickle.loads(pickle.dumps(lloyd)).add(state, ids, x[ids])
        total.merge(pickle.loads(pickle.dumps(state)))
    return total


def same_sums(found: LloydSums, truth: LloydSums) -> None:
    assert np.array_equal(found.counts, truth.counts)
    assert np.allclose(found.sums, truth.sums, rtol=1e-5, atol=1e-4)
    assert np.allclose(found.inertia, truth.inertia, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(found.far, truth.far, strict=True):
        assert np.allclose([r[0] for r in mine], [r[0] for r in theirs], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory", ["all", "little"])
def test_lloyd(backend: Backend, memory: str, request: pytest.FixtureRequest) -> None:
    if memory == "little":
        request.getfixturevalue("little_memory")
    x = blobs(250)
    mean = x.mean(axis=0, dtype=np.float64)
    runs = [x[rows].astype(np.float64) - mean for rows in ([1], [2, 70], [5, 90, 140, 200, 231])]
    truth = passed(CPU.lloyd(runs, mean), x)
    found = passed(backend.lloyd(runs, mean), x)
    same_sums(found, truth)
    for mine, theirs in zip(found.far, truth.far, strict=True):
        assert [r[1] for r in mine] == [r[1] for r in theirs]
        assert all(np.array_equal(m[2], t[2]) for m, t in zip(mine, theirs, strict=True))


def test_a_kernel_travels_after_it_was_used(backend: Backend) -> None:
    x = blobs(40)
    lloyd = backend.lloyd([x[:3].astype(np.float64)], np.zeros(5))
    lloyd.add(lloyd.start(), np.arange(40), x)
    same_sums(passed(lloyd, x), passed(CPU.lloyd([x[:3].astype(np.float64)], np.zeros(5)), x))


def test_lloyd_of_equal_rows_one_row_and_more_centroids_than_distinct_rows(backend: Backend) -> None:
    equal = np.full((30, 3), 4.25, np.float32)
    few = np.repeat(blobs(3, 3), 9, axis=0)
    for x, centroids in ((equal, equal[:4]), (few, few[:12]), (blobs(1, 3), blobs(1, 3)), (few, few[::9] + 100)):
        mean = x.mean(axis=0, dtype=np.float64)
        runs = [centroids.astype(np.float64) - mean, centroids[:1].astype(np.float64) - mean]
        truth = passed(CPU.lloyd(runs, mean), x, 1)
        found = passed(backend.lloyd(runs, mean), x, 1)
        same_sums(found, truth)
        # Ties go to the first, and rows at their centroid seed nothing.
        assert len(found.far[0]) == len(truth.far[0])


@pytest.mark.parametrize("memory", ["all", "little"])
def test_nearest_centroids(backend: Backend, memory: str, request: pytest.FixtureRequest) -> None:
    if memory == "little":
        request.getfixturevalue("little_memory")
    for x in (blobs(120), blobs(120) + np.float32(3e4), lattice(90), VECTORS["equal"], blobs(1)):
        # The third model has a centroid twice.
        models = [x[:1], x[:5], np.concatenate([x[:4], x[:4]])]
        found = pickle.loads(pickle.dumps(backend.nearest(models))).label(x)
        truth = CPU.nearest(models).label(x)
        for mine, theirs in zip(found, truth, strict=True):
            assert mine.dtype == theirs.dtype
        assert np.array_equal(found[0], truth[0])
        assert np.allclose(found[1], truth[1], rtol=1e-6, atol=1e-4)
        # Rows at their centroid: what is left of a distance is rounding.
        assert np.allclose(found[2], truth[2], rtol=1e-6, atol=1e-3, equal_nan=True)


# -- scores ------------------------------------------------------------------------------------------


def scored(backend: Backend, x: np.ndarray, labels: np.ndarray, ks: Sequence[int]) -> tuple[ClusterSums, ClusterSpread]:
    wide, ids = x.astype(np.float64), np.arange(len(x)) * 3 + 1
    parts = np.array_split(np.arange(len(x)), 3)
    sums = backend.cluster_sums(ks, x.shape[1])
    for rows in parts:
        state = backend.cluster_sums(ks, x.shape[1])
        state.update(wide[rows], labels[rows])
        sums.merge(pickle.loads(pickle.dumps(state)))
    spread = backend.cluster_spread(sums)
    for rows in parts:
        part = pickle.loads(pickle.dumps(backend.cluster_spread(sums)))
        part.update(ids[rows], wide[rows], labels[rows])
        spread.merge(pickle.loads(pickle.dumps(part)))
    return sums, spread


def random_labels(n: int, ks: Sequence[int], noise: float = 0.2) -> np.ndarray:
    """Labels of several models; the first row of each model is alone in the last of its clusters."""
    rng = np.random.default_rng(5)
    labels = np.stack([rng.integers(max(k - 1, 1), size=n) for k in ks], axis=1).astype(np.int32)
    labels[0] = np.array(ks) - 1
    labels[rng.random(labels.shape) < noise] = -1
    labels[1] = -1
    return labels


@pytest.mark.parametrize("memory", ["all", "little"])
@pytest.mark.parametrize("kind", ["blobs", "equal", "lattice", "one row"])
def test_scores(backend: Backend, kind: str, memory: str, request: pytest.FixtureRequest) -> None:
    if memory == "little":
        request.getfixturevalue("little_memory")
    x = {"blobs": blobs(200), "equal": VECTORS["equal"], "lattice": lattice(150), "one row": blobs(1)}[kind]
    ks = [3, 1, 7, 200]
    labels = random_labels(len(x), ks) if len(x) > 1 else np.zeros((1, 4), np.int32)
    sums, spread = scored(backend, x, labels, ks)
    true_sums, true_spread = scored(CPU, x, labels, ks)
    assert np.array_equal(sums.counts, true_sums.counts)
    assert np.allclose(sums.sums, true_sums.sums, rtol=1e-12, atol=1e-12)
    assert np.allclose(spread.squared, true_spread.squared, rtol=1e-9, atol=1e-9)
    assert np.allclose(spread.distance, true_spread.distance, rtol=1e-7, atol=1e-5)
    assert np.allclose(spread.silhouette, true_spread.silhouette, rtol=1e-7, atol=1e-5)
    assert np.allclose(spread.kept_squared, true_spread.kept_squared, rtol=1e-9, atol=1e-9)
    if kind == "blobs":
        # Two rows of a cluster are equally far from their mean: rounding decides, so not of the last model.
        assert np.array_equal(spread.kept_ids[: sum(ks[:3])], true_spread.kept_ids[: sum(ks[:3])])
    for mine, theirs in zip(spread.scores(), true_spread.scores(), strict=True):
        assert list(mine.values) == ["calinski_harabasz", "davies_bouldin", "silhouette"]
        for name, value in theirs.values.items():
            assert mine.values[name] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9))


def test_scores_where_all_is_noise(backend: Backend) -> None:
    x = blobs(20)
    sums, spread = scored(backend, x, np.full((20, 2), -1, np.int32), [2, 3])
    assert sums.counts.sum() == 0
    assert (spread.kept_ids == -1).all()


def test_of_rows_equally_near_a_mean_the_lowest_ids_are_kept(backend: Backend) -> None:
    x, labels = np.tile([[1.0], [-1.0]], (30, 1)), np.zeros((60, 1), np.int32)
    sums = backend.cluster_sums([1], 1)
    sums.update(x, labels)
    spread = backend.cluster_spread(sums)
    for ids in (np.arange(60)[::-1] + 60, np.arange(60)[::-1]):
        spread.update(ids, x, labels)
    assert spread.kept_ids.tolist() == [list(range(EXEMPLARS))]
    assert (spread.kept_squared == 1.0).all()


# -- pairs -------------------------------------------------------------------------------------------

# Exactly at a radius, in float64 and as far as float32 can tell; rows without a direction; an offset; duplicates.
PAIRS: list[tuple[Metric, np.ndarray, float]] = [
    ("euclidean", blobs(230), 1.5),
    ("euclidean", blobs(230) + np.float32(5000), 1.5),
    ("euclidean", blobs(230, 24), 6.0),
    ("euclidean", lattice(230), 2.0),
    ("euclidean", lattice(230), float(np.sqrt(3.0))),
    ("euclidean", np.repeat(blobs(23), 10, axis=0), 1e-12),
    ("euclidean", blobs(230) * np.float32(1e25), 2e25),
    ("euclidean", blobs(1), 1.0),
    ("cosine", blobs(230), 0.02),
    ("cosine", lattice(230), float(1 - 1 / np.sqrt(2.0))),
    ("cosine", lattice(230, 2, 3), 1.0),
    ("cosine", lattice(230, 2, 3), 0.99),
]
NAMED = pytest.mark.parametrize(("metric", "x", "eps"), PAIRS, ids=[f"{m}-{i}" for i, (m, _, _) in enumerate(PAIRS)])


@NAMED
def test_the_engine_is_exact(backend: Backend, metric: Metric, x: np.ndarray, eps: float) -> None:
    mine, theirs = backend.engine(), CPU.engine()
    own, least = max(1, len(x) * 2 // 3), (1, 3, 9, 30)
    assert np.array_equal(mine.core(x, own, metric, eps, least).rows, theirs.core(x, own, metric, eps, least).rows)
    every = theirs.core(x, len(x), metric, eps, (3, 9)).rows
    marks = np.concatenate([every, np.arange(len(x))[:, None] % 3 == 0, np.zeros((len(x), 1), bool)], axis=1)
    found, truth = mine.components(x, metric, eps, marks).rows, theirs.components(x, metric, eps, marks).rows
    assert found.dtype == np.int32
    assert np.array_equal(found < 0, truth < 0)
    for column in range(marks.shape[1]):
        pairs = set(zip(found[:, column].tolist(), truth[:, column].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert set(found[found[:, column] >= 0, column]) == set(range(found[:, column].max() + 1))
    for queries, rows in ((x[:80], x[60:]), (x[:3], x[:0]), (x[:0], x)):
        for a, b in zip(
            mine.nearest(queries, rows, metric, eps), theirs.nearest(queries, rows, metric, eps), strict=True
        ):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


def test_the_engine_joins_a_long_chain(backend: Backend) -> None:
    """Neighbours in a row, shuffled over many tiles."""
    order = np.random.default_rng(3).permutation(400)
    x = np.stack([order.astype(np.float32), np.zeros(400, np.float32)], axis=1)
    marks = np.ones((400, 2), bool)
    marks[order == 200, 1] = False
    found = backend.engine().components(x, "euclidean", 1.0, marks).rows
    assert (found[:, 0] == 0).all()
    assert len(set(found[order < 200, 1])) == len(set(found[order > 200, 1])) == 1
    assert found[order == 0, 1] != found[order == 399, 1]


def gaps_of(x: np.ndarray, y: np.ndarray, metric: Metric) -> np.ndarray:
    i, j = np.indices((len(x), len(y))).reshape(2, -1)
    return exact_gaps(x, y, i, j, metric == "cosine").reshape(len(x), len(y))


@NAMED
@pytest.mark.parametrize("shifted", [False, True])
def test_a_sweep_counts_and_finds_what_there_is(
    backend: Backend, metric: Metric, x: np.ndarray, eps: float, shifted: bool
) -> None:
    shift = x.mean(axis=0, dtype=np.float64) if shifted and metric == "euclidean" else None
    cut = max(1, len(x) // 2)
    with np.errstate(over="ignore"):
        a, b = (prepare(ids, x[ids], metric, shift) for ids in (np.arange(cut), np.arange(cut, len(x))))
    wanted = Wanted((eps / 4, eps, 3 * eps), 6, 5)
    levels = to_gap(np.array(wanted.radii), metric)
    sides = [Side.fresh(rows, levels, wanted) for rows in (a, b)]
    for side in sides:
        backend.sweep(side, side, levels, wanted, metric == "cosine")
    if len(b):
        known = [Side.of(s.rows, levels, wanted, s.counts, s.gaps, s.ids) for s in sides]
        backend.sweep(known[0], known[1], levels, wanted, metric == "cosine")
        sides = known
    true = gaps_of(x, x, metric)
    np.fill_diagonal(true, -1.0)
    counts = np.concatenate([s.counts for s in sides])
    exact = (true[:, :, None] <= levels).sum(axis=1)
    assert np.array_equal(np.minimum(counts, wanted.enough), np.minimum(exact, wanted.enough))
    assert counts.dtype == np.int32
    found_gaps, ids = (np.concatenate([getattr(s, name) for s in sides]) for name in ("gaps", "ids"))
    for row in range(len(x)):
        order = np.lexsort((np.arange(len(x)), true[row]))[1 : wanted.k + 1]
        assert ids[row, : len(order)].tolist() == order.tolist()
        assert np.array_equal(found_gaps[row, : len(order)], true[row, order])
        assert (ids[row, len(order) :] == -1).all()


def test_a_sweep_for_counts_or_for_neighbours_alone(backend: Backend) -> None:
    x = prepare(np.arange(150), blobs(150), "euclidean")
    for wanted in (Wanted((1.0, 2.0), 9, 0), Wanted((), 1, 4)):
        levels = to_gap(np.array(wanted.radii), "euclidean")
        mine, theirs = (Side.fresh(x, levels, wanted) for _ in range(2))
        backend.sweep(mine, mine, levels, wanted, False)
        sweep(theirs, theirs, levels, wanted, False)
        assert np.array_equal(np.minimum(mine.counts, 9), np.minimum(theirs.counts, 9))
        assert np.array_equal(mine.ids, theirs.ids)
        assert np.array_equal(mine.gaps, theirs.gaps)


def test_a_pair_exactly_at_a_radius_counts_once(backend: Backend) -> None:
    x = np.arange(130, dtype=np.float32)[:, None]
    levels, wanted = to_gap(np.array([1.0, 2.0, 5.0]), "euclidean"), Wanted((1.0, 2.0, 5.0), 1000)
    side = Side.fresh(prepare(np.arange(130), x, "euclidean"), levels, wanted)
    backend.sweep(side, side, levels, wanted, False)
    assert np.array_equal(side.counts, [[(np.abs(x - row) <= r).sum() for r in wanted.radii] for row in x])


def test_a_tile_with_a_pair_exactly_at_reach_is_brought_back(backend: Backend) -> None:
    rows = prepare(np.arange(2), np.array([[0.0], [2.0]], np.float32), "euclidean")
    multiply, out = backend.multiplier(rows, rows), np.empty((1, 1), np.float32)
    assert multiply is not None
    assert multiply(slice(0, 1), slice(1, 2), 2.0, out) is out
    assert multiply(slice(0, 1), slice(1, 2), 1.99, out) is None


def test_products_from_a_device_leave_out_tiles_beyond_reach(backend: Backend) -> None:
    x = np.concatenate([blobs(600), blobs(600) + np.float32(40)])
    rows = prepare(np.arange(1200), x, "euclidean")
    tiling, multiply, seen = tiles_of(rows), backend.multiplier(rows, rows), 0
    assert multiply is not None
    for i0, j0, products in tiling.products(tiling, lambda i, j: 1e9, False, multiply):
        r, c = products.shape
        exact = rows.x[i0 : i0 + r].astype(np.float64) @ rows.x[j0 : j0 + c].T.astype(np.float64)
        halves = rows.half[i0 : i0 + r, None] + rows.half[j0 : j0 + c]
        assert (np.abs(products - exact) <= rows.slack * halves).all()
        seen += products.size
    assert seen == 1200**2
    out = np.empty((512, 512), np.float32)
    assert multiply(slice(0, 512), slice(600, 1112), 1.0, out) is None
    assert multiply(slice(0, 512), slice(0, 512), 1.0, out) is out
    # And of tiles that bounds alone could not leave out, the same pairs come as from the CPU.
    mixed = prepare(np.arange(1200), np.random.default_rng(0).permutation(x), "euclidean")
    tiling, pairs = tiles_of(mixed), []
    for chosen in (None, backend.multiplier(mixed, mixed)):
        found = set()
        for i0, j0, products in tiling.products(tiling, lambda i, j: 2.0, True, chosen):
            here = mixed.half[i0 : i0 + len(products), None] + mixed.half[j0 : j0 + products.shape[1]] - products
            i, j = np.nonzero(here < 1.99)
            found |= set(zip((i + i0).tolist(), (j + j0).tolist(), strict=True))
        pairs.append(found)
    assert pairs[0] == pairs[1] != set()


def joined(backend: Backend, x: np.ndarray, metric: Metric, radii: tuple[float, ...]) -> list[np.ndarray]:
    """What DBSCAN's joining pass and HDBSCAN's search find in two shards, task by task."""
    wanted, least = Wanted(radii, 8, 4), np.array([3, 8])
    levels, cosine, cut = to_gap(np.array(radii), metric), metric == "cosine", len(x) // 3
    parts = [prepare(ids, x[ids], metric) for ids in (np.arange(cut), np.arange(cut, len(x)))]
    sides = [Side.fresh(rows, levels, wanted) for rows in parts]
    for side in sides:
        backend.sweep(side, side, levels, wanted, cosine)
    within = [side.counts > 1 for side in sides]
    sides = [Side.of(s.rows, levels, wanted, s.counts.copy(), s.gaps, s.ids) for s in sides]
    before = [side.counts.copy() for side in sides]
    backend.sweep(sides[0], sides[1], levels, wanted, cosine)
    two = []
    for index, side in enumerate(sides):
        where = np.where(within[index], shard_bit(index), 0) | np.where(
            side.counts > before[index], shard_bit(1 - index), 0
        )
        two.append(Shard(index, side.rows, {COUNTS: side.counts, WHERE: where.astype(np.uint64)}))
    found, known, near = [], [], []
    for shard in two:
        forest = _Forest.start([shard], [None], [0, 1], least, levels)
        forest.sweep(cosine, same=True, backend=backend)
        known.append(forest.roots())
        near.append(forest.joined.near_gap)
    forest = _Forest.start(two, known, [0, 1], least, levels)
    np.concatenate(near, out=forest.joined.near_gap)
    forest.sweep(cosine, same=False, backend=backend)
    found += [*known, forest.roots(), forest.joined.near_gap, forest.joined.near_row]
    # Every row a part of its own: each finds its nearest in the other shard.
    core = [side.gaps[:, 2] for side in sides]
    for shard, part in zip(two, (np.arange(cut), np.arange(cut, len(x))), strict=True):
        n = len(part)
        shard.state |= {"part": part.astype(np.int32), "core": core[shard.index], "active": np.ones(n, bool)}
        shard.state["bound"] = np.full(n, np.inf)
    for a, b in ((two[0], two[1]), (two[1], two[0])):
        edges = _outgoing(a, b, cosine, backend)
        found += [edges["part"], edges["gap"]]
    return found


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["blobs", "lattice"])
def test_joining_and_spanning_find_the_same_with_products_from_a_device(
    backend: Backend, kind: str, metric: Metric
) -> None:
    x = blobs(1500, 4) if kind == "blobs" else lattice(1500, 3, 9) + np.float32(1)
    radii = {"blobs": (0.5, 1.2), "lattice": (1.0, 2.0)}[kind] if metric == "euclidean" else (0.001, 0.02)
    found, truth = joined(backend, x, metric, radii), joined(CPU, x, metric, radii)
    # Something is core, something is not, and some components join across the shards.
    assert 0 < (truth[2] >= 0).mean() < 1
    for mine, theirs in zip(found, truth, strict=True):
        assert np.array_equal(mine, theirs)


# -- memory and devices --------------------------------------------------------------------------------


def test_pieces_follow_the_free_memory() -> None:
    assert rows_within(2**40, 1000) == 2**30 // 1000
    assert rows_within(2**30, 1000) == 2**29 // 1000
    assert rows_within(2**30, 1000, fixed=2**28) == 2**28 // 1000
    assert rows_within(2**20, 2**19 + 1) == 1
    with pytest.raises(MotorpoolError, match=r"the GPU has 1 MiB free, and this step needs 3 MiB.*gpu\.amount"):
        rows_within(2**20, 2**20, fixed=2**21)
    cut: list[slice] = []
    in_pieces(StrictDevice(1000), 12, 100, cut.append)
    assert [(s.start, s.stop) for s in cut] == [(0, 5), (5, 10), (10, 12)]
    in_pieces(StrictDevice(1000), 0, 100, lambda part: pytest.fail("there are no rows"))


def test_rows_beyond_a_quarter_of_the_free_memory_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(300)
    rows = prepare(np.arange(300), x, "euclidean")
    assert gaps.Operand(StrictDevice(4 * x.nbytes), rows).whole is not None
    assert gaps.Operand(StrictDevice(4 * x.nbytes - 4), rows).whole is None
    monkeypatch.setitem(devices.DEVICES, "strict", lambda: StrictDevice(4000))
    truth = CPU.engine().core(x, 300, "euclidean", 1.5, (3, 9)).rows
    assert np.array_equal(ArrayBackend("strict").engine().core(x, 300, "euclidean", 1.5, (3, 9)).rows, truth)


class _Rounding(StrictDevice):
    """Factors keep 11 bits, as TF32's do."""

    def put(self, x: np.ndarray) -> Any:
        kept = np.ldexp(np.round(np.ldexp(np.frexp(x)[0], 11)), np.frexp(x)[1] - 11)
        return super().put(kept.astype(x.dtype))


def test_products_of_fewer_digits_are_refused() -> None:
    check_products(StrictDevice())
    with pytest.raises(EnvironmentMissingError, match=r"TF32.*CUPY_TF32.*accelerator: cpu"):
        check_products(_Rounding())


@pytest.mark.parametrize(
    ("addresses", "visible", "turn", "number"),
    [
        (["2"], None, 0, 2),
        (["2"], "", 0, 2),
        (["2"], "1,2,3", 0, 1),
        # Isolated, and counted anew.
        (["5"], "GPU-abc", 0, 0),
        (["9"], None, 1, 1),
        ([], None, 6, 2),
        ([], "0,1,2,3", 3, 3),
    ],
)
def test_a_task_takes_the_gpu_that_spark_gave_it(
    addresses: list[str], visible: str | None, turn: int, number: int
) -> None:
    assert gpu_number(addresses, visible, turn, 4 if visible != "GPU-abc" else 1) == number


# -- layouts, and what tables say -------------------------------------------------------------------


def test_layouts_that_cuml_has() -> None:
    has = [(m, d) for m in MAP_METHODS for d in (2, 3) if GPU.layout_of(m, d)]
    assert has == [("umap", 2), ("umap", 3), ("tsne", 2)]
    assert not any(backend.layout_of(m, d) for backend in (CPU, ArrayBackend("numpy")) for m, d in has)
    assert needs_cuml(["pca", "tsne"])
    assert not needs_cuml(["pca"])


def lay_out_on_gpu(x: np.ndarray, start: np.ndarray, asked: Layout) -> np.ndarray:
    by = GPU.layout_of(asked.method, asked.dims)
    assert by is not None
    return by(x, start, asked)


def test_what_cuml_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    manifold = Manifold()
    monkeypatch.setitem(sys.modules, "cuml", SimpleNamespace(manifold=manifold))
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    monkeypatch.setitem(devices.DEVICES, "cupy", StrictDevice)
    x = blobs(60)
    start = PCA(3, random_state=0).fit_transform(x)
    for method, dims in (("umap", 3), ("tsne", 2)):
        places = lay_out_on_gpu(x, start[:, :dims], Layout(method, dims, 90, 30.0, 7))
        assert places.shape == (60, dims)
        assert places.dtype == np.float32
        assert places.flags.c_contiguous
        # With every row as its neighbour the map is one of the whole.
        assert trustworthiness(x, places, n_neighbors=5) > 0.85
    umap, tsne = manifold.asked
    given = umap.pop("init")
    assert given.dtype == np.float32
    assert given[:, 0].std() == pytest.approx(10.0, rel=1e-3)
    for column in range(3):
        assert abs(np.corrcoef(given[:, column], start[:, column])[0, 1]) > 0.999
    # Fewer rows than asked for: as on the CPU.
    assert umap == {"n_neighbors": 59, "seed": 7}
    assert tsne == {"perplexity": pytest.approx(59 / 3), "init": "pca", "seed": 7}
    with pytest.raises(ValueError, match="3 rows: a layout takes at least 4"):
        lay_out_on_gpu(x[:3], x[:3, :2], Layout("umap", 2, 15, 30.0, 0))


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "dims"), [("umap", 2), ("umap", 3), ("tsne", 2)])
def test_cuml_keeps_neighbours_together(method: Any, dims: int) -> None:
    pytest.importorskip("cuml")
    x = blobs(800)
    start = PCA(dims, random_state=0).fit_transform(x)
    places = lay_out_on_gpu(x, start, Layout(method, dims, 15, 30.0, 0))
    assert places.dtype == np.float32
    assert places.shape == (800, dims)
    assert trustworthiness(x, places, n_neighbors=5) > 0.85
    if method == "umap":
        assert np.array_equal(places, lay_out_on_gpu(x, start, Layout(method, dims, 15, 30.0, 0)))


def test_models_say_where_they_were_fitted() -> None:
    spec = ModelSpec(FeatureSet("a", (Part("a"),), ()), "kmeans", (("k", "2"),))
    assert model_row(spec, "ok", None, Facts(1.0, backend=GPU.name))["backend"] == "gpu"
    assert model_row(spec, "failed", "why")["backend"] == "cpu"


# -- through Spark -------------------------------------------------------------------------------------


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def spread_out(request: pytest.FixtureRequest) -> Backend:
    """The array kernels in Spark's own workers; tables take them for a GPU's."""
    return ArrayBackend(request.param)


def test_kmeans_and_scores(blocked: Callable[..., DataFrame], spread_out: Backend) -> None:
    x = uneven_blobs(900, seed=1)
    df, ks = blocked(x, 3), [2, 4, 6]
    truth = fit_kmeans(df, ks, seed=3)
    found = fit_kmeans(df, ks, seed=3, backend=spread_out)
    labelled = [by_centroids(df, [m.centroids for m in models], b) for models, b in ((truth, CPU), (found, spread_out))]
    labels = []
    for one in labelled:
        rows = one.wide().select("image_id", "clusters").toPandas().sort_values("image_id")
        labels.append(np.stack(rows["clusters"]))
    for model in range(len(ks)):
        assert adjusted_rand_score(labels[0][:, model], labels[1][:, model]) == 1.0
        assert found[model].inertia == pytest.approx(truth[model].inertia, rel=1e-4)
    for mine, theirs in zip(score_models(labelled[1], spread_out), score_models(labelled[0]), strict=True):
        assert mine.values["calinski_harabasz"] == pytest.approx(theirs.values["calinski_harabasz"], rel=1e-4)
        assert mine.values["davies_bouldin"] == pytest.approx(theirs.values["davies_bouldin"], rel=1e-4)
        assert mine.values["silhouette"] == pytest.approx(theirs.values["silhouette"], rel=1e-4)
        assert mine.exemplars == theirs.exemplars


def test_density_models(
    in_process: Callable[..., DataFrame], spread_out: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_shard_rows", lambda *_: 400)
    x = uneven_blobs(900, 4, seed=2)
    arranged = arrange(in_process(x, 2), "euclidean", 0)
    grid = DbscanParameters((0.8, 1.6), (3, 8))
    states = [search(arranged, Wanted(grid.eps, 9, 16), backend=b) for b in (CPU, spread_out)]
    trees = []
    for state, backend in zip(states, (CPU, spread_out), strict=True):
        found = fit_dbscan(arranged, state, grid.eps, grid, backend=backend).wide()
        rows = found.select("image_id", "clusters", "distances").toPandas().sort_values("image_id")
        trees.append(
            (np.stack(rows["clusters"]), fit_hdbscan(arranged, state, HdbscanParameters((10,)), backend=backend))
        )
    assert np.array_equal(trees[0][0], trees[1][0])
    assert np.array_equal(np.sort(trees[0][1].tree.distance), np.sort(trees[1][1].tree.distance))
    for e, eps in enumerate(grid.eps):
        core = DBSCAN(eps=eps, min_samples=3).fit(x.astype(np.float64))
        mine = trees[1][0][core.core_sample_indices_, e * 2]
        assert adjusted_rand_score(core.labels_[core.core_sample_indices_], mine) == 1.0


STUDY: dict[str, Any] = {
    "features": [
        {"descriptor": "vdc_type", "steps": [{"pca": 4}]},
        {"descriptor": "osnet", "steps": ["minmax", {"vehicle_whiten": 4}]},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [2, 3]},
            {"algorithm": "minibatch_kmeans", "k": 3},
            {"algorithm": "dbscan", "eps": [2.0, 3.0], "min_samples": 4, "features": ["vdc_type-pca4"]},
            {"algorithm": "dbscan", "eps": 2.5, "min_samples": 4, "way": "cells", "features": ["vdc_type-pca4"]},
            {"algorithm": "hdbscan", "min_cluster_size": 8, "features": ["vdc_type-pca4"]},
        ]
    },
}


def test_a_study_is_the_same_on_either_backend(spark: SparkSession, tmp_path: Path, spread_out: Backend) -> None:
    """Through the stages: equal labels, equal scores up to rounding, and where each model was fitted."""
    case, lakes = write_case(tmp_path / "case", rows=180), []
    for backend in (CPU, spread_out):
        ctx = run_of(spark, case, tmp_path / backend.name, "parquet", **STUDY)
        ctx.backend = backend
        for stage in (run_ingest, run_features, run_cluster):
            stage(ctx)
        lakes.append(ctx.lake)
    models = [lake.read("models").toPandas().set_index("model_id").sort_index() for lake in lakes]
    assert len(models[0]) == 2 * 2 + 2 + 4
    assert models[0].index.equals(models[1].index)
    assert set(models[0]["backend"]) == {"cpu"}
    by_algorithm = models[1].groupby("algorithm")["backend"].agg(set).to_dict()
    assert by_algorithm.pop("minibatch_kmeans") == {"cpu"}
    assert by_algorithm == {"kmeans": {"gpu"}, "dbscan": {"gpu"}, "hdbscan": {"gpu"}}
    for name in ("n_clusters", "n_noise", "status"):
        assert models[0][name].tolist() == models[1][name].tolist()
    for name in ("calinski_harabasz", "davies_bouldin", "silhouette", "inertia"):
        assert np.allclose(models[0][name].astype(float), models[1][name].astype(float), rtol=1e-4, equal_nan=True)
    columns = ["model_id", "image_id", "cluster"]
    labels = [lake.read("labels").select(columns).toPandas().sort_values(columns[:2]).to_numpy() for lake in lakes]
    assert len(labels[0])
    assert np.array_equal(*labels)
