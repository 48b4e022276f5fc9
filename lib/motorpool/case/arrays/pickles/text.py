"""Pickled bytes that were stored as text.

Python 3 stores bytes under protocols 1 and 2 as text, each byte one Latin-1 character in UTF-8. Such a payload
has one or two file bytes per array byte, so where a row starts must be looked up; it is decoded as a stream.

Memory: about 12 MiB while a payload is indexed or decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, Split, check_rows, row_ranges
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout, Take
from motorpool.errors import CaseError

_TEXT_BLOCK = 1 << 20


@dataclass(frozen=True)
class TextArray(LaidOutArray):
    """An array whose bytes are text. `splits` reads through the file once, to find and to check the characters."""

    def splits(self, rows: int) -> list[Split]:
        check_rows(rows)
        n, d = self.shape
        ranges = list(row_ranges(0, n, rows))
        # The characters at which the rows of a range start; with Fortran order, each column of a range.
        starts = np.array([first for first, _ in ranges], np.int64)
        if self.layout.fortran:
            starts = (np.arange(d, dtype=np.int64)[:, None] * n + starts).ravel()
        else:
            starts = starts * d
        with self._opened(Split(0, n)) as f:
            offsets = index_text(f, self.layout, starts * self.dtype.itemsize, self.name)
        at = offsets.reshape(-1, len(ranges)).T.tolist() if ranges else []
        return [Split(first, count, tuple(at[i])) for i, (first, count) in enumerate(ranges)]

    @contextmanager
    def _bytes(self, f: pa.NativeFile) -> Iterator[Take]:
        end = self.layout.offset + self.layout.nbytes
        yield lambda cursor, out: decode_text(f, cursor, end, out)


def index_text(f: pa.NativeFile | BinaryIO, layout: RawLayout, wanted: np.ndarray, name: str) -> np.ndarray:
    """File offsets, int64[k], of the characters numbered `wanted` (int64[k], ascending) in a text payload.

    One sequential pass over the whole payload, which is checked on the way: every character in U+0000 to
    U+00FF, and as many as the array has bytes. Raises `CaseError` where that fails.
    """
    rows, columns = layout.shape
    total = rows * columns * layout.dtype.itemsize
    found = np.empty(len(wanted), np.int64)
    done = seen = 0
    after_lead = False
    position, end = layout.offset, layout.offset + layout.nbytes
    f.seek(position)
    while position < end:
        raw = f.read(min(_TEXT_BLOCK, end - position))
        if not raw:
            raise CaseError(f"{name}: ends at byte {position:,}, inside the array. {COPY_AGAIN}")
        block = np.frombuffer(raw, np.uint8)
        follows = (block & 0xC0) == 0x80
        leads = block >= 0xC0
        should_follow = np.empty_like(follows)
        should_follow[0] = after_lead
        should_follow[1:] = leads[:-1]
        # Latin-1 needs the two lead bytes C2 and C3 only, each followed by exactly one byte.
        if not np.array_equal(follows, should_follow) or np.any(leads & ((block & 0xFE) != 0xC2)):
            raise CaseError(
                f"{name}: the text holding the array's bytes is damaged between bytes {position:,} and "
                f"{position + len(raw):,}: it is not Latin-1 in UTF-8. {COPY_AGAIN}"
            )
        after_lead = bool(leads[-1])
        count = len(raw) - int(np.count_nonzero(follows))
        here = int(np.searchsorted(wanted, seen + count))
        if here > done:
            starts = np.flatnonzero(~follows)
            found[done:here] = position + starts[wanted[done:here] - seen]
            done = here
        seen += count
        position += len(raw)
    if seen != total or after_lead:
        raise CaseError(
            f"{name}: its text holds {seen:,} characters, but a {layout.dtype.name} array of shape "
            f"{layout.shape} needs {total:,}. {COPY_AGAIN}"
        )
    found[done:] = end  # a character after the last
    return found


def decode_text(f: pa.NativeFile | BinaryIO, cursor: int, end: int, out: np.ndarray) -> int:
    """Fill `out` (uint8[k]) with the bytes whose text starts at file offset `cursor`; returns where it ended.

    `cursor` must be a character's first byte, `end` the payload's. Raises `EOFError` where the text ends
    early and `UnicodeError` where it is not Latin-1.
    """
    filled = 0
    while filled < len(out):
        need = len(out) - filled
        f.seek(cursor)
        raw = f.read(max(0, min(_TEXT_BLOCK, 2 * need, end - cursor)))
        if raw and raw[-1] >= 0xC0:
            raw = raw[:-1]  # its second byte lies in the next block
        if not raw:
            raise EOFError(f"text ends at byte {cursor:,}")
        if len(raw) > need:
            starts = np.flatnonzero((np.frombuffer(raw, np.uint8) & 0xC0) != 0x80)
            if len(starts) > need:
                raw = raw[: starts[need]]
        piece = raw.decode("utf-8").encode("latin-1")
        out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
        cursor += len(raw)
    return cursor
