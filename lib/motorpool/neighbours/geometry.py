"""Distances between rows as matrix products: what they are, how far off float32 may be, and the exact answer.

Every kernel works with the *gap* of two rows: half the squared Euclidean distance, |x|^2/2 + |y|^2/2 - x.y, or
one minus the cosine. Both are ``half_x + half_y - x.y`` for suitable rows, so a tile of gaps is one float32
matrix product. A gap within its rounding bound of a threshold is taken again in float64 from the given vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

Metric = Literal["euclidean", "cosine"]

_UNIT = 2.0**-24
#: A mean farther from the origin than this many times the rows' spread is worth a shifted copy of the rows.
_FAR = 2.0


@dataclass
class Rows:
    """Vectors ready for products.

    ids int64[n]; raw float32[n, d] as given; x float32[n, d] for products: ``raw`` itself, shifted rows or
    rows of length one; half float32[n]. The gap of rows i and j from a product is off by at most
    slack * (half[i] + half[j]).
    """

    ids: np.ndarray
    raw: np.ndarray
    x: np.ndarray
    half: np.ndarray
    slack: float

    def __len__(self) -> int:
        return len(self.ids)


def prepare(ids: np.ndarray, raw: np.ndarray, metric: Metric, shift: np.ndarray | None = None) -> Rows:
    """int64[n] ids and float32[n, d] vectors as Rows, products shifted by float64[d] where one is given.

    A zero vector has no direction: its cosine with every other row counts as 0.
    """
    raw = np.ascontiguousarray(raw, np.float32)
    if metric == "cosine":
        length = np.sqrt(np.einsum("ij,ij->i", raw, raw, dtype=np.float64))[:, None]
        x = np.divide(raw, length, out=np.zeros(raw.shape), where=length > 0).astype(np.float32)
        half = np.full(len(ids), 0.5, np.float32)
    else:
        x = raw if shift is None else (raw - shift).astype(np.float32)
        half = (0.5 * np.einsum("ij,ij->i", x, x, dtype=np.float64)).astype(np.float32)
    # A dot product of d terms is off by at most d units times |x||y| <= half_x + half_y (Higham 2002, eq. 3.5);
    # the others cover the rounding of the rows, the halves and the sums.
    return Rows(ids, raw, x, half, (raw.shape[1] + 32) * _UNIT)


def worthwhile_shift(mean: np.ndarray, spread: float) -> np.ndarray | None:
    """The mean float64[d] where rows lie so far from the origin that products would lose digits to it, else None.

    ``spread`` is the rows' mean squared distance to their mean. Distances do not change with a shift.
    """
    return mean if float(mean @ mean) > _FAR**2 * spread else None


def to_gap(distance: np.ndarray | float, metric: Metric) -> np.ndarray:
    """Distances as float64 gaps."""
    distance = np.asarray(distance, np.float64)
    return distance if metric == "cosine" else 0.5 * distance**2


def to_distance(gap: np.ndarray, metric: Metric) -> np.ndarray:
    """Gaps as float64 distances."""
    gap = np.maximum(np.asarray(gap, np.float64), 0.0)
    return gap if metric == "cosine" else np.sqrt(2.0 * gap)


@numba.njit(nogil=True, cache=True)
def exact_gap(x: np.ndarray, y: np.ndarray, cosine: bool) -> float:
    """The gap of two float32[d] vectors as given, in float64 throughout."""
    total = 0.0
    if not cosine:
        for c in range(x.shape[0]):
            delta = np.float64(x[c]) - np.float64(y[c])
            total += delta * delta
        return 0.5 * total
    xx = 0.0
    yy = 0.0
    for c in range(x.shape[0]):
        total += np.float64(x[c]) * np.float64(y[c])
        xx += np.float64(x[c]) * np.float64(x[c])
        yy += np.float64(y[c]) * np.float64(y[c])
    if xx == 0.0 or yy == 0.0:
        return 1.0
    return max(1.0 - total / np.sqrt(xx * yy), 0.0)  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)
def exact_gaps(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, cosine: bool) -> np.ndarray:
    """float64 gaps of the pairs (a[i], b[j]) of float32 rows, for int64[p] positions."""
    gaps = np.empty(len(i))
    for pair in range(len(i)):
        gaps[pair] = exact_gap(a[i[pair]], b[j[pair]], cosine)
    return gaps
