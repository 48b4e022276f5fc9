"""The sums behind the scores in an array module: clusters' sizes and sums, then distances to their means."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from motorpool.backend.device import Device, OnDevice, in_pieces
from motorpool.kernels import score_loops
from motorpool.kernels.cluster_sums import ClusterSpread, ClusterSums


class ArrayClusterSums(OnDevice, ClusterSums):
    """`ClusterSums` on the device, in float64. Device memory: 16 bytes for each row of a piece and cluster."""

    def __init__(self, module: str, ks: Sequence[int], width: int) -> None:
        super().__init__(ks, width)
        self.module = module

    def update(self, x: np.ndarray, labels: np.ndarray) -> None:
        device = self.device()
        total, width = self.sums.shape
        per_row = 16 * (total + 1) + 16 * width + 24 * labels.shape[1]

        def add(part: slice) -> None:
            member = _member(device, labels[part], self.edges)
            sums, counts = device.take(member.T @ device.put(x[part])), device.take(member.sum(axis=0))
            self.sums += sums
            self.counts += counts.astype(np.int64)

        in_pieces(device, len(x), per_row, add, 16 * total * width)


class ArrayClusterSpread(OnDevice, ClusterSpread):
    """`ClusterSpread` on the device, in float64; each cluster's nearest rows are kept on the host.

    Device memory: 48 bytes for each row of a piece and cluster.
    """

    def __init__(self, module: str, sums: ClusterSums) -> None:
        super().__init__(sums)
        self.module = module

    def update(self, ids: np.ndarray, x: np.ndarray, labels: np.ndarray) -> None:
        rows = np.flatnonzero((labels >= 0).any(axis=1))
        total, width = self.means.shape
        per_row = 48 * (total + 1) + 32 * (width + 2) + 64 * labels.shape[1]

        def add(part: slice) -> None:
            some = rows[part]
            self._update_piece(ids[some], x[some], labels[some])

        in_pieces(self.device(), len(rows), per_row, add, 24 * total * (width + 2))

    def _update_piece(self, ids: np.ndarray, x: np.ndarray, labels: np.ndarray) -> None:
        device = self.device()
        xp, n = device.xp, len(ids)
        factors = self.there("factors", lambda: self._factors)
        counts = self.there("counts", lambda: self.counts)
        there = device.put(x)
        norms = xp.square(there).sum(axis=1)[:, None]
        # As `metrics.squared_distances`: one product, whose rounding may leave a trace below zero.
        to_means = xp.concatenate([there, xp.ones((n, 1)), norms], axis=1) @ factors
        member = _member(device, labels, self.edges)
        worst = device.put(self.kept_squared[:, -1])
        given = device.put(labels)
        squared, distance, silhouette, owns, near = [], [], [], [], []
        for model, (low, high) in enumerate(pairwise(self.edges.tolist())):
            held = given[:, model] >= 0
            if low == high:
                owns.append(xp.zeros(n))
                near.append(xp.zeros(n, bool))
                silhouette.append(xp.zeros(()))
                continue
            at = xp.where(held, given[:, model], 0)[:, None]
            own = xp.maximum(xp.take_along_axis(to_means[:, low:high], at, axis=1)[:, 0], 0.0)
            a = xp.sqrt(own)
            squared.append(xp.where(held, own, 0.0) @ member[:, low:high])
            distance.append(xp.where(held, a, 0.0) @ member[:, low:high])
            owns.append(own)
            near.append(held & (own <= worst[low:high][at[:, 0]]))
            others = xp.where(counts[low:high] > 0, to_means[:, low:high], xp.inf)
            others[xp.arange(n)[:, None], at] = xp.inf
            b = xp.sqrt(xp.maximum(others.min(axis=1), 0.0))
            larger = xp.maximum(a, b)
            # As for the silhouette itself, a row alone in its cluster scores 0.
            scored = held & (counts[low:high][at[:, 0]] > 1) & xp.isfinite(b) & (larger > 0)
            silhouette.append(((xp.where(scored, b, a) - a) / xp.where(scored, larger, 1.0)).sum())
        all_squared, all_distance, all_silhouette = (
            device.take(a) for a in (xp.concatenate(squared), xp.concatenate(distance), xp.stack(silhouette))
        )
        row, column = (device.take(a) for a in xp.nonzero(xp.stack(near, axis=1)))
        offered = device.take(xp.stack(owns, axis=1))[row, column]
        self.squared += all_squared
        self.distance += all_distance
        self.silhouette += all_silhouette
        at = self.edges[column] + labels[row, column]
        score_loops.offer_rows(ids[row], at, offered, self.kept_squared, self.kept_ids)


def _member(device: Device, labels: np.ndarray, edges: np.ndarray) -> Any:
    """float64[n, K]: 1 where a row is in a cluster, one column for each cluster of all models; noise is in none."""
    xp, total = device.xp, int(edges[-1])
    at = device.put(np.where(labels >= 0, labels + edges[:-1], total))
    member = xp.zeros((len(labels), total + 1))
    member[xp.arange(len(labels))[:, None], at] = 1.0
    return member[:, :total]
