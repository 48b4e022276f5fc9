"""Scores against scikit-learn and brute force, through the same Spark passes that a study takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.cluster import KMeans
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from motorpool.cluster.centroids.by_centroids import by_centroids
from motorpool.cluster.score import VehicleAgreement, score_models, vehicle_agreement
from motorpool.kernels.cluster_sums import EXEMPLARS, ClusterSpread, ClusterSums
from motorpool.kernels.scores import Scores
from motorpool.kernels.vehicle_pairs import PairCounts
from motorpool.spark import blocks


def clouds(n: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 7)) * 2
    return (centres[rng.integers(5, size=n)] + rng.normal(size=(n, 7)) + offset).astype(np.float32)


def centroids(x: np.ndarray, k: int) -> np.ndarray:
    return KMeans(k, n_init=1, random_state=0).fit(x).cluster_centers_.astype(np.float32)


def distances(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64[n, k], from the differences themselves."""
    return np.stack([np.sqrt(np.square(x.astype(np.float64) - p).sum(axis=1)) for p in points.astype(np.float64)], 1)


def simplified_silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the rows of (b - a) / max(a, b), row by row; a and b are distances to cluster means."""
    x = x.astype(np.float64)
    found = np.unique(labels)
    means = {c: x[labels == c].mean(axis=0) for c in found}
    total = 0.0
    for row, own in zip(x, labels, strict=True):
        if (labels == own).sum() == 1:
            continue
        a = np.linalg.norm(row - means[own])
        b = min(np.linalg.norm(row - means[c]) for c in found if c != own)
        total += (b - a) / max(a, b) if max(a, b) > 0 else 0.0
    return total / len(x)


def check(score: Scores, x: np.ndarray, labels: np.ndarray, k: int, ids: np.ndarray | None = None) -> None:
    """All scores of one model; rows labelled below zero count nowhere."""
    ids = np.arange(len(x)) if ids is None else ids
    x, labels, ids = x[labels >= 0].astype(np.float64), labels[labels >= 0], ids[labels >= 0]
    assert score.sizes.tolist() == np.bincount(labels, minlength=k).tolist()
    assert score.values["calinski_harabasz"] == pytest.approx(calinski_harabasz_score(x, labels), rel=1e-6)
    assert score.values["davies_bouldin"] == pytest.approx(davies_bouldin_score(x, labels), rel=1e-6)
    assert score.values["silhouette"] == pytest.approx(simplified_silhouette(x, labels), rel=1e-6)
    within = 0.0
    for cluster in range(k):
        rows = np.flatnonzero(labels == cluster)
        if not len(rows):
            assert score.exemplars[cluster] == []
            continue
        squared = np.square(x[rows] - x[rows].mean(axis=0)).sum(axis=1)
        within += squared.sum()
        nearest = ids[rows][np.lexsort((ids[rows], squared))][:EXEMPLARS]
        assert score.exemplars[cluster] == nearest.tolist()
    assert score.within == pytest.approx(within, rel=1e-6)


# -- through Spark -----------------------------------------------------------------------------------


def scored(
    wide: Callable[..., DataFrame], collect: Callable[..., np.ndarray], x: np.ndarray, models: Sequence[np.ndarray]
) -> tuple[list[Scores], np.ndarray, np.ndarray]:
    """Scores, and the labels and distances of the nearest centroids."""
    df = blocks.persist(blocks.gather(wide(3, vector=x), rows=100))
    labelled = by_centroids(df, models)
    wide_labels = blocks.persist(labelled.wide())
    return score_models(labelled), collect(wide_labels, "clusters"), collect(wide_labels, "distances")


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_scores_of_made_data(wide: Callable[..., DataFrame], collect: Callable[..., np.ndarray], offset: float) -> None:
    x = clouds(700, offset)
    # The third model has a cluster that stays empty, the fourth one that holds a single row.
    models = [centroids(x, 2), centroids(x, 5)]
    models.append(np.concatenate([models[0], models[0][:1] + np.float32(1000)]))
    x[13] += 60
    models.append(np.concatenate([x[13:14], models[1]]))
    scores, labels, away = scored(wide, collect, x, models)
    for index, model in enumerate(models):
        truth = distances(x, model)
        assert np.array_equal(labels[:, index], truth.argmin(axis=1))
        assert np.allclose(away[:, index], truth.min(axis=1), rtol=1e-6, atol=1e-5)
        check(scores[index], x, labels[:, index], len(model))
    assert scores[2].sizes[2] == 0
    assert scores[3].sizes[0] == 1


def test_scores_of_the_real_case(
    wide: Callable[..., DataFrame],
    collect: Callable[..., np.ndarray],
    case_vectors: Callable[[str], np.ndarray],
) -> None:
    x = case_vectors("vdc_type")
    models = [centroids(x, 2), centroids(x, 7)]
    scores, labels, _ = scored(wide, collect, x, models)
    for index, model in enumerate(models):
        check(scores[index], x, labels[:, index], len(model))


# -- the sums themselves -----------------------------------------------------------------------------


def summed(x: np.ndarray, labels: np.ndarray, ks: Sequence[int], cuts: Sequence[int] = ()) -> list[Scores]:
    """Both passes over parts of the rows, each with a state of its own."""
    sums = ClusterSums(ks, x.shape[1])
    parts = np.split(np.arange(len(x)), list(cuts))
    for part in parts:
        state = ClusterSums(ks, x.shape[1])
        state.update(x[part].astype(np.float64), labels[part])
        sums.merge(state)
    spread = ClusterSpread(sums)
    for part in parts:
        other = ClusterSpread(sums)
        other.update(part, x[part].astype(np.float64), labels[part])
        spread.merge(other)
    return spread.scores()


@pytest.mark.parametrize("cuts", [[], [1, 50, 50, 299]], ids=str)
def test_noise_counts_nowhere(cuts: list[int]) -> None:
    x = clouds(300, seed=1)
    rng = np.random.default_rng(2)
    labels = np.stack([rng.integers(-1, k, len(x)) for k in (2, 4)], axis=1)
    for score, column, k in zip(summed(x, labels, (2, 4), cuts), labels.T, (2, 4), strict=True):
        check(score, x, column, k)


def test_scores_that_are_not_defined() -> None:
    x = clouds(6)
    labels = np.stack([np.zeros(6, int), np.arange(6), np.full(6, -1)], axis=1)
    one, every, noise = summed(x, labels, (1, 6, 2))
    for score in (one, every, noise):
        assert not score.defined
        assert score.values == {"calinski_harabasz": None, "davies_bouldin": None, "silhouette": None}
    assert one.within == pytest.approx(np.square(x - x.mean(axis=0, dtype=np.float64)).sum())
    assert every.within == pytest.approx(0, abs=1e-12)
    assert noise.sizes.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_clusters_of_equal_rows_follow_scikit_learns_conventions(seed: int) -> None:
    x = np.repeat(clouds(3, seed=seed).astype(np.float64), [5, 7, 2], axis=0)
    labels = np.repeat(np.arange(3), [5, 7, 2])
    assert calinski_harabasz_score(x, labels) == 1.0
    # Shifted as `score_models` shifts them, so that means are rounded, where scikit-learn's own convention fails.
    (score,) = summed(x - x[::5].mean(axis=0) / 3, labels[:, None], (3,))
    assert score.values["calinski_harabasz"] == 1.0
    assert score.values["davies_bouldin"] == 0.0
    assert score.values["silhouette"] == pytest.approx(1, abs=1e-6)


def test_clusters_at_the_same_place() -> None:
    (score,) = summed(np.ones((4, 3)), np.array([[0], [0], [1], [1]]), (2,))
    assert score.values == {"calinski_harabasz": 1.0, "davies_bouldin": 0.0, "silhouette": 0.0}


# -- agreement with the vehicles ---------------------------------------------------------------------


def brute_agreement(vehicles: Sequence[str | None], labels: np.ndarray) -> float | None:
    """(p - r) / (1 - r), pair by pair, over the photos with a vehicle."""
    same_vehicle = together = both = pairs = 0
    held = [i for i, v in enumerate(vehicles) if v is not None]
    for i, j in itertools.combinations(held, 2):
        same = labels[i] == labels[j] and labels[i] >= 0
        pairs += 1
        together += same
        if vehicles[i] == vehicles[j]:
            same_vehicle += 1
            both += same
    if not same_vehicle or together == pairs:
        return None
    p, r = both / same_vehicle, together / pairs
    return (p - r) / (1 - r)


def fleet(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vehicles of n photos, one with most of them and some with none, and labels of four models."""
    rng = np.random.default_rng(seed)
    number = rng.choice(12, n, p=[0.5, *np.full(11, 0.5 / 11)])
    vehicles = np.array([f"v{i}" for i in number], object)
    noisy = np.where(rng.random(n) < 0.7, number % 4, rng.integers(-1, 4, n))
    labels = np.stack([number, noisy, rng.integers(0, 6, n), np.full(n, -1)], axis=1).astype(np.int32)
    return vehicles, labels


