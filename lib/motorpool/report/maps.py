"""Maps of sampled images: packed for the browser, and as pictures, one of which turns."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: Steps of a packed coordinate: a hundredth of a pixel on a screen of 650.
_STEPS = 65_535


@dataclass(frozen=True)
class Map:
    """One projection of the sampled images.

    xyz is float32[n, dims] in the order of the sample, NaN for images that the projection lacks; clusters is int[n] of
    the model that colours it, -1 for noise.
    """

    features: str
    method: str
    name: str
    xyz: np.ndarray
    clusters: np.ndarray

    @property
    def dims(self) -> int:
        return int(self.xyz.shape[1])


def arrange(rows: pd.DataFrame, image_ids: np.ndarray, dims: int) -> np.ndarray:
    """float32[n, dims] of ``image_id, x, y, z`` rows in the order of the ids; NaN for ids without a row."""
    found = rows.set_index("image_id").reindex(image_ids)
    return found[["x", "y", "z"][:dims]].to_numpy(np.float32)


def labels_in_order(rows: pd.DataFrame, image_ids: np.ndarray) -> np.ndarray:
    """int32[n] clusters of ``image_id, cluster`` rows in the order of the ids; -1 for ids without a row."""
    return rows.set_index("image_id")["cluster"].reindex(image_ids).fillna(-1).to_numpy(np.int32)


def pack(xyz: np.ndarray) -> dict[str, Any]:
    """Coordinates as uint16 steps between their extremes, base64, one column after the other; 2 bytes each.

    Rows with a NaN are left out: ``at`` has the others' positions where any is missing, else it is null.
    """
    known = np.isfinite(xyz).all(axis=1)
    kept = xyz[known].astype(np.float64)
    low, high = (kept.min(axis=0), kept.max(axis=0)) if len(kept) else (np.zeros(xyz.shape[1]),) * 2
    span = np.where(high > low, high - low, 1.0)
    steps = np.rint((kept - low) / span * _STEPS).astype("<u2")
    return {
        "n": len(kept),
        "low": low.tolist(),
        "span": span.tolist(),
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


def label_positions(xy: np.ndarray, clusters: np.ndarray, gap: float = 0.045) -> dict[int, tuple[float, float]]:
    """Where each cluster's number stands: at the medians of its points, moved aside where two would overlap.

    ``gap`` is the least distance between two numbers as a share of the map's extent. Clusters are placed by falling
    size, so the largest stand where they belong.
    """
    known = np.isfinite(xy).all(axis=1) & (clusters >= 0)
    if not known.any():
        return {}
    xy, clusters = xy[known].astype(np.float64), clusters[known]
    low = xy.min(axis=0)
    span = np.where(np.ptp(xy, axis=0) > 0, np.ptp(xy, axis=0), 1.0)
    unit = (xy - low) / span
    ids, sizes = np.unique(clusters, return_counts=True)
    placed: dict[int, np.ndarray] = {}
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    around = np.column_stack([np.cos(turns), np.sin(turns)])
    for cluster in ids[np.lexsort((ids, -sizes))]:
        middle = np.median(unit[clusters == cluster], axis=0)
        tries = np.vstack([middle[None], *(middle + ring * gap * around for ring in (1, 1.7, 2.5, 3.5))])
        taken = np.array(list(placed.values())).reshape(-1, 2)
        free = [spot for spot in tries if not len(taken) or np.linalg.norm(taken - spot, axis=1).min() >= gap]
        placed[int(cluster)] = free[0] if free else middle
    return {c: (float(x), float(y)) for c, (x, y) in ((c, low + p * span) for c, p in placed.items())}


def draw_turning(shown: Map, out: Path, *, frames: int = 36, points: int = 4000, pixels: int = 480) -> None:
    """A GIF of the 3-D map turning once; at most ``points`` points, ``frames`` pictures, 64 colours.

    Some 2 MB. Memory: the frames, pixels² bytes each.
    """
    from PIL import Image

    from motorpool.report.figures import draw_3d

    pictures: list[Image.Image] = []
    for frame in range(frames):
        rgba = draw_3d(shown, azimuth=360 * frame / frames, points=points, pixels=pixels)
        rgb = Image.fromarray(rgba[..., :3])
        # One palette for all frames: with one each, colours flicker.
        first = pictures[0] if pictures else rgb.quantize(64)
        pictures.append(rgb.quantize(palette=first, dither=Image.Dither.NONE))
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=110, loop=0, optimize=False)
