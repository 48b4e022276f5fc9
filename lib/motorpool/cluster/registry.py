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
from motorpool.registry import Registry


def _check_grid(entry: Algorithm[Any]) -> None:
    """ValueError for a name that the entry's grid does not have."""
    if get_args(entry.grid.model_fields["algorithm"].annotation) != (entry.name,):
        raise ValueError(f'algorithm {entry.name!r}: its grid needs the field `algorithm: Literal["{entry.name}"]`')


ALGORITHMS: Registry[Algorithm[Any]] = Registry(
    "algorithm",
    (
        kmeans.ALGORITHM,
        minibatch_kmeans.ALGORITHM,
        bisecting_kmeans.ALGORITHM,
        agglomerative.ALGORITHM,
        dbscan.ALGORITHM,
        hdbscan.ALGORITHM,
        gaussian_mixture.ALGORITHM,
    ),
    _check_grid,
)
