"""What every way from photos to vectors gives, and which way a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


class Vectors(Protocol):
    """A way that is ready to work, in the process that uses it."""

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """What is kept of an upright RGB picture, of whatever size: an array of one shape."""
        ...

    def vectors(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """float32[n, width] of n prepared pictures."""
        ...


class Describer(Protocol):
    """A way from photos to vectors: settings alone, so that it travels to tasks.

    ``name`` is for messages. ``fingerprint`` is the same for the same vectors alone: a hash of the network, the way in
    which photos are prepared for it, and all settings.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def ready(self) -> Vectors:
        """CaseError where its file has changed, EnvironmentMissingError where a package is missing in this process."""
        ...
