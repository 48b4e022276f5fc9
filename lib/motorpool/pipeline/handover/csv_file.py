"""CSV: a line for each photo and attribute, with an empty column `value` for people, as `motorpool annotate draw` has.

What a person fills in is imported; the labels stand beside it as suggestions, so an untouched file imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from motorpool.pipeline.handover.format import Format, HandOver, Photo, Table

_SCHEMA = pa.schema(
    [
        ("path", pa.string()), ("attribute", pa.string()), ("value", pa.string()), ("suggested", pa.string()),
        ("probability", pa.float32()), ("accepted", pa.bool_()),
    ]
)  # fmt: skip


def _rows(photo: Photo) -> Iterator[tuple[Any, ...]]:
    for label in photo.labels:
        yield photo.path, label.attribute, None, label.value, label.probability, label.accepted


def _table(_: HandOver) -> Table:
    return Table(_SCHEMA, _rows)


CSV = Format("csv", (".csv",), table=_table)
