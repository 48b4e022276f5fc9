"""One model of a study: what it is asked to be, and what fitting found out about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motorpool.features.spec import FeatureSet

if TYPE_CHECKING:
    import numpy as np


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
    #: Small clusters are natural to density-based models.
    by_density: bool = False
    #: Where the model was fitted.
    backend: str = "cpu"
    #: How many clusters the config asks for, None where the data decide.
    asked: int | None = None
