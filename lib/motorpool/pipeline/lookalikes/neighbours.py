"""Neighbours: the nearest images of every image, exactly, in the table ``neighbours``."""

from __future__ import annotations

import logging
import time

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from motorpool.config.duplicates import NeighboursConfig
from motorpool.config.run import Config
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange
from motorpool.outliers.local import over_neighbours
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.lookalikes.searched import check_sets, forget_searches, searches_to_make, with_appended
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks

log = logging.getLogger(__name__)

#: The tables of this stage: what says that the other is complete comes last.
_TABLES = ("neighbours", "neighbour_searches")
_COLUMNS = "image_id BIGINT, rank INT, neighbour_id BIGINT, distance DOUBLE"


def run_neighbours(ctx: Context) -> None:
    """Find the nearest images of every image, exactly, in every feature set asked for.

    Distances are those of `motorpool similar`, ties go to the lower number. The row in ``neighbour_searches`` is
    written last, so a search without it is made again, and so is one whose ``params`` are others. What the config no
    longer asks for goes out of both tables. Raises LakeError where the lake lacks a feature set.
    """
    config = ctx.config.neighbours
    if config is None:
        forget_searches(ctx, "neighbours", _TABLES)
        return
    asked = with_appended(ctx, asked_neighbours(ctx.config))
    check_sets(ctx, list(asked))
    for name, params in searches_to_make(ctx, "neighbours", _TABLES, asked):
        with explained(), timed(f"neighbours: the nearest {config.k} of every image of {name}"):
            _search(ctx, config, name, params)


def asked_neighbours(config: Config) -> dict[str, dict[str, str]]:
    """What each search depends on that a config asks for, by its feature set."""
    asked = config.neighbours
    if asked is None:
        return {}
    names = asked.features if asked.features is not None else [fs.name for fs in config.feature_sets]
    return {name: {"k": str(asked.k), "metric": asked.metric} for name in names}


def _search(ctx: Context, config: NeighboursConfig, name: str, params: dict[str, str]) -> None:
    """Write one search: its rows, and then what says that they are there."""
    began = time.monotonic()

    def say(text: str) -> None:
        ctx.doing = text
        log.debug("neighbours: %s: %s", name, text)

    try:
        with blocks.kept(blocks.gather(ctx.lake.read("features", features=name))) as block_df:
            arranged = arrange(block_df, config.metric, ctx.config.seed)
            try:
                state = search(arranged, Wanted(k=config.k), say, ctx.backend)
                try:
                    rows = over_neighbours(arranged, state, config.k, _pack, _COLUMNS)
                    rows = rows.withColumn("features", F.lit(name))
                    values = ctx.values(len(rows.columns) * config.k)
                    ctx.lake.replace("neighbours", rows, {"features": [name]}, values)
                finally:
                    state.unpersist()
            finally:
                arranged.release()
    finally:
        ctx.doing = ""
    row = {"features": name, "params": params, "n_images": arranged.n, "seconds": time.monotonic() - began}
    ctx.lake.replace_rows("neighbour_searches", [row], {"features": [name]})


def _pack(ids: np.ndarray, distances: np.ndarray, others: np.ndarray) -> pa.RecordBatch:
    """Rows of _COLUMNS from int64[n] ids, float64[n, k] distances and int64[n, k] neighbours, -1 for none."""
    at, place = np.nonzero(others >= 0)
    columns = [ids[at], (place + 1).astype(np.int32), others[at, place], distances[at, place]]
    names = [column.split()[0] for column in _COLUMNS.split(", ")]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], names=names)
