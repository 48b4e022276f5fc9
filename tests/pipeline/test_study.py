"""A study of every algorithm and outlier method on one small case, through real tables, against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from cases import contents, prepared, run_of, write_case
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.lake.reading import LakeReader
from motorpool.lake.schemas import TABLES, Table
from motorpool.outliers.registry import OUTLIER_METHODS
from motorpool.pipeline.context import Context
from motorpool.pipeline.export import run_export
from motorpool.pipeline.run import run_pipeline

ROWS, STRANGE = 200, (17, 61, 133)


def vectors() -> np.ndarray:
    """Four tight groups, and three rows far from all of them and from each other."""
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(4, 6)) * 8)[np.arange(ROWS) % 4] + rng.normal(size=(ROWS, 6))
    x[list(STRANGE)] = rng.normal(size=(3, 6)) * 60
    return x.astype(np.float32)


STUDY: dict[str, Any] = {
    "features": [{"name": "t", "descriptor": "vdc_type", "steps": [{"pca": 4}]}],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": 5, "n_init": 3},
            {"algorithm": "minibatch_kmeans", "k": 5},
            {"algorithm": "bisecting_kmeans", "k": [3, 5]},
            {"algorithm": "agglomerative", "n_clusters": [4, 7], "linkage": ["ward", "single"]},
            {"algorithm": "dbscan", "eps": [0.001, 3, 1000], "min_samples": [4, 8]},
            {"algorithm": "dbscan", "eps": "auto", "min_samples": 5},
            {"algorithm": "dbscan", "eps": 0.05, "min_samples": 5, "metric": "cosine"},
            {"algorithm": "hdbscan", "min_cluster_size": [5, 20], "min_samples": 4},
            {"algorithm": "gaussian_mixture", "n_components": 4, "covariance_type": ["full", "diag"]},
        ],
        "min_cluster_share": 0.002,
    },
    "outliers": {
        "methods": [m.name for m in OUTLIER_METHODS.values() if "vehicles" not in m.needs],
        "k": 10,
        "share": 0.015,
    },
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("study") / "case", ROWS, {"vdc_type": vectors()})


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = run_of(spark, case, tmp_path_factory.mktemp("lake") / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    return ctx


@pytest.fixture(scope="module")
def x(done: Context) -> np.ndarray:
    rows = done.lake.read("features").orderBy("image_id").collect()
    return np.array([r["vector"] for r in rows], np.float64)


def models(ctx: Context, algorithm: str, **params: object) -> list[Any]:
    found = ctx.lake.read("models").where(f"algorithm = '{algorithm}'").orderBy("model_id").collect()
    return [m for m in found if all(m["params"].get(k) == str(v) for k, v in params.items())]


def labels(ctx: Context, model: Any) -> np.ndarray:
    rows = ctx.lake.read("labels", model_id=model["model_id"]).orderBy("image_id").collect()
    assert [r["image_id"] for r in rows] == list(range(ROWS))
    return np.array([r["cluster"] for r in rows])


WRITTEN = [
    t for t in TABLES.values()
    if t.name not in ("bad_rows", "described", "agreement")
    and t.written_by in ("ingest", "features", "cluster", "consensus", "outliers")
]  # fmt: skip


@pytest.mark.parametrize("table", WRITTEN, ids=lambda t: t.name)
def test_columns_and_types(done: Context, table: Table) -> None:
    found = [(f.name, f.dataType.simpleString()) for f in done.lake.read(table.name).schema]
    assert found == [(f.name, f.dataType.simpleString()) for f in table.schema]


def test_every_model_asked_for_is_there(done: Context) -> None:
    counts = {r["algorithm"]: r["count"] for r in done.lake.read("models").groupBy("algorithm").count().collect()}
    assert counts == {
        "kmeans": 1, "minibatch_kmeans": 1, "bisecting_kmeans": 2, "agglomerative": 4, "dbscan": 15, "hdbscan": 2,
        "gaussian_mixture": 2,
    }  # fmt: skip


def test_dbscan_is_scikit_learns(done: Context, x: np.ndarray) -> None:
    for eps, min_samples in ((3.0, 4), (3.0, 8)):
        (model,) = models(done, "dbscan", eps=eps, min_samples=min_samples, metric="euclidean")
        theirs = DBSCAN(eps=eps, min_samples=min_samples).fit(x)
        ours = labels(done, model)
        assert np.array_equal(ours[theirs.core_sample_indices_], theirs.labels_[theirs.core_sample_indices_])
        assert np.array_equal(ours < 0, theirs.labels_ < 0)
        assert (model["n_clusters"], model["n_noise"]) == (theirs.labels_.max() + 1, (theirs.labels_ < 0).sum())
    (model,) = models(done, "dbscan", metric="cosine")
    theirs = DBSCAN(eps=0.05, min_samples=5, metric="cosine").fit(x)
    assert adjusted_rand_score(theirs.labels_, labels(done, model)) > 0.99


def test_dbscan_by_cells_writes_the_same_tables(spark: SparkSession, done: Context, case: Path, tmp_path: Path) -> None:
    grid = {"algorithm": "dbscan", "eps": [0.001, 3, 1000], "min_samples": [4, 8], "way": "cells"}
    lake = prepared(done.lake, tmp_path / "lake")
    other = run_of(spark, case, lake, "parquet", features=STUDY["features"], cluster={"models": [grid]})
    run_pipeline(other)
    pairs = {m["model_id"]: m for m in done.lake.read("models").collect()}
    cells = other.lake.read("models").collect()
    assert len(cells) == 6
    for model in cells:
        same = ("n_clusters", "n_noise", "calinski_harabasz", "davies_bouldin", "silhouette", "vehicle_agreement")
        assert [model[c] for c in same] == pytest.approx([pairs[model["model_id"]][c] for c in same])
        rows = [
            ctx.lake.read("labels", model_id=model["model_id"]).orderBy("image_id").collect() for ctx in (done, other)
        ]
        assert rows[0] == rows[1]


def test_what_every_image_shares_is_told_without_labels(done: Context) -> None:
    reasons = {}
    for eps in (0.001, 1000.0):
        (model,) = models(done, "dbscan", eps=eps, min_samples=4)
        assert model["status"] == "degenerate"
        assert done.lake.read("labels", model_id=model["model_id"]).isEmpty()
        reasons[eps] = (model["n_clusters"], model["n_noise"], model["reason"])
    assert reasons[0.001] == (0, ROWS, "it leaves every image as noise")
    assert reasons[1000.0] == (1, 0, "it finds one cluster, with 200 of 200 images")


def test_eps_auto_names_what_it_found(done: Context) -> None:
    found = [m for m in models(done, "dbscan") if "quantile" in m["params"]]
    eps = [float(m["params"]["eps"]) for m in sorted(found, key=lambda m: float(m["params"]["quantile"]))]
    assert len(eps) == 8
    assert eps == sorted(eps)
    curve = done.lake.read("k_distances").where("k = 5 AND metric = 'euclidean'").orderBy("quantile").collect()
    assert len(curve) == 101
    assert [r["knee"] for r in curve].count(True) == 1
    assert curve[50]["distance"] == pytest.approx(eps[5])
    # With eps at the q-th quantile of the distances to the fifth image, the share q of the images is core.
    core = done.lake.read("labels", model_id=next(m["model_id"] for m in found if m["params"]["quantile"] == "0.5"))
    assert core.where("distance = 0").count() == pytest.approx(ROWS / 2, abs=3)


def test_hdbscan_is_scikit_learns(done: Context, x: np.ndarray) -> None:
    for size in (5, 20):
        (model,) = models(done, "hdbscan", min_cluster_size=size)
        theirs = HDBSCAN(min_cluster_size=size, min_samples=4, algorithm="brute", copy=True).fit(x)
        assert adjusted_rand_score(theirs.labels_, labels(done, model)) > 0.99
        rows = done.lake.read("labels", model_id=model["model_id"])
        assert rows.where("strength IS NULL OR outlier_score IS NULL OR distance IS NOT NULL").isEmpty()


def test_agglomerative_is_scikit_learns(done: Context, x: np.ndarray) -> None:
    for linkage in ("ward", "single"):
        for k in (4, 7):
            (model,) = models(done, "agglomerative", linkage=linkage, n_clusters=k)
            theirs = AgglomerativeClustering(k, linkage=linkage).fit(x)
            assert adjusted_rand_score(theirs.labels_, labels(done, model)) == 1.0
    (tree,) = done.lake.read("parameters").where("field = 'merges'").select("model_id").distinct().limit(1).collect()
    assert any(m["params"]["tree_of"] == tree["model_id"] for m in models(done, "agglomerative"))


def test_mixtures_have_criteria_and_strengths(done: Context) -> None:
    found = models(done, "gaussian_mixture")
    assert all(m["bic"] > m["aic"] for m in found)
    rows = done.lake.read("labels", model_id=[m["model_id"] for m in found])
    assert rows.where("strength IS NULL OR strength < 0.25 OR strength > 1 OR outlier_score IS NULL").isEmpty()


def test_all_kinds_share_one_leaderboard(done: Context) -> None:
    done.lake.register()
    ranked = {r["algorithm"] for r in done.spark.table("leaderboard").collect()}
    assert {"kmeans", "agglomerative", "dbscan", "gaussian_mixture"} <= ranked


def test_outliers(done: Context, tmp_path: Path) -> None:
    methods = {(r["features"], r["method"]): r for r in done.lake.read("outlier_methods").collect()}
    single = {
        "isolation_forest", "knn_distance", "lof", "pca_error", "dbscan_noise", "glosh", "mixture_density",
    }  # fmt: skip
    assert set(methods) == {("t", m) for m in single} | {("consensus", "consensus")}
    rows = done.lake.read("outliers")
    assert rows.count() == 8 * ROWS
    assert rows.where("score IS NULL OR isnan(score)").isEmpty()
    for method in ("isolation_forest", "knn_distance", "lof", "consensus"):
        flagged = rows.where(f"method = '{method}' AND is_outlier").select("image_id").collect()
        assert sorted(r["image_id"] for r in flagged) == list(STRANGE), method
    _, n_lines = run_export(LakeReader(done.config.lake, lambda: done.lake), tmp_path / "best.csv")
    lines = (tmp_path / "best.csv").read_text().splitlines()[1:]
    assert n_lines == len(lines) == ROWS
    assert [i for i, line in enumerate(lines) if line.split(",")[2] == "1"] == list(STRANGE)


def test_again_nothing_is_made_twice(done: Context) -> None:
    before = contents(done.lake)
    run_pipeline(done)
    assert contents(done.lake) == before


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


@pytest.mark.slow
def test_a_stop_before_the_row_that_says_done(
    done: Context, spark: SparkSession, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = STUDY | {
        "cluster": STUDY["cluster"]
        | {"models": [{"algorithm": "hdbscan", "min_cluster_size": [5, 20], "min_samples": 4}]},
        "outliers": {"methods": ["lof", "glosh"]},
    }
    whole = run_of(spark, case, prepared(done.lake, tmp_path / "whole"), "parquet", **study)
    run_pipeline(whole)
    ctx = run_of(spark, case, prepared(done.lake, tmp_path / "lake"), "parquet", **study)
    write = Lake._write
    for table in ("models", "outlier_methods"):

        def stopped(lake: Lake, *args: Any, at: str = table) -> None:
            if args[0].name == at:
                raise _StoppedError
            write(lake, *args)

        monkeypatch.setattr(Lake, "_write", stopped)
        with pytest.raises(_StoppedError):
            run_pipeline(ctx)
    monkeypatch.setattr(Lake, "_write", write)
    run_pipeline(ctx)
    assert contents(ctx.lake, clock=False) == contents(whole.lake, clock=False)


def test_other_settings_score_again(done: Context, spark: SparkSession, case: Path) -> None:
    study = STUDY | {"outliers": {"methods": ["lof"], "k": 12, "share": 0.01}}
    run_pipeline(run_of(spark, case, Path(str(done.config.lake.path)), "parquet", **study))
    (row,) = done.lake.read("outlier_methods", features="t").where("method = 'lof'").collect()
    assert (row["params"]["k"], row["n_outliers"]) == ("12", 2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"outliers": {"methods": []}}, "outliers.methods"),
        ({"outliers": {"share": 0}}, "outliers.share: 0"),
        ({"outliers": {"features": ["none"]}}, "outliers.features: 'none' is no feature set"),
        ({"features": [{"name": "consensus", "descriptor": "vdc_type"}]}, "'consensus' is taken"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    spark: SparkSession, case: Path, tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(spark, case, tmp_path / "lake", **(STUDY | section))
    assert not (tmp_path / "lake").exists()
