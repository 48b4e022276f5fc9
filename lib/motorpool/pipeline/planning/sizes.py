"""Whether a study is small, told before Spark starts: its session is then one for small work (`build_session`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from motorpool.config.run import CaseConfig, LakeConfig
from motorpool.pipeline.planning.held import held_in
from motorpool.pipeline.planning.problems import Problems

if TYPE_CHECKING:
    from motorpool.pipeline.planning.widths import Shape

#: Images of a small study at most, and numbers of its descriptors: 256 MiB of float32.
SMALL_IMAGES, SMALL_VALUES = 2**16, 2**26


def is_small(lake: LakeConfig, case: CaseConfig | None = None) -> bool:
    """Whether all that ``lake`` holds, and ``case`` brings, is little; False where only Spark can tell.

    Reads the headers of arrays, and a list of paths that is short. What is wrong with a case is for others to say.
    """
    held = held_in(lake)
    if held is None or not _are_few(held.descriptors):
        return False
    if case is None:
        return True
    # Here, since every command asks about its lake, and few of them read a case.
    from motorpool.pipeline.planning.opening import open_case

    opened = open_case(case, Problems())
    if opened is None or len(opened.descriptors) < len(opened.names):
        return False
    brought = {name: (opened.n_rows, found.shape[1]) for name, found in opened.descriptors.items()}
    return _are_few({**held.descriptors, **brought})


def _are_few(shapes: Mapping[str, Shape]) -> bool:
    rows = max((n for n, _ in shapes.values()), default=0)
    return rows <= SMALL_IMAGES and sum(n * width for n, width in shapes.values()) <= SMALL_VALUES
