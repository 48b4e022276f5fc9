"""Python workers: what they have on their path."""

import sys

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from motorpool.spark.blocks import Batches
from motorpool.spark.session import shares_python
from motorpool.spark.worker_daemon import without_archives


def test_archives_of_spark_alone_are_left_out() -> None:
    others = ["", "/case.zip", "/spark-core_2.13-4.0.2.jar/x", "/lib/motorpool.zip", "/site-packages/pyspark"]
    spark = ["/python/lib/pyspark.zip", "/python/lib/py4j-0.10.9.9-src.zip", "/jars/spark-core_2.13-4.0.2.jar"]
    assert without_archives([*others, *spark]) == others


def test_workers_read_no_archive_again_before_each_task(spark: SparkSession) -> None:
    def look(batches: Batches) -> Batches:
        import sys

        for _ in batches:
            held = [*sys.path, *sys.path_importer_cache]
            found = [p for p in held if "pyspark" in p or "py4j" in p or "spark-core" in p]
            yield pa.RecordBatch.from_arrays([pa.array([found], pa.list_(pa.string()))], names=["found"])

    (row,) = spark.range(0, 1, 1, 1).mapInArrow(look, "found ARRAY<STRING>").collect()
    assert [p for p in row["found"] if p.endswith((".zip", ".jar"))] == []


def test_another_python_brings_its_own_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    assert shares_python("local[*]")
    assert not shares_python("spark://host:7077")
    assert not shares_python("local[*]", "/another/python")
