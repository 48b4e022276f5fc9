"""What stages that compare all images of a feature set share: the check that it is there, and what says it is done."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from motorpool.errors import LakeError
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.appends import appends_of
from motorpool.pipeline.study import forget, outdate


def check_sets(ctx: Context, names: Sequence[str]) -> None:
    """LakeError where the lake lacks one of some feature sets."""
    ctx.lake.check("feature_sets")
    there = {row["features"] for row in ctx.lake.rows("feature_sets", ["features"])}
    absent = [name for name in names if name not in there]
    if absent:
        raise LakeError(f"feature set {absent[0]!r} is not in the lake {ctx.lake}: run `motorpool features` first")


def stored_params(ctx: Context, table: str) -> dict[str, dict[str, str]]:
    """What the searches in a table of searches depend on, by feature set."""
    return {row["features"]: row["params"] for row in ctx.lake.rows(table, ["features", "params"])}


def with_appended(ctx: Context, asked: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What searches depend on, with the images that were appended: once more have come, they are made again."""
    appends = appends_of(ctx.lake)
    return {n: p | {"images_below": str(appends[-1].images.stop)} for n, p in asked.items()} if appends else asked


def forget_sets(ctx: Context, tables: Sequence[str], gone: Collection[str]) -> None:
    """Take feature sets out of some tables, of which the last says what is done."""
    if gone:
        outdate(ctx, tables[-1], {"features": gone})
        for table in tables:
            forget(ctx, table, {"features": gone})