def test_agreement_through_spark_on_any_partitions(spark: SparkSession) -> None:
    vehicles, labels = fleet(250, 0)
    vehicles[::9] = None
    named = {"image_id": pa.array(np.arange(250)), "vehicle_id": pa.array(vehicles, pa.string())}
    images = spark.createDataFrame(pa.table(named))
    width = labels.shape[1]
    offsets = pa.array(np.arange(0, labels.size + 1, width, dtype=np.int32))
    clusters = pa.ListArray.from_arrays(offsets, pa.array(labels.reshape(-1)))
    frame = spark.createDataFrame(pa.table({"image_id": pa.array(np.arange(250)), "clusters": clusters}))
    expected = [brute_agreement(vehicles, column) for column in labels.T]
    before = spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch")
    # Batches smaller than most vehicles, as a vehicle with thousands of photos has them.
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "7")
    try:
        for partitions in (1, 6):
            found = vehicle_agreement(frame.repartition(partitions), images, width)
            assert found.by_model == pytest.approx(expected, abs=1e-12)
            named_twice = np.unique(vehicles[vehicles != None], return_counts=True)[1] > 1  # noqa: E711
            assert found.n_vehicles == named_twice.sum()
    finally:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(before))
    assert vehicle_agreement(frame, images.where("vehicle_id is null"), width) == VehicleAgreement([None] * width, 0)


