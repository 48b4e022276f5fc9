"""DBSCAN and HDBSCAN by a library's own class, scikit-learn's or cuML's.

Of HDBSCAN the library's labels are taken as they are. What its rounding leaves open of DBSCAN is decided in float64: a
library compares distances that it has rounded, so rows whose distance is eps within rounding may be neighbours for it
or not, in two cells differently. `LibraryEngine` therefore asks it twice: at a radius so small that all pairs which
the library joins are surely within eps, and at one so large that it joins all which are. What comes out alike both
times is sure; the rest is few, and decided by `geometry.exact_gap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from motorpool.backend.device import open_device
from motorpool.backend.gaps import about_mean
from motorpool.errors import MotorpoolError
from motorpool.kernels.cells.engines import Found, LocalEngine, pairs_within
from motorpool.kernels.pairs.geometry import FLOOR, Metric, to_gap

Library = Literal["sklearn", "cuml"]
#: Which clusters of HDBSCAN's tree are taken.
HdbscanMethod = Literal["eom", "leaf"]

#: What adding up halves and comparing squares in float32 takes beyond `Rows.slack`, for each unit of two halves.
_SUMS = 16 * 2.0**-24
#: A radius is rounded to float32, and some libraries square it in float32.
_NUDGE = 2.0**-22
#: Squares of radii up to this are finite in float32.
_LARGEST = 2.0**63
_MIB = 2**20
#: Memory for a library's batches: a quarter of what is free, since tasks share a GPU, and between these.
_MOST_MIB, _LEAST_MIB = 4096, 16


class Dbscan(Protocol):
    """A library's DBSCAN under the Euclidean metric. It travels to the tasks by pickle."""

    @property
    def name(self) -> Library:
        """What the config and the column ``models.backend`` call it."""

    def fit(self, x: np.ndarray, radius: float, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """int64[n] labels from 0, -1 for noise, and bool[n], which rows are core; of float32[n, d] rows, n > 0.

        A row counts among its own ``min_samples``. Squared distances are as good as float32 products' or better.
        """


@dataclass(frozen=True)
class SklearnDbscan:
    """scikit-learn's, on the CPU. Memory: 8 bytes for each pair of neighbours, all of them at once."""

    name: Library = "sklearn"

    def fit(self, x: np.ndarray, radius: float, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.cluster import DBSCAN

        model = DBSCAN(eps=radius, min_samples=min_samples).fit(x)
        return model.labels_.astype(np.int64), _flags(model.core_sample_indices_, len(x))


@dataclass(frozen=True)
class CumlDbscan:
    """cuML's, on the GPU of this task: every call of it is here. Written for cuML 26.6.

    Memory of the device: the rows, twice, and the distances of as many of them as a quarter of what is free allows.
    Where that is too much the call is made again with half of it. MotorpoolError where 16 MiB are still too much.
    """

    name: Library = "cuml"

    def fit(self, x: np.ndarray, radius: float, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
        device = open_device("cupy")
        most = max(_LEAST_MIB, min(device.free() // 4 // _MIB, _MOST_MIB))
        while True:
            try:
                model = import_module("cuml.cluster").DBSCAN(
                    eps=radius,
                    min_samples=min_samples,
                    metric="euclidean",
                    algorithm="brute",
                    max_mbytes_per_batch=most,
                    calc_core_sample_indices=True,
                    output_type="numpy",
                )
                # Positions of neighbours beyond 2^31 need 64 bits.
                model.fit(device.put(np.ascontiguousarray(x, np.float32)), out_dtype="int64")
                break
            except MemoryError as exc:
                if most <= _LEAST_MIB:
                    raise MotorpoolError(
                        f"engine: cuml: the GPU has no memory for DBSCAN of {len(x):,} rows of {x.shape[1]} columns: "
                        "let fewer tasks share it (raise spark.task.resource.gpu.amount), or take engine: exact"
                    ) from exc
                most = max(_LEAST_MIB, most // 2)
        return np.asarray(model.labels_, np.int64), _flags(np.asarray(model.core_sample_indices_), len(x))


class Hdbscan(Protocol):
    """A library's HDBSCAN under the Euclidean metric. It travels to the task by pickle."""

    @property
    def name(self) -> Library:
        """What the config and the column ``models.backend`` call it."""

    def fit(
        self, x: np.ndarray, min_cluster_size: int, min_samples: int, method: HdbscanMethod
    ) -> tuple[np.ndarray, np.ndarray]:
        """int64[n] labels from 0, -1 for noise, and float32[n] strengths, 0 for noise; of float32[n, d] rows, n > 1.

        A row counts among its own ``min_samples``, of which there are no more than rows.
        """


@dataclass(frozen=True)
class SklearnHdbscan:
    """scikit-learn's, on the CPU, by its k-d tree and float64 distances. It counts a row among its own neighbours.

    Memory: 16 bytes for each number of the rows, and 16 for each row and neighbour. Time: all pairs of rows, on one
    core.
    """

    name: Library = "sklearn"

    def fit(
        self, x: np.ndarray, min_cluster_size: int, min_samples: int, method: HdbscanMethod
    ) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.cluster import HDBSCAN

        model = HDBSCAN(
            min_cluster_size=min_cluster_size,
            min_samples=min_samples,
            metric="euclidean",
            algorithm="kd_tree",
            cluster_selection_method=method,
            copy=True,
        ).fit(x)
        return model.labels_.astype(np.int64), model.probabilities_.astype(np.float32)


@dataclass(frozen=True)
class CumlHdbscan:
    """cuML's, on the GPU of this task: every call of it is here. Written for cuML 26.6.

    cuML does not count a row among its own neighbours, as the hdbscan library does not, whatever its documentation of
    26.6 says: it searches one neighbour more than it is asked for. So it is asked for one less, and an asked one of 1
    has no counterpart. Its distances are roots of float32 products, so it gets the rows about their mean.

    Memory of the device: `hdbscan_bytes`, all at once. MotorpoolError where the device has less, before anything is
    copied, and where it runs out of memory all the same. Memory of the host: 12 bytes for each number of the rows.
    """

    name: Library = "cuml"

    def fit(
        self, x: np.ndarray, min_cluster_size: int, min_samples: int, method: HdbscanMethod
    ) -> tuple[np.ndarray, np.ndarray]:
        if min_samples < 2:
            raise ValueError(f"min_samples = {min_samples}: cuML takes 2 or more, the row itself included")
        device = open_device("cupy")
        need, free = hdbscan_bytes(len(x), x.shape[1], min_samples), device.free()
        if need > free:
            raise MotorpoolError(_no_room(x, f"some {need / _MIB:,.0f} MiB, and {free / _MIB:,.0f} MiB are free"))
        try:
            model = import_module("cuml.cluster").HDBSCAN(
                min_cluster_size=min_cluster_size,
                min_samples=min_samples - 1,
                metric="euclidean",
                cluster_selection_method=method,
                build_algo="brute_force",
                output_type="numpy",
            )
            centred = (x - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
            model.fit(device.put(centred))
        except MemoryError as exc:
            raise MotorpoolError(_no_room(x, f"more than the {free / _MIB:,.0f} MiB that were free")) from exc
        return np.asarray(model.labels_, np.int64), np.asarray(model.probabilities_, np.float32)


def hdbscan_bytes(n: int, width: int, min_samples: int) -> int:
    """Bytes of a GPU that cuML's HDBSCAN is expected to take for n rows, by reading: on a GPU it was not yet seen.

    The rows twice, the graph of their nearest rows while it is made symmetric, and the tree with its outcome.
    """
    return n * (8 * width + 64 * min_samples + 256)


def _no_room(x: np.ndarray, why: str) -> str:
    return (
        f"engine: cuml: HDBSCAN of {len(x):,} rows of {x.shape[1]} columns takes a GPU's memory at once, {why}: let "
        "fewer tasks share it (raise spark.task.resource.gpu.amount), take fewer columns (a step pca), or "
        "engine: motorpool"
    )


def _flags(positions: np.ndarray, n: int) -> np.ndarray:
    flags = np.zeros(n, bool)
    flags[positions] = True
    return flags


#: The libraries that a config can name.
LIBRARIES: dict[Library, Callable[[], Dbscan]] = {"sklearn": SklearnDbscan, "cuml": CumlDbscan}
HDBSCAN_LIBRARIES: dict[Library, Callable[[], Hdbscan]] = {"sklearn": SklearnHdbscan, "cuml": CumlHdbscan}


@dataclass(frozen=True)
class LibraryEngine:
    """A `LocalEngine` whose core rows and components are those that a library's DBSCAN finds.

    Exact, as far as the library keeps `Dbscan.fit`'s promise: a row that is core, or not, at both radii is so at eps,
    and components that are the same at both are those at eps. Other core rows are counted, and other components
    joined, on the host. ``nearest`` is that of ``exact``, since no library's DBSCAN says which core row is nearest.

    Rows that no float32 product can hold, and at an eps of 1 or more rows without a direction, are not handed to the
    library.

    Cost: two calls of the library for each model, in ``core`` and in ``components``; on the host, 2 d operations for
    each pair of a row that is open and any other. Most rows are open where most distances are ties at eps, or where a
    row lies many hundred eps from the mean of all, since float32's rounding grows with it; cells keep rows near it.
    Memory: 12 bytes for each number of the rows on the host; for ``exact`` and the library see there.
    """

    dbscan: Dbscan
    exact: LocalEngine

    def core(self, x: np.ndarray, own: int, metric: Metric, eps: float, min_samples: Sequence[int]) -> Found:
        view = _View.of(x, metric, eps)
        marked = np.zeros((own, len(min_samples)), bool)
        opened = np.zeros((own, len(min_samples)), bool)
        for column, least in enumerate(min_samples):
            if least == 1:
                marked[:, column] = True
                continue
            sure = view.core(self.dbscan, view.low, least)
            # Each row beside the library may be a neighbour that it does not count.
            possible = view.core(self.dbscan, view.high, least - int(view.is_beside.sum()))
            possible[view.is_beside] = True
            marked[:, column], opened[:, column] = sure[:own], (possible & ~sure)[:own]
        rows = np.flatnonzero(opened.any(axis=1))
        counts = np.ones(len(rows), np.int64)
        for i, j in pairs_within(x[rows], x, metric, eps):
            counts += np.bincount(i[rows[i] != j], minlength=len(rows))
        marked[rows] |= opened[rows] & (counts[:, None] >= np.asarray(min_samples))
        return Found(marked, opened.sum(axis=0))

    def components(self, x: np.ndarray, metric: Metric, eps: float, core: np.ndarray) -> Found:
        roots = np.full(core.shape, -1, np.int32)
        opened = np.zeros(core.shape[1], np.int64)
        for column in range(core.shape[1]):
            rows = np.flatnonzero(core[:, column])
            if len(rows):
                roots[rows, column], opened[column] = self._joined(x[rows], metric, eps)
        return Found(roots, opened)

    def nearest(self, queries: np.ndarray, x: np.ndarray, metric: Metric, eps: float) -> tuple[np.ndarray, np.ndarray]:
        return self.exact.nearest(queries, x, metric, eps)

    def _joined(self, x: np.ndarray, metric: Metric, eps: float) -> tuple[np.ndarray, int]:
        """int32[n] components of float32[n, d] rows, numbered from 0, and how many rows had to be looked at."""
        view = _View.of(x, metric, eps)
        fine = view.components(self.dbscan, view.low)
        coarse = view.components(self.dbscan, view.high)
        # Every component at the small radius lies in one at the large.
        _, first, sizes = np.unique(fine, return_index=True, return_counts=True)
        within = coarse[first]
        # The largest of each coarse one need not be looked at: the others are compared with it.
        order = np.lexsort((-sizes, within))
        largest = np.ones(len(order), bool)
        largest[1:] = within[order][1:] != within[order][:-1]
        open_parts = np.ones(len(sizes), bool)
        open_parts[order[largest]] = False
        rows = np.flatnonzero(open_parts[fine] | view.is_beside)
        links = [np.empty((2, 0), np.int64)]
        for i, j in pairs_within(x[rows], x, metric, eps):
            left, right = fine[rows[i]], fine[j]
            apart = left != right
            if apart.any():
                links.append(np.unique(np.stack([left[apart], right[apart]]), axis=1))
        a, b = np.concatenate(links, axis=1)
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(sizes), len(sizes)))
        joined = connected_components(graph, directed=False)[1]
        return joined[fine].astype(np.int32), len(rows)


@dataclass(frozen=True)
class _View:
    """Rows as a library sees them, under the Euclidean metric: ``x`` float32[m, d], rows ``seen`` of all n.

    ``low`` and ``high`` are the radii; None where no pair is surely within eps. Of the other rows some may be near
    any, bool[n] ``is_beside``; the rest has no row within eps.
    """

    n: int
    x: np.ndarray
    seen: np.ndarray
    is_beside: np.ndarray
    low: float | None
    high: float

    @classmethod
    def of(cls, x: np.ndarray, metric: Metric, eps: float) -> _View:
        (rows,) = about_mean(x, metric)
        level = float(to_gap(eps, metric)) * rows.scale
        odd = np.isnan(rows.half)
        unseen = odd
        if metric == "cosine":
            # Rows without a direction are at 1 from all others.
            unseen = odd | (np.count_nonzero(x, axis=1) == 0)
            odd = unseen if level >= 1.0 else odd
        seen = np.flatnonzero(~unseen)
        most = float(rows.half[seen].max(initial=0.0))
        # Twice the slack: libraries take the norms in float32 too, or add up squared differences.
        band = 4.0 * most * (rows.slack + _SUMS) + FLOOR
        low = float(np.float32(min(np.sqrt(2.0 * max(level - band, 0.0)) * (1.0 - _NUDGE), _LARGEST)))
        high = min(np.sqrt(2.0 * (level + band)) * (1.0 + _NUDGE), float(np.finfo(np.float32).max))
        return cls(len(x), rows.x[seen], seen, odd, low or None, float(np.float32(high)))

    def core(self, dbscan: Dbscan, radius: float | None, least: int) -> np.ndarray:
        """bool[n]: rows that have so many rows, seen by the library, within the radius; those not seen are not core."""
        core = np.zeros(self.n, bool)
        if least <= 1:
            core[self.seen] = True
        elif radius is not None and len(self.seen):
            core[self.seen] = dbscan.fit(self.x, radius, least)[1]
        return core

    def components(self, dbscan: Dbscan, radius: float | None) -> np.ndarray:
        """int64[n]: the component of every row; a row that the library does not see is one of its own."""
        found: np.ndarray = np.arange(self.n)
        if radius is not None and len(self.seen):
            labels = dbscan.fit(self.x, radius, 1)[0]
            _, first, which = np.unique(labels, return_index=True, return_inverse=True)
            # Named by one of their rows.
            found[self.seen] = self.seen[first][which]
        numbered: np.ndarray = np.unique(found, return_inverse=True)[1]
        return numbered


def library_engine(library: Library, exact: LocalEngine) -> LibraryEngine:
    """The engine of a library by its name; ``exact`` finds the core row that is nearest."""
    return LibraryEngine(LIBRARIES[library](), exact)
