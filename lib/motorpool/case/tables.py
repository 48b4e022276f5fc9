"""What the tables of a case tell in text: the paths of its images, and what is known about each of them.

A table is a CSV file, named by its path, or holds a column of paths: a Parquet file, a folder of them, a Delta table,
or a table of a catalog. Where there is none, the photos themselves are listed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from motorpool.case import csv_files, files
from motorpool.case.parquet_tables import ParquetTable
from motorpool.case.sources import PhotoList, Source, needs_spark, open_source, shown
from motorpool.errors import CaseError
from motorpool.texts import plain_path

log = logging.getLogger(__name__)

#: Column names that Delta takes as they are, in every engine.
_COLUMN = re.compile(r"[^ ,;{}()\n\t=`]+")
#: What the column of the paths is called in CSV files, the most usual first.
PATH_COLUMNS = (
    "paths", "path", "image_path", "image_paths", "img_path", "file_path", "filepath", "filename", "file_name",
    "image", "img", "file",
)  # fmt: skip
#: What pandas calls the column of its row numbers.
_INDEX = re.compile(r"(Unnamed: \d+)?")


def read_paths(spark: SparkSession, source: Source) -> DataFrame:
    """``image_id BIGINT, path STRING`` with forward slashes.

    Images are numbered from 0 in the order of the file's rows; those of a Delta table or of a catalog, whose rows have
    no order, in the order of their paths, which one task sorts on disk. CaseError where no column is that of the paths.
    """
    table = open_source(spark, source)
    column = _checked_path_column(source, table.columns)
    rows = table.texts(spark, [column]).withColumn("path", F.coalesce(normal_path("c0"), F.lit("")))
    number = F.col("row") if table.ordered else F.row_number().over(Window.orderBy("path")).cast("bigint") - 1
    return rows.select(number.alias("image_id"), "path")


def _checked_path_column(source: Source, names: Sequence[str]) -> str:
    column = path_column(source, names)
    _refuse_twice(names, [column], source)
    return column


def count_rows(source: Source) -> int | None:
    """How many rows a table has, by its header, or photos where they lie on this machine; else None.

    CaseError where it has no column of paths.
    """
    if isinstance(source, PhotoList):
        return sum(map(len, source.batches())) if files.local_path(source.root) is not None else None
    if needs_spark(source):
        return None
    table = open_source(None, source)
    _checked_path_column(source, table.columns)
    return table.n_rows if isinstance(table, ParquetTable) else None


def paths_here(path: str | PhotoList) -> Iterator[list[str]]:
    """The paths of a CSV file, or of photos, as `read_paths` gives them, in order, read by this process alone.

    CaseError as there. Memory: a batch of about a MiB. For files of moderate size: one process reads all of it.
    """
    if isinstance(path, PhotoList):
        yield from path.batches()
        return
    yield from _paths_in(path, _checked_path_column(path, csv_files.read_header(path)))


def described_here(path: str) -> Iterator[list[str]]:
    """The paths that a CSV file of attributes describes, as `paths_here` gives those of the images; CaseError alike.

    Of VERI-Wild's own file these are `last_two` of the images' paths.
    """
    columns = attribute_columns(None, path)
    key = next(name for name, column in columns.items() if column == "path")
    yield from _paths_in(path, key)


def _paths_in(path: str, column: str) -> Iterator[list[str]]:
    for batch in csv_files.csv_rows(path, [column]):
        yield [plain_path(str(text)) for text in batch.column("c0").to_pylist()]


def last_two(path: str) -> str:
    """`_last_two` of one path."""
    return re.sub(r"\.[A-Za-z]+$", "", "/".join(path.split("/")[-2:]))


def path_column(source: Source, names: Sequence[str], usual: Sequence[str] = PATH_COLUMNS) -> str:
    """The column of the paths among a table's, as it spells it; CaseError where none is.

    Of a CSV file it is the one with a ``usual`` name, in whatever case, or the only one.
    """
    if not isinstance(source, str):
        if source.column not in names:
            raise CaseError(f"{shown(source)}: has no such column of texts or numbers; it has {', '.join(names)}")
        column: str | None = source.column
    else:
        written = [name for name in names if not _INDEX.fullmatch(name)]
        lower = {name.strip().lower(): name for name in reversed(written)}
        column = next((lower[name] for name in usual if name in lower), written[0] if len(written) == 1 else None)
    if column is None:
        raise CaseError(
            f"{shown(source)}: needs a column `{usual[0]}`, found {', '.join(names)}. Call the column of the paths so"
        )
    return column


def attribute_columns(spark: SparkSession | None, source: Source) -> dict[str, str]:
    """The columns of an attributes file with the names that tables give them; that of the paths is ``path``.

    Those of VERI-Wild's `vehicle_info.txt` are written small and without blanks: ``camera_id``, ``type``, ``color``.
    Raises CaseError without a column of paths. Of a CSV file names that tables cannot hold are refused: Spark tells
    names apart by more than their case, so ``Path`` beside the paths is refused as well. The columns of other tables
    cannot always be renamed: those are left out, with a warning.
    """
    names = open_source(spark, source).columns
    columns, found = _columns_by_name(names, source), {}
    twice = list(columns.values()).count("path") > 1
    key = None if isinstance(source, str) else source.column
    for name, column in columns.items():
        problem = None
        if not _COLUMN.fullmatch(column):
            problem = f"column {name!r}: rename it without spaces, commas, brackets, '=' or quotes"
        elif (column != "path" or twice) and column.lower() in ("image_id", "path") and name != key:
            problem = f"column {name!r} would hide the table's own {column.lower()!r}: rename it"
        if problem is None:
            found[name] = column
        elif key is None:
            raise CaseError(f"{shown(source)}: {problem}")
        else:
            log.warning("ingest: %s: %s; until then it is left out", shown(source), problem)
    _refuse_twice(names, list(found), source)
    return found


def named_columns(spark: SparkSession | None, source: Source) -> dict[str, str]:
    """`attribute_columns`, whether tables can hold the names or not; CaseError where one stands twice."""
    names = open_source(spark, source).columns
    _refuse_twice(names, names, source)
    return _columns_by_name(names, source)


def _columns_by_name(names: Sequence[str], source: Source) -> dict[str, str]:
    """The tables' column for every name of a header; CaseError where none is that of the paths."""
    if isinstance(source, str) and is_vehicle_info(names):
        columns = {name: re.sub(r"\W+", "_", name.strip().lower()) for name in names}
        columns[names[0]] = "path"
        return columns
    key = path_column(source, names, ("path", *PATH_COLUMNS))
    return {name: name for name in names if not _INDEX.fullmatch(name)} | {key: "path"}


