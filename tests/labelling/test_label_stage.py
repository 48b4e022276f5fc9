"""The stage `label`: from annotations to image_labels and label_sets, once, again, and with what is no good."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from cases import run_of, write_case
from motorpool.config.labels import columns_of
from motorpool.errors import ConfigError
from motorpool.kernels.labels.votes import vote
from motorpool.labelling.candidates import log_probabilities
from motorpool.labelling.program import from_rows
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.label import run_label

N, PHOTOS = 150, 3
STUDY: dict[str, Any] = {
    "features": [
        {"name": "a", "descriptor": "a", "steps": [{"pca": 4}]},
        {"name": "b", "descriptor": "b", "steps": []},
    ],
    "cluster": {"models": [{"algorithm": "kmeans", "k": [3, 4]}]},
}
TYPE = {"values": ["car", "van", "truck"], "per": "vehicle", "target": 0.8}
VIEW = {"values": ["front", "rear"], "target": 0.8}


def truth() -> tuple[np.ndarray, np.ndarray]:
    """The type of each photo's vehicle, and the photo's view."""
    vehicle = np.arange(N) // PHOTOS
    return np.array(["car", "van", "truck"])[vehicle % 3], np.array(["front", "rear"])[np.arange(N) % 2]


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the feature sets and models of STUDY: `a` tells the type, `b` the view. Parquet: copies are cheap."""
    folder = tmp_path_factory.mktemp("labels")
    kind, view = truth()
    rng = np.random.default_rng(0)
    a = np.eye(6)[pd.factorize(kind)[0]] * 5 + rng.normal(size=(N, 6))
    b = np.eye(3)[pd.factorize(view)[0]] * 6 + rng.normal(size=(N, 3))
    write_case(folder / "case", N, arrays={"a": a.astype(np.float32), "b": b.astype(np.float32)})
    ctx = run_of(spark, folder / "case", folder / "lake", "parquet", **STUDY)
    for stage in (run_ingest, run_features, run_cluster):
        stage(ctx)
    return folder / "lake"


def run(spark: SparkSession, lake: Path, attributes: Mapping[str, Any]) -> Context:
    return run_of(spark, Path("nowhere"), lake, "parquet", **STUDY, labels={"attributes": dict(attributes)})


def annotate(ctx: Context, rows: Sequence[tuple[int, str, str | None]], **more: Any) -> None:
    columns = {"annotator": "ann", "purpose": "train", "draw": None, "stratum": None, "weight": None} | more
    # Each call is a day later than the one before.
    old = ctx.lake.read_or_empty("annotations")
    day = datetime(2026, 1, 1) + timedelta(days=old.count())
    made = [{"image_id": i, "attribute": a, "value": v, "created_at": day, **columns} for i, a, v in rows]
    new = ctx.spark.createDataFrame(made, ctx.lake.schema("annotations"))
    ctx.lake.overwrite("annotations", ctx.spark.createDataFrame(old.collect() + new.collect(), old.schema))


def looks(n: int, attribute: str = "type") -> list[tuple[int, str, str | None]]:
    """One photo of each of the first ``n`` vehicles."""
    values = truth()[0 if attribute == "type" else 1]
    return [(PHOTOS * v + v % PHOTOS, attribute, str(values[PHOTOS * v + v % PHOTOS])) for v in range(n)]


def labels(ctx: Context, attribute: str) -> pd.DataFrame:
    return ctx.lake.read("image_labels", attribute=attribute).toPandas().set_index("image_id").sort_index()


def label_set(ctx: Context, attribute: str) -> dict[str, Any]:
    (row,) = ctx.lake.read("label_sets", attribute=attribute).collect()
    return row.asDict(recursive=True)


def told(ctx: Context) -> tuple[list[str], list[str]]:
    """All labels and label sets, without what tells the time."""
    sets = ctx.lake.read("label_sets").drop("created_at", "seconds")
    return sorted(map(str, ctx.lake.read("image_labels").collect())), sorted(map(str, sets.collect()))


