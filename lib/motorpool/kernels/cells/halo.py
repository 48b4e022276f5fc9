"""Voronoi cells and their halos: the rows of other cells that are so near that a cell is clustered together with them.

A row of the cell itself then has all of its neighbours in the same task.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from motorpool.kernels.distances import distance_factors, squared_distances
from motorpool.kernels.nearest import NearestPoint
from motorpool.kernels.pairs.geometry import Metric

#: Rows compared with all centres at a time: a few arrays of 2 MiB for 256 cells.
_ROWS = 1024
_UNIT = 2.0**-53


def positions(x: np.ndarray, metric: Metric) -> np.ndarray:
    """float64[n, d] points of float32[n, d] vectors whose Euclidean distances stand for the metric.

    For cosine these are the rows at length one, |x - y|^2 = 2 (1 - cos). A zero vector stays at the origin, where it
    is nearer to all others than the sqrt(2) that stands for its cosine of 0: no row within a radius is overlooked.
    """
    points = x.astype(np.float64)
    if metric == "cosine":
        length = np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
        np.divide(points, length, out=points, where=length > 0)
    return points


def halo_radius(eps: float, metric: Metric, width: int) -> float:
    """The Euclidean distance of `positions` that no two rows within ``eps`` of each other exceed.

    It is eps, or sqrt(2 eps) for cosine, and what the rounding of `geometry.exact_gap` over ``width`` terms may add.
    """
    rounding = (width + 32) * _UNIT
    return float(np.sqrt(2.0 * (eps + 4.0 * rounding))) if metric == "cosine" else eps * (1.0 + rounding)


class VoronoiCells:
    """Rows by their nearest of float64[k, d] centres, and the cells that need a row in their halo.

    A row x of cell i lies on i's side of the plane halfway between c_i and c_j. A row y of cell j lies at
    (|y - c_i|^2 - |y - c_j|^2) / (2 |c_i - c_j|) behind that plane, so |x - y| is at least this, and cell i
    needs y only where it is at most eps. More rows may be sent than are needed, never fewer.
    Memory: 8 k (3 d + k) bytes.
    """

    def __init__(self, centres: np.ndarray, metric: Metric) -> None:
        self.centres, self.metric = centres, metric
        self._nearest = NearestPoint(centres)
        points = centres - self._nearest.shift
        self._factors = distance_factors(points)
        self._twice_between = 2.0 * cdist(points, points)
        self._farthest = float(np.sqrt(np.square(points).sum(axis=1).max()))

    def __len__(self) -> int:
        return len(self.centres)

    def own(self, x: np.ndarray) -> np.ndarray:
        """int64[n]: the cell of each of float32[n, d] vectors; ties go to the lower number."""
        return self._nearest.find(positions(x, self.metric))[0]

    def first_needed(self, x: np.ndarray, own: np.ndarray, eps: tuple[float, ...]) -> np.ndarray:
        """int16[n, k]: the position of the smallest of the ascending ``eps`` at which a cell needs a row.

        0 in the row's own cell, int[n], and len(eps) where no eps takes the row into the cell. Cost: n k d products.
        """
        radii = [halo_radius(e, self.metric, x.shape[1]) for e in eps]
        needed = np.empty((len(x), len(self)), np.int16)
        for start in range(0, len(x), _ROWS):
            part = slice(start, start + _ROWS)
            needed[part] = self._first_needed(x[part], own[part], radii)
        return needed

    def _first_needed(self, x: np.ndarray, own: np.ndarray, radii: list[float]) -> np.ndarray:
        points = positions(x, self.metric) - self._nearest.shift
        squared = squared_distances(points, self._factors)
        behind = squared - squared[np.arange(len(x)), own][:, None]
        between = self._twice_between[own]
        length = np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
        needed = np.full(behind.shape, len(radii), np.int16)
        for radius in radii:
            # Each squared distance of d + 2 terms is off by at most d + 8 units of (|y| + |c|)^2 (Higham 2002,
            # eq. 3.5). Two are compared here, and two chose the cell of a row x, no farther out than |y| + radius.
            slack = 8.0 * (x.shape[1] + 32) * _UNIT * (length + radius + self._farthest) ** 2
            needed -= behind <= between * radius + slack
        return needed
