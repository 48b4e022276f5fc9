"""Labels for other tools: their files, the order of photos, and corrections that come back through an import."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from cases import image_paths
from motorpool import cli
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.pipeline.handover import FORMATS

ROWS = 12
PATHS = [p.replace("\\", "/") for p in image_paths(ROWS)]
VALUES = {"type": ["sedan", "truck"], "view": ["front", "rear", "truck"]}
#: By image: the type is left for people where the id divides by 3, the view where somebody could not tell it (4).
TYPE = [VALUES["type"][i % 2] for i in range(ROWS)]
VIEW = [None if i == 4 else VALUES["view"][i % 3] for i in range(ROWS)]
LEFT = [0, 3, 6, 9]
#: The least certain first, of those that are left and then of the others; photo 4 has no probability of its view.
ORDER = [*LEFT, 4, *(i for i in range(ROWS) if i % 3 and i != 4)]


def probability(image_id: int) -> float:
    return (0.5 if image_id % 3 == 0 else 0.9) + image_id / 1000


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(spark, LakeConfig(path=str(tmp_path_factory.mktemp("handover") / "lake"), format="parquet"))
    images = {"image_id": np.arange(ROWS), "path": PATHS, "vehicle_id": [f"{i // 3:05d}" for i in range(ROWS)]}
    lake.overwrite("images", spark.createDataFrame(pa.table(images)))
    rows = [
        *((i, "type", TYPE[i], probability(i), i % 3 != 0, "probe") for i in range(ROWS)),
        *((i, "view", VIEW[i], None if i == 4 else 0.99, i != 4, "person" if i == 4 else "nearest")
          for i in range(ROWS)),
    ]  # fmt: skip
    table = spark.createDataFrame(rows[::-1], lake.schema("image_labels"))
    lake.replace("image_labels", table, {"attribute": list(VALUES)})
    columns = dict.fromkeys(f for f in lake.schema("label_sets").fieldNames() if f != "created_at")
    sets = [columns | {"attribute": name, "classes": values} for name, values in VALUES.items()]
    lake.replace_rows("label_sets", sets, {"attribute": list(VALUES)})
    # A map without photo 7.
    places = {"features": ["net"] * ROWS, "image_id": np.arange(ROWS), "x": np.arange(ROWS) * 0.5, "y": np.ones(ROWS)}
    frame = spark.createDataFrame(pa.table({**places, "method": ["pca2"] * ROWS, "z": pa.nulls(ROWS, pa.float32())}))
    frame = frame.where("image_id <> 7").selectExpr("features", "method", "image_id", "float(x)", "float(y)", "z")
    lake.replace("projections", frame, {"features": ["net"]})
    known = {"features": "net", "method": "pca2", "params": {}}
    columns = dict.fromkeys(f for f in lake.schema("projection_methods").fieldNames() if f != "created_at")
    lake.replace_rows("projection_methods", [columns | known], {"features": ["net"]})
    return lake


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    return cli.main([str(a) for a in args]), *capsys.readouterr()


def export(lake: Lake, capsys: pytest.CaptureFixture[str], to: str, out: Path, *more: object) -> str:
    status, said, err = call(capsys, "export", "--lake", lake.config.path, "--to", to, "--out", out, *more)
    assert status == 0, err
    return said


def imported(lake: Lake, capsys: pytest.CaptureFixture[str], file: Path) -> list[tuple[int, str, str | None]]:
    """What an import of the file adds to the lake, which then is as before."""
    try:
        status, _, err = call(capsys, "annotate", "import", "--lake", lake.config.path, file, "--annotator", "ada")
        assert status == 0, err
        rows = lake.read("annotations").select("image_id", "attribute", "value").collect()
        return sorted(tuple(r) for r in rows)
    finally:
        empty = lake.spark.createDataFrame([], lake.schema("annotations"))
        lake.overwrite("annotations", empty)


def nothing(lake: Lake, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """Nobody has said anything in the file."""
    status, _, err = call(capsys, "annotate", "import", "--lake", lake.config.path, file)
    assert status == 2
    assert "holds no annotation" in err


def test_label_studio_and_back(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.json"
    said = export(lake, capsys, "label-studio", out)
    assert said == f"{out}, {tmp_path / 'tasks.config.xml'}: 12 photos, 4 of them left for people come first\n"
    tasks = json.loads(out.read_text())
    assert [t["data"]["path"] for t in tasks] == [PATHS[i] for i in ORDER]
    assert tasks[1]["data"]["image"] == f"/data/local-files/?d={PATHS[3]}"
    (prediction,) = tasks[1]["predictions"]
    assert re.fullmatch(r"motorpool \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", prediction["model_version"])
    assert prediction["score"] == 0.503
    assert [(r["from_name"], r["type"], r["value"], r["score"]) for r in prediction["result"]] == [
        ("type", "choices", {"choices": ["truck"]}, 0.503),
        ("view", "choices", {"choices": ["front"]}, 0.99),
    ]
    # What somebody could not tell is no prediction.
    assert [r["from_name"] for r in tasks[4]["predictions"][0]["result"]] == ["type"]
    config = ElementTree.parse(tmp_path / "tasks.config.xml").getroot()
    choices = {c.get("name"): [v.get("value") for v in c] for c in config.iter("Choices")}
    assert choices == {name: [*values, "?"] for name, values in VALUES.items()}

    nothing(lake, capsys, out)
    # One photo's page is submitted, with the type changed.
    results = [tasks[1]["predictions"][0]["result"][0] | {"value": {"choices": ["sedan"]}}]
    tasks[1]["annotations"] = [{"completed_by": {"email": "ada"}, "result": results}]
    out.write_text(json.dumps(tasks))
    assert imported(lake, capsys, out) == [(3, "type", "sedan")]


def test_montages_of_label_studio_and_back(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photos that share all labels go together, those that are left first; each keeps choices of its own."""
    out = tmp_path / "tasks.json"
    said = export(lake, capsys, "label-studio", out, "--montage", 2)
    assert said == f"{out}, {tmp_path / 'tasks.config.xml'}: 12 photos, 4 of them left for people come first\n"
    tasks = json.loads(out.read_text())
    shown = [[PATHS.index(photo["path"]) for photo in task["data"]["photos"]] for task in tasks]
    # By type and view; the least certain photo of a group leads it, and groups come by their first photo.
    assert shown == [[0, 6], [3, 9], [4], [1, 7], [2, 8], [5, 11], [10]]
    assert tasks[1]["data"]["photos"][0]["image"] == f"/data/local-files/?d={PATHS[3]}"
    (prediction,) = tasks[1]["predictions"]
    assert [(r["from_name"], r["to_name"], r["value"]["choices"]) for r in prediction["result"]] == [
        ("type_0", "photo_0", ["truck"]), ("view_0", "photo_0", ["front"]),
        ("type_1", "photo_1", ["truck"]), ("view_1", "photo_1", ["front"]),
    ]  # fmt: skip
    assert prediction["score"] == 0.503
    config = ElementTree.parse(tmp_path / "tasks.config.xml").getroot()
    (repeated,) = config.iter("Repeater")
    assert [c.get("name") for c in repeated.iter("Choices")] == ["type_{{idx}}", "view_{{idx}}"]
    assert [c.get("name") for c in config.iter("Image")] == ["photo_{{idx}}"]

    nothing(lake, capsys, out)
    # One montage is submitted, with the second photo's view changed; then the same as JSON-MIN.
    results = [*prediction["result"][:3], prediction["result"][3] | {"value": {"choices": ["?"]}}]
    expected = [(3, "type", "truck"), (3, "view", "front"), (9, "type", "truck"), (9, "view", None)]
    out.write_text(json.dumps([tasks[1] | {"annotations": [{"completed_by": 1, "result": results}]}]))
    assert imported(lake, capsys, out) == expected
    fields = {r["from_name"]: r["value"]["choices"][0] for r in results}
    out.write_text(json.dumps([{**tasks[1]["data"], **fields, "id": 2, "annotator": 1}]))
    assert imported(lake, capsys, out) == expected


