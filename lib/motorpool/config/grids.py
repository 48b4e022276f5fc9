"""The grids of models that a config can ask for: one class per algorithm, each naming its models' parameters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from motorpool.settings import Counts, Name, Section, as_list, parse_counts
from motorpool.texts import as_number


def _parse_eps(value: Any) -> Any:
    """``auto``, or distances above 0: ascending, each once."""
    if value == "auto":
        return value
    items = [as_number(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not 0 < item <= sys.float_info.max:
            raise ValueError(f"{item!r}: expected `auto` or distances above 0, e.g. [0.5, 1, 2]")
    if not items:
        raise ValueError("is empty: name at least one distance, or `auto`")
    return tuple(sorted({float(item) for item in items}))


#: Rows within a radius, or of a cluster: 512 is the largest that published studies ask for.
Neighbours = Annotated[int, Field(ge=1, le=100_000)]
# As the modules that fit them name them, which load compilers that reading a config does not need.
Metric = Literal["euclidean", "cosine"]
CovarianceType = Literal["full", "tied", "diag", "spherical"]
Linkage = Literal["ward", "average", "complete", "single"]
Params = dict[str, str]


class _Grid(Section):
    features: list[Name] | None = Field(default=None, description="Feature sets to fit on. Default: all.")

    #: Fields that hold lists: there is a model for every combination of their values.
    crossed: ClassVar[tuple[str, ...]]
    #: Fields that all models of the grid share and that are part of what a model is.
    shared: ClassVar[tuple[str, ...]] = ()
    #: Whether the run's seed is part of what a model is.
    seeded: ClassVar[bool] = True
    #: The crossed field that says how many clusters a model must find; None where the data decide.
    count: ClassVar[str | None] = None

    def variants(self, seed: int) -> Iterator[Params]:
        """The parameters of each model, as text: what its id is a hash of, and ``models.params`` shows."""
        shared = {name: getattr(self, name) for name in self.shared} | ({"seed": seed} if self.seeded else {})
        yield from _combined(shared, {name: getattr(self, name) for name in self.crossed})

    def asked(self, params: Params) -> int | None:
        """How many clusters a model must find, None where the data decide."""
        return int(params[self.count]) if self.count else None

    def refusal(self, params: Params, n: int) -> str | None:
        """Why there cannot be such a model of n images; None where it can be fitted."""
        if not n:
            return "its feature set has no images"
        asked = self.asked(params) or 0
        return f"it asks for {asked:,} clusters of {n:,} images" if asked > n else None


def _combined(shared: dict[str, Any], lists: dict[str, Sequence[Any]]) -> Iterator[Params]:
    for values in product(*lists.values()):
        yield {key: str(value) for key, value in {**dict(zip(lists, values, strict=True)), **shared}.items()}


class KMeansGrid(_Grid):
    """KMeans for every k, each from ``n_init`` starts, on the named feature sets (all by default)."""

    crossed = ("k",)
    shared = ("n_init", "max_iter", "tol")
    count = "k"

    algorithm: Literal["kmeans"] = Field(description="Name of the algorithm.")
    k: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of passes over all images.")
    tol: float = Field(
        default=1e-4,
        ge=0,
        description="A model is done where a pass over all images lowers its inertia by less than this share.",
    )


class MiniBatchGrid(_Grid):
    """Mini-batch KMeans for every k, on a sample of 64 batches."""

    crossed = ("k",)
    shared = ("batch_size", "n_init", "max_iter")
    count = "k"

    algorithm: Literal["minibatch_kmeans"] = Field(description="Name of the algorithm.")
    k: Counts = Field(description="Numbers of clusters, such as `2..15`, `9` or `[2, 5, 9]`.")
    batch_size: int = Field(default=1024, ge=1, le=65_536, description="Images of one batch.")
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of passes over the sample.")


class BisectingGrid(_Grid):
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


class AgglomerativeGrid(_Grid):
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


class DbscanGrid(_Grid):
    """DBSCAN for every eps and min_samples; ``eps: auto`` takes eight quantiles of each min_samples' k-distances."""

    crossed = ("eps", "min_samples")
    shared = ("metric",)
    seeded = False

    algorithm: Literal["dbscan"] = Field(description="Name of the algorithm.")
    eps: Annotated[Literal["auto"] | tuple[float, ...], BeforeValidator(_parse_eps)] = Field(
        description="Distances within which images are neighbours, or `auto`: eight quantiles (2 % to 90 %) of the "
        "distances to the `min_samples`-th nearest image."
    )
    min_samples: Annotated[tuple[Neighbours, ...], BeforeValidator(parse_counts)] = Field(
        description="Neighbours that make an image a core image, the image itself included."
    )
    metric: Metric = Field(default="euclidean", description="Distance between images.")
    # Two ways to the same labels, so no part of what a model is.
    way: Literal["pairs", "cells"] = Field(
        default="pairs",
        description="Two ways to the same labels. `pairs` compares all pairs of images twice, for all models at once. "
        "`cells` cuts space into parts and runs a plain DBSCAN on each part and the images within eps of it; it needs "
        "few columns and a small `eps`.",
    )

    @model_validator(mode="after")
    def _check(self) -> DbscanGrid:
        n = len(self.min_samples) * (len(AUTO_QUANTILES) if self.eps == "auto" else len(self.eps))
        # A task remembers 12 bytes for each of its 131,072 rows and each model of the grid.
        if n > 512:
            raise ValueError(f"asks for {n} models, and at most 512 share their passes: make it two grids")
        return self

    def variants(self, seed: int) -> Iterator[Params]:
        if self.eps == "auto":
            shared = {"eps": "auto", "metric": self.metric, "seed": seed}
            for params in _combined(shared, {"quantile": AUTO_QUANTILES, "min_samples": self.min_samples}):
                # The curve that eps is a quantile of: with (features, metric) the key of `k_distances`.
                yield params | {"curve_k": params["min_samples"]}
        else:
            yield from super().variants(seed)

    @property
    def curves(self) -> tuple[int, ...]:
        """The k of the k-distance curves to compute: those that eps is taken from, or else one to choose eps by."""
        return self.min_samples if self.eps == "auto" else self.min_samples[:1]

    def reads(self, params: Params) -> int | None:
        """The k of the curve that a model takes its eps from; None where the config gives eps."""
        return int(params["curve_k"]) if self.eps == "auto" else None

    def refusal(self, params: Params, n: int) -> str | None:
        k = self.reads(params) or 0
        if 0 < n < k:
            return f"eps: auto needs as many images as min_samples = {k:,}, and there are {n:,}"
        return super().refusal(params, n)


