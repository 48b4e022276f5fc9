"""Labels for new images: a study's own images get theirs again, new ones what scikit-learn and brute force say."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs, make_moons
from sklearn.mixture import GaussianMixture

from cases import contents, image_paths, run_of, uneven_blobs, write_case, write_paths
from motorpool import cli
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
from motorpool.cluster.density.new_images import by_core_rows, by_reachability
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.kernels.pairs.geometry import Metric, to_distance
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours import shards
from motorpool.neighbours.queries import nearest_rows
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange
from motorpool.pipeline.assign import COLUMNS, run_assign
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import STAGES

ROWS, NEW = 320, 60

STUDY: dict[str, Any] = {
    "features": [
        {
            "name": "t",
            "join": [{"descriptor": "vdc_type", "steps": ["standard"]}, {"descriptor": "osnet", "weight": 0.05}],
            "steps": [{"pca": 4}, "standard"],
        }
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [3, 5]},
            {"algorithm": "minibatch_kmeans", "k": 4},
            {"algorithm": "bisecting_kmeans", "k": [3, 5]},
            {"algorithm": "agglomerative", "n_clusters": 4, "linkage": ["ward", "single"]},
            {"algorithm": "agglomerative", "n_clusters": 4000, "linkage": "complete"},
            {"algorithm": "dbscan", "eps": [0.001, 0.7], "min_samples": 5},
            {"algorithm": "dbscan", "eps": 0.03, "min_samples": 5, "metric": "cosine"},
            {"algorithm": "hdbscan", "min_cluster_size": 8, "min_samples": 4},
            {"algorithm": "gaussian_mixture", "n_components": 4, "covariance_type": ["full", "tied"]},
        ],
        "min_cluster_share": 0.0,
    },
}  # fmt: skip


def descriptors(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Both descriptors of some rows of one world: what the seed changes is which rows, not where the groups lie."""
    world = uneven_blobs(1000)
    which = np.random.default_rng(seed).permutation(1000)[:rows]
    return {"vdc_type": world[which], "osnet": world[which, :3] ** 2}


def new_descriptors() -> dict[str, np.ndarray]:
    """Rows of the same world, and six far from it and from each other."""
    arrays = descriptors(NEW, 2)
    arrays["vdc_type"][:6] *= np.arange(20, 80, 10, dtype=np.float32)[:, None]
    return arrays


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("assign") / "case", ROWS, descriptors(ROWS, 1))


@pytest.fixture(scope="module")
def new_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("assign") / "new", NEW, new_descriptors())


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = run_of(spark, case, tmp_path_factory.mktemp("assign") / "lake", "parquet", **STUDY)
    for name in ("ingest", "features", "cluster"):
        STAGES[name](ctx)
    return ctx


@pytest.fixture(scope="module")
def x(done: Context, collect: Callable[..., np.ndarray]) -> np.ndarray:
    return collect(done.lake.read("features", features="t"))


@pytest.fixture(scope="module")
def new_x(done: Context) -> np.ndarray:
    """The new images' vectors, by the program as it is stored."""
    from motorpool.pipeline.stages.features import load_program

    return load_program(done.lake, "t").apply([new_descriptors()[name] for name in ("vdc_type", "osnet")])


def models(ctx: Context, algorithm: str, **params: object) -> list[Any]:
    found = ctx.lake.read("models").where(F.col("algorithm") == algorithm).orderBy("model_id").collect()
    return [m for m in found if all(m["params"].get(k) == str(v) for k, v in params.items())]


def parameters(ctx: Context, model: Any) -> dict[str, np.ndarray]:
    rows = ctx.lake.read("parameters").where(F.col("model_id") == model["model_id"]).collect()
    return {r["field"]: np.array(r["values"]).reshape(r["shape"]) for r in rows}


def assigned(ctx: Context, case: Path, model: Any, out: Path) -> dict[str, np.ndarray]:
    """Columns of the file that one model writes; null is NaN."""
    run_assign(ctx.lake, CaseConfig(path=str(case)), model["model_id"], out)
    table = pq.read_table(out)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-5, atol=1e-6)


