"""The pickle interpreter: finds what NumPy wrote, refuses the rest, and never runs or loads anything."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from motorpool.case.arrays import open_array
from motorpool.case.arrays.laid_out import RawLayout
from motorpool.case.arrays.pickles import read_pickle_layout
from motorpool.case.arrays.pickles.text import index_text
from motorpool.errors import CaseError

GOOD = np.arange(24, dtype=np.float32).reshape(4, 6) / 7


def layout_of(data: bytes) -> RawLayout:
    return read_pickle_layout(io.BytesIO(data), len(data), "x.pickle")


def by_hand(
    *,
    reconstruct: bytes = b"cnumpy.core.multiarray\n_reconstruct\n",
    made: bytes = b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R",
    shape: bytes = b"K\x04K\x06\x86",
    dtype: bytes = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R",
    dtype_state: bytes = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    fortran: bytes = b"\x89",
    data: bytes = b"B" + struct.pack("<I", GOOD.nbytes) + GOOD.tobytes(),
    end: bytes = b"tb.",
) -> bytes:
    """A protocol-3 pickle of `GOOD`, any part of which a test can replace."""
    return b"\x80\x03" + reconstruct + made + b"(K\x01" + shape + dtype + dtype_state + fortran + data + end


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_layout_points_at_the_values(protocol: int, order: str, dtype: str) -> None:
    array = np.array(GOOD, dtype, order=order)
    data = pickle.dumps(array, protocol)
    layout = layout_of(data)
    assert (layout.shape, layout.dtype, layout.fortran) == (array.shape, array.dtype, order == "F")
    payload = data[layout.offset : layout.offset + layout.nbytes]
    if protocol <= 2:
        assert layout.encoding == "latin1"
        payload = payload.decode().encode("latin-1")
    assert payload == array.tobytes("A")


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"reconstruct": b"cnumpy._core.multiarray\n_reconstruct\n"},
        {"reconstruct": b"\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94"},
        # Every spelling of the memo, with far and repeated indices.
        {"shape": b"K\x04K\x06\x86p70000\n"},
        {"shape": b"K\x04q\x07K\x06r\xff\xff\x00\x00\x86q\x07"},
        {"shape": b"(I4\np5\nL6L\ntp9\n"},
        {"shape": b"\x8a\x01\x04\x8a\x09\x06" + bytes(8) + b"\x86\x94"},
        {"fortran": b"I00\n"},
        {"fortran": b"K\x00"},
        {
            "dtype": b"cnumpy\ndtype\nU\x02f4\x89\x88\x87Rq\x01",
            "dtype_state": b"(K\x03U\x01<NNNI-1\nI-1\nK\x00tb",
        },
        {"dtype_state": b"(K\x03X\x01\x00\x00\x00=NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"},
        {"dtype_state": b""},
        {"data": b"\x8e" + struct.pack("<Q", GOOD.nbytes) + GOOD.tobytes()},
        {"data": b"C" + struct.pack("<B", GOOD.nbytes) + GOOD.tobytes()},
        {"data": b"U" + struct.pack("<B", GOOD.nbytes) + GOOD.tobytes()},
        {"data": b"T" + struct.pack("<i", GOOD.nbytes) + GOOD.tobytes()},
    ],
)
def test_forms_that_numpy_loads_too(parts: dict[str, bytes]) -> None:
    data = by_hand(**parts)
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1"), GOOD)
    layout = layout_of(data)
    assert layout.shape == (4, 6)
    assert data[layout.offset :][: layout.nbytes] == GOOD.tobytes()


def test_memo_can_be_read_back() -> None:
    for get in (b"h\x07", b"j\x07\x00\x00\x00", b"g7\n"):
        square = by_hand(shape=b"K\x04q\x07" + get + b"\x86", data=b"C\x40" + bytes(64))
        assert layout_of(square).shape == pickle.loads(square).shape == (4, 4)


class Hostile:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def hostile_files(marker: Path) -> list[tuple[bytes, str]]:
    command = f"touch {marker}".encode()
    system = b"cos\nsystem\n"
    return [
        *((pickle.dumps(Hostile(marker), p), r"posix\.system") for p in range(6)),
        (b"cos\nsystem\n(S'" + command + b"'\ntR.", r"os\.system"),
        (b"(S'" + command + b"'\nios\nsystem\n.", "protocol 0"),
        (b"(X" + struct.pack("<I", len(command)) + command + b"ios\nsystem\n.", r"os\.system"),
        (by_hand(end=b"tb0" + system + b"X" + struct.pack("<I", len(command)) + command + b"\x85R."), "0x30"),
        (by_hand(reconstruct=system), r"os\.system"),
        (by_hand(reconstruct=b"cbuiltins\neval\n"), r"builtins\.eval"),
        (by_hand(reconstruct=b"cnumpy\ndtype.__init__\n"), r"numpy\.dtype\.__init__"),
        (by_hand(reconstruct=b"cnumpy\nload\n"), r"numpy\.load"),
        (by_hand(reconstruct=b"c\x1b[2Jevil\nname\n"), r"\\x1b"),
        (by_hand(reconstruct=b"c_codecs\nencode\n"), "in a way NumPy does not"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"os\.system"),
        (b"\x80\x04K\x01K\x01\x93.", "form that NumPy does not use"),
    ]


@pytest.mark.parametrize("index", range(len(hostile_files(Path("x")))))
def test_hostile_pickles_run_nothing(tmp_path: Path, index: int) -> None:
    marker = tmp_path / "marker"
    data, expected = hostile_files(marker)[index]
    path = tmp_path / "x.pickle"
    path.write_bytes(data)
    with pytest.raises(CaseError, match=expected) as caught:
        open_array(str(path))
    assert str(path) in str(caught.value)
    assert not marker.exists()


class Subclass(np.ndarray):
    pass


def buffers_outside() -> bytes:
    return pickle.dumps(GOOD, 5, buffer_callback=lambda _: None)


OTHER_OBJECTS: list[tuple[object, str]] = [
    ([], "a list without a 2-D float array .no array at all"),
    ({}, "a dict without"),
    ({1}, "set"),
    ((1, 2), "a tuple of 2 without"),
    (None, "holds None"),
    (1.5, "a single float"),
    (3, "a number"),
    (True, "a boolean"),
    ("text", "text or bytes"),
    (b"bytes", "text or bytes"),
    (np.dtype("f4"), "holds a dtype"),
    (np.ndarray, r"holds numpy\.ndarray"),
    (np.float32(1), "scalar"),
    (collections.OrderedDict(), "a dict without"),
    (collections.Counter(), r"collections\.Counter"),
    (np.zeros(3), r"shape \(3,\).*reshape"),
    (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\).*reshape"),
    (np.zeros(()), r"shape \(\)"),
    (np.zeros((2, 0)), "at least one feature"),
    (np.zeros((2, 2), int), r"integers .*'i8'.*astype"),
    (np.zeros((2, 2), np.uint8), "unsigned integers"),
    (np.zeros((2, 2), bool), "booleans"),
    (np.zeros((2, 2), complex), "complex numbers"),
    (np.zeros((2, 2), np.longdouble), "floats of an unusual size"),
    (np.zeros((2, 2), "f4,i4"), "structured records"),
    (np.zeros((2, 2), "U3"), "holds text"),
    (np.zeros((2, 2), "M8[s]"), "dates"),
    (np.array([[{}, []]], object), "Python objects"),
    (np.zeros((2, 2)).view(Subclass), r"test_pickled\.Subclass"),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("index", range(len(OTHER_OBJECTS)))
def test_other_objects_are_refused(index: int, protocol: int) -> None:
    item, expected = OTHER_OBJECTS[index]
    with pytest.raises(CaseError, match=expected) as caught:
        layout_of(pickle.dumps(item, protocol))
    assert str(caught.value).startswith("x.pickle: ")


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "protocol 0": (pickle.dumps(GOOD, 0), "protocol 0"),
    "protocol 6": (b"\x80\x06" + by_hand()[2:], "protocols 1 to 5"),
    "protocol twice": (b"\x80\x03" + by_hand(), "protocols 1 to 5"),
    "out of band": (buffers_outside(), "out-of-band"),
    "zip": (b"PK\x03\x04" + bytes(50), "torch.save"),
    "gzip": (b"\x1f\x8b" + bytes(50), "gzip"),
    "npy": (b"\x93NUMPY" + bytes(50), r"\.npy file"),
    "text": (b"hello, world\n" * 9, "damaged|not a pickled"),
    "zeros": (bytes(100), "unexpected byte 0x00"),
    "trailing": (pickle.dumps(GOOD, 4) + b"N.", "2 bytes after the end"),
    "two arrays": (pickle.dumps(GOOD, 4) * 2, "bytes after the end"),
    "too few bytes": (by_hand(shape=b"K\x05K\x06\x86"), "96 bytes of values, shape .* needs 120"),
    "too many bytes": (by_hand(shape=b"K\x03K\x06\x86"), "96 bytes of values, shape .* needs 72"),
    "huge shape": (by_hand(shape=b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"K\x06\x86"), "needs 221,360,928,"),
    "huge integer": (by_hand(shape=b"\x8a\xff" + b"\xff" * 255), "integer of 255 bytes"),
    "long decimal": (by_hand(shape=b"L" + b"9" * 120 + b"\n"), "no number"),
    "negative shape": (by_hand(shape=b"J\xfc\xff\xff\xffJ\xfa\xff\xff\xff\x86"), "not a tuple of sizes"),
    "shape of booleans": (by_hand(shape=b"\x88\x88\x86"), "not a tuple of sizes"),
    "no shape": (by_hand(shape=b"N"), "not a tuple of sizes"),
    "negative length": (by_hand(data=b"T\xff\xff\xff\xff"), "cut off"),
    "payload beyond the file": (by_hand(data=b"\x8e" + b"\xff" * 8), "cut off"),
    "payload is text": (by_hand(data=b"X\x60\x00\x00\x00" + b"a" * 96), "values are text"),
    "text too short": (
        by_hand(data=b"c_codecs\nencode\nX\x05\x00\x00\x00aaaaaX\x06\x00\x00\x00latin1\x86R"),
        "5 bytes",
    ),
    "other codec": (
        by_hand(data=b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R"),
        "_codecs.encode in a way",
    ),
    "dtype metadata": (by_hand(dtype_state=b"(K\x04X\x01\x00\x00\x00<NNNK\x00K\x00K\x00Nt" + b"b"), "state"),
    "dtype built twice": (by_hand(dtype_state=by_hand.__kwdefaults__["dtype_state"] * 2), "state"),
    "frame beyond the file": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "cut off"),
    "stack underflow": (b"\x80\x03R.", "nothing to work on"),
    "tuple without mark": (b"\x80\x03NNt.", "no beginning"),
    "memo missing": (b"\x80\x03h\x05.", "memo entry 5"),
    "unbuilt array": (
        by_hand()[:2] + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)C\x01b\x87R.",
        "without",
    ),
    "unfinished tuple": (b"\x80\x03(.", "unfinished tuple"),
    "several objects": (b"\x80\x03NN.", "2 objects"),
    "long name": (b"\x80\x03c" + b"n" * 500, "more than 128 characters"),
    "endless": (b"\x80\x03" + b"N" * 10_000 + b".", "no beginning"),
    "deep nesting": (b"\x80\x03)" + b"\x85" * 10_000 + b".", "a tuple of 1 without"),
    "memo flood": (b"\x80\x03N" + b"\x94" * 10_000 + b".", "holds None"),
}


@pytest.mark.parametrize("form", DAMAGED)
def test_damaged_pickles_are_refused(form: str) -> None:
    data, expected = DAMAGED[form]
    with pytest.raises(CaseError, match=expected) as caught:
        layout_of(data)
    assert str(caught.value).startswith("x.pickle: ")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_truncation_is_refused(protocol: int) -> None:
    data = pickle.dumps(GOOD, protocol)
    for length in range(len(data)):
        with pytest.raises(CaseError):
            layout_of(data[:length])


@pytest.mark.parametrize(
    ("find", "put", "expected"),
    [
        # Same file size: a two-byte character becomes two characters, or text that is not Latin-1.
        ("\xe9\xe9".encode(), b"abcd", "characters"),
        ("\xe9".encode(), "\u0416".encode(), "not Latin-1"),
        ("\xe9".encode(), b"\xc3a", "not Latin-1"),
        ("\xe9".encode(), b"a\xa9", "not Latin-1"),
    ],
)
def test_damaged_text_is_found_when_indexing(find: bytes, put: bytes, expected: str) -> None:
    array = np.frombuffer(b"\xe9" * 96, np.float32).reshape(4, 6)
    data = pickle.dumps(array, 2).replace(find, put, 1)
    layout = layout_of(data)
    with pytest.raises(CaseError, match=expected):
        index_text(io.BytesIO(data), layout, np.array([0]), "x.pickle")


def test_text_characters_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block size cuts two-byte characters somewhere."""
    raw = np.random.default_rng(1).bytes(4 * 6 * 4)
    data = pickle.dumps(np.frombuffer(raw, np.float32).reshape(4, 6), 2)
    layout = layout_of(data)
    text = data[layout.offset : layout.offset + layout.nbytes].decode()
    expected = [layout.offset + len(text[:i].encode()) for i in range(97)]
    for block in (2, 3, 5, 7, 64):
        monkeypatch.setattr("motorpool.case.arrays.pickles.text._TEXT_BLOCK", block)
        found = index_text(io.BytesIO(data), layout, np.arange(97), "x")
        assert found.tolist() == expected


