"""DBSCAN's two ways without Spark: the same tasks as `fit_dbscan` and `fit_dbscan_cells`, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pyarrow as pa
from sklearn.cluster import DBSCAN

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.density import cell_tasks, dbscan
from motorpool.cluster.density.dbscan import DbscanParameters
from motorpool.kernels.cells.engines import LocalEngine
from motorpool.kernels.cells.halo import VoronoiCells
from motorpool.kernels.pairs.geometry import Metric, Rows, prepare, to_gap
from motorpool.kernels.pairs.sweep import Side, Wanted
from motorpool.kernels.trees.components import LINK_DTYPE, PART_DTYPE, number, parts_of
from motorpool.neighbours.search import COUNTS, WHERE, shard_bit
from motorpool.neighbours.shards import Shard
from motorpool.spark import blocks


def two_shards(x: np.ndarray, metric: Metric, **how: object) -> list[Rows]:
    """The first third of the rows, and the others."""
    cut = max(1, len(x) // 3)
    return [prepare(ids, x[ids], metric, **how) for ids in np.split(np.arange(len(x)), [cut])]  # type: ignore[arg-type]


def searched(parts: list[Rows], wanted: Wanted, metric: Metric, backend: Backend = CPU) -> list[Shard]:
    """What `search` finds in two shards."""
    levels, cosine = to_gap(np.array(wanted.radii), metric), metric == "cosine"
    sides = [Side.fresh(rows, levels, wanted) for rows in parts]
    for side in sides:
        backend.sweep(side, side, levels, wanted, cosine)
    within = [side.counts.copy() for side in sides]
    sides = [Side.of(s.rows, levels, wanted, s.counts, s.gaps, s.ids) for s in sides]
    backend.sweep(sides[0], sides[1], levels, wanted, cosine)
    shards = []
    for index, (side, own) in enumerate(zip(sides, within, strict=True)):
        there = np.where(own > 1, shard_bit(index), np.uint64(0))
        there |= np.where(side.counts > own, shard_bit(1 - index), np.uint64(0))
        shards.append(Shard(index, side.rows, {COUNTS: side.counts, WHERE: there, "gaps": side.gaps, "ids": side.ids}))
    return shards


def by_pairs(
    x: np.ndarray, grid: DbscanParameters, metric: Metric = "euclidean", backend: Backend = CPU, **how: object
) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32[n, models] and distances float32[n, models] of `fit_dbscan`'s tasks over two shards."""
    levels, cosine, least = to_gap(np.array(grid.eps), metric), metric == "cosine", np.array(grid.min_samples)
    shards = searched(two_shards(x, metric, **how), Wanted(grid.eps, max(grid.min_samples)), metric, backend)
    columns = list(range(len(grid.eps)))
    found: list[dict[str, list[np.ndarray]]] = [{"roots": [], "border": []} for _ in shards]
    parts, near = [], []
    for shard in shards:
        forest = dbscan._Forest.start([shard], [None], columns, least, levels)
        forest.sweep(cosine, same=True, backend=backend)
        roots = forest.roots()
        near.append(forest.joined.near_gap)
        parts.append(parts_of(shard.index, shard.rows.ids, roots))
        found[shard.index]["roots"].append(np.ascontiguousarray(roots.T))
        found[shard.index]["border"] += [border for _, _, border in forest.borders([shard], roots)]
    known = [np.ascontiguousarray(f["roots"][0].T) for f in found]
    forest = dbscan._Forest.start(shards, list(known), columns, least, levels)
    np.concatenate(near, out=forest.joined.near_gap)
    forest.sweep(cosine, same=False, backend=backend)
    links = dbscan._links(forest, *shards, known).view(LINK_DTYPE)
    for index, _, border in forest.borders(shards, np.concatenate(known)):
        found[index]["border"].append(border)
    label = dbscan._labeller(number(np.concatenate(parts), links), metric)
    return _tables(
        (batch for shard, state in zip(shards, found, strict=True) for batch in label(shard, state)), grid.n_models
    )


