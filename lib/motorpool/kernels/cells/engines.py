"""Engines: libraries that cluster the rows of one partition, all of them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from motorpool.kernels.cells.halo import positions
from motorpool.kernels.pairs.geometry import Metric, as_shorts, exact_gaps, to_gap

#: Neighbours that one query may return: 16 bytes each, so 256 MiB.
_PAIRS = 2**24
_UNIT = 2.0**-53


class Found(NamedTuple):
    """What an engine says of rows in each of m models, and int64[m]: of how many rows float64 had to decide it, since
    the library's own rounding left them open. 0 where an engine rests on no library's rounding."""

    rows: np.ndarray
    opened: np.ndarray

    @classmethod
    def sure(cls, rows: np.ndarray) -> Found:
        return cls(rows, np.zeros(rows.shape[1], np.int64))


class LocalEngine(Protocol):
    """The three steps of DBSCAN on float32[n, d] vectors that lie in one task's memory.

    Rows are within eps when their `geometry.exact_gap` is at most `geometry.to_gap` of eps, so rows exactly at eps
    are. An engine travels to the tasks by pickle.
    """

    def core(self, x: np.ndarray, own: int, metric: Metric, eps: float, min_samples: Sequence[int]) -> Found:
        """bool[own, m]: which of the first ``own`` rows have min_samples[q] rows of ``x`` within eps, themselves
        included."""

    def components(self, x: np.ndarray, metric: Metric, eps: float, core: np.ndarray) -> Found:
        """int32[n, m]: the component of every row among those that ``core``, bool[n, m], marks in its column, where
        rows within eps are joined; numbered from 0, and -1 for rows that are not marked. That is DBSCAN of the marked
        rows with min_samples = 1."""

    def nearest(self, queries: np.ndarray, x: np.ndarray, metric: Metric, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """int64[n]: the nearest of the rows ``x`` for each query, the first of those whose gaps are equal by
        `geometry.as_short`, and -1 where none is within eps; and float64[n] gaps, so rounded, infinite there."""


class SklearnEngine:
    """scikit-learn's neighbour search on the CPU, in float64, with no more than 2^24 neighbours held at a time.

    It chooses k-d trees for few columns and matrix products for many. These products round, and the tree compares
    roots of squares: either way a pair closer to eps than rounding is decided by `geometry.exact_gap`, and so is
    every pair of a zero vector under cosine, which has no position. Exact. Cost: up to n^2 d for each call.
    Memory: 8 bytes for each number of the rows, and 1 GiB beside them.
    """

    def core(self, x: np.ndarray, own: int, metric: Metric, eps: float, min_samples: Sequence[int]) -> Found:
        counts = np.ones(own, np.int64)
        for i, j in pairs_within(x[:own], x, metric, eps):
            counts += np.bincount(i[i != j], minlength=own)
        return Found.sure(counts[:, None] >= np.asarray(min_samples))

    def components(self, x: np.ndarray, metric: Metric, eps: float, core: np.ndarray) -> Found:
        n, columns = core.shape
        found = np.repeat(np.arange(n, dtype=np.int32)[:, None], columns, axis=1)
        for i, j in pairs_within(x, x, metric, eps):
            once = i < j
            i, j = i[once], j[once]
            for column in range(columns):
                marked = core[i, column] & core[j, column]
                left, right = found[i[marked], column], found[j[marked], column]
                apart = left != right
                if apart.any():
                    links = (np.ones(apart.sum(), bool), (left[apart], right[apart]))
                    merged = connected_components(coo_array(links, shape=(n, n)), directed=False)[1]
                    found[:, column] = merged[found[:, column]]
        for column in range(columns):
            marked = core[:, column]
            found[marked, column] = np.unique(found[marked, column], return_inverse=True)[1]
        return Found.sure(np.where(core, found, np.int32(-1)))

    def nearest(self, queries: np.ndarray, x: np.ndarray, metric: Metric, eps: float) -> tuple[np.ndarray, np.ndarray]:
        index, gaps = np.full(len(queries), -1, np.int64), np.full(len(queries), np.inf)
        for i, j in pairs_within(queries, x, metric, eps):
            gap = as_shorts(exact_gaps(queries, x, i, j, metric == "cosine"))
            order = np.lexsort((j, gap, i))
            best = order[np.diff(i[order], prepend=-1) > 0]
            index[i[best]], gaps[i[best]] = j[best], gap[best]
        return index, gaps


def pairs_within(
    queries: np.ndarray, x: np.ndarray, metric: Metric, eps: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a query and a row within eps, as int64 positions of both; a query's pairs come together.

    Exact; cost and memory as `SklearnEngine` has them.
    """
    from sklearn.neighbors import NearestNeighbors

    if not len(queries) or not len(x):
        return
    width = x.shape[1]
    places, asked = positions(x, metric), positions(queries, metric)
    # Near the middle a common offset costs the products no digits.
    middle = places.mean(axis=0)
    places -= middle
    asked -= middle
    largest = max(float(np.einsum("ij,ij->i", p, p).max()) for p in (places, asked))
    if metric == "cosine":
        # Rows at length one are rounded as such, however near each other they lie.
        largest = max(largest, 1.0)
    # The search's squared distances and exact_gap's are each off by at most d + 8 units of 4 largest (Higham 2002,
    # eq. 3.5); the others cover the root that the search returns.
    band = 8.0 * (width + 32) * _UNIT * largest
    level = float(to_gap(eps, metric))
    nowhere, asked_nowhere = (np.count_nonzero(rows, axis=1) == 0 for rows in (x, queries))
    search = NearestNeighbors(radius=np.sqrt(2.0 * level + band), metric="euclidean").fit(places)
    step = max(1, _PAIRS // len(x))
    for start in range(0, len(asked), step):
        distances, found = search.radius_neighbors(asked[start : start + step])
        i = np.repeat(np.arange(start, start + len(found)), [len(f) for f in found])
        j, squared = np.concatenate(found), np.square(np.concatenate(distances))
        unsure = np.abs(squared - 2.0 * level) <= band
        if metric == "cosine":
            unsure |= asked_nowhere[i] | nowhere[j]
        within = squared <= 2.0 * level
        within[unsure] = exact_gaps(queries, x, i[unsure], j[unsure], metric == "cosine") <= level
        yield i[within], j[within]
