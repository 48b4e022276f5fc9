"""A lake that grows: appended images get what `assign` gives them, whatever the pieces, and nothing else changes."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cases import contents, image_paths, run_of, uneven_blobs, write_attributes, write_case, write_paths
from motorpool import cli
from motorpool import lake as lake_module
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, LakeError
from motorpool.lake import Lake
from motorpool.pipeline.assign import run_assign
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import Appended, run_append
from motorpool.pipeline.run import run_pipeline

#: Images of the study, and those that come later, in pieces.
ROWS, NEW, PIECES = 200, 60, 10
STUDY: dict[str, Any] = {
    "features": [
        {
            "name": "t",
            "join": [{"descriptor": "vdc_type", "steps": ["standard"]}, {"descriptor": "osnet", "weight": 0.05}],
            "steps": [{"pca": 4}],
        },
        {"name": "o", "descriptor": "osnet", "steps": []},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": 3},
            {"algorithm": "bisecting_kmeans", "k": 4, "features": ["t"]},
            {"algorithm": "dbscan", "eps": 0.9, "min_samples": 5, "features": ["t"]},
            {"algorithm": "hdbscan", "min_cluster_size": 8, "min_samples": 4, "features": ["t"]},
            {"algorithm": "agglomerative", "n_clusters": 3, "features": ["t"]},
        ],
        "min_cluster_share": 0.0,
    },
    "consensus": {"n_clusters": [3]},
    "outliers": {"methods": ["isolation_forest", "knn_distance", "lof"], "share": 0.05, "features": ["t"]},
    "projections": {"methods": ["pca"], "dims": [2], "features": ["o"]},
    "labels": {"attributes": {"view": {"values": ["front", "rear"], "target": 0.8}}},
}
#: What is appended in pieces, and stopped at every write: each kind of table has rows.
SMALL: dict[str, Any] = {
    "features": STUDY["features"][:1],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": 3},
            {"algorithm": "dbscan", "eps": 0.9, "min_samples": 5},
        ],
        "min_cluster_share": 0.0,
    },
    "outliers": {"methods": ["isolation_forest"], "share": 0.05},
    "projections": {"methods": ["pca"], "dims": [2]},
    "labels": STUDY["labels"],
}
#: Tables of images whose appended rows are those of `assign`, and their keys.
GIVEN = {"features": "features", "labels": "model_id", "image_labels": "attribute"}


def arrays(rows: slice | Sequence[int]) -> dict[str, np.ndarray]:
    """Descriptors of some images of one world."""
    world = uneven_blobs(1000)[np.random.default_rng(1).permutation(1000)]
    return {"vdc_type": world[rows], "osnet": world[rows, :3] ** 2}


def make_case(folder: Path, first: int, last: int, **more: Any) -> Path:
    """The images ``first`` to ``last`` of the world, under their own paths."""
    found = arrays(slice(first, last))
    write_case(folder, last - first, found | more)
    write_paths(folder / "images_paths.csv", image_paths(1000)[first:last])
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case(tmp_path_factory.mktemp("append") / "case", 0, ROWS)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case(tmp_path_factory.mktemp("append") / "rest", ROWS, ROWS + NEW)


def look(ctx: Context) -> None:
    """What people say of the first images: which side of the world they are on."""
    side = np.where(arrays(slice(0, 60))["osnet"][:, 0] > 4, "front", "rear")
    rows = [
        {
            "image_id": i, "attribute": "view", "value": str(v), "annotator": "ann", "purpose": "train", "draw": None,
            "stratum": None, "weight": None, "created_at": datetime(2026, 1, 1),
        }
        for i, v in enumerate(side)
    ]  # fmt: skip
    ctx.lake.overwrite_rows("annotations", rows)


@pytest.fixture(scope="module")
def studied(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run on the study's images, for copies."""
    ctx = run_of(spark, case, tmp_path_factory.mktemp("append") / "lake", "parquet", **STUDY)
    look(ctx)
    run_pipeline(ctx)
    assert {r["algorithm"] for r in ctx.lake.rows("models", ["algorithm"])} >= {"consensus", "dbscan", "hdbscan"}
    return Path(str(ctx.config.lake.path))


