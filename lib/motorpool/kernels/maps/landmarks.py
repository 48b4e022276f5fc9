"""Placing rows among those that a layout has placed already, whatever made the layout.

Two steps. The first finds the part of the map that a row belongs to: every landmark's *surroundings* are the landmarks
beside it on the map, and the row goes to the surroundings whose mean is nearest to it. In wide vectors most of a
distance is noise of the two rows alone, so the landmarks nearest to a row lie all over the map and tell little; a mean
of many has lost its noise, and what is near to it is near to those who live there. The second step keeps what is fine:
of these surroundings the landmarks nearest to the row pull it. With them at y_1 .. y_k, and distances d_1 .. d_k from
the row in the table, its place maximises their likelihood under the layout's own kernel on the map (see `Kernel`):

    minimise over y:  sum_j log(1 + a |y - y_j|^(2 b)) / d_j^2

starting from the nearest. This is the attraction of t-SNE and UMAP alone: among fixed landmarks the repulsion decides
little, and what remains is a robust mean, which settles in one group where a plain mean ends in the void between two.

On held-out rows the places were as trustworthy as those of openTSNE's own transform. They were a little more so than
those by the nearest of all landmarks where vectors hold little noise, and far more where they hold much. Nothing is
asked of a layout but places, so any engine may have made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool.kernels.maps.scaling import Scale, centre
from motorpool.kernels.nearest import NearestPoint

#: Landmarks of the surroundings of one, itself among them. Of noisy vectors 40 gave maps that are as good, and 10
#: somewhat worse ones. Of fewer than 400 landmarks so many were a large part of the map: then they are a 20th of all,
#: but not fewer than pull.
SURROUNDINGS = 20
#: Those of them that pull a row; fewer where there are fewer.
NEIGHBOURS = 5
#: Squared distances count as no smaller than this share of the farthest neighbour's.
_LEAST_SHARE = 1e-12
#: Differences of rows and landmarks at a time: 8 MiB of float64.
_DIFFERENCES = 2**20
#: Each lowers the objective. So many win 99 % of what there is to win; ten times as many raised no map's
#: trustworthiness by more than 0.001.
_STEPS = 30


#: Below this squared distance a pull no longer grows: where b < 1, it has no bound.
_LEAST_SQUARE = 1e-3


@dataclass(frozen=True)
class Kernel:
    """How near two places of a layout count: 1 / (1 + a d^(2 b)) at distance d, with 0 < b <= 1.

    t-SNE has a = b = 1 (van der Maaten & Hinton, 2008, eq. 4); UMAP fits both to its min_dist (McInnes, Healy &
    Melville, 2018, definition 11).
    """

    a: float = 1.0
    b: float = 1.0


@dataclass(frozen=True)
class Placed:
    """A layout of landmarks, whatever made it: places float32[m, dims], and its kernel."""

    places: np.ndarray
    kernel: Kernel = Kernel()


@dataclass(frozen=True)
class Rows:
    """Some rows of a table: ``ids`` int64[m], ascending, and ``x`` float32[m, d]."""

    ids: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Landmarks:
    """Rows of a table with their layouts on one map or several, at least one, by the map's name.

    Memory: the rows twice, and for each map 20 m d bytes (see `NearestPoint`). Searches run on one core.
    """

    def __init__(self, sample: Rows, layouts: Mapping[str, Placed]) -> None:
        self._ids = sample.ids
        self._layouts = layouts
        self._scale = Scale.of(sample.x, centre(sample.x))
        self._rows = self._scale.apply(sample.x)
        self._found: dict[str, Surroundings] = {}

    def place(self, ids: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        """float32[n, dims] on every map of int64[n] ids with float32[n, d] rows, whichever others come with them.

        A landmark, known by its id, is where it is. The others cost n m products of d numbers for each map, in float32
        with the result of float64, and memory for 1,024 m numbers.
        """
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        new = self._ids[at] != ids
        found = {name: layout.places[at] for name, layout in self._layouts.items()}
        if new.any():
            moved = self._scale.apply(x[new])
            with threadpool_limits(limits=1):
                for name, layout in self._layouts.items():
                    near, squared = self._surroundings(name).nearest(moved)
                    found[name][new] = pulled(layout.places[near], layout.kernel, _pulls(squared))
        return found

    def _surroundings(self, name: str) -> Surroundings:
        """Worked out for the first row that is no landmark: where all rows are laid out there is none."""
        if name not in self._found:
            self._found[name] = Surroundings(self._rows, self._layouts[name].places)
        return self._found[name]


class Surroundings:
    """What lies beside each of m landmarks on a map: ``near`` int64[m, k], the nearest first, itself among them.

    ``rows`` float32[m, d] are the landmarks', on a `Scale`; ``places`` float32[m, dims].
    """

    def __init__(self, rows: np.ndarray, places: np.ndarray) -> None:
        from scipy.spatial import cKDTree

        k = min(len(rows), SURROUNDINGS, max(NEIGHBOURS, len(rows) // 20))
        _, self.near = cKDTree(places).query(places, np.arange(1, k + 1))
        self._rows = rows
        means = np.zeros(rows.shape)
        for beside in self.near.T:
            means += rows[beside]
        self._nearest = NearestPoint(means / k)

    def nearest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[n, NEIGHBOURS] landmarks, fewer where k is, and float64[n, NEIGHBOURS] squared distances to them.

        Of the surroundings whose mean is nearest to a row of float32[n, d] those nearest to it, nearest first. Exact;
        ties go to the lower number, then to what is nearer on the map.
        """
        near = self.near[self._nearest.find(x)[0]]
        squared = np.empty(near.shape)
        step = max(1, _DIFFERENCES // (near.shape[1] * x.shape[1]))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            gaps = np.subtract(self._rows[near[part]], x[part, None], dtype=np.float64)
            squared[part] = np.einsum("nkd,nkd->nk", gaps, gaps)
        order = np.argsort(squared, axis=1, kind="stable")[:, :NEIGHBOURS]
        return np.take_along_axis(near, order, axis=1), np.take_along_axis(squared, order, axis=1)


def _pulls(squared: np.ndarray) -> np.ndarray:
    """The inverse of float64[n, k] squared distances, as shares of the farthest's: a row lies on its own copy."""
    farthest = squared[:, -1:]
    result: np.ndarray = np.divide(
        farthest, np.maximum(squared, _LEAST_SHARE * farthest), out=np.ones_like(squared), where=farthest > 0
    )
    return result


def pulled(neighbours: np.ndarray, kernel: Kernel, pulls: np.ndarray | None = None) -> np.ndarray:
    """The places float32[n, dims] where float[n, k, dims] places of neighbours, the nearest first, pull a row.

    ``pulls`` float[n, k], above 0, weighs their terms; None: all alike.

    A local minimum of the module's objective, up to the steps taken, by majorisation: the objective is concave in every
    squared distance, so the mean of the neighbours weighted by its slopes there never raises it.
    """
    a, b = kernel.a, kernel.b
    neighbours = neighbours.astype(np.float64)
    y = neighbours[:, 0]
    for _ in range(_STEPS):
        squared = np.maximum(np.square(neighbours - y[:, None]).sum(axis=2), _LEAST_SQUARE)
        weights = squared ** (b - 1) / (1 + a * squared**b)
        if pulls is not None:
            weights *= pulls
        y = np.einsum("nk,nkd->nd", weights, neighbours) / weights.sum(axis=1)[:, None]
    return y.astype(np.float32)
