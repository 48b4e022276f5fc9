"""How often labels are right, estimated from a stratified sample in which photos may weigh differently.

An audit looks at few photos, so neither the normal approximation nor the observed variance of a stratum can be trusted:
ten right looks of ten have a variance of 0. The interval here is Clopper and Pearson's exact one (1934) for the
*effective* number of looks, that is the number of looks of a simple random sample with the same variance (Korn &
Graubard, 1998, Survey Methodology 24(2)). The variance takes each stratum's share of right looks smoothed by two looks,
one of them right (Agresti & Coull, 1998), and each stratum's looks as so many as their unequal weights are worth (Kish,
1965).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

#: Strata get looks by this power of their size (Bankier, 1988): 1 is best for all images together, 0 for each stratum.
_POWER = 0.5
#: So many wrong looks must be of one other value, and such a share of all wrong ones, before two values are one.
_MERGE_LOOKS, _MERGE_SHARE = 3, 0.75
#: With fewer looks than this, a share below the target may be chance.
_FEW = 20


@dataclass(frozen=True)
class Looks:
    """The looks of every stratum, summed: float64[h] each, so that a table of any size can be summed where it lies."""

    #: Number of looks, and of those that found the label right.
    n: np.ndarray
    right: np.ndarray
    #: Sum of the weights of either, and of all squared weights.
    weight: np.ndarray
    weight_right: np.ndarray
    weight_sq: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, np.asarray(getattr(self, field.name), np.float64))

    @classmethod
    def of(cls, right: np.ndarray, weight: np.ndarray, stratum: np.ndarray) -> Looks:
        """From one look a row: bool[n], weights float64[n] above 0, and int64[n] numbers of strata from 0 on."""
        weight = np.asarray(weight, np.float64)
        hit = np.asarray(right, np.float64)
        columns = (np.ones_like(weight), hit, weight, weight * hit, weight * weight)
        return cls(*(np.bincount(stratum, c) for c in columns))


@dataclass(frozen=True)
class Estimate:
    """Accuracy with its interval; without any look the accuracy is None and the interval is from 0 to 1."""

    n: int
    right: int
    accuracy: float | None
    low: float
    high: float
    #: Looks of a simple random sample that would tell as much.
    n_effective: float


def accuracy_of(looks: Looks, confidence: float = 0.95) -> Estimate:
    """The weighted share of right labels, and an interval that covers the true share with ``confidence``.

    The interval errs on the long side: it takes no profit from a population that is nearly used up. Strata without
    looks count as if they were like the others.
    """
    seen = looks.n > 0
    if not seen.any():
        return Estimate(0, 0, None, 0.0, 1.0, 0.0)
    n, right = (c[seen] for c in (looks.n, looks.right))
    weight, weight_right, weight_sq = (c[seen] for c in (looks.weight, looks.weight_right, looks.weight_sq))
    share = weight / weight.sum()
    accuracy = float(weight_right.sum() / weight.sum())
    worth = weight * weight / weight_sq
    smoothed = (worth * (weight_right / weight) + 1) / (worth + 2)
    variance = float((share * share * smoothed * (1 - smoothed) / worth).sum())
    overall = float((share * smoothed).sum())
    n_effective = overall * (1 - overall) / variance
    low, high = _exact(accuracy * n_effective, n_effective, confidence)
    return Estimate(int(n.sum()), int(right.sum()), accuracy, low, high, n_effective)


def _exact(right: float, n: float, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval; the numbers of looks need not be whole."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    wrong = n - right
    # Rounding may leave a trace of either.
    low = float(betaincinv(right, wrong + 1, tail)) if right > 1e-9 * n else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - tail)) if wrong > 1e-9 * n else 1.0
    return low, high


def allocate(sizes: np.ndarray, n: int) -> np.ndarray:
    """How many of ``n`` looks each stratum of so many photos gets, int64[h]; in all ``n``, or every photo.

    By the square root of the size, so that small strata are measured too, and at least two (of a stratum with so many)
    where ``n`` is enough for that.
    """
    sizes = np.asarray(sizes, np.int64)
    if n >= sizes.sum():
        return sizes.copy()
    least = np.minimum(sizes, 2)
    given = least if least.sum() <= n else np.zeros_like(sizes)
    given = given.copy()
    while (left := n - int(given.sum())) > 0:
        open_ = given < sizes
        goal = np.where(open_, sizes.astype(np.float64) ** _POWER, 0.0)
        # Those that already have more than their part wait for the others.
        want = np.maximum(goal / goal.sum() * (left + given[open_].sum()) - given, 0.0) * open_
        want *= left / want.sum()
        step = np.minimum(np.floor(want).astype(np.int64), sizes - given)
        if not step.any():
            # Fewer than one each: the largest parts first, equal ones in their order.
            first = np.argsort(-want, kind="stable")[:left]
            step[first[want[first] > 0]] = 1
        given += step
    return given


def verdict(found: Estimate, target: float, wrong: Mapping[str, tuple[int, float]], label: str | None = None) -> str:
    """What to do with labels: ``accept``, ``merge with X``, ``look by hand``, or ``more looks`` where that is open.

    Accepted where even the lower end of the interval reaches the target. By hand where the accuracy is below it, and
    20 looks or the upper end of the interval say that this is no chance. ``wrong`` has for every other value X the
    number of looks at photos with this ``label`` that found X, and their share of the weights: where nearly all wrong
    looks found one X, and both as one value would reach the target, they are better one. Where there are
    but two values it must be empty: one value would tell nothing.
    """
    if found.accuracy is None:
        return "more looks"
    if found.low >= target:
        return "accept"
    if label is not None and wrong:
        other, (n, share) = max(wrong.items(), key=lambda item: (item[1][1], item[0]))
        together = found.accuracy + share
        if n >= _MERGE_LOOKS and share >= _MERGE_SHARE * (1 - found.accuracy) and together >= target > found.accuracy:
            return f"merge with {other}"
    open_ = found.accuracy >= target or (found.high >= target and found.n < _FEW)
    return "more looks" if open_ else "look by hand"
