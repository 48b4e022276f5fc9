"""What the tables say about a cluster: counts, and how sure they are. Nothing here is worded.

Every share stands beside the usual one, that of all images of the model, and has a lower confidence bound, so that few
images name nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from motorpool.cluster.ensemble.agreement import Contingency
from motorpool.interpret.counts import NUMBERS, Counts

#: Fewer images than this, or fewer vehicles where vehicles are known, are evidence of nothing.
MIN_IMAGES, MIN_VEHICLES = 10, 3
#: A column that a smaller share of all images has a value of marks exceptions ("broken"): an image without one is
#: ordinary, while in other columns nothing is known of it.
MIN_COVERAGE = 0.05
#: Confidence of the two-sided intervals whose lower bounds decide.
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Share:
    """``count`` of ``of`` images have ``value``; ``usual`` is its share in all of the model's images.

    ``vehicles`` is how many vehicles the images that have the value show, None where vehicles are not known.
    """

    value: str
    count: int
    of: int
    usual: float
    vehicles: int | None = None

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    @property
    def lower(self) -> float:
        """The lower bound of the share (Wilson 1927, at CONFIDENCE); 0 below MIN_IMAGES or MIN_VEHICLES.

        Photos of one vehicle are not independent; that there must be several vehicles is all that is asked of them.
        """
        if self.of < MIN_IMAGES or (self.vehicles is not None and self.vehicles < MIN_VEHICLES):
            return 0.0
        return _wilson(self.count, self.of)

    @property
    def lift(self) -> float:
        return self.share / self.usual if self.usual else float("inf")

    @property
    def stands_out(self) -> bool:
        """Surely more frequent than usual, and by a quarter at least."""
        return self.lower > self.usual and self.lift >= 1.25


@lru_cache(maxsize=4096)
def _wilson(count: int, of: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson").low)


@dataclass(frozen=True)
class Overlap:
    """``share`` of the cluster's images lie in ``cluster`` of another model, which holds ``usual`` of all images."""

    model_id: str
    features: str
    cluster: int
    share: float
    usual: float


@dataclass(frozen=True)
class Photos:
    """How many photos of a sample were asked for, and which of them could not be measured, by status."""

    asked: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> int:
        return self.asked - sum(self.lost.values())


