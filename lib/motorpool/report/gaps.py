"""What a section lacks, and what to put into the config for it: with the same config nothing would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gap:
    """What a section lacks, in words; the lines of the config that ask for it; the command that makes it then."""

    what: str
    config: str
    command: str


_MODELS = "cluster:\n  models:\n    - "

_GAPS: Mapping[str, tuple[str, str, str]] = {
    "clusters": ("no model has clusters", _MODELS + "{algorithm: kmeans, k: 2..15}", "cluster"),
    "scores": ("no model has scores", _MODELS + "{algorithm: kmeans, k: 2..15}", "cluster"),
    "variance": (
        "no feature set has a pca or svd step",
        "features:\n  - {descriptor: NAME, steps: [{pca: 50}]}",
        "features",
    ),
    "k_distances": (
        "distances to neighbours are measured for DBSCAN, and the config names no such grid",
        _MODELS + "{algorithm: dbscan, eps: auto, min_samples: 10}",
        "cluster",
    ),
    "agreement": (
        "agreement is measured with a consensus, and the config asks for none",
        "consensus: {n_clusters: 2..10}",
        "consensus",
    ),
    "tree": (
        "only agglomerative models have a tree, and the config names no such grid",
        _MODELS + "{algorithm: agglomerative, n_clusters: 2..15, linkage: ward}",
        "cluster",
    ),
    "maps_2d": ("the lake holds no map of two dimensions", "projections: {methods: [pca, umap], dims: [2]}", "project"),
    "maps_3d": (
        "the lake holds no map of three dimensions",
        "projections: {methods: [pca, umap], dims: [2, 3]}",
        "project",
    ),
    "titles": ("the clusters have no titles", "report: {}", "interpret"),
    "vehicles": (
        "the photos name no vehicles, or votes of vehicles were not counted",
        "case:\n  path: CASE\n  vehicle_column: COLUMN_OF_THE_ATTRIBUTES_FILE\nvehicles: {models_per_features: 1}",
        "run",
    ),
    "outliers": ("no outliers have been looked for", "outliers: {methods: [isolation_forest, lof]}", "outliers"),
    "reasons": ("the lake holds no reasons", "outliers: {methods: [isolation_forest, lof]}", "outliers"),
}  # fmt: skip


def gaps() -> dict[str, dict[str, Any]]:
    """What each section says where its table is missing or empty: ``what``, ``config``, ``command``."""
    return {
        name: vars(Gap(what, config, f"motorpool {command} --conf FILE"))
        for name, (what, config, command) in _GAPS.items()
    }
