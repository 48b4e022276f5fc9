"""NumPy's own files: .npy, and the .npz archives that hold one.

A .npz member that is stored uncompressed is a .npy file inside another, and is read as one. A compressed member
can only be read from its beginning, so it is one split.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, RESHAPE, SAVE_FLOAT32, ArrayFile, Split, check_rows
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout, Take, take_bytes
from motorpool.case.arrays.zip_members import MAX_READ, open_zip, stored_at
from motorpool.case.files import redact
from motorpool.errors import CaseError

_NPZ_NAMES = ("arr_0.npy", "descriptors.npy", "features.npy")
_MAX_NPY_HEADER = 10_000  # NumPy's own limit for headers it does not trust


def open_npy(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The array in the .npy file `f` of `size` bytes. Raises `CaseError` for anything but one 2-D float array."""
    layout = _npy_layout(f, size, redact(path))
    return LaidOutArray(path, layout.shape, layout.dtype, size, layout)


def open_npz(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The one array in the .npz file `f` of `size` bytes, or the one named arr_0, descriptors or features.

    Raises `CaseError` where there is no such one, and for compressed arrays in Fortran order.
    """
    name = redact(path)
    with open_zip(f) as archive:
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
            raise CaseError(f"{name}: encrypted, or compressed by no method NumPy uses. {COPY_AGAIN}")
        with archive.open(info) as stream:
            layout = _npy_layout(stream, info.file_size, f"{name} ({info.filename[:60]})")
    if not stored:
        if layout.fortran:
            raise CaseError(
                f"{name}: compressed and in column (Fortran) order, which cannot be read by rows in bounded "
                "memory. Save numpy.ascontiguousarray(array), or use numpy.save"
            )
        return _DeflatedArray(path, layout.shape, layout.dtype, size, layout, info.filename)
    # A stored member is a .npy file inside this one.
    start = stored_at(f, info, size, name)
    layout = replace(layout, offset=start + layout.offset)
    return LaidOutArray(path, layout.shape, layout.dtype, size, layout)


def _npy_layout(f: pa.NativeFile | IO[bytes], size: int, name: str) -> RawLayout:
    """Layout of the .npy file or zip member of `size` bytes that `f` is at the start of."""
    magic = f.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise CaseError(f"{name}: is not a .npy file of version 1, 2 or 3. {COPY_AGAIN}")
    length = int.from_bytes(f.read(2 if magic[6] == 1 else 4), "little")
    if length > _MAX_NPY_HEADER:
        raise CaseError(f"{name}: a header of {length:,} bytes, expected some 120. {COPY_AGAIN}")
    # Versions differ in the width of the length, and in an encoding that matters to field names only.
    header = io.BytesIO(length.to_bytes(4, "little") + f.read(length))
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)  # type: ignore[no-untyped-call]
    except Exception as error:  # the header is Python source, and its tokenizer raises many things
        raise CaseError(f"{name}: the .npy header is damaged. {COPY_AGAIN}") from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise CaseError(f"{name}: the array holds {dtype}, expected float16, float32 or float64. {SAVE_FLOAT32}")
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise CaseError(
            f"{name}: holds an array of shape {shape[:8]}, expected images x features, at least one feature. {RESHAPE}"
        )
    offset = (10 if magic[6] == 1 else 12) + length
    expected = shape[0] * shape[1] * dtype.itemsize
    if size - offset != expected:
        raise CaseError(
            f"{name}: {size - offset:,} bytes follow the header, shape {shape} of {dtype} needs "
            f"{expected:,}: the file is cut off or holds more than one array. {COPY_AGAIN}"
        )
    return RawLayout((int(shape[0]), int(shape[1])), dtype, bool(fortran), offset, expected)


@dataclass(frozen=True)
class _DeflatedArray(LaidOutArray):
    """An array in a compressed member of a zip file; `layout` is within that member."""

    member: str

    def splits(self, rows: int) -> list[Split]:
        check_rows(rows)
        return super().splits(max(1, self.shape[0]))

    @contextmanager
    def _bytes(self, f: pa.NativeFile) -> Iterator[Take]:
        end = self.layout.offset + self.layout.nbytes
        with open_zip(f) as archive, archive.open(self.member) as stream:

            def take(cursor: int, out: np.ndarray) -> int:
                # zipfile makes a bytes object of what it inflates at once.
                after = take_bytes(stream, cursor, out, block=MAX_READ)
                if after == end:
                    stream.read(1)  # zipfile verifies the checksum only where it meets the end
                return after

            yield take
