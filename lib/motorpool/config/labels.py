"""Attributes of the images: their values, and how often a label must be right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from motorpool.settings import Name, Section

#: More values than this are names of things, such as vehicles, and no attribute.
MAX_VALUES = 500
#: Columns of the view `labelled_images` beside those of the attributes.
_OTHER_COLUMNS = ("image_id", "path", "vehicle_id")


def _as_texts(value: Any) -> Any:
    """A list of values as text: YAML reads `2` as a number, and `yes` or `no` as true or false."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r}: expected a list of values, e.g. [front, rear]")
    return tuple(_as_text(item) for item in value)


def _as_text(item: Any) -> Any:
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)
    if not isinstance(item, str):
        raise ValueError(f"{item!r}: expected a value as text: put it in quotes")
    if not item.strip():
        raise ValueError(f"{item!r}: is empty; give the value a name, or leave it out")
    return item.strip()


class AttributeConfig(Section):
    """One attribute: what a person can tell of every photo."""

    values: (
        Annotated[tuple[str, ...], BeforeValidator(_as_texts), Field(min_length=2, max_length=MAX_VALUES)] | None
    ) = Field(
        default=None,
        description="All values that it can have. Default: those that the annotations name.",
    )
    per: Literal["vehicle", "image"] = Field(
        default="image",
        description="Whether all photos of a vehicle have one value (`vehicle`: type, colour), so that they can vote "
        "on it, or each photo has its own (`image`: view).",
    )
    target: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="Share of right labels that is wanted among those that are accepted. Photos whose labels do not "
        "reach it are left for people.",
    )
    features: list[Name] | None = Field(
        default=None,
        min_length=1,
        description="Feature sets, with their models, that may tell the attribute: naming those that know it saves "
        "looks. Default: all.",
    )

    @model_validator(mode="after")
    def _check(self) -> AttributeConfig:
        values = self.values or ()
        twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
        if twice is not None:
            raise ValueError(f"`values` names {twice!r} twice")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError("`features` names a feature set twice")
        return self


class LabelsConfig(Section):
    """Attributes of the images, which are labelled from the looks of people (`motorpool annotate`)."""

    attributes: dict[Name, AttributeConfig] = Field(
        default_factory=dict, description="Attribute name to what is known about it. `{}` takes all defaults."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_attributes(cls, data: Any) -> Any:
        """An attribute that the file names without any key comes as None."""
        if isinstance(data, dict) and isinstance(data.get("attributes"), dict):
            return {**data, "attributes": {k: {} if v is None else v for k, v in data["attributes"].items()}}
        return data

    @model_validator(mode="after")
    def _check(self) -> LabelsConfig:
        taken: dict[str, str] = {}
        for name in self.attributes:
            # Columns of a view know no capitals.
            columns = [c.lower() for c in columns_of(name)]
            clash = next((c for c in columns if c in taken or c in _OTHER_COLUMNS), None)
            if clash is not None:
                other = f"of the attribute {taken[clash]!r}" if clash in taken else "of every image"
                raise ValueError(
                    f"attributes: {name!r} gives the view `labelled_images` a column {clash!r}, which is one {other}: "
                    "choose another name"
                )
            taken |= dict.fromkeys(columns, name)
        return self


def columns_of(attribute: str) -> tuple[str, str, str]:
    """The columns of an attribute in the view ``labelled_images``: value, probability, and whether it is accepted."""
    return attribute, f"{attribute}_probability", f"{attribute}_accepted"
