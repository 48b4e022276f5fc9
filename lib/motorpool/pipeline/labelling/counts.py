"""How many labels an attribute has, and how many of them are accepted."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


class LabelCounts(NamedTuple):
    """Of an attribute's labels: images, accepted ones, and the mean probability of those that follow from no look."""

    n: int
    accepted: int
    expected: float | None

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of ``label_sets``."""
        return {
            "expected": self.expected,
            "n_images": self.n,
            "n_accepted": self.accepted,
            "share_accepted": self.accepted / self.n if self.n else None,
        }


def count_labels(labels: DataFrame) -> dict[str, LabelCounts]:
    """By attribute, of rows of ``image_labels``. The mean is null where people gave all labels."""
    rows = (
        labels.groupBy("attribute")
        .agg(
            F.count("*").alias("n"),
            F.count_if("accepted").alias("accepted"),
            # Only what people said, of the photo or its vehicle, is certain.
            F.avg(F.when(F.col("probability") < 1, F.col("probability"))).alias("expected"),
        )
        .collect()
    )
    return {r["attribute"]: LabelCounts(int(r["n"]), int(r["accepted"]), r["expected"]) for r in rows}
