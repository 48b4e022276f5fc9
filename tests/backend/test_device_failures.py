"""A GPU without memory, one that vanishes, one that two tasks share, a kernel that refuses: never a wrong number.

Each is injected at the device, at every question that a kernel asks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from cases import blobs, run_of, write_case
from motorpool.backend import device as devices
from motorpool.backend import gaps
from motorpool.backend.library import LIBRARIES, LibraryEngine, SklearnDbscan, SklearnHdbscan
from motorpool.backend.protocol import CPU, ArrayBackend
from motorpool.cluster.density.cells import fit_dbscan_library
from motorpool.cluster.density.dbscan import DbscanParameters
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan_library
from motorpool.errors import MotorpoolError
from motorpool.kernels.cells.engines import SklearnEngine
from motorpool.kernels.pairs.geometry import prepare, to_gap
from motorpool.kernels.pairs.sweep import Side, Wanted
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.run import run_pipeline
from strict_arrays import FailingDevice, StrictDevice

X = blobs(90, 4).astype(np.float32)
LABELS = (np.arange(90)[:, None] % np.array([3, 5])).astype(np.int32)
BACKEND = ArrayBackend("failing")
LEVELS = to_gap(np.array([0.8, 2.0]), "euclidean")


class CUDARuntimeError(RuntimeError):
    """Named as cupy's, which is a RuntimeError too."""


LOST = CUDARuntimeError("cudaErrorDeviceUninitialized: the GPU has fallen off the bus")


# -- kernels that work in pieces ---------------------------------------------------------------------


def moments() -> list[Any]:
    found = BACKEND.moments()
    for block in (X[:60], X[60:]):
        found.update(block)
    return [found.stats().n, found.mean, found.scatter, found.min, found.max]


def gram() -> list[Any]:
    found = BACKEND.gram()
    for block in (X[:60], X[60:]):
        found.add(block)
    return [found.total()]


def lloyd() -> list[Any]:
    kernel = BACKEND.lloyd([X[[1]].astype(np.float64), X[[2, 40, 80]].astype(np.float64)], np.zeros(4))
    state = kernel.start()
    for rows in (np.arange(60), np.arange(60, 90)):
        kernel.add(state, rows, X[rows])
    return [state.counts, state.sums, state.inertia, [[row[1] for row in far] for far in state.far]]


def nearest() -> list[Any]:
    return list(BACKEND.nearest([X[:2], X[:5]]).label(X))


def scores() -> list[Any]:
    wide = X.astype(np.float64)
    sums = BACKEND.cluster_sums([3, 5], 4)
    sums.update(wide, LABELS)
    spread = BACKEND.cluster_spread(sums)
    spread.update(np.arange(90), wide, LABELS)
    return [sums.counts, sums.sums, spread.squared, spread.distance, spread.silhouette, spread.kept_ids]


PIECES = {kernel.__name__: kernel for kernel in (moments, gram, lloyd, nearest, scores)}


# -- kernels that work in tiles ----------------------------------------------------------------------


def cells() -> list[Any]:
    engine, every = BACKEND.engine(), np.ones((90, 1), bool)
    return [
        engine.core(X, 90, "euclidean", 2.0, (3, 9)).rows,
        engine.components(X, "euclidean", 2.0, every).rows,
        *engine.nearest(X[:30], X[30:], "euclidean", 2.0),
    ]


def sweep() -> list[Any]:
    wanted = Wanted((0.8, 2.0), 9, 4)
    sides = [
        Side.fresh(prepare(ids, X[ids], "euclidean"), LEVELS, wanted) for ids in (np.arange(50), np.arange(50, 90))
    ]
    for one, other in ((0, 0), (0, 1), (1, 1)):
        BACKEND.sweep(sides[one], sides[other], LEVELS, wanted, False)
    return [array for side in sides for array in (side.counts, side.gaps, side.ids)]


