"""What is in a cluster: photos of folders and zips, measured appearance, evidence, and words against the truth."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from pyspark.sql import DataFrame, SparkSession
from scipy.spatial.distance import cdist
from sklearn.metrics import confusion_matrix

from cases import run_of
from motorpool.case.photo_files import reader
from motorpool.cluster.ensemble.agreement import contingency
from motorpool.config.load import parse_config
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.interpret import appearance, counts, evidence, members
from motorpool.interpret.appearance import measure
from motorpool.interpret.evidence import Evidence, Overlap, Photos, Share
from motorpool.interpret.overrides import Named, Override, load_overrides, names_of, resolve_overrides
from motorpool.interpret.stored import from_text, to_text
from motorpool.interpret.wording import Basis, basis_of, describe, named_colour, parts_of, titles
from motorpool.kernels.sampling import uniform_hash
from motorpool.photos import montage
from motorpool.photos.measures import to_lab
from motorpool.photos.source import Photo, find_images, open_images
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import STAGES, check_config
from motorpool.pipeline.stages.interpret import run_interpret
from motorpool.pipeline.titling.retitle import retitle
from motorpool.pipeline.titling.words import facts_of
from motorpool_sample import make_sample_case
from motorpool_sample import truth as t

PATH = "veriwild/1/00001/{}.jpg"


def jpeg(color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (60, 50), **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def png(size: tuple[int, int], mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, "PNG")
    return out.getvalue()


# -- images ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos that are well and photos that are not, by name."""
    root = tmp_path / "raw_data"
    below = root / "veriwild" / "1" / "00001"
    below.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    photos = {
        "good": jpeg(),
        "turned": jpeg(exif=exif.tobytes()),
        "clear": png((4, 3), "RGBA"),
        "cut": jpeg(size=(400, 300))[:900],
        "empty": b"",
        "text": b"no photo",
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "large": png((30_000, 3_000)),
    }
    for name, data in photos.items():
        (below / f"{name}.jpg").write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    os.symlink(tmp_path / "secret.jpg", below / "link.jpg")
    return root


def zipped(root: Path, file: Path, top: str = "", separator: str = "/") -> Path:
    with zipfile.ZipFile(file, "w") as z:
        for photo in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            name = top + str(photo.relative_to(root)).replace("/", separator)
            z.writestr(zipfile.ZipInfo(name), photo.read_bytes())
    return file


def test_zip_and_folder_give_the_same(folder: Path, tmp_path: Path) -> None:
    names = ["good", "turned", "clear", "cut", "empty", "text", "script", "large", "absent"]
    expected = [open_images(str(folder)).photo(PATH.format(name)) for name in names]
    assert [p.problem for p in expected] == [None] * 3 + ["broken"] * 5 + ["missing"]
    # As it is, below one more folder, made on Windows, and without the folder that paths begin with.
    roots = [
        zipped(folder, tmp_path / "veriwild.zip"),
        zipped(folder, tmp_path / "below.ZIP", "raw_data/"),
        zipped(folder, tmp_path / "windows.zip", separator="\\"),
        zipped(folder / "veriwild", tmp_path / "inner.zip"),
        folder / "veriwild",
    ]
    for root in roots:
        source = open_images(str(root))
        for name, photo in zip(names, expected, strict=True):
            found = source.photo(PATH.format(name).replace("/", "\\"))
            assert (found.problem, found.size) == (photo.problem, photo.size), (root, name)
            if found.image is not None:
                assert found.image.mode == "RGB"
                assert found.image.tobytes() == photo.image.tobytes()  # type: ignore[union-attr]


def test_photos_stand_upright_and_shrink_but_tell_their_size(folder: Path) -> None:
    source = open_images(str(folder))
    turned = source.photo(PATH.format("turned"))
    assert turned.image is not None
    assert (turned.size, turned.image.size) == ((60, 50), (50, 60))
    small = source.photo(PATH.format("good"), side=16)
    assert small.image is not None
    assert (small.size, max(small.image.size)) == ((60, 50), 16)
    cut = source.photo(PATH.format("cut"))
    assert "truncated" in cut.reason
    assert "exceeds limit" in source.photo(PATH.format("large")).reason


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "veriwild/../../secret.jpg",
        "..\\secret.jpg",
        "/etc/hostname",
        "C:\\secret.jpg",
        "",
        ".",
        "a\0b",
    ],
)
def test_paths_that_lead_out_are_refused(folder: Path, tmp_path: Path, path: str) -> None:
    for root in (folder, zipped(folder, tmp_path / "case.zip")):
        assert open_images(str(root)).photo(path).problem == "refused"


def test_links_that_lead_out_are_refused_and_others_followed(folder: Path) -> None:
    source = open_images(str(folder))
    assert source.photo(PATH.format("link")).problem == "refused"
    os.symlink(folder / "veriwild" / "1" / "00001" / "good.jpg", folder / "inside.jpg")
    assert source.photo("inside.jpg").problem is None
    os.mkfifo(folder / "pipe.jpg")
    assert source.photo("pipe.jpg").problem == "missing"


def test_files_that_are_too_large_are_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 100)
    for root in (folder, zipped(folder, tmp_path / "case.zip")):
        photo = open_images(str(root)).photo(PATH.format("good"))
        assert photo.problem == "broken"
        assert "more than 100" in photo.reason


def test_where_the_photos_are_found(folder: Path, tmp_path: Path) -> None:
    assert find_images(CaseConfig(path=str(tmp_path))) == str(folder)
    assert find_images(CaseConfig(path=str(tmp_path / "nothing"))) is None
    packed = tmp_path / "packed"
    (packed / "row_data").mkdir(parents=True)
    assert find_images(CaseConfig(path=str(packed))) == str(packed / "row_data")
    delivered = zipped(folder, packed / "row_data" / "veriwild.zip")
    assert find_images(CaseConfig(path=str(packed))) == str(delivered)
    assert find_images(CaseConfig(path=str(packed), images_root=str(folder))) == str(folder)
    with pytest.raises(CaseError, match=r"case.images_root .*away: there is no such"):
        find_images(CaseConfig(path=str(packed), images_root=str(tmp_path / "away")))
    with pytest.raises(CaseError, match="no such folder"):
        open_images(str(tmp_path / "away"))
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(CaseError, match=r"no.zip: cannot be read as a zip"):
        open_images(str(tmp_path / "no.zip"))


# -- tiles -------------------------------------------------------------------------------------------


