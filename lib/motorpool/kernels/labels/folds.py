"""Folds for cross-validation that keep all photos of a vehicle together."""

from __future__ import annotations

import numpy as np


def vehicle_folds(vehicles: np.ndarray, values: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold of every row, int32[n], from 0 on: rows of one vehicle share it.

    ``vehicles`` int64[n] name the rows' vehicles, ``values`` int64[n] their values, from 0 on. Vehicles are dealt out
    in turn, value by value (that of most of a vehicle's rows; of equally frequent ones the lowest), in an order drawn
    by ``seed``. So the folds' numbers of vehicles differ by at most one, and within a value too, and every fold that is
    left out leaves other vehicles of each value behind, where a value has two. There are fewer folds where there are
    fewer vehicles. Memory: vehicles x values counts.

    Raises ValueError for fewer than two folds or fewer than two vehicles.
    """
    names, vehicle = np.unique(vehicles, return_inverse=True)
    if n_folds < 2 or len(names) < 2:
        raise ValueError(f"{n_folds} folds of {len(names)} vehicles: expected two of each or more")
    counts = np.zeros((len(names), int(values.max()) + 1), np.int64)
    np.add.at(counts, (vehicle, values), 1)
    kind = counts.argmax(axis=1)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(kind[shuffled], kind="stable")]
    fold = np.empty(len(names), np.int32)
    fold[order] = np.arange(len(names)) % min(n_folds, len(names))
    return fold[vehicle]