def copied(
    spark: SparkSession, studied: Path, case: Path, lake: Path, study: Mapping[str, Any] = STUDY, **more: Any
) -> Context:
    shutil.copytree(studied, lake)
    return run_of(spark, case, lake, "parquet", **(study | more))


def append(ctx: Context, case: Path, **more: Any) -> Appended:
    return run_append(ctx, CaseConfig(path=str(case), **more))


def frame(ctx: Context, table: str, first: int = ROWS) -> pd.DataFrame:
    """The rows of images from ``first`` on, in an order of their own."""
    rows = ctx.lake.read(table).where(F.col("image_id") >= first).toPandas()
    keys = [c for c in (GIVEN.get(table), "method", "descriptor") if c in rows.columns]
    return rows.sort_values([*keys, "image_id"], ignore_index=True)


@pytest.fixture(scope="module")
def at_once(
    spark: SparkSession, studied: Path, case: Path, rest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Context:
    ctx = copied(spark, studied, case, tmp_path_factory.mktemp("append") / "at-once")
    before = contents(ctx.lake)
    done = append(ctx, rest)
    assert (done.came.n_rows, done.came.n_new, done.came.n_known, done.came.n_dropped) == (NEW, NEW, 0, 0)
    # Kept: whoever asks what has changed.
    ctx.before = before  # type: ignore[attr-defined]
    ctx.done = done  # type: ignore[attr-defined]
    return ctx


def test_new_images_have_the_labels_of_assign(at_once: Context, rest: Path, tmp_path: Path) -> None:
    """By every model that labels new images, and by the attribute; ids go on behind the others, in the case's order."""
    images = frame(at_once, "images")
    assert images["image_id"].tolist() == list(range(ROWS, ROWS + NEW))
    assert images["path"].tolist() == [p.replace("\\", "/") for p in image_paths(1000)[ROWS : ROWS + NEW]]
    for name, expected in arrays(slice(ROWS, ROWS + NEW)).items():
        rows = frame(at_once, "descriptors")
        assert np.array_equal(np.stack(rows[rows["descriptor"] == name]["vector"].to_list()), expected)
    labels, attributes = frame(at_once, "labels"), frame(at_once, "image_labels")
    models = [m for m in at_once.lake.rows("models") if m["algorithm"] != "consensus"]
    assert set(labels["model_id"]) == {m["model_id"] for m in models}
    for model in models:
        out = tmp_path / f"{model['model_id']}.parquet"
        run_assign(at_once.lake, CaseConfig(path=str(rest)), model["model_id"], out)
        expected = pd.read_parquet(out)
        own = labels[labels["model_id"] == model["model_id"]]
        assert own["cluster"].tolist() == expected["cluster"].tolist()
        np.testing.assert_allclose(own["distance"].astype(float), expected["distance"].astype(float), rtol=1e-5)
        np.testing.assert_allclose(own["strength"].astype(float), expected["strength"].astype(float), rtol=1e-5)
        assert attributes["value"].tolist() == expected["view"].tolist()
        np.testing.assert_allclose(attributes["probability"], expected["view_probability"], rtol=1e-5)


def test_what_was_there_stays(at_once: Context) -> None:
    """No row of another image changes, and none of what is fitted; tables of appends and counts alone do."""
    before, after = at_once.before, contents(at_once.lake)  # type: ignore[attr-defined]
    grown = {
        "images",
        "descriptors",
        "features",
        "labels",
        "image_labels",
        "outliers",
        "outlier_reasons",
        "projections",
    }
    for table in grown:
        assert set(before[table]) < set(after[table]) or table == "outlier_reasons"
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"outlier_reasons"} == (grown - {"outlier_reasons"}) | {"appends", "drift", "label_sets"}
    (labelled,) = at_once.lake.rows("label_sets")
    assert labelled["n_images"] == ROWS + NEW == at_once.lake.count("image_labels")
    assert labelled["n_accepted"] == at_once.lake.read("image_labels").where("accepted").count()