def is_vehicle_info(names: Sequence[str]) -> bool:
    """Whether a header is that of VERI-Wild's own file."""
    return bool(names) and names[0].strip().lower() == csv_files.VEHICLE_INFO


def read_attributes(paths: DataFrame, source: Source) -> DataFrame:
    """``path`` as `paths` (``image_id, path``) have it, and every other column as text, empty values as null.

    Rows of no image keep the path of the file, with forward slashes. VERI-Wild's own file has the last two parts of
    the paths, with or without an extension. CaseError as by `attribute_columns`.
    """
    spark = paths.sparkSession
    columns = attribute_columns(spark, source)
    short = isinstance(source, str) and is_vehicle_info(list(columns))
    read = open_source(spark, source).texts(spark, list(columns))
    positions = {column: f"c{i}" for i, column in enumerate(columns.values())}
    # Some values of VERI-Wild's file begin with a blank; those of others stay as they are.
    texts = {name: F.trim(c) if short else F.col(c) for name, c in positions.items()}
    others = [F.when(text != "", text).alias(name) for name, text in texts.items() if name != "path"]
    attributes = read.select(normal_path(positions["path"]).alias("path"), *others)
    if not short:
        return attributes
    known = paths.select(F.col("path").alias("known"), _last_two(F.col("path")).alias("short"))
    joined = attributes.withColumn("short", _last_two(F.col("path"))).join(known, on="short", how="left")
    return joined.select(F.coalesce("known", "path").alias("path"), *(f"`{c}`" for c in positions if c != "path"))


def _last_two(path: Column) -> Column:
    """``00001/000001`` of ``veriwild/1/00001/000001.jpg``."""
    return F.regexp_replace(F.substring_index(path, "/", -2), r"\.[A-Za-z]+$", "")


def _refuse_twice(names: Sequence[str], wanted: Sequence[str], source: Source) -> None:
    lower = [n.lower() for n in names]
    for name in wanted:
        if lower.count(name.lower()) > 1:
            raise CaseError(f"{shown(source)}: column {name!r} appears more than once, but for its case perhaps")


def normal_path(column: str) -> Column:
    """`plain_path` of a column: with forward slashes and without a leading ``./``."""
    slashes = F.translate(F.trim(F.col(column)), "\\", "/")
    return F.regexp_replace(slashes, r"^(\./)+", "")