# -- the study's own images --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "params"),
    [
        ("kmeans", {"k": 5}),
        ("minibatch_kmeans", {}),
        ("bisecting_kmeans", {"k": 5}),
        # Its micro-clusters are stored with the first linkage.
        ("agglomerative", {"linkage": "single"}),
        ("dbscan", {"eps": 0.7}),
        ("dbscan", {"metric": "cosine"}),
        ("hdbscan", {}),
        ("gaussian_mixture", {"covariance_type": "tied"}),
    ],
)
def test_the_studys_own_images_get_their_labels_again(
    done: Context, case: Path, tmp_path: Path, algorithm: str, params: dict[str, object]
) -> None:
    (model,) = models(done, algorithm, **params)
    labels = done.lake.read("labels", model_id=model["model_id"]).orderBy("image_id").toArrow()
    found = assigned(done, case, model, tmp_path / "again.parquet")
    assert np.array_equal(found["cluster"], labels["cluster"].to_numpy())
    same(found["distance"], labels["distance"].to_numpy())
    same(found["strength"], labels["strength"].to_numpy())
    assert found["path"].tolist() == [p.replace("\\", "/") for p in image_paths(ROWS)]


# -- new images --------------------------------------------------------------------------------------


def test_kmeans_is_scikit_learns(
    done: Context, new_case: Path, x: np.ndarray, new_x: np.ndarray, tmp_path: Path
) -> None:
    (model,) = models(done, "kmeans", k=5)
    theirs = KMeans(5, n_init=1, max_iter=1).fit(x.astype(np.float64))
    theirs.cluster_centers_ = parameters(done, model)["centroids"]
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    assert np.array_equal(found["cluster"], theirs.predict(new_x.astype(np.float64)))
    nearest, other = np.sort(theirs.transform(new_x.astype(np.float64)))[:, :2].T
    same(found["distance"], nearest)
    same(found["strength"], 1 - nearest / other)


def test_mixtures_are_scikit_learns(done: Context, new_case: Path, new_x: np.ndarray, tmp_path: Path) -> None:
    (model,) = models(done, "gaussian_mixture", covariance_type="full")
    held = parameters(done, model)
    theirs = GaussianMixture(4)
    theirs.weights_, theirs.means_ = held["weights"], held["means"]
    # As scikit-learn keeps them: upper triangles.
    theirs.precisions_cholesky_ = np.swapaxes(np.linalg.inv(np.linalg.cholesky(held["covariances"])), -1, -2)
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    assert np.array_equal(found["cluster"], theirs.predict(new_x))
    same(found["strength"], theirs.predict_proba(new_x).max(axis=1))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_dbscan_is_brute_force(
    done: Context, new_case: Path, x: np.ndarray, new_x: np.ndarray, tmp_path: Path, metric: str
) -> None:
    (model,) = (m for m in models(done, "dbscan", metric=metric) if m["n_clusters"])
    eps = float(model["params"]["eps"])
    labels = done.lake.read("labels", model_id=model["model_id"]).orderBy("image_id").toArrow()
    core = np.flatnonzero((cdist(x, x, metric) <= eps).sum(axis=1) >= 5)
    apart = cdist(new_x.astype(np.float64), x[core].astype(np.float64), metric)
    nearest = labels["cluster"].to_numpy()[core[apart.argmin(axis=1)]]
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    assert np.array_equal(found["cluster"], np.where(apart.min(axis=1) <= eps, nearest, -1))
    same(found["distance"], np.where(apart.min(axis=1) <= eps, apart.min(axis=1), np.nan))
    if metric == "euclidean":
        assert 6 <= (found["cluster"] < 0).sum() < NEW / 2


def test_agglomerative_and_bisecting_keep_to_their_trees(
    done: Context, new_case: Path, new_x: np.ndarray, tmp_path: Path
) -> None:
    owner, model = (models(done, "agglomerative", linkage=linkage)[0] for linkage in ("ward", "single"))
    apart = cdist(new_x, parameters(done, owner)["centroids"])
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    assert np.array_equal(found["cluster"], parameters(done, model)["clusters"][apart.argmin(axis=1)])
    same(found["distance"], apart.min(axis=1))
    coarse, fine = (
        assigned(done, new_case, models(done, "bisecting_kmeans", k=k)[0], tmp_path / "new.parquet")["cluster"]
        for k in (3, 5)
    )
    # Nested: a cluster of five lies within one of three.
    assert all(len(np.unique(coarse[fine == c])) == 1 for c in np.unique(fine))


