"""What people write into files and on command lines, read in the forms in which it comes."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from typing import Any

#: Names end up in partition folders and SQL predicates, so they stay within this alphabet.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")

#: Marks at the beginning of a file that tell how its text is written, longest first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?\s*")


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins with ``head``: UTF-8 unless a byte order mark says otherwise.

    Raises ValueError for UTF-16 without a mark, which every UTF-8 reader takes for text full of zero bytes.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise ValueError("it holds zero bytes and no byte order mark, so it is no text: save it as UTF-8")
    return "utf-8"


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; ValueError for any other."""
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        shown = {"utf-8-sig": "UTF-8"}.get(encoding, encoding.upper())
        raise ValueError(f"it is no {shown} text (byte {exc.start:,}: {exc.reason}): save it as UTF-8") from exc


def as_number(value: Any) -> Any:
    """``value``, or the number that it writes: YAML 1.1 takes ``5e-1`` and ``1e3`` for text, for want of a point.

    A whole number comes as int, so that ``1e3`` counts too. Anything that is no finite number stays as it is.
    """
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    number = float(value)
    if number in (float("inf"), float("-inf")):
        return value
    return int(number) if number.is_integer() else number


def expand_home(path: str) -> str:
    """A path with the home folder for a leading ``~`` or ``~name``, as a shell reads it where it stands unquoted.

    Paths with a scheme stay as they are, and so does ``~name`` where there is no such user. ValueError for a path that
    holds a zero byte, which no file system takes.
    """
    if "\0" in path:
        raise ValueError(f"{path!r}: a path cannot hold a zero byte")
    return os.path.expanduser(path)


def plain_path(path: str) -> str:
    """A path of an image with forward slashes and without a leading ``./``."""
    return re.sub(r"^(\./)+", "", path.strip(" ").replace("\\", "/"))


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: ``part-9`` comes before ``part-10``."""
    return [(int(digits), "") if digits else (-1, other) for digits, other in re.findall(r"(\d+)|(\D+)", name)]


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; empty for none."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def counted(n: int, noun: str) -> str:
    """``1 model``, ``2,000 models``: for nouns whose plural takes an s."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
