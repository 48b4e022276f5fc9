"""DBSCAN, exact, by an engine that clusters one partition at a time: Voronoi cells with a halo.

The labels are those of `cluster.density.dbscan`. This way is for engines whose algorithms take a partition whole:
the exact ones in Arrow tasks, a library's own DBSCAN in a pandas UDF of one cell a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.density.cell_tasks import (
    BLOCK,
    FOUND_SCHEMA,
    MEMBERS,
    OPENED,
    PARTS,
    PIECE_SCHEMA,
    find_core,
    join,
    link,
    renumber,
    route,
)
from motorpool.cluster.density.dbscan import DbscanParameters
from motorpool.cluster.labelled import LABELLED_SCHEMA, Labelled, stored_labels
from motorpool.errors import MotorpoolError
from motorpool.kernels.cells.engines import LocalEngine
from motorpool.kernels.cells.halo import VoronoiCells
from motorpool.kernels.pairs.geometry import Metric
from motorpool.kernels.trees.components import LINK_DTYPE, PART_DTYPE, number
from motorpool.neighbours.shards import rough_centres
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.coreset import draw_coreset, measure_spread
from motorpool.spark.placement import place, place_groups

#: A cell and its halo hold at most this many rows and bytes of vectors: one task has them all.
CELL_ROWS = 2**20
CELL_BYTES = 2 * 2**30
#: The same for a pandas UDF: a group travels as one Arrow batch, of which a column has less than 2^31 bytes.
GROUP_BYTES = 2**30
#: Cells are made for about this many rows of their own, but for at least so many where there are more slots.
_ROWS_PER_CELL = 32_768
_FEWEST_PER_CELL = 1024
#: Rows of the coreset that a centre is found by.
_CORESET_ROWS_PER_CELL = 16


def fit_dbscan_cells(
    block_df: DataFrame,
    grid: DbscanParameters,
    *,
    metric: Metric,
    seed: int,
    engine: LocalEngine,
    n_cells: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Labelled:
    """All models of a grid, equal to those of `fit_dbscan` in every label and distance; they are persisted.

    The tasks get a cell's Arrow batches.

    Every row goes to the Voronoi cell of its nearest centre, from a rough KMeans with ``n_cells`` (by default one
    for 32,768 rows, or several for each slot), and to the halo of each cell that may hold rows within eps of it
    (see `halo`). The result is exact, given an exact engine:

    1. A cell with its halo holds all rows within eps of the cell's own rows, so it counts these rows' neighbours.
    2. The cells that own the halo's rows send which of them are core. Two core rows within eps are both in the cell of
       either, so no link is missed; and two core rows that a cell links are within eps, so none is made up.
    3. Components of two cells that share a core row are one.
    4. All core rows within eps of a border row lie in its cell or the halo, the nearest among them.

    Cost: four passes over the blocks; then rows are shuffled twice, to all cells whose halo for the largest eps
    holds them. For each eps the engine looks anew at the pairs of the halo that this eps needs, twice, and for each
    model at those of border rows and noise; `fit_dbscan` shares pairs over the grid. Halos are small where eps
    is small against the distance between centres, and hold nearly everything where it is not: on many columns,
    where all distances are alike, that is soon.

    Memory of a task: one cell and its halo, twice while it is put together, what the engine takes, and 8 bytes for
    each of its rows and models. Memory of the driver: 18 bytes for each component of a cell's core rows and for each
    link, over all models.

    Raises MotorpoolError where a cell and its halo are too large for one task, ValueError where there are no rows.
    """
    return _fit(block_df, grid, metric, seed, engine, n_cells, progress, _in_arrow, CELL_BYTES)[0]


def fit_dbscan_library(
    block_df: DataFrame,
    grid: DbscanParameters,
    *,
    metric: Metric,
    seed: int,
    engine: LocalEngine,
    n_cells: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Labelled, np.ndarray]:
    """`fit_dbscan_cells` by pandas UDFs (``applyInPandas``), in which a library clusters one cell with its halo.

    Both steps of DBSCAN are such calls: whether a row is core is decided in its own cell; then the core rows of the
    cell and its halo are clustered, and cells whose clusters share a core row have one cluster of both. A cell's
    vectors travel as a few binary values, not as a value for each row, so pandas costs no more than a copy.

    Gives the labelled rows, persisted, and int64[n_models]: how many rows the library's rounding left open, so that
    float64 decided them (`backend.library`); a row of several halos counts in each.

    Memory of a task: what `fit_dbscan_cells` takes, and the cell with its halo twice more. A cell and its halo hold at
    most 2^30 bytes of vectors. Raises what `fit_dbscan_cells` raises.
    """
    return _fit(block_df, grid, metric, seed, engine, n_cells, progress, _in_pandas, GROUP_BYTES)


#: Runs a task's work over rows of one cell in each partition or group: (rows, work, schema, number of cells).
Over = Callable[[DataFrame, Callable[[Batches], Batches], str, int], DataFrame]


def _in_arrow(pieces: DataFrame, work: Callable[[Batches], Batches], schema: str, n_cells: int) -> DataFrame:
    return place(pieces, "cell", n_cells).mapInArrow(work, schema)


def _in_pandas(pieces: DataFrame, work: Callable[[Batches], Batches], schema: str, n_cells: int) -> DataFrame:
    names = pieces.columns

    def cluster_cell(cell: pd.DataFrame) -> pd.DataFrame:
        rows = pa.RecordBatch.from_pandas(cell[names], preserve_index=False)
        found: pd.DataFrame = pa.Table.from_batches(list(work([rows]))).to_pandas()
        return found

    return place_groups(pieces, "cell", n_cells).applyInPandas(cluster_cell, schema)


def _fit(
    block_df: DataFrame,
    grid: DbscanParameters,
    metric: Metric,
    seed: int,
    engine: LocalEngine,
    n_cells: int | None,
    progress: Callable[[str], None],
    over: Over,
    most_bytes: int,
) -> tuple[Labelled, np.ndarray]:
    spread = measure_spread(block_df)
    if spread.n == 0:
        raise ValueError("there are no rows to compare")
    wanted = n_cells or _count_cells(spread.n, blocks.parallelism(block_df.sparkSession))
    coreset = draw_coreset(block_df, spread, seed, _CORESET_ROWS_PER_CELL * wanted)
    cells = VoronoiCells(rough_centres(coreset.rows, metric, wanted, seed), metric)
    owned, needed = _sizes(block_df, cells, grid.eps)
    _refuse_large(needed, grid.eps, spread.n, len(spread.mean), most_bytes)
    # Among equal rows several centres may have met.
    cells = VoronoiCells(cells.centres[owned > 0], metric)
    progress(f"{len(cells)} cells, at most {needed.max():,} of {spread.n:,} rows in one and its halo")

    routed = block_df.mapInArrow(route(cells, grid.eps), PIECE_SCHEMA)
    pieces = blocks.persist(over(routed, find_core(cells, grid, engine), PIECE_SCHEMA, len(cells)))
    found = None
    try:
        pieces.count()
        progress(f"core rows found in {len(cells)} cells")
        found = blocks.persist(over(pieces, join(grid, metric, engine), FOUND_SCHEMA, len(cells)))
        members = place(found.where(F.col("kind") == MEMBERS), "cell", len(cells))
        linked = blocks.to_driver(members.mapInArrow(link(grid.n_models), FOUND_SCHEMA), "data")
        links = _together((data for (data,) in linked), LINK_DTYPE)
        parts, opened = _told(found)
        numbers = number(parts, links)
        progress("clusters merged over all cells")
        labelled = found.where(F.col("kind") == BLOCK).mapInArrow(renumber(numbers), LABELLED_SCHEMA)
        labelled = blocks.computed(labelled)
        return stored_labels(labelled, numbers.sizes(grid.n_models), spread.mean), opened
    finally:
        pieces.unpersist()
        if found is not None:
            found.unpersist()


def _count_cells(n: int, slots: int) -> int:
    return max(1, math.ceil(n / _ROWS_PER_CELL), min(4 * slots, n // _FEWEST_PER_CELL))


def _sizes(block_df: DataFrame, cells: VoronoiCells, eps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """int64[k] rows that are the cells' own, and int64[E, k] rows that they need for each eps; one pass."""

    def add(state: blocks.Tally, batch: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(batch):
            own = cells.own(x)
            first = cells.first_needed(x, own, eps)
            state.total[0] += np.bincount(own, minlength=len(cells))
            for e in range(len(eps)):
                state.total[e + 1] += (first <= e).sum(axis=0)

    total = blocks.fold(block_df, lambda: blocks.Tally(np.zeros((len(eps) + 1, len(cells)), np.int64)), add).total
    return total[0], total[1:]


def _refuse_large(needed: np.ndarray, eps: tuple[float, ...], n: int, width: int, most_bytes: int) -> None:
    most = min(CELL_ROWS, most_bytes // (4 * width))
    for e, rows in zip(eps, needed.max(axis=1).tolist(), strict=True):
        if rows > most:
            raise MotorpoolError(
                f"dbscan by cells: with eps = {e:g} one cell and its halo hold {rows:,} of {n:,} rows of {width} "
                f"columns, and one task takes at most {most:,}. Use `way: pairs`, or a smaller eps."
            )


def _told(found: DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """PART_DTYPE[p] components of all cells, which are few compared with the rows, and int64[n_models] open rows."""
    told: dict[str, list[bytes]] = {PARTS: [], OPENED: []}
    for kind, data in blocks.to_driver(found.where(F.col("kind").isin(PARTS, OPENED)), "kind", "data"):
        told[kind].append(data)
    opened = np.sum([np.frombuffer(data, np.int64) for data in told[OPENED]], axis=0)
    return _together(told[PARTS], PART_DTYPE), opened


def _together(sent: Iterable[bytes], dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *(np.frombuffer(data, dtype) for data in sent)])