def test_what_labels_no_new_image_is_named(at_once: Context) -> None:
    done = at_once.done  # type: ignore[attr-defined]
    assert (done.unlabelling, done.unscoring) == ({"consensus": 1}, [])
    assert done.n_models == at_once.lake.count("models") - 1
    (row,) = at_once.lake.rows("appends")
    assert (row["append_id"], row["first_image_id"], row["n_images"]) == (str(ROWS), ROWS, NEW)
    assert row["finished_at"] is not None


def test_drift_is_what_numpy_says(at_once: Context) -> None:
    """Of every model: far images by the 99 % quantile of the fitted ones' distances or as noise, and the index."""
    labels = at_once.lake.read("labels").toPandas()
    algorithms = {m["model_id"]: m["algorithm"] for m in at_once.lake.rows("models")}
    rows = at_once.lake.rows("drift")
    assert {r["append_id"] for r in rows} == {str(ROWS), "all"}
    for row in rows:
        own = labels[labels["model_id"] == row["model_id"]]
        far = own["cluster"] < 0
        if algorithms[row["model_id"]] not in ("kmeans", "minibatch_kmeans", "bisecting_kmeans"):
            assert row["far_from"] is None
        else:
            near = own[(own["image_id"] < ROWS) & ~far]["distance"]
            assert row["far_from"] == np.quantile(near, 0.99, method="inverted_cdf")
            far |= own["distance"] > row["far_from"]
        new = own["image_id"] >= ROWS
        assert (row["n_images"], row["n_far"]) == (NEW, (far & new).sum())
        assert row["usual_far"] == pytest.approx(far[~new].mean())
        counts = pd.crosstab(own["cluster"], new).to_numpy() + 0.5
        old, now = (counts / counts.sum(axis=0)).T
        assert row["psi"] == pytest.approx(((now - old) * np.log(now / old)).sum())


