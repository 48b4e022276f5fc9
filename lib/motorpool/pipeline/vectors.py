"""The vectors of a feature set as the passes of a stage read them: held by the driver where they are few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.compute as pc
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU
from motorpool.pipeline.context import Context
from motorpool.spark import blocks


@contextmanager
def gathered(ctx: Context, features: str) -> Iterator[DataFrame]:
    """Blocks of the rows that are fitted on, for as long as the `with` lasts.

    Up to HELD_VALUES numbers are held, so that passes over them take no Spark job; tasks alone load a GPU's libraries,
    so with one all are gathered by tasks. More are persisted by the executors.
    """
    if is_few(ctx, features):
        vectors = ctx.lake.fetch("features", ["image_id", "vector"], features=[features])
        first = ctx.lake.first_appended()
        if first is not None:
            vectors = vectors.filter(pc.less(vectors.column("image_id"), first))
        yield blocks.gather_here(ctx.spark, vectors)
        return
    with blocks.kept(blocks.gather(ctx.lake.fitted(ctx.lake.read("features", features=features)))) as block_df:
        yield block_df


def is_few(ctx: Context, features: str) -> bool:
    """Whether the vectors of a feature set, those of appended images too, are few enough to be held."""
    if ctx.backend is not CPU:
        return False
    rows = ctx.lake.rows("feature_sets", ["n_features"], features=[features])
    n = ctx.lake.count("features", features=[features])
    return bool(rows) and int(rows[0]["n_features"]) * n <= blocks.HELD_VALUES
