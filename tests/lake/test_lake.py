"""The lake: what a write replaces, what it leaves alone, and what is left when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cases import contents, leftovers
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES, VIEWS

#: PySpark knows only some of Java's exceptions.
SPARKS_OWN = (PySparkException, Py4JJavaError)
#: Views over the tables that `fill` writes.
OF_MODELS = ["assignments", "leaderboard"]
CLUSTERS = "model_id STRING, cluster INT, size BIGINT"


@pytest.fixture(params=["delta", "parquet"])
def lake(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format=request.param))


@pytest.fixture
def catalog_lake(spark: SparkSession) -> Iterator[Lake]:
    yield Lake(spark, LakeConfig(schema="motorpool_tests"))
    spark.sql("USE default")
    spark.sql("DROP SCHEMA IF EXISTS motorpool_tests CASCADE")


def labels(spark: SparkSession, *rows: tuple[str, int, int]) -> DataFrame:
    """``(model_id, image_id, cluster)`` as rows of the table ``labels``."""
    return spark.createDataFrame([(*r, 0.5, None, None) for r in rows], TABLES["labels"].schema)


def clusters(spark: SparkSession, *rows: tuple[str, int, int]) -> DataFrame:
    df = spark.createDataFrame(list(rows), CLUSTERS)
    absent = [f for f in TABLES["clusters"].schema if f.name not in df.columns]
    return df.select("*", *(F.lit(None).cast(f.dataType).alias(f.name) for f in absent))


def rows(lake: Lake, table: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    return sorted(tuple(r) for r in lake.read(table).select(*columns).collect())


def failing(df: DataFrame) -> DataFrame:
    """The same rows, with an error that the task raises where ``cluster`` is 1; one task, so that none runs on."""
    bad = F.when(F.col("cluster") == 1, F.raise_error(F.lit("the task fails"))).otherwise(F.col("cluster"))
    return df.coalesce(1).withColumn("cluster", bad.cast("int"))


LABELS = ("model_id", "image_id", "cluster")
CLUSTER_KEYS = ("model_id", "cluster", "size")


class TestWriting:
    def test_overwrite_replaces_all_rows(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0)))
        lake.overwrite("labels", labels(spark, ("c", 7, 2)))
        assert rows(lake, "labels", LABELS) == [("c", 7, 2)]

    def test_replace_touches_its_keys_only(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0), ("c", 1, 0)))
        lake.replace("labels", labels(spark, ("b", 1, 5), ("d", 1, 6)), {"model_id": ["b", "d"]})
        assert rows(lake, "labels", LABELS) == [("a", 1, 0), ("b", 1, 5), ("c", 1, 0), ("d", 1, 6)]

    def test_replace_removes_rows_of_its_keys_that_are_gone(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0)))
        lake.replace("labels", labels(spark, ("a", 2, 1)), {"model_id": ["a", "b"]})
        assert rows(lake, "labels", LABELS) == [("a", 2, 1)]

    def test_replace_in_a_table_without_partitions(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("clusters", clusters(spark, ("a", 0, 1), ("b", 0, 2)), {"model_id": ["a", "b"]})
        lake.replace("clusters", clusters(spark, ("b", 0, 9), ("b", 1, 9)), {"model_id": ["b"]})
        assert rows(lake, "clusters", CLUSTER_KEYS) == [("a", 0, 1), ("b", 0, 9), ("b", 1, 9)]

    def test_replace_starts_a_table(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("labels", labels(spark, ("a", 1, 0)), {"model_id": ["a"]})
        assert rows(lake, "labels", LABELS) == [("a", 1, 0)]

    def test_columns_are_in_order_and_typed(self, lake: Lake, spark: SparkSession) -> None:
        df = spark.range(2).select(
            F.lit("x").alias("extra"),
            F.lit(1.5).alias("distance"),
            F.lit("3").alias("cluster"),
            F.col("id").cast("int").alias("image_id"),
            F.lit("m").alias("model_id"),
            F.lit(None).alias("outlier_score"),
            F.lit(None).alias("strength"),
        )
        lake.overwrite("labels", df)
        found = lake.read("labels")
        assert [(f.name, f.dataType) for f in found.schema] == [(f.name, f.dataType) for f in TABLES["labels"].schema]
        assert found.orderBy("image_id").first() == ("m", 0, 3, 1.5, None, None)

    def test_names_that_look_like_numbers_stay_text(self, lake: Lake, spark: SparkSession) -> None:
        names = ["0012", "1e5", "12345678e1", "2020-01-01", "type+color", "a.b"]
        lake.overwrite("labels", labels(spark, *((n, 1, 0) for n in names)))
        assert [r[0] for r in rows(lake, "labels", LABELS)] == sorted(names)
        assert lake.read("labels", model_id="1e5").count() == 1
        lake.replace("labels", labels(spark, ("0012", 1, 4), ("1e5", 1, 4)), {"model_id": ["0012", "1e5"]})
        assert sum(r[2] == 4 for r in rows(lake, "labels", LABELS)) == 2
        assert lake.read("labels").count() == len(names)

    def test_an_open_ended_table_keeps_its_further_columns(self, lake: Lake, spark: SparkSession) -> None:
        images = spark.createDataFrame(
            [(1, "p", "v", "red")], "image_id INT, path STRING, vehicle_id STRING, color STRING"
        )
        lake.overwrite("images", images)
        assert lake.read("images").columns == ["image_id", "path", "vehicle_id", "color"]
        lake.overwrite("images", images.drop("color").withColumn("type", F.lit(1)))
        assert lake.read("images").columns == ["image_id", "path", "vehicle_id", "type"]

    def test_no_rows_make_an_empty_table(self, lake: Lake, spark: SparkSession) -> None:
        for table in ("labels", "bad_rows"):
            lake.overwrite(table, spark.createDataFrame([], TABLES[table].schema))
            assert lake.exists(table)
            assert lake.read(table).count() == 0

    def test_replace_needs_keys(self, lake: Lake, spark: SparkSession) -> None:
        for keys in ({}, {"model_id": []}):
            with pytest.raises(ValueError, match="overwrite"):
                lake.replace("labels", labels(spark), keys)  # type: ignore[arg-type]

    def test_missing_columns_are_refused(self, lake: Lake, spark: SparkSession) -> None:
        df = labels(spark, ("a", 1, 0)).drop("cluster", "distance")
        with pytest.raises(LakeError, match=r"'labels'.*lack the columns cluster, distance"):
            lake.overwrite("labels", df)
        assert not lake.exists("labels")


class TestFailure:
    """A write whose task raises: the rows before, nothing else."""

    def write(self, lake: Lake, table: str, how: str, df: DataFrame) -> None:
        keys = () if how == "overwrite" else ({"model_id": ["a"]},)
        with pytest.raises(SPARKS_OWN, match="the task fails"):
            getattr(lake, how)(table, failing(df), *keys)

    @pytest.mark.parametrize("how", ["overwrite", "replace"])
    @pytest.mark.parametrize("table", ["labels", "clusters"])
    def test_the_table_stays_as_it_was(self, lake: Lake, spark: SparkSession, table: str, how: str) -> None:
        make = labels if table == "labels" else clusters
        lake.overwrite(table, make(spark, ("a", 0, 0), ("b", 0, 0)))
        before = contents(lake)
        self.write(lake, table, how, make(spark, ("a", 5, 0), ("a", 1, 1)))
        assert contents(lake) == before
        assert leftovers(Path(str(lake.config.path))) == []

    @pytest.mark.parametrize("table", ["labels", "clusters"])
    def test_no_table_is_left_where_there_was_none(self, lake: Lake, spark: SparkSession, table: str) -> None:
        make = labels if table == "labels" else clusters
        self.write(lake, table, "replace", make(spark, ("a", 5, 0), ("a", 1, 1)))
        assert not lake.exists(table)
        assert leftovers(Path(str(lake.config.path))) == []
        lake.overwrite(table, make(spark, ("a", 0, 0)))
        assert lake.read(table).count() == 1

    def test_rows_of_other_keys_are_refused(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0)))
        before = contents(lake)
        with pytest.raises((PySparkException, LakeError)):
            lake.replace("labels", labels(spark, ("b", 1, 9)), {"model_id": ["a"]})
        assert contents(lake) == before

    def test_parquet_clears_away_what_a_killed_write_has_left(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path), format="parquet"))
        (tmp_path / "_labels-0123").mkdir()
        (tmp_path / "_labels-0123" / "part.parquet").write_bytes(b"half")
        lake.overwrite("labels", labels(spark, ("a", 1, 0)))
        assert leftovers(tmp_path) == []

    def test_what_delta_writes_is_one_commit(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path)))
        lake.replace("labels", labels(spark, ("a", 1, 0)), {"model_id": ["a"]})
        lake.replace("labels", labels(spark, ("b", 1, 0)), {"model_id": ["b"]})
        assert spark.sql(f"DESCRIBE HISTORY delta.`{tmp_path}/labels`").count() == 2
        properties = spark.sql(f"DESCRIBE DETAIL delta.`{tmp_path}/labels`").first()
        assert properties is not None
        assert properties["properties"] == {"delta.dataSkippingNumIndexedCols": "2"}
        assert properties["partitionColumns"] == ["model_id"]


class TestReading:
    @pytest.mark.parametrize(
        ("table", "stage"), [("images", "ingest"), ("features", "features"), ("labels", "cluster")]
    )
    def test_a_missing_table_names_the_stage_to_run(self, lake: Lake, table: str, stage: str) -> None:
        assert not lake.exists(table)
        with pytest.raises(
            LakeError, match=f"table '{table}' is not in the lake {lake}: run `motorpool {stage}` first"
        ):
            lake.read(table)

    def test_or_empty(self, lake: Lake, spark: SparkSession) -> None:
        assert lake.read_or_empty("labels").count() == 0
        assert lake.read_or_empty("labels").schema == TABLES["labels"].schema
        lake.overwrite("labels", labels(spark, ("a", 1, 0)))
        assert lake.read_or_empty("labels").count() == 1

    def test_keys(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0), ("c", 1, 0)))
        assert lake.read("labels", model_id="a").count() == 1
        assert lake.read("labels", model_id=["a", "c", "z"]).count() == 2

    def test_a_key_is_a_value_and_never_sql(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0)))
        for value in ("x' OR '1'='1", "a' --", "`a`", ""):
            assert lake.read("labels", model_id=value).count() == 0

    def test_names_with_sql_or_folders_in_them_cannot_be_replaced(self, lake: Lake, spark: SparkSession) -> None:
        for value in ("x' OR '1'='1", "a'; DROP TABLE labels; --", "../a", "", "a/b", "a\n"):
            with pytest.raises(LakeError, match=r"model_id: .* cannot name rows of a table"):
                lake.replace("labels", labels(spark, ("a", 2, 0)), {"model_id": ["a", value]})
        assert not lake.exists("labels")


def fill(lake: Lake, spark: SparkSession) -> None:
    """Three images, one good and one degenerate model of two clusters."""
    images = [(i, f"veriwild/1/0000{i}/{i}.jpg", f"0000{i}") for i in range(3)]
    lake.overwrite("images", spark.createDataFrame(images, TABLES["images"].schema))
    lake.overwrite("labels", labels(spark, *((m, i, i % 2) for m in ("good", "bad") for i in range(3))))
    lake.overwrite("clusters", clusters(spark, *((m, c, 1) for m in ("good", "bad") for c in range(2))))
    shared = {"features": "f", "algorithm": "kmeans", "n_clusters": 2, "calinski_harabasz": 9.0, "davies_bouldin": 0.5}
    schema = TABLES["models"].schema
    empty = dict.fromkeys(schema.fieldNames())
    models = [empty | shared | {"model_id": m, "status": s} for m, s in (("good", "ok"), ("bad", "degenerate"))]
    lake.overwrite("models", spark.createDataFrame([tuple(m.values()) for m in models], schema))


def drop_views(spark: SparkSession) -> None:
    """Drop the session's temporary views: tests share the session, and one of another file may have left some."""
    for table in spark.catalog.listTables():
        if table.isTemporary:
            spark.catalog.dropTempView(table.name)