@pytest.fixture(scope="module")
def small(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run with fewer models, for copies."""
    ctx = run_of(spark, case, tmp_path_factory.mktemp("append") / "small", "parquet", **SMALL)
    look(ctx)
    run_pipeline(ctx)
    return Path(str(ctx.config.lake.path))


@pytest.fixture(scope="module")
def small_at_once(
    spark: SparkSession, small: Path, case: Path, rest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Context:
    ctx = copied(spark, small, case, tmp_path_factory.mktemp("append") / "small-at-once", SMALL)
    append(ctx, rest)
    return ctx


@pytest.fixture(scope="module")
def in_pieces(spark: SparkSession, small: Path, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("append")
    ctx = copied(spark, small, case, folder / "in-pieces", SMALL)
    size = NEW // PIECES
    for at in range(PIECES):
        append(ctx, make_case(folder / f"piece{at}", ROWS + at * size, ROWS + (at + 1) * size))
    return ctx


@pytest.mark.slow
@pytest.mark.parametrize("table", ["images", "descriptors", *GIVEN, "outliers", "outlier_reasons", "projections"])
def test_ten_pieces_are_as_one(small_at_once: Context, in_pieces: Context, table: str) -> None:
    one, other = frame(small_at_once, table), frame(in_pieces, table)
    exact = [c for c in one.columns if one[c].dtype.kind not in "f" and c not in ("vector", "neighbours", "reason")]
    pd.testing.assert_frame_equal(one[exact], other[exact])
    for column in (c for c in one.columns if one[c].dtype.kind == "f"):
        np.testing.assert_allclose(other[column], one[column], rtol=1e-5, atol=1e-6)
    if "vector" in one:
        for a, b in zip(one["vector"], other["vector"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_drift_of_all_pieces_is_that_of_one(small_at_once: Context, in_pieces: Context) -> None:
    rows = [
        pd.DataFrame(c.lake.rows("drift", append_id=["all"])).drop(columns="created_at").sort_values("model_id")
        for c in (small_at_once, in_pieces)
    ]
    pd.testing.assert_frame_equal(*(r.reset_index(drop=True) for r in rows))
    assert len(in_pieces.lake.rows("drift")) == (PIECES + 1) * in_pieces.lake.count("models")


def test_twice_changes_nothing(at_once: Context, rest: Path) -> None:
    before = contents(at_once.lake)
    done = append(at_once, rest)
    assert (done.came.n_new, done.came.n_known) == (0, NEW)
    assert contents(at_once.lake) == before


def test_a_run_afterwards_changes_nothing(at_once: Context) -> None:
    """The study is that of the images that it was fitted on: no stage makes anything anew."""
    before = contents(at_once.lake)
    run_pipeline(at_once)
    assert contents(at_once.lake) == before


@pytest.mark.slow
def test_a_case_that_came_in_pieces_is_there(in_pieces: Context, rest: Path) -> None:
    before = contents(in_pieces.lake)
    done = append(in_pieces, rest)
    assert (done.came.n_new, done.came.n_known) == (0, NEW)
    run_pipeline(in_pieces)
    assert contents(in_pieces.lake) == before


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


@pytest.mark.slow
def test_stopped_between_any_two_writes(
    spark: SparkSession, small: Path, case: Path, rest: Path, small_at_once: Context, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Every write in turn is the last before a stop; in the end all is as in one go."""
    ctx = copied(spark, small, case, tmp_path / "lake", SMALL)
    write, written, stops = Lake._write, list[str](), list[str]()
    allowed = 0

    def stopped(lake: Lake, *args: Any) -> None:
        if len(written) == allowed:
            raise _StoppedError
        write(lake, *args)
        written.append(args[0].name)

    monkeypatch.setattr(Lake, "_write", stopped)
    while len(stops) < 40:
        written.clear()
        try:
            append(ctx, rest)
            break
        except _StoppedError:
            stops.extend(written[-1:])
        # What is behind `images` goes on from where it was, one write at a time; reasons of outliers are written again
        # until their scores, which say that both are there, follow.
        again = stops[-2:] == ["outlier_reasons"] * 2
        allowed = (2 if again else 1) if "images" in written or "images" in stops else allowed + 1
    assert stops[:4] == ["appends", "descriptors", "bad_rows", "images"]
    assert {"features", "labels", "outliers", "projections", "image_labels", "label_sets", "drift"} <= set(stops)
    assert written[-1] == "appends"
    found, expected = contents(ctx.lake, clock=False), contents(small_at_once.lake, clock=False)
    assert {t: len(rows) for t, rows in found.items()} == {t: len(rows) for t, rows in expected.items()}
    for table in ("images", "descriptors", *GIVEN, "outliers", "projections"):
        pd.testing.assert_frame_equal(frame(ctx, table), frame(small_at_once, table))


def test_a_run_goes_on_with_an_append_that_was_stopped(
    spark: SparkSession, small: Path, case: Path, rest: Path, small_at_once: Context, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """When its images are in; before that it is as if it had not begun, and other images take their ids."""
    ctx = copied(spark, small, case, tmp_path / "lake", SMALL)
    write, last = Lake._write, "descriptors"

    def stopped(lake: Lake, *args: Any) -> None:
        write(lake, *args)
        if args[0].name == last:
            raise _StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "_write", stopped)
        with pytest.raises(_StoppedError):
            append(ctx, make_case(tmp_path / "other", 700, 760))
    run_pipeline(ctx)
    assert frame(ctx, "labels").empty
    assert frame(ctx, "features").empty
    last = "images"
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "_write", stopped)
        with pytest.raises(_StoppedError):
            append(ctx, rest)
    run_pipeline(ctx)
    for table in ("images", "descriptors", *GIVEN, "outliers", "projections"):
        pd.testing.assert_frame_equal(frame(ctx, table), frame(small_at_once, table))
    (row,) = ctx.lake.rows("appends")
    assert row["finished_at"] is not None
    assert ctx.lake.count("drift") == small_at_once.lake.count("drift")


