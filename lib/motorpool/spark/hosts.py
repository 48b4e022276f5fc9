"""A function run on every machine of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from pyspark.sql import SparkSession

from motorpool.spark import blocks
from motorpool.spark.blocks import Batches


def ask_hosts(spark: SparkSession, ask: Callable[[], Sequence[str]]) -> dict[str, list[str]]:
    """The strings that ``ask`` returns in tasks on each executor's host, every string once, by the host's name.

    The executors of now are asked, with two tasks for each slot, and none that joins later.
    """

    def run(batches: Batches) -> Batches:
        import socket

        for batch in batches:
            if len(batch):
                answers = pa.array([list(ask())], pa.list_(pa.string()))
                yield pa.RecordBatch.from_arrays([pa.array([socket.gethostname()]), answers], names=["host", "answers"])

    n = 2 * blocks.parallelism(spark)
    rows = spark.range(0, n, 1, n).mapInArrow(run, "host STRING, answers ARRAY<STRING>").distinct().collect()
    by_host: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: str(r["host"])):
        answers = by_host.setdefault(row["host"], [])
        answers += [answer for answer in row["answers"] if answer not in answers]
    return by_host
