"""What a person reads when a task has failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from motorpool.errors import CaseError, LakeError, TaskMemoryError
from motorpool.stages.context import explained


def in_a_task(spark: SparkSession, fail: Callable[[], object]) -> None:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fail()
        yield from batches

    with explained():
        spark.range(3).mapInArrow(run, "id BIGINT").collect()


@pytest.mark.parametrize(("memory", "shown"), [("refused", "ArrayMemoryError"), ("killed", "exited unexpectedly")])
def test_a_task_without_memory_says_what_to_raise(spark: SparkSession, memory: str, shown: str) -> None:
    def take_all() -> None:
        if memory == "refused":
            np.ones((2**24, 2**24))
        # As the kernel does to the process that takes most.
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TaskMemoryError, match=r"spark\.executor\.memoryOverhead") as raised:
        in_a_task(spark, take_all)
    assert shown in str(raised.value)
    assert raised.value.__cause__ is not None
    assert "Traceback" not in str(raised.value)


FULL_HEAP = """
import sys
from motorpool.errors import TaskMemoryError
from motorpool.session import build_session
from motorpool.stages.context import explained

spark = build_session({"spark.driver.memory": "600m", "spark.master": "local[1]"}, delta=False)
try:
    with explained():
        # Kept rows: after a failure Spark plans them again, and in a JVM that ends that fails in a way of its own.
        spark.range(0, 1, 1, 1).selectExpr("repeat(string(id), 2000000000) AS text").cache().count()
except TaskMemoryError as exc:
    print(exc)
    sys.exit(7)
"""


def test_a_full_heap_says_so_though_the_jvm_is_gone() -> None:
    found = subprocess.run([sys.executable, "-c", FULL_HEAP], capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 7, found.stderr
    assert "OutOfMemoryError: Java heap space. On one machine raise spark.driver.memory" in found.stdout
    assert "Its log is /" in found.stdout


def test_an_executor_that_ended_for_its_heap_says_which_memory_to_raise() -> None:
    lost = (
        "ExecutorLostFailure (executor 0 exited caused by one of the running tasks) Reason: Command exited with code 52"
    )
    with pytest.raises(TaskMemoryError, match=r"on a cluster spark\.executor\.memory\."), explained():
        raise PySparkException(lost)


def test_an_error_on_purpose_comes_as_itself(spark: SparkSession) -> None:
    def refuse() -> None:
        raise CaseError("row 7 of the case: MemoryError is only a word here")

    with pytest.raises(CaseError, match="row 7 of the case"):
        in_a_task(spark, refuse)
    with pytest.raises(LakeError, match="MemoryError"), explained():
        raise LakeError("no table MemoryError")


def test_any_other_failure_stays_what_it_is(spark: SparkSession) -> None:
    def divide() -> None:
        raise ZeroDivisionError("nothing to share")

    with pytest.raises(PySparkException, match="nothing to share"):
        in_a_task(spark, divide)