def test_cvat_and_back(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tags.xml"
    export(lake, capsys, "cvat", out)
    root = ElementTree.parse(out).getroot()
    assert [i.get("name") for i in root.iter("image")] == [PATHS[i] for i in ORDER]
    tags = {
        (i.get("name"), t.get("label"), *((a.get("name"), a.text) for a in t.iter("attribute")))
        for i in root.iter("image")
        for t in i.iter("tag")
    }
    assert tags == {
        (path, name, (name, value), ("suggested", value), ("seen", "false"))
        for name, values in (("type", TYPE), ("view", VIEW))
        for path, value in zip(PATHS, values, strict=True)
        if value is not None
    }
    labels = json.loads((tmp_path / "tags.labels.json").read_text())
    assert [(a["name"], a["attributes"][0]["values"]) for a in labels] == [
        (name, [*values, "?"]) for name, values in VALUES.items()
    ]
    assert {label.findtext("name") for label in root.iter("label")} == set(VALUES)

    nothing(lake, capsys, out)
    # A person changes two values, and confirms a third.
    changed = {i.get("name"): list(i.iter("tag")) for i in root.iter("image")}
    for tag, at, value in (
        (changed[PATHS[6]][0], 0, "?"), (changed[PATHS[5]][1], 0, "rear"), (changed[PATHS[1]][1], 2, "true"),
    ):  # fmt: skip
        list(tag.iter("attribute"))[at].text = value
    ElementTree.ElementTree(root).write(out)
    assert imported(lake, capsys, out) == [(1, "view", "rear"), (5, "view", "rear"), (6, "type", None)]


def test_csv_and_back(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.csv"
    said = export(lake, capsys, "csv", out, "--attribute", "type", "--limit", 6)
    assert said == f"{out}: 6 photos, 4 of them left for people come first\n"
    rows = list(csv.DictReader(out.open()))
    assert [r["path"] for r in rows] == [PATHS[i] for i in [*LEFT, 1, 2]]
    assert rows[1] == {
        "path": PATHS[3], "attribute": "type", "value": "", "suggested": "truck", "probability": "0.503",
        "accepted": "false",
    }  # fmt: skip
    nothing(lake, capsys, out)
    lines = out.read_text().splitlines()
    lines[2] = lines[2].replace("type,,", "type,sedan,")
    out.write_text("\n".join(lines))
    assert imported(lake, capsys, out) == [(3, "type", "sedan")]


def test_coco_and_fiftyone(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(lake, capsys, "coco", tmp_path / "labels_default.json", "--images-url", "raw_data")
    coco = json.loads((tmp_path / "labels_default.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == [f"raw_data/{PATHS[i]}" for i in ORDER]
    names = {c["id"]: (c["supercategory"], c["name"]) for c in coco["categories"]}
    # `truck` is a value of both.
    assert list(names.values()) == [
        ("type", "sedan"), ("type", "type: truck"), ("view", "front"), ("view", "rear"), ("view", "view: truck"),
    ]  # fmt: skip
    assert 0 not in names
    paths = {i["id"]: i["file_name"].removeprefix("raw_data/") for i in coco["images"]}
    found = {(paths[a["image_id"]], *names[a["category_id"]], a["score"]) for a in coco["annotations"]}
    assert len(found) == len({a["id"] for a in coco["annotations"]}) == 2 * ROWS - 1
    assert (PATHS[3], "type", "type: truck", 0.503) in found
    assert (PATHS[3], "view", "front", 0.99) in found

    said = export(lake, capsys, "fiftyone", tmp_path / "labels.json")
    assert said.startswith(f"{tmp_path / 'labels.type.json'}, {tmp_path / 'labels.view.json'}: 12 photos")
    view = json.loads((tmp_path / "labels.view.json").read_text())
    assert view["classes"] is None
    assert {name: label["label"] for name, label in view["labels"].items()} == {
        path.removesuffix(".jpg"): value for path, value in zip(PATHS, VIEW, strict=True) if value is not None
    }
    assert view["labels"][PATHS[3].removesuffix(".jpg")] == {
        "label": "front", "confidence": 0.99, "attributes": {"accepted": True, "source": "nearest"},
    }  # fmt: skip
    export(lake, capsys, "fiftyone", tmp_path / "labels.json", "--images-url", "/photos/", "--limit", 1)
    assert list(json.loads((tmp_path / "labels.type.json").read_text())["labels"]) == [f"/photos/{PATHS[0]}"]


def test_embedding_atlas(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "photos.parquet"
    export(lake, capsys, "embedding-atlas", out)
    columns = ["type", "type_probability", "type_accepted", "view", "view_probability", "view_accepted"]
    table = pq.read_table(out)
    assert table.column_names == ["path", "x", "y", *columns]
    found = table.to_pandas()
    assert found["path"].tolist() == [PATHS[i] for i in ORDER]
    assert found["type"].tolist() == [TYPE[i] for i in ORDER]
    np.testing.assert_array_equal(found["x"], [np.nan if i == 7 else i / 2 for i in ORDER])
    export(lake, capsys, "embedding-atlas", out, "--images-url", "https://photos.example/a b", "--attribute", "view")
    found = pd.read_parquet(out)
    # By the view alone no photo is left: the ones that nobody was sure of come first.
    assert found["path"].tolist()[0] == PATHS[4]
    assert found["image"].tolist() == [f"https://photos.example/a b/{path}" for path in found["path"]]
    assert list(found) == ["path", "x", "y", *columns[3:], "image"]


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_what_cannot_be(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    """Nothing is left behind, and each message says what to do."""
    out = tmp_path / f"out{FORMATS[to].extensions[0]}"
    where = ("export", "--lake", lake.config.path, "--to", to, "--out")
    wrong = [
        ((tmp_path / "out.png",), f"{to} reads files that end in"),
        ((out, "--attribute", "doors"), "--attribute doors: the lake .* it has those of type, view"),
        ((out, "--model", "x"), "--model: chooses clusters"),
        (
            (out, "--montage", 4, "--attribute", "doors"),
            "the lake .* holds no labels of it"
            if to == "label-studio"
            else f"--montage 4: a task of {to} shows one photo",
        ),
        ((out, "--map", "umap3"), "it has pca2 of net" if to == "embedding-atlas" else f"{to} draws none"),
    ]
    for args, message in wrong:
        status, _, err = call(capsys, *where, *args)
        assert status == 2
        assert re.search(message, err.replace("\n", " "))
    assert not list(tmp_path.iterdir())


def test_options_of_clusters_and_of_labels(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("export", "--lake", lake.config.path, "--out", tmp_path / "x.csv")
    assert "only with --to" in call(capsys, *where, "--attribute", "type")[2]
    bare = Lake(lake.spark, LakeConfig(path=str(tmp_path / "bare"), format="parquet"))
    bare.overwrite("images", lake.read("images"))
    status, _, err = call(capsys, "export", "--lake", tmp_path / "bare", "--to", "csv", "--out", tmp_path / "x.csv")
    assert status == 2
    assert "it has none at all. `motorpool annotate draw`" in err


@pytest.mark.parametrize(
    ("to", "name", "more"),
    [
        ("csv", "x.csv", ["--limit", 5]), ("label-studio", "x.json", []), ("label-studio", "x.json", ["--montage", 2]),
        ("cvat", "x.xml", []), ("coco", "x.json", []), ("fiftyone", "x.json", ["--attribute", "view"]),
        ("embedding-atlas", "x.parquet", ["--images-url", "http://here"]),
    ],
)  # fmt: skip
def test_both_engines_write_the_same_files(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, name: str, more: list[object]
) -> None:
    """With `--engine duckdb` Spark answers nothing."""
    written = []
    for engine in ("duckdb", "spark"):
        export(lake, capsys, to, tmp_path / engine / name, "--engine", engine, *more)
        written.append({file.name: file.read_bytes() for file in (tmp_path / engine).iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) >= 1
