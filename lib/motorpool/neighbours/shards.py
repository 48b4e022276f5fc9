"""All pairs of rows as Spark tasks: rows arranged in shards, one task for each pair of shards.

A *shard* is a bounded share of the rows, near ones together. A task holds two shards and the arrays found
for their rows so far, so it works for as long as the product of their lengths while only their sum was sent to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from motorpool.kernels.nearest import NearestPoint
from motorpool.kernels.pairs.geometry import Metric, Rows, prepare, unit_of, worthwhile_shift
from motorpool.kernels.sampling import uniform_hash
from motorpool.neighbours.exchange import PIECE, STATE, Piece, ask, load, pack_state, piece, stored
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.coreset import draw_coreset, measure_spread

#: A shard holds at most this many rows and bytes of vectors: a task has two of them, and arrays over their rows.
SHARD_ROWS = 65_536
SHARD_BYTES = 64 * 2**20
_FEWEST_ROWS = 8192
#: Held rows are one shard up to this many: all pairs of them take one core seconds, and their jobs took longer.
_MOST_HERE = 32_768
#: Rows near each other lie side by side, in groups of about this many rows, and never in more groups than ...
_ROWS_PER_GROUP = 1024
_MAX_GROUPS = 256

#: Arrays that wait until they are merged, at most.
_MERGED_AT_ONCE = 4
#: Makes one array of several; the same for any order of them, and of what it has made with further ones.
Merging = Callable[[Sequence[np.ndarray]], np.ndarray]

#: Makes Rows of ids and vectors, as all shards of an `Arranged` are.
_Ready = Callable[[np.ndarray, np.ndarray], Rows]


@dataclass(frozen=True)
class Arranged:
    """Rows in shards. ``pieces`` (PIECE, kind = 'rows') are kept: `release` them."""

    pieces: DataFrame
    n: int
    width: int
    n_shards: int
    metric: Metric
    mean: np.ndarray
    shift: np.ndarray | None
    #: What rows are multiplied by for products (see `geometry.unit_of`).
    unit: float = 1.0

    @property
    def spark(self) -> SparkSession:
        return self.pieces.sparkSession

    def release(self) -> None:
        self.pieces.unpersist()


@dataclass
class Shard:
    """One shard in a task: its rows, in a fixed order, and the arrays that earlier steps have found for them."""

    index: int
    rows: Rows
    state: dict[str, np.ndarray] = field(default_factory=dict)


def arrange(block_df: DataFrame, metric: Metric, seed: int) -> Arranged:
    """Rows in shards of near ones: four passes over the blocks, one of them a shuffle of all vectors.

    Groups of near rows come from KMeans on a coreset (see `draw_coreset`), so the same rows share a shard however the
    blocks are partitioned. A group too large for a shard is spread over several by the hash of the image's id.
    """
    spread = measure_spread(block_df)
    if spread.n == 0:
        raise ValueError("there are no rows to compare")
    width = len(spread.mean)
    shift = worthwhile_shift(spread.mean, spread.total / spread.n) if metric == "euclidean" else None
    n_groups = max(1, min(_MAX_GROUPS, spread.n // _ROWS_PER_GROUP))
    coreset = draw_coreset(block_df, spread, seed).rows
    unit = unit_of(coreset, shift) if metric == "euclidean" else 1.0
    centres = rough_centres(coreset, metric, n_groups, seed)
    nearest = NearestPoint(centres)
    sizes = _group_sizes(block_df, nearest, len(centres), metric)
    alone = spread.n <= _MOST_HERE and blocks.held(block_df) is not None
    slots = blocks.parallelism(block_df.sparkSession)
    most = _largest(width) if alone else _shard_rows(spread.n, width, slots)
    first_shard, parts, n_shards = _plan(sizes, most)

    def split(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                group = _find_group(nearest, x, metric)
                part = (uniform_hash(ids, seed) * parts[group]).astype(np.int64)
                shard = first_shard[group] + part
                order = np.lexsort((group, shard))
                edges = np.flatnonzero(np.diff(shard[order], prepend=-1, append=-1))
                for start, stop in pairwise(edges):
                    rows = order[start:stop]
                    packed = np.stack([group[rows].astype(np.int64), ids[rows]])
                    yield piece(int(shard[rows[0]]), "split", 0, packed.tobytes(), x[rows].tobytes())

    def collect(pieces: Iterator[Piece]) -> Batches:
        held: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for shard, _, _, packed, data in pieces:
            rows = np.frombuffer(data, np.float32).reshape(-1, width)
            held.setdefault(shard, []).append((np.frombuffer(packed, np.int64).reshape(2, -1), rows))
        for shard, found in held.items():
            group, ids = np.concatenate([f[0] for f in found], axis=1)
            x = np.concatenate([f[1] for f in found])
            order = np.lexsort((ids, group))
            for chunk, start in enumerate(range(0, len(order), blocks.BLOCK_ROWS)):
                rows = order[start : start + blocks.BLOCK_ROWS]
                yield piece(shard, "rows", chunk, ids[rows].tobytes(), x[rows].tobytes())

    # One task would have all rows of a single shard, and so has the driver.
    parted = blocks.mapped(block_df, split, PIECE) if n_shards == 1 else blocks.in_tasks(block_df, split, PIECE)
    pieces = stored(ask([parted], [[shard] for shard in range(n_shards)], collect, PIECE))
    return Arranged(blocks.persist(pieces), spread.n, width, n_shards, metric, spread.mean, shift, unit)


def _shard_rows(n: int, width: int, slots: int) -> int:
    """Rows of a shard: within the bounds, and few enough that there are several tasks for each slot of a cluster."""
    # Starting a task costs more than the pairs of two smaller shards.
    return min(_largest(width), max(_FEWEST_ROWS, math.ceil(n / math.ceil(math.sqrt(16 * slots)))))


def _largest(width: int) -> int:
    return max(1, min(SHARD_ROWS, SHARD_BYTES // (4 * width)))


def rough_centres(rows: np.ndarray, metric: Metric, k: int, seed: int) -> np.ndarray:
    """float64[k, d] centres of groups of float32[n, d] rows, near ones side by side; n of them where n is below k."""
    from scipy.cluster import hierarchy
    from sklearn.cluster import KMeans

    k = min(k, len(rows))
    unit = unit_of(rows) if metric == "euclidean" else 1.0
    points = prepare(np.arange(len(rows)), rows, metric, unit=unit).x
    if k == 1:
        result: np.ndarray = points.mean(axis=0, keepdims=True, dtype=np.float64) / unit
        return result
    # Rough centres do: they only decide which rows travel together.
    model = KMeans(k, init="random", n_init=1, max_iter=8, random_state=seed).fit(points)
    centres = np.asarray(model.cluster_centers_, np.float64)
    order = hierarchy.leaves_list(hierarchy.linkage(centres, "average"))
    ordered: np.ndarray = centres[order] / unit
    return ordered


def _find_group(nearest: NearestPoint, x: np.ndarray, metric: Metric) -> np.ndarray:
    """int64[n]: the group of the nearest centre of float32[n, d] vectors."""
    return nearest.find(x if metric == "euclidean" else prepare(np.arange(len(x)), x, metric).x)[0]


def _group_sizes(block_df: DataFrame, nearest: NearestPoint, n_groups: int, metric: Metric) -> np.ndarray:
    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(batch):
            state.total += np.bincount(_find_group(nearest, x, metric), minlength=n_groups)

    return blocks.fold(block_df, lambda: blocks.Tally(np.zeros(n_groups, np.int64)), add).total


def _plan(sizes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """For each group its first shard and the number of shards that share it, and the number of shards."""
    first, parts = np.zeros(len(sizes), np.int64), np.ones(len(sizes), np.int64)
    shard, room = -1, 0
    for group, size in enumerate(sizes.tolist()):
        if size <= room:
            first[group] = shard
            room -= size
            continue
        # Half a shard more than needed would travel half empty: large groups are split evenly.
        parts[group] = max(1, math.ceil(size / most))
        first[group] = shard + 1
        shard += int(parts[group])
        room = most - size if parts[group] == 1 else 0
    return first, parts, shard + 1


# -- tasks -------------------------------------------------------------------------------------------


def pairs_between(n_shards: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(n_shards) for b in range(a + 1, n_shards)]


def over_pairs(
    arranged: Arranged,
    pairs: Sequence[tuple[int, int]],
    work: Callable[[Shard, Shard | None], Iterable[tuple[int, str, np.ndarray]]],
    state: DataFrame | None = None,
) -> DataFrame:
    """Run ``work(a, b)`` in one task for each pair of shards (``b`` is None where a shard meets itself).

    ``state`` (columns STATE) are the arrays found for the shards so far: ``work`` has them in ``Shard.state``. The
    result has the same columns: what ``work`` yields, as (shard, kind, array). Where the driver holds the one shard
    that there is, it does the work, and holds the result.
    """
    ready, width = _ready(arranged), arranged.width

    def run(pieces: Iterator[Piece]) -> Batches:
        held = _assemble(pieces, width, ready)
        if held:
            a, b = held[min(held)], held[max(held)]
            for shard, kind, array in work(a, b if b is not a else None):
                yield pack_state(shard, kind, array)

    frames = [arranged.pieces] if state is None else [arranged.pieces, state]
    return stored(ask(frames, [sorted(set(pair)) for pair in pairs], run, STATE))


def over_shards(
    arranged: Arranged,
    state: DataFrame,
    work: Callable[[Shard, dict[str, list[np.ndarray]]], Iterator[pa.RecordBatch]],
    schema: str,
    *,
    with_rows: bool,
    merging: Mapping[str, Merging] | None = None,
) -> DataFrame:
    """Run ``work(shard, found)`` in one task for each shard; ``found`` holds all arrays of each kind in ``state``.

    Every other shard may have left an array for this one. Those of the kinds in ``merging`` are merged as they come,
    a few at a time, in any order: ``found`` holds one of them, and a task a few, however many shards there are.
    Without ``with_rows`` the vectors stay where they are and the shard comes without rows. Held as `over_pairs` is.
    """
    ready, width = _ready(arranged), arranged.width

    def run(pieces: Iterator[Piece]) -> Batches:
        for shard, found, rows in _grouped(pieces, width, ready, merging):
            yield from work(Shard(shard, rows), found)

    frames = [arranged.pieces, state] if with_rows else [state]
    return ask(frames, [[shard] for shard in range(arranged.n_shards)], run, schema)


def _ready(arranged: Arranged) -> _Ready:
    return partial(prepare, metric=arranged.metric, shift=arranged.shift, unit=arranged.unit)


def _grouped(
    pieces: Iterator[Piece],
    width: int,
    ready: _Ready,
    merging: Mapping[str, Merging] | None = None,
) -> Iterator[tuple[int, dict[str, list[np.ndarray]], Rows]]:
    merging = merging or {}
    chunks: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    found: dict[int, dict[str, list[np.ndarray]]] = {}
    for shard, kind, chunk, packed, data in pieces:
        states = found.setdefault(shard, {})
        if kind == "rows":
            x = np.frombuffer(data, np.float32).reshape(-1, width)
            chunks.setdefault(shard, {})[chunk] = (np.frombuffer(packed, np.int64), x)
        else:
            arrays = states.setdefault(kind, [])
            arrays.append(load(data))
            if kind in merging and len(arrays) >= _MERGED_AT_ONCE:
                states[kind] = [merging[kind](arrays)]
    for shard, states in found.items():
        for kind in states.keys() & merging.keys():
            states[kind] = [merging[kind](states[kind])]
        parts = [part for _, part in sorted(chunks.pop(shard, {}).items())]
        ids = np.concatenate([p[0] for p in parts]) if parts else np.empty(0, np.int64)
        raw = np.concatenate([p[1] for p in parts]) if parts else np.empty((0, width), np.float32)
        yield shard, states, ready(ids, raw)


def _assemble(pieces: Iterator[Piece], width: int, ready: _Ready) -> dict[int, Shard]:
    return {
        shard: Shard(shard, rows, {kind: arrays[0] for kind, arrays in states.items()})
        for shard, states, rows in _grouped(pieces, width, ready)
    }
