"""Distances between rows by matrix products: their definition, their rounding in float32, and exact ones.

Every kernel works with the *gap* of two rows: half the squared Euclidean distance, |x|^2/2 + |y|^2/2 - x.y, or
one minus the cosine. Both are ``half_x + half_y - x.y`` for suitable rows, so a tile of gaps is one float32
matrix product. A gap within its rounding bound of a threshold is taken again in float64 from the given vectors.

float32 holds the squares of numbers from 1e-19 to 1e19 alone. Three things make the answers right for every float32
vector: rows whose median length is far from 1 are multiplied by a power of two for products (`unit_of`), which is
exact; a row that is too large even so has NaN for a half, so that all of its pairs compare as undecided; and FLOOR, the
most that numbers too small for float32 may lose, is part of every bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

Metric = Literal["euclidean", "cosine"]

_UNIT = 2.0**-24
#: A mean farther from the origin than this many times the rows' spread is worth a shifted copy of the rows.
_FAR = 2.0
#: What a float32 gap loses at most where terms are too small for float32: 2^-126 for each term and sum of a product
#: of up to 2^24 columns, whether the processor rounds such numbers or makes them zero.
FLOOR = 2.0**-100
#: Two halves up to this, their product and all sums on the way are finite in float32.
_LARGEST_HALF = 2.0**125
#: Rows of a median length between these are multiplied as they are.
_ORDINARY = 2.0**-40, 2.0**40
#: Rows looked at together, for the sake of memory.
_ROWS = 4096
#: Gaps within levels between these are kept as float32; halves of the squares of 1.3e-9 and 1.3e19.
_FLOAT32_LEVELS = 2.0**-60, 2.0**126


@dataclass
class Rows:
    """Vectors ready for products.

    ids int64[n]; raw float32[n, d] as given; x float32[n, d] for products: ``raw`` itself, rows shifted and in another
    unit, or rows of length one; half float32[n]. The gap of rows i and j from a product is ``scale`` times that of the
    given vectors, a power of two, and off by at most slack * (half[i] + half[j]) + FLOOR. Rows too large for
    products have the half NaN and x = 0: nothing is known of their gaps.
    """

    ids: np.ndarray
    raw: np.ndarray
    x: np.ndarray
    half: np.ndarray
    slack: float
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: slice | np.ndarray) -> Rows:
        """Some of the rows."""
        raw = self.raw[which]
        x = raw if self.x is self.raw else self.x[which]
        return Rows(self.ids[which], raw, x, self.half[which], self.slack, self.scale)


def prepare(
    ids: np.ndarray, raw: np.ndarray, metric: Metric, shift: np.ndarray | None = None, unit: float = 1.0
) -> Rows:
    """int64[n] ids and float32[n, d] vectors as Rows, products shifted by float64[d] where one is given, then
    multiplied by ``unit``, a power of two (see `unit_of`; directions have none).

    A zero vector has no direction: its cosine with every other row counts as 0.
    """
    raw = np.ascontiguousarray(raw, np.float32)
    if metric == "cosine":
        length = np.sqrt(np.einsum("ij,ij->i", raw, raw, dtype=np.float64))[:, None]
        x = np.divide(raw, length, out=np.zeros(raw.shape), where=length > 0).astype(np.float32)
        half = np.full(len(ids), 0.5, np.float32)
        unit = 1.0
    else:
        moved = raw if shift is None else raw - shift
        with np.errstate(over="ignore"):
            x = moved if unit == 1.0 else moved.astype(np.float64, copy=False) * unit
            x = x.astype(np.float32, copy=False)
            half = 0.5 * np.einsum("ij,ij->i", x, x, dtype=np.float64)
        too_large = ~(half <= _LARGEST_HALF)
        if too_large.any():
            x, half[too_large] = np.where(too_large[:, None], np.float32(0), x), np.nan
        half = half.astype(np.float32)
    # A dot product of d terms is off by at most d units times |x||y| <= half_x + half_y (Higham 2002, eq. 3.5);
    # the others cover the rounding of the rows, the halves and the sums.
    return Rows(ids, raw, x, half, (raw.shape[1] + 32) * _UNIT, unit * unit)


def unit_of(rows: np.ndarray, shift: np.ndarray | None = None) -> float:
    """The power of two that brings the median length of float32[n, d] rows, shifted by float64[d], near 1.

    1 where it lies within 1e-12 and 1e12, so that ordinary rows are multiplied as they are. Lengths are rows' largest
    numbers, zero rows left out. A few rows that are far larger than the rest change nothing.
    """
    largest = np.zeros(len(rows))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        largest[part] = np.abs(rows[part] if shift is None else rows[part] - shift).max(axis=1)
    largest = largest[largest > 0]
    middle = float(np.median(largest)) if len(largest) else 1.0
    return 1.0 if _ORDINARY[0] <= middle <= _ORDINARY[1] else float(np.ldexp(1.0, -int(np.frexp(middle)[1])))


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


def gap_type(levels: np.ndarray) -> type[np.floating]:
    """float32 where it can keep the gaps within float64[E] levels, else float64; see `as_short`."""
    low, high = _FLOAT32_LEVELS
    return np.float32 if ((levels >= low) & (levels <= high)).all() else np.float64


@numba.njit(nogil=True, cache=True)
def as_short(gap: float) -> float:
    """A float64 gap with the 24 binary digits of a float32 and the range of a float64.

    Gaps that are equal so are ties: rounding of distances decides nothing among rows equally near.
    """
    digits, exponent = math.frexp(gap)
    return math.ldexp(np.float64(np.float32(digits)), exponent)


@numba.njit(nogil=True, cache=True)
def as_shorts(gaps: np.ndarray) -> np.ndarray:
    """`as_short` of float64[p] gaps."""
    short = np.empty(len(gaps))
    for pair in range(len(gaps)):
        short[pair] = as_short(gaps[pair])
    return short


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
