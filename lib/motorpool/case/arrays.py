"""Reading a 2-D float array from a file in bounded memory, in parts that need not know of each other.

`open_array` looks at a file and returns an `ArrayFile`: its shape, its type, how to split its rows, and how
to read one split as float32 chunks. An `ArrayFile` and a `Split` hold numbers and names only, so they travel
to Spark workers, where each split opens the file for itself.

Formats, by extension: pickles of a NumPy array (never unpickled, see `motorpool.case.pickled`), .npy, .npz
and .parquet. Values are converted to float32; a float64 too large for it becomes inf, which is for the caller
to report.

Memory: one chunk of ``rows * columns * 4`` bytes, plus a conversion buffer of at most 4 MiB or, for Fortran
order, `_COLUMNS` columns of a chunk. Parquet costs more: about ten chunks for a column of lists, and two to
three row groups for a column per feature, because a page of every column is decoded at once.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from motorpool.case.files import file_size, open_file, redact, safe_cause
from motorpool.case.pickled import RawLayout, decode_text, index_text, read_pickle_layout
from motorpool.errors import CaseError

_BUFFER = 4 << 20
# Columns of a Fortran array turned into rows at once: 32 float32 fill two cache lines of every row.
_COLUMNS = 32
_NPZ_NAMES = ("arr_0.npy", "descriptors.npy", "features.npy")
_MAX_NPY_HEADER = 10_000  # NumPy's own limit for headers it does not trust
_MAX_ZIP_READ = 16 << 20
_PARQUET_BUFFERS = 16 << 20
_COPY_AGAIN = "Copy or export the file again"
_SAVE_FLOAT32 = "Convert it with array.astype('float32') and save it again"
# What reading a damaged or vanishing file can raise in pyarrow, zipfile, zlib and NumPy.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
)

# Fills a uint8[k] from a position in the file, and returns the position after.
_Take = Callable[[int, np.ndarray], int]


@dataclass(frozen=True)
class Split:
    """Rows ``first`` to ``first + rows - 1``, readable without the other splits.

    `at` says where they start in the format's own terms: row groups, or offsets of text.
    """

    first: int
    rows: int
    at: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ArrayFile(ABC):
    """A 2-D float array in a file. Cheap to pickle: it holds no handle and no data.

    `dtype` is the stored one (`read` always gives float32), `size` the file's, in bytes.
    """

    path: str = field(repr=False)  # may hold credentials
    shape: tuple[int, int]
    dtype: np.dtype
    size: int

    @property
    def name(self) -> str:
        """The path for messages, without credentials."""
        return redact(self.path)

    @abstractmethod
    def splits(self, rows: int) -> list[Split]:
        """Ranges of about `rows` rows that cover the array in order; none for an array without rows.

        One range where the file can only be read in order (compressed .npz). Parquet ranges are whole row
        groups. A text pickle is read through once; `CaseError` where that shows damage.
        """

    @abstractmethod
    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Chunks ``(first_row, float32[m, d])``, C-contiguous, ``m <= rows``, in order, each a new array.

        Opens the file itself. Raises `CaseError` naming file and rows where it is damaged or has changed.
        """

    @contextmanager
    def _opened(self, split: Split) -> Iterator[pa.NativeFile]:
        """The file, after checking that it is still the one that was opened before."""
        if split.first < 0 or split.rows < 0 or split.first + split.rows > self.shape[0]:
            raise ValueError(f"{split} is not within the {self.shape[0]:,} rows of {self.name}")
        with _explained(f"{self.name}: cannot be read"), open_file(self.path) as f:
            if (size := f.size()) != self.size:
                raise CaseError(
                    f"{self.name}: has {size:,} bytes now, {self.size:,} when it was opened. "
                    "Leave the case unchanged while it is read, and start again"
                )
            yield f

    def _rows_explained(self, first: int, count: int) -> AbstractContextManager[None]:
        return _explained(f"{self.name}: rows {first:,} to {first + count - 1:,} cannot be read")


