"""Placing rows among those that a layout has placed already, whatever made the layout.

A row goes where its nearest neighbours among the landmarks pull it. With neighbours at y_1 .. y_k its place maximises
their likelihood under the layout's own kernel on the map (see `Kernel`):

    minimise over y:  sum_j log(1 + a |y - y_j|^(2 b))

starting from the nearest neighbour. This is the attraction of t-SNE and UMAP alone: among fixed landmarks the repulsion
decides little, and what remains is a robust mean that settles in one group where neighbours lie in several, while a
plain mean ends in the void between them. On held-out rows it was as trustworthy as the libraries' own transforms, in a
fraction of their time; and it asks a layout for nothing but places, so that any engine may have made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool.kernels.maps.scaling import Scale, centre

#: Neighbours that pull a row; fewer where there are fewer landmarks.
NEIGHBOURS = 15
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

    Memory: the rows twice. Searches run on one core.
    """

    def __init__(self, sample: Rows, layouts: Mapping[str, Placed]) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._ids = sample.ids
        self._layouts = layouts
        self._k = min(NEIGHBOURS, len(sample))
        self._scale = Scale.of(sample.x, centre(sample.x))
        self._search = NearestNeighbors(n_neighbors=self._k, algorithm="brute").fit(self._scale.apply(sample.x))

    def place(self, ids: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        """float32[n, dims] on every map of int64[n] ids with float32[n, d] rows.

        A landmark, known by its id, is where it is. The others cost n m products of d numbers, in float64, and
        memory for n k places of each map.
        """
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        new = self._ids[at] != ids
        found = {name: layout.places[at] for name, layout in self._layouts.items()}
        if new.any():
            with threadpool_limits(limits=1):
                near = self._search.kneighbors(self._scale.apply(x[new]), return_distance=False)
            for name, layout in self._layouts.items():
                found[name][new] = pulled(layout.places[near], layout.kernel)
        return found


def pulled(neighbours: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The places float32[n, dims] where float[n, k, dims] places of neighbours, the nearest first, pull a row.

    A local minimum of the module's objective, up to the steps taken, by majorisation: the objective is concave in every
    squared distance, so the mean of the neighbours weighted by its slopes there never raises it.
    """
    a, b = kernel.a, kernel.b
    neighbours = neighbours.astype(np.float64)
    y = neighbours[:, 0]
    for _ in range(_STEPS):
        squared = np.maximum(np.square(neighbours - y[:, None]).sum(axis=2), _LEAST_SQUARE)
        weights = squared ** (b - 1) / (1 + a * squared**b)
        y = np.einsum("nk,nkd->nd", weights, neighbours) / weights.sum(axis=1)[:, None]
    return y.astype(np.float32)
