"""Parts that the compiled loops over tiles of products share: their arguments, and the choice of pairs to look at.

The loops of `counting`, `joining` and `lightest` have one shape. Every row carries a *limit*: the largest gap at which
one of its pairs can still change the result (minus infinity: none can). A pair is looked at when its gap is within the
larger limit of its two rows. A vectorised comparison skips nearly all pairs, and those that remain are looked at one by
one. Limits shrink as rows are done, so the work grows with the result and not with the number of pairs.

Products, halves and limits (float32) are in the unit of the rows for products, where gaps are ``scale`` times as large;
levels and gaps that are kept (float64) are those of the given vectors. Where a half is NaN (see `geometry.Rows`), gaps
by products are NaN too. Comparisons are written so that such a pair is looked at, and its exact gap decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from motorpool.kernels.pairs.geometry import FLOOR, Rows

#: Pairs are skipped by the dozen: a run of this many columns is compared before any of them is looked at.
RUN = 64
FLOOR32 = np.float32(FLOOR)
#: A limit is rounded to float32 and then multiplied by this: it is never too small.
UP = np.float32(1.0000002)

#: The band of a gap that is exact: it decides at every level.
EXACT = -1.0

jit = numba.njit(nogil=True, cache=True, error_model="numpy")


class Tile(NamedTuple):
    """``products`` float32[R, C] of rows [i0, i0 + R) of one side with rows [j0, j0 + C) of the other.

    ``same``: both sides are the same rows, and only pairs with i < j count.
    """

    products: np.ndarray
    i0: int
    j0: int
    same: bool


class Points(NamedTuple):
    """Rows as loops take them: int64[n] ids, float32[n, d] vectors as given, float32[n] halves (`geometry.Rows`)."""

    ids: np.ndarray
    raw: np.ndarray
    half: np.ndarray


class Precision(NamedTuple):
    """How gaps follow from products: ``slack`` and ``scale`` of `geometry.Rows`, and whether the metric is cosine."""

    slack: float
    scale: float
    cosine: bool


def points_of(rows: Rows) -> Points:
    return Points(rows.ids, rows.raw, rows.half)


def precision_of(rows: Rows, cosine: bool) -> Precision:
    return Precision(rows.slack, rows.scale, cosine)


@jit
def _n_near(
    products: np.ndarray,
    low_columns: np.ndarray,
    limit_columns: np.ndarray,
    low_row: np.float32,
    limit_row: np.float32,
) -> np.int32:
    """How many columns of a row may be within a limit: float32[C] slices, for a loop of vector instructions."""
    far = np.int32(0)
    for c in range(len(products)):
        limit = limit_columns[c] if limit_columns[c] > limit_row else limit_row
        far += np.int32(low_row + low_columns[c] - products[c] > limit)
    return len(products) - far


@jit
def near_columns(
    products: np.ndarray,
    low_columns: np.ndarray,
    limit_columns: np.ndarray,
    low_row: np.float32,
    limit_row: np.float32,
    first: int,
    found: np.ndarray,
) -> int:
    """Put the positions of a row's columns from ``first`` on that may be within a limit into int32[C] ``found``, and
    return their number.

    ``low_row`` and float32[C] ``low_columns`` are the halves less what rounding may have added.
    """
    if _n_near(products, low_columns, limit_columns, low_row, limit_row) == 0:
        return 0
    n = 0
    for start in range(first - first % RUN, len(products), RUN):
        run = slice(start, start + RUN)
        if _n_near(products[run], low_columns[run], limit_columns[run], low_row, limit_row) == 0:
            continue
        for c in range(max(start, first), min(start + RUN, len(products))):
            if not low_row + low_columns[c] - products[c] > max(limit_columns[c], limit_row):
                found[n] = c
                n += 1
    return n


@jit
def bounds(half_i: np.float32, half_j: np.float32, product: np.float32, slack: float) -> tuple[float, float]:
    """The gap of a pair by its product, and by how much the exact gap may differ from it; in the unit of products."""
    halves = np.float64(half_i) + np.float64(half_j)
    return halves - np.float64(product), slack * halves + FLOOR


@jit
def level_of(gap: float, band: float, levels: np.ndarray, top: int) -> int:
    """The lowest of float64[E] ascending levels up to ``top`` that holds a pair; top + 1 where none does.

    -1 where a level is within ``band`` of the gap, or the gap is NaN: then the exact gap has to decide, with the band
    EXACT. Loops unpack their named tuples before the first pair and pass such functions few arrays: each array that a
    call passes costs as much as the comparison.
    """
    level = top + 1
    while level > 0:
        if not abs(gap - levels[level - 1]) > band:
            return -1
        if gap > levels[level - 1]:
            break
        level -= 1
    return level
