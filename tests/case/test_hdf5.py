"""HDF5: the one 2-D float dataset equals h5py's and NumPy's, other files are refused, and no other file is opened."""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_checks import DTYPES, check, sample

from motorpool.case.arrays import open_array
from motorpool.errors import CaseError

h5py = pytest.importorskip("h5py", reason="the extra `hdf5` is not installed")

LAYOUTS: dict[str, dict[str, Any]] = {
    "in one piece": {},
    "chunks": {"chunks": (7, 5)},
    "chunks of rows": {"chunks": (10, 37)},
    "one row a chunk": {"chunks": (1, 37)},
    "columns a chunk": {"chunks": (53, 1)},
    "h5py's choice": {"chunks": True},
    "gzip": {"chunks": (7, 37), "compression": "gzip"},
    "gzip and shuffle": {"chunks": (16, 16), "compression": "gzip", "compression_opts": 9, "shuffle": True},
    "shuffle": {"chunks": (16, 16), "shuffle": True},
    "may grow": {"maxshape": (None, 37)},
}
A = sample(53, 37)


def hdf5(folder: Path, fill: Callable[[Any], object], extension: str = ".h5", **options: object) -> str:
    path = folder / f"array{extension}"
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return str(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_numpy(tmp_path: Path, layout: str, dtype: str, libver: str) -> None:
    array = sample(dtype=dtype)
    path = hdf5(tmp_path, lambda f: f.create_dataset("features", data=array, **LAYOUTS[layout]), libver=libver)
    opened = open_array(path)
    assert opened.dtype == array.dtype
    check(opened, array)
    check(opened, array, 53, 53)
    check(opened, array, 1, 1)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
def test_small_shapes(tmp_path: Path, shape: tuple[int, int], options: dict[str, Any]) -> None:
    array = sample(*shape)
    if not array.size and options:
        options = {**options, "chunks": (2, 5), "maxshape": (None, 5)}
    check(open_array(hdf5(tmp_path, lambda f: f.create_dataset("x", data=array, **options), ".hdf5")), array)


def test_values_that_do_not_get_smaller(tmp_path: Path) -> None:
    """HDF5 stores a chunk as it is where compression is no gain."""
    noise = np.frombuffer(np.random.default_rng(3).bytes(53 * 40 * 2), "<f2").reshape(53, 40)
    array = np.where(np.isnan(noise), np.float16(1), noise)
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=array, chunks=(9, 7), compression="gzip", shuffle=True))
    check(open_array(path), array)


def test_rows_that_were_appended(tmp_path: Path) -> None:
    def fill(f: Any) -> None:
        dataset = f.create_dataset("x", (0, 37), "f4", maxshape=(None, 37), chunks=(8, 37), compression="gzip")
        for first in range(0, 53, 10):
            dataset.resize(min(53, first + 10), axis=0)
            dataset[first : first + 10] = A[first : first + 10]

    check(open_array(hdf5(tmp_path, fill)), A)


def test_what_lies_beside(tmp_path: Path) -> None:
    def fill(f: Any) -> None:
        f["model/features"] = A
        f["paths"] = [f"{i}.jpg" for i in range(53)]
        f["ids"] = np.arange(53)
        f["cameras"] = np.zeros((53, 2), int)
        f["none"] = h5py.Empty("f4")
        f["same"] = f["model/features"]
        f["model/up"] = f["/"]
        f["soft"] = h5py.SoftLink("/model/features")
        f["type"] = np.dtype("f8")
        f["model/features"].attrs["network"] = "osnet"

    check(open_array(hdf5(tmp_path, fill)), A)


def other_file(folder: Path) -> Path:
    path = folder / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = A
    return path


def virtual(f: Any, source: Path) -> None:
    layout = h5py.VirtualLayout(shape=A.shape, dtype="f4")
    layout[:] = h5py.VirtualSource(source, "x", shape=A.shape)
    f.create_virtual_dataset("x", layout)


