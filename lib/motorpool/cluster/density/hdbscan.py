"""HDBSCAN on all rows, exact, every min_cluster_size from one spanning tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import LABELLED_SCHEMA, Labelled, LabelledBlock, packed, stored_labels
from motorpool.kernels.trees.condense import FlatClusters, flat_clusters, single_linkage
from motorpool.neighbours.shards import Arranged, Shard, over_shards
from motorpool.neighbours.spanning import SpanningTree, send, spanning_tree
from motorpool.spark import blocks

_LABELS, _STRENGTHS, _GLOSH = "labels", "strengths", "glosh"


@dataclass(frozen=True)
class HdbscanParameters:
    """``min_samples`` counts the row itself, as scikit-learn does (the hdbscan library's is one less)."""

    min_cluster_size: tuple[int, ...]
    min_samples: int = 5
    method: str = "eom"


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
    flat = [flat_clusters(linkage, size, method=grid.method) for size in grid.min_cluster_size]  # type: ignore[arg-type]
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

    labelled = blocks.computed(over_shards(arranged, state, work, LABELLED_SCHEMA, with_rows=True))
    return HdbscanModels(stored_labels(labelled, [f.n_clusters for f in flat], arranged.mean), tree, flat)