def open_array(path: str) -> ArrayFile:
    """The array in the file at `path`, by extension: .pickle, .pkl, .p, .npy, .npz or .parquet.

    Reads headers only. Zero rows are accepted. Raises `CaseError` where the file is missing, cut off, holds
    anything but one 2-D array of float16, float32 or float64, or is of another kind.
    """
    name = redact(path)
    extension = os.path.splitext(name)[1].lower()
    opener = _OPENERS.get(extension)
    if opener is None:
        raise CaseError(
            f"{name}: cannot tell the format from the extension {extension!r}, expected one of "
            f"{', '.join(_OPENERS)}. Rename the file, or export the array with numpy.save"
        )
    size = file_size(path)
    with _explained(f"{name}: cannot be read as {extension}"), open_file(path) as f:
        return opener(path, f, size)


# Pickles, .npy and .npz: the values lie in one run of bytes somewhere in the file.


@dataclass(frozen=True)
class _LaidOutArray(ArrayFile):
    """Values at a known place. With `member`, `layout` is within that deflated member of a zip file."""

    layout: RawLayout
    member: str | None = None

    def splits(self, rows: int) -> list[Split]:
        _check_rows(rows)
        n, d = self.shape
        if self.member is not None and n:
            rows = n
        ranges = list(_ranges(0, n, rows))
        if self.layout.encoding == "raw":
            return [Split(first, count) for first, count in ranges]
        # A character takes one or two bytes of text, so the file itself must be asked where the rows of a
        # range start; with Fortran order, where each column of a range does.
        starts = np.array([first for first, _ in ranges], np.int64)
        if self.layout.fortran:
            starts = (np.arange(d, dtype=np.int64)[:, None] * n + starts).ravel()
        else:
            starts = starts * d
        with self._opened(Split(0, n)) as f:
            offsets = index_text(f, self.layout, starts * self.dtype.itemsize, self.name)
        at = offsets.reshape(-1, len(ranges)).T.tolist() if ranges else []
        return [Split(first, count, tuple(at[i])) for i, (first, count) in enumerate(ranges)]

    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        _check_rows(rows)
        with self._opened(split) as f, self._bytes(f) as take:
            cursors = list(split.at or self._starts(split))
            for first, count in _ranges(split.first, split.rows, rows):
                out = np.empty((count, self.shape[1]), np.float32)
                with self._rows_explained(first, count):
                    if self.layout.fortran:
                        _fill_columns(take, cursors, out, self.dtype)
                    else:
                        cursors[0] = _fill(take, cursors[0], out.reshape(-1), self.dtype)
                yield first, out

    def _starts(self, split: Split) -> list[int]:
        """Where the split's rows start, or with Fortran order its part of every column."""
        (n, d), size = self.shape, self.dtype.itemsize
        if self.layout.fortran:
            return [self.layout.offset + (j * n + split.first) * size for j in range(d)]
        return [self.layout.offset + split.first * d * size]

    @contextmanager
    def _bytes(self, f: pa.NativeFile) -> Iterator[_Take]:
        """How to get the array's bytes out of the open file."""
        end = self.layout.offset + self.layout.nbytes
        if self.layout.encoding == "latin1":
            yield lambda cursor, out: decode_text(f, cursor, end, out)
        elif self.member is None:
            yield partial(_take, f)
        else:
            with zipfile.ZipFile(_BoundedReads(f)) as archive, archive.open(self.member) as stream:

                def take(cursor: int, out: np.ndarray) -> int:
                    after = _take(stream, cursor, out, block=_BUFFER)
                    if after == end:
                        stream.read(1)  # zipfile verifies the checksum only where it meets the end
                    return after

                yield take


def _take(f: pa.NativeFile | IO[bytes], cursor: int, out: np.ndarray, block: int = 1 << 30) -> int:
    """Fill `out` (uint8[k]) from position `cursor`, at most `block` bytes a read; returns where it ended."""
    f.seek(cursor)
    filled = 0
    while filled < len(out):
        got = f.readinto(out[filled : filled + block])  # type: ignore[union-attr]
        if not got:
            raise EOFError(f"the data ends at byte {cursor + filled:,}")
        filled += got
    return cursor + filled


def _fill(take: _Take, cursor: int, out: np.ndarray, dtype: np.dtype) -> int:
    """Fill `out` (contiguous float32[k]) with values stored as `dtype`; returns the position after them."""
    if dtype == out.dtype:
        return take(cursor, out.view(np.uint8))
    step = _BUFFER // dtype.itemsize
    stored = np.empty(min(len(out), step), dtype)
    for start in range(0, len(out), step):
        part = out[start : start + step]
        cursor = take(cursor, stored[: len(part)].view(np.uint8))
        _to_float32(stored[: len(part)], part)
    return cursor


