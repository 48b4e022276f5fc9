"""The sample case: the form of the real one on disk, and the information its descriptors should carry."""

from __future__ import annotations

import csv
import hashlib
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from motorpool.errors import ConfigError
from motorpool_sample import SampleSummary, make_sample_case
from motorpool_sample import truth as t
from motorpool_sample.answers import fill_in
from motorpool_sample.descriptors import BLOCK_ROWS, DescriptorSource
from motorpool_sample.networks import RECIPES, Recipe, class_codes, eigenvalues, network
from motorpool_sample.photos import draw_photo

IMAGES = 300
WIDTHS = {"efficientnet-b7": 2560, "osnet": 512, "vdc_color": 128, "vdc_type": 512}
# What is published about the real descriptors: components and the share of variance that they keep.
PUBLISHED = {
    "efficientnet-b7": ((128, 0.50), (200, 0.63), (1536, 0.924), (2048, 0.966)),
    "osnet": ((153, 0.90),),
    "vdc_color": ((69, 0.90),),
    "vdc_type": ((20, 0.90),),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    return make_sample_case(tmp_path_factory.mktemp("sample") / "case", IMAGES, seed=5)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "attributes.csv", newline="") as f:
        return list(csv.DictReader(f))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def spectrum(X: np.ndarray) -> np.ndarray:
    """Share of variance kept by 1, 2, ... components."""
    values = np.linalg.eigvalsh(np.cov(X.T))[::-1]
    return np.cumsum(values) / values.sum()


def principal(X: np.ndarray, components: int) -> np.ndarray:
    """Principal component scores, by way of the covariance."""
    centred = X - X.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, :components]


# --- the folder --------------------------------------------------------------------------------


def test_folder_holds_what_a_case_holds(made: SampleSummary) -> None:
    names = {path.name for path in made.path.iterdir()}
    assert names == {"descriptors", "raw_data", "images_paths.csv", "attributes.csv"}
    assert {path.stem for path in (made.path / "descriptors").iterdir()} == set(WIDTHS)
    assert list(made.path.parent.iterdir()) == [made.path]


@pytest.mark.parametrize("name", WIDTHS)
def test_pickle_is_one_float32_matrix(made: SampleSummary, name: str) -> None:
    with open(made.path / "descriptors" / f"{name}.pickle", "rb") as f:
        X = pickle.load(f)
        assert f.read() == b""
    assert X.shape == (IMAGES, WIDTHS[name])
    assert X.dtype == np.float32
    assert X.flags.c_contiguous
    assert np.isfinite(X).all()
    # Like the output of a rectifier.
    assert X.min() == 0.0
    assert X.mean() > 0.1
    source = DescriptorSource(t.draw_truth(IMAGES, 5))
    np.testing.assert_array_equal(X, np.vstack(list(source.blocks(name))))


def test_images_paths_has_windows_form(made: SampleSummary) -> None:
    raw = (made.path / "images_paths.csv").read_bytes()
    lines = raw.split(b"\r\n")
    assert lines[0] == b"paths"
    assert lines[1] == rb"veriwild\1\00001\000001.jpg"
    assert lines[-1] == b""
    assert len(lines) == IMAGES + 2
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert b"/" not in raw


def test_photos_exist_and_open(made: SampleSummary) -> None:
    rows = rows_of(made.path)
    on_disk = {path.relative_to(made.path / "raw_data").as_posix() for path in made.path.glob("raw_data/**/*.jpg")}
    assert on_disk == {row["path"] for row in rows}
    for row in rows:
        with Image.open(made.path / "raw_data" / row["path"]) as photo:
            photo.load()
            assert photo.format == "JPEG"
            assert photo.mode == "RGB"
            assert 140 <= min(photo.size) <= max(photo.size) <= 240


def test_attributes_agree_with_paths(made: SampleSummary) -> None:
    rows = rows_of(made.path)
    written = (made.path / "images_paths.csv").read_text().split()[1:]
    assert [row["path"] for row in rows] == [path.replace("\\", "/") for path in written]
    about: dict[str, tuple[str, str, str]] = {}
    numbers = []
    for row in rows:
        root, folder, vehicle, image = row["path"].split("/")
        assert root == "veriwild"
        assert 1 <= int(folder) <= 10
        numbers.append(int(image.removesuffix(".jpg")))
        assert image == f"{numbers[-1]:06d}.jpg"
        assert vehicle == row["vehicle_id"]
        assert len(vehicle) == 5
        assert row["body_type"] in t.BODY_TYPES
        assert row["color"] in t.COLORS
        assert row["view"] in t.VIEWS
        # A vehicle has one folder, one type and one colour.
        facts = (folder, row["body_type"], row["color"])
        assert about.setdefault(vehicle, facts) == facts
    # Numbers count over the vehicles in their own order.
    assert sorted(numbers) == list(range(1, IMAGES + 1))
    by_number = [row for _, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0])]
    assert [row["vehicle_id"] for row in by_number] == sorted(row["vehicle_id"] for row in rows)
    assert sorted(about) == [f"{i:05d}" for i in range(1, made.vehicles + 1)]
    assert {folder for folder, _, _ in about.values()} == {str(i) for i in range(1, 11)}
    counted = sum(row["outlier"] != "" for row in rows)
    assert counted == made.outliers == round(t.OUTLIER_RATE * IMAGES)
    assert {row["outlier"] for row in rows} == set(t.OUTLIERS)


