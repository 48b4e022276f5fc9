"""Maps of sampled images: packed for the browser, with their frames and the places of their clusters' numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

#: Steps of a packed coordinate: a hundredth of a pixel on a screen of 650.
_STEPS = 65_535
#: Numbers on a map that can still be told apart; a map of more clusters has none.
MAX_LABELS = 40
#: The shares of points that are left beyond the inside of a map at either end of an axis.
_TAIL = 0.01
#: In spans of the inside: how far beyond it a point still belongs to the picture, by which a normal distribution is
#: hardly ever cut, and where the frame ends if one does not.
_NEAR, _BESIDE = 0.5, 0.15
#: Room beside the outermost points, in spans of the frame.
_MARGIN = 0.04


@dataclass(frozen=True)
class Frame:
    """What of a map is shown: float64[dims] ``low`` to ``high``. It is ``cut`` where points lie outside."""

    low: np.ndarray
    high: np.ndarray
    cut: bool

    @property
    def span(self) -> np.ndarray:
        """float64[dims]; 1 along an axis of one value."""
        return np.where(self.high > self.low, self.high - self.low, 1.0)

    def outside(self, xyz: np.ndarray) -> np.ndarray:
        """bool[n]: the points that are not shown; False for NaN."""
        return np.asarray(((xyz < self.low) | (xyz > self.high)).any(axis=1))


def frame_of(xyz: np.ndarray) -> Frame:
    """The frame of float[n, dims] points: all of them, but for a few that lie so far off that they squeeze the rest.

    Far off is more than half the span of an axis' inner 98 % beyond these; where a point is, all are left out that lie
    more than 15 % of that span beyond. The frame is around the others, with some room. Rows with a NaN do not count.
    """
    kept = xyz[np.isfinite(xyz).all(axis=1)].astype(np.float64)
    if not len(kept):
        return Frame(np.zeros(xyz.shape[1]), np.zeros(xyz.shape[1]), cut=False)
    first, last = kept.min(axis=0), kept.max(axis=0)
    low, high = np.quantile(kept, [_TAIL, 1 - _TAIL], axis=0)
    inside = high - low
    # Where nearly all points have one value there is no inside to look at.
    far_low, far_high = ((inside > 0) & (gap > _NEAR * inside) for gap in (low - first, last - high))
    lowest = np.where(far_low, low - _BESIDE * inside, -np.inf)
    highest = np.where(far_high, high + _BESIDE * inside, np.inf)
    kept = kept[((kept >= lowest) & (kept <= highest)).all(axis=1)]
    first, last = kept.min(axis=0), kept.max(axis=0)
    room = _MARGIN * (last - first)
    cut = bool(far_low.any() or far_high.any())
    return Frame(np.maximum(first - room, lowest), np.minimum(last + room, highest), cut)


@dataclass(frozen=True)
class Map:
    """One projection of the sampled images.

    xyz is float32[n, dims] in the order of the sample, NaN for images that the projection lacks; clusters is int[n] of
    the model that colours it, -1 for noise; labels are `label_positions`, or in three dimensions `label_medians`, none
    where no model does; palette is the colours of that model's clusters.
    """

    features: str
    method: str
    name: str
    xyz: np.ndarray
    clusters: np.ndarray
    labels: dict[int, tuple[float, ...]] = field(default_factory=dict)
    palette: Mapping[int, str] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        return int(self.xyz.shape[1])

    @cached_property
    def frame(self) -> Frame:
        return frame_of(self.xyz)


def arrange(rows: pd.DataFrame, image_ids: np.ndarray, dims: int) -> np.ndarray:
    """float32[n, dims] of ``image_id, x, y, z`` rows in the order of the ids; NaN for ids without a row."""
    found = rows.set_index("image_id").reindex(image_ids)
    return found[["x", "y", "z"][:dims]].to_numpy(np.float32)


def labels_in_order(rows: pd.DataFrame, image_ids: np.ndarray) -> np.ndarray:
    """int32[n] clusters of ``image_id, cluster`` rows in the order of the ids; -1 for ids without a row."""
    return rows.set_index("image_id")["cluster"].reindex(image_ids).fillna(-1).to_numpy(np.int32)


def pack(xyz: np.ndarray) -> dict[str, Any]:
    """Coordinates as steps between their extremes, base64, one column after the other; 2 bytes each.

    Where the frame is a small part of what lies between them, its points would stand in rows: then it is 4 bytes.
    Rows with a NaN are left out: ``at`` has the others' positions where any is missing, else it is null.
    """
    known = np.isfinite(xyz).all(axis=1)
    kept = xyz[known].astype(np.float64)
    low, high = (kept.min(axis=0), kept.max(axis=0)) if len(kept) else (np.zeros(xyz.shape[1]),) * 2
    span = np.where(high > low, high - low, 1.0)
    fine = bool((span > 8 * frame_of(kept).span).any())
    n_steps = 2**32 - 1 if fine else _STEPS
    steps = np.rint((kept - low) / span * n_steps).astype("<u4" if fine else "<u2")
    return {
        "n": len(kept),
        "low": low.tolist(),
        "span": span.tolist(),
        "steps": n_steps,
        "columns": [_base64(column) for column in steps.T],
        "at": None if known.all() else pack_positions(np.flatnonzero(known)),
    }


def pack_clusters(clusters: np.ndarray) -> str:
    """int16 little-endian as base64; numbers above 32,767 do not occur (cluster.max_clusters is below)."""
    return _base64(clusters.astype("<i2"))


def pack_positions(at: np.ndarray) -> str:
    """Positions in the sample as uint32 little-endian, base64."""
    return _base64(at.astype("<u4"))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def label_medians(xyz: np.ndarray, clusters: np.ndarray) -> dict[int, tuple[float, ...]]:
    """The medians of each cluster's points that are in the frame; none at all for more than MAX_LABELS clusters."""
    known = np.isfinite(xyz).all(axis=1) & (clusters >= 0)
    known[known] = ~frame_of(xyz).outside(xyz[known])
    ids = np.unique(clusters[known])
    if len(ids) > MAX_LABELS:
        return {}
    return {int(c): tuple(np.median(xyz[known & (clusters == c)].astype(np.float64), axis=0).tolist()) for c in ids}


