"""Files of annotations: every format gives the same rows, with lines; what is wrong is told with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handed_over import PHOTOS, files
from motorpool.annotations import read_annotations
from motorpool.annotations.label_studio import photo_path
from motorpool.errors import AnnotationError, CaseError


def rows(path: Path, *wanted: str) -> list[tuple[Any, ...]]:
    found = read_annotations(str(path), frozenset(wanted) if wanted else None)
    return [(s.line, s.path, s.attribute, s.value) for s in found]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refusal(file: Path, *wanted: str) -> str:
    with pytest.raises(AnnotationError) as caught:
        rows(file, *wanted)
    assert str(caught.value).startswith(str(file))
    return str(caught.value).removeprefix(str(file))


def test_a_drawn_file_keeps_draw_stratum_and_weight_and_leaves_out_what_nobody_has_filled_in(tmp_path: Path) -> None:
    text = (
        "path,attribute,value,suggested,why,draw,purpose,stratum,weight\n"
        "a/1.jpg,type,sedan,SUV,random,audit-1,audit,2,13.5\n"
        "a/2.jpg,type,,SUV,random,audit-1,audit,2,13.5\n"
        'a/3.jpg,type," ? ",SUV,"a ""typical"" one\nof two",audit-1,audit,1,1\n'
        "a/4.jpg,Type,SUV,SUV,random,audit-1,audit,1,1.5\n"
    )
    found = list(read_annotations(str(write(tmp_path, "looks.csv", text))))
    assert [(s.line, s.path, s.attribute, s.value) for s in found] == [
        (2, "a/1.jpg", "type", "sedan"),
        (5, "a/3.jpg", "type", None),
        (6, "a/4.jpg", "Type", "SUV"),
    ]
    assert [(s.draw, s.purpose, s.stratum, s.weight) for s in found[:2]] == [
        ("audit-1", "audit", "2", 13.5),
        ("audit-1", "audit", "1", 1.0),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_any_table_with_paths_and_values(tmp_path: Path, comma: str, encoding: str) -> None:
    text = f"image{comma}Value\r\nveriwild\\1\\a.jpg{comma} weiß \r\n\r\nb.jpg{comma}?\r\n"
    found = rows(write(tmp_path, "x.csv", text.encode(encoding)))
    assert found == [(2, "veriwild\\1\\a.jpg", None, "weiß"), (4, "b.jpg", None, None)]


def test_columns_called_as_the_attributes(tmp_path: Path) -> None:
    file = write(tmp_path, "x.csv", "path,vehicle_id,Type,colour,outlier\na,1,sedan,red,\nb,2,,blue,1\n")
    assert rows(file, "type", "colour") == [
        (2, "a", "Type", "sedan"),
        (2, "a", "colour", "red"),
        (3, "b", "colour", "blue"),
    ]
    assert rows(file, "colour") == [(2, "a", "colour", "red"), (3, "b", "colour", "blue")]
    assert "or called view; found path, vehicle_id, type, colour, outlier" in refusal(file, "view")
    assert "say by --attribute which one" in refusal(file)


def test_veri_wilds_own_file(tmp_path: Path) -> None:
    text = (
        "id/image;Camera ID;Time;Model;Type;Color\n"
        "00001/000001;15;2018-03-11 07:04:36; Volkswagen-Lavida; sedan;black\n"
        "00001/000002;16;2018-03-11 08:00:00;Volkswagen-Lavida;sedan; dark gray\n"
    )
    file = write(tmp_path, "vehicle_info.txt", text)
    assert rows(file, "type", "color") == [
        (2, "00001/000001", "Type", "sedan"),
        (2, "00001/000001", "Color", "black"),
        (3, "00001/000002", "Type", "sedan"),
        (3, "00001/000002", "Color", "dark gray"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: needs a column of paths"),
        ("name,value\na,b\n", "line 1: needs a column of paths (path, paths, image, id/image), found name, value"),
        (
            "path,draw\na,b\n",
            "line 1: needs a column `value`; or say by --attribute which one to read; found path, draw",
        ),
        ("path,value,Value\n", "line 1: has the column 'value' twice"),
        ("path,value\na,b\nc\n", "line 3: has 1 fields, the header has 2"),
        ("path,value\n,b\n", "line 2: has a value but no path"),
        ("path,value,weight\na,b,0.5\n", "line 2: weight '0.5': expected a number from 1 on"),
        ("path,value,weight\na,b,nan\n", "line 2: weight 'nan'"),
        ("path,value,purpose\na,b,test\n", "line 2: purpose 'test': expected train or audit"),
        ("path,attribute,value\na,,b\n", "line 2: names no attribute"),
        ('path,value\na,"b\n', "cannot be read as CSV"),
        (b"path,value\na,\xff\n", "is neither UTF-8 nor UTF-16 text"),
        (b"path,value\na,\0\0\n", "zero bytes"),
    ],
)
def test_mistakes_in_tables_are_told_with_their_lines(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert told in refusal(write(tmp_path, "x.csv", text))


def choices(control: str, *values: str) -> dict[str, Any]:
    return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": list(values)}}


def task(image: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image, **more}, "annotations": list(annotations), "predictions": [{"result": [
        choices("type", "guessed")]}]}  # fmt: skip


def test_label_studios_json(tmp_path: Path) -> None:
    box = {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["x"]}}
    tasks = [
        task(
            "/data/local-files/?d=raw_data/veriwild/1/a%20b.jpg",
            {"completed_by": {"id": 3, "email": "ada@example.org"}, "result": [box, choices("type", "sedan")]},
            {"completed_by": 4, "result": [choices("type", "SUV"), choices("view", "?")]},
            {"completed_by": 5, "was_cancelled": True, "result": [choices("type", "van")]},
        ),
        task("/data/upload/3/0a1b2c3d-b.jpg", {"completed_by": 4, "result": []}),
        task("http://x/y.jpg", {"completed_by": 4, "result": [choices("view", "front")]}, path="veriwild/1/c.jpg"),
    ]
    file = write(tmp_path, "export.json", json.dumps(tasks, indent=1))
    lines = [i for i, line in enumerate(file.read_text().splitlines(), 1) if line == " {"]
    found = list(read_annotations(str(file)))
    assert [(s.line, s.path, s.attribute, s.value, s.annotator) for s in found] == [
        (lines[0], "raw_data/veriwild/1/a b.jpg", "type", "sedan", "ada@example.org"),
        (lines[0], "raw_data/veriwild/1/a b.jpg", "type", "SUV", "4"),
        (lines[0], "raw_data/veriwild/1/a b.jpg", "view", None, "4"),
        (lines[2], "veriwild/1/c.jpg", "view", "front", "4"),
    ]
    assert [r[2] for r in rows(file, "view")] == ["view", "view"]


def test_label_studios_short_json(tmp_path: Path) -> None:
    tasks = [
        {"image": "a/1.jpg", "id": 1, "type": "sedan", "annotator": 2, "annotation_id": 9, "created_at": "2026-01-01"},
        {"image": "a/2.jpg", "id": 2, "type": {"choices": ["SUV"]}, "annotator": 2},
    ]
    file = write(tmp_path, "min.json", json.dumps(tasks))
    assert rows(file) == [(1, "a/1.jpg", "type", "sedan"), (1, "a/2.jpg", "type", "SUV")]


def test_long_exports_are_read_a_task_at_a_time(tmp_path: Path) -> None:
    """Tasks of 1.5 MB, which pieces of 1 MB cut, and many of them in a piece."""
    long = [task(f"{i}.jpg", {"result": [choices("type", "a")]}, note="x" * 1_500_000) for i in range(3)]
    short = [task(f"s{i}.jpg", {"result": [choices("type", "ü")]}) for i in range(50)]
    file = write(tmp_path, "x.json", json.dumps([*short, *long], ensure_ascii=False))
    assert [r[1] for r in rows(file)] == [*(f"s{i}.jpg" for i in range(50)), "0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: is no export of Label Studio"),
        ('{"a": 1}', "line 1: is no export of Label Studio"),
        ("[1]", "line 1: is no task"),
        ('[\n{"data": {"image": "a.jpg"}, "annotations": []},\n{"data": {}, "annotations": []}]', "line 3: the task's"),
        ('[\n{"data": {"image": "a.jpg"}\n', "line 3: cannot be read as JSON"),
        ('[{"data": {"image": "a.jpg"}, "annotations": []}', "the file is cut off"),
        (
            json.dumps([task("a.jpg", {"result": [choices("type", "a", "b")]})]),
            "several choices of 'type' at once: a, b",
        ),
        # Controls of montages that belong to no photo of theirs.
        *(
            (
                json.dumps(
                    [{"data": {"photos": [{"path": "a.jpg"}]}, "annotations": [{"result": [choices(name, "a")]}]}]
                ),
                f"{name!r} belongs to none of the task's 1 photos",
            )
            for name in ("type_1", "type", "_0", "type_-1", "type_x")
        ),
        ('[{"data": {"photos": [7]}}]', "the task's data name no photo"),
        (b"[\xff]", "neither UTF-8 nor UTF-16"),
    ],
)
def test_mistakes_in_label_studios_files(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert told in refusal(write(tmp_path, "x.json", text))


def test_addresses_of_photos() -> None:
    assert photo_path("https://host:8080/photos/a%20b.jpg?token=1") == "photos/a b.jpg"
    assert photo_path("s3://bucket/veriwild/1/a.jpg") == "veriwild/1/a.jpg"
    assert photo_path("veriwild\\1\\a.jpg") == "veriwild\\1\\a.jpg"


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels><label><name>sedan</name><attributes><attribute><name>type</name></attribute></attributes>
  </label></labels></task></meta>
  <image id="0" name="veriwild/1/a.jpg" width="10" height="10">
    <tag label="SUV" source="manual">
    </tag>
  </image>
  <image id="1" name="b.jpg" width="10" height="10">
    <box label="vehicle" xtl="0" ytl="0" xbr="9" ybr="9">
      <attribute name="Type"> A &amp; B </attribute>
      <attribute name="view">__undefined__</attribute>
      <attribute name="colour">?</attribute>
    </box>
  </image>
</annotations>
"""


