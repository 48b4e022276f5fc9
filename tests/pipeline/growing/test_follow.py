"""A folder that goes on filling, or a Delta table: each image joins the lake once, wherever the stream was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cases import blobs, contents, image_paths, run_of, write_case, write_paths
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import Appended
from motorpool.pipeline.growing.follow import follow, follow_table
from motorpool.pipeline.run import run_pipeline

STUDY: dict[str, Any] = {
    "features": [{"descriptor": "osnet", "steps": ["standard"]}],
    "cluster": {"models": [{"algorithm": "kmeans", "k": 3}]},
}
X = blobs(100, 4)


def put(folder: Path, name: str, first: int, last: int, x: np.ndarray = X) -> None:
    """A case, moved in as a whole."""
    made = write_case(folder.parent / "made" / name, last - first, {"osnet": x[first:last]})
    write_paths(made / "images_paths.csv", image_paths(100)[first:last])
    folder.mkdir(exist_ok=True)
    shutil.move(made, folder / name)


def once(ctx: Context, folder: Path) -> list[tuple[str, int]]:
    """What came, and how many images of it were new."""
    came: list[tuple[str, int]] = []

    def appended(case: str, done: Appended) -> None:
        came.append((Path(case).name, done.came.n_new))

    follow(ctx, str(folder), lambda path: CaseConfig(path=path), appended, once=True)
    return came


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


def test_each_case_once(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "base", "case", 0, 60)
    ctx = run_of(spark, tmp_path / "base" / "case", tmp_path / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    folder = tmp_path / "in coming"
    with pytest.raises(CaseError, match="in coming: there is no such folder to follow"):
        once(ctx, folder)
    put(folder, "b", 60, 70)
    put(folder, "a", 70, 80)
    (folder / "no case").mkdir()
    assert sorted(once(ctx, folder)) == [("a", 10), ("b", 10)]
    before = contents(ctx.lake)
    assert once(ctx, folder) == []
    assert contents(ctx.lake) == before

    # Stopped in the middle of a case: it comes again, and is in the tables once.
    put(folder, "c", 80, 90)
    write = Lake._write

    def stopped(lake: Lake, *args: Any) -> None:
        write(lake, *args)
        if args[0].name == "features":
            raise _StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "_write", stopped)
        with pytest.raises(_StoppedError):
            once(ctx, folder)
    assert once(ctx, folder) == [("c", 10)]
    rows = ctx.lake.read("labels").select("image_id").orderBy("image_id").toPandas()
    assert rows["image_id"].tolist() == list(range(90))

    # A case that is refused comes first when the stream is started again, mended or taken out.
    put(folder, "d", 85, 95, X + 1)
    with pytest.raises(CaseError, match=r"d: 5 of its paths are in the lake already, with other vectors"):
        once(ctx, folder)
    shutil.rmtree(folder / "d")
    put(folder, "e", 90, 100)
    assert once(ctx, folder) == [("e", 10)]
    assert ctx.lake.count("labels") == ctx.lake.count("images") == 100


def add_rows(spark: SparkSession, table: str, first: int, last: int, x: np.ndarray = X) -> None:
    """Some images of 100, added to a Delta table in one commit."""
    rows = [(p, x[first + i].tolist(), "red") for i, p in enumerate(image_paths(100)[first:last])]
    frame = spark.createDataFrame(rows, "path STRING, embedding ARRAY<FLOAT>, color STRING")
    frame.write.format("delta").mode("append").save(table)


def of_table(table: str, **more: Any) -> CaseConfig:
    column = {"file": table, "column": "path"}
    vectors = {"osnet": {"file": table, "column": "embedding"}}
    return CaseConfig.model_validate({"images_paths": column, "descriptors": vectors, **more})


def study_of_table(spark: SparkSession, table: str, lake: Path, lake_format: str) -> tuple[Context, CaseConfig]:
    """A lake of the first 60 images, which come from the table that is followed."""
    add_rows(spark, table, 0, 60)
    case = of_table(table)
    options = case.model_dump(include={"images_paths", "descriptors"}, exclude_none=True)
    ctx = run_of(spark, None, lake, lake_format, case_options=options, **STUDY)
    run_pipeline(ctx)
    return ctx, case


def rows_of(ctx: Context, case: CaseConfig) -> list[tuple[int, int]]:
    """Of each batch of rows, how many images were new, and how many known."""
    came: list[tuple[int, int]] = []
    follow_table(ctx, case, lambda _, done: came.append((done.came.n_new, done.came.n_known)), once=True)
    return came


def test_each_row_of_a_table_once(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = str(tmp_path / "photos of today")
    ctx, case = study_of_table(spark, table, tmp_path / "lake", "parquet")
    add_rows(spark, table, 60, 70)
    assert sum(n for n, _ in rows_of(ctx, case)) == 10
    before = contents(ctx.lake)
    assert rows_of(ctx, case) == []
    add_rows(spark, table, 70, 80)
    add_rows(spark, table, 75, 76)
    assert sum(n for n, _ in rows_of(ctx, of_table(table))) == 10

    # Stopped between two writes: the same rows come again, under the same ids.
    add_rows(spark, table, 80, 90)
    write = Lake._write

    def stopped(lake: Lake, *args: Any) -> None:
        write(lake, *args)
        if args[0].name in ("descriptors", "features"):
            raise _StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "_write", stopped)
        for _ in range(2):
            with pytest.raises(_StoppedError):
                rows_of(ctx, case)
    assert rows_of(ctx, case) == [(10, 0)]
    # What changes in the table is no new image, and what was there stays.
    spark.sql(f"UPDATE delta.`{table}` SET color = 'blue' WHERE path = '{image_paths(100)[3]}'".replace("\\", "\\\\"))
    spark.sql(f"DELETE FROM delta.`{table}` WHERE color = 'blue'")
    assert rows_of(ctx, case) == []
    images = ctx.lake.read("images").orderBy("image_id").toPandas()
    # Rows of images that were known take numbers too.
    assert images["image_id"].tolist()[:60] == list(range(60))
    assert images["image_id"].is_unique
    assert sorted(images["path"]) == sorted(p.replace("\\", "/") for p in image_paths(100)[:90])
    assert set(images["color"]) == {"red"}
    vectors = {r["image_id"]: r["vector"] for r in ctx.lake.rows("descriptors", ["image_id", "vector"])}
    at = {p.replace("\\", "/"): i for i, p in enumerate(image_paths(100))}
    for image_id, path in zip(images["image_id"], images["path"], strict=True):
        assert vectors[image_id] == X[at[path]].tolist()
    assert ctx.lake.count("labels") == 90
    own = ctx.lake.read("images").where(F.col("image_id") < 60).count()
    assert own == len(before["images"]) - 10 == 60
    assert not list((tmp_path / "lake" / ".growing").glob("*-rows-*"))


def test_rows_that_are_refused(spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The batch comes again until the table is mended and the checkpoint is gone."""
    table = str(tmp_path / "t")
    ctx, case = study_of_table(spark, table, tmp_path / "lake", "delta")
    assert rows_of(ctx, case) == [(0, 60)]
    add_rows(spark, table, 50, 70, X + 1)
    for _ in range(2):
        with pytest.raises(CaseError, match="10 of its paths are in the lake already, with other vectors"):
            rows_of(ctx, case)
    (place,) = [p for p in (tmp_path / "lake" / ".growing").iterdir() if p.is_dir() and (p / "offsets").is_dir()]
    assert f"once {table} is mended, remove {place} and start again" in caplog.text
    spark.read.format("delta").option("versionAsOf", 0).load(table).write.format("delta").mode("overwrite").save(table)
    add_rows(spark, table, 60, 70)
    shutil.rmtree(place)
    assert sum(n for n, _ in rows_of(ctx, case)) == 10
    assert ctx.lake.count("labels") == 70


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images_paths": "list.csv"}, "follows a folder .*, or the rows of a Delta table: .*which is list.csv"),
        ({"images_paths": None, "path": "x"}, "case.images_paths, which is not given"),
        ({"descriptors": {"osnet": "osnet.npy"}}, r"case.descriptors.osnet: osnet.npy is no column of .*t: path"),
        ({"descriptors": {"osnet": {"table": "a.b", "column": "c"}}}, r"case.descriptors.osnet: a.b: c is no column"),
        ({"attributes": "a.csv"}, r"case.attributes: a.csv is no column"),
    ],
)
def test_parts_that_no_row_brings(spark: SparkSession, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    (tmp_path / "t" / "_delta_log").mkdir(parents=True)
    ctx = run_of(spark, tmp_path, tmp_path / "lake", "parquet", **STUDY)
    with pytest.raises(ConfigError, match=message):
        rows_of(ctx, of_table(str(tmp_path / "t"), **more))
