"""The minimum spanning tree of mutual reachability over all rows, exact.

Boruvka's algorithm (1926) in three gears. Lists of nearest neighbours, which the counting pass leaves behind, hold
the lightest edge out of most components, with a proof: whatever is not in a row's list is at least as far as the
last that is. Components without such a proof search among all rows, but only their rows that could still do
better, and never those of the largest component: Boruvka needs an edge for each small component, not for every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.kernels.pairs.geometry import Rows, to_distance
from motorpool.kernels.pairs.lightest import Lightest, Members, outgoing_tile
from motorpool.kernels.pairs.loops import Tile, jit, points_of, precision_of
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.kernels.trees import union_find
from motorpool.neighbours.exchange import arrays_of, given, pack_state
from motorpool.neighbours.search import FOUND, GAPS, IDS
from motorpool.neighbours.shards import Arranged, Shard, over_pairs

_PART, _CORE, _ACTIVE, _BOUND, _BEST = "part", "core", "active", "bound", "best"
_BEST_DTYPE = np.dtype([("part", "i4"), ("gap", "f8"), ("from", "i8"), ("to", "i8")])
#: A search starts from at most one row in so many (and always for half of the components): from more, it would
#: cost more than a pass over all pairs.
_SHARE = 2


@dataclass(frozen=True)
class SpanningTree:
    """Edges between rows numbered by ascending ``ids`` int64[n]: left, right int64[n - 1], distance float64[n - 1].

    ``order`` holds, for every shard, its rows' numbers; ``searches`` is the number of passes over pairs.
    """

    ids: np.ndarray
    left: np.ndarray
    right: np.ndarray
    distance: np.ndarray
    order: dict[int, np.ndarray]
    searches: int


def spanning_tree(
    arranged: Arranged,
    nearest: DataFrame,
    min_samples: int,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> SpanningTree:
    """Minimum spanning tree under max(distance, core distances), the core distance being that to the
    (min_samples - 1)-th nearest other row (so min_samples counts the row itself, as for scikit-learn).

    ``nearest`` comes from `search` with k of at least min_samples - 1 and 1; longer lists save searches.
    Driver memory: 12 bytes for each row and listed neighbour and about 100 for each row, since the tree itself
    has an edge for each row and everything that follows from it is sequential.
    """
    ids, order, gaps, found = _lists(nearest, arranged.n)
    if gaps.shape[1] < max(min_samples - 1, 1):
        raise ValueError(f"min_samples = {min_samples} needs lists of {max(min_samples - 1, 1)} neighbours")
    n = len(ids)
    # Fewer rows than min_samples: the farthest there are stand in, as nothing farther exists.
    core = np.zeros(n) if min_samples == 1 else _last_finite(gaps[:, : min_samples - 1])
    forest = _Forest(n)
    searches = 0
    while forest.n_parts > 1:
        best = _best_listed(forest.part, gaps, found, core)
        if forest.add(best, best.open == 0):
            continue
        chosen = _choose(forest, best)
        searches += 1
        progress(f"search {searches}: {int(chosen.sum()):,} of {forest.n_parts:,} parts of the tree look farther")
        _search(arranged, forest, best, chosen, ids, order, core, backend)
        forest.add(best, chosen)
    left, right, weight = forest.edges()
    return SpanningTree(ids, left, right, to_distance(weight, arranged.metric), order, searches)


def _last_finite(gaps: np.ndarray) -> np.ndarray:
    last = np.isfinite(gaps).sum(axis=1) - 1
    return np.where(last >= 0, gaps[np.arange(len(gaps)), np.maximum(last, 0)], 0.0)


def _lists(nearest: DataFrame, n: int) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """ids int64[n] ascending, each shard's numbers, gaps float64[n, k] and found int32[n, k] (numbers, -1: none)."""
    state: dict[str, dict[int, np.ndarray]] = {}
    for shard, kind, array in arrays_of(nearest, IDS, GAPS, FOUND):
        state.setdefault(kind, {})[shard] = array
    ids = np.sort(np.concatenate(list(state[IDS].values())))
    order = {shard: np.searchsorted(ids, own) for shard, own in state[IDS].items()}
    k = next(iter(state[GAPS].values())).shape[1]
    gaps, found = np.empty((n, k)), np.empty((n, k), np.int32)
    for shard, rows in order.items():
        gaps[rows] = state[GAPS].pop(shard)
        listed = state[FOUND].pop(shard)
        found[rows] = np.where(listed >= 0, np.searchsorted(ids, listed), -1)
    return ids, order, gaps, found


