"""Files of torch.save and safetensors: the one 2-D float tensor equals NumPy's array, all else is refused.

The files are made here byte by byte, as torch 2.15 and safetensors 0.8 write them, so that neither is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from array_checks import check, sample, write
from damage import damaged

from motorpool.case.arrays import open_array
from motorpool.errors import CaseError

STORAGES = {"<f2": "HalfStorage", "<f4": "FloatStorage", "<f8": "DoubleStorage"}
A = sample(5, 4)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    *,
    storage: str = "FloatStorage",
    key: str = "0",
    count: int | None = None,
    first: int = 0,
) -> bytes:
    """What torch.save pickles of a tensor: a call with the storage's place, and how values lie in it."""
    count = int(np.prod(shape)) if count is None else count
    stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape))) if stride is None else stride
    place = b"(" + text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text(key) + text("cpu") + number(count)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"tQ" + number(first) + numbers(shape) + numbers(stride)
    ) + b"\x89ccollections\nOrderedDict\n)RtR"


def torch_file(
    body: bytes,
    *data: bytes,
    order: bytes | None = b"little",
    folder: str = "archive",
    compression: int = zipfile.ZIP_STORED,
    more: dict[str, bytes] | None = None,
) -> bytes:
    """A file of torch.save: an archive of a pickle with `body`, its storages at multiples of 64 bytes, and notes."""
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", compression) as archive:
        members = {"data.pkl": b"\x80\x02" + body + b".", ".format_version": b"1"}
        members |= {} if order is None else {"byteorder": order}
        members |= {f"data/{i}": values for i, values in enumerate(data)} | {"version": b"3\n"} | (more or {})
        for name, content in members.items():
            info = zipfile.ZipInfo(f"{folder}/{name}")
            info.compress_type = compression
            begin = f.tell() + 30 + len(info.filename) + 4
            info.extra = b"FB" + struct.pack("<H", -begin % 64) + b"Z" * (-begin % 64)
            archive.writestr(info, content)
    return f.getvalue()


