"""The consensus that vehicles lead: its arithmetic against scikit-learn's, and blind methods that no longer count."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from motorpool.outliers.consensus import LEAST_OUTLIERS, Weighted, agreement, consensus, weights_from, weights_text

Scores = dict[tuple[str, str], np.ndarray]
LEADING = ["odd", "stray"]


# -- agreement, without Spark ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_target"), [(6, 1), (6, 2), (7, 5)])
def test_the_agreement_of_all_orders_is_none_on_average(n: int, n_target: int) -> None:
    truth = np.arange(n) < n_target
    score = np.arange(n)[::-1]
    expected = np.mean([average_precision_score(truth[list(order)], score) for order in permutations(range(n))])
    # The harmonic number is a series, to a few parts in a million for six images and exact for many.
    assert agreement(expected + 1e-4, n_target, n) < 1e-3
    assert agreement(expected - 1e-4, n_target, n) == 0
    assert agreement(1.0, n_target, n) == 1
    assert 0 < agreement((1 + expected) / 2, n_target, n) < 1


def test_a_constant_ranking_and_an_empty_target_agree_with_nothing() -> None:
    assert agreement(20 / 1000, 20, 1000) == 0
    assert agreement(0.0, 0, 1000) == 0
    assert agreement(1.0, 1000, 1000) == 0


def test_weights_are_kept_as_text() -> None:
    weights = {("b", "lof"): 0.25, ("a", "lof"): 0.0, ("a", "odd"): 0.9801}
    assert weights_text(weights) == '{"a": {"lof": 0.0, "odd": 0.9801}, "b": {"lof": 0.25}}'
    assert weights_from(weights_text(weights)) == weights


# -- on Spark -------------------------------------------------------------------------------------------


def long(spark: SparkSession, scores: Scores) -> DataFrame:
    """Rows ``features, method, image_id, score``."""
    tables = [
        pa.table({"features": [f] * len(v), "method": [m] * len(v), "image_id": np.arange(len(v)), "score": v})
        for (f, m), v in scores.items()
    ]
    return spark.createDataFrame(pa.concat_tables(tables)).repartition(3)


def weighted(
    spark: SparkSession, scores: Scores, comparable: np.ndarray, share: float
) -> tuple[np.ndarray, dict[tuple[str, str], float]] | None:
    ids = spark.createDataFrame(pa.table({"image_id": np.flatnonzero(comparable)}))
    found = Weighted.of(long(spark, scores), LEADING, ids, share)
    if found is None:
        return None
    try:
        table = found.df.toArrow().sort_by("image_id")
    finally:
        found.release()
    assert table.column("image_id").to_pylist() == list(range(len(comparable)))
    return table.column("score").to_numpy(), found.weights


def by_definition(
    scores: Scores, comparable: np.ndarray, share: float
) -> tuple[np.ndarray, dict[tuple[str, str], float]]:
    n = len(comparable)
    evidence = {}
    for (features, method), score in scores.items():
        says = comparable if method in LEADING else np.ones(n, bool)
        of = np.full(n, np.nan)
        of[says] = -np.log((rankdata(-score[says]) - 0.5) / says.sum())
        evidence[features, method] = of
    lead = np.mean([e for (_, m), e in evidence.items() if m in LEADING], axis=0)[comparable].round(9)
    target = (rankdata(-lead, method="min") / len(lead) <= share) & (lead > lead.min())
    weights = {}
    for ranking, of in evidence.items():
        precision = average_precision_score(target, of[comparable])
        harmonic = np.sum(1 / np.arange(1, len(target) + 1))
        chance = ((target.sum() - 1) / (len(target) - 1) * (len(target) - harmonic) + harmonic) / len(target)
        weights[ranking] = round(max(0.0, (precision - chance) / (1 - chance)) ** 2, 4)
    w = np.array(list(weights.values()))[:, None]
    of = np.array(list(evidence.values()))
    total = np.where(np.isnan(of), 0, w).sum(axis=0)
    mean = np.nan_to_num(w * of).sum(axis=0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.log(2)), weights


def planted(seed: int, n: int = 600, n_strange: int = 15) -> tuple[Scores, np.ndarray]:
    """Leading methods that see the strange images, one that half sees them, and six that are blind."""
    rng = np.random.default_rng(seed)
    strange = np.zeros(n, bool)
    strange[rng.choice(n, n_strange, replace=False)] = True
    scores: Scores = {
        ("f", "odd"): rng.normal(size=n) + 6 * strange,
        ("f", "stray"): np.exp(rng.normal(size=n) + 6 * strange),
        # Ties: of the strange ones half stand out, among as many others.
        ("f", "half"): rng.integers(5, size=n) + np.where(strange & (np.arange(n) % 2 == 0), 6.0, 0.0),
    }
    scores |= {(features, method): rng.normal(size=n) for features in "fg" for method in ("x", "y", "z")}
    return scores, strange


def test_weights_and_scores_are_their_definition(spark: SparkSession) -> None:
    scores, _ = planted(0)
    comparable = np.random.default_rng(1).random(600) < 0.8
    found = weighted(spark, scores, comparable, 0.03)
    assert found is not None
    score, weights = by_definition(scores, comparable, 0.03)
    assert found[1] == pytest.approx(weights, abs=2e-4)
    assert np.allclose(found[0], score, rtol=1e-3)


def test_blind_methods_do_not_count(spark: SparkSession) -> None:
    scores, strange = planted(2)
    everyone = np.ones(len(strange), bool)
    found = weighted(spark, scores, everyone, 0.03)
    assert found is not None
    score, weights = found
    blind = [w for (_, method), w in weights.items() if method in "xyz"]
    assert max(blind) < 0.01
    assert 0.02 < weights["f", "half"] < min(weights["f", "odd"], weights["f", "stray"])
    best = max(average_precision_score(strange, of) for of in scores.values())
    equal = consensus(long(spark, scores)).toArrow().sort_by("image_id").column("score").to_numpy()
    assert average_precision_score(strange, score) > max(best - 0.01, 0.97)
    assert average_precision_score(strange, equal) < 0.8


def test_a_photo_without_a_vehicle_is_judged_by_the_others(spark: SparkSession) -> None:
    scores, strange = planted(3)
    alone = np.zeros(len(strange), bool)
    alone[np.flatnonzero(strange)[:3]] = True
    alone[np.flatnonzero(~strange)[:40]] = True
    for method in LEADING:
        scores["f", method][alone] = np.median(scores["f", method])
    scores["f", "half"][strange & alone] = 11.0
    found = weighted(spark, scores, ~alone, 0.03)
    assert found is not None
    score, weights = found
    # Weights are learned where vehicles are known, and hold for the others.
    assert weights["f", "half"] > 0.02
    assert rankdata(-score)[strange & alone].max() <= 25
    # Where no ranking with a weight knows a photo, it is one of the middle.
    kept = {k: v for k, v in scores.items() if k[1] in LEADING}
    found = weighted(spark, kept, ~alone, 0.03)
    assert found is not None
    assert np.allclose(found[0][alone], np.log(2))


def test_one_leading_ranking_alone_is_the_consensus(spark: SparkSession) -> None:
    rng = np.random.default_rng(4)
    only = rng.integers(40, size=400).astype(float)
    found = weighted(spark, {("f", "odd"): only}, np.ones(400, bool), 0.05)
    assert found is not None
    assert found[1] == {("f", "odd"): 1.0}
    assert np.array_equal(rankdata(found[0].round(9)), rankdata(only))


def test_too_few_outliers_of_known_vehicles_teach_nothing(spark: SparkSession) -> None:
    scores, _ = planted(5)
    few = np.arange(600) < 100
    assert weighted(spark, scores, few, (LEAST_OUTLIERS - 1) / 100) is None
    assert weighted(spark, scores, few, LEAST_OUTLIERS / 100) is not None
    assert weighted(spark, scores, np.zeros(600, bool), 0.05) is None
    constant = scores | {("f", method): np.ones(600) for method in LEADING}
    assert weighted(spark, constant, np.ones(600, bool), 0.05) is None
