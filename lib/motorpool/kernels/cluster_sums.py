"""Sums over the rows of clusters, block by block in float64, from which the scores are computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from motorpool.kernels import score_loops
from motorpool.kernels.distances import distance_factors, squared_distances
from motorpool.kernels.scores import Scores, Summary, computed

#: Images kept per cluster as those nearest its centre.
EXEMPLARS = 12


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
        kept = self.kept_squared, self.kept_ids
        score_loops.add_distances(
            ids[rows], labels[rows], squared_distances(x[rows], self._factors), self.edges, self.counts,
            score_loops.DistanceSums(self.squared, self.distance, self.silhouette, *kept),
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
        summary = None
        if 2 <= held.sum() < counts.sum():
            squared, distance = self.squared[span][held], self.distance[span][held]
            summary = Summary(counts[held], means[held], squared, distance, float(self.silhouette[model]))
        within = float(self.squared[span].sum())
        return Scores(computed(summary), summary is not None, within, counts, means, exemplars)
