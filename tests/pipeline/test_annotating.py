"""From drawn photos to measured labels; paths as others write them; imports that are whole or nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from cases import image_paths
from motorpool import cli
from motorpool.config.labels import AttributeConfig
from motorpool.config.run import LakeConfig
from motorpool.errors import AnnotationError, ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.annotating.importing import Asked, Imported, import_file
from motorpool.pipeline.annotating.photos import locate
from motorpool.spark.blocks import to_list_array

#: Three photos of each of 60 vehicles; every third vehicle is a truck.
ROWS = 180
PATHS = [p.replace("\\", "/") for p in image_paths(ROWS)]
VEHICLE = np.arange(ROWS) // 3
TRUTH = np.where(VEHICLE % 3 == 0, "truck", "sedan")


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    """Images and a feature set with a group of vectors for each value; nobody has looked at anything."""
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
    vehicles = pa.array([f"{v:05d}" for v in VEHICLE])
    lake.overwrite(
        "images",
        spark.createDataFrame(pa.table({"image_id": np.arange(ROWS), "path": PATHS, "vehicle_id": vehicles})),
    )
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32) + 20 * (TRUTH == "truck")[:, None]
    put_features(lake, "net", x)
    return lake


def put_features(lake: Lake, name: str, x: np.ndarray, descriptors: Sequence[str] = ("net",), *steps: str) -> None:
    n, d = x.shape
    rows = pa.table({"image_id": np.arange(n), "features": [name] * n, "vector": to_list_array(x.astype(np.float32))})
    lake.replace("features", lake.spark.createDataFrame(rows), {"features": [name]})
    known = {"features": name, "n_features": d, "n_images": n, "descriptors": list(descriptors), "steps": list(steps)}
    columns = dict.fromkeys(lake.schema("feature_sets").fieldNames()) | known
    lake.replace_rows("feature_sets", [{k: v for k, v in columns.items() if k != "created_at"}], {"features": [name]})


def put_labels(lake: Lake, value: np.ndarray, accepted: np.ndarray, note: str = "1") -> None:
    """Labels as `motorpool label` writes them: all photos by a probe, those with an even id less sure."""
    table = pa.table(
        {
            "image_id": np.arange(ROWS),
            "attribute": ["type"] * ROWS,
            "value": value.tolist(),
            "probability": pa.array(np.where(np.arange(ROWS) % 2, 0.9, 0.6), pa.float32()),
            "accepted": accepted,
            "source": ["probe"] * ROWS,
        }
    )
    lake.replace("image_labels", lake.spark.createDataFrame(table), {"attribute": ["type"]})
    columns = dict.fromkeys(f for f in lake.schema("label_sets").fieldNames() if f != "created_at")
    row = columns | {"attribute": "type", "target": 0.9, "params": {"looks": note}}
    lake.replace_rows("label_sets", [row], {"attribute": ["type"]})


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out, err


def drawn(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as f:
        return list(csv.DictReader(f))


def fill_in(file: Path, said: Callable[[int], str]) -> None:
    """Write the column `value`: what a person says about the image of that id."""
    rows = drawn(file)
    with open(file, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"value": said(PATHS.index(row["path"]))} for row in rows)


def annotations(lake: Lake) -> list[tuple[Any, ...]]:
    columns = ("image_id", "value", "annotator", "purpose", "stratum", "weight")
    rows = lake.read_or_empty("annotations").orderBy("image_id", "annotator").select(*columns)
    return [tuple(r) for r in rows.collect()]


def test_photos_are_drawn_filled_in_imported_and_labels_audited(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--lake", lake.config.path, "--attribute", "type")
    looks, sample = tmp_path / "looks.csv", tmp_path / "audit.csv"

    # Typical photos first: one of both groups of vectors, each of another vehicle.
    assert call(capsys, "annotate", "draw", *where, "--n", 12, "--out", looks)[0] == 0
    rows = drawn(looks)
    ids = [PATHS.index(r["path"]) for r in rows]
    assert len(set(VEHICLE[ids])) == 12
    assert set(TRUTH[ids]) == {"truck", "sedan"}
    assert {(r["attribute"], r["value"], r["purpose"], r["weight"]) for r in rows} == {("type", "", "train", "")}
    first = looks.read_bytes()
    call(capsys, "annotate", "draw", *where, "--n", 12, "--out", looks)
    assert looks.read_bytes() == first

    both = tmp_path / "both.csv"
    status, out, _ = call(capsys, "annotate", "draw", *where, "--attribute", "view", "--n", 12, "--out", both)
    assert [line for line in out.splitlines() if "photos to look at" in line] == [
        f"{both}: 12 photos to look at for {name} (train)" for name in ("type", "view")
    ]
    assert drawn(both)[:12] == rows
    assert {r["attribute"] for r in drawn(both)[12:]} == {"view"}
    status, _, err = call(capsys, "annotate", "draw", *where, "--attribute", "type", "--out", both)
    assert (status, "--attribute type: is given twice" in err) == (2, True)

    # One photo is not looked at, one cannot be told.
    fill_in(looks, lambda i: {ids[0]: "", ids[1]: "?"}.get(i, TRUTH[i]))
    status, out, _ = call(capsys, "annotate", "import", "--lake", lake.config.path, looks, "--annotator", "ada")
    assert (status, out) == (0, f"{looks}: type: 11 new, 0 changed, 0 as before\n")
    assert [r[1] for r in annotations(lake) if r[0] == ids[1]] == [None]
    held = annotations(lake)
    status, out, _ = call(capsys, "annotate", "import", "--lake", lake.config.path, looks, "--annotator", "ada")
    assert (status, out) == (0, f"{looks}: type: 0 new, 0 changed, 11 as before\n")
    assert annotations(lake) == held

    # Labels of which one in five trucks is wrong; half of the next draw is unsure, and no photo comes twice.
    label = np.where((TRUTH == "truck") & (VEHICLE % 15 == 0), "sedan", TRUTH)
    put_labels(lake, label, np.ones(ROWS, bool))
    again = tmp_path / "again.csv"
    assert call(capsys, "annotate", "draw", *where, "--n", 10, "--out", again)[0] == 0
    more = [PATHS.index(r["path"]) for r in drawn(again)]
    assert not set(VEHICLE[more]) & set(VEHICLE[ids[1:]])
    assert len(set(VEHICLE[more])) == 10
    assert [r["why"] for r in drawn(again)].count("unsure: 60%") == 5
    assert [r["suggested"] for r in drawn(again)] == label[more].tolist()

    # An audit: independent of what was learned from, stratified, with weights that stand for all photos.
    assert call(capsys, "annotate", "draw", *where, "--n", 30, "--purpose", "audit", "--out", sample)[0] == 0
    rows = drawn(sample)
    tested = [PATHS.index(r["path"]) for r in rows]
    assert len(set(VEHICLE[tested])) == 30
    assert not set(VEHICLE[tested]) & set(VEHICLE[ids[1:]])
    assert {(r["suggested"], r["why"]) for r in rows} == {("", "random")}
    left = ~np.isin(VEHICLE, VEHICLE[ids[1:]])
    for value in ("sedan", "truck"):
        weights = [float(r["weight"]) for r, i in zip(rows, tested, strict=True) if label[i] == value]
        assert sum(weights) == pytest.approx(np.sum(left & (label == value)))
    fill_in(sample, lambda i: TRUTH[i])
    assert call(capsys, "annotate", "import", "--lake", lake.config.path, sample, "--annotator", "ada")[0] == 0

    status, out, _ = call(capsys, "audit", *where)
    assert status == 0
    found = {r["value"]: r for r in lake.rows("audits")}
    right = label == TRUTH
    of_sedans = [i for i in tested if label[i] == "sedan"]
    assert found["truck"]["accuracy"] == 1.0
    assert (found["sedan"]["n"], found["sedan"]["right"]) == (len(of_sedans), int(right[of_sedans].sum()))
    assert found["sedan"]["accuracy"] == pytest.approx(right[of_sedans].mean())
    share = np.mean(label[left] == "sedan")
    assert found[None]["accuracy"] == pytest.approx(share * right[of_sedans].mean() + 1 - share)
    assert found[None]["low"] < np.mean(right[left]) < found[None]["high"]
    assert (found[None]["n"], found[None]["n_images"], found[None]["target"]) == (30, ROWS, 0.9)
    assert "all" in out
    assert "other labels" not in out

    # Labels made anew, of which some are not accepted: the audit says which looks still count.
    put_labels(lake, label, label == "truck", note="2")
    out = call(capsys, "audit", *where, "--target", 0.5)[1]
    assert f"{len(of_sedans)} photos have a label that is not accepted" in out
    assert "drawn from other labels" in out
    assert {r["value"]: (r["n"], r["verdict"]) for r in lake.rows("audits")}[None] == (30 - len(of_sedans), "accept")

    # Learned from photos of the audit's vehicles: they do not count any more.
    (tmp_path / "rest.csv").write_text(
        "path,value\n" + "".join(f"{p},{t}\n" for p, t in zip(PATHS, TRUTH, strict=True))
    )
    status, out, _ = call(
        capsys, "annotate", "import", "--lake", lake.config.path, tmp_path / "rest.csv", "--attribute", "type",
        "--annotator", "bob",
    )  # fmt: skip
    assert (status, out.split(": ")[-1]) == (0, f"{ROWS} new, 0 changed, 0 as before\n")
    kept = {r[0] for r in annotations(lake) if r[3] == "audit"}
    assert kept == set(tested)
    assert "30 photos show vehicles that labels were learned from" in call(capsys, "audit", *where)[1]
    assert call(capsys, "annotate", "draw", *where, "--out", looks)[0] == 1


def test_an_audit_of_labels_of_which_only_those_that_people_gave_are_accepted(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few looks: no probability reaches the target, so only the photos of vehicles that were looked at are accepted."""
    where = ("--lake", lake.config.path, "--attribute", "type")
    looks, sample = tmp_path / "looks.csv", tmp_path / "audit.csv"
    assert call(capsys, "annotate", "draw", *where, "--n", 6, "--out", looks)[0] == 0
    fill_in(looks, lambda i: TRUTH[i])
    assert call(capsys, "annotate", "import", "--lake", lake.config.path, looks, "--annotator", "ada")[0] == 0
    taught = np.isin(VEHICLE, VEHICLE[[PATHS.index(r["path"]) for r in drawn(looks)]])
    put_labels(lake, TRUTH, taught)

    status, out, _ = call(capsys, "annotate", "draw", *where, "--n", 10, "--purpose", "audit", "--out", sample)
    assert status == 0
    assert "a sample of all labels, since accepted are only those of vehicles that people have looked at" in out
    ids = [PATHS.index(r["path"]) for r in drawn(sample)]
    assert len(set(VEHICLE[ids])) == 10
    assert not taught[ids].any()
    fill_in(sample, lambda i: TRUTH[i])
    assert call(capsys, "annotate", "import", "--lake", lake.config.path, sample, "--annotator", "ada")[0] == 0
    status, out, _ = call(capsys, "audit", *where)
    assert status == 0
    assert "accepted are only labels of vehicles that people have looked at" in " ".join(out.split())
    (found,) = [r for r in lake.rows("audits") if r["value"] is None]
    assert (found["n"], found["right"], found["accepted"], found["n_images"]) == (10, 10, False, ROWS)