@pytest.mark.slow
def test_a_changed_config_afterwards_gives_what_it_gives_before(
    spark: SparkSession, small: Path, case: Path, rest: Path, tmp_path: Path
) -> None:
    """A feature set, models and outlier methods that come behind the append are fitted on the study's images alone."""
    more = {
        "features": [*SMALL["features"], {"name": "v", "descriptor": "vdc_type", "steps": [{"pca": 2}]}],
        "cluster": SMALL["cluster"]
        | {"models": [*SMALL["cluster"]["models"], {"algorithm": "bisecting_kmeans", "k": 4}]},
        "outliers": SMALL["outliers"] | {"methods": ["isolation_forest", "dbscan_noise", "pca_error", "lof"]},
        "projections": {"methods": ["pca"], "dims": [2, 3], "features": ["t"]},
    }
    first, then = (copied(spark, small, case, tmp_path / name, SMALL, **more) for name in ("first", "then"))
    append(run_of(spark, case, tmp_path / "then", "parquet", **SMALL), rest)
    run_pipeline(then)
    run_pipeline(first)
    append(first, rest)
    for table in ("descriptors", *GIVEN, "outliers", "projections"):
        pd.testing.assert_frame_equal(frame(then, table, 0), frame(first, table, 0))
    columns = ["model_id", "n_clusters", "n_noise", "status", "agreement_vehicles"]
    one, other = (sorted(map(str, c.lake.rows("models", columns))) for c in (first, then))
    assert one == other
    assert first.lake.count("drift") == then.lake.count("drift") == 2 * len(one)


def test_a_descriptor_that_comes_later(
    spark: SparkSession, small: Path, case: Path, rest: Path, tmp_path: Path
) -> None:
    """The study's case gets one more: appended images have it too, from their own case, or the run says what lacks."""
    for name in ("case", "rest"):
        shutil.copytree(case if name == "case" else rest, tmp_path / name)
    more = {"features": [*SMALL["features"], {"name": "v", "descriptor": "late", "steps": []}]}
    ctx = copied(spark, small, tmp_path / "case", tmp_path / "lake", SMALL, **more)
    append(run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **SMALL), tmp_path / "rest")
    late = arrays(slice(0, ROWS + NEW))["osnet"][:, ::-1].copy()
    (tmp_path / "case" / "descriptors" / "late.pickle").write_bytes(pickle.dumps(late[:ROWS]))
    with pytest.raises(CaseError, match=rf"rest \(appended as {ROWS}\): lacks the descriptor late"):
        run_pipeline(ctx)
    (tmp_path / "rest" / "descriptors" / "late.pickle").write_bytes(pickle.dumps(late[ROWS:]))
    run_pipeline(ctx)
    rows = ctx.lake.read("features", features="v").orderBy("image_id").toPandas()
    assert np.array_equal(np.stack(rows["vector"].to_list()), late)
    models = [m["model_id"] for m in ctx.lake.rows("models", features=["v"])]
    assert ctx.lake.read("labels", model_id=models).count() == len(models) * (ROWS + NEW)


# -- what a case may be ------------------------------------------------------------------------------


def test_images_that_the_lake_has(spark: SparkSession, small: Path, case: Path, tmp_path: Path) -> None:
    """The same vectors: left out, and the others keep their places. Other vectors: refused, with names."""
    ctx = copied(spark, small, case, tmp_path / "lake", SMALL)
    done = append(ctx, make_case(tmp_path / "both", ROWS - 4, ROWS + 6))
    assert (done.came.n_new, done.came.n_known) == (6, 4)
    assert frame(ctx, "images")["image_id"].tolist() == list(range(ROWS + 4, ROWS + 10))
    assert append(ctx, make_case(tmp_path / "next", ROWS + 6, ROWS + 8)).came.n_new == 2
    assert frame(ctx, "images")["image_id"].tolist()[-2:] == [ROWS + 10, ROWS + 11]
    before = contents(ctx.lake)
    other = arrays(slice(ROWS, ROWS + 9))["osnet"]
    other[2, 1] += 1
    other[8, 1] += 1
    path = image_paths(1000)[ROWS + 2].replace("\\", "/")
    with pytest.raises(
        CaseError, match=rf"1 of its paths are in the lake already, with other vectors: {path} \(osnet\)"
    ):
        append(ctx, make_case(tmp_path / "other", ROWS, ROWS + 9, osnet=other))
    assert contents(ctx.lake) == before


