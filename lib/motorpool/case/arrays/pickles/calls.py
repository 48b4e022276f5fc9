"""What the calls in pickles of arrays make of symbols. Nothing is imported or called.

`call`, `create` and `build` compute on symbols what NumPy, joblib and torch would do with objects. Every other use
of the names is refused. An array that is no 2-D array of floats is no error yet: it may lie beside the one that is
wanted, so it keeps its `fault`.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np

from motorpool.case.arrays.array_file import COPY_AGAIN, RESHAPE, SAVE_FLOAT32
from motorpool.case.arrays.laid_out import RawLayout
from motorpool.case.arrays.pickles.names import GLOBALS, Global, advice
from motorpool.case.arrays.pickles.symbols import (
    Array,
    Dtype,
    Mapping,
    Other,
    Sequence,
    Storage,
    String,
    describe,
    printable,
    short_text,
)
from motorpool.case.arrays.pickles.window import Window

_FLOATS = ("f2", "f4", "f8")
_KINDS = {
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
_STACK = "Make one array of them: numpy.save('x.npy', numpy.stack(list(array)).astype('float32'))"
_ALONE = "Save the array of floats alone: joblib.dump(array, 'x.joblib')"
_CONTIGUOUS = "Save a copy of its own: torch.save(tensor.contiguous().clone(), 'x.pt')"
_FLOAT_TENSOR = "Convert it: torch.save(tensor.float(), 'x.pt')"


def import_name(module: str, name: str, window: Window) -> Global:
    """The symbol of an import. Raises `CaseError` for every name that pickles of arrays do not hold."""
    if (found := GLOBALS.get((module, name))) is None:
        shown = printable(f"{module}.{name}")
        raise window.refusal(
            f"holds or calls {shown}, which is no part of a plain NumPy array; nothing was run", advice(module)
        )
    return found


def call(callee: object, arguments: object, window: Window) -> object:
    """What calling `callee` would give. Raises `CaseError` for calls that NumPy and torch do not write."""
    role = callee.role if isinstance(callee, Global) else None
    if role in ("path", "set", "scalar"):  # there can be one for every row
        return Other(f"a {'NumPy scalar' if role == 'scalar' else role}")
    if not isinstance(arguments, tuple):
        raise window.refusal("is a damaged pickle: a call without arguments", COPY_AGAIN)
    match role, arguments:
        case "reconstruct", (Global(role="ndarray"), tuple(), String()):
            return Array()
        case "reconstruct_masked", (Global(role="masked"), Global(role="ndarray"), tuple(), String()):
            return Array(masked=True)
        case "dtype", (String() | Other() as code, bool() | 0 | 1, bool() | 0 | 1):
            return Dtype(short_text(code) or "")
        case "encode", (String(kind="text") as text, String() as codec):
            if short_text(codec) in ("latin1", "latin-1"):
                return String(text.offset, text.nbytes, text.head, "latin1")
        case "bytes", ():
            return String(window.position, 0, b"", "bytes")
        # The fifth argument is the order of axes; two dimensions never need it.
        case "frombuffer", (String() as data, Dtype() as dtype, shape, String() as order, *rest):
            letter = short_text(order)
            if letter in ("C", "F") and rest in ([], [None]):
                array = Array()
                _settle(array, shape, dtype, letter == "F", data, window)
                return array
        case "mapping", () | (Sequence(),):
            return Mapping()
        case "tensor", (Storage() as storage, int() as first, tuple() as size, tuple() as stride, bool(), *_):
            return _tensor(storage, first, size, stride, window)
        case "parameter", (Array() as array, bool(), *_):
            return array
    raise window.refusal(f"calls {callee if role else describe(callee)} in a way NumPy does not; nothing was run")


def create(kind: object, arguments: object, window: Window) -> Array:
    """The symbol of a new instance; only joblib's stand-in for an array is made in this way."""
    if isinstance(kind, Global) and kind.role == "wrapper" and arguments == ():
        return Array(wrapped=True)
    raise window.refusal(f"holds an instance of {describe(kind)}, expected one NumPy array; nothing was run")


def build(target: object, state: object, window: Window) -> None:
    """Give a dtype its byte order, or an array its layout. Raises `CaseError` for any other state or target.

    The values of joblib's stand-in follow in the file, and the window moves past them.
    """
    match target, state:
        case Dtype(built=False, code="f2" | "f4" | "f8"), (
            3,
            String() as order,
            None,
            None,
            None,
            int(),
            int(),
            int(),
        ):
            if (letter := short_text(order)) in ("<", ">", "="):
                target.order, target.built = letter, True
                return
        case Dtype(built=False), tuple() | Other() if target.code not in _FLOATS:
            target.built = True
            return
        case Array(built=False, masked=False, wrapped=False), (1, shape, Dtype() as dtype, bool() | 0 | 1 as f, data):
            _settle(target, shape, dtype, bool(f), data, window)
            return
        case Array(built=False, masked=True), (
            1,
            shape,
            Dtype() as dtype,
            bool() | 0 | 1 as f,
            data,
            String() as mask,
            _,
        ):
            _settle(target, shape, dtype, bool(f), data, window)
            target.mask = mask
            return
        case Mapping(), Mapping():  # torch gives its dicts attributes
            return
        case Array(built=False, wrapped=True), Mapping(entries=dict() as entries):
            _read_wrapped(target, entries, window)
            return
    raise window.refusal(f"holds {describe(target)} in a state that a plain float array never has")


