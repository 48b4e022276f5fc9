"""Shapes of the made vehicles: side profiles that are extruded sideways, in metres.

A vehicle is one or two parts, each a closed outline of its side: points (y, z) from the bottom of the front,
up, over the roof and down to the bottom of the rear. y runs back from the front bumper, z up from the road.
Each stretch between two points is a panel across the vehicle (face, hood, windscreen, roof, ...), so the same
outline is right from the front and from the rear, at any angle.
"""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """One extruded outline.

    outline: (y, z) points; panels: what lies between point i and i + 1 (one fewer than points).
    half_width: at the bottom and at the top; the waist, up to `belt`, keeps the bottom's.
    windows: side windows as (y, z) polygons.
    cargo: painted in the cargo colour instead of the body's.
    """

    outline: tuple[Point, ...]
    panels: tuple[str, ...]
    half_width: tuple[float, float]
    belt: float
    windows: tuple[tuple[Point, ...], ...] = ()
    cargo: bool = False


@dataclass(frozen=True)
class Shape:
    """Parts from front to rear, wheels as (y, radius), length and height over all."""

    parts: tuple[Part, ...]
    wheels: tuple[tuple[float, float], ...]
    length: float
    height: float
    # Heights of headlights, rear lights (bottom, top) and plates on the faces that carry them.
    headlight: tuple[float, float] = (0.62, 0.80)
    rear_light: tuple[float, float] = (0.72, 0.98)
    tall_rear_light: bool = False
    grille: tuple[float, float] = (0.42, 0.68)


