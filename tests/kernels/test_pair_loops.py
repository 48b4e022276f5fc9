"""The compiled loops of pairs: their arguments, and the choice between the gap by a product and the exact one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import motorpool
from motorpool.kernels.pairs.geometry import prepare
from motorpool.kernels.pairs.loops import EXACT, bounds, level_of

#: More arrays than this in a row are mixed up unnoticed.
MOST_ARRAYS = 8


def _compiled() -> Iterator[tuple[str, Dispatcher]]:
    for layer in ("kernels", "backend", "neighbours", "cluster"):
        package = importlib.import_module(f"motorpool.{layer}")
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if isinstance(value, Dispatcher) and value.py_func.__module__ == found.name:
                    yield f"{found.name}.{name}", value


def test_compiled_loops_take_named_tuples_and_say_their_types() -> None:
    seen = dict(_compiled())
    assert {f"{motorpool.__name__}.kernels.pairs.{name}" for name in (
        "counting.count_tile", "counting.nearest_tile", "joining.join_tile", "lightest.outgoing_tile"
    )} <= set(seen)  # fmt: skip
    for name, loop in seen.items():
        signature = inspect.signature(loop.py_func)
        types = [p.annotation for p in signature.parameters.values()]
        assert inspect.Parameter.empty not in types, name
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert sum(t == "np.ndarray" for t in types) <= MOST_ARRAYS, name


@pytest.mark.parametrize(
    ("gap", "band", "level"),
    [
        (12.4, 0.05, 1),  # surely between the levels 10 and 20
        (10.02, 0.05, -1),  # within the band of 10: the exact gap may be below it
        (19.97, 0.05, -1),
        (9.0, 0.05, 0),
        (21.0, 0.05, 2),  # beyond the largest level
        (np.nan, np.nan, -1),  # rows too large for products
        (10.0, EXACT, 0),  # exactly at a level is within it
        (np.nextafter(10.0, 11.0), EXACT, 1),
        (20.0, EXACT, 1),
        (np.inf, EXACT, 2),
    ],
)
def test_a_level_within_rounding_of_a_gap_is_left_to_the_exact_gap(gap: float, band: float, level: int) -> None:
    assert level_of(gap, band, np.array([10.0, 20.0, 30.0]), 1) == level


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_gap_by_a_product_is_off_by_no_more_than_its_bound(scale: float) -> None:
    x = (np.random.default_rng(1).normal(size=(60, 40)) * scale).astype(np.float32)
    rows = prepare(np.arange(60), x, "euclidean")
    products = rows.x @ rows.x.T
    for i, j in zip(*np.triu_indices(60, 1), strict=True):
        gap, band = bounds(rows.half[i], rows.half[j], products[i, j], rows.slack)
        exact = 0.5 * np.square(x[i].astype(np.float64) - x[j]).sum()
        assert abs(gap - exact) <= band
        assert band <= 1e-4 * (np.square(x[i]).sum() + np.square(x[j]).sum())
