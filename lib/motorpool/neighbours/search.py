"""Pass 1 over all pairs: how many neighbours every row has within each radius, and which are its nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.kernels.pairs.geometry import to_gap
from motorpool.kernels.pairs.sweep import Side, Wanted
from motorpool.neighbours.exchange import STATE, of_kinds, pack_state, stored, together
from motorpool.neighbours.shards import Arranged, Merging, Shard, over_pairs, over_shards, pairs_between
from motorpool.spark import blocks

#: Kinds of the arrays that a search leaves for every shard.
IDS, COUNTS, WHERE, GAPS, FOUND = "ids", "counts", "where", "gaps", "found"
#: What travels of lists that another shard has changed (`_changed`).
_CHANGED = "changed"


def search(
    arranged: Arranged,
    wanted: Wanted,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> DataFrame:
    """Counts and nearest neighbours of all rows, exact (see `geometry`), as STATE rows, persisted.

    For every shard, in the order of its rows (``ids`` int64[n]): ``counts`` int32[n, radii] of rows within each
    radius, the row itself included, exact below ``enough`` and at least that otherwise; ``where`` uint64[n, radii],
    the shards that hold others of them (bits, see `shard_bit`), where the count is exact; ``gaps`` float64[n, k] (see
    `to_distance`) and ``found`` int64[n, k], the nearest other rows, nearest first, ties to the lower id; where there
    are fewer than k other rows, infinite gaps and the id -1.

    Every shard first meets itself; what is full by then takes no part in the pairs of shards that follow, and only
    lists that change there travel. Cost: n^2/2 products of d numbers, on ``backend``. Memory of a task: two shards and
    their arrays; in the last step a few times the arrays of one shard, which are merged as they come.
    """
    levels = to_gap(np.array(wanted.radii), arranged.metric)
    cosine = arranged.metric == "cosine"

    def within(a: Shard, _: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        side = Side.fresh(a.rows, levels, wanted)
        backend.sweep(side, side, levels, wanted, cosine)
        yield a.index, IDS, a.rows.ids
        # Every row is its own neighbour.
        yield from _counted(a.index, side.counts, side.counts > 1, a.index)
        if wanted.k:
            yield a.index, GAPS, side.gaps
            yield a.index, FOUND, side.ids

    def between(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        assert b is not None
        sides = [_known(shard, levels, wanted) for shard in (a, b)]
        before = [(side.counts.copy(), side.ids.copy()) for side in sides]
        backend.sweep(sides[0], sides[1], levels, wanted, cosine)
        for shard, other, side, (counts, ids) in zip((a, b), (b, a), sides, before, strict=True):
            more = side.counts - counts
            yield from _counted(shard.index, more, more > 0, other.index)
            if wanted.k:
                yield shard.index, _CHANGED, _changed(side, ids)

    progress(f"neighbours of {arranged.n:,} rows: all pairs of {arranged.n_shards} shards")
    of_shards = over_pairs(arranged, [(s, s) for s in range(arranged.n_shards)], within)
    if arranged.n_shards == 1:
        return blocks.computed(of_shards)
    with blocks.kept(of_shards) as own:
        known = of_kinds(own, COUNTS, GAPS, FOUND)
        others = over_pairs(arranged, pairs_between(arranged.n_shards), between, known)

        def merge(shard: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
            yield pack_state(shard.index, IDS, found[IDS][0])
            if COUNTS in found:
                counts = np.minimum(found[COUNTS][0], max(wanted.enough, 1))
                yield pack_state(shard.index, COUNTS, counts.astype(np.int32))
                yield pack_state(shard.index, WHERE, found[WHERE][0])
            if GAPS in found:
                (gaps,), (ids,) = found[GAPS], found[FOUND]
                for changed in found.get(_CHANGED, ()):
                    rows, *lists = _unpacked(changed)
                    gaps[rows], ids[rows] = _nearest_of([gaps[rows], lists[0]], [ids[rows], lists[1]])
                yield pack_state(shard.index, GAPS, gaps)
                yield pack_state(shard.index, FOUND, ids)

        merging: dict[str, Merging] = {COUNTS: _added, WHERE: _together, _CHANGED: _merged}
        merged = over_shards(arranged, together(own, others), merge, STATE, with_rows=False, merging=merging)
        return blocks.computed(stored(merged))


def shard_bit(shard: int) -> np.uint64:
    """A shard's bit in ``where``. Beyond 64 shards some share one: only a bit that is not set is sure."""
    return np.uint64(1) << np.uint64(shard % 64)


