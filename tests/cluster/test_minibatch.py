"""Mini-batch k-means: scikit-learn's on the sample, as good as it on all rows, and where rows are few or equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA

from cases import inertia, uneven_blobs
from motorpool.cluster.centroids import minibatch
from motorpool.cluster.centroids.minibatch import fit_minibatch_kmeans
from motorpool.kernels.sampling import RowSample

KS = [2, 4, 6, 12]


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def state(seed: int, k: int) -> int:
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0])


def check_as_good(df: DataFrame, x: np.ndarray, batch_size: int) -> None:
    fits = [fit_minibatch_kmeans(df, KS, seed=s, batch_size=batch_size, n_init=3) for s in range(4)]
    for i, k in enumerate(KS):
        known = [
            MiniBatchKMeans(k, batch_size=batch_size, n_init=3, random_state=s).fit(x.astype(np.float64)).inertia_
            for s in range(11)
        ]
        assert np.median([inertia(x, models[i].centroids) for models in fits]) <= 1.05 * np.median(known), k


def test_a_small_table_is_its_own_sample(blocked: Callable[..., DataFrame]) -> None:
    x = uneven_blobs(1500, offset=1e4)
    rows = RowSample(len(x), 4)
    rows.update(np.arange(len(x)), x)
    ordered = rows.rows()
    mean = ordered.mean(axis=0, dtype=np.float64)
    models = fit_minibatch_kmeans(blocked(x), KS, seed=4, batch_size=100, n_init=2)
    for k, model in zip(KS, models, strict=True):
        known = MiniBatchKMeans(k, batch_size=100, n_init=2, random_state=state(4, k))
        known.fit((ordered - mean).astype(np.float32))
        assert model.k == k
        assert model.centroids.dtype == np.float32
        assert np.array_equal(model.centroids, (known.cluster_centers_ + mean).astype(np.float32))
        assert (model.n_steps, model.sample_rows) == (known.n_steps_, len(x))
        assert model.converged
        assert np.isclose(model.inertia, inertia(x, model.centroids), rtol=1e-4)


def test_real_descriptors(blocked: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(30, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    check_as_good(blocked(x), x, 256)


def test_more_rows_than_the_sample(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver reads these numbers; what it computes from them travels to the workers.
    monkeypatch.setattr(minibatch, "_SAMPLE_BATCHES", 4)
    x = uneven_blobs(12_000, seed=3)
    df = blocked(x)
    (model,) = fit_minibatch_kmeans(df, [5], seed=0, batch_size=400)
    assert model.sample_rows == 1600
    assert np.isclose(model.inertia, inertia(x, model.centroids), rtol=0.1)
    check_as_good(df, x, 400)


def test_the_sample_keeps_within_its_bound(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minibatch, "_SAMPLE_VALUES", 600)
    df = blocked(uneven_blobs(300, d=6))
    said: list[str] = []
    fit_minibatch_kmeans(df, [2, 3], seed=1, progress=said.append)
    assert said == ["2 models on a sample of 100 of 300 rows"]
    # But four rows for each cluster.
    (model,) = fit_minibatch_kmeans(df, [60], seed=1)
    assert model.sample_rows == 240


def test_the_same_result_again_and_on_any_partitions(
    on_spark: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minibatch, "_SAMPLE_BATCHES", 2)
    x = uneven_blobs(2000, seed=5)
    first = fit_minibatch_kmeans(on_spark(x, 3), [2, 4], seed=3, batch_size=300)
    for partitions in (3, 7):
        again = fit_minibatch_kmeans(on_spark(x, partitions), [2, 4], seed=3, batch_size=300)
        for left, right in zip(first, again, strict=True):
            assert np.array_equal(left.centroids, right.centroids)
            assert left.inertia == right.inertia


def test_more_clusters_than_distinct_rows(blocked: Callable[..., DataFrame]) -> None:
    x = np.repeat(uneven_blobs(3, seed=2), 40, axis=0)
    for model in fit_minibatch_kmeans(blocked(x), [3, 5, 120], seed=1, n_init=3):
        assert model.centroids.shape == (model.k, x.shape[1])
        assert inertia(x, model.centroids) <= 1e-9 * len(x)


def test_equal_rows_and_one_row(blocked: Callable[..., DataFrame]) -> None:
    for x, ks in ((np.full((30, 4), 12.34, np.float32), [1, 3]), (uneven_blobs(1), [1])):
        for model in fit_minibatch_kmeans(blocked(x, 1), ks, seed=1):
            assert np.allclose(model.centroids, x[0], rtol=1e-6)
            assert model.inertia <= 1e-9


def test_what_makes_no_sense_is_refused(blocked: Callable[..., DataFrame]) -> None:
    df = blocked(uneven_blobs(6))
    with pytest.raises(ValueError, match=r"k = 7 asks for more clusters than there are rows \(6\)"):
        fit_minibatch_kmeans(df, [2, 7], seed=1)
    with pytest.raises(ValueError, match=r"k = \[0\]: expected one number or more, each at least 1"):
        fit_minibatch_kmeans(df, [0], seed=1)
    with pytest.raises(ValueError, match="batch_size = 0: must be at least 1"):
        fit_minibatch_kmeans(df, [2], seed=1, batch_size=0)


def test_the_search_ends_at_max_iter(blocked: Callable[..., DataFrame]) -> None:
    (model,) = fit_minibatch_kmeans(blocked(uneven_blobs(1000)), [6], seed=1, batch_size=100, max_iter=1)
    assert model.n_steps == 10
    assert not model.converged
