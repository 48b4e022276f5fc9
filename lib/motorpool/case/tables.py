"""The case's CSV files as DataFrames: read by one task in order, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pa_csv
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.errors import CaseError
from motorpool.spark.blocks import Batches
from motorpool.texts import encoding_of

#: How the header of VERI-Wild's `vehicle_info.txt` begins: id of the vehicle and name of its photo, then semicolons.
VEHICLE_INFO = "id/image"
#: Column names that Delta takes as they are, in every engine.
_COLUMN = re.compile(r"[^ ,;{}()\n\t=`]+")


#: Bytes of a file that tell how its text is written.
_HEAD = 1024


def read_header(path: str) -> list[str]:
    """Column names of a CSV file; CaseError when it is empty or no CSV."""
    parsing = _parsing(path)
    with (
        _reading(path),
        files.open_file(path) as f,
        pa_csv.open_csv(f, read_options=_options(path), parse_options=parsing) as reader,
    ):
        return list(reader.schema.names)


@contextmanager
def _reading(path: str, where: str = "") -> Iterator[None]:
    """Turn an error of reading CSV into a CaseError."""
    shown = files.redact(path)
    try:
        yield
    except UnicodeError as exc:
        raise CaseError(f"{shown}{where}: is neither UTF-8 nor UTF-16 text: save it as UTF-8 ({exc})") from exc
    except (pa.ArrowException, OSError, ValueError) as exc:
        if "invalid UTF8" in str(exc):
            raise CaseError(f"{shown}{where}: is neither UTF-8 nor UTF-16 text: save it as UTF-8 ({exc})") from exc
        raise CaseError(f"{shown}{where}: cannot be read as CSV: {exc}") from exc


def _options(path: str) -> pa_csv.ReadOptions:
    """How the file's text is written: Excel and Windows write UTF-16, and UTF-8 behind a mark."""
    with files.open_file(path) as f:
        encoding = encoding_of(bytes(f.read(_HEAD)))
    # Arrow leaves out UTF-8's mark itself.
    return pa_csv.ReadOptions(encoding=encoding.removesuffix("-sig"))


def _parsing(path: str) -> pa_csv.ParseOptions:
    """How the file's fields are separated: by commas, in VERI-Wild's own file by semicolons."""
    with _reading(path), files.open_file(path) as f:
        head = bytes(f.read(_HEAD))
        text = head.decode(encoding_of(head), errors="ignore").lower()
    return pa_csv.ParseOptions(delimiter=";" if text.startswith(f"{VEHICLE_INFO};") else ",")


