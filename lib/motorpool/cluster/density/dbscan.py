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
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import LABELLED_SCHEMA, Labelled, LabelledBlock, packed, stored_labels
from motorpool.kernels.pairs import loops
from motorpool.kernels.pairs.geometry import Metric, Rows, gap_type, to_distance, to_gap
from motorpool.kernels.pairs.tiles import tiles_of
from motorpool.kernels.trees.components import LINK_DTYPE, MAX_MODELS, PART_DTYPE, ClusterNumbers, number, parts_of
from motorpool.neighbours.search import COUNTS, WHERE, shard_bit
from motorpool.neighbours.shards import Arranged, Shard, load, over_pairs, over_shards, pairs_between
from motorpool.spark import blocks

#: Positions in a grid's lists, of which there are at most MAX_MODELS (see `components`); numba compiles for one type.
_POSITION = np.int16
_ROOTS, _NEAR, _BORDER, _PARTS, _LINKS = "roots", "near", "border", "parts", "links"

#: A row that is not core, a cell, and the nearest core row that one task has seen.
_BORDER_DTYPE = np.dtype(
    [("row", "i4"), ("cell", "i2"), ("gap", "f8"), ("core_id", "i8"), ("shard", "i4"), ("root", "i4")]
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
    counted = counted.where(F.col("kind").isin(COUNTS, WHERE))

    def within(a: Shard, _: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        forest = _Forest.start([a], [None], columns, least, levels)
        forest.sweep(cosine, same=True, backend=backend)
        roots = forest.roots()
        yield a.index, _ROOTS, np.ascontiguousarray(roots.T)
        yield a.index, _NEAR, np.ascontiguousarray(forest.near_gap.T)
        yield a.index, _PARTS, parts_of(a.index, a.rows.ids, roots).view(np.uint8)
        yield from forest.borders([a], roots)

    def between(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
        assert b is not None
        known = [np.ascontiguousarray(s.state[_ROOTS].T) for s in (a, b)]
        near = [s.state[_NEAR].T for s in (a, b)]
        forest = _Forest.start([a, b], known, columns, least, levels)
        # Only nearer core rows than a shard's own are of interest.
        np.concatenate(near, out=forest.near_gap)
        forest.sweep(cosine, same=False, backend=backend)
        yield a.index, _LINKS, _links(forest, a, b, known)
        yield from forest.borders([a, b], np.concatenate(known))

    progress(f"joining core rows within {arranged.n_shards} shards")
    own = blocks.persist(over_pairs(arranged, [(s, s) for s in range(arranged.n_shards)], within, counted))
    others = None
    try:
        own.count()
        progress(f"joining core rows of all pairs of {arranged.n_shards} shards")
        partial = own
        if arranged.n_shards > 1:
            state = counted.unionByName(own.where(F.col("kind").isin(_ROOTS, _NEAR)))
            others = blocks.persist(over_pairs(arranged, pairs_between(arranged.n_shards), between, state))
            partial = own.unionByName(others)
        numbers = number(_fetch(partial, _PARTS, PART_DTYPE), _fetch(partial, _LINKS, LINK_DTYPE))
        progress("labelling rows")
        found = partial.where(F.col("kind").isin(_ROOTS, _BORDER))
        work = _labeller(numbers, arranged.metric)
        labelled = blocks.computed(over_shards(arranged, found, work, LABELLED_SCHEMA, with_rows=True))
        return stored_labels(labelled, numbers.sizes(grid.n_models), arranged.mean)
    finally:
        own.unpersist()
        if others is not None:
            others.unpersist()


@dataclass
class _Forest:
    """One task's rows, stacked, and what it knows of them (see `kernels.join_tile`)."""

    rows: Rows
    edges: list[int]
    ranks: np.ndarray
    may: np.ndarray
    open_top: np.ndarray
    parents: np.ndarray
    near_gap: np.ndarray
    near_row: np.ndarray
    levels: np.ndarray
    n_ranks: int

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
        n, cells = len(rows), len(levels) * n_ranks
        parents = np.repeat(np.arange(n, dtype=np.int32)[:, None], cells, axis=1)
        edges, at = [0], 0
        for shard, known in zip(shards, roots, strict=True):
            if known is not None:
                span = parents[at : at + len(shard.rows)]
                np.copyto(span, known + np.int32(at), where=known >= 0)
            at += len(shard.rows)
            edges.append(at)
        open_ = (ranks < n_ranks) & may
        open_top = np.where(open_, np.arange(len(levels)), -1).max(axis=1).astype(_POSITION)
        near_gap, near_row = np.full((n, cells), np.inf, gap_type(levels)), np.full((n, cells), -1, np.int32)
        return cls(rows, edges, ranks, may, open_top, parents, near_gap, near_row, levels, n_ranks)

    def sweep(self, cosine: bool, *, same: bool, backend: Backend) -> None:
        """Look at all pairs within the one shard, or between the two."""
        rows, n_ranks = self.rows, self.n_ranks
        # Set for the rows and columns of every tile before it is looked at.
        reach = np.empty(len(rows), np.float32)
        low = rows.take(slice(0, self.edges[1]))
        high = low if same else rows.take(slice(self.edges[1], self.edges[2]))
        offset = 0 if same else self.edges[1]
        chosen = np.empty(0, np.int32)

        def widest(i: slice, j: slice) -> float:
            nonlocal chosen
            columns = slice(j.start + offset, j.stop + offset)
            joined = (self.parents, self.ranks)
            chosen = loops.representatives(*joined, columns.start, columns.stop, n_ranks)
            for span in (i, columns):
                loops.set_reach(
                    *joined,
                    self.may,
                    self.open_top,
                    chosen,
                    n_ranks,
                    self.levels,
                    rows.scale,
                    reach,
                    span.start,
                    span.stop,
                )
            return max(float(reach[i].max()), float(reach[columns].max()))

        multiply = backend.multiplier(low, high)
        for i0, j0, products in tiles_of(low).products(tiles_of(high), widest, same, multiply):
            loops.join_tile(
                products, i0, j0 + offset, same and i0 == j0, rows.raw, rows.half, rows.slack, rows.scale, cosine,
                rows.ids, self.levels, n_ranks, self.ranks, self.may, self.open_top, self.parents, self.near_gap,
                self.near_row, reach, chosen,
            )  # fmt: skip

    def roots(self) -> np.ndarray:
        """int32[n, cells]: the root of every core row's component, -1 for rows that are not core."""
        result: np.ndarray = loops.all_roots(self.parents, self.ranks, self.n_ranks)
        return result

    def borders(self, shards: Sequence[Shard], roots: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
        """The nearest core rows found; ``roots`` are those of the core rows within their own shards."""
        for index, shard in enumerate(shards):
            start, stop = self.edges[index], self.edges[index + 1]
            row, cell = np.nonzero(self.near_row[start:stop] >= 0)
            core = self.near_row[start:stop][row, cell]
            found = np.empty(len(row), _BORDER_DTYPE)
            found["row"], found["cell"] = row, cell
            found["gap"] = self.near_gap[start:stop][row, cell]
            found["core_id"] = self.rows.ids[core]
            found["shard"] = np.array([s.index for s in shards])[np.searchsorted(self.edges, core, side="right") - 1]
            found["root"] = roots[core, cell]
            yield shard.index, _BORDER, found.view(np.uint8)


def _stack(rows: Sequence[Rows]) -> Rows:
    if len(rows) == 1:
        return rows[0]
    raw = np.concatenate([r.raw for r in rows])
    x = raw if all(r.x is r.raw for r in rows) else np.concatenate([r.x for r in rows])
    half = np.concatenate([r.half for r in rows])
    return Rows(np.concatenate([r.ids for r in rows]), raw, x, half, rows[0].slack, rows[0].scale)


def _links(forest: _Forest, a: Shard, b: Shard, known: Sequence[np.ndarray]) -> np.ndarray:
    """Which components of the two shards have become one: for each, the first of those it is joined with."""
    found = []
    shards, offsets = np.array([a.index, b.index]), np.array([0, len(a.rows)])
    for cell in range(known[0].shape[1]):
        roots = [np.unique(k[k[:, cell] >= 0, cell]) for k in known]
        side = np.repeat([0, 1], [len(r) for r in roots])
        local = np.concatenate(roots)
        final = loops.roots_of(forest.parents, (local + offsets[side]).astype(np.int32), cell)
        _, first, where = np.unique(final, return_index=True, return_inverse=True)
        lead = first[where]
        joined = np.flatnonzero(lead != np.arange(len(local)))
        link = np.empty(len(joined), LINK_DTYPE)
        link["model"] = cell
        link["place_a"], link["root_a"] = shards[side[lead[joined]]], local[lead[joined]]
        link["place_b"], link["root_b"] = shards[side[joined]], local[joined]
        found.append(link)
    return np.concatenate(found).view(np.uint8)


def _fetch(state: DataFrame, kind: str, dtype: np.dtype) -> np.ndarray:
    arrays = blocks.to_driver(state.where(F.col("kind") == kind), "data")
    return np.concatenate([np.empty(0, dtype), *(load(a).view(dtype) for a in arrays)])


def _labeller(
    numbers: ClusterNumbers, metric: Metric
) -> Callable[[Shard, dict[str, list[np.ndarray]]], Iterator[pa.RecordBatch]]:
    def work(shard: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
        (roots,) = found[_ROOTS]
        cells, n = roots.shape
        labels = np.full((n, cells), -1, np.int32)
        distances = np.full((n, cells), np.nan, np.float32)
        # One model at a time: positions of all of them at once would take eight times the labels.
        for cell in range(cells):
            core = np.flatnonzero(roots[cell] >= 0)
            labels[core, cell] = numbers.of(cell, shard.index, roots[cell, core])
            distances[core, cell] = 0.0
        border = np.concatenate([f.view(_BORDER_DTYPE) for f in found[_BORDER]])
        # The nearest of what several tasks have found, ties to the lower image_id.
        border = border[np.lexsort((border["core_id"], border["gap"], border["cell"], border["row"]))]
        new = np.ones(len(border), bool)
        new[1:] = (border["row"][1:] != border["row"][:-1]) | (border["cell"][1:] != border["cell"][:-1])
        border = border[new]
        labels[border["row"], border["cell"]] = numbers.of(border["cell"], border["shard"], border["root"])
        distances[border["row"], border["cell"]] = to_distance(border["gap"], metric)
        yield from packed(LabelledBlock(shard.rows.ids, shard.rows.raw, labels, distances))

    return work
