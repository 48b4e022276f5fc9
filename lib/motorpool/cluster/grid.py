"""A grid of models in a config: which models one algorithm is asked for, and the parameters of each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal

from pydantic import Field

from motorpool.settings import Name, Section

# As `kernels.pairs.geometry` has it, which loads compilers that reading a config does not need.
Metric = Literal["euclidean", "cosine"]
#: Metric and k of a k-distance curve.
CurveKey = tuple[Metric, int]
Params = dict[str, str]


class ModelGrid(Section):
    """What all grids have in common. The grid of an algorithm adds its own keys, and says which make a model."""

    features: list[Name] | None = Field(default=None, min_length=1, description="Feature sets to fit on. Default: all.")
    algorithm: str = Field(description="Name of the algorithm.")

    #: Fields that hold lists: there is a model for every combination of their values.
    crossed: ClassVar[tuple[str, ...]]
    #: Fields that all models of the grid share and that are part of what a model is.
    shared: ClassVar[tuple[str, ...]] = ()
    #: Whether the run's seed is part of what a model is.
    seeded: ClassVar[bool] = True
    #: The crossed field that says how many clusters a model must find; None where the data decide.
    count: ClassVar[str | None] = None

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        """Modules that the grid's engine imports beside cupy, all of which need a GPU."""
        return ()

    def variants(self, seed: int) -> Iterator[Params]:
        """The parameters of each model, as text: what its id is a hash of, and ``models.params`` shows."""
        shared = {name: getattr(self, name) for name in self.shared} | ({"seed": seed} if self.seeded else {})
        yield from combined(shared, {name: getattr(self, name) for name in self.crossed})

    @classmethod
    def asked(cls, params: Mapping[str, str]) -> int | None:
        """How many clusters a model must find, None where the data decide."""
        return int(params[cls.count]) if cls.count else None

    def refusal(self, params: Params, n: int) -> str | None:
        """Why there cannot be such a model of n images; None where it can be fitted."""
        if not n:
            return "its feature set has no images"
        asked = self.asked(params) or 0
        return f"it asks for {asked:,} clusters of {n:,} images" if asked > n else None

    @property
    def curves(self) -> tuple[CurveKey, ...]:
        """The k-distance curves that the table ``k_distances`` shows for this grid."""
        return ()

    def reads(self, params: Params) -> CurveKey | None:
        """The k-distance curve that a model takes a parameter from; None where the config gives all of them."""
        return None


def combined(shared: dict[str, Any], lists: dict[str, Sequence[Any]]) -> Iterator[Params]:
    """Every combination of the lists' values, each with the shared ones, as text."""
    for values in product(*lists.values()):
        yield {key: str(value) for key, value in {**dict(zip(lists, values, strict=True)), **shared}.items()}
