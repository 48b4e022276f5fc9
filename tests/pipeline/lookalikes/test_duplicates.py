"""The stage `duplicates`: pairs and groups as by comparing all, by vectors and by files; second and other runs."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from scipy.sparse.csgraph import connected_components

from cases import contents, image_paths, run_of, write_case
from motorpool.errors import ConfigError, LakeError
from motorpool.pipeline.context import Context
from motorpool.pipeline.lookalikes import duplicates
from motorpool.pipeline.lookalikes.duplicates import run_duplicates
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.study import outdate

ROWS = 90
FEATURES = [
    {"name": "raw", "descriptor": "net"},
    {"name": "short", "descriptor": "net", "steps": [{"pca": 3}]},
    {"name": "merged", "descriptor": "net", "steps": ["vehicle_mean"]},
]
TABLES = ("duplicates", "duplicate_groups", "duplicate_searches")


def vectors() -> np.ndarray:
    """Rows in pairs that are near; a dozen equal ones, a few zero ones, and two that are parallel."""
    rng = np.random.default_rng(2)
    x = np.repeat(rng.normal(size=(ROWS // 2, 8)), 2, axis=0) + rng.normal(size=(ROWS, 8)) * 0.02
    x[[4, 11, 12, 30, 31, 55, 56, 57, 70, 71, 88, 89]] = x[4]
    x[[20, 40, 60]] = 0
    x[81] = 2 * x[80]
    return x.astype(np.float32)


def split_of(i: int) -> str:
    return ("train", "test", "train", "", "test")[i % 5]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = image_paths(ROWS)
    attributes = [{"path": p, "its-split": split_of(i)} for i, p in enumerate(paths)]
    folder = write_case(tmp_path_factory.mktemp("case") / "case", ROWS, {"net": vectors()}, attributes)
    for i, path in enumerate(paths):
        file = folder / "raw_data" / path.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        # No pictures: their bytes alone are compared. Four are equal, two are missing.
        if i not in (7, 8):
            file.write_bytes(b"the same" if i in (3, 5, 33, 66) else b"%d" % i)
    return folder


ALL = {"similarity": 0.995, "partners": 2, "split": "its-split"}


@pytest.fixture(scope="module")
def done(start: Callable[..., Context], fitted: Context) -> Context:
    ctx = start(fitted, duplicates=ALL)
    run_duplicates(ctx)
    return ctx


def gaps_of(ctx: Context, features: str) -> tuple[np.ndarray, np.ndarray]:
    table = ctx.lake.fetch("features", ["image_id", "vector"], features=[features]).sort_by("image_id")
    x = np.array(table.column("vector").to_pylist(), np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return x, np.maximum(1.0 - unit @ unit.T, 0.0)


def by_comparing(x: np.ndarray, gaps: np.ndarray, limit: float, most: int) -> tuple[dict[Any, float], list[int]]:
    """Similarity by (image_id, other_id, kind), and the lowest image that every image is connected with."""
    n = len(x)
    first = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x]
    pairs: dict[Any, float] = {(f, i, "vector"): 1.0 for i, f in enumerate(first) if f != i}
    firsts = sorted(set(first))
    for i in firsts:
        near = [j for j in firsts if j != i and gaps[i, j] <= limit]
        for j in sorted(near, key=lambda j: (gaps[i, j], j))[:most]:
            pairs[min(i, j), max(i, j), "near"] = 1 - gaps[i, j]
    equal = np.array([[first[i] == first[j] for j in range(n)] for i in range(n)])
    labels = connected_components(equal | (gaps <= limit))[1]
    return pairs, [int(np.flatnonzero(labels == label)[0]) for label in labels]


@pytest.mark.parametrize("features", ["raw", "short"])
def test_as_by_comparing_all_pairs(done: Context, features: str) -> None:
    x, gaps = gaps_of(done, features)
    pairs, lowest = by_comparing(x, gaps, 0.005, 2)
    rows = done.lake.rows("duplicates", features=[features])
    found = {(r["image_id"], r["other_id"], r["kind"]): r["similarity"] for r in rows}
    assert len(found) == len(rows)
    assert found.keys() == pairs.keys()
    assert {k for _, _, k in found} == {"vector", "near"}
    np.testing.assert_allclose([found[key] for key in pairs], list(pairs.values()), atol=1e-12)
    vehicles = {r["image_id"]: r["vehicle_id"] for r in done.lake.rows("images")}
    for row in rows:
        i, j = row["image_id"], row["other_id"]
        assert i < j
        assert row["same_vehicle"] == (vehicles[i] == vehicles[j])
        splits = split_of(i), split_of(j)
        assert row["same_split"] == (splits[0] == splits[1] if all(splits) else None)
    assert {r["same_split"] for r in rows} == {True, False, None}
    assert {r["same_vehicle"] for r in rows} == {True, False}
    check_groups(done, features, lowest)


def check_groups(ctx: Context, features: str, lowest: list[int]) -> None:
    """``lowest`` is the first image of every image's group."""
    vehicles = {r["image_id"]: r["vehicle_id"] for r in ctx.lake.rows("images")}
    sizes = Counter(lowest)
    members = {i: g for i, g in enumerate(lowest) if sizes[g] > 1}
    of: dict[int, list[int]] = {g: [i for i in members if members[i] == g] for g in set(members.values())}
    rows = {r["image_id"]: r for r in ctx.lake.rows("duplicate_groups", features=[features])}
    assert rows.keys() == members.keys()
    for i, row in rows.items():
        own = of[members[i]]
        splits = {split_of(j) for j in own} - {""}
        told = (row["group_id"], row["is_keeper"], row["n_images"], row["n_vehicles"], row["n_splits"])
        assert told == (own[0], i == own[0], len(own), len({vehicles[j] for j in own}), len(splits))
    (search,) = ctx.lake.rows("duplicate_searches", features=[features])
    assert (search["n_groups"], search["n_duplicates"]) == (len(of), len(members) - len(of))
    assert search["n_pairs"] == ctx.lake.count("duplicates", features=[features])


