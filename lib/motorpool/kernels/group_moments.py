"""Mean, spread and range of every group of rows, and of all rows, in one pass."""

from __future__ import annotations

import numpy as np

from motorpool.kernels.runs import starts_of


class GroupMoments:
    """Running count, mean, sum of squares about it, minimum and maximum of the rows of each group; merges exactly.

    Groups are numbered from 0 to ``n_groups`` - 1; rows that are in none of them have ``n_groups``, which the last row
    of every array is for: n int64[g + 1], mean and squares float64[g + 1, d], min and max float32[g + 1, d]. Sums are
    taken about the group's mean in each block, and blocks are combined in float64 by the parallel update of Chan, Golub
    & LeVeque (1979), so a mean far from zero costs no digits. Memory: 24 bytes for each column of each group, and two
    float64 copies of a block.
    """

    def __init__(self, n_groups: int) -> None:
        self.n = np.zeros(n_groups + 1, np.int64)
        self.mean = np.zeros((n_groups + 1, 0))
        self.squares = self.mean
        self.min = self.max = self.mean.astype(np.float32)

    def update(self, codes: np.ndarray, x: np.ndarray) -> None:
        """Add the rows of float32[m, d]; ``codes`` int[m] are their groups."""
        if not len(x):
            return
        order = np.argsort(codes, kind="stable")
        held = codes[order]
        starts = starts_of(held)
        n = np.diff(np.append(starts, len(held)))
        rows = x[order]
        low, high = np.minimum.reduceat(rows, starts, axis=0), np.maximum.reduceat(rows, starts, axis=0)
        wide = rows.astype(np.float64)
        mean = np.add.reduceat(wide, starts, axis=0) / n[:, None]
        wide -= np.repeat(mean, n, axis=0)
        squares = np.add.reduceat(np.square(wide, out=wide), starts, axis=0)
        self._add(held[starts], n, mean, squares, low, high)

    def merge(self, other: GroupMoments) -> None:
        """Add all rows of another over the same groups."""
        there = np.flatnonzero(other.n)
        self._add(there, other.n[there], other.mean[there], other.squares[there], other.min[there], other.max[there])

    def _add(
        self, at: np.ndarray, n: np.ndarray, mean: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        if not len(at):
            return
        if not self.mean.shape[1]:
            shape = (len(self.n), mean.shape[1])
            self.mean, self.squares = np.zeros(shape), np.zeros(shape)
            self.min, self.max = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        before, total = self.n[at], self.n[at] + n
        delta = mean - self.mean[at]
        self.squares[at] += squares + delta**2 * (before * n / total)[:, None]
        self.mean[at] += delta * (n / total)[:, None]
        self.min[at], self.max[at] = np.minimum(self.min[at], low), np.maximum(self.max[at], high)
        self.n[at] = total

    def pooled(self) -> GroupMoments:
        """Those of each group in their order and, in the last row, those of all rows instead of the rest alone."""
        there = np.flatnonzero(self.n)
        n = self.n[there][:, None]
        mean = (n * self.mean[there]).sum(axis=0) / n.sum()
        squares = (self.squares[there] + n * (self.mean[there] - mean) ** 2).sum(axis=0)
        found = GroupMoments(len(self.n) - 1)
        found.n = np.append(self.n[:-1], n.sum())
        found.mean = np.vstack([self.mean[:-1], mean])
        found.squares = np.vstack([self.squares[:-1], squares])
        found.min = np.vstack([self.min[:-1], self.min[there].min(axis=0)])
        found.max = np.vstack([self.max[:-1], self.max[there].max(axis=0)])
        return found
