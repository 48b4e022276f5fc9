"""The KMeans sweep against scikit-learn's, and where rows are few, equal, extreme or beyond the coreset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler

from cases import inertia, uneven_blobs
from motorpool.cluster.centroids import kmeans
from motorpool.cluster.centroids.kmeans import KMeansModel, fit_kmeans
from motorpool.kernels.centroids.nearest import NearestCentroids
from motorpool.spark import coreset
from motorpool.spark.coreset import draw_coreset, measure_spread

KS = range(2, 9)


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def check(models: Sequence[KMeansModel], x: np.ndarray, ks: Sequence[int]) -> None:
    """As good as scikit-learn within one per cent, and honest about it."""
    assert [m.k for m in models] == list(ks)
    for model in models:
        assert model.centroids.dtype == np.float32
        assert model.centroids.shape == (model.k, x.shape[1])
        assert model.converged
        found = inertia(x, model.centroids)
        # Starts are luck, scikit-learn's too: its result varies by 1.5 % between seeds where k does not fit.
        luck = [KMeans(model.k, n_init=3, random_state=s).fit(x.astype(np.float64)).inertia_ for s in range(3)]
        assert found <= 1.01 * np.median(luck), model.k
        # The last pass saw the centroids before they moved for the last time.
        assert found * (1 - 1e-4) <= model.inertia <= found * (1 + 1e-3), model.k


def test_blobs_far_from_the_origin(blocked: Callable[..., DataFrame]) -> None:
    x = uneven_blobs(1500, offset=1e4)
    check(fit_kmeans(blocked(x), KS, seed=1, n_init=3), x, KS)


def test_real_descriptors(blocked: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(30, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    check(fit_kmeans(blocked(x), KS, seed=1, n_init=3), x, KS)


def with_extremes(n: int) -> np.ndarray:
    """Min-max after PCA, as published: a few extreme rows squeeze all others into a small corner."""
    x = uneven_blobs(n, 12, seed=3)
    x[:5] += np.random.default_rng(1).choice([-300, 300], (5, 12))
    return MinMaxScaler().fit_transform(PCA(8).fit_transform(x)).astype(np.float32)


def test_a_few_extreme_rows_and_more_rows_than_the_coreset(
    on_spark: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver reads this number; what it computes from it travels to the workers.
    monkeypatch.setattr(coreset, "CORESET_ROWS", 400)
    x = with_extremes(3000)
    check(fit_kmeans(on_spark(x), KS, seed=1, n_init=3), x, KS)


def test_the_coreset_stands_for_all_rows(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    x = with_extremes(3000)
    df = blocked(x)
    known = measure_spread(df)
    assert known.n == len(x)
    assert np.allclose(known.mean, x.mean(axis=0, dtype=np.float64))
    assert np.isclose(known.total, np.square(x - x.mean(axis=0, dtype=np.float64)).sum())
    every = draw_coreset(df, known, 7)
    assert np.array_equal(every.rows, x)
    assert np.all(every.weights == 1)
    monkeypatch.setattr(coreset, "CORESET_ROWS", 400)
    drawn = draw_coreset(df, known, 7)
    # The expected size is at most 400, and all extreme rows are certain to be in.
    assert 250 < len(drawn.rows) < 460
    assert (drawn.rows[:, None] == x[:5]).all(axis=2).any(axis=0).all()
    assert abs(drawn.weights.sum() / len(x) - 1) < 0.2
    centre = np.average(drawn.rows, axis=0, weights=drawn.weights)
    assert np.abs(centre - known.mean).max() < 0.2 * x.std(axis=0).max()


def test_the_same_result_again_and_on_any_partitions(blocked: Callable[..., DataFrame]) -> None:
    x = uneven_blobs(300, seed=5)
    df, ks = blocked(x, 3), [2, 4]
    first = fit_kmeans(df, ks, seed=3)
    for left, right in zip(first, fit_kmeans(df, ks, seed=3), strict=True):
        assert np.array_equal(left.centroids, right.centroids)
        assert left.inertia == right.inertia
    for partitions in (1, 7):
        for left, right in zip(first, fit_kmeans(blocked(x, partitions), ks, seed=3), strict=True):
            assert np.allclose(left.centroids, right.centroids, atol=1e-4)
            assert np.isclose(left.inertia, right.inertia, rtol=1e-5)


def filled(x: np.ndarray, model: KMeansModel) -> int:
    gaps = np.square(x[:, None, :].astype(np.float64) - model.centroids[None]).sum(axis=2)
    return len(np.unique(gaps.argmin(axis=1)))


# scikit-learn warns that it finds fewer clusters than it was asked for: that is the point here.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_more_clusters_than_distinct_rows(blocked: Callable[..., DataFrame]) -> None:
    distinct = uneven_blobs(3, seed=2, offset=0.1)
    x = np.repeat(distinct, 40, axis=0)
    for model in fit_kmeans(blocked(x), [2, 3, 5, 120], seed=1, n_init=2, max_iter=30):
        assert model.converged, model.k
        assert model.n_iter < 10
        assert model.centroids.shape == (model.k, x.shape[1])
        assert np.isfinite(model.centroids).all()
        if model.k >= 3:
            assert filled(x, model) == 3
            assert inertia(x, model.centroids) <= 1e-9 * len(x)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_equal_rows(blocked: Callable[..., DataFrame]) -> None:
    x = np.full((30, 4), 12.34, np.float32)
    for model in fit_kmeans(blocked(x), [1, 3], seed=1):
        assert model.converged
        assert model.inertia == 0
        assert np.allclose(model.centroids, 12.34)


def test_as_many_clusters_as_rows_and_no_more(blocked: Callable[..., DataFrame]) -> None:
    x = uneven_blobs(6, seed=4)
    df = blocked(x)
    one, every = fit_kmeans(df, [1, 6], seed=1)
    assert np.allclose(one.centroids[0], x.mean(axis=0), atol=1e-5)
    assert np.isclose(one.inertia, np.square(x - x.mean(axis=0)).sum(), rtol=1e-5)
    assert inertia(x, every.centroids) < 1e-9
    with pytest.raises(ValueError, match=r"k = 7 asks for more clusters than there are rows \(6\)"):
        fit_kmeans(df, [2, 7], seed=1)


def test_one_row(blocked: Callable[..., DataFrame]) -> None:
    x = uneven_blobs(1)
    (model,) = fit_kmeans(blocked(x, 1), [1], seed=1)
    assert np.allclose(model.centroids, x)
    assert model.inertia == 0
    assert model.converged


def started(*centroids: np.ndarray) -> Callable[..., list[kmeans._Run]]:
    """Takes the place of the starts on the coreset."""

    def starts(_spark: object, _coreset: object, known: coreset.Spread, ks: list[int], *_: object) -> list[kmeans._Run]:
        return [kmeans._Run(k, 0, np.array(centroids) - known.mean) for k in ks]

    return starts


def test_clusters_that_would_stay_empty_are_seeded_again(
    blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [20, 0], [0, 20]])
    x = (centres[rng.integers(3, size=300)] + rng.normal(size=(300, 2))).astype(np.float32)
    # The third is far behind the others, one of which is nearest to every row.
    monkeypatch.setattr(kmeans, "_starts", started(centres[0], centres[1], np.array([-900.0, -900.0])))
    models = fit_kmeans(blocked(x), [3], seed=1)
    assert filled(x, models[0]) == 3
    check(models, x, [3])


def test_the_search_ends_at_max_iter(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    x = uneven_blobs(400, seed=6)
    monkeypatch.setattr(kmeans, "_starts", started(*x[:4]))
    said: list[str] = []
    (model,) = fit_kmeans(blocked(x), [4], seed=1, max_iter=2, progress=said.append)
    assert not model.converged
    assert model.n_iter == 2
    assert said[1:] == ["pass 1: 1 of 1 runs still moving", "pass 2: 1 of 1 runs still moving"]
    # Better than the start, worse than where the search would have ended.
    assert inertia(x, model.centroids) < model.inertia < inertia(x, x[:4])


def test_strengths_are_those_of_silhouettes_by_centroids() -> None:
    """1 - nearest / next: on a border 0, at a centroid 1; unknown where there is one cluster, 0 at equal centroids."""
    x = np.array([[0, 0], [1, 0], [2, 0], [4, 0], [1, 3]], np.float32)
    models = [x[[0, 3]], x[:1], x[[0, 0, 3]]]
    _, distances, strengths = NearestCentroids(models).label(x)
    assert strengths.dtype == np.float32
    assert np.allclose(strengths[:, 0], [1, 1 - 1 / 3, 0, 1, 1 - np.sqrt(10 / 18)])
    assert np.isnan(strengths[:, 1]).all()
    assert np.allclose(strengths[:, 2], [0, 0, 0, 1, 0])
    assert np.array_equal(distances[:, 0], distances[:, 2])
    huge = np.float32(1e30)
    assert np.allclose(NearestCentroids([x[[0, 3]] * huge]).label(x * huge)[2][:, 0], strengths[:, 0])
