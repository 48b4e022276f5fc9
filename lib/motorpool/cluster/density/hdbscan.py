"""HDBSCAN on all rows: exact, every min_cluster_size from one spanning tree; or by a library, all rows in one task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.backend.library import Hdbscan, HdbscanMethod
from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import LABELLED_SCHEMA, Labelled, LabelledBlock, packed, stored_labels
from motorpool.errors import MotorpoolError
from motorpool.kernels.trees.condense import FlatClusters, flat_clusters, number_by_first_row, single_linkage
from motorpool.neighbours.shards import Arranged, Shard, over_shards
from motorpool.neighbours.spanning import SpanningTree, send, spanning_tree
from motorpool.spark import block_files, blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.coreset import measure_spread

#: A library's task holds vectors of at most this many bytes.
TASK_BYTES = 2 * 2**30
_LABELS, _STRENGTHS, _GLOSH = "labels", "strengths", "glosh"


@dataclass(frozen=True)
class HdbscanParameters:
    """``min_samples`` counts the row itself, as scikit-learn does (the hdbscan library's is one less)."""

    min_cluster_size: tuple[int, ...]
    min_samples: int = 5
    method: HdbscanMethod = "eom"


@dataclass(frozen=True)
class HdbscanModels:
    """Labels (persisted), and for each min_cluster_size its clusters; rows of those in the order of ``tree.ids``."""

    labelled: Labelled
    tree: SpanningTree
    flat: Sequence[FlatClusters]


def fit_hdbscan(
    arranged: Arranged,
    nearest: DataFrame,
    grid: HdbscanParameters,
    progress: Callable[[str], None] = lambda text: None,
    backend: Backend = CPU,
) -> HdbscanModels:
    """HDBSCAN (Campello, Moulavi & Sander 2013; Campello et al. 2015) for every min_cluster_size of a grid.

    ``nearest`` comes from `search` with k of at least min_samples - 1. Exact: the tree is the minimum spanning tree
    of mutual reachability over all rows (`spanning_tree`, whose products ``backend`` makes), and clusters follow from
    it as `condense` says. ``strength`` is the membership, the outlier score GLOSH. Clusters are numbered by their
    smallest image_id.

    Driver memory: that of `spanning_tree`, and 24 bytes for each row and min_cluster_size.
    """
    tree = spanning_tree(arranged, nearest, grid.min_samples, progress, backend)
    linkage = single_linkage(tree.left, tree.right, tree.distance, len(tree.ids))
    flat = [flat_clusters(linkage, size, method=grid.method) for size in grid.min_cluster_size]
    arrays = {
        _LABELS: np.stack([f.labels for f in flat], axis=1),
        _STRENGTHS: np.stack([f.strengths for f in flat], axis=1),
        _GLOSH: np.stack([f.glosh for f in flat], axis=1),
    }
    state = send(arranged, tree.order, arrays)

    def work(shard: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
        labels, strengths, glosh = (found[kind][0] for kind in (_LABELS, _STRENGTHS, _GLOSH))
        whole = LabelledBlock(shard.rows.ids, shard.rows.raw, labels, strengths=strengths, outliers=glosh)
        yield from packed(whole)

    labelled = block_files.computed(over_shards(arranged, state, work, LABELLED_SCHEMA, with_rows=True))
    return HdbscanModels(stored_labels(labelled, [f.n_clusters for f in flat], arranged.mean), tree, flat)


def fit_hdbscan_library(
    block_df: DataFrame,
    grid: HdbscanParameters,
    hdbscan: Hdbscan,
    progress: Callable[[str], None] = lambda text: None,
) -> Labelled:
    """HDBSCAN by a library, Euclidean, for every min_cluster_size of a grid: labels and strengths, persisted.

    All rows go to one task, which calls the library for one min_cluster_size after the other. Clusters are numbered by
    their smallest image_id; there is no outlier score. As exact as the library: where no two distances are equal,
    scikit-learn's labels are those of `fit_hdbscan`. The libraries remove edges of equal weight one by one, in an order
    of their own, so there labels may differ.

    Memory of the task: 8 bytes for each number of the rows, 8 for each row and min_cluster_size, and what the library
    takes. MotorpoolError where the rows take more than TASK_BYTES, or what the library raises in the task; UnfitError
    for values whose squares float32 cannot hold; ValueError where there are no rows.
    """
    spread = measure_spread(block_df)
    n, width = spread.n, len(spread.mean)
    if n == 0:
        raise ValueError("there are no rows to compare")
    spread.check()
    most = TASK_BYTES // (4 * max(1, width))
    if n > most:
        raise MotorpoolError(
            f"hdbscan: engine: {hdbscan.name}: all rows go to one task, which takes at most {most:,} of {width} "
            f"columns ({TASK_BYTES / 2**30:g} GiB), and there are {n:,}: take fewer columns (a step pca), or "
            "engine: motorpool"
        )

    def work(batches: Batches) -> Batches:
        ids, x = np.empty(n, np.int64), np.empty((n, width), np.float32)
        start = 0
        for batch in batches:
            for some, rows in blocks.block_arrays(batch):
                cut = slice(start, start + len(some))
                ids[cut], x[cut] = some, rows
                start = cut.stop
        # A shuffle brings blocks in any order.
        order = np.argsort(ids)
        ids, x = ids[order], x[order]
        labels = np.full((n, len(grid.min_cluster_size)), -1, np.int32)
        strengths = np.zeros(labels.shape, np.float32)
        for m, size in enumerate(grid.min_cluster_size):
            # The root, all rows, is no cluster, and fewer rows do not make two.
            if n >= 2 * size:
                found, strengths[:, m] = hdbscan.fit(x, size, min(grid.min_samples, n), grid.method)
                labels[:, m] = number_by_first_row(found, n)[0]
        yield from packed(LabelledBlock(ids, x, labels, strengths=strengths))

    progress(f"{n:,} rows in one task of {hdbscan.name}'s HDBSCAN")
    labelled = blocks.computed(block_df.repartition(1).mapInArrow(work, LABELLED_SCHEMA))
    return stored_labels(labelled, _sizes(labelled, len(grid.min_cluster_size)), spread.mean)


def _sizes(labelled: DataFrame, n_models: int) -> np.ndarray:
    """int64[n_models] numbers of clusters, which are numbered without gaps."""
    read = stored_labels(labelled, (), np.empty(0)).blocks_of

    def largest(batches: Batches) -> Batches:
        for batch in batches:
            for block in read(batch):
                most = block.labels.max(axis=0).astype(np.int64)
                yield pa.RecordBatch.from_arrays([pa.array([most.tobytes()], pa.binary())], names=["largest"])

    found = [
        np.frombuffer(data, np.int64)
        for (data,) in blocks.to_driver(labelled.mapInArrow(largest, "largest BINARY"), "largest")
    ]
    sizes: np.ndarray = np.max(found, axis=0) + 1
    return sizes
