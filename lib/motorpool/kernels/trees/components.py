"""From components that many tasks have found to clusters: they are merged where they are linked, and numbered.

A *component* is known by its model, its place (the shard or cell of rows in which it was found) and its root, a
number within the place. The components are few compared with the rows, so merging them is the driver's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: Models, places, and rows of a place that a component's code has room for (see `code_of`): 15, 24 and 24 of 63 bits.
#: The dtypes below hold as many. A config asks for 512 models a grid, and places have 2^20 rows at most.
MAX_MODELS, MAX_PLACES, MAX_ROOTS = 2**15 - 1, 2**24 - 1, 2**24 - 1
#: A component of a place's core rows, and the smallest image_id among them.
PART_DTYPE = np.dtype([("model", "i2"), ("place", "i4"), ("root", "i4"), ("first", "i8")])
#: Two components that are one.
LINK_DTYPE = np.dtype([("model", "i2"), ("place_a", "i4"), ("root_a", "i4"), ("place_b", "i4"), ("root_b", "i4")])


@dataclass(frozen=True)
class ClusterNumbers:
    """The cluster int32 of every component, by ascending code int64 (see `code_of`)."""

    codes: np.ndarray
    clusters: np.ndarray

    def sizes(self, n_models: int) -> np.ndarray:
        """int64[models]: how many clusters each has."""
        sizes = np.zeros(n_models, np.int64)
        np.maximum.at(sizes, self.codes >> 48, self.clusters + 1)
        return sizes

    def of(self, model: np.ndarray | int, place: np.ndarray | int, root: np.ndarray) -> np.ndarray:
        """int32 cluster numbers of components that are known."""
        return self.clusters[np.searchsorted(self.codes, code_of(model, place, root))]


def code_of(model: np.ndarray | int, place: np.ndarray | int, root: np.ndarray) -> np.ndarray:
    """One sortable number: 15 bits of model, 24 of place and 24 of root. `parts_of` refuses what has no room."""
    return (np.asarray(model, np.int64) << 48) | (np.asarray(place, np.int64) << 24) | np.asarray(root, np.int64)


def parts_of(place: int, ids: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """The components of one place, PART_DTYPE: int64[n] ids of rows with int32[n, models] roots, -1: not core.

    Raises ValueError where a model, the place or a root is beyond what a component's code holds.
    """
    for name, largest, room in (
        ("model", roots.shape[1] - 1, MAX_MODELS),
        ("place", place, MAX_PLACES),
        ("root", int(roots.max(initial=-1)), MAX_ROOTS),
    ):
        if largest > room:
            raise ValueError(f"{name} {largest:,} of a component: there are numbers up to {room:,}")
    found = []
    for model in range(roots.shape[1]):
        core = np.flatnonzero(roots[:, model] >= 0)
        root, where = np.unique(roots[core, model], return_inverse=True)
        first = np.full(len(root), np.iinfo(np.int64).max)
        np.minimum.at(first, where, ids[core])
        part = np.empty(len(root), PART_DTYPE)
        part["model"], part["place"], part["root"], part["first"] = model, place, root, first
        found.append(part)
    return np.concatenate(found)


def number(parts: np.ndarray, links: np.ndarray) -> ClusterNumbers:
    """Merge the components that are linked; within each model clusters count from 0, by their first core row.

    Every component of ``links`` is among the ``parts``. Memory: some 60 bytes for each part and 40 for each link.
    """
    codes = code_of(parts["model"], parts["place"], parts["root"])
    order = np.argsort(codes)
    codes, parts = codes[order], parts[order]
    if not len(parts):
        return ClusterNumbers(codes, np.empty(0, np.int32))
    left = np.searchsorted(codes, code_of(links["model"], links["place_a"], links["root_a"]))
    right = np.searchsorted(codes, code_of(links["model"], links["place_b"], links["root_b"]))
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(parts), len(parts)))
    n_clusters, cluster = connected_components(graph, directed=False)
    first, model = np.full(n_clusters, np.iinfo(np.int64).max), np.zeros(n_clusters, np.int64)
    np.minimum.at(first, cluster, parts["first"])
    model[cluster] = parts["model"]
    by_first = np.lexsort((first, model))
    starts = np.searchsorted(model[by_first], model[by_first])
    numbers = np.empty(n_clusters, np.int32)
    numbers[by_first] = np.arange(n_clusters) - starts
    return ClusterNumbers(codes, numbers[cluster])
