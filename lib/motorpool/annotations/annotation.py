"""What every reader of annotations gives: one photo, one attribute, one value, and the line where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from motorpool.errors import AnnotationError

#: What people write in files where they cannot tell the value from the photo.
CANNOT_TELL = "?"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation of a file. ``value`` is null where the person cannot tell."""

    line: int
    #: The photo, as the file spells it.
    path: str
    #: What the file calls the attribute; null where it has one column of values without a name.
    attribute: str | None
    value: str | None
    annotator: str | None = None
    purpose: str | None = None
    draw: str | None = None
    stratum: str | None = None
    weight: float | None = None


class Reader(Protocol):
    """Reads one format. ``wanted`` are names of attributes in small letters; None is all that the file has."""

    def __call__(self, f: BinaryIO, name: str, wanted: frozenset[str] | None) -> Iterator[Annotation]:
        """The annotations in the file's order, in bounded memory; AnnotationError with the line for what is wrong."""
        ...


def wrong(name: str, line: int, text: str) -> AnnotationError:
    """An error that names the file and the line."""
    return AnnotationError(f"{name}, line {line:,}: {text}")


def value_of(text: str) -> str | None:
    """The value that a text stands for, without blanks around it; null for ``?``."""
    value = text.strip()
    return None if value == CANNOT_TELL else value
