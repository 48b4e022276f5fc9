"""Finding a NumPy array inside a pickle without ever unpickling it.

`pickle.load` runs whatever the file says and holds all of it in memory. This module reads the opcodes itself:
only those that NumPy's own array pickles use, only on symbols, never importing or calling anything. The
array's bytes are not read but located, so a caller can stream them.

Read: one 2-D array of float16, float32 or float64, C or Fortran order, either byte order, pickle protocols
1 to 5, NumPy 1 or 2, Python 2 or 3. Everything else is refused with a `CaseError`.

Python 3 stores bytes under protocols 1 and 2 as text, each byte one Latin-1 character in UTF-8. Such a
payload has one or two file bytes per array byte; `index_text` and `decode_text` read it as a stream.

Memory: a few KiB for the layout; about 12 MiB while a text payload is indexed or decoded.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa

from motorpool.errors import CaseError

# A real array pickle takes 45 to 90 opcodes, names of at most 27 characters and no others; the caps leave
# room and still stop a file made to exhaust memory or time.
MAX_OPCODES = 512
MAX_TEXT = 128
_WINDOW = 4096
_TEXT_BLOCK = 1 << 20

_ADVICE = "Save one plain 2-D float32 array: pickle.dump(array, file, protocol=4) or numpy.save"
_COPY_AGAIN = "Copy or export the file again"


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


def read_pickle_layout(f: pa.NativeFile | BinaryIO, size: int, name: str) -> RawLayout:
    """Layout of the array in the open, seekable pickle `f` of `size` bytes; `name` is for messages.

    Reads a few KiB at the start and the end, not the payload. Text payloads get their characters checked
    when indexed. Raises `CaseError` for every pickle that is not one 2-D float array, or is damaged.
    """
    return _Machine(_Window(f, size, name)).run()


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
            raise CaseError(f"{name}: ends at byte {position:,}, inside the array. {_COPY_AGAIN}")
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
                f"{position + len(raw):,}: it is not Latin-1 in UTF-8. {_COPY_AGAIN}"
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
            f"{layout.shape} needs {total:,}. {_COPY_AGAIN}"
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


# The symbols: what the opcodes push instead of objects.


@dataclass(frozen=True)
class _Global:
    """A name that a real unpickler would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class _String:
    """Bytes, text, or Python 2's str, which is either. `head` is all of it if short, else empty."""

    offset: int
    nbytes: int
    head: bytes
    kind: Literal["bytes", "text", "either", "latin1"]  # latin1: text turned into bytes by _codecs.encode


@dataclass
class _Dtype:
    code: str
    order: str = "="
    built: bool = False


@dataclass
class _Array:
    layout: RawLayout | None = None


_MARK = object()

_NUMPY_CORES = ("numpy.core", "numpy._core")
_ALLOWED = {
    **{(f"{core}.multiarray", "_reconstruct"): "reconstruct" for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): "frombuffer" for core in _NUMPY_CORES},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    # Protocols 1 and 2 write no bytes as bytes().
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}

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
_DTYPE_KINDS = {
    "b": "booleans",
    "i": "integers",
    "u": "unsigned integers",
    "c": "complex numbers",
    "O": "Python objects",
    "V": "structured records",
    "S": "byte strings",
    "U": "text",
    "M": "dates",
    "m": "time spans",
    "f": "floats of an unusual size",
}


