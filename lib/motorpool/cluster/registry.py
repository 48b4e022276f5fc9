"""The algorithms that a config can name. A new one is a module in `algorithms` and a place in the list below."""

from __future__ import annotations

from typing import Any, get_args

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.algorithms import (
    agglomerative,
    bisecting_kmeans,
    dbscan,
    gaussian_mixture,
    hdbscan,
    kmeans,
    minibatch_kmeans,
)

#: Every algorithm by its name, in the order in which messages and pages list them.
ALGORITHMS: dict[str, Algorithm[Any]] = {}


def register(entry: Algorithm[Any]) -> None:
    """Add an algorithm; ValueError for a name that is taken, or that the entry's grid does not have."""
    if entry.name in ALGORITHMS:
        raise ValueError(f"algorithm {entry.name!r}: is registered already")
    if get_args(entry.grid.model_fields["algorithm"].annotation) != (entry.name,):
        raise ValueError(f'algorithm {entry.name!r}: its grid needs the field `algorithm: Literal["{entry.name}"]`')
    ALGORITHMS[entry.name] = entry


def unregister(name: str) -> None:
    """Take an algorithm out again; KeyError where there is none of this name."""
    del ALGORITHMS[name]


for _entry in (
    kmeans.ALGORITHM,
    minibatch_kmeans.ALGORITHM,
    bisecting_kmeans.ALGORITHM,
    agglomerative.ALGORITHM,
    dbscan.ALGORITHM,
    hdbscan.ALGORITHM,
    gaussian_mixture.ALGORITHM,
):
    register(_entry)
