"""Rows that the driver holds: written and read without a Spark job, and the same for every engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructField, StructType

from cases import jobs_so_far, leftovers
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.kernels.scores import ranked
from motorpool.lake import FEW_VALUES, Lake
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.local_tables import LocalTables
from motorpool.lake.schemas import TABLES


@pytest.fixture(params=["delta", "parquet"])
def lake(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format=request.param))


def curve(*ks: int, distance: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"features": "x", "metric": "euclidean", "k": k, "quantile": 0.5, "distance": distance, "knee": False}
        for k in ks
    ]


def keys(*ks: int) -> dict[str, list[str]]:
    return {"features": ["x"], "metric": ["euclidean"], "k": [str(k) for k in ks]}


def model(model_id: str, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TABLES["models"].schema.fieldNames())
    return row | {"model_id": model_id, "params": {"k": "3", "seed": "1"}} | values


def labels_of(spark: SparkSession, models: str) -> DataFrame:
    """A row for each letter."""
    return spark.createDataFrame([(m, i, 1, 0.5, None, None) for i, m in enumerate(models)], TABLES["labels"].schema)


def test_arrow_has_the_columns_that_spark_has(spark: SparkSession) -> None:
    for table in TABLES.values():
        assert arrow_columns(table.columns).equals(to_arrow_schema(table.schema)), table.name
    with pytest.raises(ValueError, match="DECIMAL: expected BIGINT"):
        arrow_columns("a DECIMAL")


def test_no_job_runs_for_rows_of_the_driver(spark: SparkSession, lake: Lake) -> None:
    before = jobs_so_far(spark)
    lake.replace_rows("k_distances", curve(2, 8), keys(2, 8))
    lake.replace_rows("k_distances", curve(8, 9, distance=2.0), keys(8, 9))
    assert {(r["k"], r["distance"]) for r in lake.rows("k_distances")} == {(2, 1.0), (8, 2.0), (9, 2.0)}
    assert lake.rows("k_distances", ["k"], features=["x"], k=["9", "7"]) == [{"k": 9}]
    assert lake.rows("clusters") == []
    assert lake.rows("k_distances", features=[]) == []
    assert jobs_so_far(spark) == before


@pytest.mark.parametrize("by", ["driver", "tasks"])
@pytest.mark.parametrize("comments", ["others", "none"])
def test_a_table_of_an_earlier_version_has_other_comments(
    spark: SparkSession, tmp_path: Path, by: str, comments: str
) -> None:
    lake, known = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="delta")), TABLES["k_distances"].schema
    told = {"comment": "As it was."} if comments == "others" else {}
    earlier = StructType([StructField(f.name, f.dataType, metadata=told) for f in known])
    rows = spark.createDataFrame([Row(**row) for row in curve(2, 8)], earlier)
    rows.write.format("delta").save(f"{tmp_path}/lake/k_distances")
    if by == "driver":
        lake.replace_rows("k_distances", curve(8, 9, distance=2.0), keys(8, 9))
    else:
        rows = spark.createDataFrame([Row(**row) for row in curve(8, 9, distance=2.0)], known)
        lake.replace("k_distances", rows, keys(8, 9))
    assert {(r["k"], r["distance"]) for r in lake.rows("k_distances")} == {(2, 1.0), (8, 2.0), (9, 2.0)}


def test_every_write_changes_the_state_of_a_lake(lake: Lake) -> None:
    tables = LocalTables(lake.config)
    states = [tables.state()]
    for rows in (curve(2), curve(2, distance=2.0), [], []):
        lake.replace_rows("k_distances", rows, keys(2))
        states.append(tables.state())
        # Reading changes nothing.
        lake.rows("k_distances")
        assert tables.state() == states[-1]
    lake.replace_rows("models", [model("a")], {"model_id": ["a"]})
    states.append(tables.state())
    assert len(set(states[:4])) == 4
    assert states[-1] not in states[:-1]


def test_spark_reads_and_replaces_them(spark: SparkSession, lake: Lake) -> None:
    lake.replace_rows("models", [model("a", n_clusters=3, inertia=0.1), model("b")], {"model_id": ["a", "b"]})
    found = lake.read("models")
    assert [(f.name, f.dataType) for f in found.schema] == [(f.name, f.dataType) for f in TABLES["models"].schema]
    assert {r["model_id"]: (r["params"], r["n_clusters"], r["inertia"]) for r in found.collect()} == {
        "a": ({"k": "3", "seed": "1"}, 3, 0.1),
        "b": ({"k": "3", "seed": "1"}, None, None),
    }
    assert {r["created_at"].utcoffset().total_seconds() for r in lake.rows("models")} == {0.0}
    # Written by Spark, replaced by the driver, and the other way round.
    lake.replace("models", found.where("model_id = 'a'"), {"model_id": ["a"]})
    lake.replace_rows("models", [model("a", status="ok")], {"model_id": ["a"]})
    lake.replace("models", lake.read("models").where("model_id = 'b'"), {"model_id": ["b"]})
    assert sorted((r["model_id"], r["status"]) for r in lake.rows("models")) == [("a", "ok"), ("b", None)]


def test_sums_in_another_order_rank_no_model(lake: Lake) -> None:
    """Models with the same clusters are equally good, whatever the last digits of their scores; the smaller id wins."""
    scores = [score.name for score in ranked()]

    def of(model_id: str, times: float) -> dict[str, Any]:
        values = {name: times * (0.3 + at) for at, name in enumerate(scores)}
        return model(model_id, status="ok", features="x", n_clusters=3, agreement_vehicles=9, **values)

    for better in (1 + 1e-12, 1 - 1e-12):
        lake.overwrite_rows("models", [of("b", better), of("a", 1.0)])
        assert [r["model_id"] for r in lake.leaderboard().collect()] == ["a", "b"]
    lake.overwrite_rows("models", [of("b", 1 + 1e-6), of("a", 1.0)])
    assert [r["model_id"] for r in lake.leaderboard().collect()] == ["b", "a"]


def test_rows_go_as_they_came(lake: Lake) -> None:
    row = {"model_id": "a", "cluster": 0, "size": 3, "share": 0.5, "centroid": [0.1, 2.0], "exemplars": [4, 2**40]}
    row |= {"title": "Blue"} | dict.fromkeys(("description", "title_from", "title_share", "given", "evidence"))
    lake.replace_rows("clusters", [row], {"model_id": ["a"]})
    held = lake.fetch("clusters", model_id=["a"])
    lake.replace_rows("clusters", held, {"model_id": ["a"]})
    assert lake.fetch("clusters").equals(held)
    lake.replace_rows("clusters", [], {"model_id": ["a"]})
    assert lake.rows("clusters") == []


def test_rows_lie_in_the_order_given(lake: Lake) -> None:
    """In many batches too: sums over them are the same to the last digit in every run."""
    schema = arrow_columns(TABLES["features"].columns)
    names = ["a", "b"]

    def batch(start: int) -> pa.Table:
        rows = [{"image_id": i, "features": names[i % 2], "vector": [float(i)]} for i in range(start, start + 20)]
        return pa.Table.from_pylist(rows, schema)

    table = pa.concat_tables([batch(start) for start in range(800, 0, -20)])
    given = table.column("image_id").to_pylist()
    for _ in range(3):
        lake.replace_rows("features", table, {"features": names})
        for parity, name in enumerate(names):
            found = lake.fetch("features", ["image_id"], features=[name]).column("image_id").to_pylist()
            assert found == [i for i in given if i % 2 == parity]


def test_partitions_are_emptied(spark: SparkSession, lake: Lake) -> None:
    labels = spark.createDataFrame([(m, 0, 1, 0.5, None, None) for m in "ab"], TABLES["labels"].schema)
    lake.replace("labels", labels, {"model_id": ["a", "b"]})
    lake.replace_rows("labels", [], {"model_id": ["a"]})
    assert [r["model_id"] for r in lake.read("labels").collect()] == ["b"]


@pytest.mark.parametrize("n_values", [None, 1, FEW_VALUES + 1])
def test_few_and_many_values_are_the_same_rows(spark: SparkSession, lake: Lake, n_values: int | None) -> None:
    """Whoever writes them, this process or Spark's tasks."""
    schema = TABLES["features"].schema
    first = [(i, "a+b", [i / 3, float("nan"), 1e-38]) for i in range(9_000)]
    lake.replace("features", spark.createDataFrame([*first, (7, "b", [])], schema), {"features": ["a+b", "b"]})
    again = spark.createDataFrame([(i, "a+b", [2.0 * i]) for i in (5, 3)], schema)
    lake.replace("features", again, {"features": ["a+b"]}, n_values)
    found = lake.read("features")
    assert [(f.name, f.dataType) for f in found.schema] == [(f.name, f.dataType) for f in schema]
    expected = [(3, "a+b", [6.0]), (5, "a+b", [10.0]), (7, "b", [])]
    assert sorted(map(tuple, found.collect()), key=lambda r: r[0]) == expected
    assert lake.fetch("features").sort_by("image_id").to_pydict()["vector"] == [[6.0], [10.0], []]
    lake.replace("features", again.where("false"), {"features": ["a+b"]}, n_values)
    assert [r["features"] for r in lake.read("features").collect()] == ["b"]
    with pytest.raises(LakeError, match="not among"):
        lake.replace("labels", labels_of(spark, "ab"), {"model_id": ["a"]}, 1)
    assert not lake.exists("labels")


