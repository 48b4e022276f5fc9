"""Parquet: one column of lists, or a column per feature.

Memory: about ten chunks for a column of lists; two to three row groups for a column per feature, because a page
of every column is decoded at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motorpool.case.arrays.array_file import (
    COPY_AGAIN,
    ArrayFile,
    Split,
    check_rows,
    is_list,
    lists_to_float32,
    to_float32,
)
from motorpool.case.files import redact
from motorpool.case.parquet_footer import open_parquet_file
from motorpool.errors import CaseError


def open_parquet(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The array in the Parquet file `f` of `size` bytes: one column of lists, or float columns only.

    Reads the footer, and the first row for the width of lists; the others are compared with it when they are
    read. Raises `CaseError` for other columns, and for a first row without values.
    """
    name = redact(path)
    parquet = open_parquet_file(f, name)
    schema, metadata = parquet.schema_arrow, parquet.metadata
    kinds = [column.type for column in schema]
    nested = len(kinds) == 1 and is_list(kinds[0])
    values = [kinds[0].value_type] if nested else kinds
    if not values or not all(pa.types.is_floating(kind) for kind in values):
        found = ", ".join(f"{column.name} {column.type}"[:60] for column in list(schema)[:6]) or "no columns"
        raise CaseError(
            f"{name}: holds {found}; expected one column of lists of floats, or float columns only. Write "
            "just the descriptor (from Spark ML, pyspark.ml.functions.vector_to_array makes lists)"
        )
    width = len(kinds)
    if nested and pa.types.is_fixed_size_list(kinds[0]):
        width = kinds[0].list_size
    elif nested:
        # The first row sets the length, and every other row is compared with it when it is read.
        lengths = (
            pc.list_value_length(batch.column(0))[0].as_py()
            for batch in parquet.iter_batches(1, use_threads=False)
            if batch.num_rows
        )
        width = next(lengths, 0) or 0
    if width < 1 and metadata.num_rows:
        raise CaseError(f"{name}: row 0 holds no values. Remove it from every file of the case")
    dtypes = [np.dtype(kind.to_pandas_dtype()) for kind in values]
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
        raise CaseError(f"{name}: the footer contradicts itself about the number of rows. {COPY_AGAIN}")
    return _ParquetArray(path, (metadata.num_rows, width), max(dtypes), size, groups)


@dataclass(frozen=True)
class _ParquetArray(ArrayFile):
    group_rows: tuple[int, ...]

    def splits(self, rows: int) -> list[Split]:
        check_rows(rows)
        found: list[Split] = []
        first = count = 0
        groups: list[int] = []
        for group, group_count in enumerate(self.group_rows):
            # Whole groups only: one cannot be entered in the middle without decoding what lies before.
            if count and count + group_count > rows:
                found.append(Split(first, count, tuple(groups)))
                first, count, groups = first + count, 0, []
            count += group_count
            groups.append(group)
        if count:
            found.append(Split(first, count, tuple(groups)))
        return found

    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        check_rows(rows)
        first, end = split.first, split.first + split.rows
        with self._opened(split) as f, open_parquet_file(f, self.name) as parquet:
            # One thread: a Spark worker has one core, and parallel columns would all be in memory.
            batches = parquet.iter_batches(rows, row_groups=list(split.at), use_threads=False)
            while first < end:
                with self._rows_explained(first, min(rows, end - first)):
                    batch = next(batches, None)
                    if batch is None:
                        raise EOFError("the row groups hold fewer rows than the file's footer says")
                    out = self._matrix(batch, first)
                if len(out):
                    yield first, out
                first += len(out)

    def _matrix(self, batch: pa.RecordBatch, first: int) -> np.ndarray:
        """The batch, whose first row is row `first` of the file, as float32[m, d]."""
        m, d = batch.num_rows, self.shape[1]
        out = np.empty((m, d), np.float32)
        if is_list(batch.schema[0].type):
            odd = lists_to_float32(batch.column(0), out)
            if odd is not None:
                row, length = odd
                if length is None:
                    raise self._bad_row(first + row, "null")
                found = "a list with a null in it" if length == d else f"a list of {length:,} values"
                raise self._bad_row(first + row, found)
            return out
        for j, column in enumerate(batch.columns):
            if column.null_count:
                row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise self._bad_row(row, f"null in column {batch.schema[j].name!r}")
            to_float32(column.to_numpy(zero_copy_only=False), out[:, j])
        return out

    def _bad_row(self, row: int, found: str) -> CaseError:
        return CaseError(
            f"{self.name}: row {row:,} holds {found}, expected {self.shape[1]:,} values like the other rows. "
            "Remove or repair the row, and the matching line of every other file of the case"
        )
