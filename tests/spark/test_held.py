"""What the driver holds gives what tasks give, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from cases import jobs_so_far
from motorpool.cluster.centroids.kmeans import fit_kmeans
from motorpool.cluster.density.dbscan import DbscanParameters, fit_dbscan
from motorpool.cluster.density.hdbscan import HdbscanParameters, fit_hdbscan
from motorpool.cluster.score import score_models, vehicle_agreement
from motorpool.kernels.moments import Moments
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES
from motorpool.maps.first_pass import first_pass
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange
from motorpool.outliers.forest import isolation_forest
from motorpool.outliers.local import knn_distance, local_outlier_factor
from motorpool.pipeline.context import Context
from motorpool.spark import blocks
from motorpool.spark.tasks import run_tasks

SCHEMA = "kind STRING, n BIGINT, listed ARRAY<BIGINT>"


def batch(kind: str, *n: int) -> pa.RecordBatch:
    listed = pa.array([[i] for i in n], pa.list_(pa.int64()))
    return pa.RecordBatch.from_arrays(
        [pa.array([kind] * len(n), pa.string()), pa.array(n, pa.int64()), listed], names=["kind", "n", "listed"]
    )


@pytest.mark.parametrize("order", ["first", "middle", "last", "alone", "none"])
def test_no_row_is_lost_beside_an_empty_batch(spark: SparkSession, order: str) -> None:
    """Spark 4.0 drops the batch behind an empty one."""
    full, empty = [batch("a", 1, 2), batch("b", 3)], batch("x")
    batches = {
        "first": [empty, *full], "middle": [full[0], empty, full[1]], "last": [*full, empty], "alone": [empty],
        "none": [],
    }[order]  # fmt: skip
    df = blocks.hold(spark, batches, SCHEMA)
    expected = [] if order in ("alone", "none") else [("a", 1), ("a", 2), ("b", 3)]
    assert [(r["kind"], r["n"]) for r in df.collect()] == expected
    assert list(blocks.to_driver(df, "kind", "n")) == expected
    assert blocks.table(df).select(["kind", "n"]).to_pylist() == [{"kind": k, "n": n} for k, n in expected]
    assert df.count() == len(expected)


def test_only_what_was_held_is_held(spark: SparkSession) -> None:
    df = blocks.hold(spark, [batch("a", 1)], SCHEMA)
    theirs = spark.createDataFrame([("b", 2, [2])], SCHEMA)
    assert blocks.held(df) is not None
    assert blocks.held(df.select("kind")) is None
    assert blocks.held(theirs) is None
    assert blocks.persist(df) is df
    assert not df.is_cached
    assert blocks.held(blocks.together([df, df])) is not None
    both = blocks.together([df, theirs])
    assert blocks.held(both) is None
    assert sorted(r["n"] for r in both.collect()) == [1, 2]


def test_more_values_than_are_held_are_mapped_by_tasks(spark: SparkSession) -> None:
    df = blocks.hold(spark, [batch("a", 1), batch("b", 2)], SCHEMA)

    def run(batches: blocks.Batches) -> blocks.Batches:
        for found in batches:
            yield found.select(["n"])

    for n_values, held in ((0, True), (blocks.HELD_VALUES, True), (blocks.HELD_VALUES + 1, False)):
        made = blocks.mapped(df, run, "n BIGINT", n_values)
        assert (blocks.held(made) is not None) == held
        assert [r["n"] for r in made.collect()] == [1, 2]


def test_few_products_are_made_here_in_order(spark: SparkSession) -> None:
    before = jobs_so_far(spark)
    assert run_tasks(spark, [3.0, 1.0, 2.0], lambda i: i * i, n_products=10, imports=["sklearn.cluster"]) == [0, 1, 4]
    assert run_tasks(spark, [], lambda i: i, n_products=10) == []
    assert jobs_so_far(spark) == before
    assert run_tasks(spark, [3.0, 1.0, 2.0], lambda i: i * i) == [0, 1, 4]
    assert jobs_so_far(spark) == before + 1


# -- algorithms ----------------------------------------------------------------------------------------


def clouds(n: int, d: int = 5) -> np.ndarray:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)) + 6 * rng.integers(0, 3, size=(n, 1))
    return x.astype(np.float32)


CASES = {
    "rows": clouds(300),
    "more rows than a block": clouds(9000, 3)[: blocks.BLOCK_ROWS + 900],
    "equal rows": np.repeat(clouds(40), 5, axis=0),
    "a constant column": np.hstack([clouds(120), np.full((120, 1), 7, np.float32)]),
    "huge and tiny values": clouds(200) * np.float32(10.0) ** np.arange(-18, 17, 7, dtype=np.float32),
    "two rows": clouds(2),
}


@pytest.fixture(params=CASES, ids=[name.replace(" ", "-") for name in CASES])
def pair(request: pytest.FixtureRequest, spark: SparkSession, wide: Callable[..., DataFrame]) -> Any:
    """The same rows held, and persisted in one partition, as a table of one file is."""
    vectors = wide(1, vector=CASES[request.param])
    theirs = blocks.persist(blocks.gather(vectors))
    yield blocks.gather_here(spark, vectors.toArrow()), theirs
    theirs.unpersist()


def same(ours: Any, theirs: Any) -> None:
    """Equal to the last digit, whatever it is made of."""
    if isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
    elif isinstance(ours, DataFrame):
        columns = ours.columns
        same(*(blocks.table(df).select(columns).sort_by("image_id").to_pylist() for df in (ours, theirs)))
    elif hasattr(ours, "__dict__"):
        for name in vars(ours).keys() - {"seconds"}:
            same(getattr(ours, name), getattr(theirs, name))
    elif ours != ours:  # NaN
        assert theirs != theirs
    else:
        assert ours == theirs


def test_sums_and_samples(pair: tuple[DataFrame, DataFrame]) -> None:
    def add(state: Moments, found: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(found):
            state.update(x)

    for on_cluster in (False, True):
        same(*(blocks.fold(df, Moments, add, merge_on_cluster=on_cluster).stats() for df in pair))
    same(*(first_pass(df, 50, 20, seed=3) for df in pair))


def test_kmeans(pair: tuple[DataFrame, DataFrame]) -> None:
    same(*(fit_kmeans(df, [2, min(5, blocks.n_held(pair[0]))], seed=1, n_init=2) for df in pair))


def test_neighbours_and_what_follows_from_them(pair: tuple[DataFrame, DataFrame]) -> None:
    results = []
    for df in pair:
        arranged = arrange(df, "euclidean", 0)
        state = search(arranged, Wanted((1.5,), 4, 3))
        assert (blocks.held(state) is not None) == (df is pair[0])
        k = min(3, arranged.n - 1)
        scores = [knn_distance(arranged, state, k), local_outlier_factor(arranged, state, k)]
        dense = fit_dbscan(arranged, state, (1.5,), DbscanParameters((1.5,), (4,)))
        tree = fit_hdbscan(arranged, state, HdbscanParameters((5,), 2, "eom"))
        labels = [dense.wide(), tree.labelled.wide(), isolation_forest(df, seed=2, n_trees=10)]
        sizes = [dense.sizes, tree.labelled.sizes]
        rated = score_models(dense) if min(dense.sizes) else []
        results.append([*scores, *labels, tree.tree.distance, sizes, [s.values for s in rated]])
    same(*results)


def test_the_agreement_with_vehicles(spark: SparkSession) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(-1, 4, size=(90, 3)).astype(np.int32)
    offsets = pa.array(np.arange(0, labels.size + 1, 3, dtype=np.int32))
    rows = pa.table({
        "image_id": pa.array(np.arange(90)),
        "clusters": pa.ListArray.from_arrays(offsets, pa.array(labels.reshape(-1))),
    })  # fmt: skip
    names = [None if i % 7 == 0 else f"v{i % 11}" for i in rng.permutation(120)]
    # Images without labels, and labels of images that are not there.
    images = spark.createDataFrame(pa.table({"image_id": pa.array(np.arange(10, 130)), "vehicle_id": pa.array(names)}))
    held = blocks.hold(spark, rows.to_batches(17), "image_id BIGINT, clusters ARRAY<INT>")
    assert vehicle_agreement(held, images, 3) == vehicle_agreement(spark.createDataFrame(rows), images, 3)
    assert vehicle_agreement(held, images.where("image_id > 500"), 3).by_model == [None] * 3


# -- tables --------------------------------------------------------------------------------------------


def test_tables_are_read_alike(sample_run: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = sample_run.lake
    held = 0
    for name in TABLES:
        if not lake.exists(name):
            continue
        monkeypatch.setattr("motorpool.lake.FEW_READ", 2**20)
        few = lake.read(name)
        monkeypatch.setattr("motorpool.lake.FEW_READ", -1)
        many = lake.read(name)
        assert blocks.held(many) is None
        held += blocks.held(few) is not None
        # Spark has columns that partition a table, and those of earlier versions, in another order.
        types = [{f.name: f.dataType for f in df.schema} for df in (few, many)]
        assert types[0] == types[1], name
        ours, theirs = (sorted(map(repr, df.select(*sorted(types[0])).collect())) for df in (few, many))
        assert ours == theirs, name
    assert held > 10


def test_keys_choose_rows_alike(sample_run: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = sample_run.lake
    ids = [r["model_id"] for r in lake.rows("models", ["model_id"])][:3]
    for keys in ({"model_id": ids[0]}, {"model_id": ids}, {"model_id": "none"}, {}):
        counts = []
        for bound in (2**20, -1):
            monkeypatch.setattr("motorpool.lake.FEW_READ", bound)
            counts.append(lake.read("labels", **keys).count())
        assert (
            counts[0]
            == counts[1]
            == lake.count("labels", **{k: [v] if isinstance(v, str) else v for k, v in keys.items()})
        )


def test_columns_of_users_are_read_by_spark_where_arrow_may_mean_something_else(
    sample_run: Context, spark: SparkSession, tmp_path: Any
) -> None:
    lake = Lake(spark, sample_run.config.lake.model_copy(update={"path": str(tmp_path / "lake")}))
    images = spark.sql("SELECT CAST(1 AS BIGINT) AS image_id, 'a' AS path, 'v' AS vehicle_id, DATE'2020-01-02' AS seen")
    lake.overwrite("images", images)
    assert blocks.held(lake.read("images")) is None
    lake.overwrite("images", images.withColumn("seen", images.seen.cast("string")))
    assert blocks.held(lake.read("images")) is not None
    assert lake.read("images").first()["seen"] == "2020-01-02"