def products() -> list[Any]:
    rows, out = prepare(np.arange(90), X, "euclidean"), np.zeros((90, 90), np.float32)
    multiply = BACKEND.multiplier(rows, rows)
    assert multiply is not None
    multiply(slice(0, 90), slice(0, 90), 1e9, out)
    return [out]


TILES = {kernel.__name__: kernel for kernel in (cells, sweep, products)}


def asked_with(monkeypatch: pytest.MonkeyPatch, device: StrictDevice, kernel: Callable[[], list[Any]]) -> list[Any]:
    monkeypatch.setitem(devices.DEVICES, "failing", lambda: device)
    return kernel()


def same(found: Iterable[Any], truth: Iterable[Any]) -> None:
    for mine, theirs in zip(found, truth, strict=True):
        if isinstance(theirs, np.ndarray):
            assert np.allclose(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
        else:
            assert mine == theirs


def questions(monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], list[Any]]) -> tuple[list[Any], int]:
    """What a kernel gives on a device that fails in nothing, and how often it asks it."""
    device = FailingDevice()
    truth = asked_with(monkeypatch, device, kernel)
    assert device.asked > 1
    return truth, device.asked


@pytest.mark.parametrize("kernel", PIECES.values(), ids=PIECES)
def test_memory_that_runs_out_at_any_moment_ends_in_smaller_pieces(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], list[Any]]
) -> None:
    """Nothing is counted twice, or not at all. Where no piece is at work, the error goes on to the task's end."""
    truth, asked = questions(monkeypatch, kernel)
    smaller = 0
    for number in range(asked):
        device = FailingDevice({number: MemoryError("Out of memory allocating 1,024 bytes")})
        try:
            same(asked_with(monkeypatch, device, kernel), truth)
        except MemoryError:
            continue
        smaller += device.asked > asked
    assert smaller > asked // 3


@pytest.mark.parametrize("kernel", PIECES.values(), ids=PIECES)
def test_a_gpu_whose_memory_another_task_has_taken_meanwhile(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], list[Any]]
) -> None:
    """It said that all of it was free."""
    truth, asked = questions(monkeypatch, kernel)
    device = FailingDevice(room=400)
    same(asked_with(monkeypatch, device, kernel), truth)
    assert device.asked > asked
    with pytest.raises(MotorpoolError, match=r"no memory for a single row .* let fewer tasks share it"):
        asked_with(monkeypatch, FailingDevice(room=3), kernel)


