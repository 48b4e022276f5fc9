"""Disjoint sets of the numbers 0 to n - 1 (union-find), compiled.

``parents`` int[n] holds every number's parent, a root its own. `numpy.arange` is n sets of one number each. Sets for
many settings side by side, int[n, settings], are in `kernels.pairs.joining`, where they are read row by row.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_jit = njit(nogil=True, cache=True)


@_jit
def find(parents: np.ndarray, at: int) -> int:
    """The root of a number; halves the path on the way."""
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at


@_jit
def unite(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join int[p] numbers pair by pair, in place; bool[p]: the pairs whose sets were not one already.

    The lower root becomes the root, so roots do not depend on the order of the pairs.
    """
    joined = np.zeros(len(left), np.bool_)
    for pair in range(len(left)):
        a, b = find(parents, left[pair]), find(parents, right[pair])
        if a != b:
            parents[max(a, b)] = min(a, b)
            joined[pair] = True
    return joined


@_jit
def roots(parents: np.ndarray) -> np.ndarray:
    """The root of every number, int[n]; shortens paths in ``parents``, which changes no set."""
    found = np.empty_like(parents)
    for at in range(len(parents)):
        found[at] = find(parents, at)
    return found
