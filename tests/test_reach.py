"""A lake's folder that only the driver sees."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from motorpool.config import LakeConfig
from motorpool.errors import LakeError
from motorpool.stages.reach import check_reach, require_shared


@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
def test_a_folder_that_all_see_is_left_as_it_was(spark: SparkSession, tmp_path: Path, scheme: str) -> None:
    require_shared(spark, f"{scheme}{tmp_path}/new/lake")
    assert not (tmp_path / "new" / "lake").exists()
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
