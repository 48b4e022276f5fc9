"""A cursor over a pickle: small reads, bounded texts, and refusals that say where."""

from __future__ import annotations

import struct
from typing import BinaryIO

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN
from motorpool.errors import CaseError

# The names in a real array pickle have at most 27 characters; more would be made to exhaust memory.
MAX_TEXT = 128
_WINDOW = 4096
_ADVICE = "Save one plain 2-D float32 array: pickle.dump(array, file, protocol=4) or numpy.save"


class Window:
    """The next unread byte of the `size` bytes of an open file; `name` is for messages.

    Reads blocks of 4 KiB, since one byte at a time is a request each on S3. What passes the file's end raises
    `CaseError`.
    """

    def __init__(self, f: pa.NativeFile | BinaryIO, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self.position = 0
        self._file = f
        self._block = b""
        self._start = 0

    def refusal(self, found: str, advice: str = _ADVICE) -> CaseError:
        """The error to raise for what was `found` at this place."""
        return CaseError(f"{self.name}: {found} (near byte {self.position:,}). {advice}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most `_WINDOW` of them."""
        if self.position + count > self.size:
            raise self.refusal(f"the pickle is cut off: the file ends at byte {self.size:,}", COPY_AGAIN)
        begin = self.position - self._start
        if not (begin >= 0 and begin + count <= len(self._block)):
            self._file.seek(self.position)
            self._block, self._start, begin = self._file.read(_WINDOW), self.position, 0
            if len(self._block) < count:
                raise self.refusal("the file got shorter while it was read", COPY_AGAIN)
        self.position += count
        return self._block[begin : begin + count]

    def number(self, form: str) -> int:
        """The next integer, in the `form` of the module `struct`."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> str:
        """The rest of a short ASCII line, without its end."""
        taken = bytearray()
        while (byte := self.take(1)) != b"\n":
            taken += byte
            if len(taken) > MAX_TEXT:
                raise self.refusal(f"holds a name or number of more than {MAX_TEXT} characters")
        return taken.decode("ascii", errors="backslashreplace")

    def skip(self, count: int) -> None:
        """Pass over `count` bytes without reading them."""
        if count < 0 or self.position + count > self.size:
            what = f"the pickle is cut off: {count:,} bytes should follow, {self.size - self.position:,} do"
            raise self.refusal(what, COPY_AGAIN)
        self.position += count