def test_cvats_tags_and_attributes(tmp_path: Path) -> None:
    file = write(tmp_path, "annotations.xml", CVAT)
    assert rows(file) == [
        (7, "veriwild/1/a.jpg", None, "SUV"),
        (12, "b.jpg", "Type", "A & B"),
        (14, "b.jpg", "colour", None),
    ]
    assert [r[2] for r in rows(file, "type")] == [None, "Type"]


def test_what_was_suggested_counts_where_a_person_has_changed_or_seen_it(tmp_path: Path) -> None:
    """In the file that `motorpool export --to cvat` writes, and in Label Studio's predictions."""
    file, _ = files("cvat", tmp_path / "tags.xml")
    assert rows(file) == []
    text, second = file.read_text(), PHOTOS[1].path
    head, tail = text.split(f'name="{second}"')
    tail = tail.replace('"type">other<', '"type">?<', 1).replace('"suggested">other<', '"suggested"> other\n<', 1)
    file.write_text(f'{head}name="{second}"{tail}')
    assert [r[1:] for r in rows(file)] == [(second, "type", None)]
    file.write_text(text.replace('"seen">false<', '"seen">true<'))
    given = [(p.path, v.attribute, v.value) for p in PHOTOS for v in p.labels if v.value is not None]
    assert [r[1:] for r in rows(file)] == given
    tasks, _ = files("label-studio", tmp_path / "tasks.json")
    assert rows(tasks) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "line 1: has a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "line 1: has a document type"),
        ("<annotations>\n<image>", "line 2: <image> has no name"),
        ("<annotations>\n<track/>", "line 2: holds tracks of a video"),
        ("<html/>", "line 1: begins with <html>"),
        ("<annotations>\n<image name='a'></annotations>", "line 2: cannot be read as XML"),
        ("", "cannot be read as XML"),
    ],
)
def test_mistakes_in_cvats_files(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(write(tmp_path, "x.xml", text))


def test_other_formats_and_missing_files(tmp_path: Path) -> None:
    assert "are read from .csv" in refusal(write(tmp_path, "x.xlsx", ""))
    with pytest.raises(CaseError, match="no such file"):
        rows(tmp_path / "none.csv")
