"""Functions over batches that follow each other run in one process, and give what Spark gives from one to the next."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from motorpool.errors import MotorpoolError
from motorpool.pipeline.context import explained
from motorpool.spark import block_files, blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each

# Workers cannot import a test's module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

VECTORS = "image_id BIGINT, vector ARRAY<FLOAT>"


def vectors(ids: range) -> Batches:
    x = np.array(ids, np.float32)[:, None] * np.ones(3, np.float32)
    for start in range(0, len(ids), 5):
        some = pa.array(list(ids)[start : start + 5], pa.int64())
        yield pa.RecordBatch.from_arrays(
            [some, blocks.to_list_array(x[start : start + 5])], names=["image_id", "vector"]
        )


def doubled(batches: Batches) -> Batches:
    for batch in batches:
        x = 2 * blocks.to_matrix(batch.column("vector"))
        yield pa.RecordBatch.from_arrays([batch.column("image_id"), blocks.to_list_array(x)], names=batch.schema.names)


def pids(batches: Batches) -> Batches:
    """Each row with the processes that it has been through."""
    import os

    for batch in batches:
        before = batch.column("pids").to_pylist() if "pids" in batch.schema.names else [[]] * len(batch)
        now = pa.array([[*own, os.getpid()] for own in before], pa.list_(pa.int64()))
        yield pa.RecordBatch.from_arrays([batch.column("image_id"), now], names=["image_id", "pids"])


def total(state: blocks.Tally, batch: pa.RecordBatch) -> None:
    state.total = state.total + sum(x.sum(dtype=np.float64) for _, x in blocks.block_arrays(batch))


def tally() -> blocks.Tally:
    return blocks.Tally(np.zeros(()))


def test_links_give_what_spark_gives(spark: SparkSession) -> None:
    start = one_each(spark, [range(12), range(12, 13), range(13, 40)], vectors, VECTORS)
    linked = blocks.in_tasks(blocks.in_tasks(start, doubled, VECTORS), doubled, VECTORS)
    apart = start.mapInArrow(doubled, VECTORS).mapInArrow(doubled, VECTORS)
    assert blocks.chain(linked)
    assert not blocks.chain(apart)
    assert linked.collect() == apart.collect()
    assert blocks.gather(linked).collect() == blocks.gather(apart).collect()
    assert blocks.fold(blocks.gather(linked), tally, total).total == 4 * 3 * sum(range(40))


def test_a_chain_is_one_step_of_the_plan(spark: SparkSession) -> None:
    once = blocks.in_tasks(one_each(spark, [range(9)], vectors, VECTORS), pids, "image_id BIGINT, pids ARRAY<BIGINT>")
    twice = blocks.in_tasks(once, pids, "image_id BIGINT, pids ARRAY<BIGINT>")
    assert all(len(r["pids"]) == 2 and len(set(r["pids"])) == 1 for r in twice.collect())
    plan = twice._jdf.queryExecution().executedPlan().toString()
    assert plan.count("MapInArrow") == 1


def test_what_is_persisted_is_not_made_again(spark: SparkSession, tmp_path: Path) -> None:
    def counted(ids: range) -> Batches:
        (tmp_path / f"{len(list(tmp_path.iterdir()))}").touch()
        yield from vectors(ids)

    with blocks.kept(one_each(spark, [range(9)], counted, VECTORS)) as df:
        for _ in range(3):
            assert blocks.in_tasks(df, doubled, VECTORS).count() == 9
    assert len(list(tmp_path.iterdir())) == 1


def test_files_keep_rows_and_batches_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    local = spark.conf.get("spark.local.dir", None)
    spark.conf.set("spark.local.dir", str(tmp_path / "local"))
    try:
        made = blocks.gather(one_each(spark, [range(12), range(0), range(12, 40)], vectors, VECTORS), rows=8)
        rows = made.collect()
        with block_files.kept(made) as df:
            (folder,) = (tmp_path / "local").iterdir()
            assert len(list(folder.iterdir())) == 3
            assert df.schema == made.schema
            assert df.collect() == rows
            assert blocks.fold(df, tally, total).total == 3 * sum(range(40))
        assert list((tmp_path / "local").iterdir()) == []
        with pytest.raises(ValueError, match="of the caller"), block_files.kept(made):
            raise ValueError("of the caller")
        assert list((tmp_path / "local").iterdir()) == []
    finally:
        if local is None:
            spark.conf.unset("spark.local.dir")
        else:
            spark.conf.set("spark.local.dir", local)


def test_files_that_find_no_room_are_told(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is gone when tasks write."""
    made = blocks.gather(one_each(spark, [range(12)], vectors, VECTORS))
    monkeypatch.setattr(block_files, "_local_folder", lambda _: tmp_path / "gone" / "blocks")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(MotorpoolError, match=r"set spark\.local\.dir to a folder of another disk"), explained():  # noqa: SIM117
        with block_files.kept(made):
            pass


def test_rows_of_spark_are_kept_by_spark(spark: SparkSession) -> None:
    with block_files.kept(spark.range(5)) as df:
        assert df.storageLevel.useMemory
        assert df.count() == 5