@pytest.mark.parametrize("kernel", TILES.values(), ids=TILES)
def test_memory_that_runs_out_in_a_tile_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], list[Any]]
) -> None:
    """The task fails with it, and begins anew: its rows come from Spark again."""
    monkeypatch.setattr(gaps, "TILE", 32)
    truth, asked = questions(monkeypatch, kernel)
    for number in range(0, asked, max(1, asked // 40)):
        with pytest.raises(MemoryError, match="Out of memory"):
            asked_with(monkeypatch, FailingDevice({number: MemoryError("Out of memory")}), kernel)
    same(asked_with(monkeypatch, FailingDevice(), kernel), truth)


ALL = PIECES | TILES


@pytest.mark.parametrize("error", [LOST, NotImplementedError("a kernel refuses")], ids=["vanishes", "refuses"])
@pytest.mark.parametrize("kernel", ALL.values(), ids=ALL)
def test_a_gpu_that_vanishes_and_a_kernel_that_refuses_give_no_result(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], list[Any]], error: Exception
) -> None:
    monkeypatch.setattr(gaps, "TILE", 32)
    _, asked = questions(monkeypatch, kernel)
    for number in range(0, asked, max(1, asked // 40)):
        with pytest.raises(type(error), match=str(error)):
            asked_with(monkeypatch, FailingDevice({number: error}), kernel)


# -- libraries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LOST, MemoryError("std::bad_alloc"), NotImplementedError("a kernel refuses")])
def test_a_library_that_fails_late_gives_no_labels(
    in_process: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One of the later calls of the engine fails; what the others gave is not taken."""
    df, calls = in_process(X, 2), [0]

    def failing(fit: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            calls[0] += 1
            if calls[0] == 3:
                raise error
            return fit(self, *args)

        return call

    for library in (SklearnDbscan, SklearnHdbscan):
        monkeypatch.setattr(library, "fit", failing(library.fit))
    engine = LibraryEngine(LIBRARIES["sklearn"](), SklearnEngine())
    grid = DbscanParameters((1.0, 2.0), (3, 9))
    with pytest.raises(type(error), match=str(error)):
        fit_dbscan_library(df, grid, metric="euclidean", seed=0, engine=engine, n_cells=3)
    assert calls[0] == 3
    calls[0] = 0
    with pytest.raises(type(error), match=str(error)):
        fit_hdbscan_library(df, HdbscanParameters((3, 5, 9), 4), SklearnHdbscan())
    assert calls[0] == 3


# -- through Spark, to the tables --------------------------------------------------------------------


def rigged(after: int, error: str, text: str) -> ArrayBackend:
    """The kernels over NumPy, on a device that fails ``after`` some copies to it: in Spark's own workers."""

    def rig(*_: object) -> str:
        from motorpool.backend import device

        class Rigged(device.HostDevice):
            asked = 0

            def put(self, x: np.ndarray) -> np.ndarray:
                Rigged.asked += 1
                if Rigged.asked > after:
                    base = MemoryError if error == "OutOfMemoryError" else RuntimeError
                    raise type(error, (base,), {})(text)
                return super().put(x)

        device.DEVICES["rigged"] = Rigged
        return "rigged"

    class Name(str):
        """Rigs the process that it comes to."""

        def __reduce__(self) -> Any:
            return rig, ()

    return ArrayBackend(Name(rig()))


STUDY: dict[str, Any] = {
    "features": [{"descriptor": "a"}],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [2, 3]},
            {"algorithm": "dbscan", "eps": [2.0], "min_samples": [4], "way": "cells"},
            {"algorithm": "hdbscan", "min_cluster_size": [8]},
        ]
    },
}


def tables_of(ctx: Context) -> dict[str, list[Any]]:
    asked = {"models": ["model_id", "status", "n_clusters", "n_noise"], "labels": ["model_id", "image_id", "cluster"]}
    return {
        table: sorted(tuple(row[c] for c in columns) for row in ctx.lake.rows(table, columns))
        for table, columns in asked.items()
    }


@pytest.fixture(scope="module")
def undisturbed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    """A case, and the tables of a run of it on the CPU."""
    folder = tmp_path_factory.mktemp("undisturbed")
    case = write_case(folder / "case", 120, {"a": blobs(120, 4)})
    ctx = run_of(spark, case, folder / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    return case, tables_of(ctx)


@pytest.mark.parametrize(
    ("after", "error", "text", "told"),
    [
        (0, "OutOfMemoryError", "Out of memory allocating 512 bytes", r"raise spark\.task\.resource\.gpu\.amount"),
        (9, "OutOfMemoryError", "Out of memory allocating 512 bytes", r"larger spark\.task\.resource\.gpu\.amount"),
        (9, "CUDARuntimeError", LOST.args[0], r"GPU failed each time .* fallen off the bus\. Nothing of"),
        (3, "CompileException", "nvrtc: error: invalid value", r"GPU failed each time .*nvrtc: error"),
    ],
    ids=["no memory", "no memory later", "vanishes", "refuses"],
)
def test_a_run_ends_with_a_clear_error_and_the_next_one_has_the_right_tables(
    spark: SparkSession, tmp_path: Path, undisturbed: Any, after: int, error: str, text: str, told: str
) -> None:
    case, wanted = undisturbed
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", **STUDY)
    ctx.backend = rigged(after, error, text)
    with pytest.raises(MotorpoolError, match=told) as raised, explained():
        run_pipeline(ctx)
    assert "Traceback" not in str(raised.value)
    if ctx.lake.exists("models"):
        assert set(tables_of(ctx)["models"]) < set(wanted["models"])
    ctx.backend = CPU
    run_pipeline(ctx)
    assert tables_of(ctx) == wanted