def test_tiles_are_equal_and_show_what_is_wrong() -> None:
    red = Photo("a", Image.new("RGB", (90, 80), (255, 0, 0)), (90, 80))
    long = Photo("b", Image.new("RGB", (200, 20), (0, 0, 255)), (200, 20))
    full, whole = montage.tile(red, 40), montage.tile(long, 40)
    lost = (Photo("c", None, None, "missing"), Photo("d", None, None, "broken"))
    missing, broken = (montage.tile(photo, 40) for photo in lost)
    assert {picture.size for picture in (full, whole, missing, broken)} == {(40, 40)}
    # The nearly square one fills its tile, the long one is shown whole.
    assert full.getpixel((0, 0)) == full.getpixel((39, 39)) == (255, 0, 0)
    assert whole.getpixel((20, 20)) == (0, 0, 255)
    assert whole.getpixel((20, 2)) not in ((0, 0, 255), (255, 255, 255))
    assert missing.getpixel((20, 20)) != broken.getpixel((20, 20))
    assert missing.getpixel((2, 2)) == broken.getpixel((2, 2))
    with Image.open(io.BytesIO(montage.jpeg(full, 80))) as written:
        assert (written.format, written.size) == ("JPEG", (40, 40))


# -- appearance --------------------------------------------------------------------------------------


def test_cielab_of_known_colours() -> None:
    """Published values of the sRGB primaries for the white point D50 (Bruce Lindbloom's), in whole steps of a and b."""
    known = {
        (255, 255, 255): (100.0, 0, 0), (0, 0, 0): (0.0, 0, 0), (255, 0, 0): (54.29, 80.81, 69.89),
        (0, 255, 0): (87.82, -79.29, 80.99), (0, 0, 255): (29.57, 68.30, -112.03), (119, 119, 119): (50.03, 0, 0),
    }  # fmt: skip
    for rgb, lab in known.items():
        assert to_lab(Image.new("RGB", (2, 2), rgb))[1, 1] == pytest.approx(lab, abs=1.2)