def by_cells(
    x: np.ndarray, grid: DbscanParameters, centres: np.ndarray, engine: LocalEngine, metric: Metric = "euclidean"
) -> tuple[np.ndarray, np.ndarray]:
    """The same of `fit_dbscan_cells`'s tasks over the cells of float64[k, d] centres."""
    cells = VoronoiCells(centres, metric)
    block = pa.RecordBatch.from_arrays(
        [
            pa.array([np.arange(len(x)).tobytes()], pa.binary()),
            pa.array([np.ascontiguousarray(x, np.float32).tobytes()], pa.binary()),
            pa.array([x.shape[1]], pa.int32()),
        ],
        ["ids", "data", "width"],
    )
    routed = cell_tasks.route(cells, grid.eps)([block])
    pieces = _each_cell(routed, cell_tasks.find_core(cells, grid, engine))
    found = list(_each_cell(pieces, cell_tasks.join(grid, metric, engine)))
    members = [b for b in found if b.column("kind")[0].as_py() == cell_tasks.MEMBERS]
    links = [np.frombuffer(b.column("data")[0].as_py(), LINK_DTYPE) for b in cell_tasks.link(grid.n_models)(members)]
    parts = [
        np.frombuffer(b.column("data")[0].as_py(), PART_DTYPE)
        for b in found
        if b.column("kind")[0].as_py() == cell_tasks.PARTS
    ]
    numbers = number(np.concatenate(parts), np.concatenate([np.empty(0, LINK_DTYPE), *links]))
    labelled = (b for b in found if b.column("kind")[0].as_py() == cell_tasks.BLOCK)
    return _tables(cell_tasks.renumber(numbers)(labelled), grid.n_models)


def _each_cell(
    batches: Iterable[pa.RecordBatch], work: Callable[[blocks.Batches], blocks.Batches]
) -> list[pa.RecordBatch]:
    """`shards.place`: one partition for each cell."""
    held: dict[int, list[pa.RecordBatch]] = {}
    for batch in batches:
        held.setdefault(batch.column("cell")[0].as_py(), []).append(batch)
    return [out for cell in sorted(held) for out in work(held[cell])]


def _tables(batches: Iterable[pa.RecordBatch], models: int) -> tuple[np.ndarray, np.ndarray]:
    ids, labels, distances = [], [], []
    for batch in batches:
        for row in range(len(batch)):
            own = np.frombuffer(batch.column("ids")[row].as_py(), np.int64)
            ids.append(own)
            labels.append(np.frombuffer(batch.column("labels")[row].as_py(), np.int32).reshape(len(own), models))
            distances.append(
                np.frombuffer(batch.column("distances")[row].as_py(), np.float32).reshape(len(own), models)
            )
    order = np.argsort(np.concatenate(ids))
    return np.concatenate(labels)[order], np.concatenate(distances)[order]


def check_against_scikit_learn(
    truth: np.ndarray, grid: DbscanParameters, labels: np.ndarray, distances: np.ndarray
) -> None:
    """Core rows, their partition, noise and the nearest core row of every model; ``truth`` float64[n, n] distances."""
    rows = np.arange(len(truth))
    for model, (eps, least) in enumerate(product(grid.eps, grid.min_samples)):
        theirs = DBSCAN(eps=eps, min_samples=least, metric="precomputed").fit(truth)
        core = np.isin(rows, theirs.core_sample_indices_)
        assert np.array_equal(distances[:, model] == 0, core), (eps, least)
        assert np.array_equal(labels[core, model], theirs.labels_[core]), (eps, least)
        assert np.array_equal(labels[:, model] < 0, theirs.labels_ < 0), (eps, least)
        border = np.flatnonzero(~core & (labels[:, model] >= 0))
        if len(border):
            to = truth[np.ix_(border, core)]
            assert np.allclose(distances[border, model], to.min(axis=1), rtol=1e-6, atol=0), (eps, least)
            same = labels[core, model] == labels[border, model][:, None]
            assert np.allclose(np.where(same, to, np.inf).min(axis=1), to.min(axis=1), rtol=1e-6, atol=0)
