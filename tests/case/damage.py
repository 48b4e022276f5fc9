"""Files with damage at random places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def damaged(data: bytes, times: int) -> Iterator[bytes]:
    """A few bytes changed, and cut off at any length; the same in every run."""
    rng = np.random.default_rng(11)
    for _ in range(times):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[rng.integers(0, len(data), rng.integers(1, 4))] = rng.integers(0, 256)
        yield broken.tobytes()[: rng.integers(1, 2 * len(data))]
