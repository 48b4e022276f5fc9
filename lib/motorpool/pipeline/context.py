"""What every stage works with: the config, the session, the lake, and a way to say what is going on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pyspark.sql import SparkSession

from motorpool.backend.protocol import CPU, Backend
from motorpool.case.sources import reads_delta
from motorpool.config.run import Config
from motorpool.errors import (
    AnnotationError,
    CaseError,
    EnvironmentMissingError,
    LakeError,
    MotorpoolError,
    TaskMemoryError,
)
from motorpool.lake import Lake
from motorpool.pipeline.accelerator import choose_backend
from motorpool.pipeline.pace import Pace, timed
from motorpool.pipeline.planning.sizes import is_small
from motorpool.pipeline.shared_folder import check_reach
from motorpool.spark.jvm.java import check_java
from motorpool.spark.session import build_session, is_submitted, jvm_ended, jvm_log_end, jvm_log_since, keep_jvm_log

log = logging.getLogger("motorpool")

_RAISED_IN_TASK = re.compile(r"motorpool\.errors\.(\w+): (.*?)(?:\n\n|\n\s+at |\Z)", re.DOTALL)
_ERRORS: dict[str, type[MotorpoolError]] = {
    e.__name__: e for e in (AnnotationError, CaseError, LakeError, EnvironmentMissingError, MotorpoolError)
}
#: How a full heap of a JVM shows: its own error, and the status with which Spark then ends it.
_NO_HEAP = re.compile(r"OutOfMemoryError: (?:Java heap space|GC overhead limit exceeded)|exited with code 52\b")
#: How a JVM that has gone away shows to those that it worked for.
_LOST = re.compile(
    r"Py4JNetworkError|Answer from Java side is empty|Connection(?:Refused|Reset)?Error|Connection (?:refused|reset)|"
    r"EOFError|SparkContext (?:was|has been) shut ?down|stopped SparkContext|ExecutorLostFailure"
)
#: Seconds that a JVM may take to end after a full heap.
_PATIENCE = 5.0
#: How any other lack of memory shows: Python's and Java's errors, what loading a library says, and a killed process.
_NO_MEMORY = re.compile(
    r"\w*(?:MemoryError|OutOfMemory\w*)|[Cc]annot allocate memory|failed to map segment|can't start new thread|"
    r"exit code 137|Python worker exited unexpectedly|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|"
    r"std::bad_alloc"
)
#: Lines of code in a traceback of Python's: an error that passes by `except MemoryError` shows that line.
_CODE = re.compile(r'^  File "[^\n]*\n(?:    [^\n]*\n)*', re.MULTILINE)
#: How a GPU that has failed shows: cupy's errors of the driver, of its libraries and of compiling a kernel, and cuML's.
_GPU_FAILED = re.compile(
    r"(?:CUDA(?:Runtime|Driver)Error|\w*BLASError|NVRTCError|CompileException): [^\n]*|"
    r"\bcudaError\w+[^\n]*|CUDA error encountered[^\n]*"
)


@dataclass
class Context:
    """One run. ``spark`` belongs to the caller, who may go on using it."""

    config: Config
    spark: SparkSession
    lake: Lake
    #: What is going on, for whoever shows the progress.
    doing: str = ""
    #: How far the run is.
    pace: Pace = field(default_factory=Pace, repr=False)
    #: Where the arithmetic of tasks is done.
    backend: Backend = CPU
    #: What ends with the run: the hold on its lake.
    ending: ExitStack = field(default_factory=ExitStack, repr=False)

    @classmethod
    def start(cls, config: Config, *, verbose: bool = False, delta: bool = False, pace: Pace | None = None) -> Context:
        """A run in a session of its own or the active one; `close` ends it, as does the end of the process.

        With ``delta`` the session reads Delta tables, whatever the config says of the lake and the case.

        LakeError where the lake cannot be written, or is a Parquet lake that another process writes.
        """
        delta = delta or config.lake.format == "delta" or (config.case is not None and reads_delta(config.case))
        small = False
        if not is_submitted() and SparkSession.getActiveSession() is None:
            # Whoever lacks it need not hear of a start.
            check_java()
            small = is_small(config.lake, config.case)
        with timed("starting Spark"):
            spark = build_session(config.spark, delta=delta, verbose=verbose, small=small)
        # Both ask executors, whose tasks may fail like any other.
        with explained():
            check_reach(spark, config.lake)
            backend = choose_backend(spark, config)
        ctx = cls(config, spark, Lake(spark, config.lake), backend=backend, pace=pace or Pace())
        ctx.ending.enter_context(ctx.lake.held())
        return ctx

    def values(self, per_image: int) -> int | None:
        """How many values a table has at most that has so many for each image: what `Lake.replace` is told.

        None where tasks write however few there are: counting would take a Spark job.
        """
        return per_image * self.lake.count("images") if self.lake.sees_files else None

    def close(self) -> None:
        """Let others write to the lake; reading from it still works."""
        self.ending.close()


@contextmanager
def written_after(write: Callable[[], None]) -> Iterator[None]:
    """Write what waits when the block ends, by an error too: what has been fitted need not be fitted again.

    A run that is told to stop writes nothing more.
    """
    try:
        yield
    except Exception:
        write()
        raise
    write()


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error that a task raised on purpose back into itself, without Spark's wrapping.

    What failed for want of memory becomes a TaskMemoryError, which says what to change; what a GPU failed in becomes a
    MotorpoolError. The log of the JVM is asked where the JVM is lost and cannot tell itself, and only for what it holds
    since the block began: Spark recovers from many a full heap, which then is no reason for whatever fails later.
    """
    logged_before = jvm_log_end()
    try:
        yield
    except MotorpoolError:
        raise
    except Exception as exc:
        # A failed task arrives as PySparkException or Py4JJavaError, depending on the kind of write.
        found = _RAISED_IN_TASK.search(str(exc))
        if found and found[1] in _ERRORS:
            raise _ERRORS[found[1]](found[2].strip()) from exc
        heap, where = _NO_HEAP.search(str(exc)), None
        logged = _NO_HEAP.search(jvm_log_since(logged_before))
        if logged and (heap or _LOST.search(repr(exc)) or jvm_ended(_PATIENCE)):
            heap, where = logged, keep_jvm_log()
        if heap:
            raise TaskMemoryError(
                f"a Java process of Spark ran out of memory: {heap[0]}. On one machine raise spark.driver.memory, e.g. "
                "--set spark.driver.memory=8g; on a cluster spark.executor.memory. Started again, the run goes on "
                f"after the last step that was written{f'. Its log is {where}' if where else ''}"
            ) from exc
        told = _CODE.sub("", str(exc))
        short = _NO_MEMORY.search(told)
        if short:
            raise TaskMemoryError(
                f"a task ran out of memory, or was ended from outside, each time that Spark tried it: {short[0]}. Most "
                "of its memory is Python's: raise spark.executor.memoryOverhead (and spark.executor.pyspark.memory "
                "where it is set, to 1g or more for each task), or let fewer tasks share an executor by a smaller "
                "spark.executor.cores, or a GPU by a larger spark.task.resource.gpu.amount; on one machine set "
                "spark.master to local[1], or free memory. Started again, the run goes on after the last step that was "
                "written"
            ) from exc
        gpu = _GPU_FAILED.search(told)
        if gpu:
            raise MotorpoolError(
                f"accelerator: a task's GPU failed each time that Spark tried it: {gpu[0].strip()}. Nothing of that "
                "step was written. Look at the GPU (nvidia-smi, the system's log), or set accelerator: cpu. Started "
                "again, the run goes on after the last step that was written"
            ) from exc
        raise