def test_rows_with_nan(spark: SparkSession, small: Path, case: Path, tmp_path: Path) -> None:
    """Refused by number, or left out and listed."""
    ctx = copied(spark, small, case, tmp_path / "lake", SMALL)
    bad = arrays(slice(ROWS, ROWS + 6))["osnet"]
    bad[2, 1] = np.nan
    folder = make_case(tmp_path / "bad", ROWS, ROWS + 6, osnet=bad)
    with pytest.raises(CaseError, match=r"osnet.pickle: 1 rows, first 2"):
        append(ctx, folder)
    done = append(ctx, folder, on_bad_rows="drop")
    assert (done.came.n_new, done.came.n_dropped) == (5, 1)
    assert frame(ctx, "images")["image_id"].tolist() == [ROWS + i for i in (0, 1, 3, 4, 5)]
    (row,) = ctx.lake.rows("bad_rows")
    assert (row["image_id"], row["descriptors"]) == (ROWS + 2, ["osnet"])
    before = contents(ctx.lake)
    done = append(ctx, folder, on_bad_rows="drop")
    assert (done.came.n_new, done.came.n_known, done.came.n_dropped) == (0, 5, 0)
    run_pipeline(ctx)
    assert contents(ctx.lake) == before


def test_cases_that_do_not_fit(spark: SparkSession, small: Path, case: Path, tmp_path: Path) -> None:
    ctx = copied(spark, small, case, tmp_path / "lake", SMALL)
    before = contents(ctx.lake)
    folder = make_case(tmp_path / "new", ROWS, ROWS + 6)
    descriptors = folder / "descriptors"
    (descriptors / "osnet.pickle").rename(tmp_path / "osnet.pickle")
    with pytest.raises(CaseError, match=r"new: lacks the descriptor osnet, which the lake has .* it has vdc_type"):
        append(ctx, folder)
    (descriptors / "osnet.pickle").write_bytes(pickle.dumps(np.zeros((6, 5), np.float32)))
    with pytest.raises(CaseError, match=r"osnet has 5 columns, but the lake holds it with 3"):
        append(ctx, folder)
    (descriptors / "osnet.pickle").write_bytes(pickle.dumps(np.zeros((5, 3), np.float32)))
    with pytest.raises(CaseError, match=r"osnet.pickle: 5 rows"):
        append(ctx, folder)
    assert contents(ctx.lake) == before
    with pytest.raises(LakeError, match=r"table 'sources' is not in the lake .*: run `motorpool ingest` first"):
        append(run_of(spark, case, tmp_path / "empty", "parquet", **SMALL), folder)


def test_one_image_and_attributes(spark: SparkSession, tmp_path: Path) -> None:
    """A single row; columns that the lake's images have are taken over, others are not, and a run keeps both."""
    for name, first, last in (("case", 0, 80), ("new", 80, 81)):
        make_case(tmp_path / name, first, last)
        paths = [p.replace("\\", "/") for p in image_paths(1000)[first:last]]
        extra = {"case": {"site": "north"}, "new": {"site": "south", "lens": "wide"}}[name]
        write_attributes(tmp_path / name / "attributes.csv", [{"path": p, **extra} for p in paths])
    study = {"features": STUDY["features"][1:], "cluster": {"models": [{"algorithm": "kmeans", "k": 3}]}}
    ctx = run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **study)
    run_pipeline(ctx)
    append(ctx, tmp_path / "new")
    (row,) = frame(ctx, "images", 80).to_dict("records")
    assert (row["site"], row["vehicle_id"], set(row)) == (
        "south", "00027", {"image_id", "path", "vehicle_id", "site"}
    )  # fmt: skip
    assert len(frame(ctx, "labels", 80)) == 1
    paths = [p.replace("\\", "/") for p in image_paths(1000)[:80]]
    write_attributes(tmp_path / "case" / "attributes.csv", [{"path": p, "site": "east", "day": "1"} for p in paths])
    before = contents(ctx.lake)
    run_pipeline(ctx)
    images = ctx.lake.read("images").orderBy("image_id").toPandas()
    assert images["site"].tolist() == ["east"] * 80 + ["south"]
    assert images["day"].tolist() == ["1"] * 80 + [None]
    assert {t for t, rows in contents(ctx.lake).items() if rows != before[t]} == {"images"}


