"""Datasets of HDF5 that lie in chunks: rectangles of values, each compressed by itself.

Chunks are inflated here and not by HDF5, which would inflate a small hostile chunk to any size.

Memory: the rows of one band of chunks as float32, and one chunk twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, ArrayFile, Split, check_rows, row_ranges, to_float32
from motorpool.case.arrays.laid_out import take_bytes
from motorpool.case.files import redact
from motorpool.errors import CaseError

#: Bytes of chunks side by side, which a row needs at once.
MAX_BAND = 256 << 20
_MOST_CHUNKS = 1_000_000


@contextmanager
def opened_hdf5(f: pa.NativeFile, name: str) -> Iterator[Any]:
    """The open file `f` as an `h5py.File`; `name` is for messages. What h5py raises becomes `CaseError`."""
    try:
        import h5py
    except ImportError as error:
        raise CaseError(f"{name}: HDF5 files are read with the package h5py. Install it: pip install h5py") from error
    try:
        with h5py.File(f, "r") as file:
            yield file
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        detail = (redact(str(error)).splitlines() or [type(error).__name__])[0]
        raise CaseError(f"{name}: cannot be read as HDF5: {detail.rstrip('.')}. {COPY_AGAIN}") from None


@dataclass(frozen=True)
class ChunkedArray(ArrayFile):
    """The dataset `dataset` in chunks of `chunk` values, which went through `filters` in their order.

    `Split.at` has three numbers for each chunk, row by row: file offset, bytes, and the filters left out.
    """

    dataset: str
    chunk: tuple[int, int]
    filters: tuple[str, ...]

    def splits(self, rows: int) -> list[Split]:
        check_rows(rows)
        if not self.shape[0]:
            return []
        places = self._places()
        high = self.chunk[0]
        found = []
        # Whole bands of chunks, so that none is inflated twice.
        for first, count in row_ranges(0, self.shape[0], max(1, rows // high) * high):
            bands = places[first // high : -(-(first + count) // high)]
            found.append(Split(first, count, tuple(bands.ravel().tolist())))
        return found

    def read(self, split: Split, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        check_rows(rows)
        high = self.chunk[0]
        with self._opened(split) as f:
            places = np.array(split.at, np.int64).reshape(-1, self._across(), 3)
            band, number = np.empty((0, self.shape[1]), np.float32), -1
            for first, count in row_ranges(split.first, split.rows, rows):
                out = np.empty((count, self.shape[1]), np.float32)
                done = 0
                with self._rows_explained(first, count):
                    while done < count:
                        here = first - split.first + done
                        if here // high != number:
                            number = here // high
                            band = self._band(f, places[number])
                        part = band[here % high :][: count - done]
                        out[done : done + len(part)] = part
                        done += len(part)
                yield first, out

    def _across(self) -> int:
        """Chunks side by side."""
        return -(-self.shape[1] // self.chunk[1])

    def _places(self) -> np.ndarray:
        """int64[bands, chunks side by side, 3], as in `Split.at`; `CaseError` where a chunk is missing or too long."""
        (n, _), (high, wide), across = self.shape, self.chunk, self._across()
        shape = (-(-n // high), across, 3)
        if shape[0] * across > _MOST_CHUNKS:
            raise CaseError(
                f"{self.name}: the dataset lies in {shape[0] * across:,} chunks, expected at most {_MOST_CHUNKS:,}. "
                f"Save it as it is: numpy.save('x.npy', h5py.File('x.h5')[{self.dataset[-60:]!a}][:])"
            )
        places = np.full(shape, -1, np.int64)

        def note(chunk: Any) -> None:
            row, column = chunk.chunk_offset
            if row < n and column < self.shape[1]:
                places[row // high, column // wide] = chunk.byte_offset, chunk.size, chunk.filter_mask

        with self._opened(Split(0, n)) as f, opened_hdf5(f, self.name) as file:
            file[self.dataset].id.chunk_iter(note)
        offset, nbytes = places[..., 0], places[..., 1]
        # What does not get smaller grows by a thousandth at most.
        most = high * wide * self.dtype.itemsize * 1001 // 1000 + 64
        bad = (offset < 0) | (nbytes < 1) | (nbytes > most) | (offset > self.size - nbytes)
        if bad.any():
            row = int(np.argwhere(bad)[0][0]) * high
            raise CaseError(
                f"{self.name}: the chunk of row {row:,} was never written, or lies outside of the file. {COPY_AGAIN}"
            )
        return places

    def _band(self, f: pa.NativeFile, places: np.ndarray) -> np.ndarray:
        """float32[rows of a chunk, columns] of the chunks side by side at `places` (int64[chunks, 3])."""
        high, wide = self.chunk
        out = np.empty((high, self.shape[1]), np.float32)
        for i, (offset, nbytes, left_out) in enumerate(places.tolist()):
            raw = np.empty(nbytes, np.uint8)
            take_bytes(f, offset, raw)
            columns = out[:, i * wide : (i + 1) * wide]
            to_float32(self._values(raw, left_out)[:, : columns.shape[1]], columns)
        return out

    def _values(self, raw: np.ndarray, left_out: int) -> np.ndarray:
        """The values of a chunk, from its stored bytes (uint8[k]); bit i of `left_out`: filter i was not applied."""
        nbytes = self.chunk[0] * self.chunk[1] * self.dtype.itemsize
        for i, kind in reversed(list(enumerate(self.filters))):
            if left_out >> i & 1:
                continue
            if kind == "deflate":
                stream = zlib.decompressobj()
                raw = np.frombuffer(stream.decompress(raw.tobytes(), nbytes + 1), np.uint8)
                if not stream.eof:
                    raise ValueError(f"a chunk is cut off, or has more than the {nbytes:,} bytes that it should have")
            elif len(raw) == nbytes:
                # The first bytes of all values, then the second ones, and so on.
                raw = np.ascontiguousarray(raw.reshape(self.dtype.itemsize, -1).T).reshape(-1)
        if len(raw) != nbytes:
            raise ValueError(f"a chunk has {len(raw):,} bytes, expected {nbytes:,}")
        return raw.view(self.dtype).reshape(self.chunk)
