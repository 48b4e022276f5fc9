"""Tables whose files tasks read and write by Arrow hold what Spark would have written, and fail like those."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession

from cases import jobs_so_far, leftovers
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES
from motorpool.lake.task_files.scan import RowGroup, _shares
from motorpool.pipeline.context import explained
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.tasks import one_each

# Workers cannot import a test's module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

WIDTH = 3


@pytest.fixture(params=["delta", "parquet"])
def lake(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format=request.param))


def vectors(ids: range, of: float) -> pa.Table:
    x = np.array(ids, np.float32)[:, None] + np.full(WIDTH, of, np.float32)
    return pa.table({"image_id": pa.array(list(ids), pa.int64()), "vector": blocks.to_list_array(x)})


def made(spark: SparkSession, *pieces: tuple[str, range, float]) -> DataFrame:
    """Rows of ``features``: a task for each feature set, images and number."""

    def work(piece: tuple[str, range, float]) -> Batches:
        name, ids, of = piece
        for batch in vectors(ids, of).to_batches(4):
            columns = [batch.column("image_id"), pa.repeat(name, len(batch)), batch.column("vector")]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "features", "vector"])

    return one_each(spark, pieces, work, TABLES["features"].columns)


def found(lake: Lake) -> list[tuple[int, str, float]]:
    rows = lake.read("features").collect()
    return sorted((r["image_id"], r["features"], r["vector"][0]) for r in rows)


def expected(*pieces: tuple[str, range, float]) -> list[tuple[int, str, float]]:
    return sorted((i, name, i + of) for name, ids, of in pieces for i in ids)


class TestWriting:
    def test_the_rows_take_the_place_of_their_partitions(self, lake: Lake, spark: SparkSession) -> None:
        first = [("a", range(10), 0.0), ("a", range(10, 15), 0.0), ("b", range(5), 0.5)]
        lake.replace("features", made(spark, *first), {"features": ["a", "b"]})
        assert found(lake) == expected(*first)
        second = [("a", range(3), 7.0), ("c", range(2), 1.0)]
        lake.replace("features", made(spark, *second), {"features": ["a", "c"]})
        assert found(lake) == expected(first[2], *second)
        assert leftovers(Path(str(lake.config.path))) == []

    def test_a_set_without_rows_is_gone(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("features", made(spark, ("a", range(3), 0.0), ("b", range(3), 0.0)), {"features": ["a", "b"]})
        lake.replace("features", made(spark), {"features": ["a"]})
        assert found(lake) == expected(("b", range(3), 0.0))

    def test_a_task_may_have_rows_of_many_partitions(self, lake: Lake, spark: SparkSession) -> None:
        names = [f"set{i}" for i in range(40)]

        def work(_: int) -> Batches:
            ids = np.repeat(np.arange(6), len(names))
            x = np.arange(len(ids), dtype=np.float32)[:, None]
            columns = [pa.array(ids), pa.array(names * 6), blocks.to_list_array(x)]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "features", "vector"])

        df = one_each(spark, [0], work, TABLES["features"].columns)
        lake.replace("features", df, {"features": names})
        rows = lake.read("features", features="set7").orderBy("image_id").collect()
        assert [(r["image_id"], r["vector"]) for r in rows] == [(i, [float(40 * i + 7)]) for i in range(6)]
        assert lake.count("features") == 240

    def test_spark_takes_one_job_and_the_lake_one_commit(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake")))
        df = made(spark, ("a", range(9), 0.0))
        before = jobs_so_far(spark)
        lake.replace("features", df, {"features": ["a"]})
        assert jobs_so_far(spark) - before == 1
        table = DeltaTable(tmp_path / "lake" / "features")
        assert table.version() == 0
        assert table.metadata().configuration == {"delta.dataSkippingNumIndexedCols": "2"}
        stored = {f.name: f.metadata["comment"] for f in table.schema().fields}
        assert stored == dict(TABLES["features"].comments)
        assert lake.read("features").schema.simpleString() == TABLES["features"].schema.simpleString()
        actions = pa.table(table.get_add_actions(flatten=True))
        assert actions.column("num_records").to_pylist() == [9]
        assert (actions.column("min.image_id")[0].as_py(), actions.column("max.image_id")[0].as_py()) == (0, 8)

    def test_labels_keep_their_nulls(self, lake: Lake, spark: SparkSession) -> None:
        names = TABLES["labels"].schema.fieldNames()

        def work(_: int) -> Batches:
            rows = [("m", 0, 3, None, 0.5, None), ("n", 0, -1, 2.0, None, None)]
            yield pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows])

        lake.replace("labels", one_each(spark, [0], work, TABLES["labels"].columns), {"model_id": ["m", "n"]})
        rows = sorted(tuple(r) for r in lake.read("labels").collect())
        assert rows == [("m", 0, 3, None, 0.5, None), ("n", 0, -1, 2.0, None, None)]

    def test_rows_of_other_partitions_are_refused(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("features", made(spark, ("a", range(3), 0.0)), {"features": ["a"]})
        strange = made(spark, ("b", range(3), 0.0), ("c", range(3), 0.0))
        with pytest.raises(LakeError, match="rows of features 'c' are not among those to write"), explained():
            lake.replace("features", strange, {"features": ["b"]})
        assert found(lake) == expected(("a", range(3), 0.0))
        assert not (Path(str(lake.config.path)) / "features" / "features=b").exists()
        assert leftovers(Path(str(lake.config.path))) == []

    def test_vectors_with_nulls_are_refused(self, lake: Lake, spark: SparkSession) -> None:
        def work(_: int) -> Batches:
            vector = pa.array([[1.0, None]], pa.list_(pa.float32()))
            columns = [pa.array([0]), pa.array(["a"]), vector]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "features", "vector"])

        df = one_each(spark, [0], work, TABLES["features"].columns)
        with pytest.raises(LakeError, match="the column vector has nulls"), explained():
            lake.replace("features", df, {"features": ["a"]})
        assert not lake.exists("features")

    def test_a_task_that_is_tried_again_writes_its_rows_once(
        self, lake: Lake, spark: SparkSession, tmp_path: Path
    ) -> None:
        """What it left behind when it was ended is in no table."""
        mark = tmp_path / "left"
        target = Path(str(lake.config.path)).absolute()
        target.mkdir(parents=True, exist_ok=True)

        def work(_: int) -> Batches:
            (batch,) = vectors(range(5), 0.0).to_batches()
            columns = [batch.column("image_id"), pa.repeat("a", 5), batch.column("vector")]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "features", "vector"])
            # A file as an ended task leaves it.
            (own,) = target.parent.rglob("features=a/part-*")
            mark.touch()
            pq.write_table(vectors(range(5), 9.0), own.with_name(f"{own.name[:44]}{32 * '0'}.zstd.parquet"))

        lake.replace("features", one_each(spark, [0], work, TABLES["features"].columns), {"features": ["a"]})
        assert mark.exists()
        assert len(list(target.rglob("part-*"))) == 1
        assert found(lake) == expected(("a", range(5), 0.0))

    def test_two_runs_may_write_at_once(self, spark: SparkSession, tmp_path: Path) -> None:
        config = LakeConfig(path=str(tmp_path / "lake"))
        pieces = [(name, range(4), 0.0) for name in "abcd"]
        frames = [made(spark, piece) for piece in pieces]

        def write(df: DataFrame, name: str) -> None:
            Lake(spark, config).replace("features", df, {"features": [name]})

        threads = [
            threading.Thread(target=write, args=(df, name)) for df, (name, *_) in zip(frames, pieces, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found(Lake(spark, config)) == expected(*pieces)

    def test_a_table_that_only_spark_can_write_is_written_by_spark(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake")))
        lake.replace("features", made(spark, ("a", range(3), 0.0)), {"features": ["a"]})
        path = tmp_path / "lake" / "features"
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
        spark.sql(f"DELETE FROM delta.`{path}` WHERE image_id = 1")
        lake.replace("features", made(spark, ("b", range(2), 0.0)), {"features": ["b"]})
        assert found(lake) == [
            row for row in expected(("a", range(3), 0.0), ("b", range(2), 0.0)) if row[:2] != (1, "a")
        ]
        rows = lake.fitted_vectors("features", features="a").collect()
        assert sorted(r["image_id"] for r in rows) == [0, 2]


class TestReading:
    def test_all_rows_come_by_image(self, lake: Lake, spark: SparkSession) -> None:
        pieces = [("a", range(8, 13), 0.5), ("a", range(8), 0.5), ("b", range(4), 1.0)]
        lake.replace("features", made(spark, *pieces), {"features": ["a", "b"]})
        df = lake.fitted_vectors("features", "x", features="a")
        assert df.columns == ["image_id", "x"]
        rows = df.collect()
        assert [r["image_id"] for r in rows] == list(range(13))
        assert [r["x"] for r in rows] == [[i + 0.5] * WIDTH for i in range(13)]

    def test_appended_images_are_left_out(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("features", made(spark, ("a", range(9), 0.0)), {"features": ["a"]})
        row = {f.name: None for f in TABLES["appends"].schema} | {"append_id": "5", "first_image_id": 5}
        lake.overwrite_rows("appends", [row])
        assert [r["image_id"] for r in lake.fitted_vectors("features", features="a").collect()] == list(range(5))

    def test_tables_written_by_spark_are_read(self, lake: Lake, spark: SparkSession) -> None:
        df = spark.createDataFrame(made(spark, ("a", range(20), 0.0)).toArrow())
        lake.replace("features", df.repartition(3), {"features": ["a"]})
        rows = lake.fitted_vectors("features", features="a").collect()
        assert sorted((r["image_id"], r["vector"][0]) for r in rows) == [(i, float(i)) for i in range(20)]

    def test_no_rows(self, lake: Lake, spark: SparkSession) -> None:
        lake.replace("features", made(spark, ("a", range(3), 0.0)), {"features": ["a"]})
        assert lake.fitted_vectors("features", features="b").collect() == []

    @pytest.mark.parametrize("parallelism", [1, 2, 7])
    @pytest.mark.parametrize("sizes", [[], [1], [200 * 2**20], [2**20] * 50, [30 * 2**20] * 9])
    def test_shares_hold_every_row_group_once(self, sizes: list[int], parallelism: int) -> None:
        groups = [RowGroup("f", i, 10, size, i) for i, size in enumerate(sizes)]
        shares = _shares(groups, parallelism)
        assert [g for share in shares for g in share] == groups
        assert all(len(share) == 1 or sum(g.n_bytes for g in share) <= 128 * 2**20 for share in shares)
        if sum(sizes) > parallelism * 4 * 2**20 and len(sizes) >= parallelism:
            assert len(shares) >= parallelism