class TestSql:
    @pytest.fixture(autouse=True)
    def only_its_own_views(self, spark: SparkSession) -> Iterator[None]:
        drop_views(spark)
        yield
        drop_views(spark)

    def test_tables_and_views_by_name(self, lake: Lake, spark: SparkSession) -> None:
        fill(lake, spark)
        names = lake.register()
        assert names == ["images", "models", "labels", "clusters", *OF_MODELS]
        for name in names:
            assert spark.sql(f"SELECT * FROM {name}").count() > 0
        found = spark.sql("SELECT * FROM assignments WHERE model_id = 'good' AND image_id = 2").collect()
        assert [(r["path"], r["vehicle_id"], r["cluster"]) for r in found] == [("veriwild/1/00002/2.jpg", "00002", 0)]
        assert [r["model_id"] for r in spark.sql("SELECT * FROM leaderboard").collect()] == ["good"]

    def test_views_come_when_their_tables_do(self, lake: Lake, spark: SparkSession) -> None:
        lake.overwrite("labels", labels(spark, ("a", 1, 0)))
        assert lake.register() == ["labels"]

    def test_a_query_gets_what_it_names(self, lake: Lake, spark: SparkSession) -> None:
        fill(lake, spark)
        tables = {name for name in TABLES if lake.exists(name)}

        def made(query: str) -> set[str]:
            # Views that are in the session stay.
            drop_views(spark)
            assert set(lake.register(query)) == tables | set(OF_MODELS)
            return {view for view in (*TABLES, *VIEWS) if spark.catalog.tableExists(view)}

        assert made("SELECT 1") == set()
        assert made("select * FROM LeaderBoard") == {"leaderboard", "models"}
        assert made("WITH x AS (SELECT * FROM `labels`) SELECT * FROM x") == {"labels"}
        assert made("(SELECT * FROM clusters)") == {"clusters"}
        assert made("SHOW VIEWS") == made("-- a comment\nSELECT 1") == tables | set(OF_MODELS)

    def test_another_lake_does_not_answer_for_this_one(self, lake: Lake, spark: SparkSession, tmp_path: Path) -> None:
        for name in ("clusters", "labels"):
            spark.range(1).createOrReplaceTempView(name)
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("a", 2, 0)))
        lake.register()
        assert spark.sql("SELECT model_id FROM labels").count() == 2
        with pytest.raises(PySparkException, match="TABLE_OR_VIEW_NOT_FOUND"):
            spark.sql("SELECT * FROM clusters")

    def test_registering_again_shows_the_new_rows(self, lake: Lake, spark: SparkSession) -> None:
        fill(lake, spark)
        lake.register()
        lake.replace("labels", labels(spark, ("good", 1, 1)), {"model_id": ["good"]})
        lake.register()
        assert spark.sql("SELECT * FROM assignments WHERE model_id = 'good'").count() == 1


