"""CSV: a line for each photo and attribute, with an empty column `value` for people, as `motorpool annotate draw` has.

What a person fills in is imported; the labels stand beside it as suggestions, so an untouched file imports nothing.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.pipeline.handover.format import Format, HandOver


def _table(handed: HandOver) -> DataFrame:
    rows = handed.photos.select("path", F.explode("labels").alias("label"))
    return rows.select(
        "path",
        "label.attribute",
        F.lit(None).cast("string").alias("value"),
        F.col("label.value").alias("suggested"),
        "label.probability",
        "label.accepted",
    )


CSV = Format("csv", (".csv",), table=_table)
