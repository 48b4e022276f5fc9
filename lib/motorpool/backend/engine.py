"""DBSCAN's three steps in an array module, exact (see `kernels.cells.engines.LocalEngine`).

`library.LibraryEngine` takes the same steps by cuML's own DBSCAN, which compares float32 distances with eps, so that a
pair at eps within rounding may fall either way, and fits one min_samples a call: here all of them share their products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motorpool.backend.device import open_device
from motorpool.backend.gaps import EQUAL, Tile, about_mean, as_float32, tiles
from motorpool.kernels.cells.engines import Found
from motorpool.kernels.pairs.geometry import Metric, as_shorts, exact_gaps, to_gap
from motorpool.kernels.pairs.joining import join_pairs, roots_of


@dataclass(frozen=True)
class ArrayEngine:
    """A `LocalEngine` of brute force: every pair's float32 bounds on the device, unsure pairs in float64 on the host.

    Cost: n^2 products of d numbers for each call, twice that for `nearest`. Memory: 12 bytes for each number of the
    rows on the host; see `gaps.tiles` for the device.
    """

    module: str

    def core(self, x: np.ndarray, own: int, metric: Metric, eps: float, min_samples: Sequence[int]) -> Found:
        device, level = open_device(self.module), float(to_gap(eps, metric))
        (rows,) = about_mean(x, metric)
        counts = np.ones(own, np.int64)
        for tile in tiles(device, rows if own == len(rows) else rows.take(slice(own)), rows):
            sure, unsure = tile.within(level)
            itself = np.arange(tile.rows.start, tile.rows.stop)
            tile.clear(sure, itself)
            tile.clear(unsure, itself)
            counts[tile.rows] += device.take(sure.sum(axis=1))
            i, j = tile.pairs(unsure)
            within = exact_gaps(x, x, i, j, metric == "cosine") <= level
            counts += np.bincount(i[within], minlength=own)
        return Found.sure(counts[:, None] >= np.asarray(min_samples))

    def components(self, x: np.ndarray, metric: Metric, eps: float, core: np.ndarray) -> Found:
        device, level = open_device(self.module), float(to_gap(eps, metric))
        n, columns = core.shape
        (rows,) = about_mean(x, metric)
        parents = np.repeat(np.arange(n, dtype=np.int32)[:, None], columns, axis=1)
        for tile in tiles(device, rows, rows, upper=True):
            open_columns = [c for c in range(columns) if _open(parents, core, tile, c)]
            if not open_columns:
                continue
            near, unsure = tile.within(level)
            i, j = tile.pairs(unsure)
            within = exact_gaps(x, x, i, j, metric == "cosine") <= level
            near[device.put(i[within] - tile.rows.start), device.put(j[within] - tile.columns.start)] = True
            for column in open_columns:
                _join(parents, core, tile, near, column)
        roots = np.full((n, columns), -1, np.int32)
        for column in range(columns):
            marked = np.flatnonzero(core[:, column])
            found = roots_of(parents, marked.astype(np.int32), column)
            roots[marked, column] = np.unique(found, return_inverse=True)[1]
        return Found.sure(roots)

    def nearest(self, queries: np.ndarray, x: np.ndarray, metric: Metric, eps: float) -> tuple[np.ndarray, np.ndarray]:
        index, gaps = np.full(len(queries), -1, np.int64), np.full(len(queries), np.inf)
        if not len(queries) or not len(x):
            return index, gaps
        device, level = open_device(self.module), float(to_gap(eps, metric))
        xp = device.xp
        rows, asked = about_mean(x, metric, queries)
        # No row is worth a look whose gap is surely larger than another's ...
        bound = xp.full(len(queries), as_float32(level * rows.scale))
        for tile in tiles(device, asked, rows):
            high = xp.where(xp.isnan(tile.high), xp.inf, tile.high).min(axis=1)
            bound[tile.rows] = xp.minimum(bound[tile.rows], high)
        # ... by more than the rounding of the gaps to float32 that makes them equal.
        with np.errstate(over="ignore"):
            bound = bound * EQUAL
        for tile in tiles(device, asked, rows):
            i, j = tile.pairs(~(tile.low > bound[tile.rows][:, None]))
            gap = exact_gaps(queries, x, i, j, metric == "cosine")
            within = gap <= level
            i, j = i[within], j[within]
            near = as_shorts(gap[within])
            order = np.lexsort((j, near, i))
            best = order[np.diff(i[order], prepend=-1) > 0]
            # Rows come in their order: an equal one of an earlier tile was first.
            best = best[(near[best] < gaps[i[best]]) | (index[i[best]] < 0)]
            index[i[best]], gaps[i[best]] = j[best], near[best]
        return index, gaps


def _open(parents: np.ndarray, core: np.ndarray, tile: Tile, column: int) -> bool:
    """Whether a tile's marked rows and columns are of more than one component so far."""
    roots = [
        roots_of(parents, (span.start + np.flatnonzero(core[span, column])).astype(np.int32), column)
        for span in (tile.rows, tile.columns)
    ]
    if not len(roots[0]) or not len(roots[1]):
        return False
    return bool((np.concatenate(roots) != roots[0][0]).any())


def _join(parents: np.ndarray, core: np.ndarray, tile: Tile, near: Any, column: int) -> None:
    """Join a tile's marked rows that are ``near``, bool[R, C] on the device, in one column.

    Boruvka's rounds (1926): every row and every column names its first neighbour of another component, so the
    components that have one at least halve, and no more than R + C pairs travel in a round.
    """
    device, spans = tile.device, (tile.rows, tile.columns)
    marked = [device.put(core[span, column]) for span in spans]
    both = near & marked[0][:, None] & marked[1]
    everyone = [np.arange(span.start, span.stop, dtype=np.int32) for span in spans]
    while True:
        roots = [device.put(roots_of(parents, rows, column)) for rows in everyone]
        apart = both & (roots[0][:, None] != roots[1])
        lonely = True
        for axis, (rows, others) in ((1, everyone), (0, everyone[::-1])):
            some = np.flatnonzero(device.take(apart.any(axis=axis)))
            if len(some):
                first = device.take(apart.argmax(axis=axis))[some]
                join_pairs(parents, rows[some], others[first], column)
                lonely = False
        if lonely:
            return
