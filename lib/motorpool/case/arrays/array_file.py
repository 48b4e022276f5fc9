"""What every format gives: an `ArrayFile` with its `Split`s, and errors that name the file and the rows."""

from __future__ import annotations

import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motorpool.case.files import open_file, redact, safe_cause
from motorpool.errors import CaseError

# Advice that several formats give.
COPY_AGAIN = "Copy or export the file again"
SAVE_FLOAT32 = "Convert it with array.astype('float32') and save it again"
RESHAPE = "Reshape it, for example with array.reshape(len(array), -1), and save it again"

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
        with explained(f"{self.name}: cannot be read"), open_file(self.path) as f:
            if (size := f.size()) != self.size:
                raise CaseError(
                    f"{self.name}: has {size:,} bytes now, {self.size:,} when it was opened. "
                    "Leave the case unchanged while it is read, and start again"
                )
            yield f

    def _rows_explained(self, first: int, count: int) -> AbstractContextManager[None]:
        return explained(f"{self.name}: rows {first:,} to {first + count - 1:,} cannot be read")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what damaged files raise into a `CaseError` that starts with `what`."""
    try:
        yield
    except _DAMAGE as error:
        detail = (redact(str(error)).splitlines() or [type(error).__name__])[0]
        raise CaseError(f"{what}: {detail.rstrip('.')}. {COPY_AGAIN}") from safe_cause(error)


def check_rows(rows: int) -> None:
    """Raise `ValueError` unless `rows`, of a split or a chunk, is at least 1."""
    if rows < 1:
        raise ValueError(f"rows = {rows}: must be >= 1")


def row_ranges(first: int, count: int, rows: int) -> Iterator[tuple[int, int]]:
    """``(first, rows)`` of consecutive ranges of at most `rows` rows that cover `count` rows from `first`."""
    for start in range(first, first + count, rows):
        yield start, min(rows, first + count - start)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is one of its lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def lists_to_float32(lists: pa.Array, out: np.ndarray) -> tuple[int, int | None] | None:
    """Write Arrow's lists of floats to the rows of `out` (float32[m, d]); None where all went well.

    Otherwise nothing is written, and the result is the first row that does not fit, with its length: None where it has
    no list (null), and d where one of its numbers is null.
    """
    width = out.shape[1]
    # A null list has no length at all, and fails the comparison as a ragged one does.
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    if (odd := np.flatnonzero(lengths != width)).size:
        row = int(odd[0])
        return row, int(lengths[row]) if lengths[row] >= 0 else None
    values = lists.flatten()
    if values.null_count:
        return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width, width
    to_float32(values.to_numpy(zero_copy_only=False), out.reshape(-1))
    return None


def to_float32(values: np.ndarray, out: np.ndarray) -> None:
    """Write `values` (floats of any size and byte order) to `out` (float32, same shape); too large becomes inf."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, values, casting="unsafe")
