"""safetensors: a length, a JSON header with the place of every tensor, and their values by rows.

Memory: the header, of at most 1 MiB; see `laid_out` for reading.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, RESHAPE, ArrayFile
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout
from motorpool.case.files import redact
from motorpool.errors import CaseError

# A tensor takes some 80 bytes.
_MAX_HEADER = 1 << 20
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_SHOWN = 8
_SAVE = "safetensors.numpy.save_file({'features': array}, 'x.safetensors')"


def open_safetensors(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The one 2-D tensor of F16, F32 or F64 in the file `f` of `size` bytes; others may lie beside it.

    Raises `CaseError` where there is no such one or are several, and where the header is too long, damaged, or
    contradicts the file's size.
    """
    name = redact(path)
    tensors, start = _tensors(f, size, name)
    flat = {key: tensor for key, tensor in tensors.items() if len(tensor["shape"]) == 2 and tensor["shape"][1] > 0}
    found = {key: tensor for key, tensor in flat.items() if tensor["dtype"] in (*_DTYPES, "BF16")}
    if len(found) != 1:
        shown = ", ".join(
            f"{key[:60]!a} of {tensor['dtype'][:16]!a} and shape {tuple(tensor['shape'][:8])}"
            for key, tensor in list((found or tensors).items())[:_SHOWN]
        )
        todo = f"Save the one that is meant, {_SAVE}" if len(found) > 1 else f"{RESHAPE}, {_SAVE}"
        raise CaseError(
            f"{name}: holds {len(found) or len(tensors):,} {'2-D float tensors' if found else 'tensors'} "
            f"({shown or 'nothing'}); expected exactly one 2-D tensor of F16, F32 or F64. {todo}"
        )
    ((key, tensor),) = found.items()
    if tensor["dtype"] == "BF16":
        raise CaseError(
            f"{name}: the tensor {key[:60]!a} holds BF16, expected F16, F32 or F64. Convert it: "
            "safetensors.torch.save_file({'features': tensor.float()}, 'x.safetensors')"
        )
    rows, columns = tensor["shape"]
    begin, end = tensor["data_offsets"]
    dtype = np.dtype(_DTYPES[tensor["dtype"]])
    if end - begin != rows * columns * dtype.itemsize:
        raise CaseError(
            f"{name}: the tensor {key[:60]!a} has {end - begin:,} bytes, shape {(rows, columns)} of {dtype} needs "
            f"{rows * columns * dtype.itemsize:,}. {COPY_AGAIN}"
        )
    layout = RawLayout((rows, columns), dtype, False, start + begin, end - begin)
    return LaidOutArray(path, layout.shape, dtype, size, layout)


def _tensors(f: pa.NativeFile, size: int, name: str) -> tuple[dict[str, dict[str, Any]], int]:
    """The header's entries, checked for their form and against the file's size, and where their values begin."""
    length = int.from_bytes(f.read(8), "little")
    if size < 8 or length > size - 8:
        raise CaseError(
            f"{name}: a header of {length:,} bytes in a file of {size:,}: no safetensors file, or cut off. {COPY_AGAIN}"
        )
    if length > _MAX_HEADER:
        raise CaseError(
            f"{name}: a header of {length:,} bytes, expected at most {_MAX_HEADER:,}. Save one tensor alone: {_SAVE}"
        )
    try:
        header = json.loads(f.read(length).decode())
    except (ValueError, RecursionError):
        header = None
    values = size - 8 - length
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"} if type(header) is dict else {}
    well_formed = type(header) is dict and all(_is_tensor(entry, values) for entry in tensors.values())
    if not well_formed:
        raise CaseError(f"{name}: the header is damaged, or names bytes that the file does not have. {COPY_AGAIN}")
    if (last := max((entry["data_offsets"][1] for entry in tensors.values()), default=0)) != values:
        raise CaseError(f"{name}: {values:,} bytes follow the header, its tensors take {last:,}. {COPY_AGAIN}")
    return tensors, 8 + length


def _is_tensor(entry: object, values: int) -> bool:
    """Whether `entry` describes a tensor within `values` bytes."""
    match entry:
        case {"dtype": str(), "shape": list() as shape, "data_offsets": [int() as begin, int() as end]}:
            sizes = all(type(count) is int and count >= 0 for count in shape)
            return sizes and type(begin) is type(end) is int and 0 <= begin <= end <= values
    return False
