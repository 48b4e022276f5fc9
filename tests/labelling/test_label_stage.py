"""The stage `label`: from annotations to image_labels and label_sets, once, again, and with what is no good."""

from __future__ import annotations

import logging
import re
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
from motorpool import cli
from motorpool.config.labels import columns_of
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.kernels.labels.calibration import Calibration
from motorpool.kernels.labels.votes import vote
from motorpool.labelling.candidates import Part, log_probabilities
from motorpool.labelling.program import from_rows, program_rows
from motorpool.percentages import percent
from motorpool.pipeline.assign import COLUMNS, run_assign
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


def assigned(ctx: Context, case: Path, out: Path, attributes: Sequence[str] | None = None, **more: Any) -> pd.DataFrame:
    """The file that `motorpool assign` writes for a case of N images, by the best model."""
    run_assign(ctx.lake, CaseConfig(path=str(case), **more), None, out, attributes)
    found = pd.read_parquet(out)
    assert len(found) == N
    return found


def told(ctx: Context) -> tuple[list[str], list[str]]:
    """All labels and label sets, without what tells the time."""
    sets = ctx.lake.read("label_sets").drop("created_at", "seconds")
    return sorted(map(str, ctx.lake.read("image_labels").collect())), sorted(map(str, sets.collect()))


