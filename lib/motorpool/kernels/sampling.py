"""Seeded sampling by row identity: the same rows are drawn however the data are partitioned."""

from __future__ import annotations

import numpy as np


def uniform_hash(ids: np.ndarray, seed: int) -> np.ndarray:
    """A uniform number in [0, 1) for every id, float64[n]: SplitMix64 (Steele, Lea & Flood, 2014) of id and seed."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class RowSample:
    """A uniform sample without replacement of at most ``size`` rows: those with the smallest hashes.

    All rows when there are no more than ``size``; of wide rows it takes fewer, at most ``values`` numbers, but
    ``at_least`` so many rows. Merges exactly; memory: two times size x d float32.
    """

    def __init__(self, size: int, seed: int, values: int | None = None, at_least: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.values = values
        self.at_least = at_least
        self._ids: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._held = 0
        self._limit = 1.0

    def update(self, ids: np.ndarray, x: np.ndarray) -> None:
        """Offer int64[m] ids with their float32[m, d] rows."""
        if self.values is not None:
            # Only the rows themselves tell how wide they are.
            self.size = max(self.at_least, min(self.size, self.values // max(1, x.shape[1])))
        keep = uniform_hash(ids, self.seed) < self._limit
        self._ids.append(ids[keep])
        self._rows.append(x[keep])
        self._held += int(keep.sum())
        if self._held > 2 * self.size:
            self._shrink()

    def merge(self, other: RowSample) -> None:
        for ids, rows in zip(other._ids, other._rows, strict=True):
            self.update(ids, rows)

    def _shrink(self) -> None:
        ids = np.concatenate(self._ids)
        u = uniform_hash(ids, self.seed)
        order = np.lexsort((ids, u))[: self.size]
        if len(u) > self.size:
            self._limit = float(u[order[-1]])
        self._ids, self._rows, self._held = [ids[order]], [np.concatenate(self._rows)[order]], len(order)

    def rows(self) -> np.ndarray:
        """float32[m, d], ordered by hash, so that the order too is independent of the partitions."""
        if not self._ids:
            return np.empty((0, 0), np.float32)
        self._shrink()
        return self._rows[0]

    def by_id(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids, int64[m] ascending, and their rows, float32[m, d]."""
        if not self._ids:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        self._shrink()
        order = np.argsort(self._ids[0], kind="stable")
        return self._ids[0][order], self._rows[0][order]