# -- density, without a lake -------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred rows take several tasks."""
    monkeypatch.setattr(shards, "_shard_rows", lambda *_: 150)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.usefixtures("small_shards")
def test_nearest_rows_are_brute_forces(in_process: Callable[..., DataFrame], metric: Metric) -> None:
    """Whole numbers: many equal distances, some exactly at the limit; several shards on both sides."""
    rng = np.random.default_rng(0)
    old, new = (rng.integers(1, 7, (n, 3)).astype(np.float32) for n in (500, 200))
    new[0] = 100, -100, 100
    apart = cdist(new.astype(np.float64), old.astype(np.float64), metric)
    study = arrange(in_process(old), metric, 0)
    limit = 2.0 if metric == "euclidean" else 0.02
    for k, within in ((1, None), (5, limit), (600, None)):
        near = nearest_rows(study, in_process(new), k, within=within, seed=0)
        rows = near.orderBy("image_id").collect()
        near.unpersist()
        assert [r["image_id"] for r in rows] == list(range(200))
        for i, row in enumerate(rows):
            gaps = to_distance(np.array(row["gaps"]), metric)
            expected = np.sort(apart[i])[:k]
            expected = expected if within is None else expected[expected <= within]
            np.testing.assert_allclose(gaps, expected, atol=1e-7)
            np.testing.assert_allclose(apart[i, row["neighbours"]], gaps, atol=1e-7)
            assert len(set(row["neighbours"])) == len(expected)
            if metric == "euclidean":
                # Ties to the lower id; cosines of whole numbers round differently in the two.
                order = np.lexsort((np.arange(500), apart[i]))
                assert row["neighbours"] == order[: len(expected)].tolist()
    study.release()
    with pytest.raises(ValueError, match="k = 0"):
        nearest_rows(study, in_process(new), 0, seed=0)


def table(spark: SparkSession, wide: Callable[..., DataFrame], x: np.ndarray) -> DataFrame:
    return wide(2, vector=x.astype(np.float32))