def _settle(array: Array, shape: object, dtype: Dtype, fortran: bool, data: object, window: Window) -> None:
    """Give `array` its layout or its fault. Raises `CaseError` where the file contradicts itself."""
    if (sizes := _float_matrix(array, shape, dtype.code, window, SAVE_FLOAT32)) is None:
        return
    if not isinstance(data, String):
        raise window.refusal("is a damaged pickle: an array without its values", COPY_AGAIN)
    if data.kind == "text":
        raise window.refusal("is a damaged pickle: the array's values are text", COPY_AGAIN)
    expected = prod(sizes) * int(dtype.code[1:])
    most = 2 * expected if data.kind == "latin1" else expected
    if not expected <= data.nbytes <= most:
        raise window.refusal(
            f"holds {data.nbytes:,} bytes of values, shape {sizes} of {dtype.code} needs {expected:,}", COPY_AGAIN
        )
    encoding: Literal["raw", "latin1"] = "latin1" if data.kind == "latin1" else "raw"
    array.layout = RawLayout(sizes, np.dtype(dtype.order + dtype.code), fortran, data.offset, data.nbytes, encoding)


def _float_matrix(array: Array, shape: object, code: str, window: Window, conversion: str) -> tuple[int, int] | None:
    """Images and features of a 2-D array of floats; None where `array` is none, which then has its fault.

    `conversion` is the advice for values of another type.
    """
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise window.refusal("is a damaged pickle: the array's shape is not a tuple of sizes", COPY_AGAIN)
    array.shape = shape
    if code not in _FLOATS:
        kind = code if code == "bfloat16" else _KINDS.get(code[:1], "an unknown type")
        array.fault = window.refusal(
            f"the array holds {kind} (dtype {code[:16]!a}), expected float16, float32 or float64",
            _STACK if code[:1] == "O" else conversion,
        )
        return None
    if len(shape) != 2 or shape[1] == 0:
        array.fault = window.refusal(
            f"holds an array of shape {shape[:8]}, expected images x features, at least one feature", RESHAPE
        )
        return None
    rows, columns = shape
    return rows, columns


def _read_wrapped(array: Array, entries: dict[str, object], window: Window) -> None:
    """Settle joblib's stand-in, and pass over its values: padding with a byte that says how much, then the array."""
    shape, dtype, order = entries.get("shape"), entries.get("dtype"), short_text(entries.get("order"))
    kind, alignment = entries.get("subclass"), entries.get("numpy_array_alignment_bytes")
    plain = isinstance(kind, Global) and kind.role == "ndarray" and order in ("C", "F")
    if not plain or not isinstance(dtype, Dtype) or not (alignment is None or type(alignment) is int):
        raise window.refusal("holds an array in a form that joblib does not write")
    if dtype.code.startswith("O"):
        raise window.refusal("holds an array of Python objects, which joblib pickles apart", _ALONE)
    if alignment is not None:  # joblib before 1.2 has no padding
        window.skip(window.byte())
    array.wrapped = False
    start = window.position
    sizes = _float_matrix(array, shape, dtype.code, window, SAVE_FLOAT32)
    nbytes = prod(array.shape) * _itemsize(dtype, window)
    window.skip(nbytes)
    if sizes is not None:
        array.layout = RawLayout(sizes, np.dtype(dtype.order + dtype.code), order == "F", start, nbytes)


def _itemsize(dtype: Dtype, window: Window) -> int:
    digits = dtype.code[1:]
    if not (dtype.code[:1] in _KINDS and digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise window.refusal(f"holds an array of an unknown type (dtype {dtype.code[:16]!a})")
    return int(digits) * (4 if dtype.code[0] == "U" else 1)


def _tensor(
    storage: Storage, first: int, size: tuple[object, ...], stride: tuple[object, ...], window: Window
) -> Array:
    """A tensor: values from number `first` of its storage on, `stride` apart in both directions."""
    array = Array()
    if (sizes := _float_matrix(array, size, storage.code, window, _FLOAT_TENSOR)) is None:
        return array
    (rows, columns), itemsize = sizes, int(storage.code[1:])
    if storage.offset is None:
        array.fault = window.refusal("holds a tensor that shares its values with another one", _CONTIGUOUS)
        return array
    if type(first) is not int or not 0 <= first <= storage.count - rows * columns:
        raise window.refusal(
            f"a tensor of shape {sizes} from value {first} on lies outside of its {storage.count:,} values", COPY_AGAIN
        )
    match stride:
        case (int() as down, int() as across):
            by_rows = (across == 1 or columns == 1) and (down == columns or rows < 2)
            by_columns = (down == 1 or rows < 2) and (across == rows or columns == 1)
        case _:
            raise window.refusal("is a damaged pickle: a tensor of two dimensions without two strides", COPY_AGAIN)
    if not (by_rows or by_columns):
        gaps = f"holds a tensor of shape {sizes} with gaps between its values (strides {(down, across)})"
        array.fault = window.refusal(gaps, _CONTIGUOUS)
        return array
    offset = storage.offset + first * itemsize
    dtype = np.dtype(storage.order + storage.code)
    array.layout = RawLayout(sizes, dtype, not by_rows, offset, rows * columns * itemsize)
    return array
