"""Drawing one vehicle into a scene: panels, glass, lights, wheels and plate, far ones first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin
from random import Random

from PIL import ImageDraw

from motorpool_sample.scene import Color, Pixel, Vec, View
from motorpool_sample.vehicles import SHAPES, Part, Shape

PAINT: dict[str, Color] = {
    "white": (228, 230, 228),
    "black": (30, 31, 34),
    "grey": (92, 95, 99),
    "silver": (172, 177, 181),
    "red": (176, 26, 30),
    "blue": (34, 66, 156),
    "yellow": (232, 186, 32),
    "green": (34, 112, 64),
    "brown": (100, 66, 42),
    "orange": (228, 108, 28),
}
_GLASS = (44, 54, 64)
_SHEEN = (98, 114, 126)
_SHADE = {"face": 0.94, "back": 0.92, "hood": 1.10, "trunk": 1.08, "roof": 1.14, "box_front": 0.80}
_SIDE_SHADE = 0.76
# A pale cargo box bears its owner's colour, so that a truck shows its colour from the rear too: z in metres.
_CARGO_BAND = (1.5, 2.4)
_FRONT = ("face", "hood", "windscreen", "sign", "box_front")
_REAR = ("back", "trunk", "rear_window")


@dataclass(frozen=True)
class Look:
    """What makes one vehicle this vehicle: the same in all its photos."""

    body_type: str
    paint: Color
    cargo: Color
    grille: int
    lamp: float
    plate: str
    plate_color: Color
    stripe: Color | None
    rails: bool


@dataclass(frozen=True)
class Lamps:
    """Where the lamps of the visible end are, in pixels, and how large: for glows added afterwards."""

    at: tuple[Pixel, Pixel]
    radius: float


def draw_look(body_type: str, color: str, rng: Random) -> Look:
    """Choose what is left open by type and colour; `rng` belongs to the vehicle."""
    paint = _jitter(PAINT[color], rng)
    pale = _jitter((214, 216, 214), rng)
    stripes: tuple[Color | None, ...] = (None, (40, 70, 140), (170, 40, 40), (40, 110, 70), (235, 235, 235))
    big = body_type in ("bus", "minibus", "van")
    return Look(
        body_type=body_type,
        paint=paint,
        cargo=paint if rng.random() < 0.7 else pale,
        grille=rng.randrange(4),
        lamp=rng.uniform(0.8, 1.25),
        plate="".join(rng.choice("ABCEHKMPTX0123456789") for _ in range(6)),
        plate_color=rng.choice([(232, 232, 226), (40, 76, 150), (226, 184, 60)] if big else [(52, 90, 170)]),
        stripe=rng.choice(stripes) if big else None,
        rails=body_type == "suv" and rng.random() < 0.6,
    )


def draw_vehicle(draw: ImageDraw.ImageDraw, view: View, look: Look) -> Lamps:
    """Draw a vehicle, its shadow and its tyres. Returns where its lamps are."""
    shape = SHAPES[look.body_type]
    widest = max(part.half_width[0] for part in shape.parts)
    _draw_shadow(draw, view, shape, widest)
    _draw_tyres(draw, view, shape, widest)
    parts = reversed(shape.parts) if view.from_front else iter(shape.parts)
    for part in parts:
        _draw_part(draw, view, shape, part, look)
    if view.from_front:
        return _draw_front(draw, view, shape, look)
    return _draw_rear(draw, view, shape, look)


def _jitter(color: Color, rng: Random) -> Color:
    change = rng.randint(-8, 8)
    r, g, b = (min(255, max(0, c + change + rng.randint(-4, 4))) for c in color)
    return r, g, b


def _shade(color: Color, amount: float) -> Color:
    """Darker below 1, lighter above; black paint still shines a little."""
    shine = max(0.0, amount - 0.9) * 70
    r, g, b = (int(min(255, max(0, c * amount + shine))) for c in color)
    return r, g, b


def _half_width(part: Part, z: float) -> float:
    """Half the width at a height: upright to the belt, then leaning in; slightly tucked in below."""
    bottom, top = part.half_width
    lowest = min(p[1] for p in part.outline)
    if z <= part.belt:
        tuck = 0.05 * max(0.0, 1.0 - (z - lowest) / 0.25)
        return bottom * (1.0 - tuck)
    highest = max(p[1] for p in part.outline)
    return bottom + (top - bottom) * (z - part.belt) / max(highest - part.belt, 0.05)


def _end_y(part: Part, z: float, front: bool) -> float:
    """y of the front or rear surface at a height, along the outline."""
    outline = part.outline if front else part.outline[::-1]
    for (y0, z0), (y1, z1) in pairwise(outline):
        if z <= z1:
            return y0 + (y1 - y0) * (z - z0) / max(z1 - z0, 1e-6) if z > z0 else y0
    return outline[-1][0]


def _draw_shadow(draw: ImageDraw.ImageDraw, view: View, shape: Shape, widest: float) -> None:
    for grow, tone in ((0.35, 78), (0.15, 52), (0.0, 34)):
        x, y0, y1 = widest + grow, -grow, shape.length + grow
        corners: list[Vec] = [(-x, y0, 0), (x, y0, 0), (x, y1, 0), (-x, y1, 0)]
        draw.polygon(view.pixels(corners), fill=(tone, tone, tone + 3))


def _draw_tyres(draw: ImageDraw.ImageDraw, view: View, shape: Shape, widest: float) -> None:
    """The tyres seen from their tread, below the visible end."""
    for y, r in shape.wheels:
        edge = y - 0.8 * r if view.from_front else y + 0.8 * r
        for sign in (-1, 1):
            x0, x1 = sign * (widest - 0.04), sign * (widest - 0.28)
            corners: list[Vec] = [
                (x0, edge, 0.02),
                (x1, edge, 0.02),
                (x1, edge, 1.2 * r),
                (x0, edge, 1.2 * r),
            ]
            draw.polygon(view.pixels(corners), fill=(20, 20, 22))


def _draw_part(draw: ImageDraw.ImageDraw, view: View, shape: Shape, part: Part, look: Look) -> None:
    paint = look.cargo if part.cargo else look.paint
    # Far end first, then the side, then what is nearer: a hood must not show through the side windows.
    order = list(range(len(part.panels)))
    if view.from_front:
        order.reverse()
    hidden = _REAR if view.from_front else _FRONT
    for i in order:
        if part.panels[i] in hidden:
            _draw_panel(draw, view, part, i, look, paint)
    if abs(view.eye[0]) > part.half_width[0]:
        _draw_side(draw, view, shape, part, look, paint, 1 if view.eye[0] > 0 else -1)
    for i in order:
        if part.panels[i] not in hidden:
            _draw_panel(draw, view, part, i, look, paint)


def _draw_panel(draw: ImageDraw.ImageDraw, view: View, part: Part, i: int, look: Look, paint: Color) -> None:
    """Draw the panel between outline points i and i + 1, if it faces the lens."""
    kind = part.panels[i]
    (y0, z0), (y1, z1) = part.outline[i], part.outline[i + 1]
    w0, w1 = _half_width(part, z0), _half_width(part, z1)
    corners = view.pixels([(-w0, y0, z0), (w0, y0, z0), (w1, y1, z1), (-w1, y1, z1)])
    if kind == "none" or not _faces_lens(corners):
        return
    if kind in ("windscreen", "rear_window", "sign"):
        _draw_glass(draw, corners, paint, kind)
    elif kind == "bed":
        draw.polygon(corners, fill=_shade(paint, 1.0))
        draw.polygon(_inset(corners, 0.10, 0.06), fill=(38, 38, 40))
    else:
        # The lower of two stacked panels turns away from the sky.
        lower = 0.92 if kind in ("face", "back") and min(z0, z1) < 0.5 * part.belt else 1.0
        draw.polygon(corners, fill=_shade(paint, _SHADE.get(kind, 1.0) * lower))
        if kind == "hood":
            draw.polygon(_inset(corners, 0.22, 0.10), fill=_shade(paint, 1.17))
        if kind == "roof" and look.rails:
            for x in (-0.85, 0.85):
                ends: list[Vec] = [(x * w0, y0 + 0.1, z0 + 0.03), (x * w1, y1 - 0.1, z1 + 0.03)]
                draw.line(view.pixels(ends), fill=(70, 72, 74), width=3)


def _draw_side(
    draw: ImageDraw.ImageDraw, view: View, shape: Shape, part: Part, look: Look, paint: Color, side: int
) -> None:
    def on_side(points: tuple[Pixel, ...] | list[Pixel]) -> list[Pixel]:
        return view.pixels([(side * _half_width(part, z), y, z) for y, z in points])

    draw.polygon(on_side(part.outline), fill=_shade(paint, _SIDE_SHADE))
    first, last = part.outline[0][0], part.outline[-1][0]
    low = max(part.outline[0][1], 0.25)
    sill: list[Pixel] = [(first, low), (first, low + 0.12), (last, low + 0.12), (last, low)]
    draw.polygon(on_side(sill), fill=_shade(paint, 0.5))
    if part.cargo and look.cargo != look.paint:
        z0, z1 = _CARGO_BAND
        draw.polygon(on_side([(first, z0), (first, z1), (last, z1), (last, z0)]), fill=_shade(look.paint, 0.8))
    if look.stripe is not None and not part.cargo:
        z = 0.55 * part.belt + 0.2
        band: list[Pixel] = [
            (first + 0.1, z),
            (first + 0.1, z + 0.22),
            (last - 0.1, z + 0.22),
            (last - 0.1, z),
        ]
        draw.polygon(on_side(band), fill=_shade(look.stripe, 0.85))
    for window in part.windows:
        draw.polygon(on_side(window), fill=(36, 44, 52))
    for y, r in shape.wheels:
        if not min(p[0] for p in part.outline) <= y <= max(p[0] for p in part.outline):
            continue
        for size, tone in ((1.18, 16), (1.0, 26), (0.62, 128), (0.25, 70)):
            x = side * (part.half_width[0] + 0.01)
            ring: list[Vec] = [
                (x, y + size * r * cos(a * pi / 8), max(0.0, r + size * r * sin(a * pi / 8))) for a in range(16)
            ]
            draw.polygon(view.pixels(ring), fill=(tone, tone, tone + 2))
    if part is shape.parts[0]:
        # A mirror, at the foot of the first window.
        y, z = part.windows[0][0]
        x = side * (part.half_width[0] + 0.02)
        mirror: list[Vec] = [
            (x, y, z),
            (x + side * 0.2, y, z),
            (x + side * 0.2, y, z + 0.18),
            (x, y, z + 0.18),
        ]
        draw.polygon(view.pixels(mirror), fill=_shade(paint, 0.7))


def _draw_glass(draw: ImageDraw.ImageDraw, corners: list[Pixel], paint: Color, kind: str) -> None:
    draw.polygon(corners, fill=_shade(paint, 0.86))
    if kind == "sign":
        draw.polygon(_inset(corners, 0.08, 0.12), fill=(22, 22, 24))
        draw.polygon(_inset(corners, 0.30, 0.34), fill=(240, 170, 40))
        return
    glass = _inset(corners, 0.06, 0.07)
    draw.polygon(glass, fill=_GLASS)
    sheen = [_between(glass, u, v) for u, v in ((0.12, 0.98), (0.42, 0.98), (0.26, 0.05), (0.04, 0.05))]
    if kind == "rear_window":
        sheen = [_between(glass, u, v) for u, v in ((0.0, 0.06), (1.0, 0.06), (1.0, 0.30), (0.0, 0.30))]
    draw.polygon(sheen, fill=_SHEEN)


def _draw_front(draw: ImageDraw.ImageDraw, view: View, shape: Shape, look: Look) -> Lamps:
    part = shape.parts[0]
    on = _End(view, part, front=True)
    bottom = part.outline[0][1]
    on.quad(draw, -0.94, 0.94, bottom, bottom + 0.14, (34, 35, 37))
    z0, z1 = shape.grille
    half = (0.50, 0.58, 0.42, 0.62)[look.grille]
    on.quad(draw, -half, half, z0, z1, (24, 25, 27))
    bars = (3, 2, 4, 0)[look.grille]
    for i in range(bars):
        z = z0 + (i + 1) * (z1 - z0) / (bars + 1)
        on.quad(draw, -half + 0.03, half - 0.03, z - 0.012, z + 0.012, (150, 154, 158))
    if look.grille == 3:
        on.quad(draw, -0.08, 0.08, z0 + 0.05, z1 - 0.04, (196, 198, 200))
    l0, l1 = shape.headlight
    inner = 1.0 - 0.34 * look.lamp
    for sign in (-1, 1):
        outline = [(inner, l0 + 0.03), (0.96, l0), (0.97, l1), (inner - 0.06, l1 - 0.02)]
        draw.polygon([on.at(sign * u, z) for u, z in outline], fill=(58, 62, 66))
        lens = [(inner + 0.03, l0 + 0.05), (0.92, l0 + 0.03), (0.93, l1 - 0.02), (inner, l1 - 0.04)]
        draw.polygon([on.at(sign * u, z) for u, z in lens], fill=(226, 232, 236))
        on.quad(draw, sign * 0.70, sign * 0.88, bottom + 0.17, bottom + 0.25, (188, 192, 190))
    on.plate(draw, bottom + 0.10, look)
    middle = (l0 + l1) / 2
    at = (on.at(-0.82, middle), on.at(0.82, middle))
    return Lamps(at=at, radius=0.12 * abs(at[1][0] - at[0][0]))


def _draw_rear(draw: ImageDraw.ImageDraw, view: View, shape: Shape, look: Look) -> Lamps:
    part = shape.parts[-1]
    on = _End(view, part, front=False)
    bottom = part.outline[-1][1]
    if part.cargo:
        # A box truck: doors, and a beam below that carries lights and plate.
        on.quad(draw, -0.012, 0.012, bottom + 0.15, 3.35, _shade(look.cargo, 0.6))
        if look.cargo != look.paint:
            on.quad(draw, -0.98, 0.98, *_CARGO_BAND, _shade(look.paint, 0.95))
        for u in (-0.45, -0.2, 0.2, 0.45):
            on.quad(draw, u - 0.008, u + 0.008, bottom + 0.2, 3.2, _shade(look.cargo, 0.75))
        on.quad(draw, -0.98, 0.98, bottom - 0.12, bottom + 0.12, (40, 40, 42))
    else:
        on.quad(draw, -0.95, 0.95, bottom, bottom + 0.18, _shade(look.paint, 0.66))
        on.quad(draw, -0.80, 0.80, bottom, bottom + 0.07, (32, 32, 34))
        on.quad(draw, -0.92, 0.92, bottom + 0.30, bottom + 0.32, _shade(look.paint, 0.7))
    l0, l1 = shape.rear_light
    if part.cargo:
        l0, l1 = bottom - 0.09, bottom + 0.09
    inner = 0.86 if shape.tall_rear_light else 1.0 - 0.32 * look.lamp
    for sign in (-1, 1):
        on.quad(draw, sign * inner, sign * 0.985, l0, l1, (150, 12, 18))
        mid = (l0 + l1) / 2
        on.quad(draw, sign * (inner + 0.02), sign * 0.965, mid, l1 - 0.02, (214, 34, 38))
        on.quad(draw, sign * (inner + 0.02), sign * 0.965, l0 + 0.01, l0 + 0.3 * (l1 - l0), (224, 150, 90))
    on.plate(draw, bottom - 0.07 if part.cargo else bottom + 0.34, look)
    middle = (l0 + l1) / 2
    at = (on.at(-0.92, middle), on.at(0.92, middle))
    return Lamps(at=at, radius=0.09 * abs(at[1][0] - at[0][0]))


class _End:
    """The front or rear surface of a part: places by share of the half width and by height in metres."""

    def __init__(self, view: View, part: Part, front: bool) -> None:
        self._view, self._part, self._front = view, part, front

    def at(self, u: float, z: float) -> Pixel:
        y = _end_y(self._part, z, self._front) + (-0.02 if self._front else 0.02)
        return self._view.pixel((u * _half_width(self._part, z), y, z))

    def quad(self, draw: ImageDraw.ImageDraw, u0: float, u1: float, z0: float, z1: float, color: Color) -> None:
        draw.polygon([self.at(u0, z0), self.at(u1, z0), self.at(u1, z1), self.at(u0, z1)], fill=color)

    def plate(self, draw: ImageDraw.ImageDraw, z: float, look: Look) -> None:
        half = 0.27 / self._part.half_width[0]
        self.quad(draw, -half, half, z, z + 0.15, look.plate_color)
        ink = (240, 240, 240) if sum(look.plate_color) < 480 else (28, 28, 30)
        # Characters are a few pixels: strokes whose width and place differ from plate to plate will do.
        for i, character in enumerate(look.plate):
            u = half * (-0.82 + 1.64 * i / (len(look.plate) - 1))
            wide = half * (0.07 + 0.05 * (ord(character) % 3))
            self.quad(draw, u - wide, u + wide, z + 0.035, z + 0.115, ink)


def _faces_lens(p: list[Pixel]) -> bool:
    """Counter-clockwise as the eye sees it; pixel rows grow downwards, so the signed area is negative."""
    area = 0.0
    for (x0, y0), (x1, y1) in zip(p, p[1:] + p[:1], strict=True):
        area += x0 * y1 - x1 * y0
    return area < 0


def _between(p: list[Pixel], u: float, v: float) -> Pixel:
    """The place (u, v) in a quad of corners (0,0), (1,0), (1,1), (0,1)."""
    x, y = ((1 - v) * ((1 - u) * p[0][k] + u * p[1][k]) + v * ((1 - u) * p[3][k] + u * p[2][k]) for k in (0, 1))
    return x, y


def _inset(p: list[Pixel], u: float, v: float) -> list[Pixel]:
    """The quad shrunk by a share of its width and height on each side."""
    return [_between(p, *at) for at in ((u, v), (1 - u, v), (1 - u, 1 - v), (u, 1 - v))]
