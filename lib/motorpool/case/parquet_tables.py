"""Tables in Parquet files: one file, or a folder of part files, in the order of the numbers in their names.

Rows are read by tasks, whole row groups at a time and a batch in memory. Vectors may also be float16, which Spark does
not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from motorpool.case import files
from motorpool.case.arrays.array_file import COPY_AGAIN, explained, is_list
from motorpool.case.csv_files import text_names, text_schema
from motorpool.case.parquet_footer import MAX_COLUMNS, open_parquet_file
from motorpool.case.spark_tables import Convert
from motorpool.errors import CaseError
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each
from motorpool.texts import by_number

#: Rows of text that one task reads, and those of a batch.
_TEXT_ROWS = 1 << 20
_TEXT_BATCH = 8192
#: Bytes of float32 that one task reads, and those of a batch.
_VECTOR_BYTES = 96 << 20
_VECTOR_BATCH = 16 << 20
#: Part files of a folder, and folders below it.
_MAX_PARTS = 100_000
_MAX_DEPTH = 8
#: Stores answer slowly, and many questions at a time.
_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True)
class _Part:
    """A file: how many rows each of its row groups has, and the values that its folders' names give to columns."""

    path: str
    size: int
    group_rows: tuple[int, ...]
    folders: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class _Task:
    """Some row groups of a part file, and the number of their first row in the table."""

    part: _Part
    groups: tuple[int, ...]
    first: int


def open_parquet_table(path: str) -> ParquetTable:
    """The table in a Parquet file or a folder of them, by their footers.

    CaseError where there is none, or one is no Parquet file, is damaged or claims what is beyond all bounds.
    """
    name = files.redact(path)
    found = list(part_files(path)) if files.is_folder(path) else [(path, ())]
    if not found:
        raise CaseError(f"{name}: the folder holds no Parquet file: its files must end in .parquet")
    if len(found) > _MAX_PARTS:
        raise CaseError(f"{name}: holds more than {_MAX_PARTS:,} Parquet files: write them anew in larger ones")
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(_footer, [file for file, _ in found]))
    parts = tuple(
        _Part(file, size, groups, folders) for (file, folders), (size, groups, _) in zip(found, footers, strict=True)
    )
    schema = footers[0][2]
    differing: dict[str, str] = {}
    for part, (_, _, other) in zip(parts, footers, strict=True):
        for field in schema:
            at = other.get_all_field_indices(field.name)
            if len(at) != 1 or other.field(at[0]).type != field.type:
                differing.setdefault(field.name, files.redact(part.path))
    return ParquetTable(name, parts, schema, differing)


def part_files(
    folder: str, values: tuple[tuple[str, str | None], ...] = (), depth: int = 0
) -> Iterator[tuple[str, tuple[tuple[str, str | None], ...]]]:
    """The Parquet files of a folder and those below it, as Spark and Hive lay them: hidden names are left out."""
    if depth > _MAX_DEPTH:
        raise CaseError(f"{files.redact(folder)}: lies more than {_MAX_DEPTH} folders deep: name a folder nearer to it")
    for name in sorted(files.list_dir(folder), key=by_number):
        path = files.join(folder, name)
        if name.startswith(("_", ".")):
            continue
        if name.lower().endswith(".parquet"):
            yield path, values
        elif files.is_folder(path):
            column, equals, value = name.partition("=")
            own = ((unquote(column), None if value == _NULL else unquote(value)),) if equals else ()
            yield from part_files(path, values + own, depth + 1)


#: How Spark and Hive write a missing value in a folder's name.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def _footer(path: str) -> tuple[int, tuple[int, ...], pa.Schema]:
    """Bytes of a Parquet file, rows of its row groups, and its columns."""
    name = files.redact(path)
    with explained(f"{name}: cannot be read as Parquet"), files.open_file(path) as f, open_parquet_file(f, name) as p:
        rows = tuple(p.metadata.row_group(i).num_rows for i in range(p.metadata.num_row_groups))
        if sum(rows) != p.metadata.num_rows or min(rows, default=0) < 0:
            raise CaseError(f"{name}: the footer contradicts itself about the number of rows. {COPY_AGAIN}")
        return f.size(), rows, p.schema_arrow


