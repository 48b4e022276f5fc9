"""Lloyd's pass and the nearest centroid in an array module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from motorpool.backend.device import OnDevice, in_pieces
from motorpool.kernels.centroids.lloyd import ROUNDING, SPARE, Lloyd, LloydSums, farthest, worst
from motorpool.kernels.centroids.nearest import NearestCentroids, strengths


class ArrayLloyd(OnDevice, Lloyd):
    """`Lloyd` on the device: the same float32 products, and float64 sums of squares.

    Device memory: 24 bytes for each row of a piece and centroid, the centroids, and 40 bytes for each row and run.
    """

    def __init__(self, module: str, centroids: Sequence[np.ndarray], mean: np.ndarray) -> None:
        super().__init__(centroids, mean)
        self.module = module

    def add(self, state: LloydSums, ids: np.ndarray, raw: np.ndarray) -> None:
        total, width = self.centroids.shape
        per_row = 24 * total + 12 * width + 40 * self.n_runs
        in_pieces(
            self.device(),
            len(ids),
            per_row,
            lambda part: self._add_piece(state, ids[part], raw[part]),
            12 * total * width,
        )

    def _add_piece(self, state: LloydSums, ids: np.ndarray, raw: np.ndarray) -> None:
        device = self.device()
        xp, n = device.xp, len(ids)
        centroids = self.there("centroids", lambda: self.centroids)
        x = device.put(raw) - self.there("mean", lambda: self.mean)
        closeness = x @ centroids.T - self.there("half_norms", lambda: self.half_norms)
        norms = xp.square(x).sum(axis=1, dtype=xp.float64)
        spans = list(pairwise(self.edges.tolist()))
        label = xp.stack([closeness[:, low:high].argmax(axis=1) + low for low, high in spans], axis=1)
        best = xp.take_along_axis(closeness, label, axis=1).astype(xp.float64)
        squared = xp.maximum(norms[:, None] - 2.0 * best, 0.0)
        member = xp.zeros(closeness.shape, xp.float32)
        member[xp.arange(n)[:, None], label] = 1.0
        inertia, sums = device.take(squared.sum(axis=0)), device.take(member.T @ x)
        counts = device.take(member.sum(axis=0, dtype=xp.float64))
        last = xp.argpartition(squared, n - min(SPARE, n), axis=0)[-SPARE:]
        far, length = device.take(xp.take_along_axis(squared, last, axis=0)), device.take(norms[last])
        chosen = device.take(last)

        state.inertia += inertia
        state.sums += sums
        state.counts += counts.astype(np.int64)
        for run in range(self.n_runs):
            least = np.maximum(ROUNDING * length[:, run], worst(state.far[run]))
            kept = np.flatnonzero(far[:, run] > least)
            rows = chosen[kept, run]
            new = zip(far[kept, run].tolist(), ids[rows].tolist(), raw[rows] - self.mean, strict=True)
            state.far[run] = farthest([*state.far[run], *new])


class ArrayNearest(OnDevice, NearestCentroids):
    """`NearestCentroids` on the device, in float64. Device memory: 16 bytes for each row of a piece and centroid."""

    def __init__(self, module: str, models: Sequence[np.ndarray]) -> None:
        super().__init__(models)
        self.module = module

    def label(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        clusters = np.empty((len(x), len(self.spans)), np.int32)
        distances, others = np.empty(clusters.shape), np.empty(clusters.shape)
        wide, total = self.factors.shape

        def label(part: slice) -> None:
            clusters[part], distances[part], others[part] = self._label_piece(x[part])

        in_pieces(self.device(), len(x), 16 * total + 32 * wide + 48 * len(self.spans), label, 8 * wide * total)
        return clusters, distances.astype(np.float32), strengths(distances, others)

    def _label_piece(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        device = self.device()
        xp = device.xp
        there = device.put(x) - self.there("shift", lambda: self.shift)
        norms = xp.square(there).sum(axis=1)[:, None]
        # As `metrics.squared_distances`: one product, whose rounding may leave a trace below zero.
        squared = xp.concatenate([there, xp.ones((len(x), 1)), norms], axis=1) @ self.there(
            "factors", lambda: self.factors
        )
        nearest = xp.stack([squared[:, low:high].argmin(axis=1) + low for low, high in self.spans], axis=1)
        first = xp.take_along_axis(squared, nearest, axis=1)
        squared[xp.arange(len(x))[:, None], nearest] = xp.inf
        second = xp.stack([squared[:, low:high].min(axis=1) for low, high in self.spans], axis=1)
        found = (xp.sqrt(xp.maximum(squares, 0.0)) for squares in (first, second))
        return device.take(nearest) - self.edges[:-1], *(device.take(f) for f in found)