class _Forest:
    """A growing forest over n rows: ``part`` int32[n] numbers its components without gaps."""

    def __init__(self, n: int) -> None:
        self.part = np.arange(n, dtype=np.int32)
        self.n_parts = n
        self._edges: list[np.ndarray] = []

    def add(self, best: _Best, chosen: np.ndarray) -> bool:
        """Add the edges of the chosen parts; False when there were none to add."""
        rows = np.flatnonzero(chosen & (best.left >= 0))
        parents = np.arange(self.n_parts, dtype=np.int32)
        taken = union_find.unite(parents, self.part[best.left[rows]], self.part[best.right[rows]])
        kept = rows[taken]
        self._edges.append(np.stack([best.left[kept], best.right[kept], best.gap[kept].view(np.int64)]))
        _, numbers = np.unique(union_find.roots(parents), return_inverse=True)
        self.part = numbers[self.part].astype(np.int32)
        self.n_parts -= len(kept)
        return len(kept) > 0

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left, right, gap = np.concatenate([np.empty((3, 0), np.int64), *self._edges], axis=1)
        return left, right, np.ascontiguousarray(gap).view(np.float64)


class _Best(NamedTuple):
    """Per part its lightest outgoing edge so far, and how many of its rows might still find a lighter one.

    ``bound`` float64[n] of every row: edges that are not listed weigh at least that.
    """

    gap: np.ndarray
    left: np.ndarray
    right: np.ndarray
    open: np.ndarray
    bound: np.ndarray


def _best_listed(part: np.ndarray, gaps: np.ndarray, found: np.ndarray, core: np.ndarray) -> _Best:
    n_parts = int(part.max()) + 1
    best = _Best(
        np.full(n_parts, np.inf),
        np.full(n_parts, -1, np.int64),
        np.full(n_parts, -1, np.int64),
        np.zeros(n_parts, np.int64),
        np.maximum(core, gaps[:, -1]),
    )
    _scan_lists(part, gaps, found, core, best)
    return best


@jit
def _scan_lists(part: np.ndarray, gaps: np.ndarray, found: np.ndarray, core: np.ndarray, best: _Best) -> None:
    n, k = found.shape
    for i in range(n):
        for t in range(k):
            j = found[i, t]
            if j < 0:
                break
            if part[j] == part[i]:
                continue
            gap = max(gaps[i, t], core[i], core[j])
            low, high = min(i, j), max(i, j)
            for p in (part[i], part[j]):
                if gap < best.gap[p] or (gap == best.gap[p] and (low, high) < (best.left[p], best.right[p])):
                    best.gap[p], best.left[p], best.right[p] = gap, low, high
    for i in range(n):
        if best.bound[i] < best.gap[part[i]]:
            best.open[part[i]] += 1


