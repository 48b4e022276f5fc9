"""Descriptors of a made case, a block of rows at a time.

Blocks have a fixed size and a seed each, so the numbers do not depend on how many blocks a caller takes at
once, in which order, or by how many threads. Memory is that of the blocks in flight (21 MB each for the
widest descriptor), whatever the size of the case, plus one float32[V, 60] table of vehicle identities.

Noise is what costs: 1.5e9 numbers for 416,314 photos. The leading factors are gaussian; the tail takes one
random byte a number, which is uniform noise on 256 steps and eight times cheaper. Sums of factors and tail
are close to gaussian all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from motorpool_sample import truth as t
from motorpool_sample.networks import RECIPES, Floats, Network, network

BLOCK_ROWS = 2048
# Rows of noise made at once: small enough that the work stays in a core's cache.
_NOISE_ROWS = 64
# Standard deviation of a uniform draw from 256 neighbouring integers, and its mean as int8.
_BYTE_SD = float(np.sqrt((256**2 - 1) / 12))
_BYTE_MEAN = -0.5

# For each outlier: share of the photo's own content kept, size of its private noise, distance it is moved.
# Blank frames are all alike; text over a frame hides little of it.
_OUTLIER_EFFECT = {
    "night": (0.25, 0.75, 1.5),
    "branches": (0.55, 1.15, 1.1),
    "blank": (0.0, 0.20, 1.9),
    "no_vehicle": (0.0, 0.85, 1.4),
    "text": (0.85, 1.00, 1.0),
}
_OUTLIER_FACTORS = 64

# An image can be extreme in q components at once by sqrt(n / q) standard deviations and no more: beyond that
# it has a component to itself and leaves the others alone. The wildest row goes that far, the next ones less.
_WILD_COMPONENTS = 64
_WILD_FADE = 0.7


class DescriptorSource:
    """All descriptors of a case of n photos: `blocks` gives float32[<=2048, width] in order."""

    def __init__(self, truth: t.Truth) -> None:
        self._truth = truth
        reach = max(int(np.flatnonzero(network(recipe.name).vehicle).max()) + 1 for recipe in RECIPES)
        # The same identity reaches every network, as the same vehicle does.
        rng = np.random.Generator(np.random.SFC64([truth.seed, 2]))
        self._identity = rng.standard_normal((truth.vehicles, reach), dtype=np.float32)
        place = np.random.default_rng([truth.seed, 4]).permutation(len(truth.extreme))
        self._wild = np.sqrt(truth.images / _WILD_COMPONENTS) / (1.0 + place) ** _WILD_FADE

    def block_count(self) -> int:
        """How many blocks a descriptor has."""
        return -(-self._truth.images // BLOCK_ROWS)

    def blocks(self, name: str, workers: int = 2) -> Iterator[Floats]:
        """All rows of one descriptor in order. At most `workers` + 2 blocks exist at a time."""
        net = network(name)
        waiting: deque[Future[Floats]] = deque()
        # One BLAS thread for each worker: no fight for cores, and the same sums on any machine size.
        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            for index in range(self.block_count()):
                waiting.append(pool.submit(self.block, net, index))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def block(self, net: Network, index: int) -> Floats:
        """Rows index * 2048 and on, float32[<=2048, width]: a function of truth, network and `index` only.

        To the last bit only with one BLAS thread, as `blocks` arranges.
        """
        start = index * BLOCK_ROWS
        rows = slice(start, min(start + BLOCK_ROWS, self._truth.images))
        name_index = [recipe.name for recipe in RECIPES].index(net.recipe.name)
        rng = np.random.Generator(np.random.SFC64([self._truth.seed, 3, name_index, index]))
        factors, loudness = self._factors(net, rows, rng)
        block: Floats = factors @ net.mixing
        block += net.mean
        if net.tail_sd.any():
            _add_noise(block, net.tail_sd, loudness, rng)
        # The rectifier. With means of two standard deviations it cuts about 2 % of the values.
        np.maximum(block, 0.0, out=block)
        return block

    def _factors(self, net: Network, rows: slice, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """float32[m, dense] factors of the photos in `rows`, and float32[m] scale of their tail noise."""
        truth = self._truth
        vehicle = truth.vehicle[rows]
        own = rng.standard_normal((len(vehicle), net.recipe.dense), dtype=np.float32)
        if net.cubic.any():
            # The variance of g + c g³ is 1 + 6 c + 15 c².
            own *= (1 + net.cubic * own * own) / np.sqrt(1 + 6 * net.cubic + 15 * net.cubic**2)
        own *= net.own
        body, view = truth.body[vehicle], truth.view[rows]
        classes = {
            "body_view": body * len(t.VIEWS) + view,
            "view": view,
            "color": truth.color[vehicle],
            "light": truth.light[rows],
            "camera": truth.camera[rows],
        }
        shown = np.zeros_like(own)
        for of, table in net.codes.items():
            shown += table[classes[of]]
        reach = self._identity.shape[1]
        shown[:, :reach] += self._identity[vehicle] * net.vehicle[:reach]

        loudness = np.ones(len(vehicle), dtype=np.float32)
        outlier = truth.outlier[rows]
        for at in np.flatnonzero(outlier):
            kept, noise, away = _OUTLIER_EFFECT[t.OUTLIERS[outlier[at]]]
            shown[at] *= kept
            own[at] *= noise
            shown[at, :_OUTLIER_FACTORS] += away * net.outlier[outlier[at], :_OUTLIER_FACTORS]
            loudness[at] = noise
        first, last = np.searchsorted(truth.extreme, [rows.start, rows.stop])
        for at, far in zip(truth.extreme[first:last] - rows.start, self._wild[first:last], strict=True):
            shown[at] += net.recipe.wild * far * np.sign(rng.standard_normal(net.recipe.dense))
        shown += own
        return shown, loudness


def _add_noise(block: Floats, sd: Floats, loudness: Floats, rng: np.random.Generator) -> None:
    """Add noise of standard deviation loudness[i] * sd[j] to block[i, j], in place."""
    m, width = block.shape
    scale = (sd / _BYTE_SD).astype(np.float32)
    noise = np.empty((_NOISE_ROWS, width), dtype=np.float32)
    for start in range(0, m, _NOISE_ROWS):
        part = block[start : start + _NOISE_ROWS]
        words = rng.integers(0, 2**64, size=part.size // 8, dtype=np.uint64)
        # Little-endian everywhere, so that big-endian machines make the same case.
        steps = words.astype("<u8", copy=False).view(np.int8).reshape(part.shape)
        here = noise[: len(part)]
        np.add(steps, np.float32(-_BYTE_MEAN), out=here)
        here *= scale
        if (loudness[start : start + len(part)] != 1).any():
            here *= loudness[start : start + len(part), None]
        part += here
