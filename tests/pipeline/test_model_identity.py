"""A model's id names one model: its rows are the same whatever else is asked for, and wherever a run stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from cases import contents, run_of, write_case
from motorpool.cluster.algorithms.dbscan import DbscanGrid
from motorpool.cluster.centroids import bisecting, kmeans, minibatch
from motorpool.cluster.fitting import Job, apart
from motorpool.cluster.models import ModelSpec
from motorpool.features.spec import FeatureSet, Part
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.spark import coreset

ROWS = 500
FEATURES = {"features": [{"name": "t", "descriptor": "vdc_type"}]}
#: Where an agglomerative model's tree and micro-clusters are kept: with whatever model of its grid comes first.
POINTERS = ("tree_of", "micro_clusters_of")


def vectors() -> np.ndarray:
    """Clouds that overlap, of very unequal size, and rows anywhere: splits of all rows and of a sample differ."""
    rng = np.random.default_rng(8)
    which = rng.choice(7, ROWS, p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.05, 0.05])
    x = rng.normal(size=(7, 4))[which] * 2 + rng.normal(size=(ROWS, 4))
    x[::25] = rng.uniform(-9, 9, size=(ROWS // 25, 4))
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet lake with one feature set and no models, to be copied."""
    folder = tmp_path_factory.mktemp("identity")
    ctx = run_of(
        spark, write_case(folder / "case", ROWS, {"vdc_type": vectors()}), folder / "lake", "parquet", **FEATURES
    )
    run_ingest(ctx)
    run_features(ctx)
    return folder / "lake"


Start = Callable[[str, list[dict[str, Any]]], Context]


@pytest.fixture
def start(spark: SparkSession, prepared: Path, tmp_path: Path) -> Start:
    """A run with some grids on the named copy of the lake."""

    def make(name: str, models: list[dict[str, Any]]) -> Context:
        if not (tmp_path / name).exists():
            shutil.copytree(prepared, tmp_path / name)
        return run_of(
            spark, prepared.parent / "case", tmp_path / name, "parquet", **FEATURES, cluster={"models": models}
        )

    return make


def rows_of(lake: Lake) -> dict[str, dict[str, Any]]:
    """Of every model its row, labels by image, clusters and parameters, those kept with other models included."""
    models = {r["model_id"]: r.asDict(recursive=True) for r in lake.read("models").collect()}
    labels, clusters, parameters = (lake.read(t).collect() for t in ("labels", "clusters", "parameters"))
    arrays = {(r["model_id"], r["field"]): np.array(r["values"]).reshape(r["shape"]) for r in parameters}
    found = {}
    for model_id, row in models.items():
        params = row["params"]
        own = {field: a for (owner, field), a in arrays.items() if owner == model_id}
        for pointer, field in zip(POINTERS, ("merges", "centroids"), strict=True):
            if pointer in params:
                own[field] = arrays[params.pop(pointer), field]
        found[model_id] = {
            "row": row,
            "labels": {r["image_id"]: r["cluster"] for r in labels if r["model_id"] == model_id},
            "sizes": {r["cluster"]: r["size"] for r in clusters if r["model_id"] == model_id},
            "centroids": {r["cluster"]: np.array(r["centroid"]) for r in clusters if r["model_id"] == model_id},
            "parameters": own,
        }
    return found


