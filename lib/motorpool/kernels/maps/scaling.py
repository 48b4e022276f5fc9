"""Rows of any float32 size brought to a size that layouts and searches can work with.

Their libraries square differences of rows in float32, which holds the squares of numbers from 1e-19 to 1e19 alone, and
some of them begin a search for a bandwidth at 1. A map keeps neighbourhoods, which a factor does not change, so rows
are multiplied by a power of two: that is exact, and ordinary rows are multiplied by 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Numbers of the rows that a scale is taken from are no larger. Squares of rows of 4,096 such numbers, and the sum of
#: the squares of 100,000 of them, are finite in float32.
_LARGEST = 2.0**50
#: Rows that are so many times longer than most would draw the mean so far off that float32 lost the others' digits.
_STRAY = 2.0**20
#: Rows that tell, at most, whether there are some.
_ASKED = 1000
#: A row that lies farther off than this is brought as near along its direction.
_FARTHEST = 2.0**55


def centre(rows: np.ndarray) -> np.ndarray:
    """float64[d]: the mean of float32[n, d] rows, or the median of some of them where a few rows are a million times
    as far from it as most.

    Distances do not change with a shift. About it, squared lengths lose no digits to a far-off origin.
    """
    middle: np.ndarray = np.median(rows[:: len(rows) // _ASKED + 1], axis=0).astype(np.float64)
    lengths = np.abs(rows - middle).max(axis=1)
    if lengths.max() > _STRAY * np.median(lengths) > 0:
        return middle
    mean: np.ndarray = rows.mean(axis=0, dtype=np.float64)
    return mean


@dataclass(frozen=True)
class Scale:
    """A shift float64[d], or None, and a factor, a power of two, behind it."""

    shift: np.ndarray | None
    factor: float

    @classmethod
    def of(cls, rows: np.ndarray, shift: np.ndarray | None = None) -> Scale:
        """The scale at which the median length of float[n, d] rows about ``shift`` is near 1 (see `unit_of`).

        Where a number would be above 2**50 the factor is as much smaller. 1 for rows of ordinary lengths.
        """
        # Loads a compiler, which reading a config must not.
        from motorpool.kernels.pairs.geometry import unit_of

        unit = unit_of(rows, shift)
        largest = unit * float(np.abs(rows if shift is None else rows - shift).max(initial=0.0))
        if largest > _LARGEST:
            unit *= _LARGEST / float(_next_power(largest))
        return cls(shift, unit)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """float32[n, d] of float32[n, d], finite; ``rows`` themselves where there is nothing to do."""
        moved = rows if self.shift is None else rows - self.shift
        if self.factor != 1.0:
            moved = moved.astype(np.float64, copy=False) * self.factor
        farthest = np.abs(moved).max(axis=1, initial=0.0)
        if (farthest > _FARTHEST).any():
            moved = moved * (_FARTHEST / _next_power(np.maximum(farthest, _FARTHEST)))[:, None]
        result: np.ndarray = moved.astype(np.float32, copy=False)
        return result


def _next_power(values: np.ndarray | float) -> np.ndarray:
    """The powers of two that are no less than positive numbers, or twice that."""
    result: np.ndarray = np.ldexp(1.0, np.frexp(values)[1])
    return result
