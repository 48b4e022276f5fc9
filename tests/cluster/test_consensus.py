"""Agreement against scikit-learn's, evidence accumulation against scipy's tree of all images, and a study of both."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from cases import blobs, contents, run_of, write_case
from motorpool.cluster.ensemble import coassociation
from motorpool.cluster.ensemble.agreement import Contingency, contingency, side_by_side
from motorpool.cluster.ensemble.coassociation import (
    Evidence,
    Linkage,
    accumulate,
    disagreement,
    nearest,
    relabel,
    shares,
    sizes,
    with_strengths,
)
from motorpool.config.load import parse_config
from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError, LakeError
from motorpool.kernels.trees.linkage import cut, linkage, linkage_of
from motorpool.lake import Lake
from motorpool.lake.reading import LakeReader
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context
from motorpool.pipeline.export import run_export
from motorpool.pipeline.run import run_pipeline
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.study import model_ids

METHODS: tuple[Linkage, ...] = get_args(Linkage)
Framed = Callable[..., DataFrame]


@pytest.fixture(scope="module")
def framed(spark: SparkSession) -> Framed:
    """Makes int[n, models] labels into ``image_id, clusters``."""

    def make(labels: np.ndarray, partitions: int = 3) -> DataFrame:
        rows = pa.array(labels.tolist(), pa.list_(pa.int32()))
        table = pa.table({"image_id": pa.array(np.arange(len(labels))), "clusters": rows})
        return spark.createDataFrame(table).repartition(partitions)

    return make


def fetch(df: DataFrame, column: str = "clusters") -> np.ndarray:
    return np.array([r[column] for r in df.orderBy("image_id").collect()])


# -- agreement ---------------------------------------------------------------------------------------


def random_labels(n: int, sizes: list[int], seed: int = 0) -> np.ndarray:
    """int[n, models]: noisy views of one grouping, every second model with noise."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(5, size=n)
    columns = [np.where(rng.random(n) < 0.6, truth % k, rng.integers(k, size=n)) for k in sizes]
    return np.column_stack([np.where((rng.random(n) < 0.1) & (i % 2 == 1), -1, c) for i, c in enumerate(columns)])


def check_agreement(found: Contingency, a: np.ndarray, b: np.ndarray) -> None:
    assert found.adjusted_rand() == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    assert found.normalized_mutual_information() == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)
    assert found.n_images == len(a)


@pytest.mark.parametrize("partitions", [1, 4])
def test_agreement_is_scikit_learns(framed: Framed, partitions: int) -> None:
    labels = random_labels(500, [5, 3, 40, 2])
    # One cluster, every image its own, a renaming of the first model, and nothing but noise.
    more = [np.zeros(500, int), np.arange(500), (labels[:, 0] + 2) % 5, np.full(500, -1)]
    labels = np.column_stack([labels, *more])
    pairs = [(i, j) for i in range(8) for j in range(8)]
    found = contingency(framed(labels, partitions), pairs)
    assert len(found) == len(pairs)
    for (i, j), table in zip(pairs, found, strict=True):
        check_agreement(table, labels[:, i], labels[:, j])
    assert found[pairs.index((0, 6))].adjusted_rand() == 1
    cells = {(a, b): n for a, b, n in zip(*(x.tolist() for x in (found[1].a, found[1].b, found[1].n)), strict=True)}
    counted = np.unique(labels[:, :2], axis=0, return_counts=True)
    assert cells == {tuple(pair): n for pair, n in zip(counted[0].tolist(), counted[1].tolist(), strict=True)}


def test_agreement_of_one_image_and_of_many() -> None:
    check_agreement(Contingency(np.array([0]), np.array([-1]), np.array([1])), np.array([0]), np.array([-1]))
    # Products of pairs exceed 64 bits here; repeating every image leaves the shares as they are.
    a, b, n = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([40, 10, 7, 43])
    many = Contingency(a, b, n * 10_000_000)
    few = Contingency(a, b, n)
    assert many.adjusted_rand() == pytest.approx(few.adjusted_rand(), rel=0.03)
    assert many.normalized_mutual_information() == pytest.approx(few.normalized_mutual_information(), abs=1e-12)


def test_no_pairs(framed: Framed) -> None:
    assert contingency(framed(np.zeros((3, 2), int)), []) == []


