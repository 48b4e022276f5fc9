"""What a format for another tool is made of, and what it gets: labelled photos in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa


@dataclass(frozen=True)
class Attribute:
    """An attribute of ``label_sets`` and all its values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """A photo's label by one attribute: a row of ``image_labels``. ``value`` is null where it cannot be told."""

    attribute: str
    value: str | None
    probability: float | None
    accepted: bool
    source: str


@dataclass(frozen=True)
class Photo:
    """A photo with its labels, in the order of the attributes. ``address`` is where the tool finds the photo.

    ``place`` is x and y of the photo on the map that a format draws; None where the map lacks it.
    """

    image_id: int
    path: str
    address: str
    labels: Sequence[Label]
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class HandOver:
    """What is handed over: the labels of some attributes. ``version`` says when they were made.

    ``montage`` is how many photos at most a task shows side by side, None for tasks of one photo.
    """

    attributes: Sequence[Attribute]
    version: str
    images_url: str | None
    montage: int | None


@dataclass(frozen=True)
class Part:
    """A piece of a text file: ``head``, what ``render`` makes of each photo with ``between`` between them, ``tail``.

    Photos of which ``render`` makes null are left out. ``render_montage`` stands in for ``render`` where photos with
    the same labels go together, as many as the hand-over's ``montage`` says. One pass over the photos for each part
    with either.
    """

    head: str = ""
    render: Callable[[Photo], str | None] | None = None
    between: str = ",\n"
    tail: str = ""
    render_montage: Callable[[Sequence[Photo]], str] | None = None


@dataclass(frozen=True)
class Table:
    """A table of ``schema``, to which each photo gives some ``rows``."""

    schema: pa.Schema
    rows: Callable[[Photo], Iterable[Sequence[Any]]]


#: Text files by what takes the place of the extension of the file that was asked for; "" is that file itself.
Documents = Mapping[str, Sequence[Part]]


@dataclass(frozen=True)
class Format:
    """A format: either text in parts, or a table of columns.

    ``documents`` gives the files' parts. A ``table`` is written as CSV, or as Parquet where ``extensions`` says so;
    with ``draws_map`` its photos have places. ``extensions`` are those that the tool reads. ``default_url`` stands
    before paths where no other prefix was asked for. ``montages`` says whether several photos can share a task.
    """

    name: str
    extensions: tuple[str, ...]
    documents: Callable[[HandOver], Documents] | None = None
    table: Callable[[HandOver], Table] | None = None
    default_url: str | None = None
    montages: bool = False
    draws_map: bool = False


def address(path: str, prefix: str | None) -> str:
    """A photo's path behind a prefix: a folder, or a URL, in which the path is quoted.

    A prefix joins by a slash, unless it ends with one or with the ``=`` of a query.
    """
    if prefix is None:
        return path
    is_url = "://" in prefix or "?" in prefix
    joint = "" if prefix.endswith(("/", "=")) else "/"
    return f"{prefix}{joint}{quote(path) if is_url else path}"


def beside(out: Path, suffix: str) -> Path:
    """The file ``out``, or one beside it with ``suffix`` in place of its extension."""
    return out.with_name(out.stem + suffix) if suffix else out


def rounded(probability: float | None) -> float | None:
    """A probability with the digits that mean something."""
    return None if probability is None else round(probability, 4)
