"""A lake's folder that only the driver sees."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.pipeline import shared_folder
from motorpool.pipeline.shared_folder import check_reach, require_shared


@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
def test_a_folder_that_all_see_is_left_as_it_was(spark: SparkSession, tmp_path: Path, scheme: str) -> None:
    require_shared(spark, f"{scheme}{tmp_path}/new/lake")
    assert not (tmp_path / "new").exists()
    (tmp_path / "kept").mkdir()
    require_shared(spark, f"{scheme}{tmp_path}/kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_of_the_drivers_own(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path: the workers' processes stay where Spark was started."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LakeError, match=f"lake: the driver's folder is not seen on {socket.gethostname()}"):
        require_shared(spark, "lake")
    assert list(tmp_path.iterdir()) == []


def test_one_machine_and_remote_lakes_are_not_asked(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for lake in (LakeConfig(path="lake"), LakeConfig(path="s3a://bucket/lake"), LakeConfig(schema="somewhere")):
        check_reach(spark, lake)


@pytest.mark.parametrize(
    ("path", "default", "asked"),
    [
        ("/mnt/lake", "file:///", True),
        ("/mnt/lake", "hdfs://nameservice1", False),
        ("lake", "dbfs:///", False),
        ("file:///mnt/lake", "hdfs://nameservice1", True),
        ("s3a://bucket/lake", "file:///", False),
    ],
)
def test_on_a_cluster_only_what_lies_on_each_machines_disk_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, path: str, default: str, asked: bool
) -> None:
    """A path without a scheme is on the cluster's own file system, which is often no local one."""
    seen = []
    monkeypatch.setattr(shared_folder, "require_shared", lambda _, lake: seen.append(lake))
    settings = SimpleNamespace(get=lambda *_: default)
    context = SimpleNamespace(_jsc=SimpleNamespace(hadoopConfiguration=lambda: settings))
    session: Any = SimpleNamespace(_sc=context, sparkContext=context, conf={"spark.master": "yarn"})
    check_reach(session, LakeConfig(path=path))
    assert seen == [path] * asked
