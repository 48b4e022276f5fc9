"""Runs: rows that lie behind each other and have equal keys."""

from __future__ import annotations

import numpy as np


def starts_of(keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys begin, int64[runs], for at least one key."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))


def place_in_run(*keys: np.ndarray) -> np.ndarray:
    """int64[n]: how many rows of its run come before each row; ``keys`` are arrays [n] of ordered rows, one or more."""
    n = len(keys[0])
    if not n:
        return np.zeros(0, np.int64)
    changed = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(np.append(True, changed))
    place: np.ndarray = np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))
    return place
