"""Every algorithm at its edges: what can be fitted is fitted, the rest says why in ``models``, and nothing raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from cases import inertia, run_of, uneven_blobs
from motorpool.cluster.centroids import minibatch
from motorpool.cluster.centroids.kmeans import fit_kmeans
from motorpool.cluster.centroids.minibatch import fit_minibatch_kmeans
from motorpool.cluster.registry import ALGORITHMS
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.spark import coreset
from motorpool.spark.blocks import to_list_array

BLOBS = (np.repeat(np.eye(3, 4) * 9, 10, axis=0) + np.random.default_rng(2).normal(size=(30, 4))).astype(np.float32)
#: Feature sets by name; powers of two scale float32 values without rounding.
SETS: dict[str, np.ndarray] = {
    "none": BLOBS[:0],
    "one": BLOBS[:1],
    "two": BLOBS[[0, 10]],
    "three": BLOBS[[0, 10, 20]],
    "twelve": BLOBS[:24:2],
    "blobs": BLOBS,
    "equal": np.repeat(BLOBS[:1], 20, axis=0),
    "mostly": np.concatenate([BLOBS[:1], np.repeat(BLOBS[20:21], 99, axis=0)]),
    "tiny": np.ldexp(BLOBS, -100).astype(np.float32),
    "huge": np.ldexp(BLOBS, 100).astype(np.float32),
    "far": np.concatenate([np.full((1, 4), 1e25, np.float32), BLOBS[1:]]),
}
GRIDS: dict[str, list[dict[str, Any]]] = {
    "kmeans": [{"k": [2, 3, 12], "n_init": 2}],
    "minibatch_kmeans": [{"k": [2, 3, 12]}],
    "bisecting_kmeans": [{"k": [2, 3, 12]}],
    "agglomerative": [{"n_clusters": [2, 3, 12], "linkage": ["ward", "average", "complete", "single"]}],
    "dbscan": [{"eps": "auto", "min_samples": [2, 5]}, {"eps": [1.5], "min_samples": 2, "way": "cells"}],
    "hdbscan": [{"min_cluster_size": [2, 5], "min_samples": 3}],
    "gaussian_mixture": [{"n_components": [2, 3, 12], "covariance_type": ["full", "tied", "diag", "spherical"]}],
}
#: The parameter that says how many clusters a model must find.
COUNTS = ("k", "n_clusters", "n_components")
#: Those that measure in float32 refuse values whose squares leave it; the others measure in float64 what is unsure.
IN_FLOAT32 = ("kmeans", "minibatch_kmeans", "bisecting_kmeans", "gaussian_mixture")


def study(spark: SparkSession, lake: Path, algorithm: str) -> Context:
    """A run on a lake that holds the feature sets as such: their images and vectors."""
    models = [{"algorithm": algorithm} | grid for grid in GRIDS[algorithm]]
    features = [{"name": name, "descriptor": "made"} for name in SETS]
    ctx = run_of(spark, lake / "case", lake, "parquet", features=features, cluster={"models": models})
    largest = max(map(len, SETS.values()))
    images = [(i, f"veriwild/{i}.jpg", f"{i // 3:03d}") for i in range(largest)]
    ctx.lake.overwrite("images", spark.createDataFrame(images, "image_id BIGINT, path STRING, vehicle_id STRING"))
    held = {name: x for name, x in SETS.items() if len(x)}
    table = pa.table(
        {
            "image_id": np.concatenate([np.arange(len(x)) for x in held.values()]),
            "features": [name for name, x in held.items() for _ in x],
            "vector": to_list_array(np.concatenate(list(held.values()))),
        }
    )
    ctx.lake.overwrite("features", spark.createDataFrame(table))
    return ctx


#: One that refuses values that float32 cannot square, and one that does not; `make test-slow` goes through the others.
_QUICK = ("kmeans", "agglomerative")


@pytest.mark.parametrize(
    "algorithm", [pytest.param(a, marks=[] if a in _QUICK else pytest.mark.slow) for a in ALGORITHMS]
)
def test_what_cannot_be_fitted_says_why(spark: SparkSession, tmp_path: Path, algorithm: str) -> None:
    ctx = study(spark, tmp_path / "lake", algorithm)
    run_cluster(ctx)
    models = [r.asDict() for r in ctx.lake.read("models").collect()]
    labels: dict[str, dict[int, int]] = {}
    for row in ctx.lake.read("labels").collect():
        labels.setdefault(row["model_id"], {})[row["image_id"]] = row["cluster"]
    assert {m["features"] for m in models} == set(SETS)
    for model in models:
        check_row(model, SETS[model["features"]], labels.get(model["model_id"], {}))
    of = {name: {key(m): m for m in models if m["features"] == name} for name in SETS}
    assert len({len(found) for found in of.values()}) == 1
    assert any(m["status"] == "ok" for m in of["blobs"].values())
    for name in ("tiny", "huge", "far"):
        for model in of[name].values():
            if algorithm in IN_FLOAT32:
                assert model["status"] == "failed"
                kind = "small" if name == "tiny" else "large"
                assert f"values of its feature set are too {kind} for distances in float32" in model["reason"]
    if algorithm not in IN_FLOAT32:
        # Distances alone decide, so a scaled copy has the same clusters.
        for name in ("tiny", "huge"):
            for params, model in of["blobs"].items():
                if dict(params).get("eps") in (None, "auto"):
                    found = of[name][params]
                    assert labels.get(found["model_id"]) == labels.get(model["model_id"]), (name, params)
    if algorithm == "agglomerative":
        for model in of["far"].values():
            if dict(model["params"])["n_clusters"] == "2":
                far = labels[model["model_id"]]
                assert [i for i in far if far[i] == far[0]] == [0]


def key(model: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """A model's parameters but for those that the data chose."""
    params = {k: v for k, v in model["params"].items() if k not in ("tree_of", "micro_clusters_of")}
    if "quantile" in params:
        params["eps"] = "auto"
    return tuple(sorted(params.items()))