def test_files_of_equal_bytes(done: Context) -> None:
    rows = done.lake.rows("duplicates", features=["photos"])
    assert sorted((r["image_id"], r["other_id"], r["kind"], r["similarity"]) for r in rows) == [
        (3, 5, "file", 1.0), (3, 33, "file", 1.0), (3, 66, "file", 1.0),
    ]  # fmt: skip
    check_groups(done, "photos", [3 if i in (5, 33, 66) else i for i in range(ROWS)])
    (search,) = done.lake.rows("duplicate_searches", features=["photos"])
    # Two are missing.
    assert search["n_images"] == ROWS - 2


def test_sets_that_merge_vehicles_are_left_out(done: Context, start: Callable[..., Context]) -> None:
    assert {r["features"] for r in done.lake.rows("duplicate_searches")} == {"raw", "short", "photos"}
    with pytest.raises(ConfigError, match="all photos of a vehicle are one vector in 'merged'"):
        start(duplicates={"features": ["merged"]})


def test_leaks_in_sql(done: Context) -> None:
    """As the page says: a group in two splits is a leak, whichever of its pairs are listed."""
    done.lake.register()
    query = "SELECT DISTINCT group_id FROM duplicate_groups WHERE features = 'raw' AND n_splits > 1"
    leaks = {r["group_id"] for r in done.spark.sql(query).collect()}
    x, gaps = gaps_of(done, "raw")
    lowest = by_comparing(x, gaps, 0.005, 2)[1]
    alike = [(i, j) for i, j in itertools.combinations(range(ROWS), 2) if lowest[i] == lowest[j]]
    assert leaks == {lowest[i] for i, j in alike if {split_of(i), split_of(j)} == {"train", "test"}}
    assert len(leaks) > 3


def test_a_second_run_does_nothing(done: Context, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(done.lake)
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_duplicates(done)
    assert "all searches of the study are in the lake, nothing to do" in caplog.text
    assert contents(done.lake) == before


def same(second: Context, first: Context) -> None:
    of = [{k: v for k, v in contents(ctx.lake, clock=False).items() if k in TABLES} for ctx in (second, first)]
    assert of[0] == of[1]


def test_another_config_gives_what_a_first_run_gives(
    start: Callable[..., Context], done: Context, fitted: Context
) -> None:
    config = {"similarity": 0.9, "partners": 1, "features": ["short"], "photos": False}
    second, first = start(done, duplicates=config), start(fitted, duplicates=config)
    for ctx in (second, first):
        run_duplicates(ctx)
    same(second, first)


def test_without_the_section_all_goes_out(start: Callable[..., Context], done: Context) -> None:
    ctx = start(done)
    run_duplicates(ctx)
    assert [ctx.lake.count(table) for table in TABLES] == [0, 0, 0]


def test_another_split_of_the_same_column_is_seen(start: Callable[..., Context], done: Context) -> None:
    ctx = start(done, duplicates=ALL | {"features": ["raw"], "photos": False})
    images = ctx.lake.read("images").toPandas()
    images["its-split"] = "test"
    ctx.lake.overwrite("images", ctx.spark.createDataFrame(images))
    run_duplicates(ctx)
    assert {r["same_split"] for r in ctx.lake.rows("duplicates")} == {True}


def test_a_killed_run_goes_on(start: Callable[..., Context], done: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind the first table of the second set: what the first one has is kept, the second is made again."""
    ctx = start(done, duplicates=ALL)
    outdate(ctx, "duplicate_searches", {"features": ["short"]})
    before = {r["features"]: r["created_at"] for r in ctx.lake.rows("duplicate_searches")}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_groups", killed)
        with pytest.raises(KeyboardInterrupt):
            run_duplicates(ctx)
    run_duplicates(ctx)
    same(ctx, done)
    after = {r["features"]: r["created_at"] for r in ctx.lake.rows("duplicate_searches")}
    assert {name for name in before if after[name] != before[name]} == {"short"}


def test_what_is_refused(start: Callable[..., Context], fitted: Context) -> None:
    with pytest.raises(
        ConfigError, match=r"duplicates.split: 'colour': the table images has no such column; it has im"
    ):
        run_duplicates(start(fitted, duplicates={"split": "colour"}))
    with pytest.raises(ConfigError, match=r"duplicates.features: 'other' is no feature set"):
        start(fitted, duplicates={"features": ["other"]})
    bare = start(duplicates={})
    run_ingest(bare)
    with pytest.raises(LakeError, match="run `motorpool features` first"):
        run_duplicates(bare)


@pytest.mark.parametrize("n", [1, 40])
def test_a_single_image_and_all_equal(spark: SparkSession, tmp_path: Path, n: int) -> None:
    case = write_case(tmp_path / "case", n, {"net": np.ones((n, 3), np.float32)})
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", features=FEATURES[:1], duplicates={})
    for stage in (run_ingest, run_features, run_duplicates):
        stage(ctx)
    rows = ctx.lake.rows("duplicates")
    assert sorted((r["image_id"], r["other_id"], r["kind"]) for r in rows) == [(0, i, "vector") for i in range(1, n)]
    check_groups_of_one(ctx, n)


def check_groups_of_one(ctx: Context, n: int) -> None:
    rows = ctx.lake.rows("duplicate_groups")
    assert sorted(r["image_id"] for r in rows) == (list(range(n)) if n > 1 else [])
    assert all((r["group_id"], r["n_images"], r["n_splits"]) == (0, n, 0) for r in rows)