REFUSED: dict[str, tuple[Callable[[Any, Path], object], str]] = {
    "two": (
        lambda f, _: [f.create_dataset(name, data=A) for name in ("q", "g")],
        r"holds 'g', 'q'; expected exactly one .*h5py\.File\('x\.h5'\)\['g'\]\[:\]",
    ),
    "none": (lambda f, _: f.create_group("g"), "holds no datasets"),
    "integers": (lambda f, _: f.create_dataset("x", data=A.astype(int)), r"'x' of shape \(53, 37\).*astype"),
    "one dimension": (lambda f, _: f.create_dataset("x", data=A[0]), r"'x' of shape \(37,\)"),
    "no columns": (lambda f, _: f.create_dataset("x", (5, 0), "f4"), r"'x' of shape \(5, 0\)"),
    "a dataset each": (
        lambda f, _: [f.create_dataset(f"{i}", data=[1.0]) for i in range(10_001)],
        "more than 10,000 objects.*numpy.stack",
    ),
    "external link": (lambda f, other: f.__setitem__("x", h5py.ExternalLink(other, "x")), "link to another file"),
    "external storage": (
        lambda f, other: f.create_dataset("x", A.shape, "f4", external=[(str(other), 0, A.nbytes)]),
        "lies in other files",
    ),
    "virtual": (virtual, "lies in other files"),
    "lzf": (lambda f, _: f.create_dataset("x", data=A, compression="lzf"), r"filters \(32000,\), expected gzip"),
    "checksums": (lambda f, _: f.create_dataset("x", data=A, chunks=(9, 9), fletcher32=True), "expected gzip"),
    "chunk too large": (
        lambda f, _: f.create_dataset("x", (100_000, 1000), "f4", chunks=(100_000, 1), maxshape=(None, 1000)),
        "400,000,000 bytes at once, expected at most 268,435,456",
    ),
    "never written": (lambda f, _: f.create_dataset("x", (5, 4), "f4"), "never written"),
    "not written in full": (
        lambda f, _: f.create_dataset("x", (50, 4), "f4", chunks=(10, 4)).__setitem__(slice(0, 20), 1),
        "chunk of row 20 was never written",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused(tmp_path: Path, form: str) -> None:
    fill, expected = REFUSED[form]
    other = other_file(tmp_path)
    path = hdf5(tmp_path, lambda f: fill(f, other))
    with pytest.raises(CaseError, match=expected) as caught:
        open_array(path).splits(10)
    assert path in str(caught.value)


def test_long_names_with_the_same_end_are_two(tmp_path: Path) -> None:
    def fill(f: Any) -> None:
        for start in "ab":
            f[start + 100 * "x"] = A

    with pytest.raises(CaseError, match="expected exactly one"):
        open_array(hdf5(tmp_path, fill))


def test_a_block_of_the_user_is_refused_or_passed_over(tmp_path: Path) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A), userblock_size=512)
    check(open_array(path), A)
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A, chunks=(9, 9)), userblock_size=512)
    with pytest.raises(CaseError, match="begins with 512 bytes"):
        open_array(path)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CaseError, match="pip install h5py"):
        open_array(path)


def test_chunks_are_read_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get the places of the chunks, and need h5py no more."""
    opened = open_array(hdf5(tmp_path, lambda f: f.create_dataset("x", data=A, chunks=(7, 5), compression="gzip")))
    splits = opened.splits(20)
    monkeypatch.setitem(sys.modules, "h5py", None)
    found = [chunk for split in splits for _, chunk in opened.read(split, 6)]
    np.testing.assert_array_equal(np.concatenate(found), A)


@pytest.mark.parametrize("values", [b"", bytes(100), bytes(53 * 37 * 4 - 1), bytes(5_000_000)])
def test_chunks_that_inflate_to_another_size_are_refused(tmp_path: Path, values: bytes) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A, chunks=A.shape, compression="gzip"))
    with h5py.File(path, "a") as file:
        file["x"].id.write_direct_chunk((0, 0), zlib.compress(values))
    opened = open_array(path)
    (split,) = opened.splits(100)
    with pytest.raises(CaseError, match="rows 0 to 52 cannot be read: a chunk"):
        list(opened.read(split, 100))


def test_chunks_that_are_damaged_are_refused(tmp_path: Path) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A, chunks=(10, 37), compression="gzip"))
    opened = open_array(path)
    split = opened.splits(10)[2]
    data = bytearray(Path(path).read_bytes())
    data[split.at[0] + 20] ^= 0xFF
    Path(path).write_bytes(data)
    with pytest.raises(CaseError, match=r"rows 20 to 2\d"):
        list(opened.read(split, 10))


@pytest.mark.parametrize("layout", ["in one piece", "gzip"])
def test_truncations_are_refused(tmp_path: Path, layout: str) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A, **LAYOUTS[layout]))
    data = Path(path).read_bytes()
    for length in range(0, len(data), 23):
        Path(path).write_bytes(data[:length])
        with pytest.raises(CaseError):
            open_array(path).splits(10)


@pytest.mark.parametrize("layout", ["in one piece", "gzip"])
def test_random_damage_is_refused_or_harmless(tmp_path: Path, layout: str) -> None:
    path = hdf5(tmp_path, lambda f: f.create_dataset("x", data=A[:20], **LAYOUTS[layout]))
    data = Path(path).read_bytes()
    rng = np.random.default_rng(11)
    for _ in range(300):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[rng.integers(0, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
        Path(path).write_bytes(broken.tobytes()[: rng.integers(1, 2 * len(data))])
        with contextlib.suppress(CaseError):
            opened = open_array(path)
            for split in opened.splits(6):
                list(opened.read(split, 4))
