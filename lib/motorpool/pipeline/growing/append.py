"""Append: new images join the lake, with labels by its models and attributes; nothing is fitted again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from motorpool.config.run import CaseConfig, Config
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.appends import appends_of
from motorpool.pipeline.growing.catch_up import add_attributes, add_features, add_labels, finish, labelling_models
from motorpool.pipeline.growing.drift import ALL, add_drift
from motorpool.pipeline.growing.incoming import Came, bring_in
from motorpool.pipeline.growing.maps import add_places
from motorpool.pipeline.growing.outliers import add_outliers, unscoring
from motorpool.pipeline.stages.quality import photos_of, run_quality

log = logging.getLogger(__name__)

#: What appended images get, in this order.
_CAUGHT_UP = {
    "features": add_features,
    "labels": add_labels,
    "outliers": add_outliers,
    "places": add_places,
    "attributes": add_attributes,
    "drift": add_drift,
    "finish": finish,
}


@dataclass(frozen=True)
class Appended:
    """What an append did.

    ``n_models`` label the new images; ``unlabelling`` counts those that do not, by algorithm. ``unscoring`` are the
    outlier methods of the lake that do not score them. ``due`` are the rows of ``drift`` over all appended images that
    ask for a new fit.
    """

    came: Came
    n_models: int
    unlabelling: Mapping[str, int]
    unscoring: Sequence[str]
    due: Sequence[Mapping[str, Any]]


def stages_of(config: Config) -> list[str]:
    """The stages of an append by which its progress is told."""
    return ["images", *_CAUGHT_UP, *(["quality"] if config.photo_quality is not None else [])]


def run_append(ctx: Context, case: CaseConfig) -> Appended:
    """Add the images of ``case`` that the lake lacks, and give them all that its stored numbers give.

    They get vectors of every feature set, labels by every model that labels new images (`Algorithm.relabel`), scores
    by the outlier methods that can score them, places on every map, and a value of every attribute. Models, their
    scores and the leaderboard stay as they are, and so do all rows of other images. ``drift`` says how far the new
    images differ from those that models were fitted on. Their photos are measured where the config has a section
    ``photo_quality``. The row in ``appends`` is finished before that: an append that was stopped goes on, and one that
    is done changes nothing.

    Raises what `bring_in` raises, before anything is written; LakeError where another process appends.
    """
    if ctx.config.photo_quality is not None:
        # A mistake about photos is told before anything is written.
        photos_of(ctx.config)
    with ctx.lake.growing():
        with ctx.pace.stage("images"):
            came = bring_in(ctx, case)
        catch_up(ctx, ctx.pace.stage)
        if ctx.config.photo_quality is not None:
            with ctx.pace.stage("quality"):
                run_quality(ctx)
    models, others = labelling_models(ctx.lake)
    due = [r for r in ctx.lake.rows("drift", append_id=[ALL]) if r["refit_due"] and r["model_id"] in models]
    return Appended(
        came, len(models), Counter(others), unscoring(ctx.lake), sorted(due, key=lambda r: str(r["model_id"]))
    )


def catch_up(ctx: Context, within: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()) -> None:
    """Give appended images what the lake holds of the others and they lack; nothing where nothing was appended.

    Each step runs in the context that ``within`` gives for its name.
    """
    if not appends_of(ctx.lake):
        return
    for name, step in _CAUGHT_UP.items():
        with within(name):
            step(ctx)