@dataclass(frozen=True)
class ParquetTable:
    """An open table: its files, and the columns of the first.

    ``differing`` names, for columns that are not of one type in all files, a file where it is another.
    """

    name: str
    parts: tuple[_Part, ...]
    schema: pa.Schema
    differing: dict[str, str]
    ordered: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns whose values can be written as text, those that folders are named after last."""
        texts = [field.name for field in self.schema if _is_text(field.type)]
        return list(dict.fromkeys([*texts, *self._folder_columns()]))

    def _folder_columns(self) -> list[str]:
        return list(dict.fromkeys(column for part in self.parts for column, _ in part.folders))

    @property
    def n_rows(self) -> int:
        return sum(sum(part.group_rows) for part in self.parts)

    def texts(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        """``row BIGINT``, from 0, and ``c0 STRING, c1 STRING, ...``. A task holds one batch of 8,192 rows."""
        self._check(columns)
        tasks = self._tasks(_TEXT_ROWS)

        def rows_of(task: _Task) -> Batches:
            for first, batch in _batches(task, columns, _TEXT_BATCH):
                rows = pa.array(np.arange(first, first + batch.num_rows))
                texts = [_column(batch, c, task.part) for c in columns]
                yield pa.RecordBatch.from_arrays([rows, *texts], names=text_names(columns))

        return one_each(spark, tasks, rows_of, text_schema(columns))

    def vector_type(self, column: str) -> tuple[int, np.dtype]:
        """Length and type of a column of vectors, by a first row that has any; CaseError for another column."""
        if column not in self.schema.names:
            raise CaseError(f"{self.name}: has no column {column!r}; it has {', '.join(self.schema.names)}")
        self._check([column])
        kind = _storage(self.schema.field(column).type)
        values = _values_of(kind)
        if values is None:
            raise CaseError(
                f"{self.name}: column {column!r} holds {str(kind)[:100]}, expected lists of float16, float32 or "
                "float64, or Spark ML's vectors"
            )
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length(column)
        if width > MAX_COLUMNS:
            raise CaseError(
                f"{self.name}: the vectors of column {column!r} have {width:,} numbers, where {MAX_COLUMNS:,} are "
                "allowed"
            )
        return width, np.dtype(values.to_pandas_dtype())

    def _first_length(self, column: str) -> int:
        """Length of the first vector; 0 where no row has any."""
        for task in self._tasks(1):
            for _, batch in _batches(task, [column], 1):
                vectors = _lists(batch.column(0))
                length = pc.list_value_length(vectors)[0].as_py()
                if length is not None:
                    return int(length)
        return 0

    def vectors(self, spark: SparkSession, column: str, key: str | None, convert: Convert) -> DataFrame:
        """What ``convert`` makes of the rows' keys (string, or int64 row numbers without a ``key``) and vectors (lists
        of floats), batch by batch: 16 MiB of float32 at a time."""
        wanted = [column, key] if key is not None else [column]
        self._check(wanted)
        tasks = self._tasks(max(1, _VECTOR_BYTES // (4 * convert.width)))
        rows = max(1, _VECTOR_BATCH // (4 * convert.width))

        def rows_of(task: _Task) -> Batches:
            for first, batch in _batches(task, wanted, rows):
                keys = _column(batch, key, task.part) if key else pa.array(np.arange(first, first + len(batch)))
                with explained(f"{files.redact(task.part.path)}: column {column!r} cannot be read"):
                    made = convert(keys, _lists(batch.column(batch.schema.get_field_index(column))))
                yield made

        return one_each(spark, tasks, rows_of, convert.schema)

    def _check(self, columns: Sequence[str]) -> None:
        for column in columns:
            if column in self.differing:
                raise CaseError(
                    f"{self.name}: column {column!r} of {files.redact(self.parts[0].path)} is of another type, missing "
                    f"or doubled in {self.differing[column]}: write all files with the same columns"
                )

    def _tasks(self, rows: int) -> list[_Task]:
        """Row groups, gathered to about ``rows`` rows of one file."""
        found, first = [], 0
        for part in self.parts:
            groups: list[int] = []
            count = 0
            for group, n in enumerate(part.group_rows):
                if groups and count + n > rows:
                    found.append(_Task(part, tuple(groups), first))
                    first, count, groups = first + count, 0, []
                groups.append(group)
                count += n
            if groups:
                found.append(_Task(part, tuple(groups), first))
            first += count
        return found


def _batches(task: _Task, columns: Sequence[str], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Number of the first row, and a batch of the columns that are in the file."""
    part, first = task.part, task.first
    name = files.redact(part.path)
    with explained(f"{name}: cannot be read"), files.open_file(part.path) as f:
        if f.size() != part.size:
            raise CaseError(
                f"{name}: has {f.size():,} bytes now, {part.size:,} when it was opened. Leave the case unchanged while "
                "it is read, and start again"
            )
        with open_parquet_file(f, name) as parquet:
            there = [c for c in columns if c in parquet.schema_arrow.names]
            _check_lengths(parquet, task, there, name)
            # One thread: a Spark worker has one core.
            for batch in parquet.iter_batches(rows, list(task.groups), there, use_threads=False):
                yield first, batch
                first += batch.num_rows


