"""The content of photo files, told by digests of their bytes."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.neighbours.alike import DIGESTS, digest_of
from motorpool.photos.source import open_images
from motorpool.spark.blocks import Batches


def file_digests(images: DataFrame, root: str, tasks: int) -> DataFrame:
    """DIGESTS of the files of ``images`` (``image_id, path``) below ``root``, read in ``tasks`` tasks.

    Files that are missing or cannot be read have no row; whether they are pictures does not matter. Memory of a task:
    a file, and a zip's entries.
    """

    def run(batches: Batches) -> Batches:
        photos = open_images(root)
        for batch in batches:
            found = [photos.data(path) for path in batch.column("path").to_pylist()]
            digests = [None if data is None else digest_of(data) for data in found]
            rows = pa.RecordBatch.from_arrays(
                [batch.column("image_id"), pa.array(digests, pa.binary())], names=["image_id", "digest"]
            )
            yield rows.filter(rows.column("digest").is_valid())

    return images.select("image_id", "path").repartition(tasks, "image_id").mapInArrow(run, DIGESTS)
