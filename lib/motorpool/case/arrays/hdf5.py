"""HDF5: finding the one 2-D dataset of floats. The package h5py, an extra, reads the file's directory only.

Where a dataset lies in one piece, it is a run of bytes like any other (`laid_out`). Where it lies in chunks, these
are read by `hdf5_chunks`. So h5py never touches the values, and nothing but this one file is ever opened.

Memory: what h5py holds of at most `_MOST` objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, ArrayFile
from motorpool.case.arrays.hdf5_chunks import MAX_BAND, ChunkedArray, opened_hdf5
from motorpool.case.arrays.laid_out import LaidOutArray, RawLayout
from motorpool.case.files import redact
from motorpool.errors import CaseError

_MOST = 10_000
_SHOWN = 8
_DTYPES = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")
_ONE_FILE = "Save the array alone: numpy.save('x.npy', h5py.File('x.h5')['name'][:])"


def open_hdf5(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The one 2-D dataset of float16, float32 or float64 in the file `f` of `size` bytes; others may lie beside it.

    Raises `CaseError` where there is no such one or are several, where h5py is missing, where the file refers to
    other files, and for filters other than gzip and shuffle.
    """
    name = redact(path)
    with opened_hdf5(f, name) as file:
        found, others = _datasets(file, name)
        if len(found) != 1:
            shown = ", ".join([_shown(place) for place in found][:_SHOWN] or others) or "no datasets"
            first = _shown(next(iter(found), "name"))
            raise CaseError(
                f"{name}: holds {shown}; expected exactly one 2-D dataset of float16, float32 or float64. Save the "
                f"one that is meant: numpy.save('x.npy', h5py.File('x.h5')[{first}][:].astype('float32'))"
            )
        ((place, dtype),) = found.items()
        return _laid_out(path, size, place, dtype, file[place].id)


def _shown(place: str) -> str:
    """The name of a dataset for messages, as Python writes it."""
    return f"{place.lstrip('/')[-60:]!a}"


def _datasets(file: Any, name: str) -> tuple[dict[str, np.dtype], list[str]]:
    """The dtypes of the 2-D float datasets by their names, and in words some of the others."""
    import h5py

    found: dict[str, np.dtype] = {}
    others: list[str] = []
    groups, seen, count = [file["/"]], set(), 0
    while groups:
        group = groups.pop()
        count += len(group)
        if count > _MOST:
            raise CaseError(
                f"{name}: holds more than {_MOST:,} objects, expected one dataset with a row for each image. Make one "
                "of them: numpy.save('x.npy', numpy.stack(rows).astype('float32'))"
            )
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise CaseError(f"{name}: {key[:60]!a} is a link to another file, which is not opened. {_ONE_FILE}")
            if not isinstance(link, h5py.HardLink):
                continue  # what a soft link leads to has a hard one too
            info = h5py.h5o.get_info(group.id, key.encode("utf-8", errors="surrogateescape"))
            if info.addr in seen:
                continue
            seen.add(info.addr)
            if info.type == h5py.h5o.TYPE_GROUP:
                groups.append(group[key])
            elif info.type == h5py.h5o.TYPE_DATASET:
                place = f"{group.name.rstrip('/')}/{key}"
                dataset = _opened_dataset(group, key, name)
                dtype = _float(dataset.get_type())
                shape: tuple[int, ...] = dataset.shape or ()  # None where there is nothing at all
                if len(shape) == 2 and shape[1] > 0 and dtype is not None:
                    found[place] = dtype
                elif len(others) < _SHOWN:
                    others.append(f"{_shown(place)} of shape {shape[:8]}")
    return found, others


def _opened_dataset(group: Any, key: str, name: str) -> Any:
    """h5py's low-level dataset, after checking that all of it is in this file."""
    import h5py

    dataset = h5py.h5d.open(group.id, key.encode("utf-8", errors="surrogateescape"))
    creation = dataset.get_create_plist()
    # Before anything else: the shape of a virtual dataset is looked up in the other files.
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise CaseError(f"{name}: {key[:60]!a} lies in other files, which are not opened. {_ONE_FILE}")
    return dataset


def _float(kind: Any) -> np.dtype | None:
    """The dtype of a stored type that is an IEEE float of 2, 4 or 8 bytes, None for all others."""
    import h5py

    for dtype in map(np.dtype, _DTYPES):
        if kind.equal(h5py.h5t.py_create(dtype)):
            return dtype
    return None


def _laid_out(path: str, size: int, place: str, dtype: np.dtype, dataset: Any) -> ArrayFile:
    """The dataset named `place`, as one run of bytes or as chunks."""
    import h5py

    name, shape = redact(path), (int(dataset.shape[0]), int(dataset.shape[1]))
    shown, creation = _shown(place), dataset.get_create_plist()
    save = f"Save it as it is: numpy.save('x.npy', h5py.File('x.h5')[{shown}][:])"
    expected = shape[0] * shape[1] * dtype.itemsize
    if creation.get_layout() == h5py.h5d.CONTIGUOUS:
        # Datasets without rows, or never written to, lie nowhere.
        offset = dataset.get_offset() if expected else size
        if offset is None or offset + expected > size:
            raise CaseError(f"{name}: the dataset {shown} was never written, or the file is cut off. {COPY_AGAIN}")
        return LaidOutArray(path, shape, dtype, size, RawLayout(shape, dtype, False, offset, expected))
    if creation.get_layout() != h5py.h5d.CHUNKED:
        raise CaseError(f"{name}: the dataset {shown} lies in the file's directory. {save}")
    filters = tuple(creation.get_filter(i)[0] for i in range(creation.get_nfilters()))
    deflate, shuffle = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
    if filters not in ((), (deflate,), (shuffle,), (shuffle, deflate)):
        raise CaseError(
            f"{name}: the dataset {shown} went through the filters {filters}, expected gzip and shuffle. {save}"
        )
    rows, columns = creation.get_chunk()
    across = -(-shape[1] // columns)
    if (band := rows * columns * across * dtype.itemsize) > MAX_BAND:
        raise CaseError(
            f"{name}: the dataset {shown} lies in chunks of {rows:,} x {columns:,} values, of which a row needs "
            f"{band:,} bytes at once, expected at most {MAX_BAND:,}. {save}"
        )
    if file_offset := h5py.h5i.get_file_id(dataset).get_create_plist().get_userblock():
        raise CaseError(f"{name}: the file begins with {file_offset:,} bytes of something else. {save}")
    words = tuple({deflate: "deflate", shuffle: "shuffle"}[number] for number in filters)
    return ChunkedArray(path, shape, dtype, size, place, (int(rows), int(columns)), words)
