"""Arrays to write into files, and the check that every reader must pass."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from motorpool.case.arrays import ArrayFile

DTYPES = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")


def sample(rows: int = 53, columns: int = 37, dtype: str = "<f4", order: str = "C") -> np.ndarray:
    values = np.random.default_rng(7).standard_normal((rows, columns)) * 100
    return np.array(values, dtype=dtype, order=order)


def write(folder: Path, extension: str, data: bytes) -> str:
    path = folder / f"array{extension}"
    path.write_bytes(data)
    return str(path)


def check(opened: ArrayFile, array: np.ndarray, split_rows: int = 10, rows: int = 7) -> None:
    """The file's splits cover the rows in order, and every chunk equals NumPy's."""
    with np.errstate(over="ignore"):
        expected = array.astype(np.float32)
    assert opened.shape == array.shape
    # As Spark would: through pickle, and each split on its own, last first.
    opened = pickle.loads(pickle.dumps(opened))
    splits = pickle.loads(pickle.dumps(opened.splits(split_rows)))
    assert [s.first for s in splits] == list(np.cumsum([0] + [s.rows for s in splits])[:-1])
    assert sum(s.rows for s in splits) == len(array)
    for split in reversed(splits):
        next_row = split.first
        for first, chunk in opened.read(split, rows):
            assert first == next_row
            assert chunk.dtype == np.float32
            assert chunk.flags.c_contiguous
            assert 0 < len(chunk) <= rows
            np.testing.assert_array_equal(chunk, expected[first : first + len(chunk)])
            next_row += len(chunk)
        assert next_row == split.first + split.rows