def _fill_columns(take: _Take, cursors: list[int], out: np.ndarray, dtype: np.dtype) -> None:
    """Fill `out` (float32[m, d]) column by column from `cursors` (d positions), which move on."""
    count, d = out.shape
    columns = np.empty((min(_COLUMNS, d), count), np.float32)
    for start in range(0, d, _COLUMNS):
        block = columns[: min(_COLUMNS, d - start)]
        for j, column in enumerate(block, start):
            cursors[j] = _fill(take, cursors[j], column, dtype)
        out[:, start : start + len(block)] = block.T


def _to_float32(values: np.ndarray, out: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, values, casting="unsafe")


def _ranges(first: int, count: int, rows: int) -> Iterator[tuple[int, int]]:
    """``(first, rows)`` of consecutive ranges of at most `rows` rows."""
    for start in range(first, first + count, rows):
        yield start, min(rows, first + count - start)


def _check_rows(rows: int) -> None:
    if rows < 1:
        raise ValueError(f"rows = {rows}: must be >= 1")


def _open_pickle(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    layout = read_pickle_layout(f, size, redact(path))
    return _LaidOutArray(path, layout.shape, layout.dtype, size, layout)


def _open_npy(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    layout = _npy_layout(f, size, redact(path))
    return _LaidOutArray(path, layout.shape, layout.dtype, size, layout)


def _npy_layout(f: pa.NativeFile | IO[bytes], size: int, name: str) -> RawLayout:
    """Layout of the .npy file or zip member of `size` bytes that `f` is at the start of."""
    magic = f.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise CaseError(f"{name}: is not a .npy file of version 1, 2 or 3. {_COPY_AGAIN}")
    length = int.from_bytes(f.read(2 if magic[6] == 1 else 4), "little")
    if length > _MAX_NPY_HEADER:
        raise CaseError(f"{name}: a header of {length:,} bytes, expected some 120. {_COPY_AGAIN}")
    # Versions differ in the width of the length, and in an encoding that matters to field names only.
    header = io.BytesIO(length.to_bytes(4, "little") + f.read(length))
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)
    except Exception as error:  # the header is Python source, and its tokenizer raises many things
        raise CaseError(f"{name}: the .npy header is damaged. {_COPY_AGAIN}") from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise CaseError(f"{name}: the array holds {dtype}, expected float16, float32 or float64. {_SAVE_FLOAT32}")
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise CaseError(
            f"{name}: holds an array of shape {shape[:8]}, expected images x features, at least one feature. "
            "Reshape it, for example with array.reshape(len(array), -1), and save it again"
        )
    offset = (10 if magic[6] == 1 else 12) + length
    expected = shape[0] * shape[1] * dtype.itemsize
    if size - offset != expected:
        raise CaseError(
            f"{name}: {size - offset:,} bytes follow the header, shape {shape} of {dtype} needs "
            f"{expected:,}: the file is cut off or holds more than one array. {_COPY_AGAIN}"
        )
    return RawLayout((int(shape[0]), int(shape[1])), dtype, bool(fortran), offset, expected)


def _open_npz(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    name = redact(path)
    with zipfile.ZipFile(_BoundedReads(f)) as archive:
        members = archive.infolist()
        arrays = [info for info in members if info.filename.endswith(".npy")]
        chosen = arrays if len(arrays) == 1 else [info for info in arrays if info.filename in _NPZ_NAMES]
        if len(chosen) != 1:
            found = ", ".join(repr(info.filename[:60]) for info in members[:8]) or "nothing"
            raise CaseError(
                f"{name}: holds {found}; expected exactly one array, or exactly one named "
                "arr_0, descriptors or features. Save the one array with numpy.savez(path, features=array)"
            )
        info = chosen[0]
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.flag_bits & 1 or not (stored or info.compress_type == zipfile.ZIP_DEFLATED):
            raise CaseError(f"{name}: encrypted, or compressed by no method NumPy uses. {_COPY_AGAIN}")
        with archive.open(info) as stream:
            layout = _npy_layout(stream, info.file_size, f"{name} ({info.filename[:60]})")
    if not stored:
        if layout.fortran:
            raise CaseError(
                f"{name}: compressed and in column (Fortran) order, which cannot be read by rows in bounded "
                "memory. Save numpy.ascontiguousarray(array), or use numpy.save"
            )
        return _LaidOutArray(path, layout.shape, layout.dtype, size, layout, info.filename)
    # A stored member is a .npy file inside this one, after a local header with two texts of stated lengths.
    f.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", f.read(4))
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > size or info.file_size != info.compress_size:
        raise CaseError(f"{name}: the archive is cut off or damaged. {_COPY_AGAIN}")
    layout = replace(layout, offset=start + layout.offset)
    return _LaidOutArray(path, layout.shape, layout.dtype, size, layout)


class _BoundedReads(io.RawIOBase):
    """A file for zipfile, which reads a directory in one piece, as large as a damaged file says it is."""

    def __init__(self, f: pa.NativeFile) -> None:
        self._file = f

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._file.size()}[whence]
        if base + offset < 0:
            raise OSError("cannot seek to before the file's start")
        return int(self._file.seek(base + offset))

    def read(self, size: int | None = -1) -> bytes:
        count = self._file.size() - self.tell() if size is None or size < 0 else size
        if count > _MAX_ZIP_READ:
            raise zipfile.BadZipFile(f"a part of {count:,} bytes, expected at most {_MAX_ZIP_READ:,}")
        return bytes(self._file.read(max(0, count)))


# Parquet: one column of lists, or a column per feature.


@dataclass(frozen=True)
class _ParquetArray(ArrayFile):
    group_rows: tuple[int, ...]

    def splits(self, rows: int) -> list[Split]:
        _check_rows(rows)
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
        _check_rows(rows)
        first, end = split.first, split.first + split.rows
        with self._opened(split) as f, _parquet(f) as parquet:
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
        if _is_list(batch.schema[0].type):
            lists = batch.column(0)
            # A null list has no length at all, and fails the comparison as a ragged one does.
            lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
            if (odd := np.flatnonzero(lengths != d)).size:
                found = "null" if lengths[odd[0]] < 0 else f"a list of {lengths[odd[0]]:,} values"
                raise self._bad_row(first + int(odd[0]), found)
            values = lists.flatten()
            if values.null_count:
                row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // d
                raise self._bad_row(row, "a list with a null in it")
            _to_float32(values.to_numpy(zero_copy_only=False), out.reshape(-1))
            return out
        for j, column in enumerate(batch.columns):
            if column.null_count:
                row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise self._bad_row(row, f"null in column {batch.schema[j].name!r}")
            _to_float32(column.to_numpy(zero_copy_only=False), out[:, j])
        return out

    def _bad_row(self, row: int, found: str) -> CaseError:
        return CaseError(
            f"{self.name}: row {row:,} holds {found}, expected {self.shape[1]:,} values like the other rows. "
            "Remove or repair the row, and the matching line of every other file of the case"
        )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _parquet(f: pa.NativeFile) -> pq.ParquetFile:
    metadata = pq.read_metadata(f)
    # Without these two, pyarrow fetches whole column chunks, that is a row group, before the first row. Every
    # column has a buffer of its own, and there can be thousands.
    buffer_size = max(1 << 14, _PARQUET_BUFFERS // max(1, metadata.num_columns))
    return pq.ParquetFile(f, metadata=metadata, pre_buffer=False, buffer_size=buffer_size)


def _open_parquet(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    name = redact(path)
    parquet = _parquet(f)
    schema, metadata = parquet.schema_arrow, parquet.metadata
    kinds = [column.type for column in schema]
    nested = len(kinds) == 1 and _is_list(kinds[0])
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
        raise CaseError(f"{name}: the footer contradicts itself about the number of rows. {_COPY_AGAIN}")
    return _ParquetArray(path, (metadata.num_rows, width), max(dtypes), size, groups)


_OPENERS: dict[str, Callable[[str, pa.NativeFile, int], ArrayFile]] = {
    ".pickle": _open_pickle,
    ".pkl": _open_pickle,
    ".p": _open_pickle,
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".parquet": _open_parquet,
}


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what damaged files raise into a `CaseError` that starts with `what`."""
    try:
        yield
    except _DAMAGE as error:
        detail = (redact(str(error)).splitlines() or [type(error).__name__])[0]
        raise CaseError(f"{what}: {detail.rstrip('.')}. {_COPY_AGAIN}") from safe_cause(error)
