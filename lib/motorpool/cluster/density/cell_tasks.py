"""The tasks of DBSCAN by cells: send rows to cells, find core rows, join clusters (see `cells`).

Each function makes the work of one step for `mapInArrow`. A task has one Voronoi cell: its own rows, and its *halo*,
which are the rows of other cells within eps of it. A row is its own cell's in one task, and may be in the halo of
others. The owner of a row is the cell that it lies in: only that cell has all of the row's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from motorpool.cluster.density.dbscan import DbscanParameters
from motorpool.cluster.labelled import LABELLED_SCHEMA, LabelledBlock, packed
from motorpool.kernels.cells.engines import Found, LocalEngine
from motorpool.kernels.cells.halo import VoronoiCells
from motorpool.kernels.pairs.geometry import Metric, to_distance
from motorpool.kernels.trees.components import LINK_DTYPE, ClusterNumbers, parts_of
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Pieces that are sent to a cell. ``rows``: its own rows and those of its halo (``facts`` int64[3, n]: owner, level,
#: id; ``data`` vectors). ``core``: the rows among them that are core (``facts`` int64[n] ids, ``data`` bits of
#: bool[n, models]). ``opened``: of how many of the cell's own rows float64 had to decide whether they are core
#: (``facts`` int64[models]).
PIECE_SCHEMA = "cell INT, kind STRING, facts BINARY, data BINARY"
_ROWS, _CORE, OPENED = "rows", "core", "opened"
#: Results of a cell: labelled blocks of its own rows, and arrays in ``data``: int64[models] under ``opened``, how often
#: float64 had to decide about a row, whether it is core or what it is joined with.
FOUND_SCHEMA = f"kind STRING, cell INT, {LABELLED_SCHEMA}"
BLOCK, PARTS, MEMBERS, LINKS = "block", "parts", "members", "links"


@dataclass
class _Cell:
    """The rows of one cell and of its halo, in a task.

    owner, level and ids int64[n], x float32[n, d]; core bool[n, models], found by the owners. The level of a row is the
    position of the smallest eps that takes the row into the halo. The cell's own rows come first, then those of the
    halo by level, so the rows that an eps needs are the first ones. opened int64[models] is what `find_core` has sent.
    """

    index: int
    owner: np.ndarray
    level: np.ndarray
    ids: np.ndarray
    x: np.ndarray
    core: np.ndarray
    opened: np.ndarray

    @property
    def own(self) -> int:
        return int((self.owner == self.index).sum())

    def within(self, e: int) -> int:
        """How many rows the e-th eps needs."""
        return int(np.searchsorted(self.level, e, side="right"))


def route(cells: VoronoiCells, eps: tuple[float, ...]) -> Callable[[Batches], Batches]:
    """Sends every row to its own cell and to those that need it."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in blocks.block_arrays(batch):
                own = cells.own(x)
                first = cells.first_needed(x, own, eps)
                for cell in range(len(cells)):
                    rows = np.flatnonzero(first[:, cell] < len(eps))
                    if len(rows):
                        facts = np.stack([own[rows], first[rows, cell], ids[rows]])
                        yield _piece(cell, _ROWS, facts, x[rows])

    return run


def find_core(cells: VoronoiCells, grid: DbscanParameters, engine: LocalEngine) -> Callable[[Batches], Batches]:
    """Finds each cell's own core rows, and sends them to the cells that have them in their halo."""

    def run(batches: Batches) -> Batches:
        for cell in _assemble(batches, n_models=0):
            for start in range(0, len(cell.ids), blocks.BLOCK_ROWS):
                cut = slice(start, start + blocks.BLOCK_ROWS)
                facts = np.stack([cell.owner[cut], cell.level[cut], cell.ids[cut]])
                yield _piece(cell.index, _ROWS, facts, cell.x[cut])
            own = cell.own
            found = [
                engine.core(cell.x[: cell.within(e)], own, cells.metric, eps, grid.min_samples)
                for e, eps in enumerate(grid.eps)
            ]
            core = np.concatenate([f.rows for f in found], axis=1)
            yield _piece(cell.index, OPENED, np.concatenate([f.opened for f in found]), np.empty(0))
            marked = np.flatnonzero(core.any(axis=1))
            # Sums in another order may decide otherwise about a row that a cell needs for the sake of rounding alone.
            # A row that the cell has not got is dropped there by its id; one that is not sent now is beyond eps.
            first = cells.first_needed(cell.x[marked], cell.owner[marked], grid.eps)
            for other in range(len(cells)):
                rows = marked[first[:, other] < len(grid.eps)]
                if len(rows):
                    yield _piece(other, _CORE, cell.ids[rows], np.packbits(core[rows], axis=1))

    return run


