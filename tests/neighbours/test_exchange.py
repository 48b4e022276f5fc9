"""Tasks get the same of shards by files as by Spark's shuffle, and the files go."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession

from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours import exchange, shards
from motorpool.neighbours.alike import find_alike_rows
from motorpool.neighbours.exchange import Piece, arrays_of, ask, given, of_kinds, one_of, pack_state, stored, together
from motorpool.neighbours.queries import nearest_rows
from motorpool.neighbours.search import COUNTS, FOUND, GAPS, IDS, search
from motorpool.neighbours.shards import arrange
from motorpool.outliers.local import local_outlier_factor
from motorpool.pipeline.context import explained
from motorpool.spark import block_files
from motorpool.spark.blocks import Batches

# Workers cannot import a test's module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPS, LEAST = (0.6, 1.1), (4, 9)


@pytest.fixture
def folders(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tasks' files lie, until a test goes `by_shuffle`."""
    names = iter(range(10_000))
    monkeypatch.setattr(block_files, "_local_folder", lambda _: tmp_path / f"blocks-{next(names)}")
    return tmp_path


def by_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_files, "_local_folder", lambda _: None)


def clouds(n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.uniform(-6, 6, (5, 4))[rng.integers(0, 5, n)] + rng.normal(size=(n, 4)) * 0.4
    x[: n // 8] = rng.uniform(-8, 8, (n // 8, 4))
    x[n - 20 :] = x[:20]
    return x.astype(np.float32)


def all_that_shards_find(df: DataFrame, more: DataFrame) -> list[np.ndarray]:
    """What every way over shards finds, as arrays whose order is that of the ids."""

    def table(found: DataFrame, *by: str) -> list[np.ndarray]:
        rows = found.toArrow().sort_by([(name, "ascending") for name in by])
        return [np.array(rows.column(name).to_pylist()) for name in rows.column_names]

    arranged = arrange(df, "euclidean", 0)
    state = search(arranged, Wanted(EPS, 9, 6))
    pairs = fit_dbscan(arranged, state, EPS, DbscanParameters(EPS, LEAST))
    tree = fit_hdbscan(arranged, state, HdbscanParameters((5, 20), 4))
    near = nearest_rows(arranged, more, 3, seed=0)
    alike = find_alike_rows(df, 1e-3, 10, 0)
    found = [
        *(array for _, _, array in sorted(arrays_of(state, IDS, GAPS, FOUND, COUNTS), key=lambda found: found[:2])),
        *table(local_outlier_factor(arranged, state, 5), "image_id"),
        *table(near, "image_id"),
        *table(alike.partners, "image_id", "other_id"),
        alike.groups,
        tree.tree.distance,
        *(flat.labels for flat in tree.flat),
    ]
    for labelled in (pairs, tree.labelled):
        blocks = [b for batch in labelled.df.toArrow().to_batches() for b in labelled.blocks_of(batch)]
        order = np.argsort(np.concatenate([b.ids for b in blocks]))
        found += [np.concatenate([b.labels for b in blocks])[order], np.array(labelled.sizes)]
        labelled.df.unpersist()
    near.unpersist()
    alike.release()
    state.unpersist()
    arranged.release()
    return found


def test_files_give_what_the_shuffle_gives(
    on_spark: Callable[..., DataFrame], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_shard_rows", lambda *_: 300)
    x = clouds(1000)
    df, more = on_spark(x, 3), on_spark(clouds(70) + np.float32(0.01), 2)
    by_files = all_that_shards_find(df, more)
    gc.collect()
    assert list(folders.iterdir()) == []
    by_shuffle(monkeypatch)
    shuffled = all_that_shards_find(df, more)
    assert len(by_files) == len(shuffled)
    for here, there in zip(by_files, shuffled, strict=True):
        np.testing.assert_array_equal(here, there)


def counted(pieces: Iterator[Piece]) -> Batches:
    """A row for a task: its pieces by shard, kind and number, and the sum of what they hold."""
    told = sorted((p.shard, p.kind, p.chunk, len(p.ids), float(exchange.load(p.data).sum())) for p in pieces)
    yield pa.RecordBatch.from_arrays([pa.array([str(told)])], names=["told"])


@pytest.mark.parametrize("files", [True, False])
def test_tasks_get_what_they_ask_for_alone(
    spark: SparkSession, folders: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    if not files:
        by_shuffle(monkeypatch)
    some = stored(spark.createDataFrame(pa.Table.from_batches([pack_state(s, "a", np.arange(s)) for s in range(4)])))
    others = given(some, [pack_state(s, k, np.full(2, s)) for s in (1, 3) for k in ("b", "c")])
    assert len(list(folders.iterdir())) == (2 if files else 0)

    def told(frames: list[DataFrame], tasks: list[list[int]]) -> list[str]:
        found = ask(frames, tasks, counted, "told STRING")
        assert found.rdd.getNumPartitions() == len(tasks)
        return [row["told"] for row in found.collect()]

    asked = told([some, of_kinds(others, "c")], [[0, 1], [3], [2, 1]])
    assert asked == [
        str([(0, "a", 0, 0, 0.0), (1, "a", 0, 0, 0.0), (1, "c", 0, 0, 2.0)]),
        str([(3, "a", 0, 0, 3.0), (3, "c", 0, 0, 6.0)]),
        str([(1, "a", 0, 0, 0.0), (1, "c", 0, 0, 2.0), (2, "a", 0, 0, 1.0)]),
    ]
    # A task whose shard has nothing gets nothing.
    assert told([of_kinds(others, "b")], [[0], [1]]) == [str([]), str([(1, "b", 0, 0, 2.0)])]
    both = exchange.moved(together(some, others), 10)
    assert {row["shard"] for row in both.collect()} == {10, 11, 12, 13}
    assert told([both], [[13]]) == [str([(13, "a", 0, 0, 3.0), (13, "b", 0, 0, 6.0), (13, "c", 0, 0, 6.0)])]
    array = one_of(both, "b")
    assert array is not None
    assert array.tolist() in ([1, 1], [3, 3])
    assert one_of(both, "none") is None
    del some, others, both
    gc.collect()
    assert list(folders.iterdir()) == []


def test_what_asks_keeps_the_files(spark: SparkSession, folders: Path) -> None:
    state = stored(spark.createDataFrame(pa.Table.from_batches([pack_state(s, "a", np.ones(3)) for s in range(2)])))
    asked = ask([state], [[0], [1]], counted, "told STRING")
    del state
    gc.collect()
    assert asked.count() == 2
    del asked
    gc.collect()
    assert list(folders.iterdir()) == []


def test_a_failed_task_leaves_no_file(spark: SparkSession, folders: Path) -> None:
    def fail(pieces: Iterator[Piece]) -> Batches:
        yield pack_state(0, "a", np.ones(3))
        raise ValueError("of the task")

    state = stored(spark.createDataFrame(pa.Table.from_batches([pack_state(0, "a", np.ones(3))])))
    with pytest.raises(Exception, match="of the task"), explained():
        stored(ask([state], [[0]], fail, exchange.STATE))
    del state
    gc.collect()
    assert list(folders.iterdir()) == []
