"""Maps of rows of any float32 size: layouts, landmarks and trustworthiness know no unit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from cases import blobs
from motorpool.kernels.maps.landmarks import Landmarks, Placed, Rows
from motorpool.kernels.maps.layouts import Layout
from motorpool.kernels.maps.quality import trust
from motorpool.kernels.maps.scaling import Scale, centre
from motorpool.kernels.moments import Moments
from motorpool.maps.placing import Axes
from motorpool.maps.registry import MAP_METHODS

BLOBS = blobs(60, 4)
LARGEST = np.finfo(np.float32).max
#: A power of two makes a row of exactly the same digits, which stand for a float32 of ordinary size.
FACTORS = (2.0**-120, 2.0**-60, 2.0**70, 2.0**120)


def principal(x: np.ndarray) -> np.ndarray:
    moments = Moments()
    moments.update(x)
    return Axes.of(moments.stats(), 2).project(x)


def laid_out(x: np.ndarray, method: str) -> np.ndarray:
    lay_out = MAP_METHODS[method].lay_out
    assert lay_out is not None
    return lay_out(x, principal(x), Layout(method, 2, 15, 10.0, 3))


def with_far_rows(*values: float) -> np.ndarray:
    x = BLOBS.copy()
    x[: len(values)] = np.array(values, np.float32)[:, None]
    return x


@pytest.mark.parametrize("method", ["umap", "tsne"])
@pytest.mark.parametrize("factor", [1e-40, 1e-30, 1e19, 1e30, 1e37])
def test_layouts_know_no_unit(method: str, factor: float) -> None:
    x = (BLOBS * factor).astype(np.float32)
    found = laid_out(x, method)
    assert trustworthiness(BLOBS, found) > 0.9


@pytest.mark.parametrize("method", ["umap", "tsne"])
@pytest.mark.parametrize("far", [(1e25,), (LARGEST, -LARGEST), (1e15, 1e30)])
def test_a_few_stray_rows_leave_the_others_their_places(method: str, far: tuple[float, ...]) -> None:
    x = with_far_rows(*far)
    found = laid_out(x, method)
    assert np.isfinite(found).all()
    assert trustworthiness(BLOBS[len(far) :], found[len(far) :]) > 0.8


def test_ordinary_rows_are_only_centred() -> None:
    for x in (BLOBS, BLOBS * np.float32(1e6) + np.float32(1e8), np.full((30, 4), 7.5, np.float32), BLOBS[:1]):
        mean = x.mean(axis=0, dtype=np.float64)
        assert np.array_equal(centre(x), mean)
        assert np.array_equal(Scale.of(x, mean).apply(x), (x - mean).astype(np.float32))
        assert Scale.of(x).apply(x) is x


@pytest.mark.parametrize("factor", FACTORS)
def test_scaled_rows_have_the_same_digits(factor: float) -> None:
    # Small whole numbers have no digits to lose.
    x = np.round(BLOBS).astype(np.float32)
    scaled = Scale.of(x * np.float32(factor)).apply(x * np.float32(factor))
    ratio = scaled[x != 0] / x[x != 0]
    assert len(np.unique(ratio)) == 1
    assert np.frexp(ratio[0])[0] == 0.5
    assert 1e-3 < np.abs(scaled).max() < 1e3


def test_scaled_rows_are_finite_and_keep_their_direction() -> None:
    tiny = Scale.of(BLOBS * np.float32(1e-30))
    far = tiny.apply(np.full((1, 4), LARGEST, np.float32))
    assert np.isfinite(far.astype(np.float32) ** 2).all()
    assert len(np.unique(far)) == 1
    for x in (with_far_rows(LARGEST, -LARGEST), np.where(BLOBS > 0, LARGEST, -LARGEST), with_far_rows(1e-38)):
        shift = centre(x.astype(np.float32))
        assert np.isfinite(np.square(Scale.of(x, shift).apply(x.astype(np.float32)))).all()


@pytest.mark.parametrize("factor", FACTORS)
def test_landmarks_know_no_unit(factor: float) -> None:
    x = (np.round(BLOBS.astype(np.float64) * 64) / 64 * factor).astype(np.float32)
    # Ids of the first half; places are the rows' own first columns, in which groups lie apart.
    places = np.ascontiguousarray(BLOBS[:30, :2])
    ids = np.arange(60)
    found = Landmarks(Rows(ids[:30], x[:30]), {"m": Placed(places)}).place(ids, x)["m"]
    ordinary = (np.round(BLOBS * 64) / 64).astype(np.float32)
    expected = Landmarks(Rows(ids[:30], ordinary[:30]), {"m": Placed(places)}).place(ids, ordinary)["m"]
    assert np.allclose(found, expected, atol=1e-4)


def test_rows_out_of_all_bounds_find_a_landmark() -> None:
    ids = np.arange(62)
    x = np.concatenate([BLOBS, np.full((1, 4), LARGEST, np.float32), np.full((1, 4), -LARGEST, np.float32)])
    sample = Rows(ids[:60], BLOBS * np.float32(1e-30))
    found = Landmarks(sample, {"m": Placed(np.ascontiguousarray(BLOBS[:, :2]))}).place(ids, x)["m"]
    assert np.isfinite(found).all()


@pytest.mark.parametrize("factor", FACTORS)
def test_trust_knows_no_unit(factor: float) -> None:
    places = principal(BLOBS)
    x = BLOBS.astype(np.float64) * factor
    assert trust(x.astype(np.float32), places) == pytest.approx(trust(BLOBS, places), abs=1e-9)
    assert trust(BLOBS, (places * np.float32(factor))) == pytest.approx(trust(BLOBS, places), abs=1e-9)


def test_principal_axes_stay_within_float32() -> None:
    # Rows are four times as long as their numbers are large.
    x = np.repeat(np.where(np.arange(20) % 2, LARGEST / 3, -LARGEST / 3)[:, None], 16, axis=1).astype(np.float32)
    found = principal(x)[:, 0]
    assert np.array_equal(np.abs(found), np.full(20, LARGEST))
    assert np.array_equal(np.sign(found), np.where(np.arange(20) % 2, 1, -1))
