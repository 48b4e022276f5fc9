"""Arrays in files: every supported form equals NumPy, every other form is refused with a reason."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_checks import DTYPES, check, sample, write
from damage import damaged

from motorpool.case.arrays import _OPENERS, Split, open_array
from motorpool.case.files import exists, file_size, join, list_dir, open_file, redact
from motorpool.case.folder import ARRAY_SUFFIXES
from motorpool.errors import CaseError
from motorpool_sample.pickle_writer import write_pickle_header, write_pickle_trailer

CASE = Path(__file__).parents[3] / "shared" / "case" / "IntelliVision_case" / "descriptors"


def python2_pickle(array: np.ndarray) -> bytes:
    """What cPickle.dump(array, file, 2) writes under Python 2: str opcodes, integers for booleans."""
    rows, columns = array.shape
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    raw = array.tobytes("A")
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        + (b"(K\x01J" + struct.pack("<i", rows) + b"\x8a\x02" + struct.pack("<h", columns) + b"\x86")
        + (b"cnumpy\ndtype\nq\x04U\x02f" + str(array.itemsize).encode() + b"K\x00K\x01\x87Rq\x05")
        + (b"(K\x03U\x01" + array.dtype.str[:1].encode() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        + (b"\x88" if fortran else b"\x89")
        + (b"T" + struct.pack("<i", len(raw)) + raw + b"tb.")
    )


def written_pickle(array: np.ndarray) -> bytes:
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    f = io.BytesIO()
    write_pickle_header(f, array.shape, array.dtype, fortran)
    f.write(array.tobytes("A"))
    write_pickle_trailer(f)
    return f.getvalue()


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    f = io.BytesIO()
    np.lib.format.write_array(f, array, version=version)
    return f.getvalue()


def npz(save: Callable, **arrays: np.ndarray) -> bytes:
    f = io.BytesIO()
    save(f, **arrays)
    return f.getvalue()


def parquet(table: pa.Table, **options: object) -> bytes:
    f = io.BytesIO()
    pq.write_table(table, f, **options)
    return f.getvalue()


def as_lists(array: np.ndarray, kind: str = "list") -> pa.Table:
    values = pa.array(array.reshape(-1))
    if kind == "fixed":
        return pa.table({"x": pa.FixedSizeListArray.from_arrays(values, array.shape[1])})
    offsets = np.arange(len(array) + 1) * array.shape[1]
    if kind == "large":
        return pa.table({"x": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)})
    return pa.table({"x": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)})


def as_columns(array: np.ndarray) -> pa.Table:
    return pa.table({f"f{j}": array[:, j] for j in range(array.shape[1])})


FORMS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    **{f"pickle{p}": (".pickle", lambda a, p=p: pickle.dumps(a, p)) for p in (1, 2, 3, 4, 5)},
    "pickle5-readonly": (
        ".pkl",
        lambda a: pickle.dumps(np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape), 5),
    ),
    "pickle3-sliced": (".pkl", lambda a: pickle.dumps(np.repeat(a, 2, axis=1)[:, ::2], 3)),
    "pickle-python2": (".p", python2_pickle),
    "pickle-written": (".PICKLE", written_pickle),
    **{f"npy{v}": (".npy", lambda a, v=v: npy(a, (v, 0))) for v in (1, 2, 3)},
    "npz": (".npz", lambda a: npz(np.savez, arr_0=a)),
    "npz-compressed": (".npz", lambda a: npz(np.savez_compressed, descriptors=np.ascontiguousarray(a))),
    "npz-named": (".npz", lambda a: npz(np.savez, labels=np.arange(3), features=a)),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_numpy(tmp_path: Path, form: str, dtype: str, order: str) -> None:
    extension, dump = FORMS[form]
    array = sample(dtype=dtype, order=order)
    check(open_array(write(tmp_path, extension, dump(array))), array)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (5, 1), (1, 1)])
def test_small_shapes(tmp_path: Path, form: str, shape: tuple[int, int]) -> None:
    extension, dump = FORMS[form]
    array = sample(*shape)
    check(open_array(write(tmp_path, extension, dump(array))), array)


@pytest.mark.parametrize("form", ["pickle2", "pickle4", "npy1", "npz-compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_random_row_ranges(tmp_path: Path, form: str, order: str) -> None:
    """Arrays larger than the read buffers, with splits and chunks that do not divide each other."""
    extension, dump = FORMS[form]
    array = sample(3001, 211, "<f8", order)
    opened = open_array(write(tmp_path, extension, dump(array)))
    rng = np.random.default_rng(3)
    for _ in range(3):
        check(opened, array, int(rng.integers(1, 3500)) + 200, int(rng.integers(150, 3500)))


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_parquet_lists(tmp_path: Path, kind: str, dtype: str) -> None:
    array = sample(dtype=dtype)
    data = parquet(as_lists(array, kind), row_group_size=9)
    opened = open_array(write(tmp_path, ".parquet", data))
    assert opened.dtype == array.dtype
    check(opened, array)
    assert [s.rows for s in opened.splits(20)] == [18, 18, 17]
    assert len(opened.splits(1)) == 6


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_parquet_columns(tmp_path: Path, dtype: str) -> None:
    array = sample(dtype=dtype)
    check(open_array(write(tmp_path, ".parquet", parquet(as_columns(array), row_group_size=20))), array)


@pytest.mark.parametrize("table", [as_lists(sample(0, 5), "fixed"), as_columns(sample(0, 5))])
def test_parquet_without_rows(tmp_path: Path, table: pa.Table) -> None:
    opened = open_array(write(tmp_path, ".parquet", parquet(table)))
    assert opened.shape == (0, 5)
    assert opened.splits(10) == []


def test_parquet_lists_without_rows_have_no_width(tmp_path: Path) -> None:
    assert open_array(write(tmp_path, ".parquet", parquet(as_lists(sample(0, 5))))).shape == (0, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["pickle2", "pickle4", "npy1", "npz-compressed", "parquet"])
def test_too_large_for_float32_becomes_inf(tmp_path: Path, form: str) -> None:
    forms = {**FORMS, "parquet": (".parquet", lambda a: parquet(as_lists(a)))}
    array = np.array([[1e300, -1e300, np.nan, 1e-320]])
    extension, dump = forms[form]
    opened = open_array(write(tmp_path, extension, dump(array)))
    ((_, chunk),) = opened.read(opened.splits(1)[0], 1)
    np.testing.assert_array_equal(chunk, [[np.inf, -np.inf, np.nan, 0]])


GOOD = sample(40, 8)
BAD: dict[str, tuple[str, bytes, str]] = {
    "npy-object": (".npy", npy(np.array([[{}]], object)), "object"),
    "npy-int": (".npy", npy(np.ones((2, 2), np.int64)), "int64"),
    "npy-structured": (".npy", npy(np.zeros((2, 2), "f4,i4")), "float16, float32 or float64"),
    "npy-1d": (".npy", npy(np.zeros(4)), "shape"),
    "npy-3d": (".npy", npy(np.zeros((2, 2, 2))), "reshape"),
    "npy-no-columns": (".npy", npy(np.zeros((2, 0))), "at least one feature"),
    "npy-cut": (".npy", npy(GOOD)[:-1], "cut off"),
    "npy-long": (".npy", npy(GOOD) + b"x", "more than one array"),
    "npy-header-cut": (".npy", npy(GOOD)[:40], "damaged"),
    "npy-is-pickle": (".npy", pickle.dumps(GOOD), "not a .npy"),
    "npy-long-header": (".npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "header"),
    "npy-code": (".npy", b"\x93NUMPY\x01\x00\x1e\x00" + b"__import__('os').getcwd()    \n", "damaged"),
    "npy-negative": (
        ".npy",
        npy(GOOD).replace(b"(40, 8), ", b"(-4, 8), "),
        "shape",
    ),
    "npz-two": (".npz", npz(np.savez, a=GOOD, b=GOOD), "exactly one array"),
    "npz-two-known": (".npz", npz(np.savez, arr_0=GOOD, features=GOOD), "exactly one array"),
    "npz-none": (".npz", npz(np.savez), "exactly one array"),
    "npz-object": (".npz", npz(np.savez, a=np.array([[{}]], object)), "object"),
    "npz-cut": (".npz", npz(np.savez, a=GOOD)[:-60], "zip"),
    "npz-fortran": (".npz", npz(np.savez_compressed, a=np.asfortranarray(GOOD)), "ascontiguousarray"),
    "npz-not-zip": (".npz", b"nothing like it", "zip"),
    "parquet-ints": (".parquet", parquet(pa.table({"x": [1, 2]})), "floats"),
    "parquet-text": (".parquet", parquet(pa.table({"x": [1.0], "id": ["a"]})), "floats"),
    "parquet-two-lists": (".parquet", parquet(pa.table({"x": [[1.0]], "y": [[1.0]]})), "floats"),
    "parquet-empty-list": (
        ".parquet",
        parquet(pa.table({"x": pa.array([[]], pa.list_(pa.float32()))})),
        "row 0",
    ),
    "parquet-null-first": (".parquet", parquet(pa.table({"x": pa.array([None, [1.0]])})), "row 0"),
    "parquet-ragged": (".parquet", parquet(pa.table({"x": [[1.0, 2.0]] * 9 + [[1.0]]})), "row 9"),
    "parquet-null-list": (
        ".parquet",
        parquet(pa.table({"x": [[1.0, 2.0]] * 9 + [None]})),
        "row 9 holds null",
    ),
    "parquet-null-fixed": (
        ".parquet",
        parquet(pa.table({"x": pa.array([[1.0, 2.0]] * 9 + [None], pa.list_(pa.float64(), 2))})),
        "row 9 holds null",
    ),
    "parquet-null-value": (
        ".parquet",
        parquet(pa.table({"x": [[1.0, 2.0]] * 9 + [[1.0, None]]}), row_group_size=4),
        "row 9 holds a list with a null",
    ),
    "parquet-null-column": (
        ".parquet",
        parquet(pa.table({"x": [1.0] * 9 + [None], "y": [1.0] * 10}), row_group_size=4),
        "row 9 holds null in column 'x'",
    ),
    "parquet-cut": (".parquet", parquet(as_lists(GOOD))[:-5], "is no Parquet file, or is cut off"),
    "parquet-empty": (".parquet", b"", "is no Parquet file, or is cut off"),
    "csv": (".csv", b"1,2", "extension"),
    "no-extension": ("", b"1,2", "extension"),
}


def read_all(path: str) -> None:
    opened = open_array(path)
    for split in opened.splits(6):
        for _ in opened.read(split, 4):
            pass


@pytest.mark.parametrize("form", BAD)
def test_refused(tmp_path: Path, form: str) -> None:
    extension, data, expected = BAD[form]
    path = write(tmp_path, extension, data)
    with pytest.raises(CaseError, match=expected) as caught:
        read_all(path)
    assert path in str(caught.value)


def test_the_checksum_of_a_compressed_array_is_verified(tmp_path: Path) -> None:
    data = npz(np.savez_compressed, a=sample(3000, 40))  # more than zipfile reads ahead at opening
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        checksum = struct.pack("<I", archive.infolist()[0].CRC)
    path = write(tmp_path, ".npz", data.replace(checksum, b"\0\0\0\0"))
    with pytest.raises(CaseError, match=r"rows 2,996 to 2,999 .*CRC"):
        read_all(path)


@pytest.mark.parametrize("form", [*FORMS, "parquet"])
def test_a_file_that_changed_after_opening_is_refused(tmp_path: Path, form: str) -> None:
    forms = {**FORMS, "parquet": (".parquet", lambda a: parquet(as_lists(a)))}
    extension, dump = forms[form]
    data = dump(GOOD)
    path = write(tmp_path, extension, data)
    opened = open_array(path)
    (split,) = opened.splits(100)
    Path(path).write_bytes(data[:-100])
    with pytest.raises(CaseError, match="when it was opened"):
        list(opened.read(split, 100))


def test_damaged_text_names_the_rows(tmp_path: Path) -> None:
    """The file is damaged after the scan, keeping its size, so that only reading can notice."""
    data = pickle.dumps(GOOD, 2)
    path = write(tmp_path, ".pickle", data)
    opened = open_array(path)
    split = opened.splits(10)[2]
    Path(path).write_bytes(data[: split.at[0] + 5] + b"\xff" * 40 + data[split.at[0] + 45 :])
    with pytest.raises(CaseError, match=r"array.pickle: rows 20 to 24 cannot be read"):
        list(opened.read(split, 5))


@pytest.mark.parametrize("form", ["npy1", "npz", "npz-compressed", "parquet"])
def test_random_damage_is_refused_or_harmless(tmp_path: Path, form: str) -> None:
    forms = {**FORMS, "parquet": (".parquet", lambda a: parquet(as_lists(a)))}
    extension, dump = forms[form]
    data = dump(sample(20, 4))
    for broken in damaged(data, 250):
        path = write(tmp_path, extension, broken)
        with contextlib.suppress(CaseError):
            read_all(path)


def test_a_case_folder_is_searched_for_every_form() -> None:
    assert set(ARRAY_SUFFIXES) == set(_OPENERS)


def test_wrong_arguments_are_the_callers_bug(tmp_path: Path) -> None:
    opened = open_array(write(tmp_path, ".npy", npy(GOOD)))
    with pytest.raises(ValueError, match="rows = 0"):
        opened.splits(0)
    with pytest.raises(ValueError, match="rows = 0"):
        list(opened.read(Split(0, 1), 0))
    with pytest.raises(ValueError, match="not within"):
        list(opened.read(Split(39, 2), 5))


def test_writer_refuses_what_it_cannot_write() -> None:
    with pytest.raises(ValueError, match="int64"):
        write_pickle_header(io.BytesIO(), (2, 2), np.int64)
    with pytest.raises(ValueError, match="shape"):
        write_pickle_header(io.BytesIO(), (-1, 2), np.float32)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pickle_loads_what_the_writer_wrote(dtype: str, order: str) -> None:
    array = sample(300, 70_000 // 300, dtype, order)
    np.testing.assert_array_equal(pickle.loads(written_pickle(array)), array, strict=False)


# Linux keeps the peak of this process's own memory here; getrusage starts from the parent's peak.
MEMORY_PROBE = """
import re, sys
from motorpool.case.arrays import open_array

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024

