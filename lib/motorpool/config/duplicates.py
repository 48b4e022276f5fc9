"""Which images are compared with all others: to find duplicates, and to keep the nearest of each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from motorpool.settings import Name, Section

#: Stands for the feature set where photo files were compared.
PHOTOS = "photos"


class DuplicatesConfig(Section):
    """Images that show the same: equal photo files, equal vectors, and vectors in nearly the same direction."""

    features: list[Name] | None = Field(
        default=None,
        min_length=1,
        description="Feature sets whose vectors are compared. Default: all but those in which all photos of a vehicle "
        "are one vector.",
    )
    similarity: float = Field(
        default=0.99,
        gt=0,
        le=1,
        description="Two images are near duplicates where the cosine of their vectors is at least this. "
        "`motorpool check` cannot tell how many that are: a value that is too low connects everything.",
    )
    partners: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Pairs of near duplicates that the table `duplicates` has for each image: those with its most "
        "similar partners. Groups are made of all pairs.",
    )
    photos: bool = Field(
        default=True, description="Whether the bytes of the photo files are compared too, where the case has photos."
    )
    split: str | None = Field(
        default=None,
        min_length=1,
        description="Column of `images` (of the attributes file) that says which split an image is in, such as train "
        "or test: pairs and groups then say whether they lie in several.",
    )

    @model_validator(mode="after")
    def _check(self) -> DuplicatesConfig:
        _check_features(self.features)
        return self


class NeighboursConfig(Section):
    """The nearest images of every image, exactly."""

    features: list[Name] | None = Field(
        default=None, min_length=1, description="Feature sets whose images are compared. Default: all."
    )
    k: int = Field(default=10, ge=1, le=1000, description="Neighbours of each image.")
    metric: Literal["euclidean", "cosine"] = Field(
        default="euclidean", description="Distance that says what is near; `cosine` is one minus the cosine."
    )

    @model_validator(mode="after")
    def _check(self) -> NeighboursConfig:
        _check_features(self.features)
        return self


def _check_features(features: list[str] | None) -> None:
    if features is not None and len(set(features)) < len(features):
        raise ValueError("`features` names a feature set twice")
