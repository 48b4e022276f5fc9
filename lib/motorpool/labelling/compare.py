"""Which way labels best: cross-validation that keeps a vehicle's photos in one fold, on the annotated photos alone.

Everything here is NumPy on the driver. Its size is that of what people looked at, and bounded: ways are compared on at
most COMPARE_ROWS photos, and the winner is measured and fitted on at most FIT_ROWS, both drawn vehicle by vehicle.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from motorpool.kernels.labels.calibration import Calibration, calibrate, interval, log_loss, threshold
from motorpool.kernels.labels.folds import vehicle_folds
from motorpool.kernels.labels.votes import vote
from motorpool.kernels.runs import place_in_run
from motorpool.labelling.candidates import WAYS, Part, Source, log_probabilities

log = logging.getLogger(__name__)

COMPARE_ROWS = 2_000
FIT_ROWS = 20_000
#: Ways that go from the first round to the second, in which more folds are used and more numbers are tried.
_FINALISTS = 4
#: Candidates that label together, at most, and the least share of the best one's weight that counts.
MEMBERS = 6
_LEAST_WEIGHT = 0.1
#: Shares of the looks for which the accuracy is measured, besides all of them.
_CURVE = (0.25, 0.5, 0.75)
#: Photos of one vehicle that are learned from, at most: further ones repeat what these say.
MAX_PHOTOS = 12


@dataclass(frozen=True)
class Known:
    """Photos whose value is known: a person's look, or for what a vehicle has in common, a look at its vehicle.

    ``values`` int64[n] from 0 to ``n_values`` - 1, ``vehicles`` int64[n] name the photos' vehicles. With ``vote`` the
    photos of a vehicle share the value and vote on it, so that a vehicle is right or wrong as a whole.
    """

    values: np.ndarray
    vehicles: np.ndarray
    n_values: int
    vote: bool

    def take(self, which: np.ndarray) -> Known:
        return replace(self, values=self.values[which], vehicles=self.vehicles[which])


@dataclass(frozen=True)
class Candidate:
    """A way, the sources that it reads, each with its space, and the number that it is fitted with."""

    way: str
    sources: tuple[tuple[str, str], ...]
    number: float

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.sources)


@dataclass(frozen=True)
class Measured:
    """A candidate and the share of right labels and the log loss on photos or vehicles that were held out."""

    candidate: Candidate
    accuracy: float
    log_loss: float
    #: Scores of what was held out, float64[units, values], and its true values, int64[units].
    scores: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Choice:
    """What labels all photos, fitted, and what is known of how good it is.

    ``members`` are the candidates that are used, the best first, with their weights, which add up to 1.
    """

    members: list[tuple[Candidate, float]]
    parts: list[Part]
    calibration: Calibration
    threshold: float | None
    n_units: int
    accuracy: float
    low: float
    high: float
    #: All that were compared, best first.
    candidates: list[Measured]
    #: (looks, accuracy) for part of the looks and all of them.
    curve: list[tuple[int, float]]
    #: Counts of held-out photos or vehicles by true value (rows) and label, float64[values, values].
    confusion: np.ndarray


def compare(known: Known, sources: Mapping[tuple[str, str], Source], seed: int, target: float) -> Choice:
    """Compare all ways on all sources, and fit the best on all that is known.

    ``sources`` by name and space (`plain`, `whitened`; `clusters` for models), their rows those of ``known``. First
    every way meets every source alone; the best go on, are fitted with other numbers, and, where they read vectors,
    together. They are ranked by their log loss on held-out vehicles after calibration. Candidates that are nearly as
    good as the best are used beside it (`shared_out`): with few looks the best is often so by luck.

    Raises ValueError where fewer than two vehicles or fewer than two values are known.
    """
    if len(np.unique(known.values)) < 2 or len(np.unique(known.vehicles)) < 2:
        raise ValueError("fewer than two values, or photos of fewer than two vehicles, are known")
    rows = drawn(known, FIT_ROWS, seed)
    some = rows[: _whole_vehicles(known.vehicles[rows], COMPARE_ROWS)]
    few, few_sources = known.take(some), {key: s.take(some) for key, s in sources.items()}
    ranked = sorted(_rounds(few, few_sources, seed), key=lambda m: m.log_loss)
    weights = shared_out(ranked)
    fitting, fit_sources = known.take(rows), {key: s.take(rows) for key, s in sources.items()}
    last = ranked[: len(weights)]
    if len(rows) > len(some):
        last = [measure(fitting, fit_sources, m.candidate, seed) for m in last]
    factors = [w * calibrate(m.scores, m.values).sharpness for w, m in zip(weights, last, strict=True)]
    scores = np.sum([f * m.scores for f, m in zip(factors, last, strict=True)], axis=0)
    values = last[0].values
    calibration = calibrate(scores, values)
    probabilities = calibration.probabilities(scores)
    label = probabilities.argmax(axis=1)
    right = label == values
    confusion = np.zeros((known.n_values, known.n_values))
    np.add.at(confusion, (values, label), 1.0)
    low, high = interval(float(right.sum()), len(right))
    parts = [
        part.scaled(f) for f, m in zip(factors, last, strict=True) for part in fit(fitting, fit_sources, m.candidate)
    ]
    return Choice(
        [(m.candidate, w) for m, w in zip(last, weights, strict=True)],
        parts,
        calibration,
        threshold(probabilities.max(axis=1), right, target),
        len(right),
        float(right.mean()),
        low,
        high,
        ranked,
        [*_curve(few, few_sources, last[0].candidate, seed), (len(right), float(right.mean()))],
        confusion,
    )


def shared_out(ranked: Sequence[Measured]) -> list[float]:
    """The weights of the best candidates, which add up to 1: those of the others are zero.

    A weight falls with the log loss by which a candidate is behind, times the number of held-out vehicles (or photos):
    exp(-n x loss / 4). The fourth part, since the candidates learn from the same looks and err together; it was the
    best of 0.1 to 1 on two cases with 20 to 100 looks. At most MEMBERS candidates with a weight of some size are used,
    so with many looks it is one.
    """
    n = len(ranked[0].values)
    weights = np.exp(-n / 4 * (np.array([m.log_loss for m in ranked[:MEMBERS]]) - ranked[0].log_loss))
    weights = weights[weights >= _LEAST_WEIGHT]
    return [float(w) for w in weights / weights.sum()]


def drawn(known: Known, most: int, seed: int) -> np.ndarray:
    """Positions of at most about ``most`` photos, int64[m], vehicle by vehicle in an order drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    names, vehicle = np.unique(known.vehicles, return_inverse=True)
    order: np.ndarray = np.lexsort((rng.permutation(len(vehicle)), rng.permutation(len(names))[vehicle]))
    if known.vote:
        order = order[place_in_run(vehicle[order]) < MAX_PHOTOS]
    return order[: _whole_vehicles(known.vehicles[order], most)]


