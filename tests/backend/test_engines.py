"""Engines that a config can name, through the whole pipeline: the same tables, whoever fitted the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from cases import blobs, run_of, write_case
from motorpool.cluster.algorithms.dbscan import DbscanGrid
from motorpool.cluster.algorithms.hdbscan import HdbscanGrid
from motorpool.cluster.algorithms.kmeans import KMeansGrid
from motorpool.cluster.centroids.by_centroids import by_centroids
from motorpool.cluster.centroids.kmeans import fit_kmeans_by
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.accelerator import needed
from motorpool.pipeline.export import best_model
from motorpool.pipeline.growing.catch_up import labelling_models
from motorpool.pipeline.planning.packages import check_accelerator
from motorpool.pipeline.run import run_pipeline
from motorpool.pipeline.stored_models import load_model, relabels
from motorpool.spark.estimators import estimators

ROWS = 240
DBSCAN = {"algorithm": "dbscan", "eps": [0.8, 2.0], "min_samples": [3, 8], "way": "cells"}
KMEANS = {"algorithm": "kmeans", "k": [2, 4], "n_init": 2}
HDBSCAN = {"algorithm": "hdbscan", "min_cluster_size": [8, 20], "min_samples": 2}


def ran(spark: SparkSession, folder: Path, name: str, features: dict[str, Any], models: list[Any]) -> Lake:
    case = folder / "case"
    if not case.exists():
        write_case(case, ROWS, {"a": blobs(ROWS, 6)})
    ctx = run_of(
        spark, case, folder / name, "parquet",
        features=[{"descriptor": "a"}, {"descriptor": "a", **features}], cluster={"models": models},
    )  # fmt: skip
    run_pipeline(ctx)
    return ctx.lake


@pytest.fixture(scope="module")
def lakes(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Lake]:
    """The same study by Motorpool's kernels, and by libraries."""
    folder = tmp_path_factory.mktemp("engines")
    steps = {"steps": ["standard", {"pca": 3}, "standard"], "name": "a-small"}
    own = ran(spark, folder, "own", steps, [DBSCAN, KMEANS, HDBSCAN])
    models = [DBSCAN | {"engine": "sklearn"}, KMEANS | {"engine": "spark-ml"}, HDBSCAN | {"engine": "sklearn"}]
    return own, ran(spark, folder, "libraries", steps | {"engine": "spark-ml"}, models)


def models_of(lake: Lake, features: str, algorithm: str) -> dict[tuple[str, ...], dict[str, Any]]:
    names = ("eps", "min_samples", "k", "min_cluster_size")
    rows = lake.rows("models", features=[features], algorithm=[algorithm])
    return {tuple(dict(r["params"]).get(n, "") for n in names): r for r in rows}


def labels_of(lake: Lake, model_id: str) -> np.ndarray:
    rows = lake.rows("labels", ["image_id", "cluster"], model_id=[model_id])
    return np.array([r["cluster"] for r in sorted(rows, key=lambda r: r["image_id"])])


def test_a_librarys_dbscan_gives_the_models_of_the_kernels(lakes: tuple[Lake, Lake]) -> None:
    own, other = (models_of(lake, "a", "dbscan") for lake in lakes)
    assert len(own) == 4
    assert own.keys() == other.keys()
    for key, mine in own.items():
        theirs = other[key]
        assert theirs["model_id"] == mine["model_id"]
        assert (mine["backend"], theirs["backend"]) == ("cpu", "sklearn")
        same = ("status", "n_clusters", "n_noise", "calinski_harabasz", "agreement")
        assert [theirs.get(name) for name in same] == [mine.get(name) for name in same]
        assert np.array_equal(labels_of(lakes[0], mine["model_id"]), labels_of(lakes[1], mine["model_id"]))
        # Few distances of these rows are eps within rounding.
        assert 0 <= int(dict(theirs["params"])["decided_in_float64"]) < ROWS // 20
        assert "decided_in_float64" not in dict(mine["params"])


def test_a_librarys_hdbscan_fills_the_same_tables(lakes: tuple[Lake, Lake]) -> None:
    own, other = (models_of(lake, "a", "hdbscan") for lake in lakes)
    assert len(own) == 2
    assert own.keys() == other.keys()
    for key, mine in own.items():
        theirs = other[key]
        # Where distances are equal other clusters may be found, so it is another model.
        assert theirs["model_id"] != mine["model_id"]
        assert (mine["backend"], theirs["backend"]) == ("cpu", "sklearn")
        assert dict(theirs["params"]) == dict(mine["params"]) | {"engine": "sklearn"}
        same = ("status", "n_clusters", "n_noise", "calinski_harabasz", "agreement")
        assert [theirs.get(name) for name in same] == [mine.get(name) for name in same]
        assert mine["n_clusters"] > 1
        rows = [
            sorted(lake.rows("labels", model_id=[row["model_id"]]), key=lambda r: r["image_id"])
            for lake, row in zip(lakes, (mine, theirs), strict=True)
        ]
        assert [r["cluster"] for r in rows[1]] == [r["cluster"] for r in rows[0]]
        assert np.allclose([r["strength"] for r in rows[1]], [r["strength"] for r in rows[0]], atol=1e-5)
        assert {r["outlier_score"] for r in rows[1]} == {None}
        assert None not in {r["outlier_score"] for r in rows[0]}
        assert {r["field"] for r in lakes[0].rows("parameters", model_id=[mine["model_id"]])} == {"births", "deaths"}
        assert lakes[1].rows("parameters", model_id=[theirs["model_id"]]) == []