@pytest.mark.parametrize("seed", range(8))
def test_agreement_however_the_rows_are_batched_and_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vehicles, labels = fleet(90, seed)
    order = np.argsort(vehicles, kind="stable")
    vehicles, labels = vehicles[order], labels[order]
    starts = np.flatnonzero(np.append(True, vehicles[1:] != vehicles[:-1]))
    total = PairCounts(labels.shape[1])
    # Tasks hold whole vehicles, the batches within them do not.
    for task in np.split(np.arange(90), np.sort(rng.choice(starts, 3))):
        state = PairCounts(labels.shape[1])
        for batch in np.split(task, np.sort(rng.integers(0, len(task) + 1, rng.integers(0, 8)))):
            if len(batch):
                state.update(vehicles[batch], labels[batch])
        total.merge(state)
    expected = [brute_agreement(vehicles, column) for column in labels.T]
    assert total.agreement() == pytest.approx(expected, abs=1e-12)
    assert total.n_vehicles == (np.unique(vehicles, return_counts=True)[1] > 1).sum()


def agreement(vehicles: Sequence[str], labels: Sequence[int]) -> float | None:
    counts = PairCounts(1)
    counts.update(np.array(list(vehicles), object), np.array(labels, np.int32)[:, None])
    return counts.agreement()[0]


def test_agreement_by_hand() -> None:
    # Vehicle pairs: 3 + 1, of which 1 + 1 together; all pairs: 10, of which the 6 among four photos together.
    assert agreement("aaabb", [0, 0, 1, 0, 0]) == pytest.approx((2 / 4 - 6 / 10) / (1 - 6 / 10))
    assert agreement("aabbcc", [4, 4, 0, 0, 2, 2]) == 1
    assert agreement("abc", [0, 0, 1]) is None
    assert agreement("aab", [3, 3, 3]) is None
    assert agreement("aab", [-1, -1, -1]) == 0


def test_agreement_is_one_when_perfect_and_nil_when_random() -> None:
    rng = np.random.default_rng(0)
    number = np.sort(rng.integers(0, 400, 4000))
    vehicles = number.astype(str)
    assert agreement(vehicles, number) == 1
    # Whole vehicles together is perfect too, however few the clusters.
    assert agreement(vehicles, number % 3) == pytest.approx(1)
    for k in (2, 10, 100):
        random = agreement(vehicles, rng.integers(0, k, 4000))
        assert random is not None
        assert abs(random) < 0.02