def _choose(forest: _Forest, best: _Best) -> np.ndarray:
    """bool[parts]: which search. Those with the fewest rows to search from, at least half of all."""
    work = best.open.copy()
    work[np.argmax(np.bincount(forest.part))] = np.iinfo(np.int64).max
    order = np.argsort(work, kind="stable")[:-1]
    cheap = np.cumsum(work[order]) <= len(forest.part) // _SHARE
    half = np.arange(len(order)) < max(1, forest.n_parts // 2)
    chosen = np.zeros(forest.n_parts, bool)
    chosen[order[cheap | half]] = True
    return chosen


def _search(
    arranged: Arranged,
    forest: _Forest,
    best: _Best,
    chosen: np.ndarray,
    ids: np.ndarray,
    order: dict[int, np.ndarray],
    core: np.ndarray,
    backend: Backend,
) -> None:
    """Put into ``best`` the lightest edges of the chosen parts among all rows."""
    active = chosen[forest.part] & (best.bound < best.gap[forest.part])
    state = send(
        arranged,
        order,
        {_PART: forest.part, _CORE: core, _ACTIVE: active, _BOUND: best.gap[forest.part]},
    )
    searching = {shard for shard, rows in order.items() if active[rows].any()}
    shards = sorted(order)
    pairs = [(a, b) for a in shards for b in shards if a <= b and (a in searching or b in searching)]
    cosine = arranged.metric == "cosine"

    def work(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        other = a if b is None else b
        found = [_outgoing(a, other, cosine, backend)]
        if b is not None:
            found.append(_outgoing(b, a, cosine, backend))
        yield a.index, _BEST, np.concatenate(found).view(np.uint8)

    found = arrays_of(over_pairs(arranged, pairs, work, state), _BEST)
    lists = [array.view(_BEST_DTYPE) for _, _, array in found]
    edges = np.concatenate([np.empty(0, _BEST_DTYPE), *lists])
    left, right = np.searchsorted(ids, edges["from"]), np.searchsorted(ids, edges["to"])
    low, high = np.minimum(left, right), np.maximum(left, right)
    by_weight = np.lexsort((high, low, edges["gap"], edges["part"]))
    parts, first = np.unique(edges["part"][by_weight], return_index=True)
    lightest = by_weight[first]
    # Tasks have yielded only what is lighter than the part's best known edge.
    best.gap[parts], best.left[parts], best.right[parts] = edges["gap"][lightest], low[lightest], high[lightest]


def _outgoing(a: Shard, b: Shard, cosine: bool, backend: Backend) -> np.ndarray:
    """The lightest edges from active rows of ``a`` to rows of ``b``, one for each part that found one."""
    active = np.flatnonzero(a.state[_ACTIVE])
    if not len(active):
        return np.empty(0, _BEST_DTYPE)
    rows = a.rows
    x, y = rows.take(active), b.rows
    parts, local = np.unique(a.state[_PART][active], return_inverse=True)
    best_gap = np.full(len(parts), np.inf)
    best_gap[local] = a.state[_BOUND][active]
    best = Lightest(best_gap, np.full(len(parts), -1), np.full(len(parts), -1))
    # The other side's parts in the same numbers; -1 for parts that do not search from here.
    at = np.minimum(np.searchsorted(parts, b.state[_PART]), len(parts) - 1)
    there = np.where(parts[at] == b.state[_PART], at, -1)
    of_x = _members(x, a.state[_CORE][active], local)
    of_y = _members(y, b.state[_CORE], there)
    precision, points = precision_of(x, cosine), (points_of(x), points_of(y))

    def widest(i: slice, _: slice) -> float:
        return float(best_gap[local[i]].max()) * x.scale

    multiply = backend.multiplier(x, y)
    for i0, j0, products in tiles_of(x).products(tiles_of(y), widest, same=False, multiply=multiply):
        outgoing_tile(Tile(products, i0, j0, False), precision, *points, of_x, of_y, best)
    lighter = np.flatnonzero(best.start >= 0)
    found = np.empty(len(lighter), _BEST_DTYPE)
    found["part"], found["gap"] = parts[lighter], best_gap[lighter]
    found["from"], found["to"] = best.start[lighter], best.end[lighter]
    return found


def _members(rows: Rows, core: np.ndarray, part: np.ndarray) -> Members:
    with np.errstate(over="ignore"):
        low_core = np.nextafter((core * rows.scale).astype(np.float32), np.float32(-np.inf))
    return Members(core, part, low_core)


def send(arranged: Arranged, order: dict[int, np.ndarray], arrays: dict[str, np.ndarray]) -> DataFrame:
    """Arrays over all rows (``order``: each shard's rows in them) as STATE rows of their shards."""
    batches = [pack_state(shard, kind, array[rows]) for shard, rows in order.items() for kind, array in arrays.items()]
    return given(arranged.pieces, batches)
