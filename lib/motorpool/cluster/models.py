"""One model of a study: what it is asked to be, what fitting found out about it, and where its labels are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motorpool.features.spec import FeatureSet

if TYPE_CHECKING:
    import numpy as np

    from motorpool.cluster.labelled import Labelled


@dataclass(frozen=True)
class ModelSpec:
    """One model of the study. ``model_id`` is a hash of feature set, algorithm and parameters, seed included."""

    features: FeatureSet
    algorithm: str
    params: tuple[tuple[str, str], ...]

    def param(self, name: str) -> str:
        return dict(self.params)[name]

    @property
    def model_id(self) -> str:
        content = [self.features.name, self.features.definition, self.algorithm, sorted(self.params)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass
class Facts:
    """What fitting found out about one model.

    ``found`` joins the model's parameters (an eps that the data chose); ``parameters`` are the arrays that label new
    rows; ``centres`` float32[k, d] are the clusters' own, their means where there are none.
    """

    seconds: float
    n_iter: int | None = None
    converged: bool = True
    inertia: float | None = None
    bic: float | None = None
    aic: float | None = None
    found: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    centres: np.ndarray | None = None
    #: Where the model was fitted.
    backend: str = "cpu"
    #: Set by `Fitting`. Whether small clusters are natural to the model (`Algorithm.by_density`).
    by_density: bool = False
    #: Set by `Fitting`. How many clusters the config asks for, None where the data decide.
    asked: int | None = None


@dataclass(frozen=True)
class FittedModel:
    """A fitted model, which has the labels in ``column`` of the grid's `Labelled`."""

    spec: ModelSpec
    facts: Facts
    column: int


@dataclass
class FittedModels:
    """Models that were fitted together: their labels side by side, None where all have failed.

    ``failed`` says of the others why there is no such model. ``release`` drops what the labels are read from.
    """

    labelled: Labelled | None
    models: list[FittedModel]
    failed: dict[ModelSpec, str] = field(default_factory=dict)
    release: Callable[[], object] = lambda: None

    @classmethod
    def of(
        cls,
        labelled: Labelled,
        specs: Iterable[ModelSpec],
        facts: Iterable[Facts],
        release: Callable[[], object] = lambda: None,
    ) -> FittedModels:
        """Models in the order of their columns, none of which has failed."""
        models = [FittedModel(*both, column) for column, both in enumerate(zip(specs, facts, strict=True))]
        return cls(labelled, models, release=release)


def numbers(specs: Sequence[ModelSpec], name: str) -> list[int]:
    """A whole-numbered parameter of each model."""
    return [int(s.param(name)) for s in specs]
