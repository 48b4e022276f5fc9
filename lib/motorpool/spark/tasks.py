"""Independent computations on the driver's data, spread over the cluster."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType
from threadpoolctl import threadpool_limits

from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

T = TypeVar("T")

#: Products of numbers that the driver makes instead of tasks, at most: about a second of one core.
FEW_PRODUCTS = 4e9


def run_tasks(
    spark: SparkSession,
    costs: Sequence[float],
    run: Callable[[int], T],
    *,
    n_products: float = math.inf,
    imports: Sequence[str] = (),
) -> list[T]:
    """``run(i)`` for every i below len(costs), in Spark tasks of one core each; results in the order of i.

    ``costs`` are rough and relative: the dearest start first, so that no task ends long after the others.
    ``run`` travels to every task with all that it refers to; its results are picklable and small.
    All run here, one after the other on one core, where ``n_products`` of numbers that they take together are at most
    FEW_PRODUCTS: sooner than a task has started. ``imports`` names modules that ``run`` imports: the limit of one core
    holds for libraries that are loaded when it is set.
    """
    if n_products <= FEW_PRODUCTS:
        for name in imports:
            import_module(name)
        with threadpool_limits(limits=1):
            return [run(i) for i in range(len(costs))]
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    n_tasks = min(len(order), 4 * blocks.parallelism(spark))

    def task(batches: Batches) -> Batches:
        for batch in batches:
            for first in batch.column(0).to_pylist():
                for index in order[first::n_tasks]:
                    # Spark's own channels carry these bytes from our task to our driver; nothing foreign is loaded.
                    result = pickle.dumps(run(index), protocol=5)
                    yield pa.RecordBatch.from_arrays(
                        [pa.array([index], pa.int32()), pa.array([result], pa.binary())], names=["index", "result"]
                    )

    frame = spark.range(0, n_tasks, 1, n_tasks).mapInArrow(task, "index INT, result BINARY")
    found = {row["index"]: row["result"] for row in frame.collect()}
    return [pickle.loads(found[i]) for i in range(len(costs))]  # noqa: S301


def one_each(
    spark: SparkSession, items: Sequence[T], work: Callable[[T], Iterable[pa.RecordBatch]], schema: str | StructType
) -> DataFrame:
    """The rows, as ``schema`` says, that ``work`` makes of each of the driver's items: a task and a partition for each.
    They begin a chain (`blocks.in_tasks`).

    All items travel to every task, as does all that ``work`` refers to. Memory of a task: what ``work`` holds.
    """

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from work(items[number])

    return blocks.in_tasks(spark.range(0, len(items), 1, max(1, len(items))), run, schema)