_SEDAN = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.22), (-0.02, 0.60), (0.12, 0.80), (1.25, 0.98), (2.05, 1.44)),
                *((3.20, 1.44), (4.00, 1.06), (4.60, 1.02), (4.68, 0.60), (4.62, 0.25)),
            ),
            panels=("face", "face", "hood", "windscreen", "roof", "rear_window", "trunk", "back", "back"),
            half_width=(0.90, 0.62),
            belt=0.98,
            windows=(
                ((1.50, 0.98), (2.12, 1.37), (2.62, 1.38), (2.62, 0.98)),
                ((2.72, 0.98), (2.72, 1.38), (3.15, 1.37), (3.75, 1.02)),
            ),
        ),
    ),
    wheels=((0.85, 0.33), (3.70, 0.33)),
    length=4.68,
    height=1.44,
)
_HATCHBACK = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.22), (-0.02, 0.62), (0.12, 0.84), (0.95, 1.02), (1.65, 1.52)),
                *((3.15, 1.50), (3.68, 1.08), (3.85, 0.62), (3.80, 0.26)),
            ),
            panels=("face", "face", "hood", "windscreen", "roof", "rear_window", "back", "back"),
            half_width=(0.85, 0.62),
            belt=1.00,
            windows=(
                ((1.20, 1.02), (1.72, 1.44), (2.25, 1.45), (2.25, 1.02)),
                ((2.35, 1.02), (2.35, 1.45), (3.02, 1.43), (3.35, 1.06)),
            ),
        ),
    ),
    wheels=((0.72, 0.31), (3.18, 0.31)),
    length=3.85,
    height=1.52,
    headlight=(0.62, 0.86),
    rear_light=(0.74, 1.08),
)
_SUV = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.34), (-0.04, 0.80), (0.10, 1.04), (1.15, 1.16), (1.75, 1.74)),
                *((3.95, 1.74), (4.40, 1.18), (4.52, 0.76), (4.46, 0.38)),
            ),
            panels=("face", "face", "hood", "windscreen", "roof", "rear_window", "back", "back"),
            half_width=(0.95, 0.74),
            belt=1.16,
            windows=(
                ((1.40, 1.16), (1.85, 1.65), (2.50, 1.66), (2.50, 1.16)),
                ((2.60, 1.16), (2.60, 1.66), (3.35, 1.66), (3.35, 1.18)),
                ((3.45, 1.18), (3.45, 1.65), (3.85, 1.62), (4.12, 1.22)),
            ),
        ),
    ),
    wheels=((0.88, 0.39), (3.62, 0.39)),
    length=4.52,
    height=1.74,
    headlight=(0.82, 1.02),
    rear_light=(0.86, 1.18),
    grille=(0.55, 0.98),
)
_VAN = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.32), (-0.03, 0.80), (0.12, 1.06), (0.55, 1.22), (1.25, 2.05), (1.60, 2.15)),
                *((4.85, 2.15), (4.96, 1.98), (5.02, 1.28), (5.04, 0.42)),
            ),
            panels=(
                *("face", "face", "hood", "windscreen", "roof", "roof"),
                *("back", "rear_window", "back"),
            ),
            half_width=(0.95, 0.86),
            belt=1.25,
            windows=(((0.85, 1.25), (1.38, 1.92), (1.95, 1.95), (1.95, 1.25)),),
        ),
    ),
    wheels=((0.85, 0.36), (4.00, 0.36)),
    length=5.04,
    height=2.15,
    headlight=(0.78, 1.04),
    rear_light=(0.80, 1.30),
    tall_rear_light=True,
    grille=(0.55, 0.92),
)
_MINIBUS = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.30), (-0.03, 0.72), (0.06, 1.15), (0.50, 2.15), (0.95, 2.45)),
                *((6.10, 2.45), (6.20, 2.25), (6.24, 1.35), (6.24, 0.40)),
            ),
            panels=("face", "face", "windscreen", "roof", "roof", "back", "rear_window", "back"),
            half_width=(1.02, 0.94),
            belt=1.30,
            windows=tuple(
                ((y, 1.32), (y + 0.05, 2.05), (y + 0.92, 2.05), (y + 0.92, 1.32))
                for y in (0.55, 1.58, 2.61, 3.64, 4.67)
            ),
        ),
    ),
    wheels=((1.05, 0.38), (4.75, 0.38)),
    length=6.24,
    height=2.45,
    headlight=(0.62, 0.84),
    rear_light=(0.85, 1.30),
    tall_rear_light=True,
    grille=(0.44, 0.60),
)
_PICKUP = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.40), (-0.04, 0.85), (0.08, 1.08), (1.35, 1.18), (1.90, 1.76)),
                *((3.15, 1.76), (3.40, 1.20), (3.42, 0.42)),
            ),
            panels=("face", "face", "hood", "windscreen", "roof", "rear_window", "none"),
            half_width=(0.95, 0.74),
            belt=1.18,
            windows=(
                ((1.60, 1.18), (2.00, 1.67), (2.50, 1.68), (2.50, 1.18)),
                ((2.60, 1.18), (2.60, 1.68), (3.05, 1.66), (3.22, 1.18)),
            ),
        ),
        Part(
            outline=((3.42, 0.42), (3.42, 1.16), (5.20, 1.16), (5.24, 0.80), (5.22, 0.45)),
            panels=("none", "bed", "back", "back"),
            half_width=(0.95, 0.95),
            belt=1.16,
        ),
    ),
    wheels=((0.95, 0.42), (4.25, 0.42)),
    length=5.24,
    height=1.76,
    headlight=(0.84, 1.04),
    rear_light=(0.72, 1.10),
    tall_rear_light=True,
    grille=(0.58, 1.02),
)
_TRUCK = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.45), (-0.03, 1.00), (0.02, 1.50), (0.22, 2.50), (0.55, 2.70)),
                *((1.80, 2.70), (1.82, 0.50)),
            ),
            panels=("face", "face", "windscreen", "roof", "roof", "none"),
            half_width=(1.15, 1.08),
            belt=1.55,
            windows=(((0.25, 1.55), (0.42, 2.35), (1.25, 2.35), (1.25, 1.55)),),
        ),
        Part(
            outline=((2.0, 0.80), (2.0, 3.45), (7.6, 3.45), (7.6, 0.80)),
            panels=("box_front", "roof", "back"),
            half_width=(1.25, 1.25),
            belt=3.45,
            cargo=True,
        ),
    ),
    wheels=((0.95, 0.50), (5.6, 0.50), (6.75, 0.50)),
    length=7.6,
    height=3.45,
    headlight=(0.66, 0.92),
    rear_light=(0.82, 1.00),
    grille=(0.95, 1.38),
)
_BUS = Shape(
    parts=(
        Part(
            outline=(
                *((0.0, 0.32), (-0.04, 0.95), (0.0, 1.25), (0.18, 2.62), (0.35, 3.05), (0.6, 3.10)),
                *((10.4, 3.10), (10.52, 2.75), (10.56, 1.75), (10.56, 0.36)),
            ),
            panels=(
                *("face", "face", "windscreen", "sign", "roof", "roof"),
                *("back", "rear_window", "back"),
            ),
            half_width=(1.26, 1.22),
            belt=1.35,
            windows=tuple(
                ((y, 1.38), (y, 2.55), (y + 1.35, 2.55), (y + 1.35, 1.38))
                for y in (0.55, 2.0, 3.45, 4.9, 6.35, 7.8, 9.05)
            ),
        ),
    ),
    wheels=((2.3, 0.50), (7.6, 0.50)),
    length=10.56,
    height=3.10,
    headlight=(0.55, 0.82),
    rear_light=(0.85, 1.30),
    tall_rear_light=True,
    grille=(0.95, 1.10),
)

SHAPES = {
    "sedan": _SEDAN,
    "hatchback": _HATCHBACK,
    "suv": _SUV,
    "van": _VAN,
    "minibus": _MINIBUS,
    "pickup": _PICKUP,
    "truck": _TRUCK,
    "bus": _BUS,
}
