"""Export: one model's labels as a CSV file, one line per image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pyspark.sql import Row

from motorpool.config.run import CONSENSUS
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.lake.reading import LakeReader
from motorpool.pipeline.output.files import whole_file, write_answer

COLUMNS = ("path", "cluster", "outlier", "title", "distance", "strength", "vehicle_cluster", "vehicle_agreement")


def best_model(lake: Lake, fits: Callable[[Row], bool] = lambda row: True) -> Row:
    """The leaderboard's first row of those that ``fits``; LakeError when no such model can be ranked."""
    board = lake.leaderboard().select("rank", "model_id", "features", "algorithm", "params").orderBy("rank").collect()
    row = next((row for row in board if fits(row)), None)
    if row is None:
        raise _unranked(lake)
    return row


def run_export(lake: LakeReader, out: Path, model_id: str | None = None) -> tuple[str, int]:
    """Write COLUMNS in the images' order; returns the model's id and the number of lines.

    The best model of the leaderboard unless one is named. ``outlier`` is 1 or 0 by the consensus of the outlier
    methods; where the lake has none, 1 for the model's noise and empty, not known, for all others. ``title`` is the
    cluster's, ``distance`` and ``strength`` are those of ``labels``; ``vehicle_cluster`` and ``vehicle_agreement`` are
    what the photos of the vehicle say together, for models of the table ``vehicles``. What is not known is empty.

    The file appears whole or not at all. Memory: a batch of lines; with Spark one partition of the labels as text.
    """
    there = set(lake.names())
    for table, stage in (("models", "cluster"), ("labels", "cluster")):
        if table not in there:
            raise LakeError(f"table {table!r} is not in the lake {lake}: run `motorpool {stage}` first")
    chosen = model_id or best_of(lake)
    asked = {"model_id": chosen}
    if not _one(lake, "SELECT count(*) FROM labels WHERE model_id = :model_id", asked):
        raise ConfigError(f"--model {chosen}: the lake {lake} holds no labels of such a model")
    agreed = f"SELECT count(*) FROM outliers WHERE features = '{CONSENSUS}'"  # noqa: S608 (a constant)
    with whole_file(out) as f:
        answer = lake.sql(_lines(there, "outliers" in there and _one(lake, agreed) > 0), asked)
        return chosen, write_answer(answer, f)


def _lines(there: Collection[str], agreed: bool) -> str:
    """The query for all lines, over the tables that are there."""
    outlier, joins = "CASE WHEN l.cluster < 0 THEN '1' ELSE '' END", []
    if agreed:
        outlier = "CASE WHEN o.is_outlier THEN '1' WHEN NOT o.is_outlier THEN '0' END"
        joins.append(f"LEFT JOIN outliers AS o ON o.image_id = l.image_id AND o.features = '{CONSENSUS}'")
    title, vote = "CAST(NULL AS STRING)", ("CAST(NULL AS INT)", "CAST(NULL AS DOUBLE)")
    if "clusters" in there:
        title = "c.title"
        joins.append("LEFT JOIN clusters AS c ON c.model_id = l.model_id AND c.cluster = l.cluster")
    if "vehicles" in there:
        vote = ("v.cluster", "v.agreement")
        joins.append("LEFT JOIN vehicles AS v ON v.model_id = l.model_id AND v.vehicle_id = i.vehicle_id")
    # S608: this module's own text.
    return f"""
        SELECT i.path, l.cluster, {outlier} AS outlier, {title} AS title, l.distance, l.strength,
               {vote[0]} AS vehicle_cluster, {vote[1]} AS vehicle_agreement
        FROM labels AS l INNER JOIN images AS i ON i.image_id = l.image_id {" ".join(joins)}
        WHERE l.model_id = :model_id
        ORDER BY l.image_id
    """  # noqa: S608


def best_of(lake: LakeReader) -> str:
    """The model_id of the leaderboard's first row; LakeError where no model can be ranked."""
    best = next(lake.sql("SELECT model_id FROM leaderboard WHERE rank = 1").rows(), None)
    if best is None:
        raise _unranked(lake)
    return str(best[0])


def _one(lake: LakeReader, query: str, values: Mapping[str, object] | None = None) -> int:
    (row,) = lake.sql(query, values).rows()
    return int(row[0])


def _unranked(lake: Lake | LakeReader) -> LakeError:
    return LakeError(
        f"no model in the lake {lake} can be ranked; see `motorpool sql --lake {lake} "  # noqa: S608 (shown)
        '"SELECT features, params, status, reason FROM models"`'
    )
