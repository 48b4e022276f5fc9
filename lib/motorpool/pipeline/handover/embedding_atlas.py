"""Embedding Atlas: a Parquet table with a row per photo, its place on a map, and three columns for each attribute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from motorpool.config.labels import columns_of
from motorpool.errors import ConfigError
from motorpool.pipeline.handover.format import Format, HandOver, Photo, Table

#: Columns beside those of the attributes.
_OWN = ("path", "image", "x", "y")


def _table(handed: HandOver) -> Table:
    """path, image (the photo's address, where a prefix was asked for), x, y and the columns of each attribute.

    Photos that the map lacks have no place.
    """
    for attribute in handed.attributes:
        clash = next((c for c in columns_of(attribute.name) if c.lower() in _OWN), None)
        if clash is not None:
            raise ConfigError(
                f"--attribute {attribute.name}: its column {clash!r} would hide the file's own of that name: leave it "
                "out by naming others, or call it otherwise in `labels.attributes`"
            )
    told = (pa.string(), pa.float32(), pa.bool_())
    columns = [
        (name, kind)
        for attribute in handed.attributes
        for name, kind in zip(columns_of(attribute.name), told, strict=True)
    ]
    image = [] if handed.images_url is None else [("image", pa.string())]
    names = [attribute.name for attribute in handed.attributes]

    def row(photo: Photo) -> Iterator[tuple[Any, ...]]:
        labels = {label.attribute: (label.value, label.probability, label.accepted) for label in photo.labels}
        values = [value for name in names for value in labels.get(name, (None, None, None))]
        yield photo.path, *(photo.place or (None, None)), *values, *([photo.address] if image else [])

    return Table(pa.schema([("path", pa.string()), ("x", pa.float32()), ("y", pa.float32()), *columns, *image]), row)


EMBEDDING_ATLAS = Format("embedding-atlas", (".parquet",), table=_table, draws_map=True)
