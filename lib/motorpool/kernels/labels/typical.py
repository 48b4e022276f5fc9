"""Typical rows: those that are worth a look first, since many others are like them.

As many clusters are made as rows are wanted, and from each the row nearest its centre is taken (TypiClust: Hacohen,
Dekel & Weinshall, 2022, arXiv 2202.02794, with the distance to the centre for the density).
"""

from __future__ import annotations

import numpy as np

_ITERATIONS = 25
#: Multiplications of all iterations, at most (half a minute of two cores): thousands of clusters of wide rows get few.
_WORK = 2e12


def typical_rows(x: np.ndarray, n: int, seed: int, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """At most ``n`` rows of float32[m, d]: their numbers int64[<=n], and how many rows each stands for, int64[<=n].

    The largest clusters come first, so that whoever stops early has seen what is most common. ``known`` float32[k, d]
    are rows that somebody has looked at already: n + k clusters are made of both, and those that hold a known row are
    passed over until the others are used up. Each row is taken once; all rows where there are no more than ``n``.
    Deterministic for a seed; memory: (m + k) x (n + k) distances are never held at once, by scikit-learn's KMeans.
    """
    m = len(x)
    if m <= n:
        return np.arange(m), np.ones(m, np.int64)
    known = x[:0] if known is None else known
    rows = np.concatenate([x, known]).astype(np.float32, copy=False)
    cluster, distance = _clusters(rows, min(n + len(known), m), seed)
    sizes = np.bincount(cluster[:m], minlength=cluster.max() + 1)
    looked_at = np.bincount(cluster[m:], minlength=len(sizes)) > 0
    # The nearest row of each cluster: the first of each in the order of distances.
    order = np.lexsort((np.arange(m), distance[:m], cluster[:m]))
    clusters, first = np.unique(cluster[order], return_index=True)
    nearest = order[first]
    by_use = np.lexsort((nearest, -sizes[clusters], looked_at[clusters]))[:n]
    taken, stands_for = nearest[by_use], sizes[clusters[by_use]]
    # Equal rows leave clusters empty: the rows farthest from their centres fill up.
    if len(taken) < n:
        free = np.ones(m, bool)
        free[taken] = False
        rest = np.flatnonzero(free)
        rest = rest[np.argsort(-distance[rest], kind="stable")][: n - len(taken)]
        taken = np.concatenate([taken, rest])
        stands_for = np.concatenate([stands_for, np.ones(len(rest), np.int64)])
    return taken.astype(np.int64), stands_for.astype(np.int64)


def _clusters(rows: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster int64[n] of each row and its distance to the centre, float32[n]."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    iterations = int(np.clip(_WORK / (float(len(rows)) * k * max(1, rows.shape[1])), 1, _ITERATIONS))
    # Choosing the first centres well looks at all rows some ten times for each centre.
    init = "k-means++" if iterations > 10 else "random"
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: some stay empty, as documented.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(k, init=init, n_init=1, max_iter=iterations, random_state=seed).fit(rows)
    gaps = rows - model.cluster_centers_[model.labels_]
    return model.labels_.astype(np.int64), np.sqrt(np.square(gaps).sum(axis=1))
