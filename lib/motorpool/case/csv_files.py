"""The case's CSV files: their columns, and their rows as text, read by one task in order and in bounded memory."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pa_csv
from pyspark.sql import DataFrame, SparkSession

from motorpool.case import files
from motorpool.errors import CaseError
from motorpool.spark.tasks import one_each
from motorpool.texts import encoding_of

#: How the header of VERI-Wild's `vehicle_info.txt` begins: id of the vehicle and name of its photo, then semicolons.
VEHICLE_INFO = "id/image"
#: The column of a file that is a mere list of paths, without a header.
LISTED = "paths"
#: Bytes of a file that tell how its text is written.
_HEAD = 4096
_SEPARATORS = (",", ";", "\t")
#: What no name of a column ends with.
_PHOTO = re.compile(r"\.(jpe?g|png|bmp|webp|tiff?|gif)$", re.IGNORECASE)


def read_header(path: str) -> list[str]:
    """Column names of a CSV file; CaseError when it is empty or no CSV. A list of paths has the column ``paths``."""
    reading, parsing = _options(path)
    with (
        _explained(path),
        files.open_file(path) as f,
        pa_csv.open_csv(f, read_options=reading, parse_options=parsing) as reader,
    ):
        return list(reader.schema.names)


@contextmanager
def _explained(path: str, where: str = "") -> Iterator[None]:
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


def _options(path: str) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions]:
    """How the file's text is written, told by its first line.

    Excel and Windows write UTF-16, and UTF-8 behind a mark. Fields are separated by the sign that the first line has
    most of: a comma, a semicolon or a tab. A first line that is a path is no header.
    """
    with _explained(path), files.open_file(path) as f:
        head = bytes(f.read(_HEAD))
        encoding = encoding_of(head)
        text = head.decode(encoding, errors="ignore")
    line = next(iter(text.splitlines()), "")
    delimiter = max(_SEPARATORS, key=_unquoted(line).count)
    parsing = pa_csv.ParseOptions(delimiter=delimiter)
    # Arrow leaves out UTF-8's mark itself.
    encoding = encoding.removesuffix("-sig")
    if delimiter not in _unquoted(line) and _is_path(line):
        return pa_csv.ReadOptions(encoding=encoding, column_names=[LISTED]), parsing
    return pa_csv.ReadOptions(encoding=encoding), parsing


def _unquoted(line: str) -> str:
    """What stands outside of quotes."""
    return re.sub(r'"(?:[^"]|"")*"', "", line)


def _is_path(line: str) -> bool:
    """Whether a line is the path of a photo, in quotes or not, rather than the name of a column."""
    text = next(iter(next(csv.reader([line], delimiter="\0"), [])), "").strip()
    return _PHOTO.search(text) is not None or (re.search(r"[/\\]", text) is not None and text.lower() != VEHICLE_INFO)


def csv_rows(path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of text columns, by position, with the row's number in front."""
    options = pa_csv.ConvertOptions(
        column_types={c: pa.string() for c in columns}, include_columns=list(columns), strings_can_be_null=False
    )
    reading, parsing = _options(path)
    first = 0
    with files.open_file(path) as f:
        batches = None
        while True:
            with _explained(path, f", after row {first}" if first else ""):
                if batches is None:
                    batches = pa_csv.open_csv(f, read_options=reading, parse_options=parsing, convert_options=options)
                batch = next(batches, None)
            if batch is None:
                return
            row = pa.array(range(first, first + len(batch)), pa.int64())
            first += len(batch)
            yield pa.RecordBatch.from_arrays([row, *batch.columns], names=text_names(columns))


def text_names(columns: Sequence[str]) -> list[str]:
    """Names of rows as text: ``row, c0, c1, ...``. What a table calls its columns cannot meet any name of ours."""
    return ["row", *(f"c{i}" for i in range(len(columns)))]


def text_schema(columns: Sequence[str]) -> str:
    """The types of `text_names`, as DDL."""
    row, *texts = text_names(columns)
    return ", ".join([f"{row} BIGINT", *(f"{c} STRING" for c in texts)])


def read_csv(spark: SparkSession, path: str, columns: Sequence[str]) -> DataFrame:
    """``row BIGINT``, which counts from 0 in the file's order, and ``c0 STRING, c1 STRING, ...`` of the file's columns.

    One task reads the whole file as a stream: the row's number is what joins it to the descriptors.
    """
    return one_each(spark, [path], lambda one: csv_rows(one, columns), text_schema(columns))
