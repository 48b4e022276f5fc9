"""Places of appended images on the maps of the images that the study was fitted on, whose places stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from motorpool.errors import LakeError
from motorpool.kernels.maps.landmarks import Kernel, Placed, Rows
from motorpool.maps.first_pass import draw_again
from motorpool.maps.placing import Axes, place_all
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.growing.appends import Append, appends_of
from motorpool.pipeline.growing.catch_up import lacking
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import gathered
from motorpool.pipeline.stages.project import method_of, places_of
from motorpool.spark import blocks

#: Values of a row of ``projections``.
_COLUMNS = 6
#: Rows of ``projection_methods`` by the map's name.
_Maps = dict[str, Mapping[str, Any]]


def add_places(ctx: Context) -> None:
    """Give appended images their places on every map of the lake, feature set by feature set.

    By the axes that the lake keeps, or among the sample that was laid out, where all other fitted images went too
    (`place_all`). The sample is drawn again, in one pass over the vectors of the fitted images for all appends. A map
    that is made anew takes the appended places of its feature set out of the table: they come again from here.
    """
    lake = ctx.lake
    if not appends_of(lake):
        return
    maps: dict[str, _Maps] = defaultdict(dict)
    for row in sorted(lake.rows("projection_methods"), key=lambda r: str(r["method"])):
        if row["axes"] is not None or _kernel(row) is not None:
            maps[row["features"]][row["method"]] = row
    waiting: dict[str, list[Append]] = defaultdict(list)
    for append, missing in lacking(lake, "projections", "features", sorted(maps)):
        for features in missing:
            waiting[features].append(append)
    for features, appends in waiting.items():
        with explained(), timed(f"append: places on {', '.join(maps[features])} of {features}"):
            _add(ctx, features, maps[features], appends)


def _add(ctx: Context, features: str, maps: _Maps, appends: Sequence[Append]) -> None:
    lake = ctx.lake
    axes = {name: Axes.from_rows(row["axes"]) for name, row in maps.items() if row["axes"] is not None}
    laid_out = {name: row for name, row in maps.items() if name not in axes}
    sample, layouts = Rows(np.empty(0, np.int64), np.empty((0, 0), np.float32)), dict[str, Placed]()
    if laid_out:
        sample, layouts = _layouts(ctx, features, laid_out)
    for append in appends:
        vectors = append.among(lake.read("features", features=features))
        with blocks.kept(blocks.gather(vectors)) as block_df:
            places = place_all(features, block_df, axes, sample, layouts)
            values = len(append.images) * _COLUMNS * len(maps)
            lake.replace_images("projections", places, append.images, {"features": [features]}, values)


def _layouts(ctx: Context, features: str, maps: _Maps) -> tuple[Rows, dict[str, Placed]]:
    """The sample that maps were laid out from, with its places as the lake has them."""
    # A run leaves maps of one config in the lake, and so of one sample.
    params = next(iter(maps.values()))["params"]
    with gathered(ctx, features) as block_df:
        sample = draw_again(block_df, int(params["sample"]), int(params["seed"]))
    layouts = {}
    for name, places in places_of(ctx, features, list(maps), sample.ids):
        kernel = _kernel(maps[name])
        assert kernel is not None
        layouts[name] = Placed(places, kernel)
    if any(n != len(sample) for name, row in maps.items() for n in (row["n_fitted"], len(layouts[name].places))):
        raise LakeError(
            f"{features}: the maps in the lake {ctx.lake} were laid out from other images than it has: take the "
            "section `projections` out of the config, run `motorpool project`, put it back and run it again"
        )
    return sample, layouts


def _kernel(row: Mapping[str, Any]) -> Kernel | None:
    """What pulls images towards others on a map that was laid out; None where the method is not known."""
    method = method_of(row["method"])
    return None if method is None or method.lay_out is None else method.kernel
