"""The interpreter of pickles: opcodes on symbols, bounded in steps and in memory.

Read: one 2-D array of float16, float32 or float64, alone or in dicts, lists and tuples beside other things. C or
Fortran order, either byte order, pickle protocols 1 to 5, NumPy 1 or 2, Python 2 or 3; NumPy's matrices and memory
maps, masked arrays with nothing masked, and joblib's files. Everything else is refused with a `CaseError`.

Memory: a few MiB, at most some 100 MiB for a file that is made to take it; see `laid_out` and, for bytes stored as
text, `text` for reading. What lies beside the array is passed over: some 2 seconds for 400,000 paths as text, 10 as
`pathlib.Path` objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, NoReturn

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, ArrayFile
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout
from motorpool.case.arrays.pickles.calls import build, call, create, import_name
from motorpool.case.arrays.pickles.memo import Memo
from motorpool.case.arrays.pickles.symbols import (
    Array,
    Mapping,
    Other,
    Sequence,
    Skipped,
    Storage,
    String,
    describe,
    make_tuple,
    printable,
    short_text,
)
from motorpool.case.arrays.pickles.text import TextArray
from motorpool.case.arrays.pickles.window import MAX_TEXT, Window
from motorpool.case.files import redact

# An array takes 45 to 90 opcodes, a path beside it 2 as text and some 20 as a pathlib.Path. The cap stops a file made
# to exhaust time: it is reached in about half a minute.
MAX_OPCODES = 16_000_000
# Python writes lists and dicts in parts of 1,000 items, and tuples whole.
_MAX_STACK = 4096
# An array of its own for each image is no 2-D array.
_MAX_ARRAYS = 10_000
_SHOWN = 8

_MARK = object()
_FOREIGN = {
    **dict.fromkeys(b"ld", "a list or dict of pickle protocol 0 (too slow and large for arrays)"),
    **dict.fromkeys(b"SVF", "text of pickle protocol 0 (too slow and large for arrays)"),
    **dict.fromkeys(b"o\x92", "an instance of a class"),
    **dict.fromkeys(b"P", "a reference to another file"),
    **dict.fromkeys(b"\x82\x83\x84", "a registered extension type"),
    **dict.fromkeys(b"\x97\x98", "an out-of-band buffer: the array's bytes are not in this file"),
}
_UNCOMPRESSED = "Unpack it, or save it uncompressed: joblib.dump(joblib.load('x.joblib'), 'y.joblib', compress=0)"
_MAGICS = {
    b"PK\x03\x04": ("a zip archive (an .npz, or written by torch.save)", "Name it by its format: .npz or .pt"),
    **dict.fromkeys((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), ("compressed with zlib", _UNCOMPRESSED)),
    b"\x1f\x8b": ("compressed with gzip", _UNCOMPRESSED),
    b"BZh": ("compressed with bzip2", _UNCOMPRESSED),
    b"\xfd7zXZ": ("compressed with xz", _UNCOMPRESSED),
    b"\x5d\x00\x00": ("compressed with lzma", _UNCOMPRESSED),
    b"\x04\x22\x4d\x18": ("compressed with lz4", _UNCOMPRESSED),
    b"\x93NUMPY": ("a .npy file under another extension", "Name it .npy"),
    b"\x89HDF": ("an HDF5 file", "Name it .h5"),
    b"PAR1": ("a Parquet file under another extension", "Name it .parquet"),
    # torch.save's number before 1.6, as a pickle of its own.
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9": (
        "in the format of torch before 1.6",
        "Save it again: torch.save(torch.load('x.pt', weights_only=True), 'y.pt')",
    ),
}

#: The storage of a tensor, by what torch.save puts in its place.
FindStorage = Callable[[object], Storage]


def open_pickle(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The array in the pickle `f` of `size` bytes. Raises `CaseError` as `read_pickle_layout` does."""
    return opened_layout(path, size, read_pickle_layout(f, size, redact(path)))


def opened_layout(path: str, size: int, layout: RawLayout) -> ArrayFile:
    """The array that lies in the file of `size` bytes at `path` as `layout` says."""
    kind = TextArray if layout.encoding == "latin1" else LaidOutArray
    return kind(path, layout.shape, layout.dtype, size, layout)


def read_pickle_layout(f: pa.NativeFile | BinaryIO, size: int, name: str) -> RawLayout:
    """Layout of the array in the open, seekable pickle `f` of `size` bytes; `name` is for messages.

    Reads a few KiB at the start and the end and what lies beside the array, not the payload. Text payloads get
    their characters checked when indexed. Raises `CaseError` for every pickle that does not hold exactly one 2-D
    float array, or is damaged.
    """
    return read_window(Window(f, size, name))


