"""Arrays whose values lie in one run of bytes of a file: where they are, and how rows are made of them.

Pickles, .npy and .npz are such files; they differ in how the run is found and in how its bytes are stored.

Memory: a chunk, plus a conversion buffer of at most 4 MiB or, for Fortran order, `_COLUMNS` columns of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import ArrayFile, Split, check_rows, row_ranges, to_float32

_BUFFER = 4 << 20
# Columns of a Fortran array turned into rows at once: 32 float32 fill two cache lines of every row.
_COLUMNS = 32

#: Fills a uint8[k] from a position in the file, and returns the position after.
Take = Callable[[int, np.ndarray], int]


@dataclass(frozen=True)
class RawLayout:
    """Where an array's values lie in a file.

    `offset` and `nbytes` span the payload in the file. `encoding` is "raw" for the bytes themselves
    (``nbytes == rows * columns * itemsize``), "latin1" for bytes as UTF-8 text (up to twice as many).
    """

    shape: tuple[int, int]
    dtype: np.dtype
    fortran: bool
    offset: int
    nbytes: int
    encoding: Literal["raw", "latin1"] = "raw"


@dataclass(frozen=True)
class LaidOutArray(ArrayFile):
    """Values stored as they are in memory, so that every row's place follows from its number.

    Subclasses change `_bytes` where the bytes are stored in another form, and `splits` where places must be
    looked up; `Split.at` then holds the place of the first row, or with Fortran order of its part of each column.
    """

    layout: RawLayout

    def splits(self, rows: int) -> list[Split]:
        check_rows(rows)
        return [Split(first, count) for first, count in row_ranges(0, self.shape[0], rows)]

    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        check_rows(rows)
        with self._opened(split) as f, self._bytes(f) as take:
            cursors = list(split.at or self._starts(split))
            for first, count in row_ranges(split.first, split.rows, rows):
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
    def _bytes(self, f: pa.NativeFile) -> Iterator[Take]:
        """How to get the array's bytes out of the open file."""
        yield partial(take_bytes, f)


def take_bytes(f: pa.NativeFile | IO[bytes], cursor: int, out: np.ndarray, block: int = 1 << 30) -> int:
    """Fill `out` (uint8[k]) from position `cursor`, at most `block` bytes a read; returns where it ended.

    Raises `EOFError` where the file ends early.
    """
    f.seek(cursor)
    filled = 0
    while filled < len(out):
        got = f.readinto(out[filled : filled + block])  # type: ignore[union-attr]
        if not got:
            raise EOFError(f"the data ends at byte {cursor + filled:,}")
        filled += got
    return cursor + filled


def _fill(take: Take, cursor: int, out: np.ndarray, dtype: np.dtype) -> int:
    """Fill `out` (contiguous float32[k]) with values stored as `dtype`; returns the position after them."""
    if dtype == out.dtype:
        return take(cursor, out.view(np.uint8))
    step = _BUFFER // dtype.itemsize
    stored = np.empty(min(len(out), step), dtype)
    for start in range(0, len(out), step):
        part = out[start : start + step]
        cursor = take(cursor, stored[: len(part)].view(np.uint8))
        to_float32(stored[: len(part)], part)
    return cursor


def _fill_columns(take: Take, cursors: list[int], out: np.ndarray, dtype: np.dtype) -> None:
    """Fill `out` (float32[m, d]) column by column from `cursors` (d positions), which move on."""
    count, d = out.shape
    columns = np.empty((min(_COLUMNS, d), count), np.float32)
    for start in range(0, d, _COLUMNS):
        block = columns[: min(_COLUMNS, d - start)]
        for j, column in enumerate(block, start):
            cursors[j] = _fill(take, cursors[j], column, dtype)
        out[:, start : start + len(block)] = block.T
