"""Rows of one key in one partition each."""

from __future__ import annotations

from pyspark.sql import DataFrame, GroupedData
from pyspark.sql import functions as F

_SALT = "_salt"


def place(df: DataFrame, key: str, n: int) -> DataFrame:
    """Exactly one value of ``key`` (0..n-1) in each of ``n`` partitions.

    A shuffle by the key's own hash would put several values in one task and none in another, so each value is
    replaced by a number whose hash falls where it should.
    """
    return _salted(df, key, n).drop(_SALT)


def place_groups(df: DataFrame, key: str, n: int) -> GroupedData:
    """The values of ``key`` as groups, placed as by `place`: the groups' shuffle is the only one.

    The column ``_salt`` is among those of a group.
    """
    return _salted(df, key, n).groupBy(_SALT)


def _salted(df: DataFrame, key: str, n: int) -> DataFrame:
    tried = df.sparkSession.range(64 * n + 64).select("id", F.pmod(F.hash("id"), F.lit(n)).alias("at"))
    salts = tried.groupBy("at").agg(F.min("id").alias(_SALT))
    return df.join(F.broadcast(salts), F.col(key) == F.col("at")).drop("at").repartition(n, _SALT)
