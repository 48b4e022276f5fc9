"""The top of an agglomerative tree: a few dozen leaves, each standing for many images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from motorpool.report.queries import Tree

#: Leaves that can be read side by side, and those drawn at most: a tree of more clusters is a picture that no page
#: holds, and a chain of a thousand is deeper than scipy's recursion.
MAX_LEAVES, MOST_LEAVES = 40, 200


@dataclass(frozen=True)
class Branches:
    """A drawn tree. Lines are float[n, 4] across the leaves (5, 15, 25, ... as scipy places them) and up in height.

    ``line_cluster`` int[n] is the cluster that a line lies in, -1 above the cut; ``leaf_cluster`` (-1: several),
    ``leaf_clusters`` (how many) and ``leaf_images`` (None: not known) belong to the leaves in their drawn order.
    """

    across: np.ndarray
    height: np.ndarray
    line_cluster: list[int]
    leaf_cluster: list[int]
    leaf_clusters: list[int]
    leaf_images: list[int | None]
    cut: float


def to_json(drawn: Branches) -> dict[str, Any]:
    """As plain lists and numbers, for the page."""
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in vars(drawn).items()}


def from_json(data: Mapping[str, Any]) -> Branches:
    """What `to_json` gave; further entries are left alone."""
    found = {f.name: data[f.name] for f in fields(Branches)}
    return Branches(**found | {name: np.array(found[name]) for name in ("across", "height")})


def branches(tree: Tree) -> Branches:
    """The last merges of the tree: as many leaves as the cut has clusters, or 40, and all where the tree is smaller.

    Every leaf lies in one cluster, since the cut undoes the last merges too; with more clusters than 40 the tree has
    more leaves, 200 at most. With more clusters than that some leaves stand for several. The numbers of images are
    the tree's weights.
    """
    m = len(tree.merges) + 1
    k = int(tree.clusters.max()) + 1
    n_leaves = min(m, max(MAX_LEAVES, min(k, MOST_LEAVES)))
    # In place of the weights, which scipy refuses as counts of points; the tree that it draws does not depend on them.
    counted = np.column_stack([tree.merges[:, :3], np.full(m - 1, 2.0)])
    drawn = hierarchy.dendrogram(counted, truncate_mode="lastp", p=n_leaves, no_plot=True)
    leaves = np.array(drawn["leaves"])
    images = _weights(tree.merges, m, leaves)
    held = _n_clusters(tree.merges, k)[leaves].tolist()
    points = [_a_point(tree.merges, m, int(node)) for node in leaves]
    cluster = [int(tree.clusters[at]) if n == 1 else -1 for at, n in zip(points, held, strict=True)]
    across, height = np.array(drawn["icoord"]), np.array(drawn["dcoord"])
    return Branches(
        across,
        height,
        [_cluster_of(line, cluster) for line in across],
        cluster,
        held,
        [None if np.isnan(n) else int(n) for n in images],
        _cut_height(tree.merges[:, 2], k),
    )


def _weights(merges: np.ndarray, m: int, nodes: np.ndarray) -> np.ndarray:
    """The images of each node, float64; NaN for a point whose first merge is with another point.

    The tree holds the weight of every merge: a point's own is what its first merge has besides its partner's.
    """
    weight = np.full(2 * m - 1, np.nan)
    weight[m:] = merges[:, 3]
    for a, b, _, total in merges:
        if a < m <= b:
            weight[int(a)] = total - weight[int(b)]
        elif b < m <= a:
            weight[int(b)] = total - weight[int(a)]
    result: np.ndarray = weight[nodes]
    return result


def _n_clusters(merges: np.ndarray, k: int) -> np.ndarray:
    """int64[2 m - 1]: the clusters below each node where the last k - 1 of the m - 1 merges are undone."""
    m = len(merges) + 1
    found = np.ones(2 * m - 1, np.int64)
    for at in range(m - k, m - 1):
        a, b = merges[at, :2].astype(int)
        found[m + at] = found[a] + found[b]
    return found


def _a_point(merges: np.ndarray, m: int, node: int) -> int:
    while node >= m:
        node = int(merges[node - m, 0])
    return node


def _cluster_of(line: np.ndarray, leaf_cluster: list[int]) -> int:
    """The cluster of all leaves below a line; -1 where it joins two.

    Its feet stand over the middles of its two sides, so the leaves there belong to one side each. A leaf of several
    clusters is above the cut as they are.
    """
    left, right = (leaf_cluster[int((at - 5) // 10)] for at in (line.min(), line.max()))
    return left if left == right else -1


def _cut_height(heights: np.ndarray, k: int) -> float:
    """Between the last merge that the cut keeps and the first that it undoes."""
    m = len(heights) + 1
    if k <= 1:
        return float(heights[-1]) * 1.05
    undone = float(heights[m - k])
    kept = float(heights[m - k - 1]) if m > k else 0.0
    return (undone + kept) / 2