class TestCatalog:
    """A schema of the session's catalog. Tables are Delta tables by name, views stay in the schema."""

    def test_writing(self, catalog_lake: Lake, spark: SparkSession) -> None:
        lake = catalog_lake
        with pytest.raises(SPARKS_OWN, match="the task fails"):
            lake.overwrite("labels", failing(labels(spark, ("a", 5, 0), ("a", 1, 1))))
        assert not lake.exists("labels")
        lake.overwrite("labels", labels(spark, ("a", 1, 0), ("b", 1, 0)))
        lake.overwrite("labels", labels(spark, ("b", 1, 0), ("c", 1, 0)))
        lake.replace("labels", labels(spark, ("c", 2, 5)), {"model_id": ["a", "c"]})
        assert rows(lake, "labels", LABELS) == [("b", 1, 0), ("c", 2, 5)]
        with pytest.raises(SPARKS_OWN, match="the task fails"):
            lake.replace("labels", failing(labels(spark, ("c", 5, 1))), {"model_id": ["c"]})
        with pytest.raises(SPARKS_OWN, match="DELTA_REPLACE_WHERE_MISMATCH"):
            lake.replace("labels", labels(spark, ("b", 9, 9)), {"model_id": ["c"]})
        assert rows(lake, "labels", LABELS) == [("b", 1, 0), ("c", 2, 5)]
        assert lake.read("labels").columns == TABLES["labels"].schema.fieldNames()
        # An open-ended table takes other columns; the three-part name is the same table.
        named = Lake(spark, LakeConfig(catalog="spark_catalog", schema="motorpool_tests"))
        images = spark.createDataFrame(
            [(1, "p", "v", "red")], "image_id INT, path STRING, vehicle_id STRING, color STRING"
        )
        named.overwrite("images", images)
        named.overwrite("images", images.drop("color").withColumn("type", F.lit(1)))
        assert lake.read("images").columns == ["image_id", "path", "vehicle_id", "type"]
        named.overwrite("labels", labels(spark, ("d", 1, 0)))
        assert rows(lake, "labels", LABELS) == [("d", 1, 0)]

    def test_tables_and_views_belong_to_the_schema(self, catalog_lake: Lake, spark: SparkSession) -> None:
        fill(catalog_lake, spark)
        spark.range(1).createOrReplaceTempView("labels")
        assert catalog_lake.register() == ["images", "models", "labels", "clusters", *OF_MODELS]
        assert spark.sql("SELECT * FROM labels WHERE model_id = 'good'").count() == 3
        spark.sql("USE default")
        detail = spark.sql("DESCRIBE DETAIL motorpool_tests.labels").first()
        assert detail is not None
        assert (detail["format"], detail["properties"]["delta.dataSkippingNumIndexedCols"]) == ("delta", "2")
        other = spark.newSession()
        listed = {r["viewName"]: r["isTemporary"] for r in other.sql("SHOW VIEWS IN motorpool_tests").collect()}
        assert listed == dict.fromkeys(OF_MODELS, False)
        assert other.sql("SELECT * FROM motorpool_tests.leaderboard").count() == 1
        assert other.sql("SELECT * FROM motorpool_tests.assignments").count() == 6
