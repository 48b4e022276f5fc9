"""Pickles of more than a plain array: what lies beside one, kinds of arrays, joblib's files, and hostile forms."""

from __future__ import annotations

import collections
import contextlib
import datetime
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from array_checks import DTYPES, check, sample, write
from scipy import sparse

from motorpool.case.arrays import open_array
from motorpool.case.arrays.pickles import read_pickle_layout
from motorpool.errors import CaseError

PATHS = [f"veriwild/1/{i // 7:05d}/{i:06d}.jpg" for i in range(53)]


def layout_of(data: bytes) -> None:
    read_pickle_layout(io.BytesIO(data), len(data), "x.pickle")


def joblib_dumps(item: object, **options: object) -> bytes:
    f = io.BytesIO()
    joblib.dump(item, f, **options)
    return f.getvalue()


#: Ways to write an object, by name: an extension and a function.
WRITERS: dict[str, tuple[str, Callable[[object], bytes]]] = {
    **{f"pickle{p}": (".pickle", lambda item, p=p: pickle.dumps(item, p)) for p in (1, 2, 3, 4, 5)},
    "joblib": (".joblib", joblib_dumps),
    "joblib2": (".joblib", lambda item: joblib_dumps(item, protocol=2)),
    "joblib-as-pkl": (".pkl", joblib_dumps),
}

#: Objects that hold one 2-D float array beside other things.
HOLDERS: dict[str, Callable[[np.ndarray], object]] = {
    "alone": lambda a: a,
    "dict": lambda a: {"features": a, "paths": PATHS},
    "dict-last": lambda a: {"paths": PATHS, "labels": np.arange(53), "features": a},
    "dict-arrays": lambda a: {
        "names": np.array(PATHS),
        "mean": np.zeros(37, np.float32),
        "cameras": np.zeros((53, 2), np.int64),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "records": np.zeros(3, "f4,i4"),
        "flags": np.array([True]),
        "empty": np.zeros((0, 0)),
        "features": a,
    },
    "dict-small": lambda a: {"features": a, "x": 1.5, "n": None, "b": True, "t": (1, (2, (3, (4,)))), 7: b"raw"},
    "dict-numbers": lambda a: {"features": a, "ids": list(np.arange(40)), "y": [np.float32(1)], "s": np.str_("text")},
    "dict-pathlib": lambda a: {"paths": [pathlib.PurePosixPath(path) for path in PATHS], "features": a},
    "dict-sets": lambda a: {"s": {1, 2, 3}, "f": frozenset(range(3)), "features": a},
    "dict-rows": lambda a: {"rows": [{"path": path, "id": i} for i, path in enumerate(PATHS)], "features": a},
    "dict-tuples": lambda a: {"rows": list(zip(PATHS, range(53), strict=True)), "features": a},
    "nested": lambda a: {"gallery": {"model": [[(a,)]]}},
    "ordered": lambda a: collections.OrderedDict(paths=PATHS, features=a),
    "list": lambda a: [a],
    "tuple": lambda a: (a, PATHS),
    "tuple-long": lambda a: (tuple(range(5000)), a, tuple(str(i) for i in range(9000))),
    "matrix": np.matrix,
    "dict-matrix": lambda a: {"features": np.matrix(a), "paths": PATHS},
    "masked": np.ma.array,
    "masked-none": lambda a: np.ma.array(a, mask=np.zeros(a.shape, bool)),
    "masked-beside": lambda a: {"features": np.ma.array(a), "age": np.ma.array(np.arange(3), mask=[0, 1, 0])},
    "masked-matrix": lambda a: np.ma.array(np.matrix(a)),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_the_one_array_is_read(tmp_path: Path, holder: str, writer: str) -> None:
    extension, dump = WRITERS[writer]
    for dtype in ("<f2", ">f4", "<f8"):
        for order in "CF":
            array = sample(dtype=dtype, order=order)
            check(open_array(write(tmp_path, extension, dump(HOLDERS[holder](array)))), array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(53, 37), (0, 5), (1, 5), (5, 1), (1, 1)])
