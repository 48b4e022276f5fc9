"""A cursor over a pickle: small reads, bounded texts, and refusals that say where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN
from motorpool.errors import CaseError

# The names in a real array pickle have at most 29 characters; more would be made to exhaust memory.
MAX_TEXT = 128
_WINDOW = 4096
_MAX_WINDOW = 1 << 20
SAVE_PLAIN = "Save one plain 2-D float32 array: pickle.dump(array, file, protocol=4) or numpy.save"


class Window:
    """The next unread byte of an open file, from byte `start` to before byte `size`; `name` is for messages.

    Reads blocks of 4 KiB, since one byte at a time is a request each on S3. Blocks that follow each other grow to
    1 MiB, so that a long list of paths takes few requests. What passes `size` raises `CaseError`, and so does
    everything that is refused: by default with `advice`.
    """

    def __init__(
        self, f: pa.NativeFile | BinaryIO, size: int, name: str, start: int = 0, advice: str = SAVE_PLAIN
    ) -> None:
        self.start = start
        self.size = size
        self.name = name
        self.position = start
        self._advice = advice
        self._file = f
        self._block = b""
        self._block_start = start
        self._next_length = _WINDOW

    def refusal(self, found: str, advice: str | None = None) -> CaseError:
        """The error to raise for what was `found` at this place."""
        return CaseError(f"{self.name}: {found} (near byte {self.position:,}). {advice or self._advice}")

    def byte(self) -> int:
        """The next byte."""
        begin = self.position - self._block_start
        if 0 <= begin < len(self._block):
            self.position += 1
            return self._block[begin]
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most `_WINDOW` of them."""
        begin = self.position - self._block_start
        if begin < 0 or begin + count > len(self._block):
            self._refill(count)
            begin = 0
        self.position += count
        return self._block[begin : begin + count]

    def number(self, width: int, signed: bool = False) -> int:
        """The next integer of `width` bytes, the lowest first."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        """The rest of a short ASCII line, without its end."""
        taken = bytearray()
        while (byte := self.byte()) != 0x0A:
            taken.append(byte)
            if len(taken) > MAX_TEXT:
                raise self.refusal(f"holds a name or number of more than {MAX_TEXT} characters")
        return taken.decode("ascii", errors="backslashreplace")

    def skip(self, count: int) -> None:
        """Pass over `count` bytes without reading them."""
        if count < 0 or self.position + count > self.size:
            what = f"the pickle is cut off: {count:,} bytes should follow, {self.size - self.position:,} do"
            raise self.refusal(what, COPY_AGAIN)
        self.position += count

    def blocks(self, offset: int, count: int) -> Iterator[bytes]:
        """The `count` bytes from file offset `offset` on, 1 MiB at a time; the cursor stays where it is."""
        while count > 0:
            self._file.seek(offset)
            block = self._file.read(min(count, _MAX_WINDOW))
            if not block:
                raise self.refusal("the file got shorter while it was read", COPY_AGAIN)
            yield block
            offset += len(block)
            count -= len(block)

    def _refill(self, count: int) -> None:
        """Make the block start at the cursor and hold at least `count` bytes."""
        if self.position + count > self.size:
            raise self.refusal(f"the pickle is cut off: it ends at byte {self.size:,}", COPY_AGAIN)
        follows = abs(self._block_start + len(self._block) - self.position) < _WINDOW
        self._next_length = min(2 * self._next_length, _MAX_WINDOW) if follows and self._block else _WINDOW
        self._file.seek(self.position)
        self._block = self._file.read(min(self._next_length, self.size - self.position))
        self._block_start = self.position
        if len(self._block) < count:
            raise self.refusal("the file got shorter while it was read", COPY_AGAIN)