def test_a_librarys_hdbscan_labels_no_new_images(lakes: tuple[Lake, Lake]) -> None:
    """It says so by name, and is left out where models are chosen for new images."""
    for lake, counted in ((lakes[0], 0), (lakes[1], 4)):
        ids = [row["model_id"] for name in ("a", "a-small") for row in models_of(lake, name, "hdbscan").values()]
        models, others = labelling_models(lake)
        assert len(set(ids) & models.keys()) == 4 - counted
        assert others["hdbscan"] == counted
        best = best_model(lake, lambda row, ids=ids: row["model_id"] in ids)
        assert relabels(best["algorithm"], best["params"]) is not bool(counted)
        if counted:
            told = r"^--model x \(hdbscan on a\): engine: sklearn leaves no tree that labels new images; choose one"
            with pytest.raises(ConfigError, match=told):
                load_model(lake, ids[0], "--model x")
        else:
            assert load_model(lake, ids[0], "--model x").arrays.keys() == {"births", "deaths"}


def test_sparks_kmeans_fills_the_same_tables(lakes: tuple[Lake, Lake]) -> None:
    own, other = (models_of(lake, "a", "kmeans") for lake in lakes)
    assert own.keys() == other.keys()
    for key, mine in own.items():
        theirs = other[key]
        # Another local optimum may be found, so it is another model.
        assert theirs["model_id"] != mine["model_id"]
        assert dict(theirs["params"])["engine"] == theirs["backend"] == "spark-ml"
        assert theirs["n_iter"] is None
        assert {name for name, value in theirs.items() if value is None} <= {
            *(name for name, value in mine.items() if value is None), "n_iter"
        }  # fmt: skip
        assert theirs["inertia"] == pytest.approx(mine["inertia"], rel=0.1)
        labels = [labels_of(lake, row["model_id"]) for lake, row in zip(lakes, (mine, theirs), strict=True)]
        assert adjusted_rand_score(*labels) > 0.7
        clusters = lakes[1].rows("clusters", ["size", "centroid"], model_id=[theirs["model_id"]])
        assert sum(c["size"] for c in clusters) == ROWS


def test_sparks_pca_gives_the_vectors_of_the_kernels(lakes: tuple[Lake, Lake]) -> None:
    vectors, shares = [], []
    for lake in lakes:
        rows = sorted(lake.rows("features", features=["a-small"]), key=lambda r: r["image_id"])
        vectors.append(np.array([r["vector"] for r in rows]))
        shares.append(lake.rows("feature_sets", features=["a-small"])[0])
    assert vectors[0].shape == (ROWS, 3)
    assert np.allclose(*vectors, atol=1e-4)
    x = np.array([r["vector"] for r in lakes[0].rows("features", features=["a"])])
    truth = PCA(3).fit((x - x.mean(axis=0)) / x.std(axis=0)).explained_variance_ratio_
    assert np.allclose(shares[1]["explained_variance_curve"], truth, atol=1e-5)
    assert shares[1]["explained_variance"] == pytest.approx(shares[0]["explained_variance"])
    assert '"engine": "spark-ml"' in shares[1]["definition"]
    assert "engine" not in shares[0]["definition"]


def test_rows_that_are_too_few_or_too_equal_for_k(on_spark: Callable[..., DataFrame]) -> None:
    three = np.repeat(np.array([[0, 0], [4, 0], [0, 9]], np.float32), 20, axis=0)
    df = on_spark(three)
    found = fit_kmeans_by(estimators("spark-ml"), df, [2, 5], seed=1, n_init=2)
    assert [m.k for m in found] == [2, 5]
    assert [len(m.centroids) for m in found] == [2, 3]
    assert sorted(map(tuple, found[1].centroids.tolist())) == [(0, 0), (0, 9), (4, 0)]
    # Distances are those of float32 products.
    assert found[1].inertia == pytest.approx(0.0, abs=len(three) * 9**2 * 2.0**-24)
    # Two of the three are one cluster, the nearest of course: half of the squared distance of 40 rows.
    assert found[0].inertia == pytest.approx(20 * 4**2 / 2, rel=1e-6)
    equal = on_spark(np.ones((30, 2), np.float32))
    (one,) = fit_kmeans_by(estimators("spark-ml"), equal, [3], seed=1)
    assert one.centroids.tolist() == [[1.0, 1.0]]
    labelled = by_centroids(equal, [one.centroids])
    assert {r["clusters"][0] for r in labelled.wide().collect()} == {0}