def _check_lengths(parquet: pq.ParquetFile, task: _Task, columns: Sequence[str], name: str) -> None:
    """CaseError for lists in some columns that are too long for any vector: a row is decoded whole."""
    paths = [parquet.schema.column(i).path for i in range(parquet.metadata.num_columns)]
    read = [i for i, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)]
    for group in map(parquet.metadata.row_group, task.groups):
        for column in map(group.column, read):
            if column.num_values > MAX_COLUMNS * max(1, group.num_rows):
                raise CaseError(
                    f"{name}: {column.path_in_schema} holds {column.num_values:,} values in {group.num_rows:,} rows, "
                    f"where a row may hold {MAX_COLUMNS:,}"
                )


def _column(batch: pa.RecordBatch, column: str, part: _Part) -> pa.Array:
    """A column as text, from the file or from the names of its folders."""
    at = batch.schema.get_field_index(column)
    if at < 0:
        return pa.repeat(pa.scalar(dict(part.folders).get(column), pa.string()), batch.num_rows)
    values = batch.column(at)
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    return values.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    """Whether values of a type can be written as text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_type = pa.types
    tests = (
        is_type.is_string, is_type.is_large_string, is_type.is_string_view, is_type.is_integer, is_type.is_floating,
        is_type.is_boolean, is_type.is_decimal, is_type.is_date, is_type.is_timestamp, is_type.is_time,
    )  # fmt: skip
    return any(test(kind) for test in tests)


# -- vectors -----------------------------------------------------------------------------------------


def _storage(kind: pa.DataType) -> pa.DataType:
    """What values are stored as: tensors of a fixed shape are lists."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _values_of(kind: pa.DataType) -> pa.DataType | None:
    """The type of a vector's numbers; None for what holds no vectors."""
    if is_list(kind):
        return kind.value_type if pa.types.is_floating(kind.value_type) else None
    return pa.float64() if _is_ml(kind) else None


def _is_ml(kind: pa.DataType) -> bool:
    """Whether a type is how Spark ML stores its vectors: `values`, and `indices` of a sparse one."""
    names = ["type", "size", "indices", "values"]
    return bool(pa.types.is_struct(kind)) and [kind.field(i).name for i in range(kind.num_fields)] == names


def _lists(array: pa.Array) -> pa.Array:
    """Vectors of any form as lists; null where a row has none."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if not _is_ml(array.type):
        return array
    values = pc.struct_field(array, "values")
    sparse = np.flatnonzero(pc.equal(pc.struct_field(array, "type"), 0).fill_null(False).to_numpy(zero_copy_only=False))
    if not sparse.size:
        return values
    rows = values.to_pylist()
    indices, sizes = pc.struct_field(array, "indices"), pc.struct_field(array, "size")
    for row in sparse:
        size = sizes[row].as_py()
        if not 0 <= size <= MAX_COLUMNS:
            raise ValueError(f"a sparse vector of {size:,} numbers")
        full = np.zeros(size)
        try:
            full[indices[row].as_py()] = rows[row]
        except (IndexError, TypeError) as exc:
            raise ValueError("a sparse vector whose indices, values and size contradict each other") from exc
        rows[row] = full
    return pa.array(rows, pa.list_(pa.float64()))
