"""Runs of the searches: each module has a `case`, and the feature sets FEATURES."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from cases import run_of
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest


@pytest.fixture(scope="module")
def start(
    request: pytest.FixtureRequest, spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Context]:
    """A run in a new Parquet lake, which begins as a copy of another run's."""

    def make(base: Context | None = None, **sections: Any) -> Context:
        folder = tmp_path_factory.mktemp("run") / "lake"
        if base is not None:
            shutil.copytree(str(base.config.lake.path), folder)
        return run_of(spark, case, folder, "parquet", features=request.module.FEATURES, **sections)

    return make


@pytest.fixture(scope="module")
def fitted(start: Callable[..., Context]) -> Context:
    ctx = start()
    run_ingest(ctx)
    run_features(ctx)
    return ctx