def test_joblib_equals_numpy(tmp_path: Path, shape: tuple[int, int], dtype: str, order: str) -> None:
    array = sample(*shape, dtype, order)
    path = str(tmp_path / "x.joblib")
    joblib.dump(array, path)
    check(open_array(path), array)


def test_joblib_before_padding(tmp_path: Path) -> None:
    """joblib before 1.2 names no alignment; later ones write none where they cannot tell where they are."""

    class Pipe(io.BytesIO):
        def tell(self) -> int:
            raise io.UnsupportedOperation

    array, f = sample(), Pipe()
    joblib.dump({"features": array, "paths": PATHS}, f)
    data = f.getvalue()
    check(open_array(write(tmp_path, ".joblib", data)), array)
    # The key and its value, None, as joblib 1.1 leaves them out.
    named = b"\x8c\x1bnumpy_array_alignment_bytes\x94N"
    assert data.count(named) == 1
    frame = struct.unpack("<Q", data[3:11])[0]
    older = data.replace(named, b"", 1).replace(data[3:11], struct.pack("<Q", frame - len(named)), 1)
    check(open_array(write(tmp_path, ".joblib", older)), array)


def test_one_array_under_two_keys_is_one(tmp_path: Path) -> None:
    array = sample()
    for protocol in range(1, 6):
        data = pickle.dumps({"query": array, "gallery": array}, protocol)
        check(open_array(write(tmp_path, ".pickle", data)), array)


def test_mapped_arrays_are_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for dump in (pickle.dumps, joblib_dumps):
        check(open_array(write(tmp_path, ".pickle", dump({"features": mapped}))), sample())


A = sample(5, 4)
REFUSED: dict[str, tuple[object, str]] = {
    "two": (
        {"query": A, "ids": [1], "gallery": A[:3]},
        r"2 2-D float arrays: \['query'\] of shape \(5, 4\), \['gallery'\] of shape \(3, 4\); .*data\['query'\]\)$",
    ),
    "two-in-list": (
        [A, A + 1],
        r"\[0\] of shape \(5, 4\), \[1\] of shape \(5, 4\); .*numpy.save\('x.npy', data\[0\]\)",
    ),
    "many": ([A + i for i in range(30)], r"holds a list with 30 2-D float arrays.* and 22 more"),
    "row-each": (
        {path: A[0].copy() for path in PATHS},
        r"without a 2-D float array \(\['veriwild.*numpy\.stack\(rows\)",
    ),
    "row-each-many": ({i: A[0].copy() for i in range(10_001)}, "more than 10,000 arrays.*numpy.stack"),
    "one-dimension": ({"features": A[0], "paths": PATHS}, r"shape \(4,\).*reshape"),
    "integers": ({"features": A.astype(int), "paths": PATHS}, "integers .*astype"),
    "objects": (np.array([[1, "x"]], object), r"Python objects .*numpy\.stack\(list\(array\)\)"),
    "masked": (np.ma.array(A, mask=A > 0), r"values masked out.*array\.filled\(numpy\.nan\)"),
    "masked-in-dict": ({"f": np.ma.array(A, mask=A > 0), "paths": PATHS}, r"values masked out.*filled"),
    "frame": (
        pd.DataFrame(A),
        r"pandas\.core\.frame\.DataFrame.*numpy\.save\('x\.npy', frame\.to_numpy\('float32'\)\)",
    ),
    "frame-in-dict": ({"features": A, "frame": pd.DataFrame(A)}, r"pandas\.core\.frame\.DataFrame.*frame\.to_numpy"),
    "sparse": (sparse.csr_matrix(A), r"scipy\.sparse.*toarray"),
    "date": ({"features": A, "when": datetime.date(2020, 1, 1)}, r"datetime\.date"),
    "function": ({"features": A, "f": os.system}, r"posix\.system.*nothing was run"),
}