def label_positions(xy: np.ndarray, clusters: np.ndarray, gap: float = 0.045) -> dict[int, tuple[float, ...]]:
    """Where each cluster's number stands: at the medians of its points, moved aside where two would overlap.

    ``gap`` is the least distance between two numbers as a share of the map's frame. Clusters are placed by falling
    size, so the largest stand where they belong. None at all for more than MAX_LABELS clusters.
    """
    frame = frame_of(xy)
    known = np.isfinite(xy).all(axis=1) & (clusters >= 0)
    clusters = clusters[known]
    ids, sizes = np.unique(clusters, return_counts=True)
    if not 0 < len(ids) <= MAX_LABELS:
        return {}
    unit = (xy[known].astype(np.float64) - frame.low) / frame.span
    placed: dict[int, np.ndarray] = {}
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    around = np.column_stack([np.cos(turns), np.sin(turns)])
    for cluster in ids[np.lexsort((ids, -sizes))]:
        middle = np.median(unit[clusters == cluster], axis=0)
        tries = np.vstack([middle[None], *(middle + ring * gap * around for ring in (1, 1.7, 2.5, 3.5))])
        taken = np.array(list(placed.values())).reshape(-1, 2)
        free = [spot for spot in tries if not len(taken) or np.linalg.norm(taken - spot, axis=1).min() >= gap]
        placed[int(cluster)] = free[0] if free else middle
    return {c: (float(x), float(y)) for c, (x, y) in ((c, frame.low + p * frame.span) for c, p in placed.items())}
