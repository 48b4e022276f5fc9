"""Where rows go that were not laid out: against the definition, and against the nearest landmarks alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import DataFrame
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from cases import blobs
from motorpool.kernels.maps.landmarks import NEIGHBOURS, Landmarks, Placed, Rows, Surroundings, pulled
from motorpool.kernels.maps.layouts import Layout, lay_out_by_tsne
from motorpool.maps.first_pass import first_pass
from motorpool.maps.placing import place_all


def noisy(n: int, noise: float) -> np.ndarray:
    """Three columns that rows share with others, and 40 of noise."""
    rng = np.random.default_rng(8)
    return np.hstack([rng.normal(size=(n, 3)) * [3, 2.5, 2], rng.normal(size=(n, 40)) * noise]).astype(np.float32)


def places_of(df: DataFrame, n: int) -> np.ndarray:
    table = df.toArrow().sort_by("image_id")
    assert table.column("image_id").to_pylist() == list(range(n))
    return np.column_stack([table.column(c).to_numpy() for c in "xy"])


@pytest.fixture(scope="module")
def laid_out() -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """2,400 rows, and the places of the first 800."""

    def run(noise: float) -> tuple[np.ndarray, np.ndarray]:
        x = noisy(2400, noise)
        return x, lay_out_by_tsne(x[:800], x[:800, :2], Layout("tsne", 2, 15, 30.0, 0))

    return run


@pytest.mark.parametrize(("noise", "gain"), [(0.0, -0.001), (1.0, 0.02), (2.0, 0.02)])
def test_maps_are_more_trustworthy_than_by_the_nearest_landmarks_alone(
    laid_out: Callable[[float], tuple[np.ndarray, np.ndarray]], noise: float, gain: float
) -> None:
    x, places = laid_out(noise)
    ids = np.arange(len(x))
    found = Landmarks(Rows(ids[:800], x[:800]), {"m": Placed(places)}).place(ids, x)["m"]
    assert np.array_equal(found[:800], places)
    near = NearestNeighbors(n_neighbors=15).fit(x[:800]).kneighbors(x[800:], return_distance=False)
    alone = pulled(places[near], Placed(places).kernel)
    assert trustworthiness(x[800:], found[800:]) > trustworthiness(x[800:], alone) + gain


def test_a_rows_place_does_not_hang_on_the_rows_beside_it() -> None:
    x = noisy(900, 1.0)
    ids = np.arange(900)
    sample = Rows(ids[:500], x[:500])
    placed = {"a": Placed(np.ascontiguousarray(x[:500, :2])), "b": Placed(np.ascontiguousarray(x[:500, :3]))}
    landmarks = Landmarks(sample, placed)
    together = landmarks.place(ids, x)
    for size in (1, 7, 333):
        for name in placed:
            parts = [landmarks.place(ids[i : i + size], x[i : i + size])[name] for i in range(0, 900, size)]
            assert np.array_equal(np.concatenate(parts), together[name])
    # Nor on other maps.
    assert np.array_equal(Landmarks(sample, {"b": placed["b"]}).place(ids, x)["b"], together["b"])


def test_the_landmarks_that_pull_are_those_of_the_definition() -> None:
    x = noisy(700, 1.0)
    rows, new = x[:600], x[600:]
    places = np.ascontiguousarray(rows[:, :2])
    surroundings = Surroundings(rows, places)
    assert surroundings.near.shape == (600, 20)
    means = rows[surroundings.near].mean(axis=1, dtype=np.float64)
    for row, found, squared in zip(new, *surroundings.nearest(new), strict=True):
        at = int(np.square(means - row).sum(axis=1).argmin())
        beside = np.argsort(np.linalg.norm(places - places[at], axis=1))[:20]
        away = np.square(rows[beside] - row).sum(axis=1, dtype=np.float64)
        nearest = np.argsort(away)[:NEIGHBOURS]
        assert found.tolist() == beside[nearest].tolist()
        assert np.allclose(squared, away[nearest], rtol=1e-5)


def test_nearer_landmarks_pull_harder() -> None:
    places = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    for pulls, low, high in (([1.0, 1.0], 0.45, 0.55), ([1e6, 1.0], 0.0, 0.01), ([1.0, 1e6], 0.99, 1.0)):
        found = pulled(places * 0.1, Placed(places[0]).kernel, np.array([pulls]))
        assert low <= found[0, 0] * 10 <= high
        assert found[0, 1] == 0


def test_a_small_group_that_lies_apart_keeps_its_rows() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(660, 10)).astype(np.float32)
    # On the map four landmarks lie apart, as they do in the features; 56 rows are of their group.
    few = np.r_[0:4, 604:660]
    x[few, 0] += 12
    places = np.ascontiguousarray(x[:600, :2])
    ids = np.arange(660)
    landmarks = Landmarks(Rows(ids[:600], x[:600]), {"m": Placed(places)})
    found = landmarks.place(ids, x)["m"]
    assert np.all(found[few, 0] > 8)
    assert np.all(found[600:604, 0] < 5)


def test_copies_lie_on_their_landmark_and_equal_rows_together() -> None:
    x = blobs(500, 6, groups=5)
    ids = np.arange(1000)
    copies = np.concatenate([x, x])
    places = np.ascontiguousarray(x[:, :2])
    found = Landmarks(Rows(ids[:500], x), {"m": Placed(places)}).place(ids, copies)["m"]
    # Those whose part of the map is not the one that they lie in on it are few.
    assert np.mean(np.linalg.norm(found[500:] - places, axis=1) < 1e-3) > 0.9
    groups = np.arange(500) % 5
    _, nearest = NearestNeighbors(n_neighbors=1).fit(places).kneighbors(found[500:])
    assert np.array_equal(groups[nearest[:, 0]], groups)
    # Landmarks of which many are equal, and lie at one place.
    equal = np.repeat(x[:5], 100, axis=0)
    at = np.repeat(places[:5], 100, axis=0)
    again = Landmarks(Rows(ids[:500], equal), {"m": Placed(at)}).place(ids[500:], equal)["m"]
    assert np.allclose(again, at, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 30])
def test_few_landmarks(n: int) -> None:
    x = blobs(60, 4)
    ids = np.arange(60)
    places = np.ascontiguousarray(x[:n, :2])
    found = Landmarks(Rows(ids[:n], x[:n]), {"m": Placed(places)}).place(ids, x)["m"]
    assert np.array_equal(found[:n], places)
    low, high = places.min(axis=0) - 1e-4, places.max(axis=0) + 1e-4
    assert np.all((found >= low) & (found <= high))


def test_one_row_more_than_the_sample(blocked: Callable[..., DataFrame]) -> None:
    x = blobs(421, 6)
    found = []
    for parts in (1, 3):
        df = blocked(x, parts)
        seen = first_pass(df, 420, 10, seed=2)
        (left_out,) = np.setdiff1d(np.arange(421), seen.sample.ids)
        placed = {"tsne2": Placed(np.ascontiguousarray(seen.sample.x[:, :2]))}
        found.append(places_of(place_all("made", df, {}, seen.sample, placed), 421))
        assert np.array_equal(np.delete(found[-1], left_out, axis=0), np.delete(x[:, :2], left_out, axis=0))
        same = np.delete(np.arange(421) % 3 == left_out % 3, left_out)
        away = np.linalg.norm(np.delete(x[:, :2], left_out, axis=0) - found[-1][left_out], axis=1)
        assert same[away.argmin()]
    assert np.array_equal(found[0], found[1])