def test_two_values_are_not_merged_into_one(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An attribute of one value tells nothing; where there is a third value, the same looks advise to merge."""
    put_labels(lake, np.full(ROWS, "sedan"), np.ones(ROWS, bool))
    sample = tmp_path / "audit.csv"
    where = ("--lake", lake.config.path, "--attribute", "type")
    call(capsys, "annotate", "draw", *where, "--n", 40, "--purpose", "audit", "--out", sample)
    fill_in(sample, lambda i: TRUTH[i])
    call(capsys, "annotate", "import", "--lake", lake.config.path, sample, "--annotator", "ada")

    def verdicts() -> dict[str | None, str]:
        status, _, err = call(capsys, "audit", *where)
        assert status == 0, err
        return {r["value"]: r["verdict"] for r in lake.rows("audits")}

    assert verdicts() == {None: "look by hand", "sedan": "look by hand"}
    looked_at = VEHICLE[[PATHS.index(r["path"]) for r in drawn(sample)]]
    put_labels(lake, np.where(np.isin(VEHICLE, looked_at), "sedan", "bus"), np.ones(ROWS, bool), note="2")
    assert verdicts() == {None: "look by hand", "sedan": "merge with truck", "bus": "more looks"}


def test_typical_photos_are_those_of_all_descriptors_side_by_side(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One feature set of each descriptor, of equal weight whatever its scale; or those that are named."""
    rng = np.random.default_rng(1)
    rear = np.arange(ROWS) % 2
    noise = rng.normal(size=(ROWS, 7))
    # Whitened comes first, and a joined set adds nothing where its descriptors have sets of their own.
    put_features(lake, "view-raw", 1e3 * noise[:, :3], ["view"])
    put_features(lake, "view-white", 1e-3 * (noise[:, :3] + 20 * rear[:, None]), ["view"], "vehicle_whiten")
    put_features(lake, "joined", noise, ["net", "view"])
    # Without vectors of the last photos.
    put_features(lake, "other+view", noise[:150], ["other", "view"])
    where = ("annotate", "draw", "--lake", lake.config.path, "--attribute", "type", "--out", tmp_path / "looks.csv")

    def kinds(*more: object) -> tuple[set[tuple[str, int]], str]:
        status, out, err = call(capsys, *where, *more)
        assert status == 0, err
        ids = [PATHS.index(r["path"]) for r in drawn(tmp_path / "looks.csv")]
        return {(str(TRUTH[i]), int(rear[i])) for i in ids}, out.splitlines()[1].strip()

    found, told = kinds("--n", 4, "--features", "net", "--features", "view-white")
    assert found == {("truck", 0), ("truck", 1), ("sedan", 0), ("sedan", 1)}
    assert told == "typical photos are those of the feature sets net, view-white side by side"
    assert kinds("--n", 4)[1].endswith("feature sets net, other+view, view-white side by side")
    assert kinds("--n", 2, "--features", "net")[0] in ({("truck", a), ("sedan", b)} for a in (0, 1) for b in (0, 1))
    assert {view for _, view in kinds("--n", 2, "--features", "view-white")[0]} == {0, 1}
    status, _, err = call(capsys, *where, "--features", "net", "--features", "neural")
    assert status == 2
    assert "feature set neural: the lake has joined, net, other+view, view-raw, view-white" in " ".join(err.split())

    # What the config gives an attribute counts where the command names none.
    conf = tmp_path / "run.yaml"
    conf.write_text(f"lake: {{path: {lake.config.path}, format: parquet}}\n"
                    "features: [{name: view-white, descriptor: view}]\n"
                    "labels: {attributes: {type: {features: [view-white]}}}\n")  # fmt: skip
    lake_option = where.index("--lake")
    by_conf = [*where[:lake_option], "--conf", conf, *where[lake_option + 2 :], "--n", 2]
    status, out, err = call(capsys, *by_conf)
    assert (status, "those of the feature set view-white" in out) == (0, True), err


def test_paths_as_others_write_them(spark: SparkSession) -> None:
    images = [
        "veriwild/1/00001/000001.jpg",
        "veriwild/2/00001/000001.jpg",
        "veriwild/1/00002/000002.jpg",
        "a/b.tar.jpg",
    ]
    expected: dict[str, Sequence[int]] = {
        "veriwild\\1\\00001\\000001.jpg": [0],
        "./veriwild/2/00001/000001.jpg": [1],
        "raw_data/veriwild/1/00001/000001.jpg": [0],
        "2/00001/000001.png": [1],
        "00001/000001": [0, 1],
        "00002/000002": [2],
        "000002.jpg": [2],
        "other/9/00002/000002.jpg": [],
        "00003/000003": [],
        "0002/000002": [],
        "b.tar.jpg": [3],
        "b": [],
        "": [],
    }
    known = spark.createDataFrame(pa.table({"image_id": np.arange(len(images)), "path": images}))
    given = spark.createDataFrame(pa.table({"path": list(expected)}))
    found = {r["path"]: sorted(r["found"]) for r in locate(given, known).collect()}
    assert found == expected


def test_a_file_is_imported_whole_or_refused_with_its_lines(lake: Lake, tmp_path: Path) -> None:
    attributes = {"type": AttributeConfig(values=("sedan", "truck")), "view": AttributeConfig()}
    ada = Asked("ada")

    def refusal(text: str, asked: Asked = ada, name: str = "x.csv") -> list[str]:
        (tmp_path / name).write_text(text)
        with pytest.raises(AnnotationError) as caught:
            import_file(lake, str(tmp_path / name), asked, attributes)
        assert not lake.exists("annotations") or annotations(lake) == before
        return str(caught.value).splitlines()[1:]

    before: list[tuple[Any, ...]] = []
    assert refusal(
        "path,type,view\n"
        f"{PATHS[0]},sedan,front\n"
        f"{PATHS[1]},van,\n"
        "nowhere.jpg,sedan,rear\n"
        f"{PATHS[2]},sedan,front\n"
        f"raw_data/{PATHS[2]},truck,front\n"
        f"{PATHS[3]},sedan,?\n"
    ) == [
        "  line 3: van: is no value of type, which has sedan, truck",
        "  line 4: nowhere.jpg: no image of the lake has this path",
        f"  line 5: {PATHS[2]}: sedan, but line 6 says truck: one person gives a photo one answer",
    ]
    many = "".join(f"gone/{i}.jpg,sedan\n" for i in range(9))
    told = refusal(f"path,value\n{many}", Asked("ada", attribute="type"))
    assert len(told) == 6
    assert told[-1] == "  and 4 more lines"
    with pytest.raises(ConfigError, match="names type, view"):
        import_file(lake, str(tmp_path / "x.csv"), Asked("ada", attribute="colour"), attributes)

    # VERI-Wild's file by the name that it has for the attribute; one person's answer changes, another's stands beside.
    info = tmp_path / "vehicle_info.txt"
    lines = [f"{'/'.join(PATHS[i].split('/')[-2:])[:-4]};15;2018-03-11;Lavida; sedan;red\n" for i in range(4)]
    info.write_text("id/image;Camera ID;Time;Model;Type;Color\n" + "".join(lines))
    assert import_file(lake, str(info), ada, attributes) == [Imported("type", 4, 0, 0)]
    (tmp_path / "y.csv").write_text(f"path,value\n{PATHS[0]},truck\n{PATHS[1]},sedan\n{PATHS[1]},sedan\n")
    kind = Asked("ada", attribute="type")
    assert import_file(lake, str(tmp_path / "y.csv"), kind, attributes) == [Imported("type", 0, 1, 1)]
    assert import_file(lake, str(tmp_path / "y.csv"), Asked("bob", attribute="type"), attributes)[0].n_new == 2
    before = annotations(lake)
    assert [r[:3] for r in before] == [
        (0, "truck", "ada"), (0, "truck", "bob"), (1, "sedan", "ada"), (1, "sedan", "bob"), (2, "sedan", "ada"),
        (3, "sedan", "ada"),
    ]  # fmt: skip
    told = refusal(f"path,value\n{PATHS[0]},truck\n", Asked("eve", "audit", "type"))
    assert "labels are learned from this photo" in told[0]
    assert lake.read("annotations").where(F.col("created_at").isNull()).isEmpty()
