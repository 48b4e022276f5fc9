"""Small studies are known before Spark starts, and get a session for small work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from planned_lake import lake_of

from cases import write_case
from motorpool.config.run import CaseConfig, LakeConfig
from motorpool.pipeline.planning import sizes
from motorpool.pipeline.planning.sizes import is_small

ROWS = 24
#: What a case of `write_case` has: 24 rows of 12, 8, 5 and 6 numbers.
VALUES = ROWS * 31


@pytest.fixture
def case(tmp_path: Path) -> CaseConfig:
    return CaseConfig.model_validate({"path": str(write_case(tmp_path / "case", ROWS))})


def limit(monkeypatch: pytest.MonkeyPatch, images: int, values: int) -> None:
    monkeypatch.setattr(sizes, "SMALL_IMAGES", images)
    monkeypatch.setattr(sizes, "SMALL_VALUES", values)


def test_a_case_is_small_up_to_both_limits(case: CaseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = LakeConfig.model_validate({"path": str(tmp_path / "lake")})
    assert is_small(lake, case)
    for images, values, small in ((ROWS, VALUES, True), (ROWS - 1, VALUES, False), (ROWS, VALUES - 1, False)):
        limit(monkeypatch, images, values)
        assert is_small(lake, case) is small


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
def test_a_lake_is_as_large_as_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lake_format: str) -> None:
    path = lake_of(tmp_path / "lake", lake_format, ROWS, osnet=11, vdc_type=20)
    lake = LakeConfig.model_validate({"path": str(path), "format": lake_format})
    for images, values, small in ((ROWS, VALUES, True), (ROWS - 1, VALUES, False), (ROWS, VALUES - 1, False)):
        limit(monkeypatch, images, values)
        assert is_small(lake) is small


def test_what_only_spark_can_tell_is_not_small(case: CaseConfig, tmp_path: Path) -> None:
    lake = LakeConfig.model_validate({"path": str(tmp_path / "lake")})
    assert not is_small(LakeConfig.model_validate({"schema": "main.vehicles"}))
    assert not is_small(LakeConfig.model_validate({"path": "s3a://bucket/lake"}))
    table = {"table": "main.vision.embeddings", "column": "clip"}
    assert not is_small(lake, CaseConfig.model_validate({**case.model_dump(), "descriptors": {"clip": table}}))
    assert not is_small(lake, CaseConfig.model_validate({"path": str(tmp_path / "nowhere")}))


#: Starts a session of its own and tells its mode and Java's arguments.
START = """
import sys
from motorpool.spark.session import build_session
small, *settings = sys.argv[1:]
spark = build_session(dict(s.split("=", 1) for s in settings), delta=False, small=small == "small")
beans = spark.sparkContext._jvm.java.lang.management.ManagementFactory
print(spark.conf.get("spark.sql.codegen.wholeStage"), list(beans.getRuntimeMXBean().getInputArguments()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "settings", "codegen", "stops"),
    [
        ("small", [], "false", True),
        ("any", [], "true", False),
        # What the config says stands.
        ("small", ["spark.driver.extraJavaOptions=-Dmine=1", "spark.sql.codegen.wholeStage=true"], "true", False),
    ],
)
def test_the_session_of_a_small_study(
    monkeypatch: pytest.MonkeyPatch, size: str, settings: list[str], codegen: str, stops: bool
) -> None:
    monkeypatch.delenv("SPARK_SUBMIT_OPTS", raising=False)
    said = subprocess.run(
        [sys.executable, "-c", START, size, *settings], capture_output=True, text=True, check=True
    ).stdout
    assert said.split()[0] == codegen
    assert ("TieredStopAtLevel=1" in said) is stops
    assert ("-Dmine=1" in said) is bool(settings)
