"""The scores of clusterings: one entry for each says how it is computed, ranked, printed and explained.

All that shows or ranks scores reads `SCORES`: the columns of ``models``, the ``leaderboard``, the summary of a run on
the command line, and the report. A further score is one more entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from motorpool.registry import Registry

#: A share of the squares between clusters below which those within are rounding: float64's is near 1e-15.
_ROUNDING = 1e-12
#: Where a score comes from; see `Score`.
Measured = Literal["clusters", "vehicles", "fit"]
_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Summary:
    """One clustering as scores see it: its clusters that hold rows, noise left out; 2 <= k < n.

    - sizes int64[k]; means float64[k, d], from the origin that the rows came with.
    - squared float64[k]: each cluster's sum of squared distances to its mean; distance float64[k]: of distances.
    - silhouettes: sum of the rows' simplified silhouettes.
    """

    sizes: np.ndarray
    means: np.ndarray
    squared: np.ndarray
    distance: np.ndarray
    silhouettes: float

    @property
    def n(self) -> int:
        return int(self.sizes.sum())

    @property
    def within(self) -> float:
        return float(self.squared.sum())

    @cached_property
    def between(self) -> float:
        """Sum of the rows' squared distances from their cluster's mean to the mean of all."""
        gaps = self.means - (self.sizes @ self.means) / self.n
        return float((self.sizes * np.square(gaps).sum(axis=1)).sum())

    @property
    def flat(self) -> bool:
        """Whether no cluster has any spread; rounding leaves a trace of one."""
        return self.within <= _ROUNDING * self.between


@dataclass(frozen=True)
class Scores:
    """Scores of one model and its clusters; noise is left out of all of them.

    - values: by name, those that are computed from the clusters; None: not defined (one cluster, or n clusters).
    - defined: whether there are clusters to compare, at least two and fewer than rows.
    - within: sum of squared distances to the cluster means.
    - sizes int64[k]; means float64[k, d], from the origin that the rows came with; exemplars: the ids nearest each
      cluster's mean, nearest first.
    """

    values: Mapping[str, float | None]
    defined: bool
    within: float
    sizes: np.ndarray
    means: np.ndarray
    exemplars: list[list[int]]


@dataclass(frozen=True)
class Score:
    """A score of models.

    - name: its column in ``models``; title: its name inside a sentence; long_title: above its chart, where it differs;
      short: above a narrow column; meaning: the column's comment; reading: a sentence below its chart.
    - better: whether higher or lower values are. decimals: how many people see.
    - measured: on the ``clusters``, by ``compute``; on the ``vehicles``; or in the ``fit``, where the algorithm's
      `Facts` hold it under the same name. Vehicles have several views, so a score that is measured on them counts for
      nothing where clusters are views.
    - ranked: whether the ranking averages its places. comparable: whether it means the same in all feature sets; other
      scores depend on a feature set's width and scale, so they are only ranked within it.
    - shown: ``models`` alone, the ``leaderboard`` too, or also the ``report`` and the summary of a run.
    """

    name: str
    title: str
    meaning: str
    better: Literal["higher", "lower"]
    measured: Measured = "clusters"
    compute: Callable[[Summary], float] | None = None
    ranked: bool = False
    comparable: bool = False
    shown: Literal["models", "leaderboard", "report"] = "report"
    decimals: int = 3
    reading: str = ""
    short: str = ""
    long_title: str = ""

    def __post_init__(self) -> None:
        if not _COLUMN_NAME.fullmatch(self.name):
            raise ValueError(f"score {self.name!r}: must be a column's name, of small letters, digits and underscores")
        if (self.compute is None) == (self.measured == "clusters"):
            raise ValueError(f"score {self.name!r}: needs `compute` if it is measured on clusters, and only then")
        if self.ranked and self.shown == "models":
            raise ValueError(f"score {self.name!r}: is ranked, so the leaderboard must show it")

    @property
    def narrow(self) -> str:
        return self.short or self.title


def _calinski_harabasz(found: Summary) -> float:
    """Calinski & Harabasz (1974). Clusters without any spread score 1, as scikit-learn has it."""
    n, k = found.n, len(found.sizes)
    return 1.0 if found.flat else found.between / found.within * (n - k) / (k - 1)


def _davies_bouldin(found: Summary) -> float:
    """Davies & Bouldin (1979). Clusters without any spread score 0, as scikit-learn has it."""
    mean_distance = found.distance / found.sizes
    gaps = np.sqrt(np.square(found.means[:, None, :] - found.means[None, :, :]).sum(axis=2))
    if found.flat or np.allclose(mean_distance, 0) or np.allclose(gaps, 0):
        return 0.0
    gaps[gaps == 0] = np.inf
    return float(((mean_distance[:, None] + mean_distance) / gaps).max(axis=1).mean())


def _silhouette(found: Summary) -> float:
    """The *simplified* silhouette (Hruschka et al. 2004; Vendramin et al. 2010) on all rows, exact.

    Distances to cluster means take the place of mean distances to all members.
    """
    return found.silhouettes / found.n


_ENTRIES = (
    Score(
        "calinski_harabasz",
        "Calinski-Harabasz",
        "Calinski-Harabasz index: high is good. Comparable within one feature set only.",
        "higher",
        compute=_calinski_harabasz,
        ranked=True,
        decimals=1,
        reading="Higher is better, within one panel only: every feature set has its own scale.",
        short="Cal.-Har.",
    ),
    Score(
        "davies_bouldin",
        "Davies-Bouldin",
        "Davies-Bouldin index: low is good. Comparable within one feature set only.",
        "lower",
        compute=_davies_bouldin,
        ranked=True,
        reading="Lower is better, within one panel only: every feature set has its own scale.",
        short="Dav.-Bou.",
    ),
    Score(
        "silhouette",
        "silhouette",
        "Simplified silhouette (distances to cluster means), of all images: high is good.",
        "higher",
        compute=_silhouette,
        reading="Higher is better, 1 at most. Every panel has its own axis.",
        long_title="simplified silhouette",
    ),
    Score(
        "vehicle_agreement",
        "vehicle agreement",
        "How much likelier two photos of one vehicle share a cluster than two photos at random: 0 is chance, 1 is "
        "perfect. Null where all photos of a vehicle have one vector, since they then agree by construction.",
        "higher",
        measured="vehicles",
        ranked=True,
        comparable=True,
        reading="Higher is better: 0 is chance, 1 keeps every vehicle together. The panels share their axis; hollow "
        "points are models that are not ranked.",
        short="vehicle agr.",
    ),
    Score(
        "inertia",
        "inertia",
        "Sum of squared distances to the centroids (KMeans and its kin).",
        "lower",
        measured="fit",
        shown="leaderboard",
    ),
    Score(
        "bic",
        "BIC",
        "Bayesian information criterion of a mixture: low is good.",
        "lower",
        measured="fit",
        shown="models",
    ),
    Score(
        "aic",
        "AIC",
        "Akaike information criterion of a mixture: low is good.",
        "lower",
        measured="fit",
        shown="models",
    ),
)

#: The scores by name, in the order of their columns.
SCORES: Registry[Score] = Registry("score", _ENTRIES)


def measured(where: Measured) -> list[str]:
    """Names of the scores that are measured there."""
    return [score.name for score in SCORES.values() if score.measured == where]


def computed(found: Summary | None) -> dict[str, float | None]:
    """The scores of one clustering by name, all None where they are not defined."""
    return {
        score.name: None if found is None else float(score.compute(found))
        for score in SCORES.values()
        if score.compute is not None
    }


def ranked() -> list[Score]:
    """The scores whose places the ranking averages."""
    return [score for score in SCORES.values() if score.ranked]


def shown() -> list[Score]:
    """The scores in the report and in the summary of a run."""
    return [score for score in SCORES.values() if score.shown == "report"]
