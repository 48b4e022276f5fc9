"""DBSCAN, exact, for a whole grid of eps and min_samples at once (Ester, Kriegel, Sander & Xu, 1996).

Two passes over all pairs of rows serve the grid, whatever its size: `neighbours.search` counts every row's
neighbours within every eps; the pass here joins core rows and finds the nearest core row of every other row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import LABELLED_SCHEMA, Labelled, LabelledBlock, packed, stored_labels
from motorpool.kernels.pairs.geometry import Metric, Rows, gap_type, to_distance, to_gap
from motorpool.kernels.pairs.joining import Joined, Models, all_roots, join_tile, roots_of, set_limits
from motorpool.kernels.pairs.loops import Tile, points_of, precision_of
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.kernels.trees.components import LINK_DTYPE, MAX_MODELS, PART_DTYPE, ClusterNumbers, number, parts_of
from motorpool.neighbours.exchange import arrays_of, of_kinds, together
from motorpool.neighbours.search import COUNTS, WHERE, shard_bit
from motorpool.neighbours.shards import Arranged, Shard, over_pairs, over_shards, pairs_between
from motorpool.spark import block_files, blocks

#: Positions in a grid's lists, of which there are at most MAX_MODELS (see `components`); numba compiles for one type.
_POSITION = np.int16
_ROOTS, _NEAR, _BORDER, _PARTS, _LINKS = "roots", "near", "border", "parts", "links"

#: A row that is not core in a model, and the nearest core row that one task has found.
_BORDER_DTYPE = np.dtype(
    [("row", "i4"), ("model", "i2"), ("gap", "f8"), ("core_id", "i8"), ("shard", "i4"), ("root", "i4")]
)


@dataclass(frozen=True)
class DbscanParameters:
    """Ascending eps and min_samples; model number e * len(min_samples) + q has eps[e] and min_samples[q].

    Neighbours are rows at a distance of at most eps, the row itself included, as scikit-learn counts them.
    Raises ValueError for more models than tasks can number (`components.MAX_MODELS`).
    """

    eps: tuple[float, ...]
    min_samples: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.n_models > MAX_MODELS:
            raise ValueError(
                f"a grid of {len(self.eps):,} eps and {len(self.min_samples):,} min_samples has {self.n_models:,} "
                f"models, and at most {MAX_MODELS:,} can be numbered: make it several grids"
            )

    @property
    def n_models(self) -> int:
        return len(self.eps) * len(self.min_samples)


def fit_dbscan(
    arranged: Arranged,
    counted: DataFrame,
    radii: Sequence[float],
    grid: DbscanParameters,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> Labelled:
    """All models of a grid; their labels are persisted.

    ``counted`` comes from `search` with these ``radii``, the grid's eps among them, counted up to its largest
    min_samples or farther. Core rows, their partition into clusters and noise are those of the definition. A row
    that is not core but within eps of core rows joins the cluster of the nearest of them (the definition leaves it
    open; scikit-learn takes the cluster that it happens to reach first). Clusters are numbered by the smallest
    image_id among their core rows, so scikit-learn's labels of core rows come out the same when its rows are in
    that order. ``distance`` is that to the nearest core row: 0 for core rows and for no others, NaN for noise.

    Cost: n^2/2 products of d numbers, on ``backend``, less what is joined already. Memory of a task: two shards, and 12
    bytes for each of their rows and models (16 where an eps is below 1.3e-9 or beyond 1.3e19). Memory of the driver: 18
    bytes for each component of a shard's core rows, over all models: they are what clusters are merged from.
    """
    levels = to_gap(np.array(grid.eps), arranged.metric)
    cosine, least = arranged.metric == "cosine", np.array(grid.min_samples)
    columns = [list(radii).index(eps) for eps in grid.eps]
    counted = of_kinds(counted, COUNTS, WHERE)

    def within(a: Shard, _: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        forest = _Forest.start([a], [None], columns, least, levels)
        forest.sweep(cosine, same=True, backend=backend)
        roots = forest.roots()
        yield a.index, _ROOTS, np.ascontiguousarray(roots.T)
        yield a.index, _NEAR, np.ascontiguousarray(forest.joined.near_gap.T)
        yield a.index, _PARTS, parts_of(a.index, a.rows.ids, roots).view(np.uint8)
        yield from forest.borders([a], roots)

    def between(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        assert b is not None
        own_roots = [np.ascontiguousarray(s.state[_ROOTS].T) for s in (a, b)]
        near = [s.state[_NEAR].T for s in (a, b)]
        forest = _Forest.start([a, b], own_roots, columns, least, levels)
        # Only nearer core rows than a shard's own are of interest.
        np.concatenate(near, out=forest.joined.near_gap)
        forest.sweep(cosine, same=False, backend=backend)
        yield a.index, _LINKS, _links(forest, a, b, own_roots)
        yield from forest.borders([a, b], np.concatenate(own_roots))

    progress(f"joining core rows within {arranged.n_shards} shards")
    own = blocks.computed(over_pairs(arranged, [(s, s) for s in range(arranged.n_shards)], within, counted))
    others = None
    try:
        progress(f"joining core rows of all pairs of {arranged.n_shards} shards")
        partial = own
        if arranged.n_shards > 1:
            state = together(counted, of_kinds(own, _ROOTS, _NEAR))
            others = blocks.persist(over_pairs(arranged, pairs_between(arranged.n_shards), between, state))
            partial = together(own, others)
        numbers = number(_fetch(partial, _PARTS, PART_DTYPE), _fetch(partial, _LINKS, LINK_DTYPE))
        progress("labelling rows")
        found = of_kinds(partial, _ROOTS, _BORDER)
        work = _labeller(numbers, arranged.metric)
        merging = {_BORDER: _nearest_cores}
        labels = over_shards(arranged, found, work, LABELLED_SCHEMA, with_rows=True, merging=merging)
        labelled = block_files.computed(labels)
        return stored_labels(labelled, numbers.sizes(grid.n_models), arranged.mean)
    finally:
        own.unpersist()
        if others is not None:
            others.unpersist()


@dataclass
class _Forest:
    """One task's rows, those of its shards one behind the other (``edges``), and how far they are joined."""

    rows: Rows
    edges: list[int]
    models: Models
    joined: Joined

    @classmethod
    def start(
        cls,
        shards: Sequence[Shard],
        roots: Sequence[np.ndarray | None],
        columns: Sequence[int],
        least: np.ndarray,
        levels: np.ndarray,
    ) -> _Forest:
        rows, n_ranks = _stack([s.rows for s in shards]), len(least)
        counts = np.concatenate([s.state[COUNTS][:, columns] for s in shards])
        ranks = np.searchsorted(least, counts, side="right").astype(_POSITION)
        # Counts below the largest min_samples are exact, and tell which shards need not be looked at.
        others = [shard_bit(s.index) for s in reversed(shards)]
        where = np.concatenate([s.state[WHERE][:, columns] & bit for s, bit in zip(shards, others, strict=True)])
        may = (ranks == n_ranks) | (where != 0)
        n, n_models = len(rows), len(levels) * n_ranks
        parents = np.repeat(np.arange(n, dtype=np.int32)[:, None], n_models, axis=1)
        edges, at = [0], 0
        for shard, own_roots in zip(shards, roots, strict=True):
            if own_roots is not None:
                span = parents[at : at + len(shard.rows)]
                np.copyto(span, own_roots + np.int32(at), where=own_roots >= 0)
            at += len(shard.rows)
            edges.append(at)
        open_ = (ranks < n_ranks) & may
        open_top = np.where(open_, np.arange(len(levels)), -1).max(axis=1).astype(_POSITION)
        near_gap, near_row = np.full((n, n_models), np.inf, gap_type(levels)), np.full((n, n_models), -1, np.int32)
        # Limits are set for the rows and columns of every tile before it is looked at.
        joined = Joined(ranks, may, open_top, parents, near_gap, near_row, np.empty(n, np.float32))
        return cls(rows, edges, Models(levels, n_ranks), joined)

    def sweep(self, cosine: bool, *, same: bool, backend: Backend) -> None:
        """Look at all pairs within the one shard, or between the two."""
        rows, models, joined = self.rows, self.models, self.joined
        low = rows.take(slice(0, self.edges[1]))
        high = low if same else rows.take(slice(self.edges[1], self.edges[2]))
        offset = 0 if same else self.edges[1]
        chosen = np.empty(0, np.int32)

        def widest(i: slice, j: slice) -> float:
            nonlocal chosen
            columns = j.start + offset, j.stop + offset
            chosen, largest = set_limits(joined, models, rows.scale, i.start, i.stop, *columns)
            return float(largest)

        points, precision, multiply = points_of(rows), precision_of(rows, cosine), backend.multiplier(low, high)
        for i0, j0, products in tiles_of(low).products(tiles_of(high), widest, same, multiply):
            join_tile(Tile(products, i0, j0 + offset, same and i0 == j0), precision, points, models, joined, chosen)

    def roots(self) -> np.ndarray:
        """int32[n, models]: the root of every core row's component, -1 for rows that are not core."""
        result: np.ndarray = all_roots(self.joined.parents, self.joined.ranks, self.models.n_ranks)
        return result

    def borders(self, shards: Sequence[Shard], roots: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
        """The nearest core rows found; ``roots`` are those of the core rows within their own shards."""
        for index, shard in enumerate(shards):
            start, stop = self.edges[index], self.edges[index + 1]
            near_row = self.joined.near_row[start:stop]
            row, model = np.nonzero(near_row >= 0)
            core = near_row[row, model]
            found = np.empty(len(row), _BORDER_DTYPE)
            found["row"], found["model"] = row, model
            found["gap"] = self.joined.near_gap[start:stop][row, model]
            found["core_id"] = self.rows.ids[core]
            found["shard"] = np.array([s.index for s in shards])[np.searchsorted(self.edges, core, side="right") - 1]
            found["root"] = roots[core, model]
            yield shard.index, _BORDER, found.view(np.uint8)


def _stack(rows: Sequence[Rows]) -> Rows:
    if len(rows) == 1:
        return rows[0]
    raw = np.concatenate([r.raw for r in rows])
    x = raw if all(r.x is r.raw for r in rows) else np.concatenate([r.x for r in rows])
    half = np.concatenate([r.half for r in rows])
    return Rows(np.concatenate([r.ids for r in rows]), raw, x, half, rows[0].slack, rows[0].scale)


def _links(forest: _Forest, a: Shard, b: Shard, own_roots: Sequence[np.ndarray]) -> np.ndarray:
    """Which components of the two shards have become one: for each, the first of those it is joined with."""
    found = []
    shards, offsets = np.array([a.index, b.index]), np.array([0, len(a.rows)])
    for model in range(own_roots[0].shape[1]):
        roots = [np.unique(r[r[:, model] >= 0, model]) for r in own_roots]
        side = np.repeat([0, 1], [len(r) for r in roots])
        local = np.concatenate(roots)
        final = roots_of(forest.joined.parents, (local + offsets[side]).astype(np.int32), model)
        _, first, where = np.unique(final, return_index=True, return_inverse=True)
        lead = first[where]
        joined = np.flatnonzero(lead != np.arange(len(local)))
        link = np.empty(len(joined), LINK_DTYPE)
        link["model"] = model
        link["place_a"], link["root_a"] = shards[side[lead[joined]]], local[lead[joined]]
        link["place_b"], link["root_b"] = shards[side[joined]], local[joined]
        found.append(link)
    return np.concatenate(found).view(np.uint8)


def _fetch(state: DataFrame, kind: str, dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *(array.view(dtype) for _, _, array in arrays_of(state, kind))])