# -- what is refused -------------------------------------------------------------------------------------


def config(features: dict[str, Any], *models: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        "lake": {"path": "lake"},
        "features": [{"descriptor": "a", **features}],
        "cluster": {"models": list(models)},
        **sections,
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (config({}, DBSCAN | {"way": "pairs", "engine": "sklearn"}), "engine: sklearn clusters the parts of `way"),
        (config({}, DBSCAN | {"engine": "cuml"}), "engine: cuml works on GPUs alone, and accelerator is cpu"),
        (
            config({}, KMEANS | {"engine": "spark-rapids-ml"}, accelerator="auto"),
            r"cluster.models\[0\].engine: spark-rapids-ml works on GPUs alone, and accelerator is auto",
        ),
        (
            config({"steps": [{"pca": 2}], "engine": "spark-rapids-ml"}),
            r"features\[0\].engine: spark-rapids-ml works on GPUs alone",
        ),
        (config({}, HDBSCAN | {"engine": "cuml"}), "engine: cuml works on GPUs alone, and accelerator is cpu"),
        (
            config({}, HDBSCAN | {"engine": "sklearn", "metric": "cosine"}),
            "metric: cosine: engine: sklearn has Euclidean distances alone",
        ),
        (
            config({}, HDBSCAN | {"engine": "cuml", "min_samples": 1}, accelerator="gpu"),
            "min_samples: 1: engine: cuml takes 2 or more, the image itself included",
        ),
        (config({"steps": [{"pca": 0.9}], "engine": "spark-ml"}), "steps: pca: 0.9: engine spark-ml takes a number"),
        (config({"steps": ["standard"], "engine": "spark-ml"}), "engine: spark-ml fits the steps `pca`, and there is"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_its_key(content: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config(content)


def test_modules_that_engines_need_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pca = {"steps": [{"pca": 2}]}
    plain = parse_config(config(pca, DBSCAN, KMEANS, accelerator="gpu"))
    assert needed(plain) == ["cupy"]
    cuml = parse_config(config(pca, DBSCAN | {"engine": "cuml"}, accelerator="gpu"))
    assert needed(cuml) == ["cupy", "cuml"]
    tree = parse_config(config(pca, HDBSCAN | {"engine": "cuml"}, accelerator="gpu"))
    assert needed(tree) == ["cupy", "cuml"]
    rapids = parse_config(config(pca | {"engine": "spark-rapids-ml"}, KMEANS, accelerator="gpu"))
    assert needed(rapids) == ["cupy", "spark_rapids_ml", "cuml"]

    monkeypatch.setattr("motorpool.errors.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("motorpool.pipeline.planning.packages.SparkSession.getActiveSession", lambda: None)
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    with pytest.raises(Exception, match=r"needs cupy and cuml, not installed here: pip install 'motorpool\[gpu\]'"):
        check_accelerator(cuml)
    # Executors elsewhere are asked once Spark has started; the driver makes spark-rapids-ml's estimators itself.
    away = {"spark": {"spark.master": "spark://somewhere:7077"}}
    check_accelerator(parse_config(config(pca, DBSCAN | {"engine": "cuml"}, accelerator="gpu", **away)))
    with pytest.raises(Exception, match="needs spark_rapids_ml, not installed here"):
        check_accelerator(parse_config(config(pca, KMEANS | {"engine": "spark-rapids-ml"}, accelerator="gpu", **away)))


def test_models_keep_their_ids_where_no_engine_is_named() -> None:
    """Lakes of earlier versions hold their models."""
    assert all("engine" not in params for params in KMeansGrid(algorithm="kmeans", k=[2, 3]).variants(1))
    named = KMeansGrid(algorithm="kmeans", k=[2, 3], engine="spark-ml")
    assert [params["engine"] for params in named.variants(1)] == ["spark-ml"] * 2
    tree = {**HDBSCAN, "min_cluster_size": 8}
    assert "engine" not in next(HdbscanGrid(**tree).variants(1))
    assert next(HdbscanGrid(**tree, engine="cuml").variants(1))["engine"] == "cuml"
    grids = [DbscanGrid(**(DBSCAN | {"engine": engine})) for engine in ("exact", "sklearn", "cuml")]
    assert len({str(list(grid.variants(1))) for grid in grids}) == 1
