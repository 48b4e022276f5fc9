"""Estimates of audits: intervals that hold for few looks, looks shared among strata, and verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from motorpool.kernels.labels.audit import Estimate, Looks, accuracy_of, allocate, verdict

#: Photos of a population by the label they have, and how often that is right; very unequal, as body types are.
SIZES = np.array([24_000, 9_000, 4_000, 1_500, 600, 250])
RIGHT = np.array([0.985, 0.93, 0.97, 0.75, 0.9, 1.0])


def population(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stratum, whether the label is right, and the number of the vehicle's photos, one row a vehicle.

    Photos of a vehicle are right or wrong together, and vehicles with many photos are wrong more often: a sample of
    vehicles that ignores weights is biased.
    """
    rng = np.random.default_rng(seed)
    stratum = np.repeat(np.arange(len(SIZES)), SIZES)
    photos = rng.integers(2, 21, len(stratum))
    right = rng.random(len(stratum)) < RIGHT[stratum] + 0.06 * (11 - photos) / 19 * (RIGHT[stratum] < 1)
    return stratum, right, photos


def covered(n: int, audits: int = 200) -> tuple[int, np.ndarray, float]:
    """How many of the audits' 95 % intervals hold the truth, for all labels and for each value; the mean accuracy."""
    stratum, right, photos = population(1)
    truth = np.average(right, weights=photos)
    by_value = np.array([np.average(right[stratum == h], weights=photos[stratum == h]) for h in range(len(SIZES))])
    parts = allocate(SIZES, n)
    first = np.concatenate([[0], np.cumsum(SIZES)])
    whole, values, accuracies = 0, np.zeros(len(SIZES), int), []
    for seed in range(audits):
        rng = np.random.default_rng([seed, n])
        drawn = [first[h] + rng.choice(SIZES[h], parts[h], replace=False) for h in range(len(SIZES))]
        rows = np.concatenate(drawn)
        weight = photos[rows] * (SIZES / parts)[stratum[rows]]
        found = accuracy_of(Looks.of(right[rows], weight, stratum[rows]))
        whole += found.low <= truth <= found.high
        accuracies.append(found.accuracy)
        for h, some in enumerate(drawn):
            one = accuracy_of(Looks.of(right[some], weight[stratum[rows] == h], np.zeros(len(some), int)))
            values[h] += one.low <= by_value[h] <= one.high
    return whole, values, float(np.mean(accuracies)) - truth


@pytest.mark.parametrize("n", [12, 30, 100, 300])
def test_95_of_100_intervals_hold_the_truth(n: int) -> None:
    whole, values, bias = covered(n)
    assert whole >= 186
    assert values.min() >= 186
    assert abs(bias) < 0.006


def test_intervals_get_short_with_the_number_of_looks() -> None:
    """One that always reaches from 0 to 1 would cover everything."""
    stratum, right, photos = population(1)
    rng = np.random.default_rng(3)
    lengths = []
    for n in (30, 300, 3000):
        parts = allocate(SIZES, n)
        first = np.concatenate([[0], np.cumsum(SIZES)])
        rows = np.concatenate([first[h] + rng.choice(SIZES[h], parts[h], replace=False) for h in range(len(SIZES))])
        weight = photos[rows] * (SIZES / parts)[stratum[rows]]
        found = accuracy_of(Looks.of(right[rows], weight, stratum[rows]))
        lengths.append(found.high - found.low)
    assert lengths[0] < 0.4
    assert lengths[1] < 0.09
    assert lengths[2] < 0.03


@pytest.mark.parametrize(
    ("n", "right", "low", "high"),
    # Clopper and Pearson's intervals as tables print them.
    [(10, 10, 0.6915, 1.0), (10, 0, 0.0, 0.3085), (20, 18, 0.6830, 0.9877), (300, 285, 0.9189, 0.9718)],
)
def test_a_simple_random_sample_gives_about_the_exact_interval(n: int, right: int, low: float, high: float) -> None:
    found = accuracy_of(Looks.of(np.arange(n) < right, np.ones(n), np.zeros(n, int)))
    assert found.accuracy == pytest.approx(right / n)
    assert found.n_effective == pytest.approx(n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_weights_and_strata_by_hand() -> None:
    """Two of three right in a stratum of 30 images, one of one in a stratum of 70."""
    found = accuracy_of(Looks(n=[3, 1], right=[2, 1], weight=[30, 70], weight_right=[20, 70], weight_sq=[300, 4900]))
    assert (found.n, found.right) == (4, 3)
    assert found.accuracy == pytest.approx(0.9)
    smoothed = np.array([3 / 5, 2 / 3])
    variance = 0.09 * 0.24 / 3 + 0.49 * (2 / 9) / 1
    overall = 0.3 * smoothed[0] + 0.7 * smoothed[1]
    assert found.n_effective == pytest.approx(overall * (1 - overall) / variance)


def test_without_looks_nothing_is_known() -> None:
    nothing = accuracy_of(Looks.of(np.zeros(0, bool), np.zeros(0), np.zeros(0, int)))
    assert nothing == Estimate(0, 0, None, 0.0, 1.0, 0.0)
    assert accuracy_of(Looks([0, 4], [0, 4], [0, 4], [0, 4], [0, 4])).accuracy == 1.0


def test_looks_are_shared_by_the_square_root_of_the_size() -> None:
    assert allocate(np.array([10_000, 2_500, 400]), 170).tolist() == [100, 50, 20]
    assert allocate(np.array([100, 1, 10_000, 0]), 60).sum() == 60
    assert allocate(np.array([100, 1, 10_000, 0]), 60).tolist()[1::2] == [1, 0]
    assert allocate(np.array([3, 4]), 100).tolist() == [3, 4]
    assert allocate(np.array([1_000_000, 40, 40]), 8).min() == 2
    assert allocate(np.array([9, 9, 9, 9]), 3).sum() == 3
    for n in range(1, 120):
        parts = allocate(np.array([50, 3, 17, 49, 1]), n)
        assert parts.sum() == n
        assert (parts <= [50, 3, 17, 49, 1]).all()


def looks(n: int, right: int) -> Estimate:
    return accuracy_of(Looks.of(np.arange(n) < right, np.ones(n), np.zeros(n, int)))


def test_verdicts() -> None:
    assert verdict(looks(100, 100), 0.95, {}, "sedan") == "accept"
    assert verdict(looks(30, 30), 0.95, {}, "sedan") == "more looks"
    assert verdict(looks(0, 0), 0.95, {}, "sedan") == "more looks"
    assert verdict(looks(10, 9), 0.95, {"SUV": (1, 0.1)}, "sedan") == "more looks"
    assert verdict(looks(60, 40), 0.95, {"SUV": (10, 1 / 6), "van": (10, 1 / 6)}, "sedan") == "look by hand"
    assert verdict(looks(60, 40), 0.95, {"SUV": (19, 19 / 60), "van": (1, 1 / 60)}, "sedan") == "merge with SUV"
    # All values together cannot be merged.
    assert verdict(looks(60, 40), 0.95, {"SUV": (20, 1 / 3)}) == "look by hand"
