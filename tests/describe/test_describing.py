"""Photos alone become a case: vectors computed in tasks, broken photos left out, and nothing computed twice."""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from networks import write_network
from PIL import Image
from pyspark.sql import SparkSession

from cases import contents, run_of, write_case, write_paths
from motorpool.config.load import parse_config
from motorpool.config.run import CaseConfig
from motorpool.describe import photo_vectors
from motorpool.describe.built_in import METHODS
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.pipeline.assign import run_assign
from motorpool.pipeline.context import Context
from motorpool.pipeline.ingesting import describing
from motorpool.pipeline.run import check_config
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest

WEIGHTS = np.random.default_rng(8).normal(size=(5, 3)).astype(np.float32)
COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def plain(i: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """A photo in one of three colours, each a little different."""
    red, green, blue = COLORS[i % 3]
    return Image.new("RGB", size, (red + i, green + i, blue + i))


def photos(n: int = 12) -> dict[str, bytes]:
    return {f"cars/{i:03d}.png": saved(plain(i)) for i in range(n)}


def write_photos(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def network(folder: Path, weights: np.ndarray = WEIGHTS, **settings: Any) -> dict[str, Any]:
    return {"model": str(write_network(folder / "net.onnx", weights)), **settings}


def of_photos(spark: SparkSession, root: Path, lake: Path, lake_format: str = "parquet", **more: Any) -> Context:
    """A run of photos alone; ``descriptors`` are those of the case."""
    options = {"images_root": str(root), **({"descriptors": more.pop("descriptors")} if "descriptors" in more else {})}
    options |= more.pop("case_options", {})
    return run_of(spark, None, lake, lake_format, case_options=options, **more)


def vectors(lake: Lake, name: str) -> dict[int, np.ndarray]:
    return {r["image_id"]: np.array(r["vector"]) for r in lake.read("descriptors", descriptor=name).collect()}


def by_hand(picture: Image.Image, size: int = 8) -> np.ndarray:
    """What the network gives for a photo of one colour, or one that is stretched."""
    x = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), np.float64) / 255
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.reshape(-1, 3).mean(axis=0) @ WEIGHTS.T


def test_photos_of_every_kind_give_the_vectors_of_numpy(spark: SparkSession, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 3)).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    cmyk = saved(noise.convert("CMYK"), "JPEG", quality=95)
    rotated = saved(noise, "JPEG", quality=95, exif=turned.tobytes())
    files = {
        "a plain.png": saved(noise),
        "b grey.png": saved(noise.convert("L")),
        "c clear.png": saved(noise.convert("RGBA")),
        "d cmyk.jpg": cmyk,
        "e turned.jpg": rotated,
        "f palette.gif": saved(noise.convert("P"), "GIF"),
        "g one.png": saved(noise.resize((1, 1))),
        "h broken.jpg": cmyk[:500],
        "i text.jpg": b"no photo",
        "j empty.jpg": b"",
        "notes.txt": b"no photo, and not called one",
    }
    (tmp_path / "net").mkdir()
    root = write_photos(tmp_path / "photos", files)
    ctx = of_photos(spark, root, tmp_path / "lake", descriptors={"net": network(tmp_path / "net", fit="stretch")})
    run_ingest(ctx)
    upright = Image.open(io.BytesIO(rotated)).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    expected = [
        noise,
        noise.convert("L").convert("RGB"),
        noise,
        Image.open(io.BytesIO(cmyk)).convert("RGB"),
        upright,
        noise.convert("P").convert("RGB"),
        noise.resize((1, 1)),
    ]
    found = vectors(ctx.lake, "net")
    assert sorted(found) == list(range(7))
    for i, picture in enumerate(expected):
        np.testing.assert_allclose(found[i], by_hand(picture), rtol=1e-4, atol=1e-4, err_msg=list(files)[i])
    images = ctx.lake.read("images").orderBy("image_id").collect()
    assert [(r["image_id"], r["path"]) for r in images] == list(enumerate(list(files)[:7]))
    bad = ctx.lake.read("bad_rows").orderBy("image_id").collect()
    assert [(r["image_id"], r["path"], r["descriptors"]) for r in bad] == [
        (i, list(files)[i], ["net"]) for i in (7, 8, 9)
    ]
    assert all(r["reason"].startswith("broken: cannot be decoded: ") for r in bad)
    (source,) = ctx.lake.rows("sources")
    assert (source["n_rows"], source["n_columns"], source["n_dropped"]) == (10, 5, 3)
    assert source["file"] == f"{tmp_path}/net/net.onnx"
    assert len(source["computed_by"]) == 64


