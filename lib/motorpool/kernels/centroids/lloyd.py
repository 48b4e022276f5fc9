"""One pass of Lloyd's iterations over a block, for the centroids of many runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

#: Far-off rows that each task remembers per run, to re-seed empty clusters with.
SPARE = 8
#: Squared distances below this share of a row's squared length are float32 rounding: the row is at its centroid.
ROUNDING = 32 * float(np.finfo(np.float32).eps)


@dataclass
class LloydSums:
    """What one pass adds up, for the centroids of all runs side by side.

    sums float64[K, d] (of rows minus the mean) and counts int64[K] by nearest centroid; inertia
    float64[runs]; for every run its farthest rows, as (squared distance, image_id, row).
    """

    sums: np.ndarray
    counts: np.ndarray
    inertia: np.ndarray
    far: list[list[tuple[float, int, np.ndarray]]] = field(default_factory=list)

    def merge(self, other: LloydSums) -> None:
        self.sums += other.sums
        self.counts += other.counts
        self.inertia += other.inertia
        self.far = [farthest(a + b) for a, b in zip(self.far, other.far, strict=True)]


def farthest(rows: list[tuple[float, int, np.ndarray]]) -> list[tuple[float, int, np.ndarray]]:
    return sorted(rows, key=lambda r: (-r[0], r[1]))[:SPARE]


def worst(far: list[tuple[float, int, np.ndarray]]) -> float:
    """How far a row must be to be remembered beside these."""
    return far[-1][0] if len(far) == SPARE else -1.0


class Lloyd:
    """Assigns rows to the nearest of every run's centroids, and sums them up by centroid.

    ``centroids`` are float[k, d] of each run and, like the rows, lie about ``mean`` float64[d], so that float32
    distances lose nothing to a far-off origin. Ties go to the lower cluster number.
    """

    def __init__(self, centroids: Sequence[np.ndarray], mean: np.ndarray) -> None:
        self.edges = np.cumsum([0, *(len(c) for c in centroids)])
        self.centroids = np.concatenate(centroids).astype(np.float32)
        self.mean = mean.astype(np.float32)
        self.half_norms = 0.5 * np.square(self.centroids.astype(np.float64)).sum(axis=1).astype(np.float32)

    @property
    def n_runs(self) -> int:
        return len(self.edges) - 1

    def start(self) -> LloydSums:
        total, width = self.centroids.shape
        return LloydSums(
            np.zeros((total, width)), np.zeros(total, np.int64), np.zeros(self.n_runs), [[] for _ in range(self.n_runs)]
        )

    def add(self, state: LloydSums, ids: np.ndarray, raw: np.ndarray) -> None:
        """Add int64[n] ids and float32[n, d] rows as given. Memory: two float32[n, K] matrices."""
        x = raw - self.mean
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2): the nearest centroid has the largest bracket.
        closeness = x @ self.centroids.T - self.half_norms
        norms = np.square(x).sum(axis=1, dtype=np.float64)
        member = np.zeros((len(ids), len(self.centroids)), np.float32)
        rows = np.arange(len(ids))
        for run, (low, high) in enumerate(pairwise(self.edges)):
            label = closeness[:, low:high].argmax(axis=1) + low
            member[rows, label] = 1.0
            squared = np.maximum(norms - 2.0 * closeness[rows, label], 0.0)
            state.inertia[run] += squared.sum()
            last = squared.argpartition(-min(SPARE, len(ids)))[-SPARE:]
            least = np.maximum(ROUNDING * norms[last], worst(state.far[run]))
            new = [(float(squared[i]), int(ids[i]), x[i].copy()) for i in last[squared[last] > least]]
            state.far[run] = farthest(state.far[run] + new)
        state.sums += member.T @ x
        state.counts += member.sum(axis=0, dtype=np.float64).astype(np.int64)
