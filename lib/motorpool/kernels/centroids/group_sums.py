"""Sums of rows by group, for any number of groups."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


class GroupSums:
    """Of rows in n_groups groups: counts int64, the sums float64[n_groups, d] of their gaps to a point of the group,
    and the sums float64 of the squared lengths of these gaps.

    Gaps to a point near the group's mean keep the digits that sums of raw squares lose. Merges exactly.
    """

    def __init__(self, n_groups: int, width: int) -> None:
        self.counts = np.zeros(n_groups, np.int64)
        self.sums = np.zeros((n_groups, width))
        self.squares = np.zeros(n_groups)

    def update(self, gaps: np.ndarray, groups: np.ndarray) -> None:
        """Add float64[n, d] gaps of rows in int[n] groups; O(n d)."""
        n_groups = len(self.counts)
        members = csr_array((np.ones(len(gaps)), groups, np.arange(len(gaps) + 1)), shape=(len(gaps), n_groups))
        self.counts += np.bincount(groups, minlength=n_groups)
        self.sums += members.T @ gaps
        self.squares += np.bincount(groups, np.einsum("ij,ij->i", gaps, gaps), n_groups)

    def merge(self, other: GroupSums) -> None:
        self.counts += other.counts
        self.sums += other.sums
        self.squares += other.squares

    @property
    def shifts(self) -> np.ndarray:
        """float64[n_groups, d] from each group's point to its mean; zero where it has no rows."""
        result: np.ndarray = self.sums / np.maximum(self.counts, 1)[:, None]
        return result

    @property
    def inertia(self) -> np.ndarray:
        """float64[n_groups] sums of squared distances to the group's mean."""
        towards = np.einsum("ij,ij->i", self.sums, self.shifts)
        result: np.ndarray = np.maximum(self.squares - towards, 0.0)
        return result
