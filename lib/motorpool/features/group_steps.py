"""What steps by groups need of Spark: which group each image is in, by a column of the table ``images``.

A group is a text in such a column: a camera, an hour. Groups with too few images have no numbers of their own, and
neither have texts that were not fitted; such images, and those without a text, are treated by the numbers of all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.errors import CaseError
from motorpool.features.program import Columns, Op
from motorpool.features.spec import Step
from motorpool.features.vehicle_steps import BROADCAST_IMAGES
from motorpool.kernels.group_moments import GroupMoments

log = logging.getLogger(__name__)

#: Groups of fewer images have no numbers of their own: a mean of so few says more about them than about the group.
MIN_IMAGES = 10
#: More groups are refused: the driver and every task hold 8 bytes for each column of each, 24 while fitting ...
MAX_GROUPS = 10_000
#: ... and so are more numbers, groups times columns, which are stored with the feature set.
MAX_NUMBERS = 2**23

#: Columns of groups among those of descriptors, whose names have no blank.
_MARK = "by "


def marked(column: str) -> str:
    """How a column of groups is called beside descriptors."""
    return _MARK + column


def is_descriptor(name: str) -> bool:
    """Whether a column beside ``image_id`` holds vectors and no groups."""
    return name != "image_id" and not name.startswith(_MARK)


def attach(wide: DataFrame, images: DataFrame, columns: Sequence[str], n_images: int) -> DataFrame:
    """``wide`` (image_id and descriptors) with a STRING column for each of the ``columns`` of ``images``.

    One join, by broadcast up to `BROADCAST_IMAGES`; an image that ``images`` lacks gets nulls.
    """
    if not columns:
        return wide
    side = images.select("image_id", *(F.col(f"`{c}`").cast("string").alias(marked(c)) for c in columns))
    side = F.broadcast(side) if n_images <= BROADCAST_IMAGES else side
    return wide.join(side, on="image_id", how="left")


def columns_of(batch: pa.RecordBatch, names: Sequence[str]) -> Columns:
    """The columns of groups in an Arrow batch of such rows."""
    return {name: batch.column(marked(name)) for name in names}


@dataclass(frozen=True)
class Groups:
    """The groups of a column ``by`` that get numbers of their own: their ``names``, ordered."""

    by: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, wide: DataFrame, by: str, who: str) -> Groups:
        """The texts of a column beside descriptors (`attach`) that `MIN_IMAGES` rows or more have; one small shuffle.

        Says how many rows are treated by the numbers of all. CaseError, which begins with ``who``, where no text has so
        many rows, or more than `MAX_GROUPS` have. Driver memory: the names.
        """
        counts = wide.groupBy(F.col(f"`{marked(by)}`").alias("name")).agg(F.count("*").alias("n"))
        large = F.col("name").isNotNull() & (F.col("n") >= MIN_IMAGES)
        row = counts.agg(
            F.count_if(large).alias("groups"),
            F.count_if(F.col("name").isNotNull()).alias("texts"),
            F.coalesce(F.sum(F.when(large, F.col("n"))), F.lit(0)).alias("grouped"),
            F.coalesce(F.sum("n"), F.lit(0)).alias("rows"),
        ).first()
        assert row is not None
        if not row["groups"]:
            raise CaseError(
                f"{who}: the column {by!r} has {row['texts']:,} values for {row['rows']:,} images, and none of them "
                f"{MIN_IMAGES} images or more, so there are no groups: name a column with fewer values"
            )
        if row["groups"] > MAX_GROUPS:
            raise CaseError(
                f"{who}: the column {by!r} has {row['groups']:,} values with {MIN_IMAGES} images or more, and at most "
                f"{MAX_GROUPS:,} groups are taken: name a column with fewer values"
            )
        left = row["rows"] - row["grouped"]
        if left:
            log.info(
                "%s: %s images are in none of the %s groups of %s images or more, and are treated by the numbers of "
                "all images",
                who, f"{left:,}", f"{row['groups']:,}", MIN_IMAGES,
            )  # fmt: skip
        return cls(by, tuple(sorted(r["name"] for r in counts.where(large).select("name").collect())))

    def check_size(self, width: int, who: str) -> None:
        """CaseError, which begins with ``who``, where groups of ``width`` columns are more than `MAX_NUMBERS`."""
        n = len(self.names) + 1
        if n * width > MAX_NUMBERS:
            raise CaseError(
                f"{who}: {n:,} groups of {width:,} columns are {n * width:,} numbers, and at most {MAX_NUMBERS:,} are "
                "stored: put a `pca` step in front, or name a column with fewer values"
            )


def fit_groups(step: Step, groups: Groups, moments: GroupMoments, *, projected: bool) -> Op:
    """The operation of group_center or group_standard, from what is known of the rows of every group.

    group_standard is scikit-learn's StandardScaler of each group alone: the population's deviation, 1 where a column is
    constant in a group. Behind a projection (``projected``), which leaves rounding in place of a constant, columns
    whose deviation is within float32's rounding of the widest column's count as constant too. Exact, float64.
    """
    found = moments.pooled()
    fields = {"rows": found.n.astype(np.float64), "mean": found.mean}
    if step.kind == "group_standard":
        variance = found.squares / found.n[:, None]
        flat = found.min == found.max
        if projected:
            width = variance.shape[1]
            flat |= variance <= variance[-1].max(initial=0.0) * width * np.finfo(np.float32).eps ** 2
        fields["deviation"] = np.sqrt(np.where(flat, 1.0, variance))
    return Op(step.kind, fields, groups.by, groups.names)