def _whole_vehicles(vehicles: np.ndarray, most: int) -> int:
    """How many of the first rows, in which vehicles lie together, are at most ``most`` and end with a vehicle.

    At least the rows of two vehicles, however many those are.
    """
    ends = np.flatnonzero(np.append(vehicles[1:] != vehicles[:-1], True)) + 1
    fitting = ends[ends <= most]
    return int(max(fitting[-1] if len(fitting) else 0, ends[min(1, len(ends) - 1)]))


# -- rounds --------------------------------------------------------------------------------------------


def _rounds(known: Known, sources: Mapping[tuple[str, str], Source], seed: int) -> list[Measured]:
    first = []
    for key in sources:
        way = WAYS["clusters" if key[1] == "clusters" else "probe"]
        first.append(measure(known, sources, Candidate(way.name, (key,), way.tries[0]), seed, n_folds=3))
    best = sorted(first, key=lambda m: m.log_loss)
    vectors = [m.candidate.sources[0] for m in best if m.candidate.way == "probe"]
    finalists = [m.candidate for m in best if m.candidate.way == "clusters"][:_FINALISTS]
    finalists += [
        Candidate(way.name, (key,), number)
        for key in vectors[:2]
        for way in WAYS.values()
        if way.reads == "vectors"
        for number in way.tries
    ]
    finalists += [Candidate("probe", (key,), 1.0) for key in vectors[2:_FINALISTS]]
    for together in _together(vectors):
        finalists += [Candidate("probe", together, number) for number in WAYS["probe"].tries[:2]]
    return [measure(known, sources, candidate, seed) for candidate in finalists]