def join(grid: DbscanParameters, metric: Metric, engine: LocalEngine) -> Callable[[Batches], Batches]:
    """Labels each cell's own rows with its components, and sends the components of core rows to the rows' owners."""

    def run(batches: Batches) -> Batches:
        for cell in _assemble(batches, grid.n_models):
            roots, opened = _components(cell, grid, metric, engine)
            yield _array(OPENED, cell.index, cell.opened + opened)
            yield _array(PARTS, cell.index, parts_of(cell.index, cell.ids, roots))
            core = np.flatnonzero((roots >= 0).any(axis=1))
            for owner in np.unique(cell.owner[core]).tolist():
                rows = core[cell.owner[core] == owner]
                members = np.empty(len(rows), _member_dtype(grid.n_models))
                members["cell"], members["id"], members["roots"] = cell.index, cell.ids[rows], roots[rows]
                yield _array(MEMBERS, owner, members)
            labels, distances = _labels(cell, roots, grid, metric, engine)
            own = slice(0, cell.own)
            for batch in packed(LabelledBlock(cell.ids[own], cell.x[own], labels, distances)):
                yield _found(BLOCK, cell.index, batch)

    return run


def _components(cell: _Cell, grid: DbscanParameters, metric: Metric, engine: LocalEngine) -> Found:
    """int32[n, models] components of the core rows, -1 elsewhere."""
    core = cell.core
    roots, opened = np.full(core.shape, -1, np.int32), np.zeros(grid.n_models, np.int64)
    for e, eps in enumerate(grid.eps):
        models = slice(e * len(grid.min_samples), (e + 1) * len(grid.min_samples))
        rows = np.flatnonzero(core[: cell.within(e), models].any(axis=1))
        found = engine.components(cell.x[rows], metric, eps, core[rows, models])
        roots[rows, models], opened[models] = found
    return Found(roots, opened)