def test_the_payload_is_never_read() -> None:
    class Counting(io.BytesIO):
        total = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.total += len(data)
            return data

    data = pickle.dumps(np.zeros((1000, 1000), np.float32), 5)
    f = Counting(data)
    read_pickle_layout(f, len(data), "x")
    assert f.total < 16_384


def test_random_damage_never_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged pickles give a `CaseError` or an array; no import happens on the way."""
    rng = np.random.default_rng(5)
    valid = [pickle.dumps(np.array(GOOD, order=o), p) for p in (1, 2, 3, 4, 5) for o in "CF"]
    valid += [by_hand(), pickle.dumps(Hostile(tmp_path / "marker"), 4)]
    cases = []
    for _ in range(4000):
        data = np.frombuffer(valid[rng.integers(len(valid))], np.uint8).copy()
        data[rng.integers(0, len(data), rng.integers(0, 5))] = rng.integers(0, 256)
        cases.append(data.tobytes()[: rng.integers(1, 3 * len(data))])

    imported: set[str] = set()
    real_import = builtins.__import__

    def record_import(name: str, *rest: object) -> object:
        imported.add(name.split(".")[0])
        return real_import(name, *rest)  # type: ignore[arg-type]

    wanted = np.arange(4) * 24
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", record_import)
        for data in cases:
            with contextlib.suppress(CaseError):
                layout = layout_of(data)
                if layout.encoding == "latin1" and layout.shape == (4, 6) and layout.dtype.itemsize == 4:
                    index_text(io.BytesIO(data), layout, wanted, "x")
    assert imported <= {"numpy"}  # its own late imports
    assert not (tmp_path / "marker").exists()


def test_random_damage_through_the_public_face(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    path = tmp_path / "x.pickle"
    for protocol in (2, 4, 5):
        for order in "CF":
            data = pickle.dumps(np.array(GOOD, order=order), protocol)
            for _ in range(150):
                broken = np.frombuffer(data, np.uint8).copy()
                broken[rng.integers(0, len(data), rng.integers(1, 4))] = rng.integers(0, 256)
                path.write_bytes(broken.tobytes())
                with contextlib.suppress(CaseError):
                    opened = open_array(str(path))
                    for split in opened.splits(3):
                        list(opened.read(split, 2))
