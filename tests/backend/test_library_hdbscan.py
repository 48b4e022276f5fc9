"""HDBSCAN by a library's own class, all rows in one task: the kernels' labels where no two distances are equal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.datasets import make_moons

from cases import uneven_blobs
from cuml_stand_in import Cluster
from motorpool.backend import device as devices
from motorpool.backend.library import CumlHdbscan, Hdbscan, SklearnHdbscan, hdbscan_bytes
from motorpool.cluster.density import hdbscan as density
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan, fit_hdbscan_library
from motorpool.cluster.labelled import Labelled
from motorpool.errors import MotorpoolError
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange
from motorpool.spark.coreset import UnfitError
from strict_arrays import StrictDevice

Blocked = Callable[..., DataFrame]
SIZES = (5, 12, 40)


def blobs(n: int = 500, d: int = 4, seed: int = 2) -> np.ndarray:
    x = uneven_blobs(n, d, seed=seed)
    x[: n // 10] = np.random.default_rng(0).uniform(-12, 12, (n // 10, d))
    return x


def moons(n: int = 400) -> np.ndarray:
    return make_moons(n, noise=0.06, random_state=0)[0].astype(np.float32)


def rows_of(labelled: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Labels and strengths in the order of the ids; no distances."""
    found = [b for batch in labelled.df.toArrow().to_batches() for b in labelled.blocks_of(batch)]
    ids = np.concatenate([b.ids for b in found])
    order = np.argsort(ids)
    assert np.array_equal(ids[order], np.arange(len(ids)))
    assert all(np.isnan(b.facts[0]).all() for b in found)
    labels, strengths = np.concatenate([b.labels for b in found]), np.concatenate([b.facts[1] for b in found])
    return labels[order], strengths[order]


def own(df: DataFrame, grid: HdbscanParameters) -> Labelled:
    arranged = arrange(df, "euclidean", 0)
    return fit_hdbscan(arranged, search(arranged, Wanted(k=max(grid.min_samples - 1, 16))), grid).labelled


CASES = {"blobs": blobs(), "moons": moons(), "wide": blobs(300, 24, 5)}


@pytest.mark.parametrize(
    ("kind", "min_samples", "method"),
    [
        *((kind, least, method) for kind in CASES for least in (1, 2) for method in ("eom", "leaf")),
        # From 3 on a row's core distance is the weight of several edges. These clusters do not depend on their order.
        *((kind, least, "eom") for kind in ("moons", "wide") for least in (5, 20)),
    ],
)
def test_sklearns_labels_are_the_kernels(in_process: Blocked, kind: str, min_samples: int, method: Any) -> None:
    df, grid = in_process(CASES[kind], 3), HdbscanParameters(SIZES, min_samples, method)
    truth, found = own(df, grid), fit_hdbscan_library(df, grid, SklearnHdbscan())
    assert found.sizes == truth.sizes
    assert max(found.sizes) > 1
    (labels, strengths), (exact, theirs) = rows_of(found), rows_of(truth)
    # Numbers too: clusters are numbered by their smallest image_id.
    assert np.array_equal(labels, exact)
    assert np.allclose(strengths, theirs, atol=1e-5)
    assert (strengths[labels < 0] == 0).all()


def test_where_edges_are_equal_single_rows_fall_to_a_cluster_or_not(in_process: Blocked) -> None:
    """The kernels remove edges of one weight together, the library one after the other."""
    df, grid = in_process(blobs(), 3), HdbscanParameters(SIZES, 5)
    labels, exact = (rows_of(one)[0] for one in (fit_hdbscan_library(df, grid, SklearnHdbscan()), own(df, grid)))
    other = labels != exact
    assert 0 < other.sum() <= 0.01 * labels.size
    assert ((labels < 0) | (exact < 0))[other].all()


def test_another_min_samples_gives_other_labels(in_process: Blocked) -> None:
    """So the test above would see a row that counts twice, or not at all."""
    df = in_process(blobs(), 3)
    labels = [rows_of(fit_hdbscan_library(df, HdbscanParameters((12,), m), SklearnHdbscan()))[0] for m in (4, 5, 6)]
    assert not np.array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[1], labels[2])


def test_on_spark_all_rows_are_one_task(on_spark: Blocked) -> None:
    x, grid = blobs(900), HdbscanParameters(SIZES, 2)
    found = fit_hdbscan_library(on_spark(x, 3), grid, SklearnHdbscan())
    assert found.df.rdd.getNumPartitions() == 1
    labels, _ = rows_of(found)
    assert np.array_equal(labels, rows_of(own(on_spark(x, 3), grid))[0])
    found.df.unpersist()


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_fewer_rows_than_two_clusters_take_are_noise(in_process: Blocked, n: int) -> None:
    """As by the kernels, which the library's own refusals of few rows do not keep from it."""
    df, grid = in_process(blobs(40)[:n], 1), HdbscanParameters((5, 30), 7)
    found = fit_hdbscan_library(df, grid, SklearnHdbscan())
    assert found.sizes == own(df, grid).sizes == (0, 0)
    labels, strengths = rows_of(found)
    assert (labels == -1).all()
    assert (strengths == 0).all()


def test_more_neighbours_than_rows(in_process: Blocked) -> None:
    x = np.concatenate([blobs(12) * np.float32(0.01), blobs(12) * np.float32(0.01) + np.float32(50)])
    df, grid = in_process(x, 1), HdbscanParameters((5,), 200)
    found = fit_hdbscan_library(df, grid, SklearnHdbscan())
    assert np.array_equal(rows_of(found)[0], rows_of(own(df, grid))[0])