def test_the_whole_way_and_again_with_other_looks(
    spark: SparkSession, lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    ctx = run(spark, tmp_path / "lake", {"type": TYPE, "view": VIEW})
    outliers = [{"features": "consensus", "method": "consensus", "image_id": 149, "score": 1.0, "is_outlier": True}]
    ctx.lake.overwrite("outliers", spark.createDataFrame(outliers, ctx.lake.schema("outliers")))
    annotate(ctx, [*looks(30), *looks(40, "view"), (144, "type", None), (1, "view", None)])
    # Another annotator sees vehicle 28 otherwise, and changes his mind about vehicle 0.
    annotate(ctx, [(0, "type", "van")], annotator="bob")
    annotate(ctx, [(85, "type", "truck"), (0, "type", "car")], annotator="bob")
    annotate(ctx, [(100, "type", "car" if truth()[0][100] != "car" else "van")], purpose="audit")
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_label(ctx)
    kind, view = truth()
    found, row = labels(ctx, "type"), label_set(ctx, "type")
    assert list(found.index) == list(range(N))
    assert (found["value"].drop(144) == kind[np.arange(N) != 144]).mean() > 0.97
    assert found.loc[0, "source"] == "person"
    assert found.loc[0, "probability"] == 1
    # Looks at a vehicle are looks at all its photos.
    assert found.loc[[1, 2], "source"].tolist() == ["vehicle"] * 2
    assert found.loc[[1, 2], "probability"].tolist() == [1, 1]
    # Nothing is learned from an audit, and its photo is labelled as any other.
    assert found.loc[100, "value"] == kind[100]
    assert found.loc[100, "source"] == "vehicle"
    assert found.loc[100, "probability"] < 1
    # The photo of which it cannot be told, one that annotators disagree on, and an outlier.
    assert pd.isna(found.loc[144, "value"])
    assert pd.isna(found.loc[144, "probability"])
    assert not found.loc[[144, 85, 149], "accepted"].any()
    assert found.loc[90:140, "accepted"].all()
    assert (row["n_looks"], row["n_unclear"], row["n_disagreed"]) == (29, 1, 1)
    assert row["classes"] == TYPE["values"]
    assert (row["n_images"], row["n_accepted"]) == (N, int(found["accepted"].sum()))
    assert row["accuracy"] > 0.9
    assert "a" in row["features"]
    assert "held out" in caplog.text
    of_photos = labels(ctx, "view")
    assert (of_photos["value"] == view)[of_photos.index != 1].mean() > 0.97
    assert set(of_photos["source"]) == {"person", label_set(ctx, "view")["method"]}

    # A column for every attribute.
    assert ctx.lake.register()[-1] == "labelled_images"
    wide = spark.sql("SELECT * FROM labelled_images ORDER BY image_id").toPandas()
    assert list(wide.columns) == [
        "image_id",
        "path",
        "vehicle_id",
        *columns_of("type"),
        *columns_of("view"),
    ]
    assert wide["type"].tolist()[:144] == found["value"].tolist()[:144]
    assert wide["view_accepted"].tolist() == of_photos["accepted"].tolist()

    # What is stored labels as the stage did.
    parts, calibration, limit = from_rows(row["program"])
    rows: dict[str, np.ndarray] = {}
    for name in {part.source for part in parts}:
        frame = ctx.lake.read("features", features=name) if name in "ab" else ctx.lake.read("labels", model_id=name)
        column = frame.toPandas().sort_values("image_id")["vector" if name in "ab" else "cluster"]
        rows[name] = np.stack(column.to_list()) if name in "ab" else column.to_numpy()
    scores = vote(log_probabilities(parts, rows), np.arange(N) // PHOTOS, N // PHOTOS)
    top = calibration.probabilities(scores).max(axis=1).repeat(PHOTOS)
    np.testing.assert_allclose(found["probability"].to_numpy()[99:144], top[99:144], rtol=1e-5)
    assert limit is not None
    assert limit == row["threshold"]

    # Nothing is done twice.
    before = ctx.lake.read("label_sets").select("created_at").collect()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_label(ctx)
    assert "nothing to do" in caplog.text
    assert ctx.lake.read("label_sets").select("created_at").collect() == before

    # With a look more, a changed target, and an attribute less, it is as in a lake of its own.
    annotate(ctx, [(120, "type", str(kind[120]))])
    changed = {"type": {**TYPE, "target": 0.9}}
    again = run(spark, tmp_path / "lake", changed)
    run_label(again)
    shutil.copytree(lake, tmp_path / "fresh")
    for table in ("annotations", "outliers"):
        shutil.copytree(tmp_path / "lake" / table, tmp_path / "fresh" / table)
    fresh = run(spark, tmp_path / "fresh", changed)
    run_label(fresh)
    assert told(again) == told(fresh)
    assert label_set(again, "type")["n_looks"] == 30
    assert again.lake.read("image_labels", attribute="view").isEmpty()
    # The annotations stay, whatever the config asks for.
    assert again.lake.read("annotations", attribute="view").count() == 41


def test_what_cannot_be_labelled_is_told_and_the_run_goes_on(
    spark: SparkSession, lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    bare = run_of(spark, Path("nowhere"), tmp_path / "lake", "parquet", **STUDY)
    doors = {"doors": {"values": [2, 4]}}
    asked = run(spark, tmp_path / "lake", {"type": TYPE, **doors})
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_label(bare)
        assert "names no attribute" in caplog.text
        run_label(asked)
        assert "type: nobody has looked" in caplog.text
        assert "motorpool annotate draw --attribute type" in caplog.text
        annotate(asked, [(i, "type", "car") for i in (0, 9, 18)])
        annotate(asked, [(0, "doors", "2"), (1, "doors", "4"), (2, "doors", "2")])
        run_label(asked)
    assert "type: 3 photos were looked at, and all 3 of them say 'car'" in caplog.text
    assert "doors: all photos looked at show one vehicle" in caplog.text
    assert not asked.lake.exists("image_labels")
    annotate(asked, [(30, "doors", "3")])
    with pytest.raises(ConfigError, match=r"labels.attributes.doors.values: lacks '3', which 1 annotations say"):
        run_label(asked)
