"""A new map method is one entry: the config, the stage, the tables and the report take it from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from cases import blobs, run_of, write_case
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError, EnvironmentMissingError
from motorpool.kernels.maps.layouts import Layout
from motorpool.maps.method import MapMethod
from motorpool.maps.registry import MAP_METHODS, check_packages
from motorpool.pipeline.run import run_pipeline

ROWS = 30


@pytest.fixture
def toy() -> Iterator[MapMethod]:
    # Within a function, so that it travels to tasks, which know nothing of this file.
    def first_columns(rows: np.ndarray, _: np.ndarray, layout: Layout) -> np.ndarray:
        return np.ascontiguousarray(rows[:, : layout.dims])

    entry = MapMethod("columns", "first columns", first_columns, settings=("sample",), least_rows=2)
    MAP_METHODS.register(entry)
    yield entry
    MAP_METHODS.unregister(entry.name)


def test_a_map_is_added_in_one_place(spark: SparkSession, tmp_path: Path, toy: MapMethod) -> None:
    x = blobs(ROWS, 4)
    ctx = run_of(
        spark, write_case(tmp_path / "case", ROWS, {"x": x}), tmp_path / "lake", "parquet",
        features=[{"descriptor": "x"}], cluster={"models": [{"algorithm": "kmeans", "k": [2]}]},
        projections={"methods": [toy.name], "dims": [2]}, report={"members": 1, "sample": 0},
    )  # fmt: skip
    run_pipeline(ctx)
    places = ctx.lake.read("projections", method="columns2").orderBy("image_id").collect()
    assert np.array_equal([[r["x"], r["y"]] for r in places], x[:, :2])
    (row,) = ctx.lake.read("projection_methods").collect()
    found = (row["method"], row["params"], row["n_fitted"], row["backend"])
    assert found == ("columns2", {"sample": "20000", "seed": "42"}, ROWS, "cpu")
    report = tmp_path / "report"
    written = "".join(p.read_text() for p in [report / "index.html", *report.glob("data/*.js")])
    assert "first columns, 2-D" in written
    # Once it is gone, a config no longer knows it, and a method of its name may come.
    MAP_METHODS.unregister(toy.name)
    with pytest.raises(ConfigError, match=r"projections\.methods\[0\]: 'columns': Input should be 'pca', 'umap' or"):
        parse_config({"lake": {"path": "x"}, "projections": {"methods": [toy.name]}})
    MAP_METHODS.register(toy)
    with pytest.raises(ValueError, match="'columns': is registered already"):
        MAP_METHODS.register(toy)


def test_its_package_is_asked_for(toy: MapMethod) -> None:
    check_packages([toy.name])
    MAP_METHODS.unregister(toy.name)
    MAP_METHODS.register(MapMethod(toy.name, toy.title, toy.lay_out, package=("no_such_module", "no-such-package")))
    with pytest.raises(EnvironmentMissingError, match=r"methods: columns needs a package.*pip install no-such-package"):
        check_packages(["pca", toy.name])


def test_a_config_without_methods_asks_for_those_that_are_default(toy: MapMethod) -> None:
    config = parse_config({"lake": {"path": "x"}, "projections": {}})
    assert config.projections is not None
    assert config.projections.methods == [m.name for m in MAP_METHODS.values() if m.default] == ["pca", "umap"]