def check_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Equal but for the clock, and numbers up to the order of sums."""
    for name, value in left["row"].items():
        if name not in ("created_at", "seconds"):
            other = right["row"][name]
            same = other == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
            assert same, (left["row"]["algorithm"], left["row"]["params"], name, value, other)
    assert left["labels"] == right["labels"]
    assert left["sizes"] == right["sizes"]
    for kind in ("centroids", "parameters"):
        assert left[kind].keys() == right[kind].keys()
        for key, array in left[kind].items():
            np.testing.assert_allclose(array, right[kind][key], rtol=1e-4, atol=1e-4)


#: The grid of one model for every algorithm, and what else may be asked for beside it.
ALONE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"algorithm": "kmeans", "k": 3, "n_init": 2}, {"k": [2, 3, 60]}),
    ({"algorithm": "minibatch_kmeans", "k": 3, "batch_size": 50}, {"k": [3, 5, 60]}),
    ({"algorithm": "bisecting_kmeans", "k": 4}, {"k": [2, 4, 9, 60]}),
    ({"algorithm": "agglomerative", "n_clusters": 5}, {"n_clusters": [3, 5], "linkage": ["single", "ward"]}),
    ({"algorithm": "dbscan", "eps": 1.5, "min_samples": 8}, {"eps": [0.5, 1.5, 3], "min_samples": [4, 8, 30]}),
    ({"algorithm": "dbscan", "eps": "auto", "min_samples": 30}, {"min_samples": [4, 30, 90]}),
    ({"algorithm": "hdbscan", "min_cluster_size": 15}, {"min_cluster_size": [5, 15, 40]}),
    (
        {"algorithm": "gaussian_mixture", "n_components": 3, "covariance_type": "full"},
        {"n_components": [2, 3, 60], "covariance_type": ["full", "tied", "diag"]},
    ),
]


@pytest.mark.slow
def test_a_model_does_not_depend_on_what_is_asked_for_beside_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # Samples much smaller than the rows, and of a size that depends on k.
    monkeypatch.setattr(coreset, "CORESET_ROWS", 80)
    monkeypatch.setattr(minibatch, "_SAMPLE_BATCHES", 2)
    monkeypatch.setattr(kmeans, "_CORESET_ROWS_PER_CLUSTER", 6)
    monkeypatch.setattr(bisecting, "_CORESET_ROWS_PER_CLUSTER", 6)
    monkeypatch.setattr(minibatch, "_ROWS_PER_CLUSTER", 6)
    alone, beside = start("alone", [grid for grid, _ in ALONE]), start("beside", [grid | more for grid, more in ALONE])
    run_cluster(alone)
    run_cluster(beside)
    few, many = rows_of(alone.lake), rows_of(beside.lake)
    assert len(few) == 7 + 8
    assert {m["row"]["algorithm"] for m in few.values()} == {grid["algorithm"] for grid, _ in ALONE}
    for model_id, model in few.items():
        check_same(model, many[model_id])
    # Asking for more later gives what asking for all at once gives.
    later = start("alone", [grid | more for grid, more in ALONE])
    run_cluster(later)
    grown = rows_of(later.lake)
    assert grown.keys() == many.keys()
    for model_id, model in grown.items():
        check_same(model, many[model_id])


def test_eps_auto_makes_its_share_of_the_images_core_for_every_min_samples(start: Start) -> None:
    ctx = start("auto", [{"algorithm": "dbscan", "eps": "auto", "min_samples": [4, 30, 90]}])
    run_cluster(ctx)
    curves = {
        (r["k"], round(r["quantile"], 2)): r["distance"] for r in ctx.lake.read("k_distances", features="t").collect()
    }
    assert {k for k, _ in curves} == {4, 30, 90}
    for model in ctx.lake.read("models").collect():
        params = model["params"]
        quantile, k = float(params["quantile"]), int(params["min_samples"])
        assert params["curve_k"] == params["min_samples"]
        assert float(params["eps"]) == pytest.approx(curves[k, quantile])
        if quantile in (0.35, 0.5, 0.7):
            core = ctx.lake.read("labels", model_id=model["model_id"]).where("distance = 0").count()
            # Nobody is core where every image is in one cluster or in none: such models have no labels.
            assert model["status"] == "ok" or core in (0, pytest.approx(quantile * ROWS, abs=3))
            assert core in (0, pytest.approx(quantile * ROWS, abs=3))


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


GRIDS: list[dict[str, Any]] = [
    {"algorithm": "kmeans", "k": 3},
    {"algorithm": "dbscan", "eps": "auto", "min_samples": [5, 20]},
    {"algorithm": "dbscan", "eps": 0.05, "min_samples": [7, 9], "metric": "cosine"},
]
#: The curves to choose from: of every min_samples where eps is taken from them, of the smallest where it is given.
CURVES = {("euclidean", 5), ("euclidean", 20), ("cosine", 7)}


def curves_in(lake: Lake) -> set[tuple[str, int]]:
    return {(r["metric"], r["k"]) for r in lake.read("k_distances").collect()}


@pytest.mark.slow
def test_a_stop_between_any_two_writes_loses_no_table(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write in turn is the last before a stop; in the end all is as in one go."""
    whole, ctx = start("whole", GRIDS), start("stopped", GRIDS)
    run_cluster(whole)
    assert curves_in(whole.lake) == CURVES
    write, stops = Lake._write, []
    written: list[str] = []
    allowed = 1

    def stopped(lake: Lake, *args: Any) -> None:
        if len(written) == allowed:
            raise _StoppedError
        write(lake, *args)
        written.append(args[0].name)

    monkeypatch.setattr(Lake, "_write", stopped)
    while len(stops) < 20:
        written.clear()
        try:
            run_cluster(ctx)
            break
        except _StoppedError:
            stops.append(written[-1])
        # A model's row says that it is done: the next attempt goes on behind it, one write at a time.
        allowed = 1 if "models" in written else allowed + 1
    monkeypatch.setattr(Lake, "_write", write)
    # Curves come before the models that were chosen from them, and a model's row comes after all else of it.
    assert {*stops, written[-1]} == {"k_distances", "labels", "clusters", "parameters", "models"}
    assert stops[0] == "k_distances"
    assert written[-1] == "models"
    assert contents(ctx.lake, clock=False) == contents(whole.lake, clock=False)


def test_curves_that_are_lost_are_drawn_again_and_others_stay(start: Start) -> None:
    ctx = start("curves", GRIDS)
    run_cluster(ctx)
    before = contents(ctx.lake)
    # As a run of an earlier version leaves it when it is killed behind its models.
    shutil.rmtree(f"{ctx.lake.config.path}/k_distances")
    run_cluster(ctx)
    assert contents(ctx.lake) == before
    other = start("curves", [{"algorithm": "dbscan", "eps": 0.5, "min_samples": 12, "metric": "cosine"}])
    run_cluster(other)
    assert curves_in(other.lake) == CURVES | {("cosine", 12)}
    assert set(before["k_distances"]) < set(contents(other.lake)["k_distances"])


def test_a_pass_of_eps_auto_takes_few_combinations() -> None:
    """Each min_samples has eps of its own, and a pass takes all of its eps with all of its min_samples."""
    features = FeatureSet("f", (Part("a"),))
    for way, most in (("pairs", 128), ("cells", 8)):
        grid = DbscanGrid(algorithm="dbscan", eps="auto", min_samples=tuple(range(2, 66)), way=way)
        specs = [ModelSpec(features, "dbscan", tuple(p.items())) for p in grid.variants(0)]
        parts = apart(Job(grid, specs))
        assert len(specs) == 512
        assert sorted(s.model_id for part in parts for s in part.specs) == sorted(s.model_id for s in specs)
        for part in parts:
            least = {s.param("min_samples") for s in part.specs}
            assert len(part.specs) * len(least) <= most
