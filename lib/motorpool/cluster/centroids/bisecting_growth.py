"""A tree of bisections while it grows: splits start on a coreset and move with what passes over all rows find."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Collection, Sequence

import numpy as np

from motorpool.kernels.centroids.group_sums import GroupSums
from motorpool.kernels.trees.bisecting_tree import BisectingTree, Planes
from motorpool.spark.coreset import Coreset, Spread

#: Sides of equal rows have no inertia to win a share of: less than this share of all rows' inertia is rounding.
_ROUNDING = 1e-12


class Growth:
    """A tree on its way, about the mean of all rows: of every node its parent, left child, centre, count and inertia.

    The counts and inertia of nodes that no pass has seen are the coreset's estimates. ``settled`` holds the nodes whose
    splits have settled, and in which of the ``passes``. Nodes are numbered in the order in which the coreset alone
    makes them: so a node's number, which is also the seed of its division, does not depend on how far the tree goes.
    """

    def __init__(self, coreset: Coreset, spread: Spread, seed: int, n_init: int, tol: float) -> None:
        self._rows, self._weights = coreset.rows - spread.mean, coreset.weights
        self._seed, self._n_init, self._tol = seed, n_init, tol
        self.parent, self.left, self.centres = [-1], [-1], [np.zeros(len(spread.mean))]
        self.counts, self.inertia = [float(spread.n)], [spread.total]
        self.settled: dict[int, int] = {}
        self.passes = 0
        self._equal: set[int] = set()

    def copy(self) -> Growth:
        """A tree of its own as it stands, on the same coreset."""
        twin = copy.copy(self)
        for name in ("parent", "left", "centres", "counts", "inertia", "settled"):
            setattr(twin, name, copy.copy(getattr(self, name)))
        return twin

    @property
    def n_splits(self) -> int:
        return len(self.left) // 2

    @property
    def moving(self) -> list[int]:
        return [node for node, left in enumerate(self.left) if left >= 0 and node not in self.settled]

    def grow(self, k: int) -> list[int]:
        """The nodes of the first k - 1 splits, in their order on the coreset, which starts those that are not there.

        Only for a tree that no pass has moved.
        """

        def divided(node: int) -> bool:
            if self.left[node] < 0 and node not in self._equal and not self._divide(node):
                self._equal.add(node)
            return self.left[node] >= 0

        return self._first_splits(k, divided)

    def divide_all(self, nodes: Collection[int]) -> bool:
        """Grow until these leaves are divided; whether any of them could be."""
        k = self.n_splits + 1
        while any(self.left[node] < 0 and node not in self._equal for node in nodes):
            k += 1
            self.grow(k)
        return any(self.left[node] >= 0 for node in nodes)

    def order(self, k: int) -> tuple[list[int], list[int], list[int]]:
        """The nodes of the first k - 1 splits in their order by inertia; leaves that ask to be split among them; and
        the splits that this may still change with, since they have not settled."""
        lacking: list[int] = []
        moving: list[int] = []

        def divided(node: int) -> bool:
            split = self.left[node] >= 0
            if not split:
                lacking.append(node)
            elif node not in self.settled:
                moving.append(node)
            return split

        return self._first_splits(k, divided), lacking, moving

    def _first_splits(self, k: int, divided: Callable[[int], bool]) -> list[int]:
        ahead = [(-self.inertia[0], 0)]
        order: list[int] = []
        while ahead and len(order) < k - 1:
            _, node = heapq.heappop(ahead)
            if not divided(node):
                continue
            sides = (self.left[node], self.left[node] + 1)
            if all(self.counts[side] > 0 for side in sides):
                order.append(node)
                for side in sides:
                    heapq.heappush(ahead, (-self.inertia[side], side))
        return order

    def move(self, leaves: GroupSums) -> None:
        """Take in a pass: move the centres of splits to the means of their sides, and settle those that win little."""
        means = self._roll_up(leaves)
        self.passes += 1
        final = self.settled.keys() | {-1}
        for node in self.moving:
            sides = [self.left[node], self.left[node] + 1]
            settling = self.parent[node] in final
            if settling and not all(self.counts[side] > 0 for side in sides):
                # The splits above have moved all rows to one side: start again from rows that are here now.
                if not self._divide(node):
                    self.settled[node] = self.passes
                continue
            won = 0.0
            for side in sides:
                if self.counts[side] > 0:
                    won += self.counts[side] * float(np.square(means[side] - self.centres[side]).sum())
                    self.centres[side] = means[side]
            before = won + sum(self.inertia[side] for side in sides)
            if settling and won <= self._tol * before + _ROUNDING * self.inertia[0]:
                self.settled[node] = self.passes

    def _roll_up(self, leaves: GroupSums) -> np.ndarray:
        """Counts and inertia of all nodes from the leaves' (Chan et al., 1979); their means float64[nodes, d]."""
        means = np.stack(self.centres) + leaves.shifts
        self.counts, self.inertia = [float(c) for c in leaves.counts], leaves.inertia.tolist()
        for node in range(len(self.left) - 1, -1, -1):
            a = self.left[node]
            b = a + 1
            if a >= 0 and (n := self.counts[a] + self.counts[b]) > 0:
                share = self.counts[b] / n
                gap = means[b] - means[a]
                means[node] = means[a] + share * gap
                between = self.counts[a] * share * float(gap @ gap)
                self.counts[node], self.inertia[node] = n, self.inertia[a] + self.inertia[b] + between
        result: np.ndarray = means
        return result

    def _divide(self, node: int) -> bool:
        """Start the split of a node, or start it again, on the coreset's rows in it; False where they are all equal."""
        from sklearn.cluster import KMeans

        members = self._members(node)
        rows, weights = self._rows[members], self._weights[members]
        if not len(rows) or (rows == rows[0]).all():
            return False
        # About their own mean: float32 distances of a small far-off cluster lose nothing.
        mean = np.average(rows, axis=0, weights=weights)
        state = int(np.random.SeedSequence([self._seed, node]).generate_state(1)[0])
        model = KMeans(2, n_init=self._n_init, tol=1e-5, random_state=state)
        side = model.fit_predict((rows - mean).astype(np.float32), sample_weight=weights)
        if side.min() == side.max():
            return False
        if self.left[node] < 0:
            self.left[node] = len(self.left)
            self.parent += [node, node]
            self.left += [-1, -1]
            self.centres += [mean, mean]
            self.counts += [0.0, 0.0]
            self.inertia += [0.0, 0.0]
        for which in (0, 1):
            of = side == which
            child = self.left[node] + which
            self.centres[child] = np.average(rows[of], axis=0, weights=weights[of])
            self.counts[child] = float(weights[of].sum())
            self.inertia[child] = float(weights[of] @ np.square(rows[of] - self.centres[child]).sum(axis=1))
        return True

    def _members(self, node: int) -> np.ndarray:
        """The coreset's rows in a node, as int64 indices: those that walk down to it."""
        path = []
        while node:
            path.append(node)
            node = self.parent[node]
        members = np.arange(len(self._rows))
        for child in reversed(path):
            left = self.left[self.parent[child]]
            planes = Planes.of(np.array([1, -1, -1]), np.stack([self.centres[0], *self.centres[left : left + 2]]))
            members = members[planes.descend(self._rows[members]) == 1 + child - left]
        return members

    def tree(self, order: Sequence[int], mean: np.ndarray, seconds: float) -> BisectingTree:
        """The splits of ``order`` alone, numbered by it."""
        nodes = [0, *(self.left[node] + side for node in order for side in (0, 1))]
        number = {node: i for i, node in enumerate(nodes)}
        left = np.full(len(nodes), -1)
        for i, node in enumerate(order):
            left[number[node]] = 2 * i + 1
        centroids = (np.stack([self.centres[node] for node in nodes]) + mean).astype(np.float32)
        sizes, inertia = np.array(self.counts)[nodes], np.array(self.inertia)[nodes]
        settled = np.array([self.settled.get(node, -1) for node in order], np.int64)
        return BisectingTree(left, centroids, sizes.round().astype(np.int64), inertia, settled, self.passes, seconds)
