"""Bisecting KMeans: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.settings import Counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.stored import NewImages


class BisectingGrid(ModelGrid):
    """Bisecting KMeans for every k, all from one tree; every split is the best of ``n_init``."""

    # A larger k leaves the splits of the smaller ones alone, so a model does not depend on the grid's other k.
    crossed = ("k",)
    shared = ("n_init", "max_iter", "tol")
    count = "k"

    algorithm: Literal["bisecting_kmeans"] = Field(description="Name of the algorithm.")
    k: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    n_init: int = Field(default=5, ge=1, le=100, description="Number of starts of each split; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of passes over all images for a split.")
    tol: float = Field(
        default=1e-4, ge=0, description="A split is done where a pass lowers its inertia by less than this share."
    )


def _parts(grid: BisectingGrid, specs: Sequence[ModelSpec]) -> list[int]:
    """A tree serves a range of k."""
    from motorpool.cluster.centroids.bisecting import tree_for

    return [tree_for(k) for k in numbers(specs, "k")]


def _fit(fitting: Fitting, grid: BisectingGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.centroids.bisecting import by_tree, fit_bisecting

    ks = numbers(specs, "k")
    tree = fit_bisecting(
        fitting.block_df,
        ks,
        n_init=grid.n_init,
        max_iter=grid.max_iter,
        tol=grid.tol,
        seed=fitting.seed,
        progress=fitting.progress,
    )
    trees = [tree.first(k) for k in ks]
    facts = [
        Facts(
            tree.seconds / len(ks),
            own.n_iter,
            own.converged,
            float(own.inertia[own.leaves(k)].sum()),
            centres=own.centroids[own.leaves(k)],
            parameters={"left": own.left, "centroids": own.centroids, "leaves": own.leaves(k)},
        )
        for k, own in zip(ks, trees, strict=True)
    ]
    return FittedModels.of(by_tree(fitting.block_df, tree, ks), specs, facts)


def _relabel(new: NewImages) -> DataFrame:
    """The leaf at the end of the way down the tree."""
    import numpy as np

    from motorpool.cluster.centroids.bisecting import by_tree
    from motorpool.cluster.stored import labels_of_one
    from motorpool.kernels.trees.bisecting_tree import BisectingTree

    arrays = new.model.arrays
    left, centroids = arrays["left"].astype(np.int64), arrays["centroids"].astype(np.float32)
    # The way down needs no more; sizes, inertia and passes of the fit are not stored.
    zero, unknown = np.zeros(len(left), np.int64), np.full(len(left), np.nan)
    tree = BisectingTree(left, centroids, zero, unknown, zero[: len(left) // 2], 0, 0.0)
    return labels_of_one(by_tree(new.blocks, tree, [int(new.model.params["k"])]))


ALGORITHM = Algorithm(
    "bisecting_kmeans",
    "bisecting KMeans",
    BisectingGrid,
    _fit,
    stored=("left", "centroids"),
    relabel=_relabel,
    tells_far=True,
    parts=_parts,
)