class HdbscanGrid(_Grid):
    """HDBSCAN for every min_cluster_size, from one spanning tree."""

    crossed = ("min_cluster_size",)
    shared = ("min_samples", "method", "metric")
    seeded = False

    algorithm: Literal["hdbscan"] = Field(description="Name of the algorithm.")
    min_cluster_size: Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(parse_counts)] = Field(
        description="Smallest sizes of a cluster: there is a model for each of them."
    )
    min_samples: int = Field(
        default=5,
        ge=1,
        le=256,
        description="Number of neighbours that measure how dense it is around an image, the image itself included, as "
        "scikit-learn counts.",
    )
    method: Literal["eom", "leaf"] = Field(
        default="eom",
        description="Which clusters of the tree are taken: `eom` (excess of mass) or its `leaf` clusters.",
    )
    metric: Metric = Field(default="euclidean", description="Distance between images.")


class MixtureGrid(_Grid):
    """Gaussian mixtures for every number of components and covariance type."""

    crossed = ("n_components", "covariance_type")
    shared = ("n_init", "max_iter", "tol", "reg_covar")
    count = "n_components"

    algorithm: Literal["gaussian_mixture"] = Field(description="Name of the algorithm.")
    n_components: Counts = Field(description="Numbers of components, such as `2..8`, `9` or `[2, 5, 9]`.")
    covariance_type: Annotated[tuple[CovarianceType, ...], BeforeValidator(as_list)] = Field(
        default=("full",), description="One form of the covariances or several, as in scikit-learn."
    )
    n_init: int = Field(default=1, ge=1, le=100, description="Number of starts; the best is kept.")
    max_iter: int = Field(default=100, ge=1, description="Largest number of EM iterations.")
    tol: float = Field(
        default=1e-3, ge=0, description="A model is done where the mean log-likelihood gains less than this."
    )
    reg_covar: float = Field(default=1e-6, ge=0, description="Added to the diagonals of the covariances.")


def asked_of(params: Mapping[str, str]) -> int | None:
    """How many clusters a model of the lake had to find, by its parameters; None where the data decided."""
    names = (g.count for g in (KMeansGrid, AgglomerativeGrid, MixtureGrid))
    return next((int(params[name]) for name in names if name in params), None)


#: The quantiles of the k-distances that ``eps: auto`` stands for.
AUTO_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)

ALGORITHMS = (
    "kmeans",
    "minibatch_kmeans",
    "bisecting_kmeans",
    "agglomerative",
    "dbscan",
    "hdbscan",
    "gaussian_mixture",
)
Grid = Annotated[
    KMeansGrid | MiniBatchGrid | BisectingGrid | AgglomerativeGrid | DbscanGrid | HdbscanGrid | MixtureGrid,
    Field(discriminator="algorithm"),
]