def read_window(window: Window, find_storage: FindStorage | None = None) -> RawLayout:
    """As `read_pickle_layout`, for a pickle within a file; with `find_storage`, tensors of torch are arrays."""
    return _Machine(window, find_storage).run()


class _Machine:
    """The interpreter: a stack of at most `_MAX_STACK` symbols, a memo, and at most `MAX_OPCODES` steps."""

    def __init__(self, window: Window, find_storage: FindStorage | None) -> None:
        self.window = window
        self.stack: list[object] = []
        self.memo = Memo(window)
        self.arrays: list[Array] = []
        self.find_storage = find_storage

    def run(self) -> RawLayout:
        window, stack = self.window, self.stack
        if window.size == window.start:
            raise window.refusal("the file is empty", COPY_AGAIN)
        head = window.take(min(10, window.size - window.start))
        for magic, (what, todo) in _MAGICS.items():
            if head.startswith(magic):
                raise window.refusal(f"is not a pickle but {what}", todo)
        window.position = window.start
        for _ in range(MAX_OPCODES):
            if (opcode := window.byte()) == 0x2E:
                return self._result()
            if (step := _STEPS.get(opcode)) is None:
                self._refuse(opcode)
            step[0](self, *step[1:])
            if len(stack) > _MAX_STACK:
                self._shorten()
        raise window.refusal(f"holds over {MAX_OPCODES:,} pickle instructions, which is much beside an array")

    def _refuse(self, opcode: int) -> NoReturn:
        if opcode in _FOREIGN:
            raise self.window.refusal(f"holds {_FOREIGN[opcode]}, expected one NumPy array")
        raise self.window.refusal(f"is not a pickled NumPy array: unexpected byte 0x{opcode:02x}")

    def _result(self) -> RawLayout:
        window = self.window
        top = self.stack[0] if len(self.stack) == 1 else None
        if isinstance(top, Array):
            chosen = top
        elif isinstance(top, Mapping | Sequence | tuple) or (isinstance(top, Other) and top.holds):
            chosen = self._only_array(describe(top))
        else:
            found = describe(self.stack[0]) if len(self.stack) == 1 else f"{len(self.stack)} objects"
            raise window.refusal(f"holds {found}, expected one NumPy array")
        if chosen.fault is not None:
            raise chosen.fault
        if chosen.layout is None:
            raise window.refusal("holds an array without its values")
        if window.position != window.size:
            more = window.size - window.position
            raise window.refusal(f"has {more:,} bytes after the end of the array (several objects in one file?)")
        if chosen.masked:
            self._check_mask(chosen)
        return chosen.layout

    def _only_array(self, holder: str) -> Array:
        """The one 2-D float array among all arrays of the file, which lie in `holder`."""
        fit = [array for array in self.arrays if array.layout is not None]
        if len(fit) == 1:
            return fit[0]
        if fit:
            shown = ", ".join(f"{array.key} of shape {array.shape}" for array in fit[:_SHOWN])
            more = f" and {len(fit) - _SHOWN:,} more" if len(fit) > _SHOWN else ""
            line = "numpy.save('x.npy', data{})" if self.find_storage is None else "torch.save(data{}.clone(), 'x.pt')"
            raise self.window.refusal(
                f"holds {holder} with {len(fit):,} 2-D float arrays: {shown}{more}; expected exactly one",
                f"Save the one that is meant: {line.format(fit[0].key)}",
            )
        faults = [array for array in self.arrays if array.fault is not None]
        likely = [array.fault for array in faults if len(array.shape) == 2] or [array.fault for array in faults]
        if len(likely) == 1 and likely[0] is not None:
            raise likely[0]
        shown = ", ".join(f"{array.key} of shape {array.shape[:8]}" for array in faults[:_SHOWN]) or "no array at all"
        raise self.window.refusal(
            f"holds {holder} without a 2-D float array ({shown}{', ...' if len(faults) > _SHOWN else ''})",
            "Make one array of it: numpy.save('x.npy', numpy.stack(rows).astype('float32')), rows in the images' order",
        )

    def _check_mask(self, array: Array) -> None:
        """Refuse a masked array unless its mask, which is read through once, is False everywhere."""
        mask, todo = array.mask, "Say what stands for missing values: numpy.save('x.npy', array.filled(numpy.nan))"
        if mask is None or mask.nbytes != array.shape[0] * array.shape[1]:
            raise self.window.refusal("holds a masked array whose mask cannot be judged", todo)
        # The byte of False is zero, also as text.
        if any(block.strip(b"\0") for block in self.window.blocks(mask.offset, mask.nbytes)):
            raise self.window.refusal("holds a masked array with values masked out", todo)

    # Steps.

    def _push(self, item: object) -> None:
        self.stack.append(item)

    def _number(self, width: int, signed: bool = False) -> None:
        self.stack.append(self.window.number(width, signed))

    def _memoize(self) -> None:
        self.memo.append(self._top())

    def _put(self, width: int) -> None:
        self.memo.put(self.window.number(width), self._top())

    def _get(self, width: int) -> None:
        self.stack.append(self.memo.get(self.window.number(width)))

    def _put_decimal(self) -> None:
        self.memo.put(self._decimal(), self._top())

    def _get_decimal(self) -> None:
        self.stack.append(self.memo.get(self._decimal()))

    def _push_decimal(self) -> None:
        self.stack.append(self._decimal())

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.stack.append(make_tuple(items[::-1]))

    def _tuple_to_mark(self) -> None:
        self.stack.append(make_tuple(self._pop_to_mark()))

    def _new_list(self) -> None:
        self.stack.append(Sequence())

    def _new_dict(self) -> None:
        self.stack.append(Mapping())

    def _protocol(self) -> None:
        window = self.window
        if window.position != window.start + 1 or not 1 <= window.number(1) <= 5:
            raise window.refusal("unknown pickle protocol: protocols 1 to 5 can be read")

    def _frame(self) -> None:
        window = self.window
        frame = window.number(8)
        if window.position + frame > window.size:
            raise window.refusal(f"the pickle is cut off: it ends at byte {window.size:,}", COPY_AGAIN)

    def _long(self) -> None:
        window = self.window
        length = window.number(1)
        if length > 9:  # eight bytes and a sign hold every size that fits a file
            raise window.refusal(f"holds an integer of {length} bytes")
        self.stack.append(window.number(length, signed=True))

    def _binary_float(self) -> None:
        self.window.skip(8)
        self.stack.append(Other("a single float"))

    def _global(self) -> None:
        self.stack.append(import_name(self.window.line(), self.window.line(), self.window))

    def _stack_global(self) -> None:
        name, module = short_text(self._pop()), short_text(self._pop())
        if name is None or module is None:
            raise self.window.refusal("names something to import in a form that NumPy does not use")
        self.stack.append(import_name(module, name, self.window))

    def _instance(self) -> None:
        window = self.window
        raise window.refusal(f"creates {printable(f'{window.line()}.{window.line()}')}; nothing was run")

    def _reduce(self) -> None:
        arguments, callee = self._pop(), self._pop()
        self._push_made(call(callee, arguments, self.window))

    def _new_object(self) -> None:
        arguments, kind = self._pop(), self._pop()
        self._push_made(create(kind, arguments, self.window))

    def _build(self) -> None:
        state = self._pop()
        build(self._top(), state, self.window)

    def _persistent(self) -> None:
        if self.find_storage is None:
            raise self.window.refusal("holds a reference to another file (as torch writes)")
        self.stack.append(self.find_storage(self._pop()))

    def _append(self) -> None:
        item = self._pop()
        self._list().append(item)

    def _appends(self) -> None:
        items = self._pop_to_mark()
        target = self._list()
        for item in items:
            target.append(item)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._dict().put(key, value)

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        target = self._dict()
        if any(isinstance(item, Skipped) for item in items):
            return  # more than Python writes at once; its arrays have names already
        if len(items) % 2:
            raise self.window.refusal("is a damaged pickle: a key without its value", COPY_AGAIN)
        for i in range(0, len(items), 2):
            target.put(items[i], items[i + 1])

    def _add_items(self) -> None:
        self._pop_to_mark()
        self._top()

    def _frozen_set(self) -> None:
        self._pop_to_mark()
        self.stack.append(Other("a set"))

    # Stack.

    def _top(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.window.refusal("is a damaged pickle: an instruction has nothing to work on", COPY_AGAIN)
        return self.stack[-1]

    def _pop(self) -> object:
        top = self._top()
        self.stack.pop()
        return top

    def _push_made(self, made: object) -> None:
        if isinstance(made, Array) and not made.counted:
            made.counted = True
            self.arrays.append(made)
            if len(self.arrays) > _MAX_ARRAYS:
                raise self.window.refusal(
                    f"holds more than {_MAX_ARRAYS:,} arrays, expected one 2-D array with a row for each image",
                    "Make one of them: numpy.save('x.npy', numpy.stack(rows).astype('float32'))",
                )
        self.stack.append(made)

    def _last_mark(self) -> int:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                return place
        raise self.window.refusal("is a damaged pickle: a tuple or list has no beginning", COPY_AGAIN)

    def _pop_to_mark(self) -> list[object]:
        mark = self._last_mark()
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items

    def _shorten(self) -> None:
        """Take the items of an unfinished long tuple off the stack; its arrays get their names first."""
        mark = self._last_mark()
        items = self.stack[mark + 1 :]
        if len(items) < _MAX_STACK // 2:
            raise self.window.refusal("holds lists in lists to a depth that no case has")
        make_tuple(items)
        count = sum(item.count if isinstance(item, Skipped) else 1 for item in items)
        self.stack[mark + 1 :] = [Skipped(count)]

    def _list(self) -> Sequence:
        if not isinstance(target := self._top(), Sequence):
            raise self.window.refusal(f"is a damaged pickle: adds items to {describe(target)}", COPY_AGAIN)
        return target

    def _dict(self) -> Mapping:
        if not isinstance(target := self._top(), Mapping):
            raise self.window.refusal(f"is a damaged pickle: adds keys to {describe(target)}", COPY_AGAIN)
        return target

    # Literals.

    def _decimal(self) -> int | bool:
        line = self.window.line()
        if line in ("00", "01"):  # how protocols 0 and 1 write booleans
            return line == "01"
        if not re.fullmatch(r"-?\d{1,19}L?", line, re.ASCII):
            raise self.window.refusal(f"is a damaged pickle: {line!r} is no number", COPY_AGAIN)
        return int(line.rstrip("L"))

    def _string(self, width: int, signed: bool, kind: Literal["bytes", "text", "either"]) -> None:
        window = self.window
        nbytes = window.number(width, signed)
        offset = window.position
        if 0 <= nbytes <= MAX_TEXT:
            self.stack.append(String(offset, nbytes, window.take(nbytes), kind))
        else:
            window.skip(nbytes)
            self.stack.append(String(offset, nbytes, b"", kind))


#: What each opcode does: a method and its arguments.
_STEPS: dict[int, tuple[Any, ...]] = {
    ord("K"): (_Machine._number, 1),
    ord("M"): (_Machine._number, 2),
    ord("J"): (_Machine._number, 4, True),
    0x8A: (_Machine._long,),
    ord("I"): (_Machine._push_decimal,),
    ord("L"): (_Machine._push_decimal,),
    ord("G"): (_Machine._binary_float,),
    ord("N"): (_Machine._push, None),
    0x88: (_Machine._push, True),
    0x89: (_Machine._push, False),
    ord("U"): (_Machine._string, 1, False, "either"),
    ord("T"): (_Machine._string, 4, True, "either"),
    ord("C"): (_Machine._string, 1, False, "bytes"),
    ord("B"): (_Machine._string, 4, False, "bytes"),
    0x8E: (_Machine._string, 8, False, "bytes"),
    0x96: (_Machine._string, 8, False, "bytes"),
    0x8C: (_Machine._string, 1, False, "text"),
    ord("X"): (_Machine._string, 4, False, "text"),
    0x8D: (_Machine._string, 8, False, "text"),
    ord(")"): (_Machine._tuple, 0),
    0x85: (_Machine._tuple, 1),
    0x86: (_Machine._tuple, 2),
    0x87: (_Machine._tuple, 3),
    ord("t"): (_Machine._tuple_to_mark,),
    ord("("): (_Machine._push, _MARK),
    ord("]"): (_Machine._new_list,),
    ord("a"): (_Machine._append,),
    ord("e"): (_Machine._appends,),
    ord("}"): (_Machine._new_dict,),
    ord("s"): (_Machine._set_item,),
    ord("u"): (_Machine._set_items,),
    0x8F: (_Machine._push, Other("a set")),
    0x90: (_Machine._add_items,),
    0x91: (_Machine._frozen_set,),
    0x94: (_Machine._memoize,),
    ord("q"): (_Machine._put, 1),
    ord("r"): (_Machine._put, 4),
    ord("p"): (_Machine._put_decimal,),
    ord("h"): (_Machine._get, 1),
    ord("j"): (_Machine._get, 4),
    ord("g"): (_Machine._get_decimal,),
    0x80: (_Machine._protocol,),
    0x95: (_Machine._frame,),
    ord("c"): (_Machine._global,),
    0x93: (_Machine._stack_global,),
    ord("i"): (_Machine._instance,),
    ord("R"): (_Machine._reduce,),
    0x81: (_Machine._new_object,),
    ord("b"): (_Machine._build,),
    ord("Q"): (_Machine._persistent,),
}
