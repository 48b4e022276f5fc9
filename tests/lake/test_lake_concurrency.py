"""Two runs at once on one lake, what refused writes leave behind, and reading without writing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cases import leftovers
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.lake.delta import DeltaFolder
from motorpool.lake.schemas import TABLES
from motorpool.spark.blocks import Batches

AWKWARD = ["a [1]", "{a,b}", "a\\b", "%41#?", "é 中"]


def photos(spark: SparkSession, *ids: int) -> DataFrame:
    rows = [(i, "ok", "red", "day", 1.0, 1.0, 1.0, 9, 9) for i in ids]
    return spark.createDataFrame(rows, TABLES["appearance"].schema)


def slow(df: DataFrame, mark: Path) -> DataFrame:
    """The same rows, whose first task says that it runs and waits to go on until the file ``go`` is there."""

    def run(batches: Batches) -> Batches:
        (mark / "running").touch()
        while not (mark / "go").exists():
            time.sleep(0.05)
        yield from batches

    return df.coalesce(1).mapInArrow(run, df.schema)


def test_photos_of_two_runs_at_once_are_all_kept(spark: SparkSession, tmp_path: Path) -> None:
    """The second commits between the first one's reading of the table and its commit."""
    config = LakeConfig(path=str(tmp_path / "lake"))
    first, second = Lake(spark, config), Lake(spark, config)
    first.upsert("appearance", photos(spark, 1, 2), "image_id")
    changed = slow(photos(spark, 2, 3), tmp_path)
    writer = threading.Thread(target=lambda: first.upsert("appearance", changed, "image_id"))
    writer.start()
    while not (tmp_path / "running").exists():
        assert writer.is_alive()
        time.sleep(0.05)
    second.upsert("appearance", photos(spark, 4), "image_id")
    (tmp_path / "go").touch()
    writer.join()
    assert sorted(r["image_id"] for r in first.read("appearance").collect()) == [1, 2, 3, 4]


def test_two_runs_may_make_a_table_at_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see that there is no table; one makes it, and the other finds it there and writes again."""
    config = LakeConfig(path=str(tmp_path / "lake"))
    lakes = [Lake(spark, config), Lake(spark, config)]
    meeting, met, exists = threading.Barrier(2, timeout=120), threading.local(), DeltaFolder.exists

    def exists_for_both(self: DeltaFolder, table: str) -> bool:
        found = exists(self, table)
        if threading.current_thread() is not threading.main_thread() and not hasattr(met, "once"):
            met.once = meeting.wait()
            assert not found
        return found

    monkeypatch.setattr(DeltaFolder, "exists", exists_for_both)
    rows = [descriptors(spark, name, False) for name in ("a", "b")]
    errors: list[BaseException] = []

    def write(at: int) -> None:
        try:
            lakes[at].replace("descriptors", rows[at], {"descriptor": ["ab"[at]]})
        except BaseException as exc:
            errors.append(exc)

    writers = [threading.Thread(target=write, args=(at,)) for at in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    found = lakes[0].read("descriptors").groupBy("descriptor").count().collect()
    assert {r["descriptor"]: r["count"] for r in found} == {"a": 4, "b": 4}


def descriptors(spark: SparkSession, name: str, bad: bool) -> DataFrame:
    rows = spark.range(4).coalesce(1).select(F.col("id").alias("image_id"), F.lit(name).alias("descriptor"))
    value = F.when((F.col("image_id") == 3) & F.lit(bad), F.raise_error(F.lit("bad row"))).otherwise(F.lit(1.0))
    return rows.select("image_id", "descriptor", F.array(value.cast("float")).alias("vector"))


def test_a_refused_write_leaves_no_files(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake")))
    folder = tmp_path / "lake" / "descriptors"
    both = descriptors(spark, "good", False).union(descriptors(spark, "refused", True)).coalesce(1)
    for there in (False, True):
        with pytest.raises(Exception, match="bad row"):
            lake.replace("descriptors", both, {"descriptor": ["good", "refused"]})
        assert not (folder / "descriptor=refused").exists()
        assert folder.exists() == there
        if not there:
            # As a killed process leaves it.
            (folder / "descriptor=refused").mkdir(parents=True)
            (folder / "descriptor=refused" / "part.parquet").write_bytes(b"half")
            lake.replace("descriptors", descriptors(spark, "old", False), {"descriptor": ["old"]})
            assert not (folder / "descriptor=refused").exists()
    assert lake.read("descriptors").count() == 4


@pytest.mark.parametrize("name", AWKWARD)
def test_a_parquet_lake_may_have_any_name(spark: SparkSession, tmp_path: Path, name: str) -> None:
    lake = Lake(spark, LakeConfig(path=str(tmp_path / name / "lake"), format="parquet"))
    lake.upsert("appearance", photos(spark, 1), "image_id")
    lake.upsert("appearance", photos(spark, 1, 2), "image_id")
    lake.replace("descriptors", descriptors(spark, "d", False), {"descriptor": ["d"]})
    lake.replace("descriptors", descriptors(spark, "d", False), {"descriptor": ["d"]})
    assert (lake.read("appearance").count(), lake.read("descriptors").count()) == (2, 4)
    assert leftovers(tmp_path / name / "lake") == []


def test_the_leaderboard_leaves_the_session_alone(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
    lake.overwrite("models", spark.createDataFrame([], TABLES["models"].schema))
    spark.range(7).createOrReplaceTempView("models")
    spark.range(7).createOrReplaceTempView("images")
    views = {t.name for t in spark.catalog.listTables() if t.isTemporary}
    assert lake.leaderboard().count() == 0
    assert {t.name for t in spark.catalog.listTables() if t.isTemporary} == views
    assert spark.table("models").count() == 7
    for name in ("models", "images"):
        spark.catalog.dropTempView(name)