def test_labels_side_by_side_in_the_order_asked_for(spark: SparkSession) -> None:
    rows = [("a", 1, 3), ("b", 1, 0), ("b", 2, 7), ("a", 2, -1), ("a", 3, 5), ("c", 1, 9), ("c", 2, 9), ("c", 3, 9)]
    labels = spark.createDataFrame(rows, "model_id STRING, image_id BIGINT, cluster INT").repartition(3)
    found = side_by_side(labels, ["b", "a"])
    assert found.dtypes == [("image_id", "bigint"), ("clusters", "array<int>")]
    # Image 3 has no label in b.
    assert {r["image_id"]: r["clusters"] for r in found.collect()} == {1: [0, 3], 2: [7, -1]}


# -- trees of distances ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_tree_of_distances_is_that_of_the_points(method: Linkage) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(200, 4)), rng.integers(1, 5, 200)
    apart = np.sqrt(np.square(x[:, None] - x).sum(axis=2))
    found = linkage_of(apart.copy(), weights, method)
    expected = linkage(x, weights, method)
    assert np.array_equal(found[:, [0, 1, 3]], expected[:, [0, 1, 3]])
    assert np.allclose(found[:, 2], expected[:, 2], rtol=1e-12, atol=0)
    known = hierarchy.linkage(squareform(apart, checks=False), method)
    assert np.allclose(linkage_of(apart, np.ones(200), method), known, rtol=1e-9, atol=0)


def test_trees_of_distances_that_are_refused() -> None:
    apart, ones = 1 - np.eye(4), np.ones(4)
    assert linkage_of(np.zeros((1, 1)), np.ones(1), "single").shape == (0, 4)
    for method in ("ward", "median"):
        with pytest.raises(ValueError, match=f"method = '{method}'"):
            linkage_of(apart.copy(), ones, method)  # type: ignore[arg-type]
    for wrong, weights in ((apart[:3], ones), (apart, ones[:3]), (apart.astype(np.float32), ones), (apart[:0], ones)):
        with pytest.raises(ValueError, match=r"expected float64 \(m, m\) and \(m,\)"):
            linkage_of(wrong.copy(), weights, "average")
    with pytest.raises(ValueError, match="weights must be positive"):
        linkage_of(apart.copy(), ones - 1, "average")
    for value in (np.nan, np.inf, -1.0):
        wrong = apart.copy()
        wrong[1, 2] = wrong[2, 1] = value
        with pytest.raises(ValueError, match="finite and not negative"):
            linkage_of(wrong, ones, "average")
    for at in ((1, 2), (1, 1)):
        wrong = apart.copy()
        wrong[at] = 0.5
        with pytest.raises(ValueError, match="symmetric, and 0"):
            linkage_of(wrong, ones, "average")


# -- evidence ----------------------------------------------------------------------------------------


def of_rows(labels: np.ndarray) -> np.ndarray:
    """The matrix of all images by its definition: noise shares with nobody, the same tuple is at 0."""
    n = len(labels)
    apart = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if not np.array_equal(labels[i], labels[j]):
                apart[i, j] = np.mean((labels[i] != labels[j]) | (labels[i] < 0))
    return apart


