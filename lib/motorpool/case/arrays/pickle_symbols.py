"""The symbols that stand for objects in a pickle, and what NumPy's own calls make of them.

Nothing is imported or called: `call` and `build` know the few names that array pickles hold, and compute on
symbols what these would do. Every other name, and every other use of these, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from motorpool.case.arrays.array_file import COPY_AGAIN, RESHAPE, SAVE_FLOAT32
from motorpool.case.arrays.laid_out import RawLayout
from motorpool.case.arrays.pickle_window import MAX_TEXT, Window

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


@dataclass(frozen=True)
class Global:
    """A name that a real unpickler would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class String:
    """Bytes, text, or Python 2's str, which is either. `head` is all of it if short, else empty."""

    offset: int
    nbytes: int
    head: bytes
    kind: Literal["bytes", "text", "either", "latin1"]  # latin1: text turned into bytes by _codecs.encode


@dataclass
class Dtype:
    """A float type: `code` is f2, f4 or f8; its byte order comes later, when it is built."""

    code: str
    order: str = "="
    built: bool = False


@dataclass
class Array:
    """An array, without a layout until it is built."""

    layout: RawLayout | None = None


def import_name(module: str, name: str, window: Window) -> Global:
    """The symbol of an import. Raises `CaseError` for every name that array pickles do not hold."""
    if (module, name) not in _ALLOWED:
        found = printable(f"{module}.{name}")
        raise window.refusal(f"holds or calls {found}, which is no part of a plain NumPy array; nothing was run")
    return Global(module, name)


def call(callee: object, arguments: object, window: Window) -> object:
    """What calling `callee` would give. Raises `CaseError` for calls that NumPy does not write."""
    role = _ALLOWED[callee.module, callee.name] if isinstance(callee, Global) else None
    if not isinstance(arguments, tuple):
        raise window.refusal("is a damaged pickle: a call without arguments", COPY_AGAIN)
    match role, arguments:
        case "reconstruct", (Global() as kind, tuple(), String()) if _ALLOWED[kind.module, kind.name] == "ndarray":
            return Array()
        case "dtype", (String() as code, bool() | 0 | 1, bool() | 0 | 1):
            return _dtype(short_text(code) or "", window)
        case "encode", (String(kind="text") as text, String() as codec):
            if short_text(codec) in ("latin1", "latin-1"):
                return String(text.offset, text.nbytes, text.head, "latin1")
        case "bytes", ():
            return String(window.position, 0, b"", "bytes")
        # The fifth argument is the order of axes; two dimensions never need it.
        case "frombuffer", (String() as data, Dtype() as dtype, shape, String() as order, *rest):
            letter = short_text(order)
            if letter in ("C", "F") and rest in ([], [None]):
                return Array(_layout(shape, dtype, letter == "F", data, window))
    raise window.refusal(f"calls {callee if role else describe(callee)} in a way NumPy does not; nothing was run")


def build(target: object, state: object, window: Window) -> None:
    """Give a dtype its byte order, or an array its layout. Raises `CaseError` for any other state or target."""
    match target, state:
        case Dtype(built=False), (3, String() as order, None, None, None, int(), int(), int()):
            if (letter := short_text(order)) in ("<", ">", "="):
                target.order, target.built = letter, True
                return
        case Array(layout=None), (1, shape, Dtype() as dtype, bool() | 0 | 1 as fortran, String() as data):
            target.layout = _layout(shape, dtype, bool(fortran), data, window)
            return
    raise window.refusal(f"holds {describe(target)} in a state that a plain float array never has")


def short_text(item: object) -> str | None:
    """The text of a short string symbol, None for anything else."""
    if not isinstance(item, String) or item.kind not in ("text", "either") or item.nbytes > MAX_TEXT:
        return None
    return item.head.decode("utf-8", errors="backslashreplace")


def _dtype(code: str, window: Window) -> Dtype:
    if code in ("f2", "f4", "f8"):
        return Dtype(code)
    kind = _DTYPE_KINDS.get(code[:1], "an unknown type")
    raise window.refusal(
        f"the array holds {kind} (dtype {code[:16]!a}), expected float16, float32 or float64", SAVE_FLOAT32
    )


def _layout(shape: object, dtype: Dtype, fortran: bool, data: String, window: Window) -> RawLayout:
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise window.refusal("is a damaged pickle: the array's shape is not a tuple of sizes", COPY_AGAIN)
    if len(shape) != 2 or shape[1] == 0:
        raise window.refusal(
            f"holds an array of shape {shape[:8]}, expected images x features, at least one feature", RESHAPE
        )
    if data.kind == "text":
        raise window.refusal("is a damaged pickle: the array's values are text", COPY_AGAIN)
    rows, columns = shape
    expected = rows * columns * int(dtype.code[1:])
    most = 2 * expected if data.kind == "latin1" else expected
    if not expected <= data.nbytes <= most:
        raise window.refusal(
            f"holds {data.nbytes:,} bytes of values, shape {shape} of {dtype.code} needs {expected:,}", COPY_AGAIN
        )
    encoding: Literal["raw", "latin1"] = "latin1" if data.kind == "latin1" else "raw"
    native = np.dtype(dtype.order + dtype.code)
    return RawLayout((rows, columns), native, fortran, data.offset, data.nbytes, encoding)


def describe(item: object) -> str:
    """What a symbol is, in words, without printing anything long or nested."""
    if isinstance(item, tuple):
        return f"a tuple of {len(item)}"
    if item is None:
        return "None"
    if isinstance(item, Global):
        return str(item)
    named = {
        String: "text or bytes",
        Array: "an array",
        Dtype: "a dtype",
        int: "a number",
        bool: "a boolean",
    }
    return named.get(type(item), "an unfinished tuple")


def printable(name: str) -> str:
    """A name from a file that may be hostile, fit for a terminal and a log line."""
    return name if name.isprintable() else ascii(name)