@pytest.mark.parametrize("dump", [pickle.dumps, joblib_dumps, lambda item: pickle.dumps(item, 2)])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str, dump: Callable[[object], bytes]) -> None:
    item, expected = REFUSED[name]
    if name == "objects" and dump is joblib_dumps:
        expected = "Python objects, which joblib pickles apart"
    path = write(tmp_path, ".pickle", dump(item))
    with pytest.raises(CaseError, match=expected) as caught:
        open_array(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_mask_that_cannot_be_judged_is_refused() -> None:
    data = pickle.dumps(np.ma.array(A), 4)
    mask = b"C\x14" + bytes(20)
    assert data.count(mask) == 1
    layout_of(data)
    # A byte too few, and the frame with it.
    shorter = data.replace(mask, b"C\x13" + bytes(19)).replace(data[3:11], struct.pack("<Q", len(data) - 12))
    with pytest.raises(CaseError, match="cannot be judged"):
        layout_of(shorter)


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "lzma", "xz"])
def test_compressed_files_of_joblib_are_refused(tmp_path: Path, method: str) -> None:
    path = str(tmp_path / "x.joblib")
    joblib.dump(A, path, compress=(method, 3))
    with pytest.raises(CaseError, match=r"compressed with .*compress=0"):
        open_array(path)


# Hostile and damaged files.


class Hostile:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("writer", WRITERS)
def test_what_lies_beside_runs_nothing(tmp_path: Path, writer: str) -> None:
    extension, dump = WRITERS[writer]
    marker = tmp_path / "marker"
    for item in ({"f": A, "x": Hostile(marker)}, [Hostile(marker), A], (A, [(Hostile(marker),)])):
        with pytest.raises(CaseError, match=r"posix\.system.*nothing was run"):
            open_array(write(tmp_path, extension, dump(item)))
    assert not marker.exists()


@pytest.mark.parametrize("holder", ["dict-arrays", "dict-small", "dict-pathlib", "tuple", "masked", "matrix"])
@pytest.mark.parametrize("writer", ["pickle2", "pickle4", "joblib"])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_every_truncation_is_refused(holder: str, writer: str) -> None:
    data = WRITERS[writer][1](HOLDERS[holder](A))
    for length in range(len(data)):
        with pytest.raises(CaseError):
            layout_of(data[:length])


