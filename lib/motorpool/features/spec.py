"""What a feature set is: which descriptors, through which steps. Plain values, no data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from motorpool.texts import as_number

STEP_KINDS = (
    "clip", "l2", "standard", "minmax", "robust", "pca", "svd", "vehicle_whiten", "vehicle_within", "vehicle_mean",
    "vehicle_residual", "group_center", "group_standard"
)  # fmt: skip

#: Projections that are fitted on how photos spread within and between vehicles; to apply them takes no vehicle.
VEHICLE_PROJECTIONS = ("vehicle_whiten", "vehicle_within")

#: Steps that keep a number of directions of their own choice, all fitted on the rows.
PROJECTIONS = ("pca", "svd", *VEHICLE_PROJECTIONS)

#: Steps that look at all photos of a vehicle together, so they cannot be applied row by row.
VEHICLE_CENTRES = ("vehicle_mean", "vehicle_residual")

#: Steps that treat the images of each group apart; a column of the table ``images`` tells the groups.
GROUP_STEPS = ("group_center", "group_standard")

#: The share of vehicles that vehicle steps are fitted on where nothing else is said; the rest is there to judge by.
FIT_SHARE = 0.5

#: Steps that take a parameter, with the value used when none is written; None: it must be written.
_DEFAULTS: dict[str, Any] = {
    "clip": [0.001, 0.999],
    "robust": [0.25, 0.75],
    "pca": None,
    "svd": None,
    "vehicle_whiten": None,
    "vehicle_within": None,
    "vehicle_mean": "mean",
    "group_center": None,
    "group_standard": None,
}
#: What the table ``images`` has beside attributes, with why it is no group of images.
_NO_GROUPS = {
    "image_id": "every image has its own",
    "path": "every image has its own",
    "vehicle_id": "a new vehicle would have no mean (take vehicle_residual or vehicle_within)",
}
_CENTRES = ("mean", "median")

Param = int | float | str | tuple[float, float] | None
VehiclePart = Literal["whole", "between", "within"]


@dataclass(frozen=True)
class Step:
    """One step of a chain, e.g. ``Step("pca", 100)``, ``Step("standard")``.

    ``param`` is a pair of quantiles for clip and robust, a number of components (int) or a share of
    variance (float in (0, 1)) for pca, svd, vehicle_whiten and vehicle_within, ``mean`` or ``median`` for
    vehicle_mean, the column of ``images`` for group_center and group_standard, and None otherwise.
    """

    kind: str
    param: Param = None

    def __str__(self) -> str:
        if self.param is None:
            return self.kind
        if self.by is not None:
            return f"{self.kind}: {{by: {self.by}}}"
        value = list(self.param) if isinstance(self.param, tuple) else self.param
        return f"{self.kind}: {value}"

    @property
    def slug(self) -> str:
        """The step as part of a feature set's default name: ``pca100``, ``standard``."""
        if self.param is None or self.param == _default(self.kind):
            return self.kind
        if isinstance(self.param, str):
            return f"{self.kind}_{self.param}"
        values = self.param if isinstance(self.param, tuple) else (self.param,)
        return self.kind + "_".join(f"{v:g}" for v in values)

    @property
    def of_vehicles(self) -> bool:
        """Whether it looks at all photos of a vehicle together."""
        return self.kind in VEHICLE_CENTRES

    @property
    def by(self) -> str | None:
        """The column of ``images`` that tells the groups; None for steps without."""
        return str(self.param) if self.kind in GROUP_STEPS else None


def _default(kind: str) -> Param:
    value = _DEFAULTS.get(kind)
    return (value[0], value[1]) if isinstance(value, list) else value


def parse_step(raw: Any) -> Step:
    """A step as YAML writes it (``standard`` or ``{pca: 100}``).

    Raises ValueError with the value found and what was expected.
    """
    if isinstance(raw, Step):
        return raw
    if isinstance(raw, str):
        kind, param = raw, None
    elif isinstance(raw, dict) and len(raw) == 1:
        kind, param = next(iter(raw.items()))
    else:
        raise ValueError(f"{raw!r} is not a step: write a name such as `standard`, or `pca: 100`")
    if kind not in STEP_KINDS:
        raise ValueError(f"unknown step {kind!r}: expected one of {', '.join(STEP_KINDS)}")
    if kind not in _DEFAULTS:
        if param is not None:
            raise ValueError(f"step {kind!r} takes no value, found {param!r}")
        return Step(kind)
    if param is None:
        param = _DEFAULTS[kind]
    if kind == "vehicle_mean":
        return Step(kind, _centre(kind, param))
    if kind in GROUP_STEPS:
        return Step(kind, _column(kind, param))
    return Step(kind, _quantiles(kind, param) if kind in ("clip", "robust") else _components(kind, param))


def _centre(kind: str, param: Any) -> str:
    if param not in _CENTRES:
        raise ValueError(f"{kind}: {param!r}: expected one of {', '.join(_CENTRES)}")
    return str(param)


def _column(kind: str, param: Any) -> str:
    column = param.get("by") if isinstance(param, dict) and set(param) == {"by"} else None
    if not isinstance(column, str) or not column:
        raise ValueError(
            f"{kind}: {param!r}: expected a column of the table `images`, such as {{{kind}: {{by: camera}}}}"
        )
    if column.lower() in _NO_GROUPS:
        raise ValueError(f"{kind}: by {column!r}: {_NO_GROUPS[column.lower()]}, so name an attribute, such as camera")
    return column


