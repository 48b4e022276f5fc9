"""Pairs of photos of one vehicle, counted batch by batch: how often they share a cluster."""

from __future__ import annotations

import numpy as np


class PairCounts:
    """How often two photos of one vehicle share a cluster, for several models at once.

    Rows must come with all photos of a vehicle in a row; only the vehicle at hand is remembered, as one
    count per model and cluster, however many photos it has. Noise shares a cluster with nothing. ``n_vehicles``
    counts those with two photos or more, once `agreement` was asked: the only ones that can agree.
    """

    def __init__(self, n_models: int) -> None:
        self.n_models = n_models
        self.n = 0
        self.n_vehicles = 0
        self.vehicle_pairs = 0
        self.same_pairs = np.zeros(n_models, np.int64)
        self.sizes: list[dict[int, int]] = [{} for _ in range(n_models)]
        self._open: str | None = None
        self._open_n = 0
        self._open_counts: list[dict[int, int]] = [{} for _ in range(n_models)]

    def update(self, vehicles: np.ndarray, labels: np.ndarray) -> None:
        """Add object[n] vehicle names, none missing, and int[n, models] labels."""
        starts = np.flatnonzero(np.concatenate([[True], vehicles[1:] != vehicles[:-1]]))
        lengths = np.diff(np.append(starts, len(vehicles)))
        run = np.repeat(np.arange(len(starts)), lengths)
        if self._open is not None and vehicles[0] != self._open:
            self._close()
        last = len(starts) - 1
        self.n += len(vehicles)
        # The first run may go on from the batch before, and the last one into the batch behind: both pass
        # through the open counts, whatever lies between is counted at once.
        inner = lengths[1:last]
        self.n_vehicles += int((inner > 1).sum())
        self.vehicle_pairs += int((inner * (inner - 1) // 2).sum())
        for model in range(self.n_models):
            found = labels[:, model] >= 0
            width = int(labels[:, model].max(initial=0)) + 1
            keys, counts = np.unique(run[found] * width + labels[found, model], return_counts=True)
            runs, clusters = np.divmod(keys, width)
            _add(self.sizes[model], clusters, counts)
            between = (runs > 0) & (runs < last)
            self.same_pairs[model] += (counts[between] * (counts[between] - 1) // 2).sum()
            _add(self._open_counts[model], clusters[runs == 0], counts[runs == 0])
        self._open, self._open_n = vehicles[0], self._open_n + int(lengths[0])
        if last > 0:
            self._close()
            for model in range(self.n_models):
                tail = labels[starts[last] :, model]
                clusters, counts = np.unique(tail[tail >= 0], return_counts=True)
                _add(self._open_counts[model], clusters, counts)
            self._open, self._open_n = vehicles[-1], int(lengths[last])

    def _close(self) -> None:
        self.n_vehicles += self._open_n > 1
        self.vehicle_pairs += self._open_n * (self._open_n - 1) // 2
        for model, counts in enumerate(self._open_counts):
            self.same_pairs[model] += sum(c * (c - 1) // 2 for c in counts.values())
        self._open, self._open_n = None, 0
        self._open_counts = [{} for _ in range(self.n_models)]

    def merge(self, other: PairCounts) -> None:
        self._close()
        other._close()
        self.n += other.n
        self.n_vehicles += other.n_vehicles
        self.vehicle_pairs += other.vehicle_pairs
        self.same_pairs += other.same_pairs
        for mine, theirs in zip(self.sizes, other.sizes, strict=True):
            _add(mine, np.array(list(theirs), np.int64), np.array(list(theirs.values()), np.int64))

    def agreement(self) -> list[float | None]:
        """Per model (p - r) / (1 - r): p the chance that two photos of one vehicle share a cluster, r that
        two photos drawn at random do. 1 is perfect, 0 is chance. None without two photos of one vehicle,
        or where all photos are in one cluster.
        """
        self._close()
        all_pairs = self.n * (self.n - 1) // 2
        result: list[float | None] = []
        for model in range(self.n_models):
            by_chance = sum(c * (c - 1) // 2 for c in self.sizes[model].values())
            if not self.vehicle_pairs or by_chance == all_pairs:
                result.append(None)
                continue
            p, r = int(self.same_pairs[model]) / self.vehicle_pairs, by_chance / all_pairs
            result.append((p - r) / (1 - r))
        return result


def _add(counts: dict[int, int], clusters: np.ndarray, more: np.ndarray) -> None:
    for cluster, count in zip(clusters.tolist(), more.tolist(), strict=True):
        counts[cluster] = counts.get(cluster, 0) + count