def framed(color: tuple[int, int, int], road: int = 112) -> Photo:
    """A vehicle of one colour with a dark window, in the middle of a road."""
    picture = Image.new("RGB", (180, 160), (road, road, road))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((25, 25, 155, 135), fill=color)
    shade = tuple(int(v * 0.3) for v in (44, 54, 64))
    draw.rectangle((60, 35, 120, 60), fill=shade)
    return Photo("x", picture, picture.size)


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((235, 235, 235), "white"), ((150, 154, 158), "silver"), ((95, 96, 98), "grey"), ((22, 22, 24), "black"),
        ((190, 25, 30), "red"), ((230, 115, 30), "orange"), ((105, 68, 45), "brown"), ((235, 195, 40), "yellow"),
        ((35, 115, 65), "green"), ((35, 70, 160), "blue"), ((110, 50, 140), "purple"), ((235, 130, 175), "pink"),
    ],
)  # fmt: skip
def test_colours_by_name(color: tuple[int, int, int], name: str) -> None:
    found = measure(framed(color))
    assert (found.status, found.color, found.light, found.width, found.height) == ("ok", name, "day", 180, 160)
    # A dim photo of the same: half the light.
    dim = measure(framed(tuple(v * 55 // 100 for v in color), road=62))  # type: ignore[arg-type]
    assert dim.light == "dim"
    assert dim.color == name


def test_what_shows_nothing_has_no_colour() -> None:
    assert measure(Photo("x", None, None, "missing")) == appearance.Appearance("missing")
    night = measure(framed((40, 10, 10), road=8))
    assert (night.light, night.color) == ("night", None)
    blank = measure(Photo("x", Image.new("RGB", (50, 50), (246, 246, 246)), (50, 50)))
    assert (blank.light, blank.color, blank.sharpness) == ("glare", None, 0.0)
    assert blank.contrast == pytest.approx(0, abs=1e-4)
    one = measure(Photo("x", Image.new("RGB", (1, 1), (200, 30, 30)), (1, 1)))
    assert (one.status, one.width, one.height) == ("ok", 1, 1)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    from scipy.ndimage import laplace

    noise = np.random.default_rng(1).integers(0, 256, (128, 128), dtype=np.uint8)
    picture = Image.fromarray(noise).convert("RGB")
    expected = laplace(noise.astype(np.float64))[1:-1, 1:-1].var()
    assert appearance.sharpness(picture) == pytest.approx(expected, rel=1e-5)
    assert appearance.sharpness(picture.resize((32, 32)).resize((128, 128))) < 0.1 * expected


# -- members -----------------------------------------------------------------------------------------


def wide_of(spark: SparkSession, labels: dict[str, np.ndarray], partitions: int = 3) -> DataFrame:
    rows = pd.concat(
        pd.DataFrame(
            {"model_id": m, "image_id": np.arange(len(c)), "cluster": c, "strength": np.linspace(0, 1, len(c))}
        )
        for m, c in labels.items()
    )
    schema = "model_id STRING, image_id BIGINT, cluster INT, strength FLOAT"
    frame = spark.createDataFrame(rows, schema).where("model_id <> 'b' OR image_id <> 7").repartition(partitions)
    return members.gathered(frame, list(labels))


def chosen(df: DataFrame, model_id: str) -> dict[int, list[int]]:
    found = df.toPandas().sort_values(["model_id", "cluster", "position"])
    own = found[found["model_id"] == model_id]
    assert all(g["position"].tolist() == list(range(len(g))) for _, g in own.groupby("cluster"))
    return {int(c): g["image_id"].tolist() for c, g in own.groupby("cluster")}


@pytest.fixture(scope="module")
def labels() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {"a": rng.integers(3, size=400).astype(np.int32), "b": rng.integers(-1, 5, size=400).astype(np.int32)}


@pytest.mark.parametrize("partitions", [1, 5])
def test_typical_images_are_those_of_the_lowest_hashes(
    spark: SparkSession, labels: dict[str, np.ndarray], partitions: int
) -> None:
    found = members.typical(wide_of(spark, labels, partitions), ["a", "b"], {"a": 7, "b": 100}, seed=3)
    order = np.argsort(uniform_hash(np.arange(400), 3))
    for model, n in (("a", 7), ("b", 100)):
        # Model b has no label for image 7, and noise has no members.
        own = [i for i in order.tolist() if model == "a" or i != 7]
        expected = {c: [i for i in own if labels[model][i] == c][:n] for c in range(labels[model].max() + 1)}
        assert chosen(found, model) == expected


def test_borderline_images_have_the_lowest_silhouettes(
    spark: SparkSession, labels: dict[str, np.ndarray], wide: Callable[..., DataFrame]
) -> None:
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(400, 4)) + 1000).astype(np.float32)
    centroids = {m: np.stack([x[c == k].mean(axis=0) for k in range(c.max() + 1)]) for m, c in labels.items()}
    found = members.borderline(wide_of(spark, labels), wide(4, vector=x), centroids, {"a": 5, "b": 9})
    for model, n in (("a", 5), ("b", 9)):
        c = labels[model]
        d = cdist(x.astype(np.float64), centroids[model].astype(np.float64))
        own = np.where(c >= 0, d[np.arange(400), c], np.nan)
        other = np.where(np.arange(d.shape[1]) == c[:, None], np.inf, d).min(axis=1)
        s = (other - own) / np.maximum(own, other)
        use = [i for i in range(400) if c[i] >= 0 and (model, i) != ("b", 7)]
        expected = {k: sorted((i for i in use if c[i] == k), key=lambda i: s[i])[:n] for k in range(c.max() + 1)}
        assert chosen(found, model) == expected


def test_strength_stands_in_where_there_are_no_vectors(spark: SparkSession, labels: dict[str, np.ndarray]) -> None:
    wide = wide_of(spark, labels)
    first = [i for i in range(400) if labels["a"][i] == 1]
    assert chosen(members.by_strength(wide, ["a", "b"], {"a": 4, "b": 4}, strongest=True), "a")[1] == first[::-1][:4]
    assert chosen(members.by_strength(wide, ["a", "b"], {"a": 4, "b": 4}, strongest=False), "a")[1] == first[:4]


def test_silhouettes_of_one_cluster_of_noise_and_of_equal_rows() -> None:
    assert np.isnan(members.silhouettes(np.ones((3, 1)), np.zeros(3, int))).all()
    assert np.isnan(members.silhouettes(np.ones((2, 2)), np.array([-1, -1]))).all()
    found = members.silhouettes(np.array([[0.0, 0.0], [1.0, 4.0], [4.0, 1.0]]), np.array([0, 0, 0]))
    assert found.tolist() == [0.0, 0.75, -0.75]


# -- evidence ----------------------------------------------------------------------------------------


def test_few_images_are_no_evidence() -> None:
    assert Share("van", 3, 3, 0.1).lower == 0
    assert not Share("van", 3, 3, 0.1).stands_out
    # Many photos of two vehicles are two vehicles.
    assert Share("van", 40, 40, 0.1, vehicles=2).lower == 0
    # Wilson's interval by its formula, z of 99 %.
    z, p, n = 2.5758293035489004, 0.9, 20
    expected = (p + z * z / (2 * n) - z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    assert Share("van", 18, 20, 0.1, vehicles=5).lower == pytest.approx(expected, abs=1e-9)
    assert Share("van", 18, 20, 0.1).stands_out
    assert not Share("van", 18, 20, 0.8).stands_out


def test_usual_shares_of_samples_are_weighed_by_the_clusters() -> None:
    rows = [(0, "red", 30, None), (0, "blue", 10, None), (1, "red", 10, None), (1, "blue", 30, None)]
    plain = evidence.shares(rows)
    assert [(s.value, s.share, s.usual) for s in plain[0]] == [("red", 0.75, 0.5), ("blue", 0.25, 0.5)]
    weighed = evidence.shares(rows, {0: 900.0, 1: 100.0})
    assert [(s.value, round(s.usual, 3)) for s in weighed[1]] == [("blue", 0.3), ("red", 0.7)]
    assert evidence.shares([]) == {}


def test_counts_of_vehicles_and_attributes_are_pandas(spark: SparkSession, labels: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(6)
    n = 400
    frame = pd.DataFrame(
        {
            "image_id": np.arange(n),
            "vehicle_id": [None if i % 10 == 3 else f"{i // 4:03d}" for i in range(n)],
            "view": rng.choice(np.array(["front", "rear", None], object), n),
            "number": [str(i) for i in range(n)],
            "nothing": [None] * n,
        }
    )
    schema = "image_id BIGINT, path STRING, vehicle_id STRING, view STRING, number STRING, nothing STRING"
    table = spark.createDataFrame(frame.assign(path="x")[[c.split()[0] for c in schema.split(", ")]], schema)
    assert counts.attribute_columns(table) == (["view"], ["number"])
    clusters = np.where(np.arange(n) < 200, 0, labels["a"] + 1)
    told = frame.assign(cluster=clusters)
    wide = wide_of(spark, {"a": clusters.astype(np.int32)})

    found = counts.count_vehicles(wide, table, ["a"]).toPandas().set_index("cluster").sort_index()
    known = told.dropna(subset=["vehicle_id"])
    per = known.groupby(["vehicle_id", "cluster"]).size().reset_index(name="n")
    per["whole"] = (per["n"] == per.groupby("vehicle_id")["n"].transform("sum")) & (per["n"] >= 2)
    assert found["n_vehicles"].to_dict() == per.groupby("cluster").size().to_dict()
    assert found["n_whole"].to_dict() == per.groupby("cluster")["whole"].sum().to_dict()

    rows = counts.count_attributes(wide, table, ["view"], ["a"]).toPandas()
    expected = told.dropna(subset=["view"]).groupby(["cluster", "view"])
    assert rows.set_index(["cluster", "value"])["count"].to_dict() == expected.size().to_dict()
    assert rows.set_index(["cluster", "value"])["vehicles"].to_dict() == expected["vehicle_id"].nunique().to_dict()
    assert set(rows["attribute"]) == {"view"}


def test_overlaps_are_the_largest_cells(spark: SparkSession, labels: dict[str, np.ndarray]) -> None:
    table = contingency(wide_of(spark, labels).select("clusters"), [(0, 1)])[0]
    found = evidence.overlaps(table, "b", "osnet")
    b = np.where(np.arange(400) == 7, -1, labels["b"])
    cells = confusion_matrix(labels["a"], b, labels=range(-1, 5))[1:4, 1:]
    sizes = np.bincount(labels["a"])
    for cluster, overlap in found.items():
        assert overlap.cluster == cells[cluster].argmax()
        assert overlap.share == pytest.approx(cells[cluster].max() / sizes[cluster])
        assert overlap.usual == pytest.approx((b == overlap.cluster).mean())


def test_the_nearest_centroid() -> None:
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    d = cdist(x, x) + np.diag(np.full(9, np.inf))
    assert evidence.neighbours(x) == d.argmin(axis=1).tolist()
    assert evidence.neighbours(x[:1]) == [None]
    assert evidence.neighbours(np.empty((3, 0), np.float32)) == [None] * 3


# -- words -------------------------------------------------------------------------------------------


def about(cluster: int = 0, **facts: Any) -> Evidence:
    return Evidence("m", cluster, 200, 0.1, **facts)


WHITE = [Share("white", 90, 100, 0.25), Share("silver", 10, 100, 0.2)]
MIXED = [Share("white", 30, 100, 0.25), Share("black", 28, 100, 0.25), Share("red", 22, 100, 0.05)]
DAY = [Share("day", 85, 100, 0.8), Share("dim", 15, 100, 0.2)]


def test_words_of_a_cluster_with_photos_alone() -> None:
    e = about(
        photos=Photos(102, {"missing": 2}), colors=WHITE, lights=DAY, numbers={"tallness": (1.02, 0.9)},
        n_vehicles=30, n_whole=7, overlaps=[Overlap("o", "osnet", 2, 0.9, 0.3), Overlap("p", "vdc", 1, 0.3, 0.1)],
        neighbour=1,
    )  # fmt: skip
    other = about(1, photos=Photos(100), colors=[Share("black", 95, 100, 0.25)], lights=DAY)
    assert titles([e, other]) == {0: "White, tall frames", 1: "Black"}
    named = {("o", 2): "Pale", ("m", 1): "Black"}
    assert describe(e, {0: e, 1: other}, named) == (
        "90 % are white (25 % of all images). 85 % are in daylight. "
        "Frames are taller than usual (1.02 against 0.90 times their width). 100 photos were measured, 2 missing. "
        "Body type and view: unknown. It holds 200 images (10 %) of 30 vehicles, 7 of them with all their photos. "
        "90 % of them are in cluster 2 “Pale” of osnet (30 % of all). "
        "Its nearest cluster is 1 (“Black”), where 95 % are black, and none here."
    )


def test_labels_of_few_images_name_a_cluster_and_say_how_few() -> None:
    attributes = {
        "body_type": [Share("van", 18, 20, 0.08, 9), Share("bus", 2, 20, 0.04, 1)],
        "view": [Share("rear", 12, 20, 0.44, 8), Share("front", 8, 20, 0.56, 6)],
        "owner": [Share("city", 3, 3, 0.1, 3)],
    }
    e = about(photos=Photos(100), colors=WHITE, lights=DAY, attributes=attributes)
    assert titles([e]) == {0: "Van, white"}
    text = describe(e, {0: e}, {})
    assert "Body type: van on 18 of 20 labelled images (9 vehicles; usually 8.0 %)" in text
    assert "View: mixed on 20 labelled images (rear 60 %; front 40 %)" in text
    # A majority as everywhere is no finding.
    front = {"view": [Share("front", 180, 300, 0.57, 50), Share("rear", 120, 300, 0.43, 50)]}
    usual = about(attributes=front)
    assert "View: mixed on 300 labelled images (front 60 %; rear 40 %)" in describe(usual, {0: usual}, {})
    assert titles([usual]) == {0: "Mixed"}
    assert "owner" not in text


def test_three_labelled_images_name_nothing() -> None:
    e = about(photos=Photos(0), attributes={"body_type": [Share("van", 12, 12, 0.05, 2)], "view": []})
    few = about(1, attributes={"body_type": [Share("bus", 3, 3, 0.01, 3)]})
    assert titles([e]) == {0: "Mixed"}
    # Of 200 images three are less than a twentieth: nothing is said of the others.
    assert "Body type and view: unknown" in describe(few, {1: few}, {})
    small = Evidence("m", 0, 30, 0.1, attributes={"body_type": [Share("bus", 3, 3, 0.01, 3)]})
    assert "Body type: unknown (3 labelled images)" in describe(small, {0: small}, {})
    assert titles([few]) == {1: "Unknown"}


def test_without_any_evidence_nothing_is_claimed() -> None:
    e = about()
    assert titles([e]) == {0: "Unknown"}
    assert describe(e, {0: e}, {}) == (
        "No photos were at hand to measure. Body type and view: unknown. It holds 200 images (10 %)."
    )
    lost = about(photos=Photos(5, {"broken": 2, "missing": 3}))
    assert describe(lost, {0: lost}, {}).startswith("No photo could be measured (2 broken, 3 missing). Body type")


def test_mixed_clusters_say_what_is_more_frequent_and_equal_titles_differ() -> None:
    mixed = about(photos=Photos(100), colors=MIXED, lights=DAY)
    assert titles([mixed]) == {0: "More red than usual"}
    assert "Colour is mixed (white 30 %; black 28 %; red 22 %, usually 5.0 %)" in describe(mixed, {0: mixed}, {})
    pair = about(
        1, photos=Photos(100), colors=[Share("white", 55, 100, 0.25), Share("silver", 35, 100, 0.2)], lights=DAY
    )
    assert titles([pair]) == {1: "White or silver"}
    twins = [about(c, photos=Photos(100), colors=WHITE, lights=DAY) for c in (0, 1)]
    assert titles(twins) == {0: "White (cluster 0)", 1: "White (cluster 1)"}
    assert "nothing that was measured or labelled tells them apart" in describe(
        about(0, photos=Photos(100), colors=WHITE, neighbour=1), dict(enumerate(twins)), {}
    )


def test_columns_of_exceptions_say_nothing_of_ordinary_images() -> None:
    """An image without a value is ordinary there, so a few with one do not name their cluster."""
    rows = [(0, "night", 14, 14), (0, "text", 2, 2), (1, "night", 12, 12)]
    found = evidence.shares(rows, sizes={0: 40, 1: 1000, 2: 960})
    assert [(s.value, s.of, s.share) for s in found[0]] == [("night", 40, 0.35), ("text", 40, 0.05)]
    assert [s.usual for s in found[0]] == pytest.approx([26 / 2000, 2 / 2000])
    night, ordinary = about(0, exceptions={"outlier": found[0]}), about(1, exceptions={"outlier": found[1]})
    assert titles([night]) == {0: "More night than usual"}
    assert "Outlier: night on 14 of 40 images (usually 1.3 %)." in describe(night, {0: night}, {})
    assert titles([ordinary]) == {1: "Unknown"}
    assert "utlier" not in describe(ordinary, {1: ordinary}, {})
    all_night = about(0, exceptions={"outlier": [Share("night", 35, 40, 0.02, 30)]})
    assert titles([all_night]) == {0: "Outlier: night"}

    frame = pd.DataFrame({"model_id": "m", "cluster": [0, 0, 1, 1], "attribute": ["view", "outlier", "view", "outlier"],
                          "value": ["rear", "night", "front", "night"], "count": [20, 9, 30, 1],
                          "vehicles": [9, 9, 9, 1]})  # fmt: skip
    one, two = evidence.evidence_of(
        "m", np.array([100, 150]), np.zeros((2, 0), np.float32), counts.Counts(attributes=frame), {}
    )
    assert (list(one.attributes), list(one.exceptions)) == (["view"], ["outlier"])
    assert one.attributes["view"][0].of == 20
    assert (one.exceptions["outlier"][0].of, two.exceptions["outlier"][0].of) == (100, 150)
    assert one.exceptions["outlier"][0].usual == pytest.approx(10 / 250)
    assert (one.n_vehicles, one.share) == (None, 0.4)


def test_where_a_title_comes_from_and_how_sure_it_is() -> None:
    vans = {"body_type": [Share("van", 18, 20, 0.08, 9), Share("bus", 2, 20, 0.04, 1)]}
    both = about(photos=Photos(100), colors=WHITE, lights=DAY, attributes=vans)
    assert titles([both]) == {0: "Van, white"}
    assert basis_of("Van, white", both) == Basis("attributes and photos", 0.9)
    parts = parts_of("Van, white", both)
    assert [(p.text, p.source, p.topic, p.share, p.of, p.usual) for p in parts] == [
        ("van", "attributes", "body type", 0.9, 20, 0.08), ("white", "photos", "colour", 0.9, 100, 0.25),
    ]  # fmt: skip
    pair = about(photos=Photos(100), colors=[Share("white", 55, 100, 0.25), Share("silver", 35, 100, 0.2)], lights=DAY)
    assert basis_of("White or silver", pair) == Basis("photos", 0.9)
    assert (named_colour(both), named_colour(pair), named_colour(about())) == ("white", "white", None)
    more = about(photos=Photos(100), colors=MIXED, lights=DAY)
    assert named_colour(more) == "red"
    assert basis_of(titles([more])[0], more) == Basis("photos", 0.22)
    assert basis_of("Unknown", about()) == Basis(None, None)
    tall = about(photos=Photos(100), colors=WHITE, lights=DAY, numbers={"tallness": (1.02, 0.9)})
    assert [p.text for p in parts_of("White, tall frames (cluster 4)", tall)] == ["white", "tall frames"]
    found = about(photos=Photos(100), colors=WHITE, lights=DAY, attributes=vans, labels=("body_type",))
    assert titles([found]) == {0: "Van, white"}
    assert basis_of("Van, white", found) == Basis("labels and photos", 0.9)
    # A colour of the attributes file names a cluster as a measured one does.
    labelled = about(attributes={"color": [Share("Red", 95, 100, 0.1, 30)]})
    assert (named_colour(labelled), basis_of("Red", labelled).source) == ("red", "attributes")


def test_evidence_is_kept_number_for_number() -> None:
    e = about(
        photos=Photos(102, {"missing": 2}), colors=WHITE, lights=DAY, numbers={"tallness": (1 / 3, 0.9)},
        attributes={"body_type": [Share("vän", 18, 20, 1 / 7, 9)]}, exceptions={"outlier": [Share("night", 1, 9, 0.1)]},
        labels=("body_type",), n_vehicles=30, n_whole=7, overlaps=[Overlap("o", "osnet", 2, 0.9, 0.3)], neighbour=1,
    )  # fmt: skip
    assert from_text(to_text(e)) == e
    assert from_text(to_text(about())) == about(overlaps=[], colors=[], lights=[])
    for bad in ("", "[]", "{}", '{"photos": 3}'):
        with pytest.raises(LakeError, match="holds no evidence"):
            from_text(bad)


def test_values_of_files_are_cleaned() -> None:
    odd = "\x1b[31mvan\n" + "x" * 100
    e = about(attributes={"type": [Share(odd, 40, 40, 0.1, 9)]})
    title = titles([e])[0]
    assert title.startswith("[31mvan xxx")
    assert len(title) <= 40
    assert title.isprintable()


# -- what people say ---------------------------------------------------------------------------------


def titles_file(folder: Path, text: str) -> str:
    (folder / "titles.yaml").write_text(text, encoding="utf-8")
    return str(folder / "titles.yaml")


def test_titles_that_people_give(tmp_path: Path) -> None:
    # Ids that YAML would read as numbers.
    text = "0123456789012345:\n  0: {title: Vans}\n  2:\n    title: Ночь\n    description: |\n      One.\n      Two.\n"
    found = load_overrides(titles_file(tmp_path, text))
    assert found == {
        ("0123456789012345", 0): Override("Vans"),
        ("0123456789012345", 2): Override("Ночь", "One.\nTwo.\n"),
    }
    model = Named("0123456789012345", "osnet", "kmeans", 3)
    assert resolve_overrides(found, [model], "titles.yaml") == found
    assert load_overrides(titles_file(tmp_path, "")) == {}
    # The short form.
    assert load_overrides(titles_file(tmp_path, "osnet k=3:\n  1: White vans\n")) == {
        ("osnet k=3", 1): Override("White vans")
    }


MODELS = [
    Named("a1", "osnet-pca50", "kmeans", 6), Named("a2", "osnet-pca50", "kmeans", 5),
    Named("b1", "vdc_type", "kmeans", 6), Named("b2", "vdc_type", "gaussian_mixture", 6),
    Named("b3", "vdc_type", "gaussian_mixture", 6),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "model_id"),
    [("osnet-pca50 k=6", "a1"), ("osnet-pca50  k = 5", "a2"), ("vdc_type kmeans k=6", "b1"), ("b2", "b2")],
)
def test_models_go_by_feature_set_and_number_of_clusters(key: str, model_id: str) -> None:
    assert resolve_overrides({(key, 4): Override("x")}, MODELS, "t.yaml") == {(model_id, 4): Override("x")}


def test_a_name_of_several_models_is_refused_with_those_to_choose_from() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_overrides({("vdc_type k=6", 0): Override("x")}, MODELS, "t.yaml")
    assert str(caught.value) == (
        "report.titles t.yaml: vdc_type k=6: 3 models are called so; name one of them: b2, b3, vdc_type kmeans k=6"
    )
    # Those of the study count first.
    found = resolve_overrides({("vdc_type k=6", 0): Override("x")}, MODELS, "t.yaml", preferred={"b2", "a1"})
    assert list(found) == [("b2", 0)]
    twice = {("osnet-pca50 k=6", 0): Override("x"), ("a1", 0): Override("y")}
    with pytest.raises(ConfigError, match=r"a1\.0: this cluster of model a1 has a title above already"):
        resolve_overrides(twice, MODELS, "t.yaml")
    assert names_of(MODELS) == {
        "a1": "osnet-pca50 k=6", "a2": "osnet-pca50 k=5", "b1": "vdc_type kmeans k=6", "b2": "b2", "b3": "b3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("- a", ["expected models by name or id", "list"]),
        ("a: [1]", ["a: expected clusters by number", "list"]),
        ("a: {x: {title: b}}", ["a.x:", "whole number"]),
        ("a: {-1: {title: b}}", ["a.-1:", "whole number"]),
        ("a: {0: [Vans]}", ["a.0: expected a title", "list"]),
        ("a: {0: {titel: b}}", ["a.0: unknown key 'titel'"]),
        ("a: {0: {title: ''}}", ["a.0: title: expected a text", "''"]),
        ("a: {0: ''}", ["a.0: title: expected a text", "''"]),
        ("a: {0: {title: [b]}}", ["a.0: title: expected a text", "list"]),
        (f"a: {{0: {{title: {'b' * 201}}}}}", ["a.0: title: has 201 characters"]),
        ('a: {0: {title: "b\\u0007"}}', ["a.0: title:", "cannot be shown"]),
        ("a: {0: {title: b}, 0: {title: c}}", ["'0' is given twice"]),
        ("a: {0: {title: b}\n", ["no valid YAML"]),
        ("a: !!python/object/apply:os.system [ls]", ["a: expected clusters", "list"]),
    ],
)
def test_titles_that_are_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_overrides(titles_file(tmp_path, text))
    for part in ["report.titles", "titles.yaml", *parts]:
        assert part in str(caught.value)


def test_the_form_in_the_documentation_is_the_form(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "White vans" in b)
    assert load_overrides(titles_file(tmp_path, block)) == {
        ("vdc_color-pca50 k=6", 0): Override("White vans"),
        ("vdc_color-pca50 k=6", 3): Override("Night", "Taken after dark."),
        ("vdc_type-pca50 gaussian_mixture k=6", 1): Override("Buses"),
        ("45f94224b6eeed38", 2): Override("Trucks"),
    }


def test_titles_of_clusters_that_are_not_there(tmp_path: Path) -> None:
    given = {("a", 5): Override("x"), ("a", 1): Override("x"), ("b", 0): Override("y")}
    given[("osnet k=7", 0)] = Override("z")
    with pytest.raises(ConfigError) as caught:
        resolve_overrides(given, [Named("a", "osnet", "kmeans", 5)], "my.yaml")
    assert str(caught.value).splitlines() == [
        "report.titles my.yaml: a.5: this model has clusters 0 to 4",
        "report.titles my.yaml: b: the lake holds no clusters of such a model; see the table `clusters`",
        "report.titles my.yaml: osnet k=7: the lake holds no clusters of such a model; of this feature set it holds "
        "osnet k=5",
    ]
    with pytest.raises(ConfigError, match=r"report.titles .*away.yaml: cannot be read"):
        load_overrides(str(tmp_path / "away.yaml"))


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ({"models": []}, "config: report.models: []: expected a list of model ids, or how many models, 0 to 100"),
        ({"models": -1}, "config: report.models: -1: expected a list of model ids, or how many models, 0 to 100"),
        ({"models": [12]}, "config: report.models: 12: expected the id of a model as text: put it in quotes"),
        ({"models": ["a b"]}, "config: report.models: 'a b': use up to 100 letters"),
        ({"members": 0}, "config: report.members: 0:"),
        ({"sample": -1}, "config: report.sample: -1:"),
        ({"titles": ""}, "config: report.titles: '':"),
    ],
)
def test_what_the_config_refuses(report: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"lake": {"path": "x"}, "report": report})
    assert str(caught.value).startswith(text)
    assert len(str(caught.value).splitlines()) == 1