class _Window:
    """A cursor over the file that reads small blocks, since one byte at a time is a request each on S3."""

    def __init__(self, f: pa.NativeFile | BinaryIO, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self.position = 0
        self._file = f
        self._block = b""
        self._start = 0

    def refusal(self, found: str, advice: str = _ADVICE) -> CaseError:
        return CaseError(f"{self.name}: {found} (near byte {self.position:,}). {advice}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most `_WINDOW` of them."""
        if self.position + count > self.size:
            raise self.refusal(f"the pickle is cut off: the file ends at byte {self.size:,}", _COPY_AGAIN)
        begin = self.position - self._start
        if not (begin >= 0 and begin + count <= len(self._block)):
            self._file.seek(self.position)
            self._block, self._start, begin = self._file.read(_WINDOW), self.position, 0
            if len(self._block) < count:
                raise self.refusal("the file got shorter while it was read", _COPY_AGAIN)
        self.position += count
        return self._block[begin : begin + count]

    def number(self, form: str) -> int:
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
        if count < 0 or self.position + count > self.size:
            what = f"the pickle is cut off: {count:,} bytes should follow, {self.size - self.position:,} do"
            raise self.refusal(what, _COPY_AGAIN)
        self.position += count


class _Machine:
    """The interpreter: a stack, a memo, and at most `MAX_OPCODES` steps, each adding at most one item."""

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> RawLayout:
        window = self.window
        if window.size == 0:
            raise window.refusal("the file is empty", _COPY_AGAIN)
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
                raise window.refusal(f"the pickle is cut off: the file ends at byte {window.size:,}", _COPY_AGAIN)
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
            self._global(window.line(), window.line())
        elif opcode == b"\x93":
            name, module = self._short_text(self._pop()), self._short_text(self._pop())
            if name is None or module is None:
                raise window.refusal("names something to import in a form that NumPy does not use")
            self._global(module, name)
        elif opcode == b"i":
            raise window.refusal(f"creates {_printable(f'{window.line()}.{window.line()}')}; nothing was run")
        elif opcode == b"R":
            arguments, callee = self._pop(), self._pop()
            self.stack.append(self._reduce(callee, arguments))
        elif opcode == b"b":
            state = self._pop()
            self._build(self._top(), state)
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
        if len(self.stack) != 1 or not isinstance(self.stack[0], _Array):
            found = _describe(self.stack[0]) if len(self.stack) == 1 else f"{len(self.stack)} objects"
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
            raise self.window.refusal("is a damaged pickle: an instruction has nothing to work on", _COPY_AGAIN)
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
            raise self.window.refusal("is a damaged pickle: a tuple has no beginning", _COPY_AGAIN)
        self.stack[-1] = tuple(reversed(items))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise self.window.refusal(f"is a damaged pickle: memo entry {index} does not exist", _COPY_AGAIN)
        self.stack.append(self.memo[index])

    # Literals.

    def _decimal(self) -> int | bool:
        line = self.window.line()
        if line in ("00", "01"):  # how protocols 0 and 1 write booleans
            return line == "01"
        if not re.fullmatch(r"-?\d{1,19}L?", line, re.ASCII):
            raise self.window.refusal(f"is a damaged pickle: {line!r} is no number", _COPY_AGAIN)
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
        self.stack.append(_String(offset, nbytes, head, kind))

    def _short_text(self, item: object) -> str | None:
        """The text of a short string symbol, None for anything else."""
        if not isinstance(item, _String) or item.kind not in ("text", "either") or item.nbytes > MAX_TEXT:
            return None
        return item.head.decode("utf-8", errors="backslashreplace")

    def _global(self, module: str, name: str) -> None:
        if (module, name) not in _ALLOWED:
            found = _printable(f"{module}.{name}")
            raise self.window.refusal(
                f"holds or calls {found}, which is no part of a plain NumPy array; nothing was run"
            )
        self.stack.append(_Global(module, name))

    # What calling would do, on symbols.

    def _reduce(self, callee: object, arguments: object) -> object:
        refusal = self.window.refusal
        role = _ALLOWED[callee.module, callee.name] if isinstance(callee, _Global) else None
        if not isinstance(arguments, tuple):
            raise refusal("is a damaged pickle: a call without arguments", _COPY_AGAIN)
        match role, arguments:
            case "reconstruct", (_Global() as kind, tuple(), _String()) if (
                _ALLOWED[kind.module, kind.name] == "ndarray"
            ):
                return _Array()
            case "dtype", (_String() as code, bool() | 0 | 1, bool() | 0 | 1):
                return self._dtype(self._short_text(code) or "")
            case "encode", (_String(kind="text") as text, _String() as codec):
                if self._short_text(codec) in ("latin1", "latin-1"):
                    return _String(text.offset, text.nbytes, text.head, "latin1")
            case "bytes", ():
                return _String(self.window.position, 0, b"", "bytes")
            # The fifth argument is the order of axes; two dimensions never need it.
            case "frombuffer", (_String() as data, _Dtype() as dtype, shape, _String() as order, *rest):
                letter = self._short_text(order)
                if letter in ("C", "F") and rest in ([], [None]):
                    return _Array(self._layout(shape, dtype, letter == "F", data))
        raise refusal(f"calls {callee if role else _describe(callee)} in a way NumPy does not; nothing was run")

    def _build(self, target: object, state: object) -> None:
        match target, state:
            case _Dtype(built=False), (3, _String() as order, None, None, None, int(), int(), int()):
                if (letter := self._short_text(order)) in ("<", ">", "="):
                    target.order, target.built = letter, True
                    return
            case _Array(layout=None), (
                1,
                shape,
                _Dtype() as dtype,
                bool() | 0 | 1 as fortran,
                _String() as data,
            ):
                target.layout = self._layout(shape, dtype, bool(fortran), data)
                return
        raise self.window.refusal(f"holds {_describe(target)} in a state that a plain float array never has")

    def _dtype(self, code: str) -> _Dtype:
        if code in ("f2", "f4", "f8"):
            return _Dtype(code)
        kind = _DTYPE_KINDS.get(code[:1], "an unknown type")
        raise self.window.refusal(
            f"the array holds {kind} (dtype {code[:16]!a}), expected float16, float32 or float64",
            "Convert it with array.astype('float32') and save it again",
        )

    def _layout(self, shape: object, dtype: _Dtype, fortran: bool, data: _String) -> RawLayout:
        refusal = self.window.refusal
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise refusal("is a damaged pickle: the array's shape is not a tuple of sizes", _COPY_AGAIN)
        if len(shape) != 2 or shape[1] == 0:
            raise refusal(
                f"holds an array of shape {shape[:8]}, expected images x features, at least one feature",
                "Reshape it, for example with array.reshape(len(array), -1), and save it again",
            )
        if data.kind == "text":
            raise refusal("is a damaged pickle: the array's values are text", _COPY_AGAIN)
        rows, columns = shape
        expected = rows * columns * int(dtype.code[1:])
        most = 2 * expected if data.kind == "latin1" else expected
        if not expected <= data.nbytes <= most:
            raise refusal(
                f"holds {data.nbytes:,} bytes of values, shape {shape} of {dtype.code} needs {expected:,}",
                _COPY_AGAIN,
            )
        encoding: Literal["raw", "latin1"] = "latin1" if data.kind == "latin1" else "raw"
        native = np.dtype(dtype.order + dtype.code)
        return RawLayout((rows, columns), native, fortran, data.offset, data.nbytes, encoding)


def _describe(item: object) -> str:
    """What a symbol is, in words, without printing anything long or nested."""
    if isinstance(item, tuple):
        return f"a tuple of {len(item)}"
    if item is None:
        return "None"
    if isinstance(item, _Global):
        return str(item)
    named = {
        _String: "text or bytes",
        _Array: "an array",
        _Dtype: "a dtype",
        int: "a number",
        bool: "a boolean",
    }
    return named.get(type(item), "an unfinished tuple")


def _printable(name: str) -> str:
    """A name from a file that may be hostile, fit for a terminal and a log line."""
    return name if name.isprintable() else ascii(name)
