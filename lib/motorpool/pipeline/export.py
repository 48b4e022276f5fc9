"""Export: one model's labels as a CSV file, one line per image."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from motorpool.config.run import CONSENSUS
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.pipeline.output.files import whole_file, write_csv

log = logging.getLogger(__name__)

COLUMNS = ("path", "cluster", "outlier")


def best_model(lake: Lake, algorithms: Collection[str] | None = None) -> Row:
    """The leaderboard's first row, of all ``algorithms`` or some; LakeError when no such model can be ranked."""
    board = lake.leaderboard()
    if algorithms is not None:
        board = board.where(F.col("algorithm").isin(list(algorithms)))
    row = board.orderBy("rank").first()
    if row is None:
        raise LakeError(
            f"no model in the lake {lake} can be ranked; see `motorpool sql --lake {lake} "  # noqa: S608 (shown)
            '"SELECT features, params, status, reason FROM models"`'
        )
    return row


def run_export(lake: Lake, out: Path, model_id: str | None = None) -> tuple[str, int]:
    """Write ``path,cluster,outlier`` in the images' order; returns the model's id and the number of lines.

    The best model of the leaderboard unless one is named. ``outlier`` is 1 or 0 by the consensus of the outlier
    methods; where the lake has none, 1 for the model's noise and empty, not known, for all others. The file appears
    whole or not at all. Driver memory: one partition of the labels as text.
    """
    chosen = model_id or str(best_model(lake)["model_id"])
    labels = lake.read("labels", model_id=chosen)
    if labels.isEmpty():
        raise ConfigError(f"--model {chosen}: the lake {lake} holds no labels of such a model")
    rows = (
        _with_outliers(lake, labels)
        .join(lake.read("images").select("image_id", "path"), on="image_id", how="inner")
        .orderBy("image_id")
        .select(*COLUMNS)
    )
    with whole_file(out) as f:
        return chosen, write_csv(rows, f)


def _with_outliers(lake: Lake, labels: DataFrame) -> DataFrame:
    if lake.exists("outliers"):
        agreed = lake.read("outliers", features=CONSENSUS)
        if not agreed.isEmpty():
            flags = agreed.select("image_id", F.col("is_outlier").cast("int").cast("string").alias("outlier"))
            return labels.join(flags, on="image_id", how="left")
    noise = F.when(F.col("cluster") < 0, F.lit("1")).otherwise(F.lit(""))
    return labels.withColumn("outlier", noise)
