"""The numbers of labelling: folds of vehicles, votes, probabilities, and the ways from looks to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from motorpool.kernels.labels.calibration import calibrate, interval, log_loss, threshold
from motorpool.kernels.labels.folds import vehicle_folds
from motorpool.kernels.labels.votes import vote
from motorpool.kernels.labels.within_vehicles import whitening
from motorpool.labelling import compare as compare_module
from motorpool.labelling.candidates import (
    Part,
    Source,
    Space,
    fit_clusters,
    fit_nearest,
    fit_probe,
    log_probabilities,
)
from motorpool.labelling.compare import Known, Measured, compare, drawn, shared_out
from motorpool.labelling.program import from_rows, program_rows

CENTRES = np.array([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])


def photos(n_vehicles: int, n_photos: int = 4, spread: float = 1.5, seed: int = 0) -> tuple[np.ndarray, ...]:
    """float32[n, 4] vectors, values and vehicles, int64[n]: the fourth column varies within vehicles alone."""
    rng = np.random.default_rng(seed)
    value = rng.integers(0, 3, n_vehicles).repeat(n_photos)
    x = CENTRES[value] + rng.normal(size=(n_vehicles, 4)).repeat(n_photos, axis=0) * [1, 1, 1, 0]
    x += rng.normal(size=x.shape) * [spread, spread, spread, 6]
    return x.astype(np.float32), value, np.arange(n_vehicles).repeat(n_photos)


def plain(d: int) -> Space:
    return Space("plain", np.zeros(d), np.eye(d))


# Folds.


def test_a_vehicles_photos_share_a_fold_and_values_are_dealt_out_evenly() -> None:
    vehicles = np.arange(31).repeat(3)
    values = (np.arange(31) % 3 == 0).astype(np.int64).repeat(3)
    fold = vehicle_folds(vehicles, values, 5, seed=4)
    of_vehicle = fold.reshape(31, 3)
    assert (of_vehicle == of_vehicle[:, :1]).all()
    for value in (0, 1):
        counts = np.bincount(of_vehicle[values.reshape(31, 3)[:, 0] == value, 0], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(fold, vehicle_folds(vehicles, values, 5, seed=4))
    assert not np.array_equal(fold, vehicle_folds(vehicles, values, 5, seed=5))


def test_few_vehicles_make_as_many_folds() -> None:
    fold = vehicle_folds(np.array([7, 9, 7]), np.array([0, 1, 0]), 5, seed=0)
    assert fold[0] == fold[2] != fold[1]
    with pytest.raises(ValueError, match="5 folds of 1 vehicles"):
        vehicle_folds(np.array([7, 7]), np.array([0, 1]), 5, seed=0)


# Votes and probabilities.


def test_photos_of_a_vehicle_vote_by_their_log_probabilities() -> None:
    one = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    found = vote(one, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(found[0], (one[0] + one[1]) / np.sqrt(2))
    np.testing.assert_array_equal(found[1], [0, 0])
    np.testing.assert_allclose(found[2], one[2])


def test_overconfident_scores_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3)) * 2
    values = np.array([rng.choice(3, p=p) for p in softmax(scores, axis=1)])
    found = calibrate(3 * scores, values)
    assert found.sharpness == pytest.approx(1 / 3, rel=0.15)
    probabilities = found.probabilities(3 * scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    top = probabilities.max(axis=1)
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        here = (top >= low) & (top < high)
        assert (probabilities.argmax(axis=1) == values)[here].mean() == pytest.approx(top[here].mean(), abs=0.05)
    assert log_loss(probabilities, values) < log_loss(softmax(3 * scores, axis=1), values)


def test_few_looks_leave_doubt() -> None:
    found = calibrate(np.array([[9.0, 0], [0, 9.0], [9.0, 0]]), np.array([0, 1, 0]))
    assert found.probabilities(np.array([[1000.0, 0]])).max() <= 1 - 2 / 5 + (2 / 5) * 0.6 + 1e-9


def test_wilsons_interval_by_hand() -> None:
    # Newcombe (1998), table I: 81 of 263.
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(20, 20)[1] == 1.0


def test_a_threshold_takes_enough_looks() -> None:
    assert threshold(np.full(20, 0.99), np.ones(20, bool), 0.95) is None
    top = np.linspace(1, 0.5, 400)
    right = np.arange(400) < 300
    found = threshold(top, right, 0.95)
    assert found is not None
    accepted = top >= found
    assert 250 < accepted.sum() < 320
    assert right[accepted].mean() >= 0.95
    # Equal probabilities are accepted together or not at all.
    assert threshold(np.full(400, 0.9), right, 0.95) is None


# The ways.


@pytest.mark.parametrize("n_values", [2, 3])
def test_a_probe_has_the_probabilities_of_scikit_learn(n_values: int) -> None:
    x, values, _ = photos(60)
    values = values % n_values
    weights = np.linspace(0.5, 1.5, len(values))
    y = x[:, 1:]
    parts = fit_probe(
        [Source("a", x, plain(4)), Source("b", y, Space("plain", y.mean(0), np.eye(3) / 2))],
        values,
        weights,
        n_values,
        0.7,
    )
    joined = np.concatenate([x, (y - y.mean(0)) / 2], axis=1).astype(np.float64)
    theirs = LogisticRegression(C=0.7, max_iter=300, tol=1e-3).fit(joined, values, sample_weight=weights)
    ours = np.exp(log_probabilities(parts, {"a": x, "b": y}))
    np.testing.assert_allclose(ours, theirs.predict_proba(joined), atol=2e-3)


def test_values_that_a_probe_has_not_seen_are_unlikely() -> None:
    x, values, _ = photos(30)
    seen = values < 2
    for which, n_seen in ((seen, 2), (values == 1, 1)):
        parts = fit_probe([Source("a", x[which], plain(4))], values[which], np.ones(which.sum()), 3, 1.0)
        found = np.exp(log_probabilities(parts, {"a": x}))
        assert found[:, 2].max() < 0.01
        assert len(np.unique(found.argmax(axis=1))) == n_seen


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_photos_vote_as_scikit_learns(k: int) -> None:
    x, values, _ = photos(40)
    new, *_ = photos(10, seed=1)
    parts = fit_nearest([Source("a", x, plain(4))], values, np.ones(len(values)), 3, k)
    theirs = KNeighborsClassifier(k).fit(x, values).predict_proba(new)
    shares = (np.bincount(values, minlength=3) + 1) / (len(values) + 3)
    ours = np.exp(parts[0].scores(new))
    np.testing.assert_allclose(ours, (k * theirs + shares) / (k + 1), atol=1e-9)


def test_clusters_are_named_by_smoothed_counts() -> None:
    clusters = np.array([0, 0, 2, -1, -2])
    (part,) = fit_clusters([Source("m", clusters)], np.array([0, 0, 1, 1, 0]), np.ones(5), 2, 1.0)
    shares = np.array([4, 3]) / 7
    found = np.exp(part.scores(np.array([0, 1, 2, 9, -1, -2])))
    np.testing.assert_allclose(found[0], (np.array([2, 0]) + shares) / 3)
    np.testing.assert_allclose(found[2], (np.array([0, 1]) + shares) / 2)
    for unknown in (1, 3, 4, 5):
        np.testing.assert_allclose(found[unknown], shares)


def test_a_photo_that_a_source_lacks_counts_as_an_average_one() -> None:
    x, values, _ = photos(30)
    space = Space("plain", x.mean(0), np.eye(4))
    gap = x.copy()
    gap[3] = np.nan
    for fit in (fit_probe, fit_nearest):
        (part,) = fit([Source("a", gap, space)], values, np.ones(len(values)), 3, 1.0)
        for found in (part.scores(gap[3:4])[0], part.scores(x.mean(0)[None])[0]):
            np.testing.assert_allclose(found, part.unknown(), atol=1e-5)
        np.testing.assert_allclose(part.scaled(0.3).scores(x), 0.3 * part.scores(x))


def test_whitening_scales_down_what_varies_within_vehicles() -> None:
    x, _, vehicles = photos(200)
    matrix = whitening(x, vehicles)
    assert matrix is not None
    placed = (x - x.mean(0)) @ matrix
    assert np.mean(placed**2) == pytest.approx(1)
    inner = np.array([placed[vehicles == v].std(axis=0) for v in range(200)]).mean(axis=0)
    outer = np.array([placed[vehicles == v].mean(axis=0) for v in range(200)]).std(axis=0)
    # The fourth column, in which vehicles do not differ, is the last direction.
    assert (outer / inner).argmin() == 3
    assert np.abs(matrix[3, :3]).max() < 0.1 * np.abs(matrix[:3, :3]).max()
    assert whitening(x, np.arange(len(x))) is None
    assert whitening(np.ones((6, 2)), np.array([0, 0, 1, 1, 2, 2])) is None


# Comparing them.


def known_photos(n_vehicles: int, *, vote: bool = True, seed: int = 0) -> tuple[Known, dict[Any, Source]]:
    x, values, vehicles = photos(n_vehicles, seed=seed)
    rng = np.random.default_rng(seed)
    good = np.where(rng.random(len(values)) < 0.9, values, rng.integers(0, 3, len(values))).astype(np.int32)
    space = Space("whitened", x.mean(0), np.diag([0.5, 0.5, 0.5, 0.05]))
    sources = {
        ("noise", "plain"): Source("noise", rng.normal(size=(len(x), 5)).astype(np.float32), plain(5)),
        ("signal", "plain"): Source("signal", x, plain(4)),
        ("signal", "whitened"): Source("signal", x, space),
        ("model", "clusters"): Source("model", good),
        ("chance", "clusters"): Source("chance", rng.integers(0, 4, len(x)).astype(np.int32)),
    }
    return Known(values, vehicles, 3, vote), sources


def test_the_source_that_knows_the_values_wins() -> None:
    known, sources = known_photos(60)
    choice = compare(known, sources, 7, 0.9)
    assert {c.features for c, _ in choice.members} <= {("signal",), ("model",), ("noise", "signal")}
    assert choice.accuracy > 0.9
    assert 0.85 < choice.low < choice.accuracy <= choice.high
    assert choice.n_units == 60
    assert choice.confusion.sum() == 60
    assert np.trace(choice.confusion) / 60 == pytest.approx(choice.accuracy)
    assert [n for n, _ in choice.curve] == [15, 30, 45, 60]
    new, truth, vehicles = photos(100, seed=9)
    rows = {"signal": new, "noise": np.zeros((400, 5)), "model": truth, "chance": np.zeros(400, np.int64)}
    scores = vote(log_probabilities(choice.parts, rows), vehicles, 100)
    assert (choice.calibration.probabilities(scores).argmax(axis=1) == truth[::4]).mean() > 0.9


def test_photos_that_do_not_vote_are_right_or_wrong_alone() -> None:
    known, sources = known_photos(40, vote=False)
    choice = compare(known, sources, 7, 0.9)
    assert choice.n_units == 160


def test_the_same_looks_give_the_same_choice() -> None:
    known, sources = known_photos(30)
    first, second = (compare(known, sources, 7, 0.9) for _ in range(2))
    assert first.members == second.members
    assert program_rows(first.parts, first.calibration, first.threshold) == program_rows(
        second.parts, second.calibration, second.threshold
    )


def test_one_value_alone_is_refused() -> None:
    known, sources = known_photos(10)
    with pytest.raises(ValueError, match="fewer than two values"):
        compare(Known(np.zeros(40, np.int64), known.vehicles, 3, True), sources, 7, 0.9)


def test_many_looks_are_drawn_vehicle_by_vehicle(monkeypatch: pytest.MonkeyPatch) -> None:
    known, sources = known_photos(300)
    rows = drawn(known, 100, seed=1)
    assert len(rows) == 100
    assert len(np.unique(known.vehicles[rows])) == 25
    one = Known(known.values, np.zeros(1200, np.int64), 3, True)
    assert len(drawn(one, 100, seed=1)) == compare_module.MAX_PHOTOS
    monkeypatch.setattr(compare_module, "COMPARE_ROWS", 120)
    monkeypatch.setattr(compare_module, "FIT_ROWS", 600)
    choice = compare(known, sources, 7, 0.9)
    assert choice.n_units == 150
    assert {len(m.values) for m in choice.candidates} == {30}


def test_candidates_share_labelling_only_while_looks_are_few() -> None:
    def behind(loss: float, n: int) -> Measured:
        return Measured(None, 0.9, 0.2 + loss, np.zeros((n, 2)), np.zeros(n))  # type: ignore[arg-type]

    assert shared_out([behind(0, 20), behind(0.04, 20)]) == pytest.approx([0.55, 0.45], abs=0.01)
    assert shared_out([behind(0, 1000), behind(0.04, 1000)]) == [1.0]


def test_a_program_labels_as_the_parts_do() -> None:
    known, sources = known_photos(30)
    choice = compare(known, sources, 7, 0.5)
    parts, calibration, limit = from_rows(program_rows(choice.parts, choice.calibration, choice.threshold))
    rows = {key[0]: s.rows for key, s in sources.items()}
    np.testing.assert_allclose(log_probabilities(parts, rows), log_probabilities(choice.parts, rows))
    assert (calibration.sharpness, calibration.doubt, limit) == (
        choice.calibration.sharpness, choice.calibration.doubt, choice.threshold
    )  # fmt: skip
    assert from_rows(program_rows([], choice.calibration, None))[2] is None


def test_shares_of_scores_do_not_depend_on_a_constant() -> None:
    part = Part("table", "m", {"log_probabilities": np.log([[0.2, 0.8], [0.5, 0.5]]) + 5})
    np.testing.assert_allclose(np.exp(log_probabilities([part], {"m": np.array([0])})), [[0.2, 0.8]])