def _known(shard: Shard, levels: np.ndarray, wanted: Wanted) -> Side:
    """A shard with what it has found within itself."""
    s, n = shard.state, len(shard.rows)
    gaps = s[GAPS].copy() if wanted.k else np.empty((n, 0))
    found = s[FOUND].copy() if wanted.k else np.empty((n, 0), np.int64)
    counts = s[COUNTS].copy() if len(levels) else np.empty((n, 0), np.int32)
    return Side.of(shard.rows, levels, wanted, counts, gaps, found)


def _counted(
    shard: int, counts: np.ndarray, any_there: np.ndarray, other: int
) -> Iterator[tuple[int, str, np.ndarray]]:
    if counts.shape[1]:
        yield shard, COUNTS, counts
        yield shard, WHERE, np.where(any_there, shard_bit(other), np.uint64(0))


def _added(counts: Sequence[np.ndarray]) -> np.ndarray:
    result: np.ndarray = np.stack(counts).sum(axis=0, dtype=np.int64)
    return result


def _together(where: Sequence[np.ndarray]) -> np.ndarray:
    result: np.ndarray = np.bitwise_or.reduce(np.stack(where), axis=0)
    return result


def _changed(side: Side, before: np.ndarray) -> np.ndarray:
    """The lists that have changed, `_packed`; ``before`` int64[n, k] are the ids of all lists before."""
    rows = np.flatnonzero((side.ids != before).any(axis=1))
    return _packed(rows, side.gaps[rows], side.ids[rows])


def _packed(rows: np.ndarray, gaps: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Lists of some rows as one array: int64[m], float64[m, k] and int64[m, k] side by side, bit by bit."""
    return np.concatenate([rows[:, None].view(np.float64), gaps, ids.view(np.float64)], axis=1)


def _unpacked(lists: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    k = (lists.shape[1] - 1) // 2
    rows, gaps, ids = np.split(lists, [1, 1 + k], axis=1)
    return (
        np.ascontiguousarray(rows).view(np.int64)[:, 0],
        np.ascontiguousarray(gaps),
        np.ascontiguousarray(ids).view(np.int64),
    )


def _merged(several: Sequence[np.ndarray]) -> np.ndarray:
    """`_packed` lists of several shards as one of each row."""
    parts = [_unpacked(lists) for lists in several]
    rows = np.unique(np.concatenate([part[0] for part in parts]))
    k = parts[0][1].shape[1]
    gaps, ids = np.full((len(rows), len(parts) * k), np.inf), np.full((len(rows), len(parts) * k), -1)
    for i, (own, own_gaps, own_ids) in enumerate(parts):
        at, columns = np.searchsorted(rows, own), slice(i * k, (i + 1) * k)
        gaps[at, columns], ids[at, columns] = own_gaps, own_ids
    every = range(0, len(parts) * k, k)
    return _packed(rows, *_nearest_of([gaps[:, c : c + k] for c in every], [ids[:, c : c + k] for c in every]))


def _nearest_of(gaps: list[np.ndarray], found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of several lists of k per row; a row found twice counts once."""
    k = gaps[0].shape[1]
    all_gaps, all_ids = np.concatenate(gaps, axis=1), np.concatenate(found, axis=1)
    order = np.lexsort((all_ids, all_gaps), axis=1)
    all_gaps, all_ids = np.take_along_axis(all_gaps, order, 1), np.take_along_axis(all_ids, order, 1)
    # Lists of two tasks both start from what the shard found within itself.
    again = np.zeros(all_ids.shape, bool)
    again[:, 1:] = (all_ids[:, 1:] == all_ids[:, :-1]) & (all_ids[:, 1:] >= 0)
    all_gaps[again] = np.inf
    all_ids[again] = -1
    keep = np.argsort(all_gaps, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_gaps, keep, 1), np.take_along_axis(all_ids, keep, 1)
