"""Writing a NumPy pickle by hand, so that the array never has to exist in memory.

`pickle.dump` needs the whole array. Here the caller writes a header, streams the array's bytes, writes a
trailer, and `pickle.load` (NumPy 1.x or 2.x) gives the array back. Protocol 4 is used because its BINBYTES8
carries more than 4 GiB and its frames are optional.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def write_pickle_header(
    f: _Writable, shape: tuple[int, ...], dtype: np.dtype | type | str, fortran: bool = False
) -> None:
    """Write everything before the array's bytes, of which the caller then writes exactly
    ``prod(shape) * itemsize``: rows first, or columns first with `fortran`.

    `shape` is any number of sizes >= 0; `dtype` is float16, float32 or float64 in either byte order. Raises
    `ValueError` for others. Memory: a few hundred bytes.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ValueError(f"dtype = {dtype}: expected float16, float32 or float64")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape = {shape}: sizes must be >= 0")
    order = dtype.str[0]  # "<" or ">", for native types too
    sizes = b"".join(_integer(int(size)) for size in shape)

    f.write(
        b"\x80\x04"
        # NumPy 2 keeps this one old name without a warning, and NumPy 1 knows no other.
        + _global("numpy.core.multiarray", "_reconstruct")
        + (_global("numpy", "ndarray") + b"K\x00\x85" + b"C\x01b" + b"\x87R")
        # The state: version, shape, dtype, column order, bytes.
        + (b"(K\x01" + b"(" + sizes + b"t")
        + (_global("numpy", "dtype") + _text(f"f{dtype.itemsize}") + b"\x89\x88\x87R")
        + (b"(K\x03" + _text(order) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb")
        + (b"\x88" if fortran else b"\x89")
        + (b"\x8e" + (prod(shape) * dtype.itemsize).to_bytes(8, "little"))
    )


def write_pickle_trailer(f: _Writable) -> None:
    """Write what follows the array's bytes: close the state, give it to the array, stop."""
    f.write(b"tb.")


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"\x8c" + len(encoded).to_bytes(1, "little") + encoded


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