def test_equal_rows_are_taken(in_process: Blocked) -> None:
    """What labels they get is the library's to say; they are labels, and strengths are shares."""
    x = np.concatenate([np.repeat(blobs(30), 8, axis=0), blobs(60)])
    labels, strengths = rows_of(fit_hdbscan_library(in_process(x, 2), HdbscanParameters((5,), 5), SklearnHdbscan()))
    assert labels.min() >= -1
    assert set(labels[labels >= 0].tolist()) == set(range(labels.max() + 1))
    assert ((strengths >= 0) & (strengths <= 1)).all()


def test_rows_that_do_not_fit_one_task_are_refused(in_process: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "TASK_BYTES", 300 * 16)
    asked = HdbscanParameters((5,), 5)
    fit_hdbscan_library(in_process(blobs(300)), asked, SklearnHdbscan())
    with pytest.raises(
        MotorpoolError, match=r"engine: sklearn: .* at most 300 of 4 columns .* there are 301: take few"
    ):
        fit_hdbscan_library(in_process(blobs(301)), asked, SklearnHdbscan())


def test_no_rows_and_values_beyond_float32_squares(in_process: Blocked) -> None:
    asked = HdbscanParameters((5,), 5)
    with pytest.raises(ValueError, match="there are no rows"):
        fit_hdbscan_library(in_process(blobs(10)[:0], 1), asked, SklearnHdbscan())
    with pytest.raises(UnfitError, match="too large for distances in float32"):
        fit_hdbscan_library(in_process(blobs(50) * np.float32(1e30)), asked, SklearnHdbscan())


# -- cuML --------------------------------------------------------------------------------------------


@pytest.fixture
def cuml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A stand-in that has memory for so many fits, and a device of 1 GiB."""
    cluster = Cluster(fits=getattr(request, "param", 2**20))
    monkeypatch.setitem(sys.modules, "cuml", ModuleType("cuml"))
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)  # type: ignore[arg-type]
    monkeypatch.setitem(devices.DEVICES, "cupy", StrictDevice)
    return cluster


@pytest.mark.parametrize("away", [0.0, 3000.0])
def test_cumls_hdbscan_is_called_as_it_wants(cuml: Cluster, in_process: Blocked, away: float) -> None:
    x = blobs() + np.float32(away)
    df, grid = in_process(x, 3), HdbscanParameters(SIZES, 5, "leaf")
    found, truth = (fit_hdbscan_library(df, grid, by) for by in (CumlHdbscan(), SklearnHdbscan()))
    assert found.sizes == truth.sizes
    for mine, theirs in zip(rows_of(found), rows_of(truth), strict=True):
        assert np.allclose(mine, theirs, atol=1e-4)
    # It does not count the row itself; and rows come about their mean, so that products keep their digits.
    assert cuml.hdbscans == [(size, 4, "leaf") for size in SIZES]
    assert cuml.farthest < 40


def test_cuml_has_no_min_samples_of_the_row_alone(cuml: Cluster) -> None:
    with pytest.raises(ValueError, match="min_samples = 1: cuML takes 2 or more"):
        CumlHdbscan().fit(blobs(), 5, 1, "eom")
    assert cuml.hdbscans == []


def test_a_device_that_is_too_small_is_asked_for_nothing(cuml: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(300)
    need = hdbscan_bytes(300, 4, 5)
    monkeypatch.setitem(devices.DEVICES, "cupy", lambda: StrictDevice(need))
    CumlHdbscan().fit(x, 5, 5, "eom")
    assert len(cuml.hdbscans) == 1
    monkeypatch.setitem(devices.DEVICES, "cupy", lambda: StrictDevice(need - 1))
    with pytest.raises(MotorpoolError, match=r"engine: cuml: HDBSCAN of 300 rows of 4 columns .* are free: let fewer"):
        CumlHdbscan().fit(x, 5, 5, "eom")
    assert len(cuml.hdbscans) == 1


@pytest.mark.parametrize("cuml", [1], indirect=True)
def test_out_of_memory_all_the_same_is_an_error_and_no_labels(cuml: Cluster, in_process: Blocked) -> None:
    """The first model of the grid was fitted; it is not written either."""
    with pytest.raises(MotorpoolError, match=r"more than the 1,024 MiB that were free: let fewer tasks share it"):
        fit_hdbscan_library(in_process(blobs()), HdbscanParameters((5, 12), 5), CumlHdbscan())
    assert len(cuml.hdbscans) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("x", [blobs(), moons(), blobs(2000, 24, 5)], ids=["blobs", "moons", "wide"])
def test_cuml_on_a_gpu_agrees_with_the_kernels(in_process: Blocked, x: np.ndarray) -> None:
    """Its tree is of nearest neighbours and float32 distances: nearly the same clusters, not the same rows in each."""
    from sklearn.metrics import adjusted_rand_score

    df, grid, by = in_process(x, 3), HdbscanParameters(SIZES, 5), CumlHdbscan()
    truth: Hdbscan = SklearnHdbscan()
    for mine, exact in zip(
        rows_of(fit_hdbscan_library(df, grid, by))[0].T, rows_of(fit_hdbscan_library(df, grid, truth))[0].T, strict=True
    ):
        assert adjusted_rand_score(mine, exact) > 0.95
