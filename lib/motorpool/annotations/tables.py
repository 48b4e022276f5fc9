"""Annotations as a table of text: the CSV of `motorpool annotate draw`, any with paths, VERI-Wild's vehicle_info.txt.

One row is a photo. Values stand in a column ``value``, with the attribute's name in a column ``attribute`` where there
is one, or in a column that is called as the attribute, for attributes that
are asked for. The columns are separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from motorpool.annotations.annotation import Annotation, value_of, wrong
from motorpool.case.csv_files import VEHICLE_INFO
from motorpool.errors import AnnotationError
from motorpool.texts import encoding_of


class Rows(Protocol):
    """A reader of the module `csv`: rows of fields, and the line that it has come to."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


#: What files call the column of paths: our own, Label Studio's CSV, VERI-Wild's.
PATH_COLUMNS = ("path", "paths", "image", VEHICLE_INFO)
#: Columns that say something about the annotation, and are no attribute.
_ABOUT = ("annotator", "purpose", "draw", "stratum", "weight")
_PURPOSES = ("train", "audit")
#: Bytes of the file that tell how its text is written.
_HEAD = 4096


def read_table(f: BinaryIO, name: str, wanted: frozenset[str] | None) -> Iterator[Annotation]:
    """The annotations of a table; rows with an empty value are those that nobody has looked at yet.

    AnnotationError for a file without a column of paths or of values, and for rows that cannot be read.
    """
    head = f.read(_HEAD)
    f.seek(0)
    try:
        encoding = encoding_of(head)
    except ValueError as exc:
        raise AnnotationError(f"{name}: {exc}") from exc
    text = io.TextIOWrapper(f, encoding=encoding, newline="")
    try:
        first = text.readline()
        text.seek(0)
        rows = csv.reader(text, delimiter=_delimiter(first), strict=True)
        try:
            yield from _annotations(rows, name, wanted)
        except csv.Error as exc:
            raise wrong(name, rows.line_num, f"cannot be read as CSV: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise AnnotationError(f"{name}: is neither UTF-8 nor UTF-16 text: save it as UTF-8 ({exc})") from exc


def _delimiter(header: str) -> str:
    """The separator that the header has most of; Excel writes semicolons where the comma is the decimal point."""
    return max(",;\t", key=header.count)


def _annotations(rows: Rows, name: str, wanted: frozenset[str] | None) -> Iterator[Annotation]:
    spelled = [c.strip() for c in next(rows, [])]
    header = [c.lower() for c in spelled]
    twice = next((c for i, c in enumerate(header) if c and c in header[:i]), None)
    if twice is not None:
        raise wrong(name, 1, f"has the column {twice!r} twice, but for its case perhaps")
    path = next((header.index(c) for c in PATH_COLUMNS if c in header), None)
    if path is None:
        raise wrong(
            name, 1, f"needs a column of paths ({', '.join(PATH_COLUMNS)}), found {', '.join(header) or 'none'}"
        )
    values = [(None if c is None else spelled[i], i) for c, i in _value_columns(header, name, wanted)]
    about = {c: header.index(c) for c in _ABOUT if c in header}
    attribute = header.index("attribute") if "attribute" in header else None
    for row in rows:
        if not row or not any(field.strip() for field in row):
            continue
        if len(row) != len(header):
            raise wrong(name, rows.line_num, f"has {len(row)} fields, the header has {len(header)}")
        for called, at in values:
            if not row[at].strip():
                continue
            if called is None and attribute is not None:
                called = row[attribute].strip()
                if not called:
                    raise wrong(name, rows.line_num, "names no attribute in its column `attribute`")
            if wanted is not None and called is not None and called.lower() not in wanted:
                continue
            yield _annotation(row, rows.line_num, path, called, row[at], about, name)


def _value_columns(header: Sequence[str], name: str, wanted: frozenset[str] | None) -> list[tuple[str | None, int]]:
    """Columns of values with the attribute each is of, None for the column ``value``."""
    # A column called as the attribute comes first: a table of several attributes may have a column `value` too.
    named = [(c, i) for i, c in enumerate(header) if wanted is not None and c in wanted and c not in PATH_COLUMNS]
    if not named and "value" in header:
        return [(None, header.index("value"))]
    if not named:
        # Any other column could be an attribute, but a column of remarks is none.
        asked = f", or called {' or '.join(sorted(wanted))}" if wanted else "; or say by --attribute which one to read"
        raise wrong(name, 1, f"needs a column `value`{asked}; found {', '.join(header)}")
    return [(c, i) for c, i in named]


def _annotation(
    row: Sequence[str], line: int, path: int, attribute: str | None, value: str, about: dict[str, int], name: str
) -> Annotation:
    details = {c: row[i].strip() or None for c, i in about.items()}
    purpose = details.get("purpose")
    if purpose is not None and purpose not in _PURPOSES:
        raise wrong(name, line, f"purpose {purpose!r}: expected {' or '.join(_PURPOSES)}")
    if not row[path].strip():
        raise wrong(name, line, "has a value but no path")
    return Annotation(
        line,
        row[path].strip(),
        attribute,
        value_of(value),
        details.get("annotator"),
        purpose,
        details.get("draw"),
        details.get("stratum"),
        _weight(details.get("weight"), name, line),
    )


def _weight(text: str | None, name: str, line: int) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    # The inverse of a chance.
    if not (math.isfinite(weight) and weight >= 1):
        raise wrong(name, line, f"weight {text!r}: expected a number from 1 on, as `motorpool annotate draw` wrote it")
    return weight
