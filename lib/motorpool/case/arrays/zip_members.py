"""Zip files that hold arrays: their directory in bounded memory, and where an uncompressed member lies."""

from __future__ import annotations

import io
import os
import struct
import zipfile

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN
from motorpool.errors import CaseError

# A directory of 4 MiB lists some 50,000 members. What inflates at once is read in parts of this size too.
MAX_READ = 4 << 20


def open_zip(f: pa.NativeFile) -> zipfile.ZipFile:
    """The zip file `f`, whose parts are read 4 MiB at a time at most. Raises `BadZipFile` for what is none."""
    return zipfile.ZipFile(_BoundedReads(f))


def stored_at(f: pa.NativeFile, info: zipfile.ZipInfo, size: int, name: str) -> int:
    """The place in the file `f` of `size` bytes at which the uncompressed member `info` starts.

    All of it lies within the file. Raises `CaseError` where the archive says anything else; `name` is the file's.
    """
    f.seek(info.header_offset)
    header = f.read(30)
    # A member follows a local header with two texts of stated lengths.
    if len(header) == 30 and header[:4] == b"PK\x03\x04":
        name_length, extra_length = struct.unpack("<HH", header[26:])
        start = info.header_offset + 30 + int(name_length) + int(extra_length)
        if start + info.file_size <= size and info.file_size == info.compress_size:
            return start
    raise CaseError(f"{name}: the archive is cut off or damaged. {COPY_AGAIN}")


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
        if count > MAX_READ:
            raise zipfile.BadZipFile(f"a part of {count:,} bytes, expected at most {MAX_READ:,}")
        return bytes(self._file.read(max(0, count)))
