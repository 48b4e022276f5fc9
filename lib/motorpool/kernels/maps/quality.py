"""How far a map can be trusted: whether what lies together on it lies together in the features."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool.kernels.maps.scaling import Scale

#: Images that maps are judged by, at most: two float64 and two int64 matrices of so many rows and columns are 288 MB.
JUDGED = 3000
#: Neighbours on the map that must be neighbours in the features: scikit-learn's number.
NEIGHBOURS = 5


def trust(x: np.ndarray, places: np.ndarray) -> float | None:
    """The trustworthiness (Venna & Kaski, 2001) of float[m, dims] places of float32[m, d] rows, 1 at best.

    With fewer than 11 rows it takes as many neighbours as it is defined for, less than half the rows; None below three
    rows. Memory: 32 m^2 bytes.
    """
    from sklearn.manifold import trustworthiness

    k = min(NEIGHBOURS, (len(x) - 1) // 2)
    if k < 1:
        return None
    with threadpool_limits(limits=1):
        x, places = Scale.of(x).apply(x), Scale.of(places).apply(places)
        return float(trustworthiness(x, places, n_neighbors=k))
