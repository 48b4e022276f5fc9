"""Export: one model's labels as a CSV file, one line per image."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import logging
import os
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from motorpool.blocks import Batches
from motorpool.config import CONSENSUS
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake

log = logging.getLogger(__name__)

COLUMNS = ("path", "cluster", "outlier")


def best_model(lake: Lake) -> Row:
    """The leaderboard's first row; LakeError when no model can be ranked."""
    lake.read("models")
    lake.register()
    row = lake.spark.table(lake.sql_name("leaderboard")).orderBy("rank").first()
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
        .select("image_id", "path", "cluster", "outlier")
        .orderBy("image_id")
    )
    return chosen, _write_csv(rows, out)


def _with_outliers(lake: Lake, labels: DataFrame) -> DataFrame:
    if lake.exists("outliers"):
        agreed = lake.read("outliers", features=CONSENSUS)
        if not agreed.isEmpty():
            flags = agreed.select("image_id", F.col("is_outlier").cast("int").cast("string").alias("outlier"))
            return labels.join(flags, on="image_id", how="left")
    noise = F.when(F.col("cluster") < 0, F.lit("1")).otherwise(F.lit(""))
    return labels.withColumn("outlier", noise)


def _write_csv(rows: DataFrame, out: Path) -> int:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows(zip(*(batch.column(c).to_pylist() for c in COLUMNS), strict=True))
            yield pa.RecordBatch.from_arrays([pa.array([len(batch)]), pa.array([text.getvalue()])], names=["n", "text"])

    draft = out.with_name(f".{out.name}.part")
    n_lines = 0
    try:
        with _open_draft(draft, out) as f:
            f.write(",".join(COLUMNS) + "\n")
            for piece in rows.mapInArrow(run, "n BIGINT, text STRING").toLocalIterator(prefetchPartitions=True):
                f.write(piece["text"])
                n_lines += piece["n"]
        os.replace(draft, out)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return n_lines


def _open_draft(draft: Path, out: Path) -> TextIO:
    """The file to write; ConfigError, before any work, where it cannot become ``out``."""
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        return draft.open("w", encoding="utf-8", newline="")
    except OSError as exc:
        raise ConfigError(f"--out {out}: cannot be written: {exc.strerror or exc}") from exc
