"""Probabilities that mean what they say, from scores of photos that were held out, and which of them to accept."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import softmax

#: What scores are multiplied by, at most and at least, and the steps between.
_SHARPNESS = np.geomspace(1 / 16, 4, 49)
#: Chance (one-sided) that the accepted labels reach the target where the held-out photos say so.
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: a mixture of softmax(``sharpness`` x scores) and the values' overall shares.

    ``doubt`` is the weight of the ``shares`` float64[values], so that no label is ever certain.
    """

    sharpness: float
    doubt: float
    shares: np.ndarray

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """float64[n, values] in rows that sum to 1; rows keep the order of their values up to ties."""
        sure: np.ndarray = softmax(self.sharpness * scores, axis=1)
        return (1 - self.doubt) * sure + self.doubt * self.shares


def value_shares(values: np.ndarray, n_values: int) -> np.ndarray:
    """How frequent every value is, float64[n_values], each counted once more than it was seen."""
    counts = np.bincount(values, minlength=n_values) + 1.0
    found: np.ndarray = counts / counts.sum()
    return found


def calibrate(scores: np.ndarray, values: np.ndarray) -> Calibration:
    """The sharpness that makes the true values of held-out photos likeliest (temperature scaling, Guo et al., 2017).

    ``scores`` float[n, values] of photos that were held out, ``values`` int64[n] their true values; n may be small, as
    there is one number to learn. The doubt is two of n + 2: with few looks the
    way that was chosen is less good than it seems, as it was chosen for seeming good.
    """
    shares = value_shares(values, scores.shape[1])
    doubt = 2 / (len(values) + 2)
    trials = [Calibration(float(s), doubt, shares) for s in _SHARPNESS]
    return min(trials, key=lambda c: log_loss(c.probabilities(scores), values))


def log_loss(probabilities: np.ndarray, values: np.ndarray) -> float:
    """Mean of minus the log of the true values' probabilities."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(values)), values], 1e-300)).mean())


def interval(right: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's two-sided interval of a share: ``right`` of ``n``; (0, 1) where n is 0."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # Rounding must not part an end from the share that it equals.
    return (0.0 if right == 0 else max(0.0, centre - half)), (1.0 if right == n else min(1.0, centre + half))


def threshold(top: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """The lowest probability from which on labels are accepted, None where no threshold reaches the target.

    ``top`` float[n] are the probabilities of the labels of held-out photos, ``right`` bool[n] whether they are right.
    A threshold reaches the target where the lower bound (Wilson, one-sided, CONFIDENCE) of the share of right labels
    at or above it does: a handful of looks, all right, is not enough for 95 %.
    """
    order = np.argsort(-top, kind="stable")
    at, hits = top[order], np.cumsum(right[order])
    # Equal probabilities are accepted together.
    last = np.flatnonzero(np.append(at[1:] < at[:-1], True))
    reached = [i for i in last if interval(float(hits[i]), float(i + 1), 2 * CONFIDENCE - 1)[0] >= target]
    return float(at[reached[-1]]) if reached else None
