"""What a person reads when a task has failed."""

from __future__ import annotations

import os
import signal
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