def ensemble(n_tuples: int, n: int, models: int, seed: int) -> np.ndarray:
    """int[n, models]: tuples of points in a plane, each several times, by models that cut it into random stripes."""
    rng = np.random.default_rng(seed)
    directions, widths = rng.normal(size=(2, models)), rng.uniform(1, 6, models)
    stripes = np.floor((rng.normal(size=(n_tuples, 2)) * 3 @ directions) / widths + rng.random(models)).astype(int)
    tuples = np.column_stack([np.unique(stripe, return_inverse=True)[1] for stripe in stripes.T])
    tuples[rng.random(tuples.shape) < 0.03] = -1
    return tuples[
        np.append(np.arange(n_tuples), rng.choice(n_tuples, n - n_tuples, p=rng.dirichlet(np.ones(n_tuples))))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_with_all_tuples_it_is_scipys_tree_of_all_images(framed: Framed, method: Linkage) -> None:
    # So many models, and such a seed, that no two pairs of tuples are equally far apart: the tree is unique.
    labels = ensemble(12, 90, 3000, seed=2)
    apart = of_rows(labels)
    assert len(np.unique(apart)) == 1 + 12 * 11 // 2
    expected = hierarchy.linkage(squareform(apart, checks=False), method)
    found = accumulate(framed(labels), method, 12)
    assert (found.n_other, found.n_other_tuples, len(found.tuples)) == (0, 0, 12)
    assert np.allclose(found.merges[:, 2], expected[-11:, 2], rtol=1e-9)
    assert np.array_equal(found.merges[:, 3], expected[-11:, 3])
    wanted = [2, 3, 5, 8, 12]
    ours = fetch(relabel(framed(labels), found, wanted))
    for k, column in zip(wanted, ours.T, strict=True):
        known = hierarchy.fcluster(expected, k, "maxclust")
        assert len(np.unique(known)) == k
        assert adjusted_rand_score(known, column) == 1


def test_few_models_with_noise_against_scipy(framed: Framed) -> None:
    """With ties only single linkage has one answer: the images that a chain of short steps connects."""
    labels = random_labels(150, [3, 4, 3, 5], seed=2)
    labels = labels[(labels >= 0).any(axis=1)]
    expected = hierarchy.linkage(squareform(of_rows(labels), checks=False), "single")
    found = accumulate(framed(labels), "single", 4096)
    m = len(found.tuples)
    assert m < len(labels)
    assert np.allclose(found.merges[:, 2], expected[1 - m :, 2], rtol=1e-12)
    for height in (0.25, 0.5):
        k = 1 + int((found.merges[:, 2] > height + 1e-9).sum())
        known = hierarchy.fcluster(expected, height + 1e-9, "distance")
        (ours,) = fetch(relabel(framed(labels), found, [k])).T
        assert adjusted_rand_score(known, ours) == 1


def test_points_by_hand(framed: Framed) -> None:
    labels = np.array([[1, 0]] * 2 + [[0, 0]] * 2 + [[0, -1]] * 3 + [[-1, -1]] * 4 + [[2, 5]])
    found = accumulate(framed(labels), "average", 3)
    # The most frequent first, of equally frequent ones the smaller; the four without any label are no point.
    assert found.tuples.tolist() == [[0, -1], [0, 0], [1, 0]]
    assert found.weights.tolist() == [3, 2, 2]
    assert (found.n_other, found.n_other_tuples) == (1, 1)
    assert disagreement(found.tuples).tolist() == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]
    # (0, -1) and (0, 0) merge; from there (1, 0) is (3 * 1 + 2 * 0.5) / 5 away.
    assert found.merges.tolist() == [[0, 1, 0.5, 5], [2, 3, 0.8, 7]]
    assert found.cut(2).tolist() == [0, 0, 1]
    placed = relabel(framed(labels), found, [2, 3])
    assert fetch(placed, "members").tolist() == labels.tolist()
    # (2, 5) agrees with no point in any model.
    ours = [[1, 2]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 3 + [[-1, -1]] * 5
    assert fetch(placed).tolist() == ours
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"n_clusters = {k}: expected 1 to 3"):
            found.cut(k)


def test_other_tuples_follow_the_one_that_agrees_most(monkeypatch: pytest.MonkeyPatch) -> None:
    tuples = np.array([[0, 0, 0], [1, 1, 0], [0, -1, 2]], np.int32)
    labels = {
        (0, 0, 0): 0,
        (0, -1, 2): 2,  # itself, although noise agrees with nothing
        (1, 1, 5): 1,
        (0, 5, 2): 2,
        (0, 1, 5): 0,  # one model each: the first
        (1, 0, -1): 0,
        (7, -1, 5): -1,
        (-1, -1, -1): -1,
    }
    repeated = np.array(list(labels), np.int32).repeat(3, axis=0)
    for group in (1, 1024):
        monkeypatch.setattr(coassociation, "_GROUP", group)
        assert nearest(repeated, tuples).tolist() == np.repeat(list(labels.values()), 3).tolist()
    assert nearest(repeated, tuples[:0]).tolist() == [-1] * len(repeated)