@pytest.mark.parametrize("lake_format", ["parquet", "delta"])
def test_a_second_run_does_nothing(spark: SparkSession, lake_format: str, tmp_path: Path) -> None:
    files = photos() | {"cars/999.png": b"broken"}
    root = write_photos(tmp_path / "photos", files)

    def run() -> Context:
        ctx = of_photos(spark, root, tmp_path / "lake", lake_format)
        run_ingest(ctx)
        return ctx

    ctx = run()
    # All defaults: what needs no network.
    for name in METHODS:
        found = vectors(ctx.lake, name)
        expected = np.array([METHODS[name].prepare(plain(i)) for i in range(12)])
        np.testing.assert_allclose(np.array([found[i] for i in range(12)]), expected, atol=1e-6)
    first = contents(ctx.lake)
    assert ctx.lake.count("described") == 0
    again = run()
    assert contents(again.lake) == first


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [0, 2, 3, 4])
def test_a_run_that_is_stopped_goes_on_behind_the_last_part(
    stop_at: int, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts of four photos, then the tables; stopped before each write, and between them."""
    monkeypatch.setattr(describing, "PART", 4)
    root = write_photos(tmp_path / "photos", photos() | {"cars/005.png": b"broken"})
    (tmp_path / "net").mkdir()
    descriptors = {"net": network(tmp_path / "net"), "color": {"builtin": "color_histogram"}}

    def start(lake: str) -> Context:
        return of_photos(spark, root, tmp_path / lake, descriptors=descriptors)

    fresh = start("fresh")
    run_ingest(fresh)

    computed: list[int] = []
    described = describing.photo_vectors

    def counted(images: Any, *args: Any) -> Any:
        computed.extend(r["image_id"] for r in images.select("image_id").collect())
        return described(images, *args)

    monkeypatch.setattr(describing, "photo_vectors", counted)
    ctx = start("lake")
    writes = 0
    replace, overwrite = Lake.replace, Lake.overwrite_rows

    def stopping(self: Lake, table: str, *args: Any) -> None:
        nonlocal writes
        if writes == stop_at:
            raise StoppedError
        writes += 1
        replace(self, table, *args)

    def stopping_rows(self: Lake, table: str, rows: Any) -> None:
        if writes == stop_at and table == "described":
            raise StoppedError
        overwrite(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "replace", stopping)
        patch.setattr(Lake, "overwrite_rows", stopping_rows)
        with pytest.raises(StoppedError):
            run_ingest(ctx)
    again = start("lake")
    run_ingest(again)
    # The part whose write was stopped is computed again; no other.
    assert sorted(computed) == sorted([*range(12), *(range(4 * stop_at, 4 * stop_at + 4) if stop_at < 3 else [])])
    assert contents(again.lake, clock=False) == contents(fresh.lake, clock=False)


def test_a_descriptor_that_comes_later_is_computed_alone(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "PART", 5)
    root = write_photos(tmp_path / "photos", photos() | {"cars/005.png": b"broken"})
    (tmp_path / "net").mkdir()
    both = {"color": {"builtin": "color_histogram"}, "net": network(tmp_path / "net")}
    for wanted in ({"color": both["color"]}, both):
        ctx = of_photos(spark, root, tmp_path / "lake", descriptors=wanted)
        run_ingest(ctx)
    fresh = of_photos(spark, root, tmp_path / "fresh", descriptors=both)
    run_ingest(fresh)
    one, other = contents(ctx.lake, clock=False), contents(fresh.lake, clock=False)
    assert one == other


def test_parts_of_another_network_are_not_taken(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "PART", 4)
    root = write_photos(tmp_path / "photos", photos())
    (tmp_path / "net").mkdir()
    file = network(tmp_path / "net", WEIGHTS + 1)

    def stopped(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr("motorpool.pipeline.stages.ingest._write", stopped)
        with pytest.raises(StoppedError):
            run_ingest(of_photos(spark, root, tmp_path / "lake", descriptors={"net": file}))
    write_network(Path(file["model"]), WEIGHTS)
    ctx = of_photos(spark, root, tmp_path / "lake", descriptors={"net": file})
    assert ctx.lake.count("described") == 12
    run_ingest(ctx)
    found = vectors(ctx.lake, "net")
    np.testing.assert_allclose(found[7], by_hand(plain(7)), rtol=1e-4)
    assert ctx.lake.count("described") == 0


def test_another_network_under_the_same_name_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", photos())
    (tmp_path / "net").mkdir()
    given = network(tmp_path / "net")

    def run(descriptor: Any, **options: Any) -> None:
        more = {"case_options": {"images_paths": str(tmp_path / "paths.csv")}} if options else {}
        run_ingest(of_photos(spark, root, tmp_path / "lake", descriptors={"net": descriptor}, **more))

    run(given)
    moved = tmp_path / "moved.onnx"
    shutil.copyfile(given["model"], moved)
    run({"model": str(moved)})
    np.save(tmp_path / "net.npy", np.zeros((12, 5), np.float32))
    write_paths(tmp_path / "paths.csv", photos())
    with pytest.raises(LakeError, match=r"holds net from .*net.onnx, but case.descriptors now gives .*net.npy"):
        run(str(tmp_path / "net.npy"), paths=True)
    with pytest.raises(LakeError, match=r"now gives .*net.onnx: another network, or photos that are prepared"):
        run({**given, "fit": "stretch"})
    write_network(Path(given["model"]), WEIGHTS * 2)
    with pytest.raises(LakeError, match="another network"):
        run(given)


def test_vectors_that_are_not_finite_are_left_out(spark: SparkSession, tmp_path: Path) -> None:
    """A sum over the 64 pixels that is beyond float32 for white photos alone."""
    root = write_photos(tmp_path / "photos", photos(4) | {"cars/900.png": saved(Image.new("RGB", (8, 8), "white"))})
    (tmp_path / "net").mkdir()
    given = network(tmp_path / "net", np.full((2, 3), 3e38 / 64, np.float32), mean=[0, 0, 0], std=[2, 2, 2])
    ctx = of_photos(spark, root, tmp_path / "lake", descriptors={"net": given})
    run_ingest(ctx)
    (bad,) = ctx.lake.read("bad_rows").collect()
    assert (bad["path"], bad["reason"]) == ("cars/900.png", "NaN or infinity")
    assert len(vectors(ctx.lake, "net")) == 4


def test_photos_that_are_missing_and_arrays_with_nan(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A list of paths, of which one has no photo, and one no row; ``on_bad_rows`` is about rows that are read alone."""
    files = photos(6)
    case = write_case(tmp_path / "case", 7, {"osnet": np.eye(7, 4, dtype=np.float32)})
    write_paths(case / "images_paths.csv", [*files, "cars/absent.png"])
    write_photos(case / "raw_data", files)
    descriptors = {"osnet": str(case / "descriptors" / "osnet.pickle"), "color": {"builtin": "color_histogram"}}
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"descriptors": descriptors})
    with caplog.at_level(logging.INFO, "motorpool"):
        run_ingest(ctx)
    assert "leaving out 1 of 7 images" in caplog.text
    (bad,) = ctx.lake.read("bad_rows").collect()
    assert (bad["image_id"], bad["descriptors"], bad["reason"]) == (6, ["color"], "missing: there is no such file")
    assert sorted(vectors(ctx.lake, "osnet")) == sorted(vectors(ctx.lake, "color")) == list(range(6))
    run_ingest(ctx)

    x = np.eye(7, 4, dtype=np.float32)
    x[2] = np.nan
    np.save(tmp_path / "osnet.npy", x)
    descriptors["osnet"] = str(tmp_path / "osnet.npy")
    options = {"descriptors": descriptors}
    with pytest.raises(CaseError, match=r"osnet.npy: 1 rows, first 2\. Mend the files"):
        run_ingest(run_of(spark, case, tmp_path / "other", "parquet", case_options=options))
    dropping = run_of(spark, case, tmp_path / "other", "parquet", case_options={**options, "on_bad_rows": "drop"})
    run_ingest(dropping)
    rows = dropping.lake.read("bad_rows").orderBy("image_id").collect()
    assert [(r["image_id"], r["descriptors"], r["reason"]) for r in rows] == [
        (2, ["osnet"], "NaN or infinity"),
        (6, ["color"], "missing: there is no such file"),
    ]