opened = open_array(sys.argv[1])
base = peak_mb()
rows = 0
for split in opened.splits(20_000):
    for first, chunk in opened.read(split, int(sys.argv[2])):
        rows += len(chunk)
assert rows == opened.shape[0], rows
print(peak_mb() - base)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("form", ["c", "fortran", "float64", "npz-compressed", "parquet"])
def test_memory_is_bounded_by_the_chunk(tmp_path: Path, form: str) -> None:
    """A 400 MB array in chunks of 4 MB, in a process of its own, so that the peak is the system's number."""
    columns = 512
    dtype = "<f8" if form == "float64" else "<f4"
    rows = 400_000_000 // (columns * np.dtype(dtype).itemsize)
    path = tmp_path / "array.pickle"
    if form == "npz-compressed":
        path = tmp_path / "array.npz"
        np.savez_compressed(path, a=np.zeros((rows, columns), dtype))
    elif form == "parquet":
        path = tmp_path / "array.parquet"
        block = np.random.default_rng(1).random((rows // 4, columns), np.float32)
        with pq.ParquetWriter(path, as_lists(block[:1]).schema) as writer:
            for _ in range(4):
                writer.write_table(as_lists(block), row_group_size=len(block))
        rows = rows // 4 * 4
    else:
        with path.open("wb") as f:
            write_pickle_header(f, (rows, columns), dtype, fortran=form == "fortran")
            f.seek(rows * columns * np.dtype(dtype).itemsize, io.SEEK_CUR)
            write_pickle_trailer(f)
    probe = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE, str(path), "2000"], capture_output=True, text=True, check=True
    )
    # The loop holds the last chunk while the next is read: two chunks. Parquet also holds decoded pages.
    assert int(probe.stdout) < (100 if form == "parquet" else 32)