def test_more_tuples_than_points(framed: Framed) -> None:
    labels = random_labels(400, [4, 4, 4, 4], seed=5)
    every = accumulate(framed(labels), "average", 4096)
    found = accumulate(framed(labels), "average", 20)
    assert np.array_equal(found.tuples, every.tuples[:20])
    assert (found.n_other, found.n_other_tuples) == (int(every.weights[20:].sum()), len(every.tuples) - 20)
    ours = fetch(relabel(framed(labels), found, [4]))[:, 0]
    at = nearest(labels.astype(np.int32), found.tuples)
    assert np.array_equal(ours, np.append(found.cut(4), -1)[at])
    # Points are the same in both, and what follows them agrees with its point in at least one model.
    follows = ~(labels[:, None] == found.tuples).all(axis=2).any(axis=1) & (at >= 0)
    assert follows.sum() > 50
    assert ((labels == found.tuples[at]) & (labels >= 0)).any(axis=1)[follows].all()


@pytest.mark.parametrize("n", [1, 5])
def test_one_image_and_images_alike(framed: Framed, n: int) -> None:
    found = accumulate(framed(np.tile([[3, 1, -1]], (n, 1))), "complete", 10)
    assert (found.tuples.tolist(), found.weights.tolist()) == ([[3, 1, -1]], [n])
    assert found.cut(1).tolist() == [0]
    with pytest.raises(ValueError, match="expected 1 to 1"):
        found.cut(2)


def test_nothing_but_noise(framed: Framed) -> None:
    found = accumulate(framed(np.full((4, 2), -1)), "average", 10)
    assert (len(found.tuples), found.n_other, found.merges.shape) == (0, 0, (0, 4))
    with pytest.raises(ValueError, match="expected 1 to 0"):
        found.cut(1)


def test_a_member_with_one_cluster_changes_no_tree(framed: Framed) -> None:
    labels = ensemble(12, 60, 3000, seed=2)
    with_one = np.column_stack([labels, np.zeros(60, int)])
    found, expected = (accumulate(framed(x), "average", 100) for x in (with_one, labels))
    # It says that all images are alike, which shortens every distance by the same factor.
    assert np.allclose(found.merges[:, 2] * 3001, expected.merges[:, 2] * 3000)
    for k in (2, 4, 7):
        assert np.array_equal(found.cut(k), expected.cut(k))


def test_strengths_by_their_definition(framed: Framed) -> None:
    labels = np.vstack([random_labels(120, [3, 3, 4], seed=1), [[-1, -1, -1]]])
    found = accumulate(framed(labels), "average", 4096)
    wanted = [2, 5]
    placed = relabel(framed(labels), found, wanted)
    tables = contingency(
        placed.select(F.concat("members", "clusters").alias("clusters")),
        [(3 + q, m) for q in range(2) for m in range(3)],
    )
    by_model = [[shares(t, k) for t in tables[3 * q : 3 * q + 3]] for q, k in enumerate(wanted)]
    strong = with_strengths(placed, by_model)
    clusters, strengths = fetch(strong), fetch(strong, "strengths")
    assert clusters[-1].tolist() == [-1, -1]
    for q, k in enumerate(wanted):
        assert sizes(tables[3 * q], k).tolist() == np.bincount(clusters[:-1, q], minlength=k).tolist()
        for i in range(len(labels)):
            mates = labels[clusters[:, q] == clusters[i, q]]
            shared = (mates == labels[i]) & (labels[i] >= 0)
            assert strengths[i, q] == pytest.approx(shared.mean() if clusters[i, q] >= 0 else 0, abs=1e-6)


def test_evidence_does_not_depend_on_the_partitions(framed: Framed) -> None:
    labels = random_labels(300, [3, 4, 5], seed=8)
    one, many = (accumulate(framed(labels, p), "average", 30) for p in (1, 5))
    assert isinstance(one, Evidence)
    for name in ("tuples", "weights", "merges"):
        assert np.array_equal(getattr(one, name), getattr(many, name))


# -- the config --------------------------------------------------------------------------------------


def config_of(consensus: dict[str, Any], features: int = 2) -> Any:
    sets = [{"name": f"f{i}", "descriptor": "osnet", "steps": [{"pca": i + 1}]} for i in range(features)]
    return parse_config({"lake": {"path": "x"}, "features": sets, "consensus": consensus}).consensus


