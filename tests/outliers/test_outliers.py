"""Outlier scores against scikit-learn's, ranks against SciPy's, and where rows are few, equal or tied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from scipy.stats import hmean, rankdata
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from motorpool.features.fit import Fitter
from motorpool.features.program import Program
from motorpool.features.spec import FeatureSet, Part, Step
from motorpool.kernels.pairs.geometry import Metric
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.kernels.sampling import uniform_hash
from motorpool.neighbours import shards
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.outliers import forest
from motorpool.outliers.consensus import consensus, flag
from motorpool.outliers.forest import isolation_forest
from motorpool.outliers.local import knn_distance, local_outlier_factor
from motorpool.outliers.reconstruction import pca_error
from motorpool.spark import blocks


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def blobs(n: int, d: int = 5, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Clouds of unequal density, and one row in twenty somewhere between them."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.normal(size=(4, d)) * 6, np.array([0.3, 0.6, 1.0, 2.0])
    which = rng.integers(4, size=n)
    x = centres[which] + rng.normal(size=(n, d)) * widths[which, None]
    lost = rng.random(n) < 0.05
    x[lost] = rng.uniform(-15, 15, (int(lost.sum()), d))
    return (x + offset).astype(np.float32)


def fetch(scores: DataFrame) -> np.ndarray:
    """float64[n] in the order of ids, which count from 0; every image has one finite score."""
    table = scores.toArrow().sort_by("image_id")
    assert [(f.name, f.type) for f in table.schema] == [("image_id", pa.int64()), ("score", pa.float64())]
    found = table.column("score").to_numpy()
    assert table.column("image_id").to_pylist() == list(range(len(found)))
    assert np.isfinite(found).all()
    return found


# -- isolation forest --------------------------------------------------------------------------------


def grown(rows: np.ndarray, x: np.ndarray, seed: int, n_trees: int, sample: int) -> np.ndarray:
    model = IsolationForest(n_estimators=n_trees, max_samples=sample, random_state=seed).fit(rows)
    return -model.score_samples(x)


def test_the_forest_is_scikit_learns(on_spark: Callable[..., DataFrame]) -> None:
    x = blobs(700)
    found = fetch(isolation_forest(on_spark(x, 3), seed=4, n_trees=30, sample=100))
    assert np.array_equal(found, grown(x, x, 4, 30, 100))
    assert found.std() > 0.01


def test_the_forest_grows_on_a_sample_of_many_rows(
    blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forest, "SAMPLE_ROWS", 200)
    x = blobs(900)
    drawn = np.sort(np.argsort(uniform_hash(np.arange(900), 4))[:200])
    expected = grown(x[drawn], x, 4, 20, 64)
    for partitions in (1, 5):
        found = fetch(isolation_forest(blocked(x, partitions), seed=4, n_trees=20, sample=64))
        assert np.array_equal(found, expected), partitions


def test_a_forest_of_few_or_equal_rows(blocked: Callable[..., DataFrame]) -> None:
    few = blobs(10)
    assert np.array_equal(fetch(isolation_forest(blocked(few), seed=1, n_trees=20)), grown(few, few, 1, 20, 10))
    # Nothing can be cut: every row shares the root, which is as deep as an average tree of so many rows.
    equal = fetch(isolation_forest(blocked(np.full((40, 3), 1.5, np.float32)), seed=1, n_trees=20))
    assert np.allclose(equal, 0.5)
    assert np.array_equal(fetch(isolation_forest(blocked(few[:1], 1), seed=1, n_trees=20)), [0.5])
    with pytest.raises(ValueError, match="no rows"):
        isolation_forest(blocked(few).limit(0), seed=1)


@pytest.fixture(scope="module")
def case_outliers(case_dir: Path) -> np.ndarray:
    """bool[n]: the outliers of the real case, by its attributes."""
    lines = (case_dir / "attributes.csv").read_text("utf-8-sig").splitlines()[1:]
    return np.array([not line.endswith(",") for line in lines])


def test_real_outliers_are_cut_off_early(
    blocked: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray], case_outliers: np.ndarray
) -> None:
    x = PCA(50, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    score = fetch(isolation_forest(blocked(x), seed=1, n_trees=100))
    # By chance it would be their share, 0.02.
    assert average_precision_score(case_outliers, score) > 0.3


# -- nearest neighbours ------------------------------------------------------------------------------


Searched = tuple[Arranged, DataFrame]


@pytest.fixture
def searched(blocked: Callable[..., DataFrame]) -> Iterator[Callable[..., Searched]]:
    """Rows arranged and searched for their k nearest; released when the test ends."""
    held: list[Searched] = []

    def make(x: np.ndarray, k: int, metric: Metric = "euclidean") -> Searched:
        arranged = arrange(blocked(x), metric, 7)
        held.append((arranged, search(arranged, Wanted(k=k))))
        return held[-1]

    yield make
    for arranged, state in held:
        arranged.release()
        state.unpersist()


def check_local(found: Searched, x: np.ndarray, k: int, metric: Metric = "euclidean") -> None:
    # A tree takes every distance from its definition; products would see duplicates as 1e-7 apart.
    algorithm = "kd_tree" if metric == "euclidean" else "brute"
    rows = x.astype(np.float64)
    model = NearestNeighbors(n_neighbors=k, algorithm=algorithm, metric=metric).fit(rows)
    distances, _ = model.kneighbors()
    assert np.allclose(fetch(knn_distance(*found, k)), distances[:, -1], rtol=1e-6, atol=1e-12)
    lof = LocalOutlierFactor(n_neighbors=k, algorithm=algorithm, metric=metric).fit(rows)
    assert np.allclose(fetch(local_outlier_factor(*found, k)), -lof.negative_outlier_factor_, rtol=1e-6, atol=0)


# scikit-learn warns that more than k equal rows make large factors: those are to be equal too.
@pytest.mark.filterwarnings("ignore:Duplicate values")
def test_duplicates_in_several_shards_far_from_the_origin(
    searched: Callable[..., Searched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 120)
    x = blobs(240, offset=300.0, seed=3)
    # Pairs, and one row as often as k + 5.
    x[100:140] = x[140:180]
    x[200:215] = x[199]
    # A search for more neighbours serves every smaller k.
    found = searched(x, 12)
    assert found[0].n_shards == 2
    check_local(found, x, 10)
    factor = fetch(local_outlier_factor(*found, 10))
    assert np.allclose(factor[199:215], 1.0)
    assert factor.max() > 1e6


def test_real_descriptors(searched: Callable[..., Searched], case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(40, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    found = searched(x, 20)
    check_local(found, x, 20)
    distances, _ = NearestNeighbors(n_neighbors=20, algorithm="kd_tree").fit(x.astype(np.float64)).kneighbors()
    assert np.allclose(fetch(knn_distance(*found, 20, mean=True)), distances.mean(axis=1), rtol=1e-6)


def test_cosine(searched: Callable[..., Searched]) -> None:
    x = blobs(300, seed=5)
    check_local(searched(x, 8, "cosine"), x, 8, "cosine")


@pytest.mark.filterwarnings("ignore:n_neighbors:UserWarning")
def test_fewer_other_rows_than_neighbours(searched: Callable[..., Searched]) -> None:
    x = blobs(6)
    arranged, state = searched(x, 10)
    gaps = np.sqrt(np.square(x[:, None].astype(np.float64) - x).sum(axis=2))
    assert np.allclose(fetch(knn_distance(arranged, state, 10)), gaps.max(axis=1))
    lof = LocalOutlierFactor(n_neighbors=10).fit(x.astype(np.float64))
    assert np.allclose(fetch(local_outlier_factor(arranged, state, 10)), -lof.negative_outlier_factor_, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"k = 11, but the search kept 10 neighbours a row: search with Wanted\(k=11\)"
    ):
        knn_distance(arranged, state, 11)
    with pytest.raises(ValueError, match="k = 0"):
        local_outlier_factor(arranged, state, 0)


def test_one_row_has_no_neighbours(searched: Callable[..., Searched]) -> None:
    arranged, state = searched(blobs(1), 3)
    for score in (knn_distance, local_outlier_factor):
        with pytest.raises(ValueError, match="a single row"):
            score(arranged, state, 3)


# -- reconstruction ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def descriptors() -> dict[str, np.ndarray]:
    """Two descriptors with a falling spectrum each, one of them far from the origin."""
    rng = np.random.default_rng(2)

    def make(d: int, offset: float) -> np.ndarray:
        x = rng.normal(size=(400, d)) * np.geomspace(3, 0.1, d) @ rng.normal(size=(d, d)) + offset
        return x.astype(np.float32)

    return {"a": make(20, 200.0), "b": make(12, 0.0)}


def fitted(wide_df: DataFrame, parts: tuple[Part, ...], *steps: Step) -> Program:
    with Fitter(wide_df, [FeatureSet("set", parts, steps)], seed=1) as fitter:
        return fitter.fit()[0].program


PCA5, STANDARD = Step("pca", 5), Step("standard")


def residual(x: np.ndarray, model: PCA | TruncatedSVD) -> np.ndarray:
    back = model.inverse_transform(model.fit_transform(x))
    return np.sqrt(np.square(x - back).sum(axis=1))


@pytest.fixture(scope="module")
def columns(wide: Callable[..., DataFrame], descriptors: dict[str, np.ndarray]) -> DataFrame:
    return blocks.persist(wide(3, **descriptors))


def test_the_error_is_what_scikit_learn_cannot_reconstruct(
    columns: DataFrame, descriptors: dict[str, np.ndarray]
) -> None:
    a = descriptors["a"].astype(np.float64)
    scaled = StandardScaler().fit_transform(a)
    cases: list[tuple[list[Step], np.ndarray]] = [
        ([PCA5], residual(a, PCA(5))),
        ([STANDARD, PCA5], residual(scaled, PCA(5))),
        # What follows the first projection changes nothing.
        ([STANDARD, PCA5, STANDARD, Step("pca", 2)], residual(scaled, PCA(5))),
        ([Step("svd", 5)], residual(a, TruncatedSVD(5, algorithm="arpack"))),
    ]
    for steps, expected in cases:
        program = fitted(columns.select("image_id", "a"), (Part("a"),), *steps)
        # As the lake gives it back.
        program = Program.from_rows(program.to_rows())
        assert np.allclose(fetch(pca_error(columns, program)), expected, rtol=1e-4), steps


def test_parts_with_projections_add_up(columns: DataFrame, descriptors: dict[str, np.ndarray]) -> None:
    a, b = (descriptors[name].astype(np.float64) for name in "ab")
    parts = (Part("a", (PCA5, STANDARD)), Part("b", (STANDARD, Step("pca", 3)), 2.0))
    error = fetch(pca_error(columns, fitted(columns, parts, Step("l2"))))
    scaled = StandardScaler().fit_transform(b)
    assert np.allclose(error, np.hypot(residual(a, PCA(5)), 2 * residual(scaled, PCA(3))), rtol=1e-4)
    # Parts without projections: the first of the joined vectors.
    joined = np.hstack([StandardScaler().fit_transform(a), 2 * scaled])
    parts = (Part("a", (STANDARD,)), Part("b", (STANDARD,), 2.0))
    assert np.allclose(fetch(pca_error(columns, fitted(columns, parts, PCA5))), residual(joined, PCA(5)), rtol=1e-4)


def test_all_components_leave_nothing_and_none_are_refused(columns: DataFrame) -> None:
    b = columns.select("image_id", "b")
    assert fetch(pca_error(b, fitted(b, (Part("b"),), Step("pca", 12)))).max() < 1e-5
    with pytest.raises(ValueError, match="no pca or svd step"):
        pca_error(b, fitted(b, (Part("b"),), STANDARD))


# -- ranks -------------------------------------------------------------------------------------------


def long(spark: SparkSession, scores: dict[tuple[str, str], np.ndarray]) -> DataFrame:
    """Rows ``features, method, image_id, score``; NaN stands for a row that is not there."""
    tables = []
    for (features, method), values in scores.items():
        ids = np.flatnonzero(~np.isnan(values))
        names = {"features": [features] * len(ids), "method": [method] * len(ids)}
        tables.append(pa.table({**names, "image_id": ids, "score": values[ids]}))
    return spark.createDataFrame(pa.concat_tables(tables)).repartition(3)


def rarity(values: np.ndarray) -> np.ndarray:
    """One over the p-value: the share of images with higher scores, and half of those with equal ones."""
    return len(values) / (rankdata(-values) - 0.5)


def test_the_consensus_combines_p_values(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    # Of unlike scales, the second with many ties.
    x, y, z = rng.normal(size=50), rng.integers(5, size=50) * 1e6, rng.random(50)
    found = fetch(consensus(long(spark, {("f", "x"): x, ("f", "y"): y, ("g", "x"): z})))
    harmonic = [hmean([1 / a, 1 / b]) for a, b in zip(rarity(x), rarity(y), strict=True)]
    assert np.allclose(found, -(np.log(harmonic) + np.log(1 / rarity(z))) / 2)


def test_the_consensus_of_an_image_that_a_ranking_lacks(spark: SparkSession) -> None:
    full, lacking = np.array([3.0, 1.0, 2.0, 0.0]), np.array([np.nan, 1.0, 2.0, 3.0])
    one, other = np.log(rarity(full)), np.log(rarity(lacking[1:]))
    found = fetch(consensus(long(spark, {("f", "x"): full, ("g", "x"): lacking})))
    assert np.allclose(found, [one[0], *((one[1:] + other) / 2)])
    found = fetch(consensus(long(spark, {("f", "x"): full, ("f", "y"): lacking})))
    both = np.log((rarity(full)[1:] + rarity(lacking[1:])) / 2)
    assert np.allclose(found, [one[0], *both])


@pytest.mark.parametrize("place", ["features", "method"])
def test_two_first_places_beat_four_good_ones(spark: SparkSession, place: str) -> None:
    rng = np.random.default_rng(1)
    n, top, good = 400, 0, 1
    made = {}
    for index, name in enumerate("wxyz"):
        values = rng.permutation(np.linspace(0, 0.999, n))
        values[top], values[good] = (1.0 if index < 2 else 0.5), 0.9
        made[(name, "m") if place == "features" else ("f", name)] = values
    found = fetch(consensus(long(spark, made)))
    assert found.argmax() == top
    # The mean rank has it the other way round.
    assert np.mean([v[good] for v in made.values()]) > np.mean([v[top] for v in made.values()])


def flagged(scores: DataFrame, share: float) -> set[tuple[str, int]]:
    found = flag(scores, share)
    assert found.columns == [*scores.columns, "is_outlier"]
    assert found.count() == scores.count()
    return {(r["method"], r["image_id"]) for r in found.where("is_outlier").collect()}


def test_the_share_with_the_largest_scores_is_flagged_in_every_ranking(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    made = {("f", m): rng.permutation(100.0 * np.arange(100)) for m in "xy"}
    # 0.29 x 100 is less than 29 in float64.
    expected = {(m, int(i)) for (_, m), v in made.items() for i in np.argsort(v)[-29:]}
    assert flagged(long(spark, made), 0.29) == expected
    alone = long(spark, made).where("method = 'x'").select("image_id", "score")
    rows = flag(alone, 0.05).where("is_outlier").collect()
    assert {r["image_id"] for r in rows} == {int(i) for i in np.argsort(made["f", "x"])[-5:]}


def test_ties_are_flagged_as_a_whole_and_the_lowest_never(spark: SparkSession) -> None:
    copies = np.array([9.0] * 4 + [5.0] * 3 + [1.0] * 3)
    scores = long(spark, {("f", "copies"): copies, ("f", "equal"): np.full(10, 2.0)})
    assert flagged(scores, 0.1) == {("copies", i) for i in range(4)}
    # The group of 5.0 begins at the fifth place.
    assert {i for m, i in flagged(scores, 0.5) if m == "copies"} == set(range(7))
    assert {i for m, i in flagged(scores, 0.99) if m == "copies"} == set(range(7))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_share_is_between_0_and_1(spark: SparkSession, share: float) -> None:
    with pytest.raises(ValueError, match="expected a share of the images"):
        flag(long(spark, {("f", "x"): np.arange(3.0)}), share)