def test_random_damage_never_gets_out() -> None:
    """Damaged pickles give a `CaseError` or an array."""
    rng = np.random.default_rng(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        valid = [dump(make(A)) for make in HOLDERS.values() for _, dump in WRITERS.values()]
    for _ in range(2500):
        data = np.frombuffer(valid[rng.integers(len(valid))], np.uint8).copy()
        data[rng.integers(0, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
        with contextlib.suppress(CaseError):
            layout_of(data.tobytes()[: rng.integers(1, 3 * len(data))])


ARRAY = pickle.dumps(A, 3)[2:-1]
WRAPPER = joblib_dumps(A)[:-1]
UNBUILT = b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
LISTS = b"\x80\x03" + b"]" * 100_000
BROKEN: dict[str, tuple[bytes, str]] = {
    "deep lists": (LISTS + b"a" * 99_999 + b".", "no beginning"),
    "deep marks": (b"\x80\x03" + b"(" * 100_000 + b".", "to a depth"),
    "deep lists after marks": (b"\x80\x03" + b"(]" * 100_000 + b".", "to a depth"),
    "deep dicts": (b"\x80\x03" + b"}K\x01" * 100_000 + b"N" + b"s" * 100_000 + b".", "no beginning"),
    "doubled tuples": (b"\x80\x04)\x94" + b"\x86\x94".join([b"h\x00h\x00"] * 2000) + b".", "objects|nothing"),
    "list never ended": (b"\x80\x03](" + b"K\x01" * 100_000 + b".", "objects, expected one"),
    "items for no list": (b"\x80\x03}(K\x01e.", "adds items to a dict"),
    "keys for no dict": (b"\x80\x03](K\x01K\x02u.", "adds keys to a list"),
    "key for no dict": (b"\x80\x03K\x01K\x01K\x02s.", "adds keys to a number"),
    "key without value": (b"\x80\x03}(K\x01K\x02K\x03u.", "without its value"),
    "text that lies": (b"\x80\x03]X\xff\xff\xff\x7faaaa.", "cut off"),
    "bytes that lie": (b"\x80\x04]\x8e" + b"\xff" * 7 + b"\x7f.", "cut off"),
    "joblib's shape lies": (WRAPPER.replace(b"K\x05K\x04\x86", b"K\x7fK\x7f\x86") + b".", "cut off"),
    "joblib's padding lies": (WRAPPER[: WRAPPER.index(b"K\x10ub") + 4] + b"\xff" + A.tobytes() + b".", "cut off"),
    "joblib without state": (UNBUILT + b".", "without its values"),
    "joblib with another state": (UNBUILT + b"Nb.", "state"),
    "instance of something else": (b"\x80\x03cnumpy\nndarray\n)\x81.", "an instance of numpy.ndarray"),
    "wrapper called": (b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)R.", "in a way NumPy does not"),
    "reference to a storage": (b"\x80\x03X\x01\x00\x00\x00aQ.", "as torch writes"),
    "array left behind": (b"\x80\x03" + ARRAY + b"N.", "2 objects"),
    "array, then a number": (b"\x80\x03" + ARRAY + b"\x85K\x01.", "2 objects"),
    "many names": (b"\x80\x04K\x01" + b"\x94" * 70_000 + b".", "names more than 65,536 things"),
    "old torch": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", r"before 1\.6.*torch\.save\(torch\.load"),
    "zlib": (b"\x78\x9c" + bytes(50), "compressed with zlib"),
}


@pytest.mark.parametrize("form", BROKEN)
def test_broken_and_hostile_forms_are_refused(form: str) -> None:
    data, expected = BROKEN[form]
    with pytest.raises(CaseError, match=expected) as caught:
        layout_of(data)
    assert str(caught.value).startswith("x.pickle: ")
    assert len(str(caught.value)) < 1000


def test_instructions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motorpool.case.arrays.pickles.machine.MAX_OPCODES", 10_000)
    for steps in (b"]" + b"K\x01a" * 10_000, b"]" + b"]a" * 10_000, b"N" + b"\x94" * 20_000):
        with pytest.raises(CaseError, match="over 10,000 pickle instructions"):
            layout_of(b"\x80\x04" + steps + b".")


MEMORY_PROBE = """
import re, sys
from motorpool.case.arrays import open_array
from motorpool.errors import CaseError

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024

base = peak_mb()
try:
    opened = open_array(sys.argv[1])
except CaseError as error:
    print(error, file=sys.stderr)
print(peak_mb() - base)
"""


def peak_of(path: Path) -> int:
    """Megabytes that opening the array in a process of its own takes."""
    probe = subprocess.run([sys.executable, "-c", MEMORY_PROBE, str(path)], capture_output=True, text=True, check=True)
    return int(probe.stdout)


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")


@linux
@pytest.mark.parametrize("form", ["list", "tuple"])
def test_paths_beside_the_array_are_not_held(tmp_path: Path, form: str) -> None:
    paths = [f"/data/veriwild/images/{i % 10}/{i // 10:05d}/{i:06d}.jpg" for i in range(400_000)]
    item = {"paths": tuple(paths) if form == "tuple" else paths, "features": A}
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(item))
    assert peak_of(path) < 16
    check(open_array(str(path)), A)


@linux
def test_hostile_pickles_take_little_memory(tmp_path: Path) -> None:
    """The most that the stack, the memo and the arrays can hold."""
    leaf = b"\x8c\x60" + b"x" * 96
    inner = b"(" + leaf * 10 + b"t"
    bombs = [
        b"\x80\x04" + (b"(" + inner * 10 + b"t") * 4096,  # tuples of tuples of texts
        b"\x80\x04" + (b"}" + b"\x8c\x05shape" + inner + b"s") * 4096,  # dicts that might describe an array
        b"\x80\x04" + (leaf + b"\x94") * 400_000,
        b"\x80\x04](" + ARRAY * 9_999 + b"e.",
    ]
    for bomb in bombs:
        (tmp_path / "x.pickle").write_bytes(bomb)
        assert peak_of(tmp_path / "x.pickle") < 128