def test_few_values_take_one_job(spark: SparkSession, lake: Lake) -> None:
    lake.replace("labels", labels_of(spark, "a"), {"model_id": ["a"]}, 6)
    before = jobs_so_far(spark)
    lake.replace("labels", labels_of(spark, "ab").repartition(2), {"model_id": ["a", "b"]}, 12)
    assert jobs_so_far(spark) - before == 1


def test_rows_are_counted_without_a_job(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(LakeError, match="run `motorpool cluster` first"):
        lake.count("labels")
    lake.replace("labels", labels_of(spark, "aab"), {"model_id": ["a", "b"]})
    lake.replace_rows("k_distances", curve(2, 8), keys(2, 8))
    before = jobs_so_far(spark)
    assert (lake.count("labels"), lake.count("labels", model_id=["a"])) == (3, 2)
    assert (lake.count("k_distances", k=["8", "9"]), lake.count("k_distances")) == (1, 2)
    assert lake.count("labels", model_id=["none"]) == 0
    assert jobs_so_far(spark) == before


def test_all_rows_are_replaced_by_those_of_the_driver(spark: SparkSession, lake: Lake) -> None:
    lake.replace("labels", labels_of(spark, "ab"), {"model_id": ["a", "b"]})
    for table, rows in (("k_distances", curve(2)), ("k_distances", curve(8)), ("k_distances", []), ("labels", [])):
        lake.overwrite_rows(table, rows)
        assert [r["k"] for r in lake.rows("k_distances")] == [r["k"] for r in rows]
    assert lake.read("labels").isEmpty()


def test_rows_of_other_keys_are_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"'k': 9.* is not among the rows to replace"):
        lake.replace_rows("k_distances", curve(8, 9), keys(8))
    with pytest.raises(LakeError, match=r"table 'k_distances': the rows to write lack the columns distance, knee"):
        lake.replace_rows("k_distances", [{"features": "x", "metric": "euclidean", "k": 8, "quantile": 0.5}], keys(8))
    assert not lake.exists("k_distances")


