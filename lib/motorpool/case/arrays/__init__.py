"""Reading a 2-D float array from a file in bounded memory, in parts that need not know of each other.

`open_array` looks at a file and returns an `ArrayFile`: its shape, its type, how to split its rows, and how
to read one split as float32 chunks. An `ArrayFile` and a `Split` hold numbers and names only, so they travel
to Spark workers, where each split opens the file for itself.

Formats, by extension: pickles of NumPy arrays (never unpickled, see `pickles`) and joblib's files, .npy, .npz,
.parquet, .safetensors, files of torch.save, and HDF5; a module each, whose opener is in the table below. Values are
converted to float32; a float64 too large for it becomes inf, which is for the caller to report.

Memory: one chunk of ``rows * columns * 4`` bytes, plus what `laid_out` or `parquet` say.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pyarrow as pa

from motorpool.case.arrays.array_file import ArrayFile, Split, explained
from motorpool.case.arrays.hdf5 import open_hdf5
from motorpool.case.arrays.npy import open_npy, open_npz
from motorpool.case.arrays.parquet import open_parquet
from motorpool.case.arrays.pickles import open_pickle
from motorpool.case.arrays.safetensors import open_safetensors
from motorpool.case.arrays.shards import open_shards
from motorpool.case.arrays.torch_file import open_torch
from motorpool.case.files import file_size, is_folder, open_file, redact
from motorpool.errors import CaseError

__all__ = ["ArrayFile", "Split", "open_array"]

# Path (may hold credentials), the open file, its size in bytes.
_OPENERS: dict[str, Callable[[str, pa.NativeFile, int], ArrayFile]] = {
    ".pickle": open_pickle,
    ".pkl": open_pickle,
    ".p": open_pickle,
    ".joblib": open_pickle,
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".safetensors": open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}


def open_array(path: str) -> ArrayFile:
    """The array in the file at `path`, by extension: one of the table above; or in a folder of .npy shards.

    Reads headers only. Zero rows are accepted. Raises `CaseError` where the file is missing, cut off, holds
    anything but exactly one 2-D array of float16, float32 or float64, or is of another kind.
    """
    if is_folder(path):
        return open_shards(path)
    name = redact(path)
    extension = os.path.splitext(name)[1].lower()
    opener = _OPENERS.get(extension)
    if opener is None:
        raise CaseError(
            f"{name}: cannot tell the format from the extension {extension!r}, expected one of "
            f"{', '.join(_OPENERS)}. Rename the file, or export the array with numpy.save"
        )
    size = file_size(path)
    with explained(f"{name}: cannot be read as {extension}"), open_file(path) as f:
        return opener(path, f, size)
