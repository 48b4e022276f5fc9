"""Embedding Atlas: a Parquet table with a row per photo, its place on a map, and three columns for each attribute."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.config.labels import columns_of
from motorpool.errors import ConfigError
from motorpool.pipeline.handover.format import Format, HandOver, address
from motorpool.pipeline.output.files import numbered
from motorpool.spark.blocks import Batches

#: Columns beside those of the attributes.
_OWN = ("path", "image", "x", "y")


def _table(handed: HandOver) -> DataFrame:
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
    columns = [
        F.element_at("labels", at)[given].alias(name)
        for at, attribute in enumerate(handed.attributes, 1)
        for name, given in zip(columns_of(attribute.name), ("value", "probability", "accepted"), strict=True)
    ]
    prefix = handed.images_url

    def with_address(batches: Batches) -> Batches:
        for batch in batches:
            # The first column is the path.
            found = [address(path, prefix) for path in batch.column(0).to_pylist()]
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(found, pa.string())], names=[*names, "image"])

    placed = handed.photos.join(handed.maps(), on="image_id", how="left").orderBy("place")
    rows = placed.select("path", "x", "y", *columns)
    if prefix is None:
        return rows
    schema = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in rows.schema.fields)
    names = rows.columns
    return numbered(rows).mapInArrow(with_address, f"{schema}, image STRING")


EMBEDDING_ATLAS = Format("embedding-atlas", (".parquet",), table=_table)
