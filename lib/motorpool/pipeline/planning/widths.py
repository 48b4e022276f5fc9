"""How wide the vectors of a feature set are, told from the shapes of its descriptors before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motorpool.features.spec import PROJECTIONS, FeatureSet, Step
from motorpool.features.steps import check_components

#: Rows and columns.
Shape = tuple[int, int]


@dataclass(frozen=True)
class Width:
    """A number of columns; where the data decide (a share of variance) the most that there can be."""

    columns: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.columns:,}" if self.exact else f"up to {self.columns:,}"


def width_of(spec: FeatureSet, shapes: Mapping[str, Shape]) -> Width | None:
    """The width of a feature set, None where the shape of one of its descriptors is not known.

    CaseError where a PCA or SVD asks for more components than there are, as when it is fitted.
    """
    if any(name not in shapes for name in spec.descriptors):
        return None
    rows = min(shapes[name][0] for name in spec.descriptors)
    joined, exact = 0, True
    for part in spec.parts:
        where = f"feature set {spec.name}, {part.descriptor}"
        width = _through(part.steps, rows, Width(shapes[part.descriptor][1]), where)
        joined, exact = joined + width.columns, exact and width.exact
    return _through(spec.steps, rows, Width(joined, exact), f"feature set {spec.name}")


def _through(steps: Sequence[Step], rows: int, width: Width, where: str) -> Width:
    for step in steps:
        if step.kind not in PROJECTIONS:
            continue
        if step.kind in ("pca", "svd") and width.exact:
            check_components(step, rows, width.columns, where)
        limit = min(rows, width.columns)
        width = Width(min(step.param, limit)) if isinstance(step.param, int) else Width(limit, exact=False)
    return width