# -- the stage, on photos whose truth is known -------------------------------------------------------

N, SAMPLE, SEED = 900, 80, 42
#: Those whose hashes are lowest: every sample of their clusters has them.
MISSING, BROKEN = np.argsort(uniform_hash(np.arange(N), SEED))[:2].tolist()
VIEWS = {
    "color": ("vdc_color", t.COLORS, lambda truth: truth.color[truth.vehicle]),
    "light": ("osnet", t.LIGHTS, lambda truth: truth.light),
    "body": ("vdc_type", t.BODY_TYPES, lambda truth: truth.body[truth.vehicle]),
    "view": ("efficientnet-b7", t.VIEWS, lambda truth: truth.view),
}


@pytest.fixture(scope="module")
def truth() -> t.Truth:
    return t.draw_truth(N, 5)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, truth: t.Truth) -> Path:
    """A sample case of which one photo is missing and one broken."""
    folder = tmp_path_factory.mktemp("interpret") / "case"
    make_sample_case(folder, N, 5)
    (folder / "raw_data" / truth.path(MISSING)).unlink()
    (folder / "raw_data" / truth.path(BROKEN)).write_bytes(b"\xff\xd8\xff no photo")
    return folder


Made = Callable[..., Context]


@pytest.fixture(scope="module")
def made(spark: SparkSession, case: Path, truth: t.Truth, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A lake of four feature sets whose best models are the truth: pure in colour, light, body type and view."""

    def make(
        attributes: bool = False, images_root: Path | None = None, lake_format: str = "parquet", **report: Any
    ) -> Context:
        folder = tmp_path_factory.mktemp("lake")
        options = {} if images_root is None else {"images_root": str(images_root)}
        settings = {"sample": SAMPLE, "members": 5, **report}
        ctx = run_of(spark, case, folder / "lake", lake_format, case_options=options, report=settings, seed=SEED)
        fill(ctx, truth, attributes)
        return ctx

    return make


def fill(ctx: Context, truth: t.Truth, attributes: bool) -> None:
    rng = np.random.default_rng(9)
    rows = pd.DataFrame(
        {
            "image_id": np.arange(N),
            "path": [truth.path(i) for i in range(N)],
            "vehicle_id": [truth.vehicle_id(i) for i in range(N)],
        }
    )
    if attributes:
        # A tenth of the images, drawn at random: body type and view, and no colour.
        labelled = rng.random(N) < 0.1
        rows["body_type"] = np.where(labelled, np.array(t.BODY_TYPES, object)[truth.body[truth.vehicle]], None)
        rows["view"] = np.where(labelled, np.array(t.VIEWS, object)[truth.view], None)
    text = "".join(f", {c} STRING" for c in rows.columns[3:])
    ctx.lake.overwrite(
        "images", ctx.spark.createDataFrame(rows, f"image_id BIGINT, path STRING, vehicle_id STRING{text}")
    )
    models, labels, clusters, features = [], [], [], []
    for name, (descriptor, values, labels_of) in VIEWS.items():
        found = labels_of(truth).astype(int)
        centres = rng.normal(size=(len(values), 3))
        x = (centres[found] + 0.1 * rng.normal(size=(N, 3))).astype(np.float32)
        models.append(
            {"model_id": name, "features": descriptor, "algorithm": "kmeans", "params": {}, "n_clusters": len(values),
             "n_noise": 0, "calinski_harabasz": 10.0, "davies_bouldin": 1.0, "vehicle_agreement": 0.5, "status": "ok"}
        )  # fmt: skip
        labels.append(pd.DataFrame({"model_id": name, "image_id": np.arange(N), "cluster": found, "distance": 0.1}))
        features.append(pd.DataFrame({"image_id": np.arange(N), "features": descriptor, "vector": list(x.tolist())}))
        for cluster in range(len(values)):
            of = np.flatnonzero(found == cluster)
            d = np.square(x[of] - centres[cluster]).sum(axis=1)
            clusters.append(
                {"model_id": name, "cluster": cluster, "size": len(of), "share": len(of) / N,
                 "centroid": centres[cluster].tolist(), "exemplars": of[np.argsort(d)[:8]].tolist(),
                 "title": None, "description": None}
            )  # fmt: skip
    for table, content in (("models", models), ("clusters", clusters)):
        rows_of = [{**dict.fromkeys(ctx.lake.schema(table).fieldNames()), **row} for row in content]
        ctx.lake.overwrite(table, ctx.spark.createDataFrame(rows_of, ctx.lake.schema(table)))
    told = pd.concat(labels).assign(strength=None, outlier_score=None)
    ctx.lake.overwrite("labels", ctx.spark.createDataFrame(told[ctx.lake.schema("labels").fieldNames()],
                                                           ctx.lake.schema("labels")))  # fmt: skip
    ctx.lake.overwrite("features", ctx.spark.createDataFrame(pd.concat(features), ctx.lake.schema("features")))


def told(ctx: Context, model_id: str) -> list[tuple[str, str, int]]:
    rows = ctx.lake.read("clusters", model_id=model_id).orderBy("cluster").collect()
    return [(r["title"], r["description"], r["size"]) for r in rows]


@pytest.fixture(scope="module")
def plain(made: Made) -> Context:
    ctx = made(lake_format="delta")
    run_interpret(ctx)
    return ctx


def test_pure_clusters_are_named_by_colour_and_light(plain: Context) -> None:
    """Without an attributes file: from the photos alone."""
    right = []
    for name, (title, text, size) in zip(t.COLORS, told(plain, "color"), strict=True):
        assert "Body type and view: unknown" in text
        assert f"It holds {size} image" in text
        if size >= 20:
            right.append(name in title.lower().split(",")[0])
    assert len(right) >= 7
    assert all(right), told(plain, "color")
    words = {"day": "in daylight", "dusk": "in dim light", "glare": "in glare", "rain": "in daylight"}
    for name, (title, text, _) in zip(t.LIGHTS, told(plain, "light"), strict=True):
        assert words[name] in title.lower(), (name, title, text)
    for title, text, _ in told(plain, "view"):
        # The photos do not tell the view, and nothing claims it.
        assert "front" not in title.lower() + text
        assert "rear" not in title.lower() + text
    assert not any(body in title.lower() for title, _, _ in told(plain, "body") for body in t.BODY_TYPES)


def test_a_tenth_of_labels_names_body_type_and_view(made: Made, truth: t.Truth) -> None:
    ctx = made(attributes=True)
    run_interpret(ctx)
    images_ = ctx.lake.read("images").where("body_type IS NOT NULL").toPandas()
    known = truth.body[truth.vehicle[images_["image_id"]]]
    named = 0
    for cluster, (title, text, size) in enumerate(told(ctx, "body")):
        of = known == cluster
        n, vehicles, name = int(of.sum()), images_["vehicle_id"][of].nunique(), t.BODY_TYPES[cluster]
        if n >= evidence.MIN_IMAGES and vehicles >= evidence.MIN_VEHICLES and n >= 0.05 * size:
            named += 1
            assert title.lower().split(",")[0] == name
            assert f"Body type: {name} on {n} of {n} labelled images ({vehicles} vehicles" in text
        else:
            assert not any(b in title.lower() for b in t.BODY_TYPES)
            assert re.search(r"Body type(: unknown[ .;]| and view: unknown|: mixed on )", text), text
    assert named >= 2
    for name, (title, text, _) in zip(t.VIEWS, told(ctx, "view"), strict=True):
        assert f"{name} view" in title.lower()
        n = int((images_["view"] == name).sum())
        assert f"View: {name} on {n} of {n} labelled images" in text
    # Clusters of colours have no view, and say how many images that rests on.
    assert any("View: mixed on" in text for _, text, _ in told(ctx, "color"))


def label(ctx: Context, attribute: str, values: list[str], accepted: np.ndarray) -> None:
    """The tables of `motorpool label` for one attribute: a value of every image, some of them accepted."""
    n = len(values)
    share = {
        "attribute": attribute,
        "share_accepted": float(accepted.mean()),
        "n_images": n,
        "classes": sorted({*values}),
    }
    ctx.lake.replace_rows(
        "label_sets", [dict.fromkeys(ctx.lake.schema("label_sets").names) | share], {"attribute": [attribute]}
    )
    rows = pd.DataFrame({"image_id": np.arange(n), "attribute": attribute, "value": values, "probability": 0.9})
    rows["accepted"], rows["source"] = accepted, "probe"
    names = ctx.lake.schema("image_labels").names
    table = ctx.spark.createDataFrame(rows[names], ctx.lake.schema("image_labels"))
    ctx.lake.replace("image_labels", table, {"attribute": [attribute]})


def sources(ctx: Context, model_id: str) -> set[str]:
    return {r["title_from"] for r in ctx.lake.rows("clusters", ["title_from"], model_id=[model_id])}


def test_accepted_labels_name_clusters(made: Made, truth: t.Truth) -> None:
    """Where no column of images tells it; with other labels the titles are others, and without any as before."""
    ctx = made(attributes=False, sample=0)
    run_interpret(ctx)
    before = {name: told(ctx, name) for name in VIEWS}
    bodies = [t.BODY_TYPES[b] for b in truth.body[truth.vehicle]]
    rng = np.random.default_rng(3)
    accepted = rng.random(N) < 0.7
    # What is not accepted names nothing, and neither does an attribute of which hardly a photo is accepted.
    label(ctx, "body_type", [b if ok else "tank" for b, ok in zip(bodies, accepted, strict=True)], accepted)
    label(ctx, "doors", ["two"] * N, np.arange(N) < 20)
    run_interpret(ctx)
    for name, (title, text, size) in zip(t.BODY_TYPES, told(ctx, "body"), strict=True):
        if size >= 40:
            assert title.lower().split(",")[0] == name
            assert f"Body type: {name} on " in text
        assert "tank" not in title.lower() + text
        assert "two" not in title.lower() + text
    assert "labels" in sources(ctx, "body")
    # A view of front or rear.
    label(ctx, "view", [t.VIEWS[v] for v in truth.view], np.ones(N, bool))
    run_interpret(ctx)
    assert [title.lower() for title, _, _ in told(ctx, "view")] == [f"{view} view" for view in t.VIEWS]
    assert sources(ctx, "view") == {"labels"}
    for table in ("label_sets", "image_labels"):
        ctx.lake.replace_rows(table, [], {"attribute": ["body_type", "doors", "view"]})
    run_interpret(ctx)
    assert {name: told(ctx, name) for name in VIEWS} == before


def test_a_column_of_images_goes_before_labels(made: Made, truth: t.Truth) -> None:
    ctx = made(attributes=True, sample=0)
    label(ctx, "view", ["tank"] * N, np.ones(N, bool))
    run_interpret(ctx)
    for name, (title, _, _) in zip(t.VIEWS, told(ctx, "view"), strict=True):
        assert f"{name} view" in title.lower()
    assert sources(ctx, "view") == {"attributes"}


def test_a_zip_gives_the_same_as_the_folder(made: Made, case: Path, plain: Context, tmp_path: Path) -> None:
    """And a lake of Parquet the same as one of Delta."""
    zipped(case / "raw_data", tmp_path / "veriwild.zip")
    ctx = made(images_root=tmp_path / "veriwild.zip", lake_format="parquet")
    run_interpret(ctx)
    for table in ("appearance", "cluster_members", "clusters"):
        ours, theirs = (sorted(map(str, c.lake.read(table).collect())) for c in (ctx, plain))
        assert ours == theirs, table


def test_a_missing_and_a_broken_photo_are_counted(plain: Context, truth: t.Truth) -> None:
    status = {r["image_id"]: r["status"] for r in plain.lake.read("appearance").collect()}
    assert {i: s for i, s in status.items() if s != "ok"} == {MISSING: "missing", BROKEN: "broken"}
    for model, (_, _, labels_of) in VIEWS.items():
        n_sampled = np.minimum(np.bincount(labels_of(truth)), SAMPLE).sum()
        row = plain.lake.read("interpretations", model_id=model).first()
        assert row is not None
        assert (row["n_photos"], row["n_missing"], row["n_broken"], row["n_refused"]) == (n_sampled - 2, 1, 1, 0)


def test_members_of_every_kind(plain: Context, truth: t.Truth) -> None:
    rows = plain.lake.read("cluster_members").toPandas()
    assert set(rows["kind"]) == {"exemplar", "typical", "borderline"}
    assert rows["path"].tolist() == [truth.path(i) for i in rows["image_id"]]
    for model, (_, _, labels_of) in VIEWS.items():
        own = rows[rows["model_id"] == model]
        assert (labels_of(truth)[own["image_id"]] == own["cluster"]).all()
        sizes = np.bincount(labels_of(truth))
        for (cluster, kind), of in own.groupby(["cluster", "kind"]):
            assert sorted(of["position"]) == list(range(min(5, sizes[cluster]))), (model, cluster, kind)
    first = plain.lake.read("clusters", model_id="light").where("cluster = 0").first()
    exemplars = rows[(rows["model_id"] == "light") & (rows["cluster"] == 0) & (rows["kind"] == "exemplar")]
    assert first is not None
    assert exemplars.sort_values("position")["image_id"].tolist() == first["exemplars"][:5]


def test_again_it_does_nothing_and_titles_of_people_stay(made: Made, tmp_path: Path, spark: SparkSession) -> None:
    ctx = made(models=["light", "view"], sample=20)
    run_interpret(ctx)
    before = {m: told(ctx, m) for m in VIEWS}
    assert before["color"][0][:2] == (None, None)
    stamp = sorted(str(r["created_at"]) for r in ctx.lake.read("interpretations").collect())
    run_interpret(ctx)
    assert sorted(str(r["created_at"]) for r in ctx.lake.read("interpretations").collect()) == stamp

    given = {"light": {1: {"title": "Evening"}}, "color": {4: {"title": "Fire engines", "description": "All red."}}}
    path = titles_file(tmp_path, json.dumps(given))
    assert ctx.config.report is not None
    named = ctx.config.report.model_copy(update={"titles": path})
    again = Context(ctx.config.model_copy(update={"report": named}), spark, ctx.lake)
    for _ in range(2):
        run_interpret(again)
        assert told(again, "light")[1][:2] == ("Evening", before["light"][1][1])
        assert told(again, "color")[4][:2] == ("Fire engines", "All red.")
        assert told(again, "color")[0] == before["color"][0]
        assert [c[0] for c in told(again, "view")] == [c[0] for c in before["view"]]
    # Nothing was counted again for them.
    assert sorted(str(r["created_at"]) for r in ctx.lake.read("interpretations").collect()) == stamp

    # Titles alone, without a config: as interpreting gives them, there and back.
    after = {m: told(again, m) for m in VIEWS}
    assert [r["title_from"] for r in ctx.lake.rows("clusters", model_id=["color"]) if r["cluster"] == 4] == ["people"]
    assert set(retitle(ctx.lake, {})) >= {"light", "color"}
    assert {m: told(ctx, m) for m in VIEWS} == before
    overrides = {("light", 1): Override("Evening"), ("color", 4): Override("Fire engines", "All red.")}
    retitle(ctx.lake, overrides)
    assert {m: told(again, m) for m in VIEWS} == after
    assert retitle(ctx.lake, overrides) == []
    params = {r["model_id"]: r["params"] for r in ctx.lake.rows("interpretations")}
    for table, lost in (("interpretations", {"params": {"photos": ""}}), ("clusters", {"evidence": None})):
        whole = ctx.lake.rows(table, model_id=["light"])
        ctx.lake.replace_rows(table, [{**row, **lost} for row in whole], {"model_id": ["light"]})
        with pytest.raises(LakeError, match=r"model light: .* run `motorpool interpret --conf FILE` once"):
            retitle(ctx.lake, {("light", 0): Override("x")})
        ctx.lake.replace_rows(table, whole, {"model_id": ["light"]})
    # As after a run that was killed before it had written the words.
    rows = ctx.lake.rows("interpretations", model_id=["light"])
    cut = [row | {"params": facts_of(row["params"])} for row in rows]
    ctx.lake.replace_rows("interpretations", cut, {"model_id": ["light"]})
    run_interpret(again)
    assert {r["model_id"]: r["params"] for r in ctx.lake.rows("interpretations")} == params
    assert {m: told(again, m) for m in VIEWS} == after
    assert sorted(str(r["created_at"]) for r in ctx.lake.read("interpretations").collect()) == stamp

    again.lake.register()
    shown = spark.sql("SELECT DISTINCT title FROM assignments WHERE model_id = 'light' AND cluster = 1").collect()
    assert [r["title"] for r in shown] == ["Evening"]

    # Clusters that were made anew lose their titles, and get them back.
    bare = ctx.lake.read("clusters", model_id="light").drop("title", "description")
    bare = bare.selectExpr("*", "CAST(NULL AS STRING) AS title", "CAST(NULL AS STRING) AS description")
    ctx.lake.replace("clusters", bare, {"model_id": ["light"]})
    run_interpret(again)
    assert told(again, "light")[1][0] == "Evening"


@pytest.fixture(scope="module")
def raw(made: Made) -> Context:
    """A lake that nothing has been interpreted in."""
    return made()


def test_errors_come_before_the_work(raw: Context, tmp_path: Path, spark: SparkSession) -> None:
    path = titles_file(tmp_path, "light: {9: {title: x}}")
    for report, part in (({"models": ["nothing"]}, "report.models: 'nothing'"), ({"titles": path}, "clusters 0 to 3")):
        config = parse_config({"lake": {"path": str(raw.lake)}, "report": report})
        with pytest.raises(ConfigError, match=part):
            run_interpret(Context(config, spark, raw.lake))
    assert raw.lake.read("clusters").where("title IS NOT NULL").isEmpty()
    config = parse_config({"lake": {"path": "x"}, "report": {"titles": titles_file(tmp_path, "light: 3")}})
    with pytest.raises(ConfigError, match="light: expected clusters by number"):
        check_config(config, ["interpret"])
    assert list(STAGES).index("interpret") > list(STAGES).index("project")


def test_without_photos_and_vehicles_the_rest_is_told(raw: Context, spark: SparkSession) -> None:
    nobody = raw.lake.read("images").selectExpr("image_id", "path", "CAST(NULL AS STRING) AS vehicle_id")
    raw.lake.overwrite("images", nobody)
    config = parse_config({"lake": {"path": str(raw.lake)}, "report": {"models": 2}})
    run_interpret(Context(config, spark, raw.lake))
    assert raw.lake.read("interpretations").count() == 2
    assert not raw.lake.exists("appearance")
    done = [r["model_id"] for r in raw.lake.read("interpretations").collect()]
    for title, text, size in told(raw, done[0]):
        assert title.startswith("Unknown")
        assert text.startswith("No photos were at hand to measure. Body type and view: unknown. It holds")
        assert "vehicle" not in text
        assert size