@pytest.mark.parametrize("name", ["efficientnet-b7", "osnet", "vdc_color", "vdc_type"])
def test_the_real_case_equals_pickle(name: str) -> None:
    path = CASE / f"{name}.pickle"
    if not path.exists():
        pytest.skip(f"no case at {CASE}")
    array = pickle.loads(path.read_bytes())  # a file of our own
    check(open_array(str(path)), array, 500, 333)


def test_paths_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b#1?x"
    folder.mkdir()
    (folder / "x 1.npy").write_bytes(npy(GOOD))
    (folder / "sub").mkdir()
    for root in (str(folder), f"file:{folder}", f"file://{folder}", f"file://localhost{folder}"):
        path = join(root, "x 1.npy")
        assert list_dir(root) == ["sub", "x 1.npy"]
        assert exists(path)
        assert exists(root)
        assert not exists(join(root, "y"))
        assert file_size(path) == len(npy(GOOD))
        with open_file(path) as f:
            assert f.seekable()
            assert f.read(6) == b"\x93NUMPY"
    monkeypatch.chdir(folder)
    assert exists("x 1.npy")


@pytest.mark.parametrize(
    ("root", "parts", "expected"),
    [
        ("/a", ("b", "c"), "/a/b/c"),
        ("/a/", ("/b/",), "/a/b"),
        ("/", ("b",), "/b"),
        ("", ("b",), "b"),
        ("/a", (), "/a"),
        ("/a", ("",), "/a"),
        ("dbfs:/a", ("b",), "dbfs:/a/b"),
        ("s3://bucket", ("b",), "s3://bucket/b"),
        ("s3://bucket/a?region=eu-west-1", ("b",), "s3://bucket/a/b?region=eu-west-1"),
    ],
)
def test_join(root: str, parts: tuple[str, ...], expected: str) -> None:
    assert join(root, *parts) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/no/such/file.npy", "no such file"),
        ("dbfs:/no/such/file.npy", "no such file"),
        ("dbfs:/Volumes/no/such/file.npy", "no such file"),
        ("/tmp", "is a folder, expected a file"),
        ("/dev/null", "neither a file nor a folder"),
        ("", "empty path"),
        ("a\0b", "zero byte"),
        ("ftp://host/x.npy", "s3://, gs://"),
        ("file://host/x.npy", "names the host"),
        ("zz://user:secret@host/x.npy?sig=secret", r"^zz://host/x.npy: cannot be reached"),
    ],
)
def test_files_that_cannot_be_opened(path: str, expected: str) -> None:
    with pytest.raises(CaseError, match=expected) as caught:
        open_file(path)
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.__cause__)


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    path = write(tmp_path, ".npy", b"")
    with pytest.raises(CaseError, match="not a folder"):
        list_dir(path)
    with pytest.raises(CaseError, match="no such folder"):
        list_dir(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://AKIA:se/cr@et@bucket/key?x=y", "s3://bucket/key"),
        ("s3://token@bucket/key", "s3://bucket/key"),
        ("hdfs://host:8020/user@x/y", "hdfs://host:8020/user@x/y"),
        ("hdfs://me@host:8020/y", "hdfs://host:8020/y"),
        ("abfss://container@account.dfs/x", "abfss://container@account.dfs/x"),
        ("abfss://container:key@account.dfs/x", "abfss://container@account.dfs/x"),
        ("cannot open 's3://a:b@c/d' nor s3://e:f@g/h", "cannot open 's3://c/d' nor s3://g/h"),
        ("/home/a@b:c?d", "/home/a@b:c?d"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_an_opened_array_hides_credentials(tmp_path: Path) -> None:
    opened = replace(open_array(write(tmp_path, ".npy", npy(GOOD))), path="s3://a:secret@b/x.npy")
    assert "secret" not in repr(opened)
    assert opened.name == "s3://b/x.npy"
