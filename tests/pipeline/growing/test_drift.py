"""When a new fit is due: not by chance, and not for few images in many clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from motorpool.pipeline.growing.drift import CHANCE, drift_row


def row(psi: float, n: int, far: int, *, before: int = 10_000, far_before: int = 100, cells: int = 5) -> dict[str, Any]:
    counts = {"all_n_before": before, "all_n_after": n, "all_far_before": far_before, "all_far_after": far}
    return drift_row(counts | {"append_id": "all", "model_id": "m", "cells": cells, "psi": psi, "far_from": 1.0})


def index(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The population stability index of draws [n, cells], as the table's comment says."""
    old, new = ((c + 0.5) / (c + 0.5).sum(axis=1, keepdims=True) for c in (before, after))
    result: np.ndarray = ((new - old) * np.log(new / old)).sum(axis=1)
    return result


@pytest.mark.parametrize(("cells", "n", "before"), [(2, 500, 2000), (5, 2000, 5000), (20, 2000, 2000)])
def test_chance_stays_below_its_bound(cells: int, n: int, before: int) -> None:
    """Both draws from one population: one of 1,000 is above."""
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.full(cells, 5.0))
    found = index(*(rng.multinomial(size, shares, 40_000) for size in (before, n)))
    bound = row(0.0, n, 0, before=before, cells=cells)["psi_by_chance"]
    assert CHANCE / 3 < np.mean(found > bound) < 3 * CHANCE


def test_when_a_new_fit_is_due() -> None:
    assert not row(0.24, 1000, 10)["refit_due"]
    due = row(0.26, 1000, 10)
    assert due["reason"] == "the clusters' shares have shifted (population stability index 0.26)"
    # Ten images in twenty clusters differ by chance alone.
    few = row(1.5, 10, 0, cells=20)
    assert few["psi_by_chance"] > 1.5
    assert (few["refit_due"], few["reason"]) == (False, None)
    # 5 points more than the usual 1 %, and too many for chance.
    assert not row(0.0, 1000, 60)["refit_due"]
    assert row(0.0, 1000, 61)["reason"] == "6.1 % of the images are far from every cluster, where 1.0 % are usual"
    assert not row(0.0, 2, 1)["refit_due"]
    assert row(0.3, 1000, 1000)["reason"].count(" and ") == 1
    # A single cell, and nothing to tell apart.
    assert row(0.0, 1, 0, cells=1)["psi_by_chance"] == 0
