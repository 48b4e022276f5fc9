"""The stage `neighbours`: as by comparing all pairs, and as `motorpool similar` says; second and other runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from scipy.spatial.distance import cdist

from cases import blobs, contents, run_of, write_case
from motorpool.errors import LakeError
from motorpool.lake.reading import LakeReader
from motorpool.pipeline.context import Context
from motorpool.pipeline.lookalikes.neighbours import run_neighbours
from motorpool.pipeline.lookalikes.similar import find_similar
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest

ROWS = 70
FEATURES = [{"name": "a", "descriptor": "a"}, {"name": "b", "descriptor": "b", "steps": [{"pca": 3}]}]
TABLES = ("neighbours", "neighbour_searches")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Whole numbers, so that many are equally near, and equal rows.
    x = np.random.default_rng(1).integers(0, 4, (ROWS, 3)).astype(np.float32)
    return write_case(tmp_path_factory.mktemp("case") / "case", ROWS, {"a": x, "b": blobs(ROWS, 5)})


@pytest.fixture(scope="module")
def done(start: Callable[..., Context], fitted: Context) -> Context:
    ctx = start(fitted, neighbours={"k": 5})
    run_neighbours(ctx)
    return ctx


def found_in(ctx: Context, features: str) -> list[tuple[int, int, int, float]]:
    rows = ctx.lake.rows("neighbours", features=[features])
    return sorted((r["image_id"], r["rank"], r["neighbour_id"], r["distance"]) for r in rows)


@pytest.mark.parametrize(("features", "metric"), [("a", "euclidean"), ("b", "euclidean"), ("b", "cosine")])
def test_as_by_comparing_all_pairs(start: Callable[..., Context], done: Context, features: str, metric: str) -> None:
    if metric == "euclidean":
        ctx = done
    else:
        ctx = start(done, neighbours={"k": 5, "metric": metric, "features": [features]})
        run_neighbours(ctx)
    table = ctx.lake.fetch("features", ["image_id", "vector"], features=[features]).sort_by("image_id")
    x = np.array(table.column("vector").to_pylist(), np.float64)
    distances = cdist(x, x, metric)
    np.fill_diagonal(distances, np.inf)
    order = [np.lexsort((np.arange(ROWS), row.round(12)))[:5] for row in distances]
    found = found_in(ctx, features)
    expected = [(i, rank, int(j)) for i in range(ROWS) for rank, j in enumerate(order[i], 1)]
    assert [row[:3] for row in found] == expected
    near = [distances[i, j] for i, _, j in expected]
    np.testing.assert_allclose([row[3] for row in found], near, atol=1e-9)


@pytest.mark.parametrize("features", ["a", "b"])
def test_similar_says_the_same(done: Context, features: str) -> None:
    with LakeReader(done.config.lake, lambda: done.lake) as reader:
        told = find_similar(reader, [str(i) for i in range(ROWS)], 5, features)
    assert [(int(name), rank, j, d) for name, rank, j, _, _, d in told] == found_in(done, features)


def test_more_neighbours_than_images(start: Callable[..., Context], fitted: Context) -> None:
    ctx = start(fitted, neighbours={"k": 100, "features": ["b"]})
    run_neighbours(ctx)
    found = found_in(ctx, "b")
    assert len(found) == ROWS * (ROWS - 1)
    assert {i: sorted(j for o, _, j, _ in found if o == i) for i in (0, 7)} == {
        i: [j for j in range(ROWS) if j != i] for i in (0, 7)
    }


def test_a_single_image_has_none(spark: SparkSession, tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", 1, {"a": np.ones((1, 3), np.float32)})
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", features=FEATURES[:1], neighbours={})
    for stage in (run_ingest, run_features, run_neighbours):
        stage(ctx)
    assert (ctx.lake.count("neighbours"), ctx.lake.count("neighbour_searches")) == (0, 1)


def test_second_and_other_runs(
    start: Callable[..., Context], done: Context, fitted: Context, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(done.lake)
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_neighbours(done)
    assert "neighbours: all searches of the study are in the lake, nothing to do" in caplog.text
    assert contents(done.lake) == before
    config = {"k": 3, "features": ["b"]}
    second, first = start(done, neighbours=config), start(fitted, neighbours=config)
    for ctx in (second, first):
        run_neighbours(ctx)
    of = [{k: v for k, v in contents(c.lake, clock=False).items() if k in TABLES} for c in (second, first)]
    assert of[0] == of[1]
    without = start(second)
    run_neighbours(without)
    assert [without.lake.count(table) for table in TABLES] == [0, 0]


def test_what_is_refused(start: Callable[..., Context], fitted: Context) -> None:
    ctx = start(neighbours={})
    run_ingest(ctx)
    with pytest.raises(LakeError, match="run `motorpool features` first"):
        run_neighbours(ctx)