def _nearest_cores(several: Sequence[np.ndarray]) -> np.ndarray:
    """The nearest of what several tasks have found for each row and model, ties to the lower image_id."""
    border = np.concatenate([found.view(_BORDER_DTYPE) for found in several])
    border = border[np.lexsort((border["core_id"], border["gap"], border["model"], border["row"]))]
    new = np.ones(len(border), bool)
    new[1:] = (border["row"][1:] != border["row"][:-1]) | (border["model"][1:] != border["model"][:-1])
    nearest: np.ndarray = border[new].view(np.uint8)
    return nearest


def _labeller(
    numbers: ClusterNumbers, metric: Metric
) -> Callable[[Shard, dict[str, list[np.ndarray]]], Iterator[pa.RecordBatch]]:
    def work(shard: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
        (roots,) = found[_ROOTS]
        n_models, n = roots.shape
        labels = np.full((n, n_models), -1, np.int32)
        distances = np.full((n, n_models), np.nan, np.float32)
        # One model at a time: positions of all of them at once would take eight times the labels.
        for model in range(n_models):
            core = np.flatnonzero(roots[model] >= 0)
            labels[core, model] = numbers.of(model, shard.index, roots[model, core])
            distances[core, model] = 0.0
        border = _nearest_cores(found[_BORDER]).view(_BORDER_DTYPE)
        labels[border["row"], border["model"]] = numbers.of(border["model"], border["shard"], border["root"])
        distances[border["row"], border["model"]] = to_distance(border["gap"], metric)
        yield from packed(LabelledBlock(shard.rows.ids, shard.rows.raw, labels, distances))

    return work