def test_the_config_by_default() -> None:
    found = config_of({})
    assert found.n_clusters == tuple(range(2, 16))
    assert (found.features, found.models_per_features, found.linkage, found.max_tuples) == (None, 1, "average", 4096)
    assert config_of({"n_clusters": "3..5", "models_per_features": 2}, features=1).n_clusters == (3, 4, 5)


@pytest.mark.parametrize(
    ("consensus", "features", "parts"),
    [
        ({}, 1, ["1 feature sets with models_per_features = 1", "raise consensus.models_per_features"]),
        ({"features": ["f0"]}, 3, ["1 feature sets", "name more feature sets"]),
        ({"features": ["none", "f0"]}, 2, ["consensus.features: 'none' is no feature set", "f0, f1"]),
        ({"features": ["f0", "f0"]}, 2, ["consensus", "twice"]),
        ({"models_per_features": 0}, 2, ["consensus.models_per_features", "0"]),
        ({"n_clusters": 1}, 2, ["consensus.n_clusters[0]", "1"]),
        ({"n_clusters": 20, "max_tuples": 10}, 2, ["n_clusters: 20 is above max_tuples = 10"]),
        ({"linkage": "ward"}, 2, ["consensus.linkage", "'ward'", "'average'"]),
        ({"max_tuples": 100_000}, 2, ["consensus.max_tuples", "100000"]),
        ({"members": 3}, 2, ["consensus.members", "unknown key"]),
    ],
)
def test_what_the_config_refuses(consensus: dict[str, Any], features: int, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        config_of(consensus, features)
    for part in parts:
        assert part in str(found.value)


# -- the leaderboard ---------------------------------------------------------------------------------


def test_criteria_that_a_model_lacks_count_as_the_middle(spark: SparkSession, tmp_path: Path) -> None:
    """Columns: features, Calinski-Harabasz, Davies-Bouldin, vehicle agreement and the score by hand."""
    models: dict[str, tuple[str, float | None, float | None, float | None, float | None]] = {
        "a1": ("a", 9.0, 0.5, 0.9, (0.25 + 0.25 + 0.5 / 3) / 3),
        "a2": ("a", 5.0, 0.7, 0.1, (0.75 + 0.75 + 2.5 / 3) / 3),
        "b1": ("b", 3.0, None, 0.5, (0.5 + 0.5 + 1.5 / 3) / 3),
        # Second of four, the others being the three above.
        "c1": ("consensus", None, None, 0.6, (0.5 + 0.5 + 1.5 / 4) / 3),
        "c2": ("consensus", None, None, None, None),
        "c3": ("consensus", None, None, 0.95, (0.5 + 0.5 + 0.5 / 4) / 3),
    }
    schema = TABLES["models"].schema
    empty: dict[str, Any] = dict.fromkeys(schema.fieldNames())
    names = ("features", "calinski_harabasz", "davies_bouldin", "vehicle_agreement")
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))

    def board(wanted: list[str]) -> dict[str, tuple[int, int, float]]:
        rows = [
            empty | dict(zip(names, models[m], strict=False)) | {"model_id": m, "status": "ok", "n_clusters": 2}
            for m in wanted
        ]
        lake.overwrite("models", spark.createDataFrame([tuple(r.values()) for r in rows], schema))
        lake.register()
        found = spark.table("leaderboard").collect()
        return {r["model_id"]: (r["rank"], r["rank_in_features"], r["score"]) for r in found}

    every = board(list(models))
    assert every.keys() == models.keys() - {"c2"}
    for name, (_, _, score) in every.items():
        assert score == pytest.approx(models[name][4], abs=1e-4)
    # The best agreement alone does not come before what is best by all three.
    assert sorted(every, key=lambda m: every[m][0]) == ["a1", "c3", "c1", "b1", "a2"]
    assert (every["c3"][1], every["c1"][1]) == (1, 2)
    # Whatever the consensus models are, the others' scores and ranks among themselves stay.
    alone = board(["a1", "a2", "b1"])
    assert {m: row[1:] for m, row in alone.items()} == {m: every[m][1:] for m in alone}
    # Without vehicles nothing ranks a consensus.
    assert board(["c2"]) == {}


# -- the stage ---------------------------------------------------------------------------------------