def test_runs_that_write_at_once_all_come_through(spark: SparkSession, tmp_path: Path) -> None:
    """They make the table, and replace rows of their own and of the others, with Spark among them."""
    config = LakeConfig(path=str(tmp_path / "lake"))
    failed: list[BaseException] = []

    def write(k: int) -> None:
        try:
            mine = Lake(spark, config)
            for distance in (1.0, 2.0):
                mine.replace_rows("k_distances", [*curve(0, k, distance=distance)], keys(0, k))
            if k == 1:
                mine.replace("k_distances", mine.read("k_distances").where("k = 1"), keys(1))
        except BaseException as exc:
            failed.append(exc)

    writers = [threading.Thread(target=write, args=(k,)) for k in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    found = sorted((r["k"], r["distance"]) for r in Lake(spark, config).rows("k_distances"))
    assert found == [(k, 2.0) for k in range(5)]
    assert leftovers(tmp_path / "lake") == []


@pytest.mark.parametrize("name", ["a [1]", "a\\b", "%41#?", "a'b"])
def test_where_only_spark_can_it_does(spark: SparkSession, tmp_path: Path, name: str) -> None:
    """Delta's Rust library takes such a path for another: written there, nobody would find the rows."""
    lake = Lake(spark, LakeConfig(path=str(tmp_path / name)))
    lake.replace_rows("k_distances", curve(2), keys(2))
    lake.replace_rows("k_distances", curve(2, 3), keys(2, 3))
    assert sorted(r["k"] for r in lake.rows("k_distances")) == [2, 3]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_files_of_which_rows_were_deleted(spark: SparkSession, tmp_path: Path) -> None:
    """Deletion vectors change what a file holds: such tables are left to Spark."""
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake")))
    lake.replace_rows("k_distances", curve(2, 3, 4), keys(2, 3, 4))
    table = f"delta.`{tmp_path / 'lake' / 'k_distances'}`"
    spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
    spark.sql(f"DELETE FROM {table} WHERE k = 3")
    assert sorted(r["k"] for r in lake.rows("k_distances")) == [2, 4]
    lake.replace_rows("k_distances", curve(4, distance=3.0), keys(4))
    assert sorted((r["k"], r["distance"]) for r in lake.rows("k_distances")) == [(2, 1.0), (4, 3.0)]
