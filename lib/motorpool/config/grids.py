"""The grids of models that a config can ask for: each is checked by the class that its algorithm registers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.registry import ALGORITHMS


def _parse_grid(value: Any) -> Any:
    """The grid of the algorithm that a section names, by the registry as it is now.

    ValidationError with the places of all problems; pydantic puts the place of the section before them.
    """
    if isinstance(value, ModelGrid):
        return value
    if not isinstance(value, dict):
        raise _problem("model_attributes_type", (), value)
    name = value.get("algorithm")
    if not isinstance(name, str) or name not in ALGORITHMS:
        unknown = PydanticCustomError("value_error", "{given}: expected one of {names}", {
            "given": repr(name), "names": ", ".join(ALGORITHMS),
        })  # fmt: skip
        raise _problem(unknown, ("algorithm",), name)
    return ALGORITHMS[name].grid.model_validate(value)


def _problem(kind: str | PydanticCustomError, at: tuple[str, ...], value: Any) -> ValidationError:
    return ValidationError.from_exception_data("grid", [InitErrorDetails(type=kind, loc=at, input=value)])


#: Any registered grid, of which a dump has all keys.
Grid = Annotated[ModelGrid, BeforeValidator(_parse_grid), SerializeAsAny()]
