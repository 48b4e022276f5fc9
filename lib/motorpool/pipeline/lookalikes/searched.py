"""What stages that compare all images of a feature set share: the check that it is there, and what says it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from motorpool.errors import LakeError
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.appends import appends_of
from motorpool.pipeline.study import forget_all, log_not_asked, outdate

log = logging.getLogger(__name__)


def check_sets(ctx: Context, names: Sequence[str]) -> None:
    """LakeError where the lake lacks one of some feature sets."""
    ctx.lake.check("feature_sets")
    there = {row["features"] for row in ctx.lake.rows("feature_sets", ["features"])}
    absent = [name for name in names if name not in there]
    if absent:
        raise LakeError(f"feature set {absent[0]!r} is not in the lake {ctx.lake}: run `motorpool features` first")


def forget_searches(ctx: Context, stage: str, tables: Sequence[str]) -> None:
    """Take all searches out of a stage's tables, as the config has no section of its name."""
    stored = _stored(ctx, tables)
    log_not_asked(stage, f"the config has no section `{stage}`", stored)
    if stored:
        forget_all(ctx, tables, {"features": stored})


def searches_to_make(
    ctx: Context, stage: str, tables: Sequence[str], asked: Mapping[str, dict[str, str]]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The feature sets that are still to be searched in, with what their searches depend on: ``asked``, by feature set.

    The last of the ``tables`` says what is done: whoever makes a search writes its row there last. When all are made,
    those that nobody asks for go out of the tables.
    """
    stored = _stored(ctx, tables)
    pending = {name: params for name, params in asked.items() if stored.get(name) != params}
    outdated = pending.keys() & stored.keys()
    if outdated:
        # Were this run killed, their rows must not stand for what other values give, or for none.
        outdate(ctx, tables[-1], {"features": outdated})
    yield from pending.items()
    gone = stored.keys() - asked.keys()
    if gone:
        forget_all(ctx, tables, {"features": gone})
    if not pending:
        log.info("%s: all searches of the study are in the lake, nothing to do", stage)


def with_appended(ctx: Context, asked: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What searches depend on, with the images that were appended: once more have come, they are made again."""
    appends = appends_of(ctx.lake)
    return {n: p | {"images_below": str(appends[-1].images.stop)} for n, p in asked.items()} if appends else asked


def _stored(ctx: Context, tables: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the searches in the lake depend on, by feature set."""
    return {row["features"]: row["params"] for row in ctx.lake.rows(tables[-1], ["features", "params"])}
