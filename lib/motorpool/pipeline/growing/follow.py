"""A folder of cases that goes on filling, as a stream: each case that is put into it is appended to the lake, once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from pyspark.sql import DataFrame

from motorpool.case import files
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import Appended, run_append

log = logging.getLogger(__name__)

#: The file by which a folder is known for a case.
PATHS = "images_paths.csv"
#: Seconds between two looks at the folder.
EVERY = 10
_FILES = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
#: Spark forgets, and leaves out, files that are so much older than the newest one: here none.
_NEVER = "36500d"


def follow(
    ctx: Context,
    folder: str,
    case_of: Callable[[str], CaseConfig],
    appended: Callable[[str, Appended], None],
    *,
    once: bool = False,
) -> None:
    """Append every case folder in ``folder``, and those that come, until the process ends; ``once``: until all are in.

    A case is there when its `images_paths.csv` is, so a folder is to be moved in as a whole. ``case_of`` makes a case
    of a folder's path, ``appended`` hears of each. Cases of one look are taken by the time of that file, then by name.

    This is a query of Structured Streaming, whose checkpoint in the lake's folder says which cases are done. Where it
    is stopped it goes on; a case that it then meets again adds nothing, as its images are in the lake (`run_append`):
    so each image is in the tables once. A case that is refused ends the query with that error, and comes first when it
    is started again. Memory of the driver: some 100 bytes for each case that has ever come.

    CaseError for a folder that is not there, ConfigError for a lake in a catalog, which has no folder.
    """
    if not files.is_folder(folder):
        raise CaseError(f"{files.redact(folder)}: there is no such folder to follow")
    root = ctx.lake.root
    if root is None:
        raise ConfigError(
            f"--follow: keeps what is done in the lake's folder, and {ctx.lake} is in a catalog: append its cases one "
            "by one"
        )
    failed: list[Exception] = []

    def add(batch: DataFrame, _: int) -> None:
        # A row for each new case.
        rows = batch.select("path", "modificationTime").orderBy("modificationTime", "path").collect()
        for path in (files.redact(r["path"]) for r in rows):
            case = path.removesuffix(f"/{PATHS}").removeprefix("file:")
            try:
                appended(case, run_append(ctx, case_of(case)))
            except Exception as exc:
                failed.append(exc)
                raise

    place = hashlib.sha256(folder.rstrip("/").encode()).hexdigest()[:16]
    found = (
        ctx.spark.readStream.format("binaryFile")
        .schema(_FILES)
        .option("maxFileAge", _NEVER)
        .option("ignoreMissingFiles", "true")
        .load(f"{folder.rstrip('/')}/*/{PATHS}")
    )
    writer = found.writeStream.foreachBatch(add).option("checkpointLocation", f"{root}/.growing/{place}")
    writer = writer.trigger(availableNow=True) if once else writer.trigger(processingTime=f"{EVERY} seconds")
    query = writer.start()
    try:
        query.awaitTermination()
    except Exception as exc:
        # Spark tells of it as of a failed query.
        raise failed[0] if failed else exc from None
    finally:
        query.stop()