def _labels(
    cell: _Cell, roots: np.ndarray, grid: DbscanParameters, metric: Metric, engine: LocalEngine
) -> tuple[np.ndarray, np.ndarray]:
    """int32[own, models] components, those of border rows among them, and float32[own, models] distances."""
    labels = roots[: cell.own].copy()
    distances = np.where(labels >= 0, np.float32(0.0), np.float32(np.nan))
    for model in range(grid.n_models):
        core = np.flatnonzero(roots[:, model] >= 0)
        # Of equally near rows the engine takes the first: the one of the lowest id.
        core = core[np.argsort(cell.ids[core])]
        waiting = np.flatnonzero(labels[:, model] < 0)
        eps = grid.eps[model // len(grid.min_samples)]
        nearest, gaps = engine.nearest(cell.x[waiting], cell.x[core], metric, eps)
        border = nearest >= 0
        labels[waiting[border], model] = roots[core[nearest[border]], model]
        distances[waiting[border], model] = to_distance(gaps[border], metric)
    return labels, distances


def link(n_models: int) -> Callable[[Batches], Batches]:
    """Pairs each cell's components with those of other cells that have a core row in common: every pair once."""

    def run(batches: Batches) -> Batches:
        of_cell: dict[int, list[np.ndarray]] = {}
        for batch in batches:
            for cell, data in zip(batch.column("cell").to_pylist(), batch.column("data"), strict=True):
                of_cell.setdefault(cell, []).append(np.frombuffer(data.as_buffer(), _member_dtype(n_models)))
        for cell, parts in of_cell.items():
            (mine,) = (p for p in parts if p["cell"][0] == cell)
            mine = mine[np.argsort(mine["id"])]
            found = [_links(mine, theirs) for theirs in parts if theirs["cell"][0] != cell]
            if found:
                yield _array(LINKS, cell, np.concatenate(found))

    return run


def _links(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    roots = mine["roots"][np.searchsorted(mine["id"], theirs["id"])]
    # At an eps below its level a row is not in their halo: it has no component there.
    row, model = np.nonzero(theirs["roots"] >= 0)
    pairs = np.stack([model, roots[row, model], theirs["roots"][row, model]])
    pairs = np.unique(pairs, axis=1)
    links = np.empty(pairs.shape[1], LINK_DTYPE)
    links["model"], links["root_a"], links["root_b"] = pairs
    links["place_a"], links["place_b"] = mine["cell"][0], theirs["cell"][0]
    return links


def renumber(numbers: ClusterNumbers) -> Callable[[Batches], Batches]:
    """Labels of a cell's components as clusters."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            cells = batch.column("cell").to_pylist()
            labels = []
            for cell, ids, data in zip(cells, batch.column("ids"), batch.column("labels"), strict=True):
                roots = np.frombuffer(data.as_buffer(), np.int32).reshape(len(ids.as_buffer()) // 8, -1).copy()
                row, model = np.nonzero(roots >= 0)
                roots[row, model] = numbers.of(model, cell, roots[row, model])
                labels.append(roots.tobytes())
            names = _names(LABELLED_SCHEMA)
            columns = [pa.array(labels, pa.binary()) if n == "labels" else batch.column(n) for n in names]
            yield pa.RecordBatch.from_arrays(columns, names=names)

    return run


# -- what travels ------------------------------------------------------------------------------------


def _names(schema: str) -> list[str]:
    return [column.split()[0] for column in schema.split(", ")]


def _member_dtype(n_models: int) -> np.dtype:
    """A core row in a cell, and its component there in every model."""
    return np.dtype([("cell", "i4"), ("id", "i8"), ("roots", "i4", (n_models,))])


def _piece(cell: int, kind: str, facts: np.ndarray, data: np.ndarray) -> pa.RecordBatch:
    sent = [pa.array([a.tobytes()], pa.binary()) for a in (facts, data)]
    return pa.RecordBatch.from_arrays(
        [pa.array([cell], pa.int32()), pa.array([kind]), *sent], names=_names(PIECE_SCHEMA)
    )


def _array(kind: str, cell: int, array: np.ndarray) -> pa.RecordBatch:
    none = pa.array([b""], pa.binary())
    data = pa.array([array.tobytes()], pa.binary())
    columns = [pa.array([kind]), pa.array([cell], pa.int32()), none, data, pa.array([0], pa.int32()), *[none] * 4]
    return pa.RecordBatch.from_arrays(columns, names=_names(FOUND_SCHEMA))


def _found(kind: str, cell: int, block: pa.RecordBatch) -> pa.RecordBatch:
    head = [pa.array([kind] * len(block)), pa.array([cell] * len(block), pa.int32())]
    return pa.RecordBatch.from_arrays([*head, *block.columns], names=_names(FOUND_SCHEMA))


def _assemble(batches: Batches, n_models: int) -> Iterator[_Cell]:
    """The cells of a partition (one in each), with flags for ``n_models`` where the owners have sent them."""
    of_cell: dict[int, list[tuple[str, np.ndarray, memoryview]]] = {}
    for batch in batches:
        columns = [batch.column(name) for name in ("cell", "kind", "facts", "data")]
        for row in range(len(batch)):
            cell, kind = columns[0][row].as_py(), columns[1][row].as_py()
            facts = np.frombuffer(columns[2][row].as_buffer(), np.int64)
            of_cell.setdefault(cell, []).append((kind, facts, memoryview(columns[3][row].as_buffer())))
    for index, pieces in of_cell.items():
        sent = [(facts.reshape(3, -1), data) for kind, facts, data in pieces if kind == _ROWS]
        if not sent:
            continue
        owner, level, ids = np.concatenate([facts for facts, _ in sent], axis=1)
        x = np.concatenate([np.frombuffer(d, np.float32).reshape(f.shape[1], -1) for f, d in sent])
        order = np.lexsort((ids, level, owner != index))
        flags = [(facts, data) for kind, facts, data in pieces if kind == _CORE]
        core = _core(ids[order], flags, n_models)
        opened = sum((facts for kind, facts, _ in pieces if kind == OPENED), np.zeros(n_models, np.int64))
        yield _Cell(index, owner[order], level[order], ids[order], x[order], core, opened)


def _core(ids: np.ndarray, flags: list[tuple[np.ndarray, memoryview]], n_models: int) -> np.ndarray:
    """bool[n, models]: whether the owners have found the rows to be core."""
    core = np.zeros((len(ids), n_models), bool)
    order = np.argsort(ids)
    for sent, data in flags:
        bits = np.frombuffer(data, np.uint8).reshape(len(sent), -1)
        at = order[np.minimum(np.searchsorted(ids, sent, sorter=order), len(ids) - 1)]
        here = ids[at] == sent
        core[at[here]] = np.unpackbits(bits[here], axis=1, count=n_models)
    return core
