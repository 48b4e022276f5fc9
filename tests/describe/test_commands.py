"""`motorpool describe`, and `init` and `run` of photos alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from networks import write_network
from PIL import Image
from pyspark.sql import SparkSession

from motorpool import cli
from motorpool.config.load import load_config
from motorpool.describe.built_in import METHODS
from motorpool.pipeline.ingesting import describing
from motorpool.pipeline.output import case_folder

WEIGHTS = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
N = 12


def plain(i: int) -> Image.Image:
    return Image.new("RGB", (9, 9), ((200 * i) % 256, (20 * i) % 256, 90))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "my cars"
    root.mkdir()
    for i in range(N):
        plain(i).save(root / f"{i:02d}.png")
    return root


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return status, out, err


def _without_skimage(names: list[str]) -> list[str]:
    return [name for name in names if name == "skimage"]


def expected(i: int, mean: Any = (0.485, 0.456, 0.406), std: Any = (0.229, 0.224, 0.225)) -> np.ndarray:
    color = np.asarray(plain(i), np.float64)[0, 0] / 255
    return (color - mean) / std @ WEIGHTS.T


def test_a_case_folder_of_a_network(
    spark: SparkSession, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "05.png").write_bytes(b"broken")
    case, model = tmp_path / "case", write_network(tmp_path / "net.onnx", WEIGHTS)
    args = ["describe", "--images", photos, "--model", model, "--out", case]
    status, out, err = call(capsys, *args, "--mean", "0.5,0.4,.3", "--std", "1,1,2", "--name", "colours")
    assert (status, out.strip().replace("\n", " ")) == (
        0,
        f"{case}/descriptors/colours.npy: 12 x 4, 1 of them NaN: set case.on_bad_rows to drop",
    ), err
    x = np.load(case / "descriptors" / "colours.npy")
    assert (x.shape, x.dtype) == ((N, 4), np.float32)
    good = [i for i in range(N) if i != 5]
    np.testing.assert_allclose(x[good], [expected(i, (0.5, 0.4, 0.3), (1, 1, 2)) for i in good], rtol=1e-3, atol=1e-5)
    assert np.isnan(x[5]).all()
    assert pd.read_csv(case / "images_paths.csv")["paths"].tolist() == [f"{i:02d}.png" for i in range(N)]
    (problem,) = pd.read_csv(case / "descriptors" / "colours.problems.csv").to_dict("records")
    assert problem["path"] == "05.png"
    assert problem["reason"].startswith("broken: ")
    assert sorted(p.name for p in case.iterdir()) == ["descriptors", "images_paths.csv"]

    # Another one for the images of the list that is there, whose order counts.
    (case / "images_paths.csv").write_text("paths\n" + "".join(f"{i:02d}.png\n" for i in reversed(range(N)) if i != 5))
    status, out, _ = call(capsys, *args[:3], "--builtin", "color_histogram", "--out", case)
    assert (status, out.split()[-3:]) == (0, ["11", "x", "392"])
    x = np.load(case / "descriptors" / "color_histogram.npy")
    np.testing.assert_allclose(x, [METHODS["color_histogram"].prepare(plain(i)) for i in reversed(good)], atol=1e-6)
    assert not (case / "descriptors" / "color_histogram.problems.csv").exists()

    # Again it does nothing; another network under the same name, or an array of somebody else's, is left alone.
    before = {p: p.stat().st_mtime_ns for p in case.rglob("*") if p.is_file()}
    status, out, _ = call(capsys, *args[:3], "--builtin", "color_histogram", "--out", case)
    assert (status, out) == (0, f"{case}: holds color_histogram of these images already, nothing to do\n")
    status, _, err = call(capsys, *args, "--name", "color_histogram")
    assert status == 2
    assert "color_histogram.npy: was computed by another network" in err
    np.save(case / "descriptors" / "net.npy", x)
    status, _, err = call(capsys, *args)
    assert status == 2
    assert f"--name net: {case}/descriptors/net.npy is there already" in err
    (case / "descriptors" / "net.npy").unlink()
    assert {p: p.stat().st_mtime_ns for p in case.rglob("*") if p.is_file()} == before


def test_what_is_stopped_goes_on(
    spark: SparkSession,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(describing, "PART", 5)
    computed: list[int] = []
    described = describing.photo_vectors

    def counted(images: Any, *args: Any) -> Any:
        if len(computed) == 10 and not (tmp_path / "on").exists():
            raise RuntimeError("stopped")
        computed.extend(r["image_id"] for r in images.select("image_id").collect())
        return described(images, *args)

    monkeypatch.setattr(describing, "photo_vectors", counted)
    args = ["describe", "--images", photos, "--builtin", "color_histogram", "--name", "c", "--out", tmp_path / "case"]
    assert call(capsys, *args)[0] == 1
    assert [p.name for p in (tmp_path / "case").iterdir()] == [".described"]
    (tmp_path / "on").touch()
    monkeypatch.setattr(case_folder, "_write_npy", lambda *_: 1 / 0)
    assert call(capsys, *args)[0] == 1
    assert not (tmp_path / "case" / "descriptors" / "c.npy").exists()
    monkeypatch.undo()
    assert call(capsys, *args)[0] == 0
    assert computed == list(range(N))
    x = np.load(tmp_path / "case" / "descriptors" / "c.npy")
    np.testing.assert_allclose(x, [METHODS["color_histogram"].prepare(plain(i)) for i in range(N)], atol=1e-6)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "give either --model FILE, a network, or --builtin NAME"),
        (["--model", "a.onnx", "--builtin", "hog"], "give either --model FILE"),
        (["--builtin", "hog", "--size", "8"], "--size: is for --model; a built-in method has no settings"),
        (["--model", "a.onnx", "--mean", "a,b,c"], "--mean a,b,c: expected three numbers"),
        (["--model", "a.onnx", "--mean", "1,2"], "--mean: List should have at least 3 items"),
        (["--model", "a.onnx", "--size", "0"], "--size: Input should be greater than or equal to 1"),
        (["--model", "a.onnx", "--std", "0,1,1"], "all three must be above 0"),
        (["--model", "a.onnx"], "a.onnx: no such file"),
        (["--builtin", "color_histogram", "--name", "../a"], "--name '../a': use up to 100 letters"),
        (["--builtin", "color_histogram", "--images", "none"], "none: there is no such folder or file"),
    ],
)
def test_mistakes_end_with_2_before_spark(
    args: list[str],
    told: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motorpool.pipeline.context.build_session", lambda *_, **__: pytest.fail("Spark was started"))
    status, _, err = call(capsys, "describe", "--images", photos, "--out", tmp_path / "case", *args)
    assert status == 2
    assert told in err
    assert not (tmp_path / "case").exists()


def test_photos_alone_are_run(
    spark: SparkSession,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--set", "cluster.models.0.k=[2,3]", "--set", "report=null", "--set", "projections=null"]
    few += ["--set", "outliers=null", "--set", "lake.format=parquet", "--set", f"lake.path={tmp_path}/lake"]
    status, out, err = call(capsys, "run", "--images", photos, *few)
    assert status == 0, err
    assert out.startswith("my cars.yaml: the study of these photos; ")
    assert "`motorpool run --conf 'my cars.yaml'`" in out
    assert f"{N} images, 4 models" in out.replace("\n", " ")
    config = load_config(tmp_path / "my cars.yaml")
    assert config.case is not None
    assert (config.case.images_root, list(config.case.descriptors or {})) == (str(photos), ["color_histogram", "hog"])
    written = (tmp_path / "my cars.yaml").read_text()
    status, out, _ = call(capsys, "run", "--images", photos, *few)
    assert status == 0
    assert (tmp_path / "my cars.yaml").read_text() == written
    other = tmp_path / "elsewhere" / "my cars"
    other.mkdir(parents=True)
    status, _, err = call(capsys, "run", "--images", other)
    assert status == 2
    assert f"my cars.yaml: is there already, and is no study of the photos in {other}" in err


def test_a_study_of_photos_is_written_and_checked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motorpool.pipeline.context.build_session", lambda *_, **__: pytest.fail("Spark was started"))
    status, out, err = call(capsys, "init", photos, "--out", tmp_path / "a.yaml")
    assert (status, err) == (0, "")
    assert f"{photos}: 12 images, 2 descriptors\n" in out
    assert f"{photos}: photos: 12 of the 12 paths, in {photos}\n" in out
    assert call(capsys, "check", "--conf", tmp_path / "a.yaml")[0] == 0
    monkeypatch.setattr("motorpool.pipeline.planning.starter.not_installed", _without_skimage)
    assert call(capsys, "init", photos, "--out", tmp_path / "b.yaml")[0] == 0
    text = (tmp_path / "b.yaml").read_text()
    assert "    # hog too: pip install scikit-image\n" in text
    assert "descriptor: hog" not in text
    (tmp_path / "empty").mkdir()
    status, _, err = call(capsys, "init", tmp_path / "empty", "--out", tmp_path / "c.yaml")
    assert status == 2
    assert "empty: holds no photos" in err


def test_a_zip_of_photos_has_a_study(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for photo in photos.iterdir():
            z.write(photo, photo.name)
    (tmp_path / "p.zip").write_bytes(out.getvalue())
    assert call(capsys, "init", tmp_path / "p.zip", "--out", tmp_path / "a.yaml")[0] == 0
    assert load_config(tmp_path / "a.yaml").case is not None
