"""Which cluster of an earlier clustering each new one continues."""

from __future__ import annotations

import numpy as np


def continued(counts: np.ndarray) -> np.ndarray:
    """int64[new]: for each new cluster the earlier one that it continues, -1 for none.

    ``counts`` int64[new, earlier]: images in both. Each earlier cluster is continued by one new cluster at most, so
    that as many images as possible stay with theirs (Kuhn, The Hungarian method for the assignment problem, 1955);
    never by one that shares no image with it. Exact; of equally good ways one, the same for the same counts. Memory:
    a float64 copy of ``counts``.
    """
    from scipy.optimize import linear_sum_assignment

    found = np.full(len(counts), -1, np.int64)
    new, earlier = linear_sum_assignment(counts, maximize=True)
    shared = counts[new, earlier] > 0
    found[new[shared]] = earlier[shared]
    return found
