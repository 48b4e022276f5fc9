"""What a person reads when a task has failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from motorpool.backend.protocol import CpuBackend
from motorpool.errors import CaseError, LakeError, TaskMemoryError
from motorpool.neighbours.search import Wanted, search
from motorpool.neighbours.shards import arrange
from motorpool.pipeline import context
from motorpool.pipeline.context import explained
from motorpool.spark import blocks, session
from motorpool.spark.jvm.start_failures import why_not


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
from motorpool.spark.session import build_session
from motorpool.neighbours.search import Wanted, search
from motorpool.neighbours.shards import arrange
from motorpool.pipeline import context
from motorpool.pipeline.context import explained
from motorpool.spark.jvm.start_failures import why_not

spark = build_session({"spark.driver.memory": "600m", "spark.master": "local[1]"}, delta=False)
try:
    with explained():
        # Kept rows: after a failure Spark plans them again, and in a JVM that ends that fails in a way of its own.
        spark.range(0, 1, 1, 1).selectExpr("repeat(string(id), 2000000000) AS text").cache().count()
except TaskMemoryError as exc:
    print(exc)
    sys.exit(7)
"""


@pytest.mark.slow
def test_a_full_heap_says_so_though_the_jvm_is_gone() -> None:
    found = subprocess.run([sys.executable, "-c", FULL_HEAP], capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 7, found.stderr
    assert "OutOfMemoryError: Java heap space. On one machine raise spark.driver.memory" in found.stdout
    assert "Its log is /" in found.stdout


HEAP_ERROR = "26/11/28 ERROR Executor: Exception in task 3\njava.lang.OutOfMemoryError: Java heap space\n"


@pytest.fixture
def jvm_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The log of a JVM that goes on after a full heap, as far as this process knows."""
    log = tmp_path / "motorpool-spark-x.log"
    log.write_text("started\n")
    monkeypatch.setattr(session, "_jvm_log", log)
    monkeypatch.setattr(context, "_PATIENCE", 0.1)
    return log


def log_and_raise(jvm_log: Path, error: Exception) -> None:
    """A step in which the heap is full, and which fails."""
    with explained():
        jvm_log.write_text(jvm_log.read_text() + HEAP_ERROR)
        raise error


def test_a_heap_error_of_an_earlier_step_explains_nothing(jvm_log: Path) -> None:
    jvm_log.write_text(HEAP_ERROR)
    with pytest.raises(ConnectionRefusedError), explained():
        raise ConnectionRefusedError("the JVM was ended from outside")


def test_a_heap_error_that_spark_recovered_from_explains_no_other_error(jvm_log: Path) -> None:
    for error in (ValueError("x is negative"), PySparkException("a task failed: no space left on device")):
        with pytest.raises(type(error)) as caught:
            log_and_raise(jvm_log, error)
        assert caught.value is error


def test_a_heap_error_of_this_step_explains_a_lost_jvm(jvm_log: Path) -> None:
    with pytest.raises(TaskMemoryError, match=r"Java heap space\. On one machine raise") as caught:
        log_and_raise(jvm_log, ConnectionRefusedError("[Errno 111] Connection refused"))
    assert str(caught.value).endswith(f"Its log is {jvm_log}")


LOGS = """
import sys
from motorpool.spark import session
from motorpool.errors import EnvironmentMissingError

settings = {"spark.master": "local[1]", "spark.driver.memory": "600m"}
if sys.argv[1] == "no start":
    try:
        session.build_session({**settings, "spark.driver.memory": "abc"}, delta=False)
    except EnvironmentMissingError as exc:
        sys.exit(str(exc))
session.build_session(settings, delta=False).range(3).count()
assert session._jvm_log.is_file()
raise RuntimeError("the run fails")
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["fails", "no start"])
def test_a_log_stays_behind_only_where_an_error_names_it(tmp_path: Path, end: str) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", LOGS, end], capture_output=True, text=True, check=False, timeout=300, env=env
    )
    assert found.returncode == 1
    left = [str(p) for p in tmp_path.glob("motorpool-spark-*")]
    if end == "fails":
        assert "the run fails" in found.stderr
        assert left == []
    else:
        assert "Spark did not start: Invalid maximum heap size: -Xmxabc: set spark.driver.memory" in found.stderr
        assert [f"Spark's log is {file}" in found.stderr for file in left] == [True]
        assert found.stdout == ""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            'Exception in thread "main" java.io.FileNotFoundException: /proc/ivy/cache/x.xml (No such file or '
            "directory)\n\tat java.base/java.io.FileOutputStream.open0(Native Method)",
            "java.io.FileNotFoundException: /proc/ivy/cache/x.xml (No such file or directory): Ivy, which fetches",
        ),
        ("java.lang.IllegalArgumentException: basedir must be absolute: ?/.ivy2/local", "set spark.jars.ivy to one"),
        ("\t\t::          UNRESOLVED DEPENDENCIES         ::", "could not be fetched from Maven Central"),
        (
            "Invalid maximum heap size: -Xmxabc\nError: Could not create",
            "Invalid maximum heap size: -Xmxabc: set spark.dr",
        ),
        ("Could not reserve enough space for 9KB object heap", "set spark.driver.memory to less"),
        ("java.net.BindException: Cannot assign requested address: x", "set spark.driver.bindAddress"),
        ("org.apache.spark.SparkException: Could not parse Master URL: 'foo'", "set spark.master to local"),
        (
            "WARN x\njava.lang.NumberFormatException: Size must be in bytes\n\tat y",
            "NumberFormatException: Size must be",
        ),
        ("", "its log names no error"),
    ],
)
def test_why_spark_did_not_start(said: str, expected: str) -> None:
    assert expected in why_not(said)
    assert "\n" not in why_not(said)


def test_a_frame_whose_job_fails_is_not_kept(spark: SparkSession) -> None:
    def fail(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        raise ValueError("no rows today")
        yield from batches

    def held() -> set[int]:
        return {int(i) for i in spark.sparkContext._jsc.getPersistentRDDs().keySet()}

    before, broken = held(), spark.range(5).mapInArrow(fail, "id BIGINT")
    with pytest.raises(PySparkException, match="no rows today"):
        blocks.computed(broken)
    assert not broken.storageLevel.useMemory
    with pytest.raises(PySparkException, match="no rows today"), blocks.kept(broken):
        broken.count()
    assert not broken.storageLevel.useMemory
    assert held() <= before
    with blocks.kept(spark.range(5)) as good:
        assert good.storageLevel.useMemory
    assert not good.storageLevel.useMemory


def test_a_search_that_fails_keeps_no_frame(spark: SparkSession, wide: Callable[..., DataFrame]) -> None:
    """`search` persists what its first pass has found, for the second: whichever fails, nothing stays."""

    class Broken(CpuBackend):
        def sweep(self, *args: object, **more: object) -> None:
            raise ValueError("no pairs today")

    def held() -> set[int]:
        return {int(i) for i in spark.sparkContext._jsc.getPersistentRDDs().keySet()}

    x = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    with blocks.kept(blocks.gather(wide(2, vector=x))) as block_df:
        arranged = arrange(block_df, "euclidean", 1)
        arranged.pieces.count()
        before = held()
        with pytest.raises(PySparkException, match="no pairs today"):
            search(arranged, Wanted(k=3), lambda text: None, Broken())
        assert held() == before
        arranged.release()


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