ROWS = 90
STUDY: dict[str, Any] = {
    "features": [
        {"name": "t", "descriptor": "vdc_type", "steps": [{"pca": 3}]},
        {"name": "o", "descriptor": "osnet", "steps": ["standard"]},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [2, 3], "n_init": 2},
            {"algorithm": "dbscan", "eps": 3, "min_samples": 5, "features": ["o"]},
        ],
        "min_cluster_share": 0.02,
    },
    "consensus": {"n_clusters": [2, 3, 80], "models_per_features": 2},
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = {"vdc_type": blobs(ROWS, 6, 3), "osnet": blobs(ROWS, 5, 4)}
    return write_case(tmp_path_factory.mktemp("consensus") / "case", ROWS, arrays)


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = run_of(spark, case, tmp_path_factory.mktemp("lake") / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    return ctx


def consensus_models(ctx: Context) -> dict[int, Any]:
    rows = ctx.lake.read("models", features="consensus").collect()
    return {int(r["params"]["n_clusters"]): r for r in rows}


def labels_of(ctx: Context, model_id: str) -> np.ndarray:
    rows = ctx.lake.read("labels", model_id=model_id).orderBy("image_id").collect()
    assert [r["image_id"] for r in rows] == list(range(ROWS))
    return np.array([r["cluster"] for r in rows])


def test_models_of_the_best_members(done: Context) -> None:
    done.lake.register()
    board = done.spark.table("leaderboard").where("features <> 'consensus' AND rank_in_features <= 2").collect()
    members = sorted(r["model_id"] for r in board)
    assert len(members) == 4
    models = consensus_models(done)
    assert {k: m["status"] for k, m in models.items()} == {2: "ok", 3: "ok", 80: "failed"}
    assert "it asks for 80 clusters of" in models[80]["reason"]
    assert done.lake.read("labels", model_id=models[80]["model_id"]).isEmpty()
    member_labels = np.column_stack([labels_of(done, m) for m in members])
    tuples, counts = np.unique(member_labels[(member_labels >= 0).any(axis=1)], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    merges = linkage_of(disagreement(tuples[order]), counts[order], "average")
    for k in (2, 3):
        model = models[k]
        assert json.loads(model["params"]["members"]) == members
        assert (model["params"]["linkage"], model["params"]["max_tuples"]) == ("average", "4096")
        ours = labels_of(done, model["model_id"])
        expected = np.append(cut(merges, k), -1)[
            nearest(member_labels.astype(np.int32), tuples[order].astype(np.int32))
        ]
        assert np.array_equal(ours, expected)
        nmi = [normalized_mutual_info_score(column, ours) for column in member_labels.T]
        assert float(model["params"]["mean_nmi"]) == pytest.approx(np.mean(nmi), abs=1e-12)
        assert (model["algorithm"], model["n_clusters"], model["n_noise"]) == ("consensus", k, (ours < 0).sum())
        assert model["vehicle_agreement"] is not None
        assert [model[c] for c in ("calinski_harabasz", "davies_bouldin", "silhouette", "inertia")] == [None] * 4
        clusters = done.lake.read("clusters", model_id=model["model_id"]).orderBy("cluster").collect()
        assert [(r["cluster"], r["size"]) for r in clusters] == list(enumerate(np.bincount(ours[ours >= 0]).tolist()))
        assert [(r["centroid"], r["exemplars"]) for r in clusters] == [([], [])] * k
        rows = done.lake.read("labels", model_id=model["model_id"])
        assert rows.where("distance IS NOT NULL OR outlier_score IS NOT NULL OR strength IS NULL").isEmpty()
        assert rows.where("strength < 0 OR strength > 1").isEmpty()


def test_the_table_of_agreement(done: Context) -> None:
    rows = done.lake.read("agreement").collect()
    models = {r["model_id"]: r for r in done.lake.read("models").collect()}
    consensus = {m["model_id"]: m for m in consensus_models(done).values() if m["status"] == "ok"}
    best = max(consensus, key=lambda m: float(consensus[m]["params"]["mean_nmi"]))
    members = set(json.loads(consensus[best]["params"]["members"]))
    assert len(rows) == 5 * 4 // 2
    assert {frozenset((r["model_a"], r["model_b"])) for r in rows} == {
        frozenset((a, b)) for a in members | {best} for b in members | {best} if a != b
    }
    for r in rows:
        a, b = r["model_a"], r["model_b"]
        assert (r["features_a"], r["features_b"]) == (models[a]["features"], models[b]["features"])
        assert (r["features_a"], a) < (r["features_b"], b)
        ours, theirs = labels_of(done, a), labels_of(done, b)
        assert r["ari"] == pytest.approx(adjusted_rand_score(ours, theirs), abs=1e-12)
        assert r["nmi"] == pytest.approx(normalized_mutual_info_score(ours, theirs), abs=1e-12)
        assert r["n_images"] == ROWS


def test_consensus_models_are_ranked_and_exported(done: Context, tmp_path: Path) -> None:
    done.lake.register()
    board = done.spark.table("leaderboard").where("features = 'consensus'").collect()
    assert sorted(r["rank_in_features"] for r in board) == [1, 2]
    reader = LakeReader(done.config.lake, lambda: done.lake)
    _, n_lines = run_export(reader, tmp_path / "best.csv", board[0]["model_id"])
    assert n_lines == ROWS


def test_again_nothing_is_made_twice(done: Context) -> None:
    before = contents(done.lake)
    run_pipeline(done)
    assert contents(done.lake) == before


def test_it_goes_on_from_what_is_missing(done: Context, spark: SparkSession) -> None:
    before = contents(done.lake, clock=False)
    ids = {k: m["model_id"] for k, m in consensus_models(done).items()}
    # As after a stop before the rows that say done: one model, then the table of agreement.
    kept = done.lake.read("models").where(F.col("model_id") != ids[2]).localCheckpoint()
    done.lake.overwrite("models", kept)
    run_consensus(done)
    assert contents(done.lake, clock=False) == before
    done.lake.overwrite("agreement", spark.createDataFrame([], TABLES["agreement"].schema))
    run_consensus(done)
    assert contents(done.lake, clock=False) == before


def test_other_members_make_other_models(done: Context, spark: SparkSession, case: Path) -> None:
    before = consensus_models(done)
    study = STUDY | {"consensus": {"n_clusters": 3, "models_per_features": 1}}
    run_consensus(run_of(spark, case, Path(str(done.config.lake.path)), "parquet", **study))
    rows = done.lake.read("models", features="consensus").collect()
    new = [r for r in rows if r["model_id"] not in {m["model_id"] for m in before.values()}]
    assert len(rows) == len(before) + 1
    assert len(json.loads(new[0]["params"]["members"])) == 2
    # What the former members agreed on is still there; the table tells of the new ones.
    assert len(labels_of(done, before[3]["model_id"])) == ROWS
    told = {r["features_a"] + r["features_b"] for r in done.lake.read("agreement").collect()}
    assert told <= {"ot", "consensuso", "consensust"}
    assert "ot" in told


def test_too_few_members_and_no_models(
    spark: SparkSession,
    case: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", **STUDY)
    with pytest.raises(LakeError, match="run `motorpool cluster` first"):
        run_consensus(ctx)
    schema = TABLES["models"].schema
    empty: dict[str, Any] = dict.fromkeys(schema.fieldNames())
    shared = {"features": "t", "calinski_harabasz": 1.0, "davies_bouldin": 1.0, "n_clusters": 2}
    ids = sorted(model_ids(ctx.config) or ())
    rows = [empty | shared | {"model_id": m, "status": s} for m, s in zip(ids, ("ok", "degenerate"), strict=False)]
    ctx.lake.overwrite("models", spark.createDataFrame([tuple(r.values()) for r in rows], schema))
    monkeypatch.setattr(logging.getLogger("motorpool"), "propagate", True)
    run_consensus(ctx)
    assert "of t, o the leaderboard has 1 with models_per_features = 2. Raise" in caplog.text
    assert not ctx.lake.exists("agreement")
    # What former members agreed on is no longer so.
    told = {"model_a": "a", "model_b": "b", "features_a": "t", "features_b": "o", "ari": 1.0, "nmi": 1.0, "n_images": 9}
    ctx.lake.overwrite("agreement", spark.createDataFrame([told], TABLES["agreement"].schema))
    run_consensus(ctx)
    assert ctx.lake.read("agreement").isEmpty()
