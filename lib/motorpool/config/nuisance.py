"""Which columns of ``images`` no cluster should follow, and from when on a model is warned of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from motorpool.settings import Section

#: What the table ``images`` has beside attributes, with why no model is compared with it.
_NO_NUISANCE = {
    "image_id": "every image has its own",
    "path": "every image has its own",
    "vehicle_id": "vehicle agreement compares every model with the vehicles",
}


class NuisanceConfig(Section):
    """Columns that no cluster should follow, such as the camera: a cluster that is a camera is no type."""

    columns: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        description="Columns of `images` (of the attributes file) that every model is compared with, such as "
        "`[camera, hour]`.",
    )
    max_nmi: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="A model is warned of where its normalised mutual information with a column is above this, and "
        "above what chance gives. Clusters that are nothing but cameras have 1 with as many clusters as cameras, and "
        "0.24 with two clusters of 174 cameras.",
    )

    @model_validator(mode="after")
    def _check(self) -> NuisanceConfig:
        twice = next((c for c in self.columns if self.columns.count(c) > 1), None)
        if twice is not None:
            raise ValueError(f"`columns` names {twice!r} twice")
        for column in self.columns:
            if column.lower() in _NO_NUISANCE:
                raise ValueError(f"columns: {column!r}: {_NO_NUISANCE[column.lower()]}: name an attribute")
        return self
