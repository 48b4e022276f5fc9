"""When a photo is of poor quality."""

from __future__ import annotations

from pydantic import Field

from motorpool.settings import Section


class PhotoQualityConfig(Section):
    """From which measurements on the table `photo_quality` flags a photo; `{}` takes all defaults."""

    dark: float = Field(default=6.0, ge=0, le=100, description="`dark`: `brightness` (0 to 100) below this.")
    low_contrast: float = Field(default=3.0, ge=0, le=100, description="`low_contrast`: `contrast` below this.")
    blurred: float = Field(
        default=2.0,
        ge=0,
        description="`blurred`: `sharpness` below this. What counts as sharp differs between collections: see "
        "[photo quality](duplicates.md#photo-quality).",
    )
    low_information: float = Field(
        default=3.0, ge=0, le=8, description="`low_information`: `entropy` (0 to 8 bits) below this."
    )
    least_side: int = Field(default=32, ge=1, description="`small`: a side of fewer pixels than this.")
    most_ratio: float = Field(
        default=3.0, ge=1, description="`odd_shape`: the longer side is more than this many times the shorter one."
    )