def saved(array: np.ndarray) -> bytes:
    """torch.save(torch.from_numpy(array)), whatever the order of its axes."""
    stride = tuple(step // array.itemsize for step in array.strides)
    body = tensor(array.shape, stride, storage=STORAGES[array.dtype.str])
    return torch_file(body, array.tobytes("A"))


def safetensors(tensors: dict[str, np.ndarray], **replaced: object) -> bytes:
    """safetensors.numpy.save(tensors); `replaced` changes the entry of the first one."""
    header: dict[str, dict] = {"__metadata__": {"format": "np"}}
    begin = 0
    for name, array in tensors.items():
        dtype = {"f": "F", "i": "I", "u": "U"}[array.dtype.kind] + str(8 * array.itemsize)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    header.get(next(iter(tensors), ""), {}).update(replaced)
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    return struct.pack("<Q", len(written)) + written + b"".join(array.tobytes() for array in tensors.values())


# torch.save.


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("shape", [(53, 37), (0, 5), (1, 5), (5, 1), (1, 1)])
def test_a_tensor_equals_numpy(tmp_path: Path, shape: tuple[int, int], dtype: str, order: str) -> None:
    array = sample(*shape, dtype, order)
    opened = open_array(write(tmp_path, ".pt", saved(array)))
    assert opened.dtype == array.dtype
    check(opened, array)


def test_what_lies_beside_a_tensor(tmp_path: Path) -> None:
    ids = tensor((5,), storage="LongStorage", key="1")
    paths = b"]q\x01(" + text("a.jpg") + text("b.jpg") + b"e"
    tensors = text("features") + tensor(A.shape) + text("ids") + ids
    data = (A.tobytes(), np.arange(5).tobytes())
    bodies = [
        b"}(" + tensors + text("paths") + paths + b"u",
        b"ccollections\nOrderedDict\n)R(" + tensors + b"u",
        b"](" + tensor(A.shape) + ids + b"e",
        tensor(A.shape) + ids + b"\x86",
        b"}" + text("p") + b"ctorch._utils\n_rebuild_parameter\n" + tensor(A.shape) + b"\x88N\x87Rs",
    ]
    for body in bodies:
        for extension in (".pt", ".pth", ".PT"):
            check(open_array(write(tmp_path, extension, torch_file(body, *data, folder="any name"))), A)


def test_arrays_of_numpy_in_a_file_of_torch(tmp_path: Path) -> None:
    body = b"}" + text("features") + pickle.dumps(A, 2)[2:-1] + b"s"
    check(open_array(write(tmp_path, ".pt", torch_file(body))), A)


def test_parts_of_a_storage(tmp_path: Path) -> None:
    """tensor[2:5] is saved with the whole storage."""
    body = tensor((3, 4), first=8, count=20)
    check(open_array(write(tmp_path, ".pt", torch_file(body, A.tobytes()))), A[2:5])


@pytest.mark.parametrize(("order", "letter"), [(b"little", "<"), (b"big", ">"), (None, "<")])
def test_byte_order(tmp_path: Path, order: bytes | None, letter: str) -> None:
    array = A.astype(f"{letter}f4")
    check(open_array(write(tmp_path, ".pt", torch_file(tensor(A.shape), array.tobytes(), order=order))), A)


TWICE = io.BytesIO(torch_file(tensor(A.shape), A.tobytes()))
with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(TWICE, "a") as twice:
    twice.writestr("archive/data/0", bytes(80))
EVIL = b"cos\nsystem\n" + text("touch marker") + b"\x85R"
TORCH: dict[str, tuple[bytes, str]] = {
    "two": (
        torch_file(
            b"}(" + text("q") + tensor((5, 4)) + text("g") + tensor((5, 4), key="1") + b"u", A.tobytes(), A.tobytes()
        ),
        r"2 2-D float arrays: \['q'\] of shape \(5, 4\), \['g'\] of shape \(5, 4\)",
    ),
    "bfloat16": (torch_file(tensor((5, 4), storage="BFloat16Storage"), bytes(40)), r"bfloat16 .*tensor\.float\(\)"),
    "integers": (torch_file(tensor((5, 4), storage="LongStorage"), bytes(160)), r"integers .*tensor\.float\(\)"),
    "one dimension": (torch_file(tensor((20,)), bytes(80)), r"shape \(20,\)"),
    "gaps": (torch_file(tensor((5, 2), (4, 2), count=20), A.tobytes()), r"gaps .*\(4, 2\)\).*contiguous\(\)"),
    "repeated": (torch_file(tensor((5, 4), (0, 1), count=4), A.tobytes()[:16]), "lies outside"),
    "overlapping": (torch_file(tensor((5, 4), (1, 1)), A.tobytes()), "gaps"),
    "one stride": (torch_file(tensor((5, 4), (4,)), A.tobytes()), "without two strides"),
    "negative first": (torch_file(tensor((5, 4), first=-1), A.tobytes()), "lies outside"),
    "first too far": (torch_file(tensor((5, 4), first=1), A.tobytes()), "lies outside"),
    "negative shape": (torch_file(tensor((-5, 4), count=20), A.tobytes()), "not a tuple of sizes"),
    "huge shape": (torch_file(tensor((2**31 - 1, 2**31 - 1), count=20), A.tobytes()), "lies outside"),
    "count that lies": (torch_file(tensor((500, 4)), A.tobytes()), "holds 2,000 values of 4 bytes, but it has 80"),
    "negative count": (torch_file(tensor((5, 4), count=-20), A.tobytes()), "but it has 80 bytes"),
    "no such storage": (torch_file(tensor((5, 4), key="7"), A.tobytes()), "0 members data/7"),
    "storage elsewhere": (torch_file(tensor((5, 4), key="../../x"), A.tobytes()), "expected a number"),
    "storage twice": (TWICE.getvalue(), "2 members data/0"),
    "runs code": (torch_file(EVIL), r"os\.system.*nothing was run"),
    "runs code beside": (torch_file(tensor(A.shape) + EVIL + b"\x86", A.tobytes()), r"os\.system.*nothing was run"),
    "reference to nothing": (torch_file(text("x") + b"Q"), "not the values of a tensor"),
    "loads bytes": (torch_file(b"ctorch.storage\n_load_from_bytes\n"), "torch.storage._load_from_bytes"),
    "compressed": (
        torch_file(tensor((500, 500)), bytes(1_000_000), compression=zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "byte order": (torch_file(tensor(A.shape), A.tobytes(), order=b"middle"), "byte order b'middle'"),
    "npz": (torch_file(b"").replace(b"data.pkl", b"date.pkl"), "not one of torch.save"),
    "deep": (torch_file(b"(" * 100_000), "to a depth"),
    "old format": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(99), r"before 1\.6.*torch\.save\(torch\.load"),
    "pickle": (pickle.dumps(A), "Name it .pickle"),
    "text": (b"hello, world\n" * 9, "damaged|not a pickled"),
    "empty": (b"", "empty"),
    "zip and nothing else": (b"PK\x03\x04" + bytes(99), "zip"),
}


@pytest.mark.parametrize("form", TORCH)
def test_other_files_of_torch_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    data, expected = TORCH[form]
    path = write(tmp_path, ".pt", data)
    with pytest.raises(CaseError, match=expected) as caught:
        open_array(path)
    assert path in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_a_storage_that_another_tensor_named(tmp_path: Path) -> None:
    """The second tensor names the first one's storage by the memo, where only the words of a pickle are kept."""
    one = tensor((4,), count=20).replace(text("0"), text("0") + b"q\x05")
    two = tensor((5, 4)).replace(text("0"), b"h\x05")
    with pytest.raises(CaseError, match=r"shares its values.*contiguous\(\)\.clone\(\)"):
        open_array(write(tmp_path, ".pt", torch_file(b"](" + one + two + b"e", A.tobytes())))


def with_sizes(data: bytes, member: str, size: int) -> bytes:
    """`data`, an archive, whose directory says that `member` has `size` bytes."""
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(member.encode()))
    return data[: place + 20] + struct.pack("<II", size, size) + data[place + 28 :]


@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/data/0"])
@pytest.mark.parametrize("size", [0, 3, 1 << 20, 0xFFFFFFF0])
def test_members_that_lie_about_their_length(tmp_path: Path, member: str, size: int) -> None:
    data = with_sizes(torch_file(tensor(A.shape), A.tobytes()), member, size)
    with pytest.raises(CaseError):
        open_array(write(tmp_path, ".pt", data))


def test_a_directory_of_many_members_is_refused(tmp_path: Path) -> None:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w") as archive:
        for i in range(40_000):
            archive.writestr(f"{i:080d}", b"")
    with pytest.raises(CaseError, match="expected at most 4,194,304"):
        open_array(write(tmp_path, ".pt", f.getvalue()))


# safetensors.


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("shape", [(53, 37), (0, 5), (1, 5), (5, 1), (1, 1)])
def test_safetensors_equal_numpy(tmp_path: Path, shape: tuple[int, int], dtype: str) -> None:
    array = sample(*shape, dtype)
    opened = open_array(write(tmp_path, ".safetensors", safetensors({"features": array})))
    assert opened.dtype == array.dtype
    check(opened, array)


def test_what_lies_beside_in_safetensors(tmp_path: Path) -> None:
    beside = {"ids": np.arange(5), "f": A, "mean": A[0], "cameras": np.zeros((5, 2), np.uint8)}
    check(open_array(write(tmp_path, ".safetensors", safetensors(beside))), A)


DEEP = b"[" * 500_000
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "two": (safetensors({"q": A, "g": A}), r"2 2-D float tensors \('q' of 'F32' and shape \(5, 4\), 'g'"),
    "none": (safetensors({}), r"0 tensors \(nothing\)"),
    "integers": (safetensors({"x": np.ones((2, 2), int)}), "'x' of 'I64'"),
    "one dimension": (safetensors({"x": A[0]}), r"shape \(4,\)\).*reshape"),
    "no columns": (safetensors({"x": A[:, :0]}), r"shape \(5, 0\)"),
    "bfloat16": (safetensors({"x": A.astype("f2")}, dtype="BF16"), r"holds BF16.*tensor\.float\(\)"),
    "8 bits": (safetensors({"x": np.ones((2, 2), np.uint8)}, dtype="F8_E4M3"), "'F8_E4M3'"),
    "shape that lies": (safetensors({"x": A}, shape=[6, 4]), "has 80 bytes, shape .6, 4. of float32 needs 96"),
    "huge shape": (safetensors({"x": A}, shape=[1 << 62, 1 << 62]), "needs 85,070"),
    "offsets beyond the file": (safetensors({"x": A}, data_offsets=[0, 1 << 60]), "does not have"),
    "offsets backwards": (safetensors({"x": A}, data_offsets=[80, 0]), "does not have"),
    "negative offsets": (safetensors({"x": A}, data_offsets=[-80, 0]), "does not have"),
    "offsets of booleans": (safetensors({"x": A}, data_offsets=[False, 80]), "header is damaged"),
    "one offset": (safetensors({"x": A}, data_offsets=[0]), "header is damaged"),
    "shape of texts": (safetensors({"x": A}, shape=["5", "4"]), "header is damaged"),
    "negative shape": (safetensors({"x": A}, shape=[-5, -4]), "header is damaged"),
    "no type": (safetensors({"x": A}, dtype=None), "header is damaged"),
    "cut": (safetensors({"x": A})[:-1], "does not have"),
    "longer": (safetensors({"x": A}) + b"x", "81 bytes follow the header, its tensors take 80"),
    "length that lies": (b"\xff" * 8 + b"{}", "a header of 18,446,744"),
    "huge header": (struct.pack("<Q", 2_000_000) + b" " * 2_000_000, "expected at most 1,048,576"),
    "deep header": (struct.pack("<Q", len(DEEP)) + DEEP, "header is damaged"),
    "long number": (struct.pack("<Q", 9000) + b"9" * 9000, "header is damaged"),
    "list": (struct.pack("<Q", 2) + b"[]", "header is damaged"),
    "not JSON": (struct.pack("<Q", 4) + b"\xff{}x", "header is damaged"),
    "empty": (b"", "no safetensors file"),
    "pickle": (pickle.dumps(A), "no safetensors file"),
}


@pytest.mark.parametrize("form", SAFETENSORS)
def test_other_safetensors_are_refused(tmp_path: Path, form: str) -> None:
    data, expected = SAFETENSORS[form]
    path = write(tmp_path, ".safetensors", data)
    with pytest.raises(CaseError, match=expected) as caught:
        open_array(path)
    assert path in str(caught.value)
    assert len(str(caught.value)) < 1000


# Both.

WHOLE = {".pt": saved(A), ".safetensors": safetensors({"ids": np.arange(3), "features": A})}


@pytest.mark.parametrize("extension", WHOLE)
def test_every_truncation_is_refused(tmp_path: Path, extension: str) -> None:
    data = WHOLE[extension]
    for length in range(len(data)):
        with pytest.raises(CaseError):
            open_array(write(tmp_path, extension, data[:length]))


@pytest.mark.parametrize("extension", WHOLE)
def test_random_damage_is_refused_or_harmless(tmp_path: Path, extension: str) -> None:
    for broken in damaged(WHOLE[extension], 800):
        path = write(tmp_path, extension, broken)
        with contextlib.suppress(CaseError):
            opened = open_array(path)
            for split in opened.splits(3):
                list(opened.read(split, 2))
