"""Files of torch.save: a zip archive with a pickle that describes the tensors, and their values as they are.

The pickle is read by the machine of `pickles`, never unpickled. Where it names a storage, the tensor's values are
the uncompressed member ``data/<number>`` of the same archive. The format before torch 1.6 is no archive and is refused.
"""

from __future__ import annotations

import zipfile
from functools import partial

import pyarrow as pa

from motorpool.case.arrays.array_file import COPY_AGAIN, ArrayFile
from motorpool.case.arrays.pickles.machine import opened_layout, read_window
from motorpool.case.arrays.pickles.names import Global
from motorpool.case.arrays.pickles.symbols import Storage, short_text
from motorpool.case.arrays.pickles.window import Window
from motorpool.case.arrays.zip_members import open_zip, stored_at
from motorpool.case.files import redact
from motorpool.errors import CaseError

_SAVE = "Save one 2-D float tensor: torch.save(tensor, 'x.pt')"
_ORDERS = {b"little": "<", b"big": ">"}


def open_torch(path: str, f: pa.NativeFile, size: int) -> ArrayFile:
    """The tensor in the file `f` of `size` bytes, alone or beside other things, stored by rows or by columns.

    Raises `CaseError` where there is not exactly one 2-D tensor of float16, float32 or float64, and where the
    archive is compressed or contradicts itself.
    """
    name = redact(path)
    if f.read(2) != b"PK":
        # No archive: the machine knows the old format, and says what else it is.
        read_window(Window(f, size, name, advice=_SAVE))
        raise CaseError(f"{name}: is a pickle, no file of torch.save. Name it .pickle")
    with open_zip(f) as archive:
        members = _Members(archive, f, size, name)
    start, length = members.find("data.pkl")
    order = "<"  # files before torch 2.1 do not say
    if members.has("byteorder"):
        place, count = members.find("byteorder")
        f.seek(place)
        word = f.read(min(count, 8))
        if word not in _ORDERS:
            raise CaseError(f"{name}: holds the byte order {word!a}, expected little or big. {COPY_AGAIN}")
        order = _ORDERS[word]
    window = Window(f, start + length, name, start, _SAVE)
    return opened_layout(path, size, read_window(window, partial(_storage, members, order, window)))


class _Members:
    """The members of an archive of torch.save, which all lie in one folder of any name."""

    def __init__(self, archive: zipfile.ZipFile, f: pa.NativeFile, size: int, name: str) -> None:
        self._file, self._size, self._name = f, size, name
        self._infos: dict[str, list[zipfile.ZipInfo]] = {}
        for info in archive.infolist():
            self._infos.setdefault(info.filename, []).append(info)
        pickles = [full for full in self._infos if full.endswith("/data.pkl") and full.count("/") == 1]
        if len(pickles) != 1:
            found = ", ".join(repr(full[:60]) for full in list(self._infos)[:8]) or "nothing"
            raise CaseError(f"{name}: is an archive of {found}, not one of torch.save. {_SAVE}")
        self._folder = pickles[0].removesuffix("data.pkl")

    def has(self, member: str) -> bool:
        return self._folder + member in self._infos

    def find(self, member: str) -> tuple[int, int]:
        """Where a member lies in the file, and its bytes. Raises `CaseError` unless it is there once, as it is."""
        infos = self._infos.get(self._folder + member, [])
        if len(infos) != 1:
            raise CaseError(f"{self._name}: holds {len(infos)} members {member}, expected one. {COPY_AGAIN}")
        if infos[0].compress_type != zipfile.ZIP_STORED or infos[0].flag_bits & 1:
            raise CaseError(
                f"{self._name}: its member {member} is compressed or encrypted, which torch.save does not do. {_SAVE}"
            )
        return stored_at(self._file, infos[0], self._size, self._name), infos[0].file_size


def _storage(members: _Members, order: str, window: Window, reference: object) -> Storage:
    """The storage that torch.save puts as ('storage', type, number, device, count of values)."""
    match reference:
        case (tag, Global(role="storage", code=code), number, _, int() as count) if short_text(tag) == "storage":
            key = short_text(number)
        case _:
            raise window.refusal("refers to something that is not the values of a tensor")
    if key is None:  # named before, by another tensor
        return Storage(code, order, count, None)
    if not (key.isascii() and key.isdigit()):
        raise window.refusal(f"refers to the values {key[:60]!a}, expected a number")
    itemsize = 2 if code == "bfloat16" else int(code[1:])
    offset, nbytes = members.find(f"data/{key}")
    if count < 0 or count * itemsize != nbytes:
        raise window.refusal(
            f"says that data/{key} holds {count:,} values of {itemsize} bytes, but it has {nbytes:,} bytes", COPY_AGAIN
        )
    return Storage(code, order, count, offset)