def test_vehicles_of_new_images(spark: SparkSession, tmp_path: Path) -> None:
    """Steps that look at vehicles take those of the append; the study's agreement stays that of its own images."""
    study = {
        "features": [{"name": "m", "descriptor": "osnet", "steps": ["vehicle_mean"]}, STUDY["features"][1]],
        "cluster": {"models": [{"algorithm": "kmeans", "k": 3}]},
    }
    # Whole vehicles of three photos, and one that the study has photos of.
    ctx = run_of(spark, make_case(tmp_path / "case", 0, 80), tmp_path / "lake", "parquet", **study)
    run_pipeline(ctx)
    new = make_case(tmp_path / "new", 80, 93)
    before = contents(ctx.lake)
    append(ctx, new)
    x = arrays(slice(80, 93))["osnet"]
    rows = ctx.lake.read("features", features="m").where("image_id >= 80").orderBy("image_id").toPandas()
    vehicle = np.arange(80, 93) // 3
    expected = np.stack([x[vehicle == v].mean(axis=0) for v in vehicle])
    np.testing.assert_allclose(np.stack(rows["vector"].to_list()), expected, rtol=1e-5)
    run_pipeline(ctx)
    after = contents(ctx.lake)
    assert {t for t in after if after[t] != before.get(t)} == {
        "images", "descriptors", "features", "labels", "appends", "drift"
    }  # fmt: skip


def test_a_delta_lake(
    spark: SparkSession,
    case: Path,
    rest: Path,
    small_at_once: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same rows, beside files that stay as they are."""
    # What this process reads is of no files.
    monkeypatch.setattr(lake_module, "FEW_READ", -1)
    study = {k: SMALL[k] for k in ("features", "cluster")}
    ctx = run_of(spark, case, tmp_path / "lake", "delta", **study)
    run_pipeline(ctx)
    files = set((tmp_path / "lake").rglob("*.parquet"))
    latest = {t: ctx.lake.read(t).inputFiles() for t in ("descriptors", "features", "labels")}
    done = append(ctx, rest)
    assert done.came.n_new == NEW
    for table, before in latest.items():
        assert set(before) < set(ctx.lake.read(table).inputFiles())
    assert files < set((tmp_path / "lake").rglob("*.parquet"))
    for table in ("images", "descriptors", "features"):
        pd.testing.assert_frame_equal(frame(ctx, table), frame(small_at_once, table))
    one, other = frame(small_at_once, "labels"), frame(ctx, "labels")
    pd.testing.assert_frame_equal(other[["model_id", "image_id", "cluster"]], one[["model_id", "image_id", "cluster"]])
    before = contents(ctx.lake)
    append(ctx, rest)
    run_pipeline(ctx)
    assert contents(ctx.lake) == before


def test_one_append_at_a_time(small_at_once: Context, rest: Path) -> None:
    with (
        small_at_once.lake.growing(),
        pytest.raises(LakeError, match=r"is being appended to by process .* one append at a"),
    ):
        append(small_at_once, rest)


def test_the_command(small: Path, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says of images, models and drift; images far from all others ask for a new fit."""
    shutil.copytree(small, tmp_path / "lake")
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        json.dumps(
            {"case": {"path": str(case)}, "lake": {"path": str(tmp_path / "lake"), "format": "parquet"}, **SMALL}
        )
    )
    far = {name: x + 40 for name, x in arrays(slice(ROWS, ROWS + NEW)).items()}
    new = make_case(tmp_path / "new", ROWS, ROWS + NEW, **far)
    capsys.readouterr()
    assert cli.main(["append", "--conf", str(conf), "--case", str(new)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'lake'}: 60 images of {new} added\n" in said
    assert "labels by 2 models; the leaderboard stays as it was" in said
    assert said.count("a new fit of model") == 2
    assert "100 % of the images are far from every cluster" in said
    assert cli.main(["append", "--conf", str(conf), "--case", str(new)]) == 0
    assert "0 images of" in capsys.readouterr().out