def _quantiles(kind: str, param: Any) -> tuple[float, float]:
    found = [as_number(p) for p in param] if isinstance(param, (list, tuple)) else []
    ok = len(found) == 2 and all(_is_number(p) for p in found)
    if not ok or not 0 <= found[0] < found[1] <= 1:
        raise ValueError(f"{kind}: {param!r}: expected two quantiles, low < high, such as {_DEFAULTS[kind]}")
    return float(found[0]), float(found[1])


def _components(kind: str, param: Any) -> int | float:
    found = as_number(param)
    if isinstance(found, int) and not isinstance(found, bool) and found >= 1:
        return found
    if isinstance(found, float) and 0 < found < 1:
        return found
    raise ValueError(
        f"{kind}: {param!r}: expected a number of components (a whole number of at least 1) "
        "or a share of variance between 0 and 1"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Part:
    """One descriptor of a feature set, through its own steps, times ``weight``."""

    descriptor: str
    steps: tuple[Step, ...] = ()
    weight: float = 1.0


def check_order(parts: tuple[Part, ...], steps: tuple[Step, ...]) -> None:
    """ValueError where steps that look at vehicles or groups stand where they cannot work, or would leave nothing.

    vehicle_mean and vehicle_residual go among the common steps, one of them at most. Behind vehicle_mean the photos of
    a vehicle are equal, and behind vehicle_residual the vehicles are, so there the projections have nothing to see; in
    residuals pca finds what vehicle_within would. group_center and group_standard go in front of both: photos of a
    vehicle come from several groups.
    """
    for part in parts:
        for step in part.steps:
            if step.of_vehicles:
                raise ValueError(f"{step.kind}: stands in a part of a join; put it behind the join, in its `steps`")
    seen: Step | None = None
    for step in steps:
        if seen is not None and step.of_vehicles:
            raise ValueError(f"{step.kind} behind {seen.kind}: give one of them; together they leave nothing new")
        if seen is not None and step.by is not None:
            raise ValueError(f"{step.kind} behind {seen.kind}: put it in front, where each photo is still on its own")
        if seen is not None and step.kind in VEHICLE_PROJECTIONS:
            left = "within a vehicle" if seen.kind == "vehicle_mean" else "between vehicles"
            raise ValueError(f"{step.kind} behind {seen.kind}: no spread {left} is left; put it in front")
        seen = step if step.of_vehicles else seen


@dataclass(frozen=True)
class FeatureSet:
    """One vector per image: the parts side by side, then the common steps.

    ``fit_share`` is the share of vehicles that vehicle steps are fitted on (see `holdout.fitted_on`). It
    belongs to the key of a feature set only where there is such a step. ``engine`` fits the steps ``pca``; the key of a
    feature set names any but Motorpool's.
    """

    name: str
    parts: tuple[Part, ...]
    steps: tuple[Step, ...] = field(default=())
    fit_share: float = FIT_SHARE
    engine: str = "motorpool"

    @property
    def descriptors(self) -> tuple[str, ...]:
        return tuple(part.descriptor for part in self.parts)

    @property
    def every_step(self) -> tuple[Step, ...]:
        """The steps of the parts, then the common ones."""
        return (*(s for p in self.parts for s in p.steps), *self.steps)

    @property
    def vehicle_steps(self) -> tuple[Step, ...]:
        """The steps that need to know which photos show the same vehicle."""
        return tuple(s for s in self.every_step if s.kind.startswith("vehicle_"))

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of ``images`` that tell the groups of its steps, each once."""
        return tuple(dict.fromkeys(s.by for s in self.every_step if s.by is not None))

    @property
    def uses_vehicles(self) -> bool:
        return bool(self.vehicle_steps)

    @property
    def merges_vehicles(self) -> bool:
        """All photos of a vehicle have one vector, so that their labels agree by construction."""
        return any(s.kind == "vehicle_mean" for s in self.vehicle_steps)

    @property
    def vehicle_part(self) -> VehiclePart:
        """What the vectors keep: the whole descriptors, what differs between vehicles, or what differs within them."""
        if any(s.kind in ("vehicle_residual", "vehicle_within") for s in self.vehicle_steps):
            return "within"
        return "between" if self.uses_vehicles else "whole"

    @property
    def definition(self) -> str:
        """Canonical JSON of everything but the name: equal definitions give equal vectors."""
        parts = [[p.descriptor, [str(s) for s in p.steps], p.weight] for p in self.parts]
        content: dict[str, Any] = {"parts": parts, "steps": [str(s) for s in self.steps]}
        if self.uses_vehicles:
            content["fit_share"] = self.fit_share
        if self.engine != "motorpool":
            content["engine"] = self.engine
        if self.group_columns:
            content["group_columns"] = self.group_columns
        return json.dumps(content, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]

    def describe(self) -> list[str]:
        """The steps in reading order, as the ``steps`` column shows them."""
        if len(self.parts) == 1 and self.parts[0].weight == 1.0:
            return [str(s) for s in (*self.parts[0].steps, *self.steps)]
        parts = [f"{p.descriptor}: [{', '.join(map(str, p.steps))}] x {p.weight:g}" for p in self.parts]
        return [*parts, *(str(s) for s in self.steps)]


def group_columns_of(definition: str) -> tuple[str, ...]:
    """`FeatureSet.group_columns` of a set that only the lake knows, by its ``definition``."""
    return tuple(json.loads(definition).get("group_columns", ()))


def default_name(parts: tuple[Part, ...], steps: tuple[Step, ...]) -> str:
    """A readable name from the content: ``vdc_type-pca100-standard``."""
    names = ["-".join([p.descriptor, *(s.slug for s in p.steps)]) for p in parts]
    return "-".join(["+".join(names), *(s.slug for s in steps)])
