"""The four made networks: how wide their descriptors are, how they vary and what they react to.

A network turns a few hundred independent factors of unit variance into a descriptor. Factor j is given the
variance that the j-th principal component should have, so the spectrum is designed, not found: it follows the
published shares of variance kept. Some factors react to what the photo shows (body type, colour, vehicle, and
so on), each by a stated weight; the rest of their variance, and every other factor, is a private matter of
the photo.

The networks are fixed: they do not depend on the seed of the case. Two cases made with different seeds show
different vehicles to the same networks, so labels learnt on one can be given to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from motorpool_sample import truth as t

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

NETWORK_SEED = 870

# Lightness, green-red and blue-yellow (CIELAB / 100): grey is near silver, orange near red and yellow.
_COLOR_LAB = (
    (0.97, 0.00, 0.00),  # white
    (0.12, 0.00, 0.00),  # black
    (0.46, 0.00, -0.01),  # grey
    (0.72, 0.00, -0.01),  # silver
    (0.42, 0.62, 0.42),  # red
    (0.38, 0.12, -0.55),  # blue
    (0.83, 0.05, 0.78),  # yellow
    (0.44, -0.42, 0.28),  # green
    (0.33, 0.18, 0.26),  # brown
    (0.64, 0.42, 0.66),  # orange
)
# Height, length, boxiness: sedans are near hatchbacks, vans near minibuses, trucks near buses.
_BODY_SHAPE = (
    (0.0, 0.5, 0.0),  # sedan
    (0.1, 0.2, 0.1),  # hatchback
    (0.6, 0.4, 0.3),  # suv
    (1.2, 0.6, 0.9),  # van
    (1.4, 0.9, 1.0),  # minibus
    (0.7, 0.9, 0.2),  # pickup
    (2.0, 1.6, 1.0),  # truck
    (2.2, 2.2, 1.5),  # bus
)
# What sets a class apart beyond the scales above, relative to them.
_COLOR_OWN = 0.12
_BODY_OWN = 0.50
_VIEW_SPREAD = 0.95
_BODY_IN_VIEW = 0.35


@dataclass(frozen=True)
class Signal:
    """A property of the photo that moves factors `first`, `first` + 1, ...: one weight (correlation) each."""

    of: str
    weights: tuple[float, ...]
    first: int = 0


@dataclass(frozen=True)
class Recipe:
    """A network in numbers.

    knots: (component, eigenvalue) pairs joined by straight lines in log-log scale: the shape of the spectrum.
    kept: (components, share of variance) pairs that the spectrum then meets exactly.
    dense: how many leading factors are mixed over all columns; the tail is noise of each column's own.
    wild: how far the extreme rows go, from 0 (as all others) to 1 (as far as they can).
    tails: how heavy the tails of the private factors are; 0 is gaussian. Min-max scaling then shrinks them
        against the factors that carry classes, which is why it works where there are no extreme rows.
    level: mean of a column in its standard deviations. Features come after a rectifier: never below zero.
    """

    name: str
    width: int
    dense: int
    knots: tuple[tuple[int, float], ...]
    kept: tuple[tuple[int, float], ...]
    signals: tuple[Signal, ...]
    level: float
    total_sd: float
    wild: float
    tails: float


# Order, names and widths as in the real case.
RECIPES = (
    Recipe(
        name="efficientnet-b7",
        width=2560,
        dense=256,
        knots=(
            *((1, 0.022), (10, 0.0068), (40, 0.0044), (128, 0.0026), (200, 0.0012)),
            *((300, 0.0006), (1536, 0.000105), (2560, 0.00006)),
        ),
        kept=((128, 0.50), (200, 0.63), (1536, 0.924), (2048, 0.966)),
        signals=(
            Signal("camera", (0.75, 0.70, 0.70, 0.65, 0.65, 0.60, 0.60, 0.60), first=1),
            Signal("light", (0.45, 0.40, 0.35), first=2),
            Signal("body_view", (0.72, 0.45, 0.40)),
            Signal("vehicle", (0.35,) * 40, first=8),
        ),
        level=1.9,
        total_sd=0.22,
        wild=1.0,
        tails=0.0,
    ),
    Recipe(
        name="osnet",
        width=512,
        dense=256,
        knots=((1, 0.05), (10, 0.021), (60, 0.0072), (153, 0.0018), (200, 0.0008), (512, 0.00010)),
        kept=((153, 0.90),),
        signals=(
            Signal("color", (0.62, 0.58, 0.52, 0.45, 0.40)),
            Signal("vehicle", (0.70, 0.70, 0.72, 0.75, 0.78, *((0.86,) * 55))),
            Signal("view", (0.35,), first=5),
            Signal("camera", (0.30, 0.30, 0.30), first=6),
        ),
        level=2.0,
        total_sd=0.55,
        wild=0.05,
        tails=0.15,
    ),
    Recipe(
        name="vdc_color",
        width=128,
        dense=128,
        knots=((1, 0.16), (4, 0.07), (10, 0.02), (69, 0.0039), (128, 0.0011)),
        kept=((69, 0.90),),
        signals=(
            Signal("color", (0.92, 0.90, 0.86, 0.72, 0.58, 0.45)),
            Signal("light", (0.40, 0.35), first=3),
            Signal("vehicle", (0.40,) * 16, first=3),
        ),
        level=2.1,
        total_sd=0.40,
        wild=0.05,
        tails=0.15,
    ),
    Recipe(
        name="vdc_type",
        width=512,
        dense=128,
        knots=((1, 0.24), (4, 0.11), (8, 0.06), (20, 0.014), (30, 0.002), (60, 0.0007), (512, 0.00004)),
        kept=((20, 0.90),),
        signals=(
            Signal("body_view", (0.95, 0.92, 0.90, 0.84, 0.76, 0.66, 0.55)),
            Signal("vehicle", (0.40,) * 8, first=9),
        ),
        level=2.0,
        total_sd=0.30,
        wild=0.05,
        tails=0.15,
    ),
)


@dataclass(frozen=True)
class Network:
    """A recipe turned into matrices: width * (dense + a few) floats, 3 MB for the widest.

    mixing: float32[dense, width], scaled so that factors of unit variance give the designed variance.
    tail_sd: float32[width], noise of each column's own; all zero where every factor is dense.
    mean: float32[width].
    own: float32[dense], weight of the photo's private part in each factor.
    cubic: float32[dense], share of the third power that gives the private part its tails.
    codes: signal and its table, float32[classes, dense] of unit variance times weight, zero where unmoved.
    vehicle: float32[dense], weight of the vehicle's identity in each factor.
    outlier: float32[kinds, dense], where each kind of outlier is found instead.
    """

    recipe: Recipe
    mixing: Floats
    tail_sd: Floats
    mean: Floats
    own: Floats
    cubic: Floats
    codes: dict[str, Floats]
    vehicle: Floats
    outlier: Floats


def eigenvalues(recipe: Recipe) -> Doubles:
    """float64[width], descending but for small steps at the points of `kept`, summing to one."""
    at = np.log([k for k, _ in recipe.knots])
    height = np.log([v for _, v in recipe.knots])
    values: Doubles = np.exp(np.interp(np.log(np.arange(1, recipe.width + 1)), at, height))
    ends = ((0, 0.0), *recipe.kept, (recipe.width, 1.0))
    for (start, before), (stop, after) in pairwise(ends):
        values[start:stop] *= (after - before) / values[start:stop].sum()
    return values


def class_code(embedding: Doubles, shares: Doubles) -> Doubles:
    """float64[classes, q]: principal coordinates of the classes, of mean 0 and variance 1 under `shares`.

    Uncorrelated columns of unit variance keep the designed spectrum whatever the classes look like.
    """
    centred = embedding - shares @ embedding
    _, size, axes = np.linalg.svd(np.sqrt(shares)[:, None] * centred, full_matrices=False)
    q = int((size > 1e-9 * size[0]).sum())
    axes = axes[:q]
    # The sign of a singular vector is the library's choice; make it ours.
    axes = axes * np.sign(axes[np.arange(q), np.abs(axes).argmax(axis=1)])[:, None]
    code: Doubles = centred @ axes.T / size[:q]
    return code


def class_codes() -> dict[str, Doubles]:
    """The code of every property of a photo that has classes; body_view counts body * len(VIEWS) + view."""
    rng = np.random.default_rng([NETWORK_SEED, 0])
    view = np.array([[1.0], [-1.0]])
    bodies, views = len(t.BODY_TYPES), len(t.VIEWS)
    body = np.hstack([np.array(_BODY_SHAPE), _BODY_OWN * np.eye(bodies)])
    by_body, by_view = np.repeat(np.arange(bodies), views), np.tile(np.arange(views), bodies)
    body_view = np.hstack(
        [
            body[by_body],
            _VIEW_SPREAD * view[by_view],
            _BODY_IN_VIEW * view[by_view] * np.eye(bodies)[by_body],
        ]
    )
    color = np.hstack([np.array(_COLOR_LAB), _COLOR_OWN * np.eye(len(t.COLORS))])
    body_share, view_share = np.array(t.BODY_SHARES), np.array(t.VIEW_SHARES)
    work = body_share[[t.BODY_TYPES.index(name) for name in t.WORK_TYPES]].sum()
    color_share = (1 - work) * np.array(t.CAR_COLOR_SHARES) + work * np.array(t.WORK_COLOR_SHARES)
    return {
        "body_view": class_code(body_view, np.outer(body_share, view_share).ravel()),
        "view": class_code(view, view_share),
        "color": class_code(color, color_share / color_share.sum()),
        "light": class_code(np.eye(len(t.LIGHTS)), np.array(t.LIGHT_SHARES)),
        "camera": class_code(rng.standard_normal((t.CAMERAS, t.CAMERAS)), np.full(t.CAMERAS, 1 / t.CAMERAS)),
    }


@cache
def network(name: str) -> Network:
    """Build one network. About half a second for the widest, then remembered."""
    # Last bits depend on the number of BLAS threads, and a case should not.
    with threadpool_limits(limits=1, user_api="blas"):
        return _build(name)


def _build(name: str) -> Network:
    index = [recipe.name for recipe in RECIPES].index(name)
    recipe = RECIPES[index]
    rng = np.random.default_rng([NETWORK_SEED, 1 + index])
    dense, width = recipe.dense, recipe.width
    variance = eigenvalues(recipe) * recipe.total_sd**2 * width
    axes = np.linalg.qr(rng.standard_normal((width, dense)))[0].T
    # Noise of a column's own has the column as its axis: in random order, with the sizes of the tail.
    tail = np.zeros(width)
    if dense < width:
        ranks = np.linspace(0, width - dense - 1, width)
        tail = rng.permutation(np.interp(ranks, np.arange(width - dense), variance[dense:]))
    # A leading axis meets the tail's average on top of its own variance.
    leading = np.maximum(variance[:dense] - tail.mean(), 0.0)
    mixing = np.sqrt(leading)[:, None] * axes
    column_sd = np.sqrt((mixing**2).sum(axis=0) + tail)

    codes, vehicle, left = {}, np.zeros(dense), np.ones(dense)
    for signal in recipe.signals:
        at = slice(signal.first, signal.first + len(signal.weights))
        weights = np.array(signal.weights)
        left[at] -= weights**2
        if signal.of == "vehicle":
            vehicle[at] = weights
        else:
            code = class_codes()[signal.of][:, : len(weights)]
            table = np.zeros((len(code), dense), dtype=np.float32)
            table[:, signal.first : signal.first + code.shape[1]] = code * weights[: code.shape[1]]
            codes[signal.of] = table
    own = np.sqrt(np.maximum(left, 0.05))
    return Network(
        recipe=recipe,
        mixing=mixing.astype(np.float32),
        tail_sd=np.sqrt(tail).astype(np.float32),
        mean=(recipe.level * column_sd * rng.uniform(0.9, 1.3, width)).astype(np.float32),
        own=own.astype(np.float32),
        # Mostly where the photo's private part is nearly all there is.
        cubic=(recipe.tails * own**4).astype(np.float32),
        codes=codes,
        vehicle=vehicle.astype(np.float32),
        outlier=rng.standard_normal((len(t.OUTLIERS), dense)).astype(np.float32),
    )
