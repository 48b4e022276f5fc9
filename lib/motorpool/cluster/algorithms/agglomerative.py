"""Agglomerative clustering: its grid, how it is fitted, and how it labels new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.models import Facts, FittedModels, ModelSpec
from motorpool.settings import Counts, as_list

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from motorpool.cluster.fitting import Fitting
    from motorpool.cluster.stored import NewImages

# As `kernels.trees.linkage` has it, which loads compilers that reading a config does not need.
Linkage = Literal["ward", "average", "complete", "single"]


class AgglomerativeGrid(ModelGrid):
    """Agglomerative clustering for every linkage and n_clusters, through weighted micro-clusters."""

    crossed = ("linkage", "n_clusters")
    shared = ("micro_clusters",)
    count = "n_clusters"

    algorithm: Literal["agglomerative"] = Field(description="Name of the algorithm.")
    n_clusters: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    linkage: Annotated[tuple[Linkage, ...], BeforeValidator(as_list)] = Field(
        default=("ward",), description="One linkage or several: there is a tree for each."
    )
    micro_clusters: int = Field(
        default=4096,
        ge=2,
        le=16_384,
        description="Small groups of near images that the tree is built over. Images of one group are never parted.",
    )

    @model_validator(mode="after")
    def _check(self) -> AgglomerativeGrid:
        if max(self.n_clusters) > self.micro_clusters:
            raise ValueError(f"n_clusters: {max(self.n_clusters)} is above micro_clusters = {self.micro_clusters}")
        return self


def _fit(fitting: Fitting, grid: AgglomerativeGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    from motorpool.cluster.hierarchy.agglomerative import by_micro_clusters, fit_agglomerative

    wanted = [(s.param("linkage"), int(s.param("n_clusters"))) for s in specs]
    linkages = list(dict.fromkeys(method for method, _ in wanted))
    found = fit_agglomerative(
        fitting.block_df,
        sorted({k for _, k in wanted}),
        linkages,  # type: ignore[arg-type]
        micro_clusters=grid.micro_clusters,
        seed=fitting.seed,
        progress=fitting.progress,
    )
    trees = {str(tree.linkage): tree for tree in found.trees}
    # The micro-clusters and the trees are stored with the first model that uses them.
    first = {method: next(s for s, w in zip(specs, wanted, strict=True) if w[0] == method) for method in linkages}
    facts = []
    for spec, (method, k) in zip(specs, wanted, strict=True):
        own = {"clusters": trees[method].clusters[k]}
        if spec is first[method]:
            own["merges"] = trees[method].merges
        if spec is specs[0]:
            own["centroids"] = found.micro.centroids
        of = {"tree_of": first[method].model_id, "micro_clusters_of": specs[0].model_id}
        facts.append(Facts(found.seconds / len(specs) + trees[method].seconds, found=of, parameters=own))
    cuts = [trees[method].clusters[k] for method, k in wanted]
    return FittedModels.of(by_micro_clusters(fitting.block_df, found.micro, cuts), specs, facts)


def _relabel(new: NewImages) -> DataFrame:
    """The cluster of the nearest micro-cluster."""
    import numpy as np

    from motorpool.cluster.hierarchy.agglomerative import by_micro_clusters
    from motorpool.cluster.hierarchy.micro_clusters import MicroClusters
    from motorpool.cluster.stored import labels_of_one

    centroids = new.model.arrays["centroids"].astype(np.float32)
    # Sizes and inertia are of no consequence to labels.
    micro = MicroClusters(centroids, np.ones(len(centroids), np.int64), np.nan, exact=False)
    return labels_of_one(by_micro_clusters(new.blocks, micro, [new.model.arrays["clusters"].astype(np.int32)]))


ALGORITHM = Algorithm(
    "agglomerative",
    "agglomerative",
    AgglomerativeGrid,
    _fit,
    stored=("centroids", "clusters"),
    relabel=_relabel,
    borrowed={"centroids": "micro_clusters_of"},
    noun="agglomerative clustering",
    draws_tree=True,
)
