"""The quality of photos: measurements against plain references, broken files, and the stage on folders and zips."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pyspark.sql import SparkSession
from scipy.stats import entropy as entropy_of

from cases import blobs, contents, image_paths, run_of, write_case, write_paths
from motorpool.config.run import CaseConfig
from motorpool.errors import ConfigError
from motorpool.photos.measures import entropy
from motorpool.photos.quality import Quality, measure_quality
from motorpool.photos.source import Photo
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import run_append
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.run import STAGES
from motorpool.pipeline.stages import quality
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.quality import run_quality

ROWS = 14


def noise(width: int, height: int, low: int = 0, high: int = 256) -> Image.Image:
    """A picture with much detail."""
    pixels = np.random.default_rng(1).integers(low, high, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_photo(picture: Image.Image) -> Photo:
    return Photo("x", picture, picture.size)


def test_entropy_is_that_of_the_grey_levels() -> None:
    grey = np.random.default_rng(1).integers(0, 40, (64, 64), dtype=np.uint8)
    expected = entropy_of(np.bincount(grey.ravel()), base=2)
    assert entropy(Image.fromarray(grey).convert("RGB")) == pytest.approx(expected, rel=1e-6)
    assert entropy(Image.new("RGB", (9, 9), (7, 7, 7))) == 0


def test_measurements() -> None:
    plain = measure_quality(as_photo(Image.new("RGB", (50, 40), (119, 119, 119))))
    assert plain.status == "ok"
    # CIELAB's lightness of this grey is 50.03, in steps of 100 / 255.
    assert plain.brightness == pytest.approx(50.03, abs=0.3)
    assert (plain.contrast, plain.sharpness, plain.entropy) == (pytest.approx(0, abs=1e-4), 0, 0)
    assert (plain.width, plain.height) == (50, 40)
    halves = Image.new("RGB", (64, 64))
    halves.paste((255, 255, 255), (0, 0, 32, 64))
    both = measure_quality(as_photo(halves))
    assert (both.contrast, both.entropy) == (pytest.approx(50, abs=0.1), pytest.approx(1))
    sharp = noise(128, 128)
    of = [measure_quality(as_photo(p)).sharpness for p in (sharp, sharp.filter(ImageFilter.GaussianBlur(4)))]
    assert of[0] is not None
    assert of[1] is not None
    assert of[0] > 100 * of[1]
    assert measure_quality(as_photo(Image.new("RGB", (1, 1)))).status == "ok"
    lost = measure_quality(Photo("x", None, None, "broken", "cannot be decoded: cut off"))
    assert lost == Quality("broken", "cannot be decoded: cut off")


#: What each photo of the case shows, and the flags that follow; all further ones are fine.
FLAGS: dict[int, list[str]] = {
    0: ["dark", "low_contrast", "blurred", "low_information"],
    1: ["low_contrast", "blurred", "low_information"],
    2: ["blurred"],
    3: ["small", "odd_shape"],
    4: ["unreadable"],
    5: ["unreadable"],
    6: ["unreadable"],
    7: ["low_contrast"],
}


def draw_photos(root: Path) -> None:
    for i, path in enumerate(image_paths(ROWS)):
        file = root / path.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        good = noise(90, 60)
        if i == 0:
            Image.new("RGB", (90, 60)).save(file)
        elif i == 1:
            Image.new("RGB", (90, 60), (240, 240, 240)).save(file)
        elif i == 2:
            Image.linear_gradient("L").convert("RGB").save(file)
        elif i == 3:
            noise(150, 20).save(file, quality=95)
        elif i == 4:
            file.write_bytes(b"no picture")
        elif i == 6:
            good.save(file)
            file.write_bytes(file.read_bytes()[:200])
        elif i == 7:
            noise(90, 60, 100, 120).save(file, quality=95)
        elif i != 5:
            good.save(file)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_case(tmp_path_factory.mktemp("case") / "case", ROWS, {"net": blobs(ROWS, 3)})
    draw_photos(folder / "raw_data")
    return folder


@pytest.fixture(scope="module")
def start(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Context]:
    def make(base: Context | None = None, **sections: Any) -> Context:
        folder = tmp_path_factory.mktemp("run") / "lake"
        if base is not None:
            shutil.copytree(str(base.config.lake.path), folder)
        return run_of(spark, case, folder, "parquet", **sections)

    return make


@pytest.fixture(scope="module")
def small_parts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "PART_IMAGES", 6)
        yield


@pytest.fixture(scope="module")
def done(start: Callable[..., Context], small_parts: None) -> Context:
    ctx = start(photo_quality={})
    run_ingest(ctx)
    run_quality(ctx)
    return ctx


def test_every_photo_has_a_row(done: Context) -> None:
    rows = {r["image_id"]: r for r in done.lake.rows("photo_quality")}
    assert sorted(rows) == list(range(ROWS))
    assert {i: r["flags"] for i, r in rows.items() if r["flags"]} == FLAGS
    assert [rows[i]["status"] for i in (3, 4, 5, 6)] == ["ok", "broken", "missing", "broken"]
    assert rows[4]["error"].startswith("cannot be decoded: it is none of ")
    assert rows[6]["error"].startswith("cannot be decoded: ")
    assert rows[5]["error"] == "there is no such file"
    assert (rows[3]["error"], rows[3]["width"], rows[3]["height"]) == (None, 150, 20)
    assert rows[4]["brightness"] is rows[4]["width"] is None
    assert {i: r["part"] for i, r in rows.items()} == {i: str(i // 6) for i in range(ROWS)}
    surveys = {r["part"]: r for r in done.lake.rows("photo_surveys")}
    told = {part: (r["n_images"], r["n_flagged"], r["n_unreadable"]) for part, r in surveys.items()}
    assert told == {"0": (6, 6, 2), "1": (6, 2, 1), "2": (2, 0, 0)}


def test_a_second_run_reads_nothing(
    done: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(done.lake)
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_quality(done)
    assert "quality: all photos are measured, nothing to do" in caplog.text
    assert contents(done.lake) == before


def test_other_limits_read_no_photos(
    start: Callable[..., Context], done: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = start(done, photo_quality={"dark": 99, "least_side": 1, "most_ratio": 10})
    with monkeypatch.context() as patch:
        patch.delattr(quality, "measure_all")
        run_quality(ctx)
    rows = {r["image_id"]: r for r in ctx.lake.rows("photo_quality")}
    assert {i for i, r in rows.items() if "dark" in r["flags"]} == set(range(ROWS)) - {4, 5, 6}
    assert rows[3]["flags"] == ["dark"]
    back = start(ctx, photo_quality={})
    run_quality(back)
    assert contents(back.lake, clock=False) == contents(done.lake, clock=False)


def test_a_killed_run_goes_on_with_the_next_part(
    start: Callable[..., Context], done: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ctx = start(photo_quality={})
    run_ingest(ctx)
    write_done = quality._write_done

    def killed(ctx: Context, part: str, *more: Any) -> None:
        if part == "1":
            raise KeyboardInterrupt
        write_done(ctx, part, *more)

    with monkeypatch.context() as patch:
        patch.setattr(quality, "_write_done", killed)
        with pytest.raises(KeyboardInterrupt):
            run_quality(ctx)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_quality(ctx)
    measured = [m for m in caplog.messages if "images a second" in m]
    # Those of parts 1 and 2.
    assert [m.split()[1] for m in measured] == ["6", "2"]
    assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)


def test_a_zip_gives_the_same_and_photos_elsewhere_are_read_anew(
    start: Callable[..., Context], done: Context, case: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
        for file in sorted((case / "raw_data").rglob("*.jpg")):
            z.write(file, file.relative_to(case / "raw_data"))
    ctx = start(done, photo_quality={}, case_options={"images_root": str(tmp_path / "photos.zip")})
    run_quality(ctx)
    assert contents(ctx.lake, clock=False)["photo_quality"] == contents(done.lake, clock=False)["photo_quality"]
    assert {r["params"]["photos"] for r in ctx.lake.rows("photo_surveys")} == {str(tmp_path / "photos.zip")}


def appended_case(folder: Path, rows: range, photos: bool) -> CaseConfig:
    made = write_case(folder, len(rows), {"net": blobs(rows.stop, 3)[rows.start :]})
    paths = image_paths(rows.stop)[rows.start :]
    write_paths(made / "images_paths.csv", paths)
    for i, path in enumerate(paths):
        file = made / "raw_data" / path.replace("\\", "/")
        if photos:
            file.parent.mkdir(parents=True, exist_ok=True)
            (noise(90, 60) if i else Image.new("RGB", (90, 60))).save(file)
    return CaseConfig(path=str(made))


def test_appended_photos_lie_where_their_case_says(
    start: Callable[..., Context], done: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a case without photos among the study's, where these are missing."""
    ctx = start(done, photo_quality={})
    before = contents(ctx.lake)["photo_quality"]
    run_append(ctx, appended_case(tmp_path / "a", range(ROWS, ROWS + 8), photos=True))
    run_append(ctx, appended_case(tmp_path / "b", range(ROWS + 8, ROWS + 10), photos=False))
    rows = ctx.lake.rows("photo_quality")
    told = {r["image_id"]: (r["part"], r["status"], bool(r["flags"])) for r in rows if r["image_id"] >= ROWS}
    assert told == {
        **{i: (f"{ROWS}-{(i - ROWS) // 6}", "ok", i == ROWS) for i in range(ROWS, ROWS + 8)},
        **dict.fromkeys(range(ROWS + 8, ROWS + 10), (f"{ROWS + 8}-0", "missing", True)),
    }
    assert [r for r in contents(ctx.lake)["photo_quality"] if r in before] == before
    counts = {r["part"]: r["n_images"] for r in ctx.lake.rows("photo_surveys")}
    assert counts == {"0": 6, "1": 6, "2": 2, "14-0": 6, "14-1": 2, "22-0": 2}
    with caplog.at_level(logging.INFO, logger="motorpool"):
        run_quality(ctx)
    assert "quality: all photos are measured, nothing to do" in caplog.text


def test_without_the_section_both_tables_are_emptied(start: Callable[..., Context], done: Context) -> None:
    ctx = start(done)
    run_quality(ctx)
    assert [ctx.lake.count(table) for table in ("photo_quality", "photo_surveys")] == [0, 0]


def test_a_case_without_photos_is_refused_before_spark_starts(spark: SparkSession, tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", ROWS, {"net": blobs(ROWS, 3)})
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", photo_quality={})
    problems = look(ctx.config, STAGES).problems
    assert any("photo_quality: needs photos, but case.images_root names none" in p for p in problems)
    run_ingest(ctx)
    with pytest.raises(ConfigError, match="photo_quality: needs photos"):
        run_quality(ctx)
