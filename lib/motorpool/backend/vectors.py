"""Moments and Gram matrices in an array module: added up on the device, merged on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from motorpool.backend.device import Device, OnDevice, in_pieces, open_device
from motorpool.kernels.moments import Gram, Moments, faded, gram


def _gram(device: Device, x: Any) -> Any:
    """`moments.gram` of float32[m, d] rows on the device, float64[d, d] there."""
    xp, product, every = device.xp, x.T @ x, device.xp.arange(x.shape[1])
    peaks = device.take(xp.maximum(x.max(axis=0), -x.min(axis=0)))
    if not (faded(device.take(product[every, every]), len(x)) & (peaks > 0)).any():
        return product.astype(xp.float64)
    # Too rare for kernels of its own.
    return device.put(gram(device.take(x)).astype(np.float64))


class ArrayMoments(OnDevice, Moments):
    """`Moments` whose rows are summed up on the device until they are looked at, merged or sent.

    The same numbers up to the order of sums: float32 products of rows less their block's mean, combined in float64.
    Device memory: five d x d float64 matrices and a piece of a block. An empty one touches no device, so the driver,
    which only merges, needs none.
    """

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module
        self._held: tuple[int, Any, Any, Any, Any] | None = None

    def update(self, x: np.ndarray) -> None:
        if not len(x):
            return
        width = x.shape[1]
        known = self._held[1].shape[0] if self._held else len(self.mean) if self.n else width
        if known != width:
            raise ValueError(f"vectors of {width} numbers beside vectors of {known}")
        device = self.device()
        in_pieces(
            device, len(x), 8 * width, lambda part: self._add_piece(device, device.put(x[part])), 40 * width * width
        )

    def _add_piece(self, device: Device, x: Any) -> None:
        xp, m = device.xp, len(x)
        mean = x.mean(axis=0, dtype=xp.float64)
        shift = mean.astype(xp.float32)
        centred = x - shift
        scatter = _gram(device, centred)
        # The shift is rounded to float32: what that leaves, taken away whether or not it shows.
        rest = mean - shift
        scatter -= m * xp.outer(rest, rest)
        low, high = x.min(axis=0), x.max(axis=0)
        if self._held is None:
            self._held = m, mean, scatter, low, high
            return
        n, all_mean, all_scatter, all_low, all_high = self._held
        delta = mean - all_mean
        # A piece that the device has no memory for leaves what is held as it was.
        scatter += all_scatter
        scatter += xp.outer(delta * (n * m / (n + m)), delta)
        merged = all_mean + delta * (m / (n + m))
        self._held = n + m, merged, scatter, xp.minimum(all_low, low), xp.maximum(all_high, high)

    def settle(self) -> None:
        """Bring what the device holds to the host."""
        if self._held is not None:
            n, *arrays = self._held
            take = open_device(self.module).take
            mean, scatter, low, high = (take(a) for a in arrays)
            self._held = None
            self._add(n, mean, scatter, low, high)

    def merge(self, other: Moments) -> None:
        self.settle()
        if isinstance(other, ArrayMoments):
            other.settle()
        super().merge(other)

    def stats(self) -> Any:
        self.settle()
        return super().stats()

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return super().__getstate__()


class ArrayGram(OnDevice, Gram):
    """`Gram` on the device: float32 products, added up in float64."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module
        self._held: Any = None

    def add(self, x: np.ndarray) -> None:
        device = self.device()
        width = x.shape[1]

        def add(part: slice) -> None:
            product = _gram(device, device.put(x[part]))
            self._held = product if self._held is None else self._held + product

        in_pieces(device, len(x), 4 * width, add, 24 * width * width)

    def total(self) -> np.ndarray:
        return super().total() if self._held is None else self.device().take(self._held)