def test_without_a_photo_that_can_be_read_nothing_is_written(spark: SparkSession, tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"a.jpg": b"no photo"})
    ctx = of_photos(spark, root, tmp_path / "lake")
    with pytest.raises(CaseError, match=r"photo cannot be read \(the first: broken: cannot be decoded: "):
        run_ingest(ctx)
    assert not ctx.lake.exists("sources")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match=r"empty: holds no photos: an empty case"):
        run_ingest(of_photos(spark, tmp_path / "empty", tmp_path / "lake"))


def test_one_photo_is_a_case(spark: SparkSession, tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", photos(1))
    ctx = of_photos(spark, root, tmp_path / "lake", features=[{"descriptor": "color_histogram"}])
    run_ingest(ctx)
    run_features(ctx)
    assert ctx.lake.count("features") == 1


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_batches_of_any_size_give_the_same(
    batch: int, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_vectors, "_PHOTOS", batch)
    root = write_photos(tmp_path / "photos", photos(10) | {"cars/004.png": b"broken", "cars/005.png": b"broken"})
    way = METHODS["color_histogram"]
    images = spark.createDataFrame([(i, f"cars/{i:03d}.png") for i in range(10)], "image_id BIGINT, path STRING")
    rows = photo_vectors.photo_vectors(images, str(root), {"a": way, "b": way}, 2).collect()
    found = {(r["image_id"], r["descriptor"]): r["vector"] for r in rows}
    assert len(rows) == len(found) == 20
    for (i, _), vector in found.items():
        if i in (4, 5):
            assert vector is None
        else:
            np.testing.assert_allclose(vector, way.prepare(plain(i)), atol=1e-6)


def zipped(root: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as z:
        for photo in root.rglob("*.png"):
            z.write(photo, photo.relative_to(root))
    return file


def parquet(root: Path, file: Path) -> Path:
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*.png"))
    content = [(root / name).read_bytes() for name in names]
    pd.DataFrame({"path": names, "content": content}).to_parquet(file, row_group_size=3)
    return file


@pytest.mark.parametrize(("pack", "name"), [(zipped, "p.zip"), (parquet, "p.parquet")])
def test_zips_and_tables_give_the_lake_of_the_folder(
    pack: Callable[[Path, Path], Path], name: str, spark: SparkSession, tmp_path: Path
) -> None:
    root = write_photos(tmp_path / "photos", photos() | {"cars/005.png": b"broken"})
    lakes = []
    for place in (root, pack(root, tmp_path / name)):
        ctx = of_photos(spark, place, tmp_path / f"lake {place.name}")
        run_ingest(ctx)
        lakes.append(contents(ctx.lake, clock=False))
    assert lakes[0] == lakes[1]


def test_new_photos_are_labelled_by_the_same_network(spark: SparkSession, tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", photos(30))
    (tmp_path / "net").mkdir()
    given = {"net": network(tmp_path / "net"), "color": {"builtin": "color_histogram"}}
    study = {
        "features": [{"name": "both", "join": [{"descriptor": "net"}, {"descriptor": "color"}]}],
        "cluster": {"models": [{"algorithm": "kmeans", "k": 3}]},
    }
    ctx = of_photos(spark, root, tmp_path / "lake", descriptors=given, **study)
    for stage in (run_ingest, run_features, run_cluster):
        stage(ctx)
    before = contents(ctx.lake)
    new = write_photos(tmp_path / "new", {f"{i}.png": saved(plain(i, (9, 14))) for i in range(6)} | {"bad.png": b"-"})
    out = tmp_path / "out.csv"
    case = CaseConfig.model_validate({"images_root": str(new), "descriptors": given})
    done = run_assign(ctx.lake, case, None, out)
    assert done.n_images == 6
    rows = pd.read_csv(out).set_index("path")["cluster"].to_dict()
    assert set(rows) == {f"{i}.png" for i in range(6)}
    # Photos of one colour share a cluster, and those of others do not.
    assert [rows[f"{i}.png"] for i in range(3)] == [rows[f"{i}.png"] for i in range(3, 6)]
    assert len(set(rows.values())) == 3
    assert contents(ctx.lake) == before
    write_network(Path(given["net"]["model"]), WEIGHTS + 1)
    with pytest.raises(CaseError, match=r"net.onnx: net is computed in another way than that of .* same network"):
        run_assign(ctx.lake, case, None, out)


# -- before Spark starts -----------------------------------------------------------------------------


def checked(case: dict[str, Any], lake: Path) -> str:
    config = parse_config({"case": case, "lake": {"path": str(lake)}, "features": [{"descriptor": "net"}]})
    with pytest.raises(ConfigError) as caught:
        check_config(config, ["ingest", "features"])
    return str(caught.value)


def test_mistakes_are_found_before_spark_starts(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", photos(2))
    lake = tmp_path / "lake"
    (tmp_path / "no.onnx").write_bytes(b"-")
    told = checked({"images_root": str(root), "descriptors": {"net": {"model": str(tmp_path / "no.onnx")}}}, lake)
    assert "no.onnx: is no ONNX network" in told
    told = checked({"images_root": str(tmp_path / "away"), "descriptors": {"net": network(tmp_path)}}, lake)
    assert f"{tmp_path}/away: there is no such folder or file" in told
    told = checked({"images_root": str(root), "descriptors": {"net": str(tmp_path / "net.npy")}}, lake)
    assert "case.descriptors.net: is an array, whose row i is that of image i, but the case names no list" in told
    case = write_case(tmp_path / "case", 4, {"osnet": np.eye(4, dtype=np.float32)})
    told = checked({"path": str(case), "descriptors": {"net": network(tmp_path)}}, lake)
    assert "case.descriptors.net: is computed from photos, but case.images_root names none" in told
    zipped(root, tmp_path / "p.zip").write_bytes(b"no zip")
    told = checked({"images_root": str(tmp_path / "p.zip"), "descriptors": {"net": network(tmp_path)}}, lake)
    assert "p.zip: cannot be read as a zip" in told
    assert not lake.exists()