def _together(vectors: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], ...]]:
    """The best two and the best four feature sets side by side, each in its better space."""
    best: dict[str, tuple[str, str]] = {}
    for name, space in vectors:
        best.setdefault(name, (name, space))
    keys = list(best.values())
    return [tuple(sorted(keys[:n])) for n in (2, 4) if len(keys) >= n]


def measure(
    known: Known, sources: Mapping[tuple[str, str], Source], candidate: Candidate, seed: int, n_folds: int = 0
) -> Measured:
    """Fit a candidate on all folds but one, and score that one, fold by fold.

    ``n_folds`` 0: ten where fewer than 100 vehicles are known, else five.
    """
    n_vehicles = len(np.unique(known.vehicles))
    fold = vehicle_folds(known.vehicles, known.values, n_folds or (10 if n_vehicles < 100 else 5), seed)
    held_out = np.empty((len(known.values), known.n_values))
    for number in range(int(fold.max()) + 1):
        out = fold == number
        parts = fit(known.take(~out), {k: sources[k].take(~out) for k in candidate.sources}, candidate)
        held_out[out] = log_probabilities(parts, {k[0]: sources[k].rows[out] for k in candidate.sources})
    scores, values = units(known, held_out)
    accuracy = float((scores.argmax(axis=1) == values).mean())
    loss = log_loss(calibrate(scores, values).probabilities(scores), values)
    return Measured(candidate, accuracy, loss, scores, values)


def units(known: Known, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and true values of what is right or wrong as a whole: vehicles where their photos vote, else photos.

    ``found`` float64[n, values] are log probabilities. A vehicle whose photos have several values has the first one's.
    """
    if not known.vote:
        return found, known.values
    _, first, vehicle = np.unique(known.vehicles, return_index=True, return_inverse=True)
    return vote(found, vehicle, len(first)), known.values[first]


def fit(known: Known, sources: Mapping[tuple[str, str], Source], candidate: Candidate) -> list[Part]:
    """The parts of a candidate, fitted on what is known. The photos of a vehicle that vote weigh less than one each."""
    weights = np.ones(len(known.values))
    if known.vote:
        _, vehicle, counts = np.unique(known.vehicles, return_inverse=True, return_counts=True)
        # As in their vote: neither copies of one photo, nor as many looks.
        weights = 1 / np.sqrt(counts[vehicle])
    chosen = [sources[key] for key in candidate.sources]
    return WAYS[candidate.way].fit(chosen, known.values, weights, known.n_values, candidate.number)


def _curve(
    known: Known, sources: Mapping[tuple[str, str], Source], candidate: Candidate, seed: int
) -> list[tuple[int, float]]:
    """The accuracy for a part of the vehicles, at two values and some vehicles at least."""
    names = np.unique(known.vehicles)
    order = np.random.default_rng(seed).permutation(len(names))
    points = []
    for share in _CURVE:
        which = np.isin(known.vehicles, names[order[: int(share * len(names))]])
        part = known.take(which)
        if len(np.unique(part.vehicles)) >= 10 and len(np.unique(part.values)) > 1:
            found = measure(part, {k: sources[k].take(which) for k in candidate.sources}, candidate, seed)
            points.append((len(found.values), found.accuracy))
    return points
