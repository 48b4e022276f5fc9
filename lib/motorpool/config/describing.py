"""How descriptors are computed from photos: by a network, or by a built-in method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from motorpool.settings import Location, Section

_Color = Annotated[list[float], Field(min_length=3, max_length=3)]


class NetworkConfig(Section):
    """A network in an ONNX file, which gives one vector for each photo. The defaults are those of ImageNet's networks.

    A photo is scaled to the network's size; its values from 0 to 1, less ``mean`` and over ``std``, are what it takes.
    """

    model: Location = Field(min_length=1, description="ONNX file, on a disk or mount that all workers see.")
    output: str | None = Field(default=None, min_length=1, description="Output with the vectors. Default: the first.")
    size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Height and width of the network's input, in pixels. Default: what the network says, else 224.",
    )
    fit: Literal["crop", "stretch"] = Field(
        default="crop",
        description="`crop` keeps the shape of what is in the photo and cuts out the middle; `stretch` keeps all.",
    )
    resize: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="With `crop`: pixels of the photo's shorter side before the middle is cut out (256 for many "
        "networks of size 224). Default: `size`.",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="How photos are scaled.")
    mean: _Color = Field(default=[0.485, 0.456, 0.406], description="Red, green and blue, from 0 to 1.")
    std: _Color = Field(default=[0.229, 0.224, 0.225], description="Red, green and blue, from 0 to 1.")

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: values are divided by it, so all three must be above 0")
        if self.resize is not None and self.fit == "stretch":
            raise ValueError("resize: is for `fit: crop`; a stretched photo is scaled to `size` at once")
        if self.resize is not None and self.size is not None and self.resize < self.size:
            raise ValueError(f"resize {self.resize}: is less than size {self.size}, so no middle can be cut out")
        return self


class BuiltInConfig(Section):
    """A method that needs no network."""

    builtin: Literal["color_histogram", "hog"] = Field(
        description="`color_histogram`: shares of colours, of the photo and of its middle. `hog`: histograms of "
        "oriented gradients, that is of shapes; it needs scikit-image."
    )