def test_rows_are_in_the_lexicographic_order_of_the_folders(made: SampleSummary) -> None:
    paths = [row["path"] for row in rows_of(made.path)]
    folders = list(dict.fromkeys(path.split("/")[1] for path in paths))
    assert folders == ["1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]
    # So it is with everything below: a vehicle's photos are side by side.
    assert paths == sorted(paths)


def test_looks_are_answered_from_the_truth(made: SampleSummary, tmp_path: Path) -> None:
    with open(made.path / "attributes.csv", newline="") as f:
        truth = list(csv.DictReader(f))
    outlier = next(r for r in truth if r["outlier"])
    asked = [(truth[0], "color", ""), (truth[1], "view", ""), (outlier, "view", ""), (truth[2], "view", "top")]
    looks = tmp_path / "looks.csv"

    def ask(rows: list[tuple[str, str, str]]) -> None:
        text = ["path,attribute,value,why", *(f"{path},{name},{value},typical" for path, name, value in rows)]
        looks.write_text("\n".join(text) + "\n")

    ask([(row["path"], name, value) for row, name, value in asked])
    assert fill_in(made.path, looks) == 3
    with open(looks, newline="") as f:
        answered = list(csv.DictReader(f))
    assert [r["value"] for r in answered] == [truth[0]["color"], truth[1]["view"], "?", "top"]
    assert [(r["path"], r["why"]) for r in answered] == [(row["path"], "typical") for row, _, _ in asked]
    for row, told in (
        ((truth[0]["path"], "age", ""), "line 2: age: is no attribute of"),
        (("nowhere.jpg", "color", ""), "line 2: nowhere.jpg: is no photo of"),
    ):
        ask([row])
        with pytest.raises(ConfigError, match=told):
            fill_in(made.path, looks)
    looks.write_text("path,value\n")
    with pytest.raises(ConfigError, match="has no rows with a column 'path'"):
        fill_in(made.path, looks)


def test_same_seed_same_bytes_other_seed_other_bytes(made: SampleSummary, tmp_path: Path) -> None:
    make_sample_case(tmp_path / "again", IMAGES, seed=5)
    make_sample_case(tmp_path / "other", IMAGES, seed=6)
    first, again, other = (digests(path) for path in (made.path, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_without_images_the_rest_is_the_same(made: SampleSummary, tmp_path: Path) -> None:
    summary = make_sample_case(tmp_path / "bare", IMAGES, seed=5, with_images=False)
    assert not summary.with_images
    assert (tmp_path / "bare" / "raw_data" / "veriwild").is_dir()
    full = digests(made.path)
    assert digests(tmp_path / "bare") == {k: v for k, v in full.items() if not k.endswith(".jpg")}


@pytest.mark.slow
def test_a_pool_draws_the_same_photos(tmp_path: Path) -> None:
    make_sample_case(tmp_path / "case", 450, seed=2)
    truth = t.draw_truth(450, 2)
    for image in (0, 63, 64, 449):
        with Image.open(tmp_path / "case" / "raw_data" / truth.path(image)) as photo:
            stored = np.asarray(photo, dtype=float)
        drawn = np.asarray(draw_photo(truth, image), dtype=float)
        assert np.abs(stored - drawn).mean() < 12  # what JPEG does to grain


def test_progress_runs_to_its_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_sample_case(
        tmp_path / "case", 60, 1, with_images=False, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (240, 240)
    assert calls == sorted(calls)


# --- refusals --------------------------------------------------------------------------------


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=r"is not empty") as caught:
        make_sample_case(tmp_path, 50, seed=1)
    assert str(tmp_path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_takes_an_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    out.mkdir()
    make_sample_case(out, 20, seed=1, with_images=False)
    assert len(rows_of(out)) == 20


@pytest.mark.parametrize(("images", "seed", "names"), [(0, 1, "images = 0"), (10, -1, "seed = -1")])
def test_refuses_numbers_that_make_no_case(tmp_path: Path, images: int, seed: int, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        make_sample_case(tmp_path / "case", images, seed)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sample_case(tmp_path / "case", 50, seed=1, with_images=False, progress=stop)
    assert not list(tmp_path.iterdir())


# --- the truth --------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 2, 10, 39, 1000, 50_000])
def test_truth_of_any_size(images: int) -> None:
    truth = t.draw_truth(images, 3)
    assert len(truth.vehicle) == images
    assert truth.vehicle[0] == 0
    by_number = truth.vehicle[np.argsort(truth.number)]
    assert by_number[-1] == truth.vehicles - 1
    assert set(np.unique(np.diff(by_number))) <= {0, 1}
    # Side by side: as many changes from row to row as vehicles.
    assert np.count_nonzero(np.diff(truth.vehicle)) == truth.vehicles - 1
    assert len(truth.color) == truth.vehicles
    assert (truth.outlier[truth.extreme] == 0).all()


def test_truth_has_the_stated_shares() -> None:
    truth = t.draw_truth(100_000, 4)
    assert truth.images / truth.vehicles == pytest.approx(t.PHOTOS_PER_VEHICLE, rel=0.03)
    assert (truth.outlier > 0).mean() == pytest.approx(0.025)
    shares = np.bincount(truth.body, minlength=len(t.BODY_TYPES)) / truth.vehicles
    np.testing.assert_allclose(shares, t.BODY_SHARES, atol=0.015)
    views = np.bincount(truth.view, minlength=2) / truth.images
    np.testing.assert_allclose(views, t.VIEW_SHARES, atol=0.01)
    assert len(truth.extreme) == 5


# --- the descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_designed_spectrum_meets_the_published_one(recipe: Recipe) -> None:
    values = eigenvalues(recipe)
    kept = np.cumsum(values)
    for components, share in PUBLISHED[recipe.name]:
        assert kept[components - 1] == pytest.approx(share, abs=1e-9)
    # Stretches are scaled one by one; the steps between them stay small.
    assert (values[1:] <= values[:-1] * 1.15).all()


def test_class_codes_are_uncorrelated_under_their_shares() -> None:
    shares = np.outer(t.BODY_SHARES, t.VIEW_SHARES).ravel()
    code = class_codes()["body_view"]
    np.testing.assert_allclose(shares @ code, 0, atol=1e-9)
    np.testing.assert_allclose((code * shares[:, None]).T @ code, np.eye(code.shape[1]), atol=1e-8)


@pytest.mark.parametrize("name", ["osnet", "vdc_color", "vdc_type"])
def test_spectrum_is_near_the_published_one(name: str) -> None:
    source = DescriptorSource(t.draw_truth(6000, 1))
    kept = spectrum(np.vstack(list(source.blocks(name))))
    for components, share in PUBLISHED[name]:
        assert kept[components - 1] == pytest.approx(share, abs=0.015)


@pytest.mark.slow
def test_widest_spectrum_is_near_the_published_one() -> None:
    source = DescriptorSource(t.draw_truth(16_000, 1))
    kept = spectrum(np.vstack(list(source.blocks("efficientnet-b7"))))
    # With six rows a column, small components look smaller than they are: hence the tolerance.
    for components, share in PUBLISHED["efficientnet-b7"]:
        assert kept[components - 1] == pytest.approx(share, abs=0.025)


def test_descriptors_carry_what_they_should() -> None:
    n = 5000
    truth = t.draw_truth(n, 1)
    source = DescriptorSource(truth)
    facts = {
        "type": truth.body[truth.vehicle] * 2 + truth.view,
        "view": truth.view,
        "color": truth.color[truth.vehicle],
    }
    starts = np.flatnonzero(np.diff(truth.vehicle, prepend=-1))

    def measure(name: str, k: int) -> dict[str, float]:
        scores = principal(np.vstack(list(source.blocks(name))), 50)
        labels = KMeans(k, n_init=2, random_state=0).fit_predict(scores)
        one_hot = np.eye(k)[labels]
        majority = np.add.reduceat(one_hot, starts).max(axis=1).sum() / n
        return {of: adjusted_rand_score(fact, labels) for of, fact in facts.items()} | {"vehicle": majority}

    kinds, colors, reid, general = (measure(name, 8) for name in ("vdc_type", "vdc_color", "osnet", "efficientnet-b7"))
    # Each knows its own subject best, well but not perfectly.
    assert 0.5 < kinds["type"] < 0.95
    assert 0.5 < colors["color"] < 0.95
    assert kinds["color"] < 0.05
    assert colors["type"] < 0.05
    assert 0.08 < reid["color"] < 0.4
    assert reid["vehicle"] > 0.7
    # The network that never saw a vehicle knows a little of everything.
    assert general["vehicle"] < 0.45
    assert 0.01 < general["type"] < 0.2
    assert general["color"] < 0.05
    # With two clusters, the type network tells front from rear.
    assert measure("vdc_type", 2)["view"] > 0.8


def test_outliers_are_apart_and_blank_frames_alike() -> None:
    truth = t.draw_truth(4000, 1)
    X = np.vstack(list(DescriptorSource(truth).blocks("vdc_type")))
    scores = principal(X, 20)
    scores /= scores.std(axis=0)
    ordinary = truth.outlier == 0
    blank = truth.outlier == t.OUTLIERS.index("blank")
    away = np.linalg.norm(scores, axis=1)
    assert np.median(away[~ordinary]) > 1.15 * np.median(away[ordinary])
    spread = scores[blank] - scores[blank].mean(axis=0)
    assert np.linalg.norm(spread, axis=1).mean() < 0.4 * np.linalg.norm(scores[ordinary], axis=1).mean()


def test_extreme_rows_spoil_min_max_scaling() -> None:
    truth = t.draw_truth(5000, 1)
    assert len(truth.extreme) == 2
    scores = principal(np.vstack(list(DescriptorSource(truth).blocks("efficientnet-b7"))), 100)
    width = np.ptp(scores, axis=0)
    without = np.ptp(np.delete(scores, truth.extreme, axis=0), axis=0)
    # Two images alone decide the range of many columns, and squeeze all others into a fifth of some.
    assert np.mean(without < width) > 0.3
    assert np.min(without / width) < 0.3
    scaled = (scores - scores.min(axis=0)) / width
    found, lost = (
        adjusted_rand_score(truth.view, KMeans(2, n_init=2, random_state=0).fit_predict(X)) for X in (scores, scaled)
    )
    assert found > 0.3
    assert lost < 0.1


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    truth = t.draw_truth(3 * BLOCK_ROWS + 77, 9)
    for recipe in RECIPES[1:]:
        whole = np.vstack(list(DescriptorSource(truth).blocks(recipe.name, workers=3)))
        source = DescriptorSource(truth)
        with threadpool_limits(limits=1, user_api="blas"):
            backwards = [source.block(network(recipe.name), i) for i in reversed(range(source.block_count()))]
        np.testing.assert_array_equal(whole, np.vstack(backwards[::-1]))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_case(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        tracemalloc.start()
        make_sample_case(tmp_path / str(images), images, seed=1, with_images=False)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    for recipe in RECIPES:  # built once a process: not part of either measurement
        network(recipe.name)
    small, large = peak(10 * BLOCK_ROWS), peak(30 * BLOCK_ROWS)
    # 608 MB more on disk; in memory a block more or less (21 MB), as the workers happen to keep up, and about
    # 60 bytes a photo for the truth and the vehicles' identities.
    assert large - small < 70e6
    assert large < 250e6


# --- the photos --------------------------------------------------------------------------------


def first_with(truth: t.Truth, wanted: Callable[[int], bool]) -> int:
    return next(image for image in range(truth.images) if wanted(image))


def test_photos_show_their_colour() -> None:
    truth = t.draw_truth(4000, 8)

    def middle(color: str) -> np.ndarray:
        image = first_with(
            truth,
            lambda i: (
                t.COLORS[truth.color[truth.vehicle[i]]] == color
                and t.BODY_TYPES[truth.body[truth.vehicle[i]]] in ("sedan", "hatchback", "suv")
                and t.LIGHTS[truth.light[i]] == "day"
                and truth.outlier[i] == 0
            ),
        )
        pixels = np.asarray(draw_photo(truth, image), dtype=float)
        h, w, _ = pixels.shape
        return np.median(pixels[int(0.35 * h) : int(0.75 * h), int(0.25 * w) : int(0.75 * w)], axis=(0, 1))

    red, blue, white, black = (middle(color) for color in ("red", "blue", "white", "black"))
    assert red[0] > 1.5 * max(red[1], red[2])
    assert blue[2] > 1.3 * max(blue[0], blue[1])
    assert white.mean() > black.mean() + 60


def test_outlier_photos_are_what_they_are_called() -> None:
    truth = t.draw_truth(4000, 8)

    def pixels(kind: str) -> np.ndarray:
        image = first_with(truth, lambda i: t.OUTLIERS[truth.outlier[i]] == kind)
        return np.asarray(draw_photo(truth, image).convert("L"), dtype=float)

    night, blank, text = pixels("night"), pixels("blank"), pixels("text")
    assert np.median(night) < 40
    assert night.max() > 150
    assert blank.std() < 12
    assert np.median(text[:20]) < 40