def columns(df: DataFrame, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters, distances and strengths in the order of the ids; drops the rows."""
    found = df.toArrow().sort_by("image_id")
    df.unpersist()
    assert found["image_id"].to_pylist() == list(range(n))
    return tuple(found[c].to_numpy() for c in ("cluster", "distance", "strength"))  # type: ignore[return-value]


@pytest.mark.usefixtures("small_shards")
def test_core_rows_on_a_lattice(
    spark: SparkSession, blocked: Callable[..., DataFrame], wide: Callable[..., DataFrame]
) -> None:
    """Two lines of core rows, a border row each, noise; new rows exactly at eps, beyond it, and half-way."""
    line = [(i, 0) for i in range(5)] + [(i, 10) for i in range(5)]
    old = np.array([*line, (5.5, 0), (2, 5), (40, 40)], np.float32)
    clusters = [0] * 5 + [1] * 5 + [0, -1, -1]
    distances = [0.0] * 10 + [1.5, None, None]
    labels = spark.createDataFrame(
        list(zip(range(13), clusters, distances, strict=True)), "image_id LONG, cluster INT, distance FLOAT"
    )
    new = np.array([(0, 2), (0, 2.0001), (4, 8), (7, 0), (2, 5), (3, 1), (-1e4, 3)], np.float32)
    vectors = wide(3, vector=old)
    for eps, expected in ((2.0, [0, -1, 1, -1, -1, 0, -1]), (5.0, [0, 0, 1, 0, 0, 0, -1])):
        found, apart, strengths = columns(by_core_rows(blocked(new), vectors, labels, eps, "euclidean"), len(new))
        assert found.tolist() == expected
        to_core = cdist(new, old[:10]).min(axis=1)
        same(apart, np.where(found >= 0, to_core, np.nan))
        assert np.isnan(strengths.astype(float)).all()
    # Border rows find their core row again, and noise none.
    again, _, _ = columns(by_core_rows(blocked(old), vectors, labels, 2.0, "euclidean"), len(old))
    assert again.tolist() == clusters


def blobs() -> np.ndarray:
    return make_blobs(500, centers=5, n_features=4, cluster_std=[0.5, 0.8, 1.0, 1.2, 0.4], random_state=3)[0]


def moons() -> np.ndarray:
    return make_moons(500, noise=0.08, random_state=1)[0]


@pytest.mark.parametrize(("make", "method"), [(blobs, "eom"), (moons, "leaf")])
def test_hdbscan_is_approximate_predict(
    spark: SparkSession,
    blocked: Callable[..., DataFrame],
    wide: Callable[..., DataFrame],
    make: Callable[[], np.ndarray],
    method: str,
) -> None:
    old = make().astype(np.float32)
    arranged = arrange(blocked(old), "euclidean", 0)
    state = search(arranged, Wanted(k=16))
    fitted = fit_hdbscan(arranged, state, HdbscanParameters((12,), 6, method))
    first = fitted.labelled.wide().select(
        "image_id", F.get("clusters", F.lit(0)).alias("cluster"), F.get("strengths", F.lit(0)).alias("strength")
    )
    labels = spark.createDataFrame(first.toArrow())
    for df in (fitted.labelled.df, state):
        df.unpersist()
    arranged.release()
    births, deaths = fitted.flat[0].births, fitted.flat[0].deaths
    held = labels.toArrow().sort_by("image_id")
    ours = held["cluster"].to_numpy()

    def label(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        study = wide(2, vector=old)
        found = by_reachability(blocked(rows), study, labels, births, deaths, min_samples=6, metric="euclidean")
        clusters, distances, strengths = columns(found, len(rows))
        assert np.isnan(distances.astype(float)).all()
        return clusters, strengths

    library = hdbscan.HDBSCAN(
        12, min_samples=5, prediction_data=True, approx_min_span_tree=False, cluster_selection_method=method
    ).fit(old.astype(np.float64))
    theirs_of_ours = {-1: -1} | {int(o): int(t) for o, t in zip(ours, library.labels_, strict=True) if o >= 0}
    # The library takes tied edges one by one (see `condense`).
    assert np.mean([theirs_of_ours[int(o)] for o in ours] == library.labels_) > 0.98

    # Beside rows well within a cluster, far from everything, and anywhere.
    rng = np.random.default_rng(4)
    inside = old[(held["strength"].to_numpy() > 0.8) & (ours >= 0)]
    inside = inside + rng.normal(size=inside.shape).astype(np.float32) * 1e-3
    outside = old[:40] * 50 + 500
    anywhere = rng.uniform(old.min(axis=0) - 1, old.max(axis=0) + 1, (400, old.shape[1])).astype(np.float32)
    new = np.concatenate([inside, outside, anywhere]).astype(np.float32)
    clusters, strengths = label(new)
    expected, shares = hdbscan.approximate_predict(library, new.astype(np.float64))
    mine = np.array([theirs_of_ours[int(c)] for c in clusters])
    sure = len(inside) + len(outside)
    assert len(inside) > 30
    assert np.array_equal(mine[:sure], expected[:sure])
    assert (mine[len(inside) : sure] == -1).all()
    differ = mine != expected
    assert differ.sum() <= 1
    assert 20 < (mine[sure:] >= 0).sum() < 380
    assert (strengths <= shares + 1e-5)[~differ].all()
    assert (strengths[clusters < 0] == 0).all()

    again, same_strengths = label(old)
    assert np.array_equal(again, ours)
    same(same_strengths, held["strength"].to_numpy())


def test_density_with_one_row_and_with_equal_rows(
    spark: SparkSession, blocked: Callable[..., DataFrame], wide: Callable[..., DataFrame]
) -> None:
    """More equal rows than neighbours are asked for, fewer rows than min_samples, and clusters of infinite lambda."""
    old = np.repeat(np.array([[0, 0], [9, 9]], np.float32), 12, axis=0)
    labels = spark.createDataFrame([(i, i // 12, 1.0) for i in range(24)], "image_id LONG, cluster INT, strength FLOAT")
    births, deaths = np.full(2, 0.1), np.full(2, np.inf)
    new = np.array([[0, 0], [9, 9], [0, 1], [500, 500]], np.float32)
    for least in (1, 3, 40):
        args = (wide(2, vector=old), labels, births, deaths)
        found = by_reachability(blocked(new), *args, min_samples=least, metric="euclidean")
        clusters, _, strengths = columns(found, len(new))
        if least == 40:
            # All 24 rows are its nearest: the farthest is at sqrt(162).
            assert clusters.tolist() == [-1, -1, -1, -1]
        else:
            assert clusters.tolist() == [0, 1, 0, -1]
            assert strengths.tolist() == [1, 1, 0, 0]
    alone = by_core_rows(
        blocked(new[:1]), wide(1, vector=old[:1]), labels.withColumn("distance", F.lit(0.0)), 0.5, "euclidean"
    )
    assert columns(alone, 1)[0].tolist() == [0]


# -- the file ----------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    return cli.main([str(a) for a in args]), *capsys.readouterr()


def test_the_command(done: Context, new_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The leaderboard's best by default; nothing in the lake changes."""
    before, out = contents(done.lake), tmp_path / "deep" / "new.csv"
    status, said, err = call(capsys, "assign", "--lake", done.config.lake.path, "--case", new_case, "--out", out)
    assert status == 0, err
    assert contents(done.lake) == before
    assert list(out.parent.iterdir()) == [out]
    found = pa_csv.read_csv(out)
    assert tuple(found.column_names) == COLUMNS
    assert found["path"].to_pylist() == [p.replace("\\", "/") for p in image_paths(NEW)]
    clusters = found["cluster"].to_numpy()
    done.lake.register()
    best = done.spark.table("leaderboard").orderBy("rank").first()
    assert best is not None
    n_far = pc.sum(found["far"]).as_py()
    far = "" if n_far is None else f", {n_far} are far from every cluster"
    assert said == (
        f"{out}: 60 images in {len(set(clusters[clusters >= 0]))} clusters, {(clusters < 0).sum()} of them noise{far}, "
        f"by model {best['model_id']} ({best['algorithm']})\n"
    )


@pytest.mark.parametrize("algorithm", ["kmeans", "minibatch_kmeans", "bisecting_kmeans"])
def test_images_beyond_those_of_the_study_are_far(
    done: Context, case: Path, new_case: Path, tmp_path: Path, algorithm: str
) -> None:
    """The six that lie far off, and of the study's own images one in a hundred."""
    model = models(done, algorithm)[-1]
    distances = done.lake.read("labels", model_id=model["model_id"]).toPandas()["distance"]
    limit = np.sort(distances)[int(np.ceil(0.99 * ROWS)) - 1]
    for of, asked in (("new", new_case), ("own", case)):
        found = assigned(done, asked, model, tmp_path / f"{of}.parquet")
        assert np.array_equal(found["far"].astype(bool), found["distance"] > limit)
        assert found["far"][:6].all() == (of == "new")
        assert found["far"].sum() == (3 if of == "own" else found["far"].sum())


def test_noise_is_far_and_other_models_do_not_tell(done: Context, new_case: Path, tmp_path: Path) -> None:
    for algorithm, params in (("dbscan", {"eps": 0.7}), ("hdbscan", {})):
        (model,) = models(done, algorithm, **params)
        found = assigned(done, new_case, model, tmp_path / "new.parquet")
        assert found["far"][:6].all()
        assert np.array_equal(found["far"].astype(bool), found["cluster"] < 0)
    for algorithm in ("gaussian_mixture", "agglomerative"):
        model = models(done, algorithm)[0]
        run_assign(done.lake, CaseConfig(path=str(new_case)), model["model_id"], tmp_path / "new.parquet")
        assert pq.read_table(tmp_path / "new.parquet")["far"].null_count == NEW


def test_the_photos_of_a_vehicle_vote(done: Context, new_case: Path, tmp_path: Path) -> None:
    """Three photos each, by the path; without vehicles nobody votes."""
    (model,) = models(done, "kmeans", k=5)
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    for first in range(0, NEW, 3):
        own = slice(first, first + 3)
        values, counts = np.unique(found["cluster"][own], return_counts=True)
        assert (found["vehicle_cluster"][own] == values[counts.argmax()]).all()
        assert np.allclose(found["vehicle_agreement"][own], counts.max() / 3)
    assert len(np.unique(found["vehicle_agreement"])) > 1
    single = CaseConfig(path=str(new_case), vehicle_pattern=None)
    run_assign(done.lake, single, model["model_id"], tmp_path / "single.parquet")
    alone = pq.read_table(tmp_path / "single.parquet")
    assert alone["vehicle_cluster"].null_count == alone["vehicle_agreement"].null_count == NEW
    assert np.array_equal(alone["cluster"], found["cluster"])


def test_clusters_have_their_titles(done: Context, new_case: Path, tmp_path: Path) -> None:
    (model,) = models(done, "kmeans", k=3)
    before = done.lake.read("clusters").toArrow()
    title = F.when(F.col("model_id") == model["model_id"], F.concat(F.lit("Nr. "), F.col("cluster")))
    given = done.lake.read("clusters").withColumn("title", title).toArrow()
    try:
        done.lake.overwrite("clusters", done.spark.createDataFrame(given))
        found = assigned(done, new_case, model, tmp_path / "new.parquet")
        assert found["title"].tolist() == [f"Nr. {c}" for c in found["cluster"]]
    finally:
        done.lake.overwrite("clusters", done.spark.createDataFrame(before))


def test_csv_holds_what_parquet_holds(done: Context, new_case: Path, tmp_path: Path) -> None:
    (model,) = models(done, "kmeans", k=3)
    found = assigned(done, new_case, model, tmp_path / "new.parquet")
    run_assign(done.lake, CaseConfig(path=str(new_case)), model["model_id"], tmp_path / "new.csv")
    lines = [line.split(",") for line in (tmp_path / "new.csv").read_text().splitlines()[1:]]
    assert [line[0] for line in lines] == found["path"].tolist()
    assert [int(line[1]) for line in lines] == found["cluster"].tolist()
    # As few digits as give the same float32 again.
    assert np.array_equal(np.array([line[3] for line in lines], np.float32), found["distance"])
    assert all(len(line[3]) <= 12 for line in lines)
    assert np.array_equal(np.array([line[4] for line in lines], np.float32), found["strength"])
    assert [line[5] for line in lines] == [str(far).lower() for far in found["far"]]
    # Nothing in this lake gives titles.
    assert {line[2] for line in lines} == {""}


def test_the_case_of_a_config(done: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files named one by one, another format, and rows with NaN left out or refused."""
    arrays = new_descriptors()
    arrays["vdc_type"][3, 0], arrays["osnet"][9, 1] = np.nan, np.inf
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    write_paths(tmp_path / "list.csv", [f"{i}.jpg" for i in range(NEW)])
    case: dict[str, Any] = {"descriptors": {name: str(tmp_path / f"{name}.npy") for name in arrays}}
    case |= {"images_paths": str(tmp_path / "list.csv"), "vehicle_pattern": None}
    (model,) = models(done, "kmeans", k=3)
    out = tmp_path / "new.csv"
    out.write_text("kept")
    for on_bad_rows in ("refuse", "drop"):
        (tmp_path / "new.yaml").write_text(
            yaml.safe_dump({"case": case | {"on_bad_rows": on_bad_rows}, "lake": {"path": "unused"}})
        )
        args = (
            "--lake",
            done.config.lake.path,
            "--case",
            tmp_path / "new.yaml",
            "--model",
            model["model_id"],
            "--out",
            out,
        )
        status, said, err = call(capsys, "assign", *args)
        if on_bad_rows == "refuse":
            assert (status, said, out.read_text()) == (2, "", "kept")
            assert "osnet.npy: 1 rows, first 9; " in err
            assert "vdc_type.npy: 1 rows, first 3" in err
            assert not list(tmp_path.glob(".new*"))
        else:
            assert status == 0, err
            assert said.startswith(f"{out}: 58 images in ")
            paths = [line.split(",")[0] for line in out.read_text().splitlines()[1:]]
            assert paths == [f"{i}.jpg" for i in range(NEW) if i not in (3, 9)]


# -- what cannot be ----------------------------------------------------------------------------------


def refusal(ctx: Context, case: Path, model: str | None, folder: Path) -> str:
    """The message; no file is left behind."""
    with pytest.raises((CaseError, ConfigError)) as caught:
        run_assign(ctx.lake, CaseConfig(path=str(case)), model, folder / "out.csv")
    assert [p for p in folder.iterdir() if p.name.startswith((".", "out"))] == []
    return str(caught.value)


def test_a_case_in_a_table(done: Context, new_case: Path, tmp_path: Path) -> None:
    """Rows in another order, one of no image, and the labels that the same vectors get from array files."""
    arrays, order = new_descriptors(), np.random.default_rng(5).permutation(NEW)
    paths = [p.replace("\\", "/") for p in image_paths(NEW)]
    columns = {name: [*array[order].tolist(), [0.0] * array.shape[1]] for name, array in arrays.items()}
    pq.write_table(pa.table({"path": [*(paths[i] for i in order), "none.jpg"], **columns}), tmp_path / "v.parquet")
    write_paths(tmp_path / "list.csv", paths)
    tables = {name: {"file": str(tmp_path / "v.parquet"), "column": name} for name in arrays}
    (model,) = models(done, "kmeans", k=5)
    outs = [tmp_path / "files.parquet", tmp_path / "table.parquet"]
    cases = [
        CaseConfig(path=str(new_case)),
        CaseConfig.model_validate({"images_paths": str(tmp_path / "list.csv"), "descriptors": tables}),
    ]
    for case, out in zip(cases, outs, strict=True):
        assert run_assign(done.lake, case, model["model_id"], out).n_images == NEW
    of_files, of_table = (pq.read_table(out) for out in outs)
    assert of_table["path"].to_pylist() == paths
    assert of_table["cluster"].equals(of_files["cluster"])
    np.testing.assert_allclose(of_table["distance"], of_files["distance"], rtol=1e-5)
    mended = {**tables, "osnet": {**tables["osnet"], "column": "vdc_type"}}
    wrong = CaseConfig.model_validate({"images_paths": str(tmp_path / "list.csv"), "descriptors": mended})
    with pytest.raises(CaseError, match=r"v.parquet: vdc_type: osnet has 6 columns, but model .* was fitted on 3"):
        run_assign(done.lake, wrong, model["model_id"], outs[0])


def test_cases_that_do_not_fit(done: Context, tmp_path: Path) -> None:
    model = models(done, "kmeans", k=3)[0]["model_id"]
    arrays = new_descriptors()
    lacking = write_case(tmp_path / "lacking", NEW, {"vdc_type": arrays["vdc_type"]})
    message = refusal(done, lacking, model, tmp_path)
    assert f"model {model} (feature set t) needs the descriptor 'osnet', but the case has vdc_type" in message
    wide = write_case(tmp_path / "wide", NEW, arrays | {"osnet": np.zeros((NEW, 5), np.float32)})
    message = refusal(done, wide, model, tmp_path)
    assert "osnet.pickle: osnet has 5 columns" in message
    assert "was fitted on 3" in message
    (wide / "descriptors" / "osnet.pickle").write_bytes(pickle.dumps(arrays["osnet"][:-1]))
    assert "osnet.pickle: 59 rows" in refusal(done, wide, model, tmp_path)
    assert "there is no such folder" in refusal(done, tmp_path / "none", model, tmp_path)


@pytest.mark.parametrize("model", ["none", "x' OR '1'='1", "../x"])
def test_unknown_models(done: Context, new_case: Path, tmp_path: Path, model: str) -> None:
    assert f"--model {model}: the lake {done.lake} holds no such model" in refusal(done, new_case, model, tmp_path)


def test_models_that_label_nothing_new(done: Context, new_case: Path, tmp_path: Path) -> None:
    (empty,) = models(done, "dbscan", eps=0.001)
    message = refusal(done, new_case, empty["model_id"], tmp_path)
    assert "is degenerate and has no labels to give: it leaves every image as noise" in message
    (failed,) = models(done, "agglomerative", linkage="complete")
    message = refusal(done, new_case, failed["model_id"], tmp_path)
    assert "is failed and has no labels to give: it asks for 4,000 clusters of" in message
    row = empty.asDict() | {"model_id": "agreed", "features": "consensus", "algorithm": "consensus"}
    before = done.lake.read("models").toArrow()
    table = done.spark.createDataFrame([row], done.lake.schema("models"))
    done.lake.replace("models", table, {"model_id": ["agreed"]})
    try:
        message = refusal(done, new_case, "agreed", tmp_path)
        assert "--model agreed (consensus on consensus): this algorithm leaves no numbers" in message
    finally:
        done.lake.overwrite("models", done.spark.createDataFrame(before))


def test_a_file_that_cannot_be_written(done: Context, new_case: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*taken: cannot be written: Is a directory"):
        run_assign(done.lake, CaseConfig(path=str(new_case)), None, tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