def _rows(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of text columns, by position, with the row's number in front."""
    options = pa_csv.ConvertOptions(
        column_types={c: pa.string() for c in columns}, include_columns=columns, strings_can_be_null=False
    )
    first = 0
    with files.open_file(path) as f:
        batches = None
        while True:
            with _reading(path, f", after row {first}" if first else ""):
                if batches is None:
                    batches = pa_csv.open_csv(
                        f, read_options=_options(path), parse_options=_parsing(path), convert_options=options
                    )
                batch = next(batches, None)
            if batch is None:
                return
            row = pa.array(range(first, first + len(batch)), pa.int64())
            first += len(batch)
            yield pa.RecordBatch.from_arrays([row, *batch.columns], names=_names(columns))


def _names(columns: list[str]) -> list[str]:
    return ["row", *(f"c{i}" for i in range(len(columns)))]


def read_csv(spark: SparkSession, path: str, columns: list[str]) -> DataFrame:
    """``row BIGINT``, which counts from 0 in the file's order, and ``c0 STRING, c1 STRING, ...`` of the file's columns.

    Columns are called by their position in ``columns``: what a file calls them cannot meet any name of ours. One task
    reads the whole file as a stream: the row's number is what joins it to the descriptors.
    """

    def run(batches: Batches) -> Batches:
        for batch in batches:
            if len(batch):
                yield from _rows(path, columns)

    row, *texts = _names(columns)
    schema = ", ".join([f"{row} BIGINT", *(f"{c} STRING" for c in texts)])
    return spark.range(0, 1, 1, 1).mapInArrow(run, schema)


def read_paths(spark: SparkSession, path: str) -> DataFrame:
    """``image_id BIGINT, path STRING`` with forward slashes; CaseError without a column ``paths``."""
    check_paths_header(path)
    return read_csv(spark, path, ["paths"]).select(F.col("row").alias("image_id"), normal_path("c0").alias("path"))


def check_paths_header(path: str) -> None:
    """CaseError where the file of the paths has no column ``paths``, or several."""
    names = read_header(path)
    if "paths" not in names:
        raise CaseError(f"{files.redact(path)}: needs a column `paths`, found {', '.join(names)}")
    _refuse_twice(names, ["paths"], path)


def paths_here(path: str) -> Iterator[list[str]]:
    """The column ``paths`` as `read_paths` gives it, in order, read by this process alone; CaseError as there.

    Memory: a batch of about a MiB. For files of moderate size: one process reads all of it.
    """
    check_paths_header(path)
    yield from _paths_in(path, "paths")


def described_here(path: str) -> Iterator[list[str]]:
    """The paths that an attributes file describes, as `paths_here` gives those of the images; CaseError alike.

    Of VERI-Wild's own file these are `last_two` of the images' paths.
    """
    columns = attribute_columns(path)
    key = next(name for name, column in columns.items() if column == "path")
    yield from _paths_in(path, key)


def _paths_in(path: str, column: str) -> Iterator[list[str]]:
    for batch in _rows(path, [column]):
        texts = (str(text).strip(" ").replace("\\", "/") for text in batch.column("c0").to_pylist())
        yield [re.sub(r"^(\./)+", "", text) for text in texts]


def last_two(path: str) -> str:
    """`_last_two` of one path."""
    return re.sub(r"\.[A-Za-z]+$", "", "/".join(path.split("/")[-2:]))


def attribute_columns(path: str) -> dict[str, str]:
    """The columns of an attributes file with the names that tables give them; that of the paths is ``path``.

    Those of VERI-Wild's `vehicle_info.txt` are written small and without blanks: ``camera_id``, ``type``, ``color``.
    Raises CaseError without a column ``path`` (or ``paths``), or with names that tables cannot hold. Spark tells names
    apart by more than their case, so ``Path`` beside the paths is refused as well.
    """
    names, shown = read_header(path), files.redact(path)
    columns = _columns_by_name(names, path)
    for name, column in columns.items():
        if not _COLUMN.fullmatch(column):
            raise CaseError(f"{shown}: column {name!r}: rename it without spaces, commas, brackets, '=' or quotes")
        if (column != "path" or list(columns.values()).count("path") > 1) and column.lower() in ("image_id", "path"):
            raise CaseError(f"{shown}: column {name!r} would hide the table's own {column.lower()!r}: rename it")
    _refuse_twice(names, names, path)
    return columns


def named_columns(path: str) -> dict[str, str]:
    """`attribute_columns`, whether tables can hold the names or not; CaseError where one stands twice."""
    names = read_header(path)
    _refuse_twice(names, names, path)
    return _columns_by_name(names, path)


def _columns_by_name(names: Sequence[str], path: str) -> dict[str, str]:
    """The tables' column for every name of a header; CaseError where none is that of the paths."""
    if is_vehicle_info(names):
        columns = {name: re.sub(r"\W+", "_", name.strip().lower()) for name in names}
        columns[names[0]] = "path"
    else:
        key = next((c for c in ("path", "paths") if c in names), None)
        if key is None:
            raise CaseError(f"{files.redact(path)}: needs a column `path`, found {', '.join(names)}")
        columns = {name: name for name in names} | {key: "path"}
    return columns


def is_vehicle_info(names: Sequence[str]) -> bool:
    """Whether a header is that of VERI-Wild's own file."""
    return bool(names) and names[0].strip().lower() == VEHICLE_INFO


def read_attributes(paths: DataFrame, path: str) -> DataFrame:
    """``path`` as `paths` (``image_id, path``) have it, and every other column as text, empty values as null.

    Rows of no image keep the path of the file, with forward slashes. VERI-Wild's own file has the last two parts of
    the paths, with or without an extension. CaseError as by `attribute_columns`.
    """
    columns = attribute_columns(path)
    short = is_vehicle_info(list(columns))
    read = read_csv(paths.sparkSession, path, list(columns))
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


def _refuse_twice(names: list[str], wanted: list[str], path: str) -> None:
    lower = [n.lower() for n in names]
    for name in wanted:
        if lower.count(name.lower()) > 1:
            raise CaseError(f"{files.redact(path)}: column {name!r} appears more than once, but for its case perhaps")


def normal_path(column: str) -> Column:
    """A path with forward slashes and without a leading ``./``."""
    slashes = F.translate(F.trim(F.col(column)), "\\", "/")
    return F.regexp_replace(slashes, r"^(\./)+", "")