def check_row(model: dict[str, Any], x: np.ndarray, labels: dict[int, int]) -> None:
    """A model's row and labels fit together, and what is not there is explained."""
    n, told = len(x), (model["features"], model["params"], model["status"], model["reason"])
    numbers = [v for v in model.values() if isinstance(v, float)]
    assert all(math.isfinite(v) for v in numbers), told
    assert (model["status"] == "ok") == (model["reason"] is None), told
    assert labels.keys() in ({*range(n)}, set()), told
    asked = next((int(model["params"][c]) for c in COUNTS if c in model["params"]), None)
    least = int(model["params"].get("min_samples", 1)) if model["algorithm"] == "dbscan" else 1
    if n == 0:
        assert (model["status"], model["reason"]) == ("failed", "its feature set has no images"), told
    elif asked is not None and asked > n:
        assert model["reason"] == f"it asks for {asked} clusters of {n} images", told
    elif "quantile" in model["params"] and least > n:
        assert model["status"] == "failed", told
        assert model["reason"] == f"eps: auto needs as many images as min_samples = {least}, and there are {n}", told
    elif model["status"] == "ok":
        assert labels, told
        distinct = len(np.unique(x, axis=0))
        clusters = {c for c in labels.values() if c >= 0}
        assert len(clusters) == model["n_clusters"], told
        assert asked in (None, len(clusters)), told
        assert 2 <= len(clusters) <= distinct, told
        assert model["calinski_harabasz"] is not None, told
    else:
        # Equal images are one cluster at most, and as many clusters as images have no scores.
        assert model["status"] in ("degenerate", "failed"), told
        assert model["reason"], told


def test_more_clusters_than_wide_rows_fit_into_a_coreset(
    blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 300 rows a coreset of 128 MiB may hold 40, as it holds 8,192 rows of 4,096 numbers.
    monkeypatch.setattr(coreset, "CORESET_VALUES", 160)
    monkeypatch.setattr(minibatch, "_SAMPLE_VALUES", 160)
    x = uneven_blobs(300, d=4)
    df = blocked(x)
    models = [*fit_kmeans(df, [5, 60], seed=1), *fit_minibatch_kmeans(df, [60], seed=1)]
    for model in models:
        assert model.centroids.shape == (model.k, 4)
        assert len(np.unique(model.centroids, axis=0)) == model.k
    assert inertia(x, models[1].centroids) < 0.5 * inertia(x, models[0].centroids)
