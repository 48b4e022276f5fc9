"""A tree of bisections: the way of rows down it, and the clusters of every k that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BisectingTree:
    """Bisecting k-means of every k up to ``largest``.

    Node 0 is all rows; the i-th split, in the order they were made, divides its node into nodes 2i + 1 and 2i + 2.
    ``left`` int64[nodes] is the first of a node's two, -1 where it was not divided. So the first k - 1 splits
    are the clustering of k, and clusterings are nested. Of every node: centroids float32[nodes, d], sizes
    int64[nodes] and inertia float64[nodes] (about the mean of its rows), as the last pass found them.

    ``settled`` int64[splits] is the pass that settled each split, -1 where ``max_iter`` of them ended the search first:
    of ``passes`` in all.
    """

    left: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    inertia: np.ndarray
    settled: np.ndarray
    passes: int
    seconds: float

    @property
    def converged(self) -> bool:
        return bool((self.settled >= 0).all())

    @property
    def n_iter(self) -> int:
        """The passes that its splits took."""
        return int(self.settled.max(initial=0)) if self.converged else self.passes

    def first(self, k: int) -> BisectingTree:
        """The tree of the first k - 1 splits alone, whatever larger k it was grown for."""
        nodes = slice(2 * k - 1)
        left = np.where(self.left[nodes] < 2 * k - 1, self.left[nodes], -1)
        centroids, sizes, inertia = self.centroids[nodes], self.sizes[nodes], self.inertia[nodes]
        return BisectingTree(left, centroids, sizes, inertia, self.settled[: k - 1], self.passes, self.seconds)

    @property
    def largest(self) -> int:
        """The largest k that the tree holds."""
        return (len(self.left) + 1) // 2

    def leaves(self, k: int) -> np.ndarray:
        """Nodes int64 that are the clusters of k, from left to right: cluster c is the c-th.

        Where k is above `largest` they are only that many. ValueError below 1.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        found: list[int] = []
        ahead = [0]
        while ahead:
            node = ahead.pop()
            left = int(self.left[node])
            # Splits of larger k come later, so their nodes have larger numbers.
            if 0 <= left < 2 * k - 1:
                ahead += [left + 1, left]
            else:
                found.append(node)
        return np.array(found)

    def clusters(self, ks: Sequence[int]) -> np.ndarray:
        """int32[nodes, len(ks)]: the cluster that rows of a node belong to; -1 where they are of several."""
        number = np.full((len(self.left), len(ks)), -1, np.int32)
        for model, k in enumerate(ks):
            leaves = self.leaves(k)
            number[leaves, model] = np.arange(len(leaves))
        for node in np.flatnonzero(self.left >= 0):
            for child in (self.left[node], self.left[node] + 1):
                number[child] = np.where(number[node] >= 0, number[node], number[child])
        return number


@dataclass(frozen=True)
class Planes:
    """What divides the two sides of every split, parents before children: nodes and their left children int64[s],
    and the plane half-way between the children's centroids, normals float64[d, s] and offsets float64[s]."""

    nodes: np.ndarray
    left: np.ndarray
    normals: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, left: np.ndarray, centres: np.ndarray) -> Planes:
        """From int64[nodes] and float64[nodes, d]; children lie side by side and behind their parents."""
        nodes = np.flatnonzero(left >= 0)
        a, b = centres[left[nodes]], centres[left[nodes] + 1]
        offsets = 0.5 * np.einsum("ij,ij->i", b - a, b + a)
        return cls(nodes, left[nodes], np.ascontiguousarray((b - a).T), offsets)

    def firmness(self, distances: np.ndarray) -> np.ndarray:
        """How firmly rows belong to nodes, float64[n, nodes], 0 to 1: the least that a split on the way there says.

        A split says 1 - own / other, of the distances float64[n, nodes] to the centroids of its two sides: 0 half-way
        between them. 0 too on ways that rows do not take; NaN for the top, where nothing was split.
        """
        firm = np.full(distances.shape, np.nan)
        # Parents come before their children, so their columns are made.
        for node, left in zip(self.nodes, self.left, strict=True):
            parent, first, second = firm[:, node], distances[:, left], distances[:, left + 1]
            for own, other, column in ((first, second, left), (second, first, left + 1)):
                shares = own / np.where(other > 0, other, 1.0)
                says = np.where(other > 0, np.maximum(1.0 - shares, 0.0), 0.0)
                firm[:, column] = np.fmin(parent, says)
        return firm

    def descend(self, x: np.ndarray) -> np.ndarray:
        """The leaf int64[n] of every row float64[n, d]: from the top always to the nearer child, on ties the left one.

        As scikit-learn's BisectingKMeans predicts. One product with all splits' normals, O(n d s).
        """
        right = x @ self.normals > self.offsets
        at = np.zeros(len(x), np.int64)
        for split, (node, left) in enumerate(zip(self.nodes, self.left, strict=True)):
            here = np.flatnonzero(at == node)
            at[here] = left + right[here, split]
        return at
