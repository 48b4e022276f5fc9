"""What people said about photos, read from the files of the tools that they use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO, cast

from motorpool.annotations.annotation import Annotation, Reader
from motorpool.annotations.cvat import read_cvat
from motorpool.annotations.label_studio import read_label_studio
from motorpool.annotations.tables import read_table
from motorpool.case import files
from motorpool.errors import AnnotationError

#: By the extension of the file's name.
READERS: Mapping[str, Reader] = {
    ".csv": read_table, ".tsv": read_table, ".txt": read_table, ".json": read_label_studio, ".xml": read_cvat,
}  # fmt: skip


def reader_of(path: str) -> Reader:
    """The reader of a file's format; AnnotationError for an extension that none reads."""
    extension = os.path.splitext(path)[1].lower()
    if extension not in READERS:
        raise AnnotationError(
            f"{files.redact(path)}: annotations are read from {', '.join(READERS)}: tables of text with a column of "
            "paths, exports of Label Studio as JSON, of CVAT as XML"
        )
    return READERS[extension]


def read_annotations(path: str, wanted: frozenset[str] | None = None, shown: str | None = None) -> Iterator[Annotation]:
    """The annotations of a file, by path or URI, in its order and in bounded memory.

    ``wanted`` are the attributes to read, in small letters and as the file calls them; None is all. Values that the
    file gives no attribute come in any case. ``shown`` is what errors call the file, by default its path.
    AnnotationError, which names the line, for what cannot be read; CaseError where there is no such file.
    """
    reader = reader_of(path)
    with files.open_file(path) as f:
        yield from reader(cast(BinaryIO, f), shown or files.redact(path), wanted)
