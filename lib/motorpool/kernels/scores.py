"""Scores of clusterings, summed up block by block in float64 and equal to scikit-learn's where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motorpool.kernels import score_loops

#: Images kept per cluster as those nearest its centre.
EXEMPLARS = 12
#: A share of the squares between clusters below which those within are rounding: float64's is near 1e-15.
_ROUNDING = 1e-12


def distance_factors(points: np.ndarray) -> np.ndarray:
    """float64[d + 2, K] for `squared_distances` to float64[K, d] points."""
    norms = np.square(points).sum(axis=1)
    return np.concatenate([-2.0 * points.T, norms[None], np.ones((1, len(points)))])


def squared_distances(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """float64[n, K] from float64[n, d] rows; rounding may leave a trace below zero.

    |x - c|^2 as one matrix product [x, 1, |x|^2] [-2c; |c|^2; 1]: no pass over the result is left to do.
    """
    n, width = x.shape
    wide = np.empty((n, width + 2))
    wide[:, :width] = x
    wide[:, width] = 1.0
    np.einsum("ij,ij->i", x, x, out=wide[:, width + 1])
    result: np.ndarray = wide @ factors
    return result


class ClusterSums:
    """First pass: size and sum of every cluster of several models.

    ``ks`` are the models' numbers of clusters; clusters of all models are stacked, K = sum(ks). Labels
    below zero are noise and count nowhere. Memory: K x d float64.
    """

    def __init__(self, ks: Sequence[int], width: int) -> None:
        self.edges = np.cumsum([0, *ks])
        self.counts = np.zeros(self.edges[-1], np.int64)
        self.sums = np.zeros((self.edges[-1], width))

    def update(self, x: np.ndarray, labels: np.ndarray) -> None:
        """Add float64[n, d] rows with int[n, models] labels."""
        score_loops.add_rows(x, labels, self.edges, self.counts, self.sums)

    def merge(self, other: ClusterSums) -> None:
        self.counts += other.counts
        self.sums += other.sums

    @property
    def means(self) -> np.ndarray:
        """float64[K, d]; zero rows for empty clusters."""
        result: np.ndarray = self.sums / np.maximum(self.counts, 1)[:, None]
        return result


class ClusterSpread:
    """Second pass, with the means known: distances within clusters and to the nearest other cluster."""

    def __init__(self, sums: ClusterSums) -> None:
        self.edges = sums.edges
        self.counts = sums.counts
        self.means = sums.means
        self._factors = distance_factors(self.means)
        self.n_models = len(self.edges) - 1
        total = self.edges[-1]
        self.squared = np.zeros(total)
        self.distance = np.zeros(total)
        self.silhouette = np.zeros(self.n_models)
        # Of every cluster the EXEMPLARS rows nearest its mean, nearest first, ties to the lower id.
        self.kept_squared = np.full((total, EXEMPLARS), np.inf)
        self.kept_ids = np.full((total, EXEMPLARS), -1)

    def update(self, ids: np.ndarray, x: np.ndarray, labels: np.ndarray) -> None:
        """Add int64[n] ids, float64[n, d] rows and int[n, models] labels, the same as in the first pass."""
        rows = (labels >= 0).any(axis=1)
        score_loops.add_distances(
            ids[rows], labels[rows], squared_distances(x[rows], self._factors), self.edges, self.counts,
            self.squared, self.distance, self.silhouette, self.kept_squared, self.kept_ids,
        )  # fmt: skip

    def merge(self, other: ClusterSpread) -> None:
        self.squared += other.squared
        self.distance += other.distance
        self.silhouette += other.silhouette
        score_loops.merge_kept(self.kept_squared, self.kept_ids, other.kept_squared, other.kept_ids)

    def scores(self) -> list[Scores]:
        return [self._score(model) for model in range(self.n_models)]

    def _score(self, model: int) -> Scores:
        span = slice(self.edges[model], self.edges[model + 1])
        counts, means = self.counts[span], self.means[span]
        exemplars = [ids[ids >= 0].tolist() for ids in self.kept_ids[span]]
        held = counts > 0
        n, k = int(counts.sum()), int(held.sum())
        within = float(self.squared[span].sum())
        ch = db = silhouette = None
        if 2 <= k < n:
            n_k, m_k = counts[held], means[held]
            between = float((n_k * np.square(m_k - (n_k @ m_k) / n).sum(axis=1)).sum())
            # scikit-learn's conventions for clusters without any spread; rounding leaves a trace of one.
            flat = within <= _ROUNDING * between
            ch = 1.0 if flat else between / within * (n - k) / (k - 1)
            db = 0.0 if flat else _davies_bouldin(self.distance[span][held] / n_k, m_k)
            silhouette = float(self.silhouette[model]) / n
        return Scores(ch, db, silhouette, within, counts, means, exemplars)


def _davies_bouldin(mean_distance: np.ndarray, means: np.ndarray) -> float:
    """Davies & Bouldin (1979) from float64[k] mean distances to, and float64[k, d], cluster means."""
    gaps = np.sqrt(np.square(means[:, None, :] - means[None, :, :]).sum(axis=2))
    if np.allclose(mean_distance, 0) or np.allclose(gaps, 0):
        return 0.0
    gaps[gaps == 0] = np.inf
    return float(((mean_distance[:, None] + mean_distance) / gaps).max(axis=1).mean())


@dataclass(frozen=True)
class Scores:
    """Scores of one model; noise is left out of all of them. None: not defined (one cluster, or n clusters).

    - calinski_harabasz, davies_bouldin: as scikit-learn's, exact.
    - silhouette: the *simplified* silhouette (Hruschka et al. 2004; Vendramin et al. 2010) on all rows, exact:
      distances to cluster means take the place of mean distances to all members.
    - within: sum of squared distances to the cluster means.
    - sizes int64[k]; means float64[k, d], from the origin that the rows came with; exemplars: the ids nearest each
      cluster's mean, nearest first.
    """

    calinski_harabasz: float | None
    davies_bouldin: float | None
    silhouette: float | None
    within: float
    sizes: np.ndarray
    means: np.ndarray
    exemplars: list[list[int]]


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