def test_the_whole_way_and_again_with_other_looks(
    spark: SparkSession,
    lake: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
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
    assert row["expected"] == pytest.approx(found["probability"][found["probability"] < 1].mean())
    assert 0.9 < row["expected"] < 1
    assert "a" in row["features"]
    assert "held out" in caplog.text
    cli.summarise(ctx.lake, 1.0)
    summary = capsys.readouterr().out
    left = N - int(found["accepted"].sum())
    assert "Labels, measured on vehicles that were held out" in summary
    assert re.search(rf"│ type +│ +29 │ +{re.escape(percent(row['accuracy']))} │ .* │ +{left} │", summary)
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

    # Assigned as new images, they get the labels of the stage again, but for those that people looked at: photos for
    # themselves, and the vote of a vehicle where the case says which photos show it.
    new = assigned(ctx, lake.parent / "case", tmp_path / "new.parquet")
    looked_at = [i for i, _, _ in looks(40, "view")]
    for name, before, known in (("type", found, [*range(90), 144]), ("view", of_photos, [*looked_at, 1])):
        rest = np.setdiff1d(np.arange(147), known)
        value, probability, accepted = columns_of(name)
        assert new.loc[rest, value].tolist() == before.loc[rest, "value"].tolist()
        assert new.loc[rest, accepted].tolist() == before.loc[rest, "accepted"].tolist()
        np.testing.assert_allclose(new.loc[rest, probability], before.loc[rest, "probability"], rtol=1e-5)

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
    audits = [{"attribute": name, "n": 1, "verdict": "more looks"} for name in ("type", "view")]
    empty = dict.fromkeys(ctx.lake.schema("audits", without=["created_at"]).fieldNames())
    ctx.lake.replace_rows("audits", [empty | row for row in audits], {"attribute": ["type", "view"]})
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
    assert [r["attribute"] for r in again.lake.rows("audits")] == ["type"]
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


def put_label_set(ctx: Context, attribute: str, parts: Sequence[Part], per: str, threshold: float) -> None:
    columns = dict.fromkeys(f for f in ctx.lake.schema("label_sets").fieldNames() if f != "created_at")
    program = program_rows(parts, CALIBRATION, threshold)
    row = {"attribute": attribute, "method": "clusters", "per": per, "classes": ["car", "van"], "program": program}
    ctx.lake.replace_rows("label_sets", [columns | row], {"attribute": [attribute]})


CALIBRATION = Calibration(0.5, 0.1, np.array([0.25, 0.75]))


def test_new_images_get_the_columns_of_the_stored_programs(
    spark: SparkSession,
    lake: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clusters of a model and vectors of another feature set, by hand; what cannot be is told with what to do."""
    shutil.copytree(lake, tmp_path / "lake")
    ctx, case, out = run(spark, tmp_path / "lake", {}), lake.parent / "case", tmp_path / "new.parquet"
    with caplog.at_level(logging.INFO, logger="motorpool"):
        assert list(assigned(ctx, case, out)) == list(COLUMNS)
    assert "the lake has no label_sets" in caplog.text
    with pytest.raises(
        ConfigError, match=r"--attribute type: the lake .* it has none at all. `motorpool annotate draw`"
    ):
        assigned(ctx, case, out, ["type"])

    (model,) = ctx.lake.read("models").where("features = 'a' AND params['k'] = '4'").collect()
    rng = np.random.default_rng(3)
    table = Part("table", model["model_id"], {"log_probabilities": np.log(rng.dirichlet([1, 1], 5))})
    linear = Part("linear", "b", {"mean": rng.normal(size=3), "coef": rng.normal(size=(3, 2)), "bias": np.zeros(2)})
    put_label_set(ctx, "kind", [table, linear], "vehicle", 0.6)
    put_label_set(ctx, "side.of", [linear], "image", 0.6)
    labels_of = ctx.lake.read("labels", model_id=model["model_id"]).orderBy("image_id").toPandas()["cluster"].to_numpy()
    vectors = np.stack(ctx.lake.read("features", features="b").orderBy("image_id").toPandas()["vector"].to_list())
    rows = {model["model_id"]: labels_of, "b": vectors}
    single, alone = log_probabilities([table, linear], rows), log_probabilities([linear], rows)
    voted = vote(single, np.arange(N) // PHOTOS, N // PHOTOS).repeat(PHOTOS, axis=0)

    def check(found: pd.DataFrame, attribute: str, scores: np.ndarray) -> None:
        expected = CALIBRATION.probabilities(scores)
        value, probability, accepted = columns_of(attribute)
        assert found[value].tolist() == np.array(["car", "van"])[expected.argmax(axis=1)].tolist()
        np.testing.assert_allclose(found[probability], expected.max(axis=1), rtol=1e-5)
        assert found[accepted].tolist() == (expected.max(axis=1) >= 0.6).tolist()

    found = assigned(ctx, case, out)
    assert list(found) == [*COLUMNS, *columns_of("kind"), *columns_of("side.of")]
    check(found, "kind", voted)
    check(found, "side.of", alone)
    # Without vehicles each photo stands for itself.
    check(assigned(ctx, case, out, ["kind"], vehicle_pattern=None), "kind", single)
    assert list(assigned(ctx, case, out, [])) == list(COLUMNS)

    where = ("assign", "--lake", tmp_path / "lake", "--case", case, "--out", tmp_path / "new.csv")
    assert cli.main([*map(str, where), "--attribute", "side.of"]) == 0
    accepted = int(found["side.of_accepted"].sum())
    assert (
        f"  side.of: {accepted} photos have an accepted label, {N - accepted} are left for" in capsys.readouterr().out
    )
    text = pd.read_csv(tmp_path / "new.csv")
    assert text["side.of"].tolist() == found["side.of"].tolist()
    assert text["side.of_accepted"].tolist() == found["side.of_accepted"].tolist()

    small = write_case(tmp_path / "small", N, arrays={"a": np.zeros((N, 6), np.float32)})
    with pytest.raises(
        CaseError, match=r"the attribute kind .feature set b. needs the descriptor 'b', but the case has a"
    ):
        run_assign(ctx.lake, CaseConfig(path=str(small)), model["model_id"], out)
    with pytest.raises(
        ConfigError, match=r"--attribute doors: the lake .* holds no labels of it .*; it has those of kind"
    ):
        assigned(ctx, case, out, ["doors"])
    put_label_set(ctx, "kind", [Part("table", "gone", table.arrays)], "image", 0.6)
    with pytest.raises(ConfigError, match="--attribute kind: it is told from the clusters of model gone: the lake"):
        assigned(ctx, case, out)
    put_label_set(ctx, "distance", [linear], "image", 0.6)
    with pytest.raises(ConfigError, match="--attribute distance: its column 'distance' would hide the file's own"):
        assigned(ctx, case, out, ["distance"])
    assert cli.main([*map(str, where), "--attribute", "kind", "--no-attributes"]) == 2
    assert "give one of both" in capsys.readouterr().err


def test_nothing_is_told_from_a_consensus(spark: SparkSession, lake: Path, tmp_path: Path) -> None:
    """However good it is: it labels no new images."""
    shutil.copytree(lake, tmp_path / "lake")
    ctx = run_of(
        spark, Path("nowhere"), tmp_path / "lake", "parquet", features=STUDY["features"],
        labels={"attributes": {"type": TYPE}},
    )  # fmt: skip
    (model,) = ctx.lake.read("models").where("features = 'a' AND params['k'] = '3'").collect()
    agreed = {"model_id": "agreed", "features": "consensus", "algorithm": "consensus"}
    row = spark.createDataFrame([model.asDict() | agreed], ctx.lake.schema("models"))
    ctx.lake.replace("models", row, {"model_id": ["agreed"]})
    clusters = pd.factorize(truth()[0])[0].tolist()
    rows = [{"model_id": "agreed", "image_id": i, "cluster": c} for i, c in enumerate(clusters)]
    empty = dict.fromkeys(ctx.lake.schema("labels").fieldNames())
    labels_of = spark.createDataFrame([empty | r for r in rows], ctx.lake.schema("labels"))
    ctx.lake.replace("labels", labels_of, {"model_id": ["agreed"]})
    annotate(ctx, looks(12))
    run_label(ctx)
    read = {source for c in label_set(ctx, "type")["candidates"] for source in c["sources"]}
    assert model["model_id"] in read
    assert "agreed" not in read
