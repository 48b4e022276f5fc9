"""Where a made photo is taken: a road camera's projection, and the road and roadside it sees.

World coordinates are the vehicle's, in metres: x to the right as seen from ahead, y back from the front
bumper, z up from the road. The road runs along y, so everything turns together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, radians, sin
from random import Random

from PIL import ImageDraw

Vec = tuple[float, float, float]
Pixel = tuple[float, float]
Color = tuple[int, int, int]

# Ground is drawn no closer to the lens than this: nearer points would turn the projection inside out.
_NEAREST = 0.6
_FARTHEST = 160.0


def generator(*key: object) -> Random:
    """Random numbers that belong to a key, such as a photo or a camera, and to nothing else."""
    return Random("/".join(str(part) for part in key))  # noqa: S311  no secrets here


@dataclass(frozen=True)
class View:
    """A camera looking at a vehicle, zoomed so that the vehicle fills the frame."""

    eye: Vec
    right: Vec
    up: Vec
    ahead: Vec
    zoom: float
    shift: Pixel
    roll: tuple[float, float]
    size: tuple[int, int]
    from_front: bool

    def depth(self, p: Vec) -> float:
        """Distance of a point along the optical axis, in metres; negative behind the lens."""
        return sum((p[k] - self.eye[k]) * self.ahead[k] for k in range(3))

    def pixel(self, p: Vec) -> Pixel:
        """Where a point in front of the lens appears."""
        dx, dy, dz = p[0] - self.eye[0], p[1] - self.eye[1], p[2] - self.eye[2]
        depth = dx * self.ahead[0] + dy * self.ahead[1] + dz * self.ahead[2]
        u = self.zoom * (dx * self.right[0] + dy * self.right[1]) / depth
        v = -self.zoom * (dx * self.up[0] + dy * self.up[1] + dz * self.up[2]) / depth
        c, s = self.roll
        return u * c - v * s + self.shift[0], u * s + v * c + self.shift[1]

    def pixels(self, points: list[Vec]) -> list[Pixel]:
        """`pixel` of each point."""
        return [self.pixel(p) for p in points]


def aim(
    length: float,
    half_width: float,
    height: float,
    from_front: bool,
    size: tuple[int, int],
    camera: int,
    rng: Random,
) -> View:
    """Point a camera at a vehicle of the given size, near its front or rear axis, from above, a bit off."""
    # A camera hangs where it hangs; the vehicle's lane and place make the rest.
    place = generator("place", camera)
    elevation = radians(place.uniform(7, 17) + rng.uniform(-1.5, 1.5))
    azimuth = radians(place.choice((-1, 1)) * place.uniform(10, 26) + rng.uniform(-7, 7))
    distance = 7.0 + 0.75 * length
    side = -1.0 if from_front else 1.0
    toward = (sin(azimuth) * cos(elevation), side * cos(azimuth) * cos(elevation), sin(elevation))
    ahead = (-toward[0], -toward[1], -toward[2])
    flat = hypot(ahead[0], ahead[1])
    right = (ahead[1] / flat, -ahead[0] / flat, 0.0)
    up = (right[1] * ahead[2], -right[0] * ahead[2], right[0] * ahead[1] - right[1] * ahead[0])
    middle = (0.0, 0.3 * length if from_front else 0.7 * length, 0.5 * height)
    eye = (
        middle[0] + distance * toward[0],
        middle[1] + distance * toward[1],
        middle[2] + distance * toward[2],
    )
    tilt = radians(rng.gauss(0, 1.2))
    roll = (cos(tilt), sin(tilt))
    loose = View(eye, right, up, ahead, 1.0, (0.0, 0.0), roll, size, from_front)
    corners = loose.pixels([(x, y, z) for x in (-half_width, half_width) for y in (0.0, length) for z in (0.0, height)])
    xs, ys = [p[0] for p in corners], [p[1] for p in corners]
    zoom = rng.uniform(0.78, 0.92) * min(size[0] / (max(xs) - min(xs)), size[1] / (max(ys) - min(ys)))
    shift = (
        size[0] * (0.5 + rng.gauss(0, 0.018)) - zoom * (max(xs) + min(xs)) / 2,
        size[1] * (0.52 + rng.gauss(0, 0.015)) - zoom * (max(ys) + min(ys)) / 2,
    )
    return View(eye, right, up, ahead, zoom, shift, roll, size, from_front)


def draw_background(draw: ImageDraw.ImageDraw, view: View, camera: int, rng: Random) -> None:
    """Sky, roadside and road of a camera, which are the same in all its photos but for the point of view."""
    place = generator("background", camera)
    width, height = view.size
    far = view.eye[1] + (_FARTHEST if view.from_front else -_FARTHEST)
    vanishing = view.pixel((view.eye[0], far, 0.0))
    horizon = vanishing[1] + (width / 2 - vanishing[0]) * view.roll[1] / view.roll[0]
    sky = place.choice([(176, 198, 220), (200, 208, 214), (156, 186, 216), (214, 214, 208)])
    draw.rectangle((0, 0, width, height), fill=sky)
    _draw_roadside(draw, view, place, horizon)
    tone = place.randint(96, 132)
    asphalt = (tone, tone, tone + place.randint(-2, 6))
    verge = place.choice([(92, 112, 70), (136, 132, 122), (108, 120, 84), (150, 146, 140)])
    # To the horizon and beyond both edges, whichever way the camera is tilted.
    sway = width * view.roll[1] / view.roll[0] / 2
    ground = [(0.0, horizon - sway), (width, horizon + sway), (width, height), (0.0, height)]
    draw.polygon(ground, fill=verge)
    lanes = place.choice((2, 3, 3, 4))
    first = -place.randint(0, lanes - 1)
    left, right = (first - 0.5) * 3.7 - 0.8, (first + lanes - 0.5) * 3.7 + 0.8
    _strip(draw, view, left - 0.35, right + 0.35, (168, 166, 160))
    _strip(draw, view, left, right, asphalt)
    # Wheels polish their tracks.
    worn = (tone - 10, tone - 10, tone - 7)
    for lane in range(first, first + lanes):
        for track in (-0.9, 0.9):
            _strip(draw, view, lane * 3.7 + track - 0.25, lane * 3.7 + track + 0.25, worn)
    paint = (206, 206, 198)
    _strip(draw, view, left + 0.5, left + 0.64, paint)
    _strip(draw, view, right - 0.64, right - 0.5, place.choice([paint, (206, 170, 60)]))
    offset = rng.uniform(0, 9)
    for line in range(first, first + lanes - 1):
        x = (line + 0.5) * 3.7
        for dash in range(-5, 12):
            _strip(draw, view, x - 0.08, x + 0.08, paint, dash * 9 + offset, dash * 9 + offset + 4)


def _draw_roadside(draw: ImageDraw.ImageDraw, view: View, place: Random, horizon: float) -> None:
    """Trees, houses or a noise barrier along the horizon."""
    width, height = view.size
    kind = place.choice(("trees", "houses", "barrier", "trees", "houses"))
    base = horizon + 0.03 * height
    if kind == "barrier":
        top = horizon - 0.14 * height
        draw.rectangle((0, top, width, base), fill=(142, 150, 148))
        for x in range(0, width, 26):
            draw.line((x, top, x, base), fill=(116, 124, 124), width=2)
    elif kind == "houses":
        left = -20.0
        while left < width:
            wide, tall = place.uniform(0.12, 0.3) * width, place.uniform(0.12, 0.5) * height
            tone = place.randint(120, 178)
            draw.rectangle((left, horizon - tall, left + wide, base), fill=(tone, tone - 6, tone - 14))
            for row in range(int(tall // 22)):
                for column in range(int(wide // 18)):
                    at = (left + 6 + column * 18, horizon - tall + 8 + row * 22)
                    draw.rectangle((*at, at[0] + 8, at[1] + 10), fill=(tone - 50, tone - 46, tone - 40))
            left += wide + place.uniform(0, 0.05) * width
    else:
        for _ in range(26):
            middle, r = place.uniform(0, width), place.uniform(0.05, 0.14) * height
            green = place.randint(62, 104)
            y = horizon - place.uniform(0.0, 0.14) * height
            draw.ellipse((middle - r, y - r, middle + r, y + r), fill=(green - 22, green, green - 34))
        draw.rectangle((0, horizon - 0.02 * height, width, base), fill=(60, 78, 46))


def _strip(
    draw: ImageDraw.ImageDraw,
    view: View,
    x0: float,
    x1: float,
    color: Color,
    y0: float = -1000.0,
    y1: float = 1000.0,
) -> None:
    """Fill the road between x0 and x1, y0 and y1, as far as it lies before the lens."""
    across = view.eye[0] * view.ahead[0]
    # Depth of (x, y, 0) is at least _NEAREST for y beyond this, whichever of the two edges is worse.
    limit = min(x0 * view.ahead[0], x1 * view.ahead[0])
    rest = _NEAREST + view.eye[2] * view.ahead[2] + across - limit
    border = view.eye[1] + rest / view.ahead[1]
    if view.from_front:
        near, far = max(y0, border), min(y1, view.eye[1] + _FARTHEST)
        if near >= far:
            return
    else:
        near, far = min(y1, border), max(y0, view.eye[1] - _FARTHEST)
        if near <= far:
            return
    corners: list[Vec] = [(x0, near, 0.0), (x1, near, 0.0), (x1, far, 0.0), (x0, far, 0.0)]
    draw.polygon(view.pixels(corners), fill=color)
