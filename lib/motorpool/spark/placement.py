"""Rows of one key in one partition each."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def place(df: DataFrame, key: str, n: int) -> DataFrame:
    """Exactly one value of ``key`` (0..n-1) in each of ``n`` partitions.

    A shuffle by the key's own hash would put several values in one task and none in another, so each value is
    replaced by a number whose hash falls where it should.
    """
    spark = df.sparkSession
    tried = spark.range(64 * n + 64).select("id", F.pmod(F.hash("id"), F.lit(n)).alias("at"))
    salts = tried.groupBy("at").agg(F.min("id").alias("_salt"))
    salted = df.join(F.broadcast(salts), F.col(key) == F.col("at")).drop("at")
    return salted.repartition(n, "_salt").drop("_salt")
