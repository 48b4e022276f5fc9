"""Cases that go on coming, as a stream: those put into a folder, or the rows of a Delta table, are appended once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from pyspark.sql import DataFrame

from motorpool.case import files
from motorpool.case.sources import DescriptorSource, Source, needs_spark, same_table, shown
from motorpool.case.spark_tables import quoted
from motorpool.config.run import CaseConfig, ColumnConfig, VectorColumnConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import Appended, run_append

log = logging.getLogger(__name__)

#: The file by which a folder is known for a case.
PATHS = "images_paths.csv"
#: Seconds between two looks at the folder, or the table.
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
    place = _place(ctx, folder.rstrip("/"))

    def add(batch: DataFrame, _: int) -> None:
        # A row for each new case.
        rows = batch.select("path", "modificationTime").orderBy("modificationTime", "path").collect()
        for path in (files.redact(r["path"]) for r in rows):
            case = path.removesuffix(f"/{PATHS}").removeprefix("file:")
            appended(case, run_append(ctx, case_of(case)))

    found = (
        ctx.spark.readStream.format("binaryFile")
        .schema(_FILES)
        .option("maxFileAge", _NEVER)
        .option("ignoreMissingFiles", "true")
        .load(f"{folder.rstrip('/')}/*/{PATHS}")
    )
    _stream(found, place, add, once)


def follow_table(ctx: Context, case: CaseConfig, appended: Callable[[str, Appended], None], *, once: bool) -> None:
    """Append the rows of the Delta table that ``case`` is made of, and those that are added to it, as `follow`.

    The paths, all vectors and the attributes are to be columns of that table, by path or in a catalog. Each batch of
    rows that Spark takes from it, at first those that the table has, is an append of its own, whose rows lie beside the
    checkpoint until it is done. Rows that are there twice count once, and rows of images that the lake has are left out
    if their vectors are the same. Rows that are changed or deleted in the table stay in the lake as they came. A batch
    that is refused comes again, as the table's log has it; where the table has been mended, the checkpoint is to be
    removed, and all rows are looked at anew.

    ConfigError for a case of other parts, and for a lake in a catalog.
    """
    table = _followed(case)
    name = files.redact(table.file or table.table or "")
    place = _place(ctx, table.file or str(table.table))

    def add(batch: DataFrame, number: int) -> None:
        if batch.isEmpty():
            # Rows were changed, and none came.
            return
        rows = f"{place}-rows-{number}"
        # Who adds rows may do so twice. Spark compares no maps, and no part of a case is one.
        compared = [f"`{f.name}`" for f in batch.schema if "map<" not in f.dataType.simpleString()]
        # With the same rows it is the same append, however often it is begun: Delta's rows go by their paths.
        batch.select(*compared).dropDuplicates().write.format("delta").mode("overwrite").option(
            "overwriteSchema", "true"
        ).save(rows)
        try:
            appended(name, run_append(ctx, _with_rows_in(case, rows)))
        except CaseError:
            log.error(
                "append: once %s is mended, remove %s and start again: all its rows are looked at anew", name, place
            )
            raise
        files.remove_folder(rows)

    # Rows that are changed or deleted begin no new image.
    reader = ctx.spark.readStream.format("delta").option("skipChangeCommits", "true")
    _stream(reader.table(quoted(table.table)) if table.table else reader.load(table.file), place, add, once)


def _followed(case: CaseConfig) -> ColumnConfig:
    """The column of the paths, in the table that all parts of the case are of; ConfigError where they are not."""
    paths = case.images_paths
    if not isinstance(paths, ColumnConfig) or not needs_spark(paths):
        raise ConfigError(
            "--follow: follows a folder into which case folders are put, or the rows of a Delta table: name one as "
            f"--case, or as case.images_paths, which is {shown(paths) if paths else 'not given'}"
        )
    parts: list[tuple[str, Source | DescriptorSource]] = [
        (f"case.descriptors.{name}", part) for name, part in (case.descriptors or {}).items()
    ]
    if case.attributes is not None:
        parts.append(("case.attributes", case.attributes))
    for key, part in parts:
        if not isinstance(part, ColumnConfig) or not same_table(paths, part):
            raise ConfigError(
                f"--follow: {key}: {shown(part)} is no column of {shown(paths)}, the table that is followed: only what "
                "its rows bring can be appended with them"
            )
    return paths


def _with_rows_in(case: CaseConfig, folder: str) -> CaseConfig:
    """The same case, of the rows in another table."""

    def moved(part: ColumnConfig) -> ColumnConfig:
        return part.model_copy(update={"file": folder, "table": None})

    vectors = {n: moved(p) for n, p in (case.descriptors or {}).items() if isinstance(p, VectorColumnConfig)}
    update: dict[str, object] = {"descriptors": vectors}
    for key in ("images_paths", "attributes"):
        part = getattr(case, key)
        if isinstance(part, ColumnConfig):
            update[key] = moved(part)
    return case.model_copy(update=update)


def _place(ctx: Context, source: str) -> str:
    """Where the lake keeps what has come from a source; ConfigError where it has no folder."""
    if ctx.lake.root is None:
        raise ConfigError(
            f"--follow: keeps what is done in the lake's folder, and {ctx.lake} is in a catalog: append its cases one "
            "by one"
        )
    return f"{ctx.lake.root}/.growing/{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _stream(found: DataFrame, place: str, add: Callable[[DataFrame, int], None], once: bool) -> None:
    """Hand every batch to ``add`` until the process ends, or all is taken; what ``add`` raises ends it."""
    failed: list[Exception] = []

    def take(batch: DataFrame, number: int) -> None:
        try:
            add(batch, number)
        except Exception as exc:
            failed.append(exc)
            raise

    writer = found.writeStream.foreachBatch(take).option("checkpointLocation", place)
    writer = writer.trigger(availableNow=True) if once else writer.trigger(processingTime=f"{EVERY} seconds")
    query = writer.start()
    try:
        query.awaitTermination()
    except Exception as exc:
        # Spark tells of it as of a failed query.
        raise failed[0] if failed else exc from None
    finally:
        query.stop()
