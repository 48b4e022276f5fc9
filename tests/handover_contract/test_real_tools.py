"""Files for other tools, read by the tools' own libraries: `make handover-contract` installs them; skipped without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handed_over import ATTRIBUTES, PHOTOS, files
from motorpool.annotations import read_annotations

TYPE, VIEW = ATTRIBUTES


def put_photos(folder: Path) -> None:
    for photo in PHOTOS:
        (folder / photo.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / photo.path).write_bytes(b"no picture")


def expected(attribute: str) -> dict[str, tuple[str, float]]:
    """Value and probability by the path without its extension."""
    found = {}
    for photo in PHOTOS:
        for label in photo.labels:
            if label.attribute == attribute and label.value is not None and label.probability is not None:
                found[photo.path.removesuffix(".jpg")] = (label.value, round(label.probability, 4))
    return found


def test_label_studio(tmp_path: Path) -> None:
    """Its own reader of labelling configs finds the controls and takes the predictions and a person's answer."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    objects = pytest.importorskip("label_studio_sdk.label_interface.objects")
    tasks, config = files("label-studio", tmp_path / "tasks.json")
    found = interface.LabelInterface(config.read_text())
    found.validate()
    assert {c.name: list(c.labels) for c in found.controls} == {a.name: [*a.values, "?"] for a in ATTRIBUTES}
    for task, photo in zip(json.loads(tasks.read_text()), PHOTOS, strict=True):
        (prediction,) = task["predictions"]
        assert found.validate_task({"data": task["data"]})
        assert found.validate_prediction(prediction)
        first = prediction["result"][0]
        assert not found.validate_prediction({**prediction, "result": [{**first, "value": {"choices": ["bicycle"]}}]})
        assert task["data"]["path"] == photo.path

    # What the SDK makes of a person's answer comes back as that answer.
    task = json.loads(tasks.read_text())[0]
    answer = found.get_control("type").label(["sedan"])
    given = objects.PredictionValue(result=[answer]).model_dump()["result"]
    exported = [{**task, "annotations": [{"completed_by": {"email": "ada"}, "result": given}]}]
    (tmp_path / "export.json").write_text(json.dumps(exported))
    (said,) = read_annotations(str(tmp_path / "export.json"))
    assert (said.path, said.attribute, said.value, said.annotator) == (PHOTOS[0].path, "type", "sedan", "ada")


def test_montages_of_label_studio(tmp_path: Path) -> None:
    """Its reader takes the config of montages, and what a photo's controls are called in there is what is imported."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    tasks, config = files("label-studio", tmp_path / "tasks.json", montage=4)
    interface.LabelInterface(config.read_text()).validate()
    (task,) = json.loads(tasks.read_text())
    # The config as Label Studio sees it for this task: a photo at a time.
    inner = config.read_text().split("<Repeater", 1)[1].split(">", 1)[1].split("</Repeater>")[0]
    repeated = "".join(
        inner.replace("$photos[{{idx}}].image", f"$image_{at}").replace("{{idx}}", str(at)) for at in range(len(PHOTOS))
    )
    found = interface.LabelInterface(f"<View>{repeated}</View>")
    found.validate()
    (prediction,) = task["predictions"]
    assert found.validate_prediction(prediction)
    exported = [{**task, "annotations": [{"completed_by": 1, "result": prediction["result"]}]}]
    (tmp_path / "export.json").write_text(json.dumps(exported))
    said = {(a.path, a.attribute): a.value for a in read_annotations(str(tmp_path / "export.json"))}
    expected = {(p.path, x.attribute): x.value for p in PHOTOS for x in p.labels if x.value is not None}
    assert said == expected


def test_cvat(tmp_path: Path) -> None:
    """Datumaro, by which CVAT reads formats, finds every tag with its value."""
    datumaro = pytest.importorskip("datumaro")
    from datumaro.plugins.data_formats.cvat.base import CvatBase

    (file, labels) = files("cvat", tmp_path / "tags.xml")
    put_photos(tmp_path / "images")
    source = CvatBase(str(file), subset="default")
    names = [c.name for c in source.categories()[datumaro.AnnotationType.label]]
    assert names == [a.name for a in ATTRIBUTES] == [label["name"] for label in json.loads(labels.read_text())]
    for attribute in ATTRIBUTES:
        found = {
            item.id: tag.attributes[attribute.name]
            for item in source
            for tag in item.annotations
            if names[tag.label] == attribute.name
        }
        assert found == {path: value for path, (value, _) in expected(attribute.name).items()}


def test_coco(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    files("coco", tmp_path / "annotations" / "labels_default.json")
    put_photos(tmp_path / "images")
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco")
    categories = dataset.categories()[datumaro.AnnotationType.label]
    found: dict[str, dict[str, tuple[str, float]]] = {a.name: {} for a in ATTRIBUTES}
    for item in dataset:
        for label in item.annotations:
            category = categories[label.label]
            value = category.name.removeprefix(f"{category.parent}: ")
            found[category.parent][item.id] = (value, label.attributes["score"])
    assert found == {a.name: expected(a.name) for a in ATTRIBUTES}


@pytest.mark.parametrize("absolute", [False, True])
def test_fiftyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool) -> None:
    """Its importer of image classification datasets gives every photo its label; no database is needed for that."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    photos = tmp_path / "data"
    put_photos(photos)
    made = files("fiftyone", tmp_path / "labels.json", str(photos) if absolute else None)
    assert [f.name for f in made] == ["labels.type.json", "labels.view.1.json"]
    for attribute, file in zip(ATTRIBUTES, made, strict=True):
        importer: Any = importers.FiftyOneImageClassificationDatasetImporter(
            dataset_dir=str(tmp_path), data_path=str(photos), labels_path=str(file)
        )
        importer.setup()
        found = {
            os.path.relpath(path, photos).removesuffix(".jpg"): (label.label, label.confidence)
            for path, _, label in importer
        }
        assert found == expected(attribute.name)


def test_embedding_atlas(tmp_path: Path) -> None:
    """Its command makes a page of the table, with places, photos and columns."""
    pytest.importorskip("embedding_atlas")
    import pandas as pd

    from motorpool.config.labels import columns_of

    table: dict[str, list[Any]] = {
        "path": [p.path for p in PHOTOS],
        "x": [0.0, 1.5, None],
        "y": [0.0, -1.0, None],
        "image": [f"https://photos.example/{p.image_id}.jpg" for p in PHOTOS],
    }
    for at, attribute in enumerate(ATTRIBUTES):
        value, probability, accepted = columns_of(attribute.name)
        table[value] = [p.labels[at].value for p in PHOTOS]
        table[probability] = [p.labels[at].probability for p in PHOTOS]
        table[accepted] = [p.labels[at].accepted for p in PHOTOS]
    pd.DataFrame(table).to_parquet(tmp_path / "photos.parquet")
    command = [sys.executable, "-m", "embedding_atlas.cli", "photos.parquet", "--x", "x", "--y", "y"]
    command += ["--image", "image", "--export-application", "page"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    metadata = json.loads((tmp_path / "page" / "data" / "metadata.json").read_text())
    assert metadata["props"]["data"]["projection"] == {"x": "x", "y": "y"}
    held = pd.read_parquet(tmp_path / "page" / "data" / "dataset.parquet")
    assert held["type"].tolist() == table["type"]
