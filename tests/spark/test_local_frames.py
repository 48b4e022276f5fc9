"""Frames in this process do what Spark's do, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as spark_functions

from local_frames import LocalFrame, LocalSession, functions, place, place_groups
from motorpool.neighbours import exchange
from motorpool.spark import blocks
from motorpool.spark.placement import place_groups as place_spark_groups
from motorpool.spark.tasks import run_tasks

SCHEMA = "shard INT, kind STRING, data BINARY"
ROWS = [(i % 3, "ab"[i % 2], bytes([i])) for i in range(12)]


def rows(df: Any) -> list[tuple]:
    return sorted(tuple(row) for row in df.collect())


def shouted(df: Any, schema: str = "shard INT, kind STRING") -> Any:
    # Workers do not have this file: a function within another travels whole.
    def shout(batches: blocks.Batches) -> blocks.Batches:
        for batch in batches:
            kinds = pa.array([k.upper() for k in batch.column("kind").to_pylist()])
            yield pa.RecordBatch.from_arrays([batch.column("shard"), kinds], names=["shard", "kind"])

    return df.mapInArrow(shout, schema)


STEPS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "select": lambda df, F, _: df.select("kind", F.lit(0).alias("chunk"), F.lit(b"").alias("ids"), "`data`"),
    "where": lambda df, F, _: df.where(F.col("kind") == "b").where(F.col("shard").isin(0, 2)),
    "change": lambda df, F, _: df.withColumn("shard", F.col("shard") + F.lit(5)),
    "drop": lambda df, F, _: df.drop("kind", "data"),
    "union": lambda df, F, _: df.unionByName(df.select("data", "kind", "shard").limit(3)),
    "join": lambda df, F, session: df.join(
        F.broadcast(session.createDataFrame([(0, 7), (0, 8), (2, 9)], "shard INT, task INT")), "shard"
    ),
    "map": lambda df, F, _: shouted(df.repartition(5)),
    "range": lambda df, F, session: session.range(0, 7, 1, 3),
}


@pytest.mark.parametrize("step", STEPS)
def test_rows_are_those_of_spark(spark: SparkSession, step: str) -> None:
    theirs = STEPS[step](spark.createDataFrame(ROWS, SCHEMA), spark_functions, spark)
    ours = STEPS[step](LocalSession().createDataFrame(ROWS, SCHEMA), functions, LocalSession())
    assert ours.columns == theirs.columns
    assert rows(ours) == rows(theirs)
    assert {type(v) for row in ours.collect() for v in row} == {type(v) for row in theirs.collect() for v in row}
    assert ours.toArrow().schema.types == theirs.toArrow().schema.types


def test_a_value_has_a_partition_of_its_own(spark: SparkSession) -> None:
    theirs = exchange.place(spark.createDataFrame(ROWS, SCHEMA), "shard", 3)
    ours = place(LocalSession().createDataFrame(ROWS, SCHEMA), "shard", 3)  # type: ignore[arg-type]
    found = theirs.rdd.glom().map(lambda part: sorted(tuple(row) for row in part)).collect()
    assert sorted(found) == sorted(sorted(zip(*part.to_pydict().values(), strict=True)) for part in ours.parts)
    assert len(found) == 3


def test_a_value_is_a_group_of_its_own_behind_one_shuffle(spark: SparkSession) -> None:
    def met(group: Any) -> Any:
        import pandas as pd
        from pyspark import TaskContext

        context = TaskContext.get()
        held = b"".join(sorted(group["data"]))
        part = context.partitionId() if context else -1
        return pd.DataFrame({"shard": [group["shard"].iloc[0]], "part": [part], "data": [held]})

    schema = "shard INT, part INT, data BINARY"
    theirs = place_spark_groups(spark.createDataFrame(ROWS, SCHEMA), "shard", 3).applyInPandas(met, schema)
    ours = place_groups(LocalSession().createDataFrame(ROWS, SCHEMA), "shard", 3).applyInPandas(met, schema)
    assert [(r[0], r[2]) for r in rows(theirs)] == [(r[0], r[2]) for r in rows(ours)]
    assert sorted(r[1] for r in rows(theirs)) == sorted(r[1] for r in rows(ours)) == [0, 1, 2]
    plan = theirs._jdf.queryExecution().executedPlan().toString()
    # The other exchanges bring the salts, of which there are few.
    assert plan.count("Exchange hashpartitioning(_salt") == 1


@pytest.mark.parametrize("merge_on_cluster", [False, True])
def test_a_fold_merges_in_the_order_of_partitions(spark: SparkSession, merge_on_cluster: bool) -> None:
    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        state.total += batch.column("id").to_pylist()

    def folded(df: Any) -> Any:
        # Of lists the sum is one after the other.
        start: Any = lambda: blocks.Tally([])  # type: ignore[arg-type]  # noqa: E731
        return blocks.fold(df, start, add, tasks=4, merge_on_cluster=merge_on_cluster).total

    theirs = folded(spark.range(0, 20, 1, 4))
    assert folded(LocalSession().range(0, 20, 1, 4)) == theirs == list(range(20))


def test_tasks_share_nothing_with_the_driver() -> None:
    met: list[int] = []

    def run(i: int) -> int:
        met.append(i)
        return len(met)

    assert run_tasks(LocalSession(), [1.0, 2.0, 3.0], run) == [1, 1, 1]  # type: ignore[arg-type]
    assert met == []


def test_columns_that_were_not_declared() -> None:
    df = LocalSession().createDataFrame(ROWS, SCHEMA)
    with pytest.raises(AssertionError, match="declared as"):
        shouted(df, "kind STRING, shard INT")


def test_rows_are_dealt_out_in_turn_and_merged_again() -> None:
    df = LocalFrame([pa.table({"id": np.arange(10)})], LocalSession())
    assert [len(part) for part in df.repartition(4).parts] == [3, 3, 2, 2]
    assert [len(part) for part in df.repartition(4).coalesce(2).parts] == [6, 4]
    assert df.repartition(4).coalesce(9).count() == 10
