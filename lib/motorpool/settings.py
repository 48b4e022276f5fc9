"""The parts that every section of a config is made of: strict models, names, numbers and lists as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from motorpool.texts import NAME_PATTERN, as_number, expand_home


def _location(value: str) -> str:
    if not value.strip():
        raise ValueError(f"{value!r}: is empty: name a file or folder")
    return expand_home(value)


#: Every file and folder that a config names: `~` stands for the home folder.
Location = Annotated[str, AfterValidator(_location)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        """Numbers that YAML has left as text; fields of lists and unions have validators of their own."""
        if not isinstance(data, dict):
            return data
        numbers = {name for name, field in cls.model_fields.items() if field.annotation in (int, float)} & set(data)
        for name in numbers:
            if isinstance(data[name], bool):
                raise ValueError(f"{name}: {data[name]!r}: expected a number")
        return {**data, **{name: as_number(data[name]) for name in numbers}}


def check_name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(
            f"{value!r}: use up to 100 letters, digits, '_', '.', '+' and '-', starting with a letter or digit"
        )
    return value


#: No list of counts may be longer: each of them is a model.
MAX_RANGE = 100_000


def parse_counts(value: Any) -> Any:
    """``9``, ``[2, 5, 9]`` or ``"2..15"`` (both ends included), freely mixed in a list."""
    counts: set[int] = set()
    for item in map(as_number, value if isinstance(value, (list, tuple)) else [value]):
        found = re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", item) if isinstance(item, str) else None
        if found:
            low, high = int(found[1]), int(found[2])
            if high < low:
                raise ValueError(f"{item!r}: the range is empty, write the smaller number first")
            if high - low >= MAX_RANGE:
                raise ValueError(f"{item!r}: the range holds {high - low + 1:,} numbers, more than {MAX_RANGE:,}")
            counts.update(range(low, high + 1))
        elif isinstance(item, int) and not isinstance(item, bool):
            counts.add(item)
        else:
            raise ValueError(f'{item!r}: expected a whole number, a list of them or a range such as "2..15"')
    if not counts:
        raise ValueError("is empty: name at least one number")
    return tuple(sorted(counts))


def as_list(value: Any) -> Any:
    """One value may stand for a list of one."""
    if not isinstance(value, (list, tuple)):
        return (value,)
    if not value:
        raise ValueError("is empty: name at least one")
    # Compared, not hashed: what is no text is refused later, by name.
    return tuple(item for i, item in enumerate(value) if item not in value[:i])


@dataclass(frozen=True)
class NameIn:
    """A validator: the name of an entry that a registry holds when the config is read, as it may grow until then."""

    registry: Mapping[str, object]

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.registry:
            return value
        *others, last = (repr(name) for name in self.registry)
        raise PydanticCustomError(
            "unknown_name", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"}
        )


Name = Annotated[str, BeforeValidator(lambda v: check_name(str(v)))]
ClusterCount = Annotated[int, Field(ge=2, le=10_000)]
Counts = Annotated[tuple[ClusterCount, ...], BeforeValidator(parse_counts)]

#: What fits KMeans models or PCA steps: Motorpool's kernels, or the estimators of a library (`spark.estimators`).
Engine = Literal["motorpool", "spark-ml", "spark-rapids-ml"]


def modules_of(engine: Engine) -> tuple[str, ...]:
    """The modules that an engine imports, on the driver and on executors, which all need a GPU there."""
    return ("spark_rapids_ml", "cuml") if engine == "spark-rapids-ml" else ()
