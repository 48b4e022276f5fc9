"""Finding a NumPy array inside a pickle without ever unpickling it.

`pickle.load` runs whatever the file says and holds all of it in memory. This module reads the opcodes itself:
only those that NumPy's own array pickles use, only on symbols (`pickle_symbols`), never importing or calling
anything. The array's bytes are not read but located, so a caller can stream them.

Read: one 2-D array of float16, float32 or float64, C or Fortran order, either byte order, pickle protocols
1 to 5, NumPy 1 or 2, Python 2 or 3. Everything else is refused with a `CaseError`.

Memory: a few KiB for the layout; see `laid_out` and, for bytes stored as text, `pickle_text` for reading.
"""

from __future__ import annotations

import re
from typing import BinaryIO, Literal

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, ArrayFile
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout
from motorpool.case.arrays.pickle_symbols import (
    Array,
    String,
    build,
    call,
    describe,
    import_name,
    printable,
    short_text,
)
from motorpool.case.arrays.pickle_text import TextArray
from motorpool.case.arrays.pickle_window import MAX_TEXT, Window
from motorpool.case.files import redact

# A real array pickle takes 45 to 90 opcodes; the cap leaves room and still stops a file made to exhaust memory
# or time.
MAX_OPCODES = 512

_MARK = object()
_INTEGERS = {b"K": "<B", b"M": "<H", b"J": "<i"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUTS = {b"q": "<B", b"r": "<I"}
_GETS = {b"h": "<B", b"j": "<I"}
_STRINGS: dict[bytes, tuple[str, Literal["bytes", "text", "either"]]] = {
    b"U": ("<B", "either"),
    b"T": ("<i", "either"),
    b"C": ("<B", "bytes"),
    b"B": ("<I", "bytes"),
    b"\x8e": ("<Q", "bytes"),
    b"\x96": ("<Q", "bytes"),
    b"\x8c": ("<B", "text"),
    b"X": ("<I", "text"),
    b"\x8d": ("<Q", "text"),
}
_FOREIGN = {
    **dict.fromkeys((b"]", b"l", b"a", b"e"), "a list"),
    **dict.fromkeys((b"}", b"d", b"s", b"u"), "a dict"),
    **dict.fromkeys((b"\x8f", b"\x90", b"\x91"), "a set"),
    **dict.fromkeys((b"o", b"\x81", b"\x92"), "an instance of a class"),
    **dict.fromkeys((b"P", b"Q"), "a reference to another file (as torch writes)"),
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), "a registered extension type"),
    **dict.fromkeys((b"F", b"G"), "a single float"),
    **dict.fromkeys((b"S", b"V"), "text of pickle protocol 0 (too slow and large for arrays)"),
    **dict.fromkeys((b"\x97", b"\x98"), "an out-of-band buffer: the array's bytes are not in this file"),
}
_MAGICS = {
    b"PK\x03\x04": "a zip archive (an .npz, or written by torch.save)",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x93NUMPY": "a .npy file under another extension",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file under another extension",
}


