"""A folder that goes on filling: each case joins the lake once, wherever the stream was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from cases import blobs, contents, image_paths, run_of, write_case, write_paths
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import Appended
from motorpool.pipeline.growing.follow import follow
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