@dataclass(frozen=True)
class Evidence:
    """All that is known about one cluster; shares are sorted, the most frequent first.

    numbers: medians of the measured photos and the usual ones, by name. attributes: by column, what is known of the
    cluster's images; labels: which of these columns are labels of the lake, not given with the images. exceptions:
    columns that less than MIN_COVERAGE of the model's images have a value of; there shares are of all images.
    neighbour: the cluster of the nearest centroid.
    """

    model_id: str
    cluster: int
    size: int
    share: float
    photos: Photos = Photos()
    colors: Sequence[Share] = ()
    lights: Sequence[Share] = ()
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    attributes: Mapping[str, Sequence[Share]] = field(default_factory=dict)
    exceptions: Mapping[str, Sequence[Share]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    n_vehicles: int | None = None
    n_whole: int = 0
    overlaps: Sequence[Overlap] = ()
    neighbour: int | None = None


def shares(
    counts: Iterable[tuple[int, str, int, int | None]],
    weights: Mapping[int, float] | None = None,
    sizes: Mapping[int, int] | None = None,
) -> dict[int, list[Share]]:
    """By cluster, the shares of values from ``cluster, value, count, vehicles``, the most frequent first.

    Usual shares are those of all counts together, or, for samples of equal size from clusters of unequal size, the
    mean of the clusters' shares with the ``weights`` of the clusters. Shares are of the images that have a value, or
    of all images where the clusters' ``sizes`` are given.
    """
    # In one order, so that sums are the same to the last digit however the counts came.
    rows = sorted(((c, v, n, k) for c, v, n, k in counts if n), key=lambda row: (row[0], row[1]))
    of: dict[int, int] = {}
    for cluster, _, n, _ in rows:
        of[cluster] = of.get(cluster, 0) + n if sizes is None else sizes[cluster]
    weight = {c: (weights[c] if weights is not None else of[c]) for c in of}
    total = sum(weight.values() if sizes is None else sizes.values()) or 1.0
    usual: dict[str, float] = {}
    for cluster, value, n, _ in rows:
        usual[value] = usual.get(value, 0.0) + n / of[cluster] * weight[cluster] / total
    found: dict[int, list[Share]] = {c: [] for c in of}
    for cluster, value, n, vehicles in rows:
        found[cluster].append(Share(value, n, of[cluster], usual[value], vehicles))
    return {c: sorted(held, key=lambda s: (-s.count, s.value)) for c, held in found.items()}


def overlaps(table: Contingency, model_id: str, features: str) -> dict[int, Overlap]:
    """For each cluster of the first model of ``table`` the cluster of the second that holds most of it.

    Images that the second leaves as noise, or has no label for, count as in none of its clusters.
    """
    n, usual = table.n_images, dict[int, int]()
    for b, count in zip(table.b.tolist(), table.n.tolist(), strict=True):
        usual[b] = usual.get(b, 0) + count
    found = {}
    for cluster in sorted(set(table.a.tolist()) - {-1}):
        of = table.a == cluster
        inside, size = of & (table.b >= 0), int(table.n[of].sum())
        if inside.any():
            at = np.flatnonzero(inside)[np.argmax(table.n[inside])]
            b = int(table.b[at])
            found[cluster] = Overlap(model_id, features, b, int(table.n[at]) / size, usual[b] / n)
    return found


def neighbours(centroids: np.ndarray) -> list[int | None]:
    """For each of float32[k, d] centroids the nearest other one; None for a single one, or without columns."""
    k, width = centroids.shape
    if k < 2 or not width:
        return [None] * k
    x = centroids.astype(np.float64)
    # Row by row: the differences of all pairs at once are gigabytes for a thousand wide centroids.
    squared = np.stack([np.square(x - row).sum(axis=1) for row in x])
    np.fill_diagonal(squared, np.inf)
    return [int(at) for at in squared.argmin(axis=1)]


def evidence_of(
    model_id: str, sizes: np.ndarray, centroids: np.ndarray, counts: Counts, held: Mapping[int, Sequence[Overlap]]
) -> list[Evidence]:
    """The evidence of every cluster of a model, by number.

    ``sizes`` int64[k], ``centroids`` float32[k, d] (d is 0 for a model without vectors); ``counts`` has the rows of
    this model alone, ``held`` the overlaps of each cluster.
    """
    total = max(1, int(sizes.sum()))
    weights = {c: float(size) for c, size in enumerate(sizes.tolist())}
    colors, lights = (shares(_rows(counts.photos, "what", w), weights) for w in ("color", "light"))
    status: dict[int, dict[str, int]] = {}
    for cluster, value, n, _ in _rows(counts.photos, "what", "status"):
        status.setdefault(cluster, {})[value] = n
    columns = sorted(counts.attributes["attribute"].unique()) if len(counts.attributes) else []
    with_vehicles = counts.vehicles is not None
    attributes, exceptions = {}, {}
    for column in columns:
        rows = _rows(counts.attributes, "attribute", column, with_vehicles=with_vehicles)
        if sum(n for _, _, n, _ in rows) >= MIN_COVERAGE * total:
            attributes[column] = shares(rows)
        elif column not in counts.labels:
            exceptions[column] = shares(rows, sizes=dict(enumerate(sizes.tolist())))
    numbers, nearest = _numbers(counts.medians, weights), neighbours(centroids)
    vehicles = {} if counts.vehicles is None else {int(r["cluster"]): r for r in counts.vehicles.to_dict("records")}
    found = []
    for c, size in enumerate(sizes.tolist()):
        of, seen = vehicles.get(c, {"n_vehicles": 0, "n_whole": 0}), status.get(c, {})
        found.append(
            Evidence(
                model_id=model_id,
                cluster=c,
                size=size,
                share=size / total,
                photos=Photos(sum(seen.values()), {k: n for k, n in sorted(seen.items()) if k != "ok"}),
                colors=colors.get(c, []),
                lights=lights.get(c, []),
                numbers=numbers.get(c, {}),
                attributes={column: held_by[c] for column, held_by in attributes.items() if c in held_by},
                exceptions={column: held_by[c] for column, held_by in exceptions.items() if c in held_by},
                labels=tuple(column for column in attributes if column in counts.labels),
                n_vehicles=int(of["n_vehicles"]) if with_vehicles else None,
                n_whole=int(of["n_whole"]),
                overlaps=held.get(c, []),
                neighbour=nearest[c],
            )
        )
    return found


def _rows(
    frame: pd.DataFrame, column: str, value: str, *, with_vehicles: bool = False
) -> list[tuple[int, str, int, int | None]]:
    """``cluster, value, count, vehicles`` of the rows whose ``column`` has the value."""
    if not len(frame):
        return []
    of = frame[frame[column] == value]
    vehicles = of["vehicles"].tolist() if with_vehicles else [None] * len(of)
    return list(zip(of["cluster"].tolist(), of["value"].tolist(), of["count"].tolist(), vehicles, strict=True))


def _numbers(medians: pd.DataFrame, weights: Mapping[int, float]) -> dict[int, dict[str, tuple[float, float]]]:
    """By cluster and name the median, and the mean of the clusters' medians with the weights of the clusters."""
    if not len(medians):
        return {}
    medians = medians.sort_values("cluster")
    weight = np.array([weights[int(c)] for c in medians["cluster"]])
    usual = {name: float(np.average(medians[name], weights=weight)) for name in NUMBERS}
    return {
        int(row["cluster"]): {name: (float(row[name]), usual[name]) for name in NUMBERS}
        for row in medians.to_dict("records")
    }