def open_pickle(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The array in the pickle `f` of `size` bytes. Raises `CaseError` as `read_pickle_layout` does."""
    layout = read_pickle_layout(f, size, redact(path))
    kind = TextArray if layout.encoding == "latin1" else LaidOutArray
    return kind(path, layout.shape, layout.dtype, size, layout)


def read_pickle_layout(f: pa.NativeFile | BinaryIO, size: int, name: str) -> RawLayout:
    """Layout of the array in the open, seekable pickle `f` of `size` bytes; `name` is for messages.

    Reads a few KiB at the start and the end, not the payload. Text payloads get their characters checked
    when indexed. Raises `CaseError` for every pickle that is not one 2-D float array, or is damaged.
    """
    return _Machine(Window(f, size, name)).run()


class _Machine:
    """The interpreter: a stack, a memo, and at most `MAX_OPCODES` steps, each adding at most one item."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> RawLayout:
        window = self.window
        if window.size == 0:
            raise window.refusal("the file is empty", COPY_AGAIN)
        start = window.take(min(8, window.size))
        for magic, what in _MAGICS.items():
            if start.startswith(magic):
                raise window.refusal(f"is not a pickle but {what}", "Unpack it or name it by its format")
        window.position = 0
        for _ in range(MAX_OPCODES):
            if (opcode := window.take(1)) == b".":
                return self._result()
            self._step(opcode)
        raise window.refusal(f"holds more than one array: over {MAX_OPCODES} pickle instructions")

    def _step(self, opcode: bytes) -> None:
        window = self.window
        if opcode == b"\x80":
            if window.position != 1 or not 1 <= window.number("<B") <= 5:
                raise window.refusal("unknown pickle protocol: protocols 1 to 5 can be read")
        elif opcode == b"\x95":
            frame = window.number("<Q")
            if window.position + frame > window.size:
                raise window.refusal(f"the pickle is cut off: the file ends at byte {window.size:,}", COPY_AGAIN)
        elif opcode == b"(":
            self.stack.append(_MARK)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _INTEGERS:
            self.stack.append(window.number(_INTEGERS[opcode]))
        elif opcode in (b"I", b"L"):
            self.stack.append(self._decimal())
        elif opcode == b"\x8a":
            length = window.number("<B")
            if length > 9:  # eight bytes and a sign hold every size that fits a file
                raise window.refusal(f"holds an integer of {length} bytes")
            self.stack.append(int.from_bytes(window.take(length), "little", signed=True))
        elif opcode in _STRINGS:
            self._string(*_STRINGS[opcode])
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            items = [self._pop() for _ in range(count)]
            self.stack.append(tuple(reversed(items)))
        elif opcode == b"t":
            self._tuple_from_mark()
        elif opcode == b"c":
            self.stack.append(import_name(window.line(), window.line(), window))
        elif opcode == b"\x93":
            name, module = short_text(self._pop()), short_text(self._pop())
            if name is None or module is None:
                raise window.refusal("names something to import in a form that NumPy does not use")
            self.stack.append(import_name(module, name, window))
        elif opcode == b"i":
            raise window.refusal(f"creates {printable(f'{window.line()}.{window.line()}')}; nothing was run")
        elif opcode == b"R":
            arguments, callee = self._pop(), self._pop()
            self.stack.append(call(callee, arguments, window))
        elif opcode == b"b":
            state = self._pop()
            build(self._top(), state, window)
        elif opcode == b"\x94":
            self.memo[len(self.memo)] = self._top()
        elif opcode in _PUTS:
            self.memo[window.number(_PUTS[opcode])] = self._top()
        elif opcode in _GETS:
            self._get(window.number(_GETS[opcode]))
        elif opcode == b"p":
            self.memo[self._decimal()] = self._top()
        elif opcode == b"g":
            self._get(self._decimal())
        elif opcode in _FOREIGN:
            raise window.refusal(f"holds {_FOREIGN[opcode]}, expected one NumPy array and nothing else")
        else:
            raise window.refusal(f"is not a pickled NumPy array: unexpected byte 0x{opcode.hex()}")

    def _result(self) -> RawLayout:
        window = self.window
        if len(self.stack) != 1 or not isinstance(self.stack[0], Array):
            found = describe(self.stack[0]) if len(self.stack) == 1 else f"{len(self.stack)} objects"
            raise window.refusal(f"holds {found}, expected one NumPy array")
        layout = self.stack[0].layout
        if layout is None:
            raise window.refusal("holds an array without its values")
        if window.position != window.size:
            more = window.size - window.position
            raise window.refusal(f"has {more:,} bytes after the end of the array (several objects in one file?)")
        return layout

    # Stack and memo.

    def _top(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.window.refusal("is a damaged pickle: an instruction has nothing to work on", COPY_AGAIN)
        return self.stack[-1]

    def _pop(self) -> object:
        top = self._top()
        self.stack.pop()
        return top

    def _tuple_from_mark(self) -> None:
        items: list[object] = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise self.window.refusal("is a damaged pickle: a tuple has no beginning", COPY_AGAIN)
        self.stack[-1] = tuple(reversed(items))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise self.window.refusal(f"is a damaged pickle: memo entry {index} does not exist", COPY_AGAIN)
        self.stack.append(self.memo[index])

    # Literals.

    def _decimal(self) -> int | bool:
        line = self.window.line()
        if line in ("00", "01"):  # how protocols 0 and 1 write booleans
            return line == "01"
        if not re.fullmatch(r"-?\d{1,19}L?", line, re.ASCII):
            raise self.window.refusal(f"is a damaged pickle: {line!r} is no number", COPY_AGAIN)
        return int(line.rstrip("L"))

    def _string(self, length: str, kind: Literal["bytes", "text", "either"]) -> None:
        window = self.window
        nbytes = window.number(length)
        offset = window.position
        window.skip(nbytes)
        head = b""
        if nbytes <= MAX_TEXT:
            window.position = offset
            head = window.take(nbytes)
        self.stack.append(String(offset, nbytes, head, kind))
