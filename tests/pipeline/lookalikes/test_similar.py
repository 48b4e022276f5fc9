"""Similar images on the sample lake: the same as by NumPy, for images named in every way, and on the command line.

Asked of DuckDB and of Spark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cases import prepared
from motorpool.cli import main
from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.lake.reading import LakeReader
from motorpool.pipeline.context import Context
from motorpool.pipeline.export import best_model
from motorpool.pipeline.lookalikes.similar import COLUMNS, find_similar

FEATURES = "vdc_color-pca10"


@pytest.fixture(params=["duckdb", "spark"])
def reader(request: pytest.FixtureRequest, sample_run: Context) -> Iterator[LakeReader]:
    with LakeReader(sample_run.config.lake, lambda: sample_run.lake, request.param) as lake:
        yield lake


def vectors(run: Context, features: str) -> tuple[np.ndarray, np.ndarray]:
    table = run.lake.fetch("features", ["image_id", "vector"], features=[features]).sort_by("image_id")
    return table.column("image_id").to_numpy(), np.array(table.column("vector").to_pylist())


def test_the_nearest_of_a_feature_set(reader: LakeReader, sample_run: Context) -> None:
    ids, x = vectors(sample_run, FEATURES)
    paths = {r["image_id"]: (r["path"], r["vehicle_id"]) for r in sample_run.lake.rows("images")}
    asked = [17, 3]
    names = [paths[17][0].replace("/", "\\"), "3"]
    found = find_similar(reader, names, 7, FEATURES)
    for position, own in enumerate(asked):
        distances = np.linalg.norm(x - x[own], axis=1)
        order = [i for i in np.lexsort((ids, distances)) if i != own][:7]
        rows = found[7 * position : 7 * position + 7]
        assert [r[:3] for r in rows] == [(names[position], rank, i) for rank, i in enumerate(order, 1)]
        assert [r[3:5] for r in rows] == [paths[i] for i in order]
        np.testing.assert_allclose([r[5] for r in rows], distances[order], rtol=1e-9)


def test_by_default_in_the_space_of_the_best_model(reader: LakeReader, sample_run: Context) -> None:
    best = best_model(sample_run.lake)["features"]
    assert find_similar(reader, ["5"], 3) == find_similar(reader, ["5"], 3, best)
    by_cosine = find_similar(reader, ["5"], 300, best, "cosine")
    assert len(by_cosine) == 239
    assert max(r[5] for r in by_cosine) <= 2


def test_without_models_a_feature_set_is_to_be_named(reader: LakeReader, sample_run: Context, tmp_path: Path) -> None:
    own = prepared(sample_run.lake, tmp_path)
    config = LakeConfig(path=str(own), format=sample_run.config.lake.format)
    with LakeReader(config, lambda: Lake(sample_run.spark, config), reader.engine) as lake:
        with pytest.raises(ConfigError, match=r"has no model that ranks.*name a feature set by --features; it has vdc"):
            find_similar(lake, ["5"], 3)
        assert find_similar(lake, ["5"], 3, FEATURES) == find_similar(reader, ["5"], 3, FEATURES)


@pytest.mark.parametrize(
    ("images", "features", "message"),
    [
        (["nowhere.jpg"], None, r"^nowhere.jpg: the lake .* holds no image of this path .*written as in "),
        (["5", "99999"], None, r"^99999: the lake"),
        (["9" * 30], None, r"^9{30}: the lake"),
        (["5"], "osnet-pca3", r"--features osnet-pca3: .* it has vdc_.*-pca10, vdc_"),
        (["5"] * 1001, None, "1,001 images: ask about 1,000 at a time"),
    ],
)  # fmt: skip
def test_what_is_refused(reader: LakeReader, images: list[str], features: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_similar(reader, images, 3, features)


def test_on_the_command_line(reader: LakeReader, sample_run: Context, capsys: pytest.CaptureFixture[str]) -> None:
    lake = str(sample_run.config.lake.path)
    asked = ("5", "6", "--n", "2", "--features", FEATURES, "--output", "json", "--engine", reader.engine)
    status = main(["similar", "--lake", lake, *asked])
    assert status == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = find_similar(reader, ["5", "6"], 2, FEATURES)
    names = [field.partition(" ")[0] for field in COLUMNS.split(", ")]
    assert lines == [dict(zip(names, row, strict=True)) for row in expected]
    assert main(["similar", "--lake", lake, "nowhere.jpg"]) == 2
    assert "nowhere.jpg: the lake" in capsys.readouterr().err
