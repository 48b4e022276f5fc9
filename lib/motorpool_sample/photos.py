"""Photos of a made case: road-camera crops of about 190 pixels, drawn with Pillow in some milliseconds each.

A photo is drawn at twice its size and halved, then gets its light, grain and JPEG artefacts. Everything about
it follows from the truth and the photo's number, so any photo can be drawn alone and in any process.
"""

from __future__ import annotations

import io
from functools import cache
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from motorpool_sample import truth as t
from motorpool_sample.render import Lamps, Look, draw_look, draw_vehicle
from motorpool_sample.scene import View, aim, draw_background, generator
from motorpool_sample.vehicles import SHAPES

_WIDTHS = (176, 184, 192, 200, 208)
_GRAIN = 640

# Gain of red, green and blue, lift of black, and gamma, for each light.
_GRADES = {
    "day": ((1.04, 1.03, 1.0), 4, 1.0),
    "dusk": ((0.62, 0.60, 0.74), 2, 1.12),
    "glare": ((1.10, 1.06, 0.96), 34, 0.86),
    "rain": ((0.78, 0.82, 0.86), 14, 1.0),
    "night": ((0.13, 0.13, 0.16), 0, 1.25),
}


def draw_photo(truth: t.Truth, image: int) -> Image.Image:
    """The RGB photo that stands at row `image`, before JPEG compression."""
    number = int(truth.number[image])
    rng = generator(truth.seed, "photo", number)
    vehicle = int(truth.vehicle[image])
    body_type = t.BODY_TYPES[truth.body[vehicle]]
    look = draw_look(body_type, t.COLORS[truth.color[vehicle]], generator(truth.seed, "vehicle", vehicle))
    outlier = t.OUTLIERS[truth.outlier[image]]
    light = "night" if outlier == "night" else t.LIGHTS[truth.light[image]]
    width = rng.choice(_WIDTHS)
    # Crops follow the vehicle: nearly square for cars, upright for what is tall.
    height = int(width * rng.uniform(0.84, 0.96) * (1.12 if SHAPES[body_type].height > 2.2 else 1.0))
    if outlier == "blank":
        return _grain(_blank(width, height, rng), 6.0, rng)
    from_front = t.VIEWS[truth.view[image]] == "front"
    picture, lamps = _draw_scene(
        look,
        from_front,
        int(truth.camera[image]),
        (2 * width, 2 * height),
        rng,
        empty=outlier == "no_vehicle",
    )
    if outlier == "branches":
        _draw_branches(picture, rng)
    photo = _light(picture.reduce(2), light, lamps, from_front, rng)
    if outlier == "text":
        _draw_text(photo, rng)
    return _grain(photo, {"night": 20.0, "dusk": 13.0}.get(light, 8.0), rng)


def photo_bytes(truth: t.Truth, image: int) -> bytes:
    """The photo as a JPEG file, 3 to 12 KB."""
    quality = generator(truth.seed, "jpeg", int(truth.number[image])).randint(62, 86)
    buffer = io.BytesIO()
    draw_photo(truth, image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _draw_scene(
    look: Look, from_front: bool, camera: int, size: tuple[int, int], rng: Random, empty: bool
) -> tuple[Image.Image, Lamps | None]:
    shape = SHAPES[look.body_type]
    half_width = max(part.half_width[0] for part in shape.parts)
    view: View = aim(shape.length, half_width, shape.height, from_front, size, camera, rng)
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    draw_background(draw, view, camera, rng)
    return picture, None if empty else draw_vehicle(draw, view, look)


def _light(picture: Image.Image, light: str, lamps: Lamps | None, from_front: bool, rng: Random) -> Image.Image:
    gains, lift, gamma = _GRADES[light]
    exposure = rng.uniform(0.92, 1.07)
    table = [
        min(255, int(lift + 255 * gain * exposure * (value / 255) ** gamma)) for gain in gains for value in range(256)
    ]
    photo = picture.point(table)
    if light in ("dusk", "night") and lamps is not None:
        tint = (255, 244, 214) if from_front else (255, 40, 34)
        size = lamps.radius * {"dusk": 1.3, "night": 2.6}[light] * (1.0 if from_front else 0.8)
        for x, y in lamps.at:
            _add_glow(photo, x / 2, y / 2, size, tint)
    if light == "glare":
        _add_glow(photo, rng.uniform(-0.1, 1.1) * photo.width, -8, 0.75 * photo.width, (255, 246, 224))
    if light == "rain":
        photo = _add_rain(photo, rng)
    return photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))


@cache
def _glow_mask() -> Image.Image:
    """A soft round spot, brightest in the middle; drawn once for each process."""
    return ImageChops.invert(Image.radial_gradient("L")).point(
        [min(255, int(255 * (v / 255) ** 2.2)) for v in range(256)]
    )


def _add_glow(photo: Image.Image, x: float, y: float, radius: float, tint: tuple[int, int, int]) -> None:
    side = max(4, int(2 * radius))
    mask = _glow_mask().resize((side, side), Image.Resampling.BILINEAR)
    photo.paste(tint, (int(x - side / 2), int(y - side / 2)), mask)


def _add_rain(photo: Image.Image, rng: Random) -> Image.Image:
    streaks = photo.copy()
    draw = ImageDraw.Draw(streaks)
    lean = rng.uniform(-5, 5)
    for _ in range(90):
        x, y, long = rng.uniform(0, photo.width), rng.uniform(-10, photo.height), rng.uniform(6, 16)
        draw.line((x, y, x + lean, y + long), fill=(214, 220, 226))
    return Image.blend(photo, streaks, 0.34)


@cache
def _grain_tile() -> Image.Image:
    """Noise to cut grain from, around 128. Made from a fixed seed: Pillow's own noise cannot be seeded."""
    values = generator("grain")
    a, b, c = (values.randbytes(_GRAIN * _GRAIN) for _ in range(3))
    one = [Image.frombytes("L", (_GRAIN, _GRAIN), plane) for plane in (a, b, c)]
    return Image.merge("RGB", one)


def _grain(photo: Image.Image, strength: float, rng: Random) -> Image.Image:
    """Add grain of about the given standard deviation in grey levels."""
    x, y = rng.randrange(_GRAIN - photo.width), rng.randrange(_GRAIN - photo.height)
    tile = _grain_tile().crop((x, y, x + photo.width, y + photo.height))
    # Uniform bytes have a standard deviation of 74, so this is the share that gives `strength`.
    weak = tile.point([int(128 + (v - 128) * strength / 74) for v in range(256)] * 3)
    return ImageChops.add(photo, weak, offset=-128)


def _blank(width: int, height: int, rng: Random) -> Image.Image:
    """A frame of one colour: over-exposed, or a sensor that gave nothing but grey."""
    tone = rng.choice((250, 246, 128, 118))
    return Image.new("RGB", (width, height), (tone, tone + rng.randint(-3, 3), tone + rng.randint(-3, 3)))


def _draw_branches(picture: Image.Image, rng: Random) -> None:
    """Branches with leaves before the lens, over a third of the frame or more."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for _ in range(rng.randint(4, 6)):
        x, y = rng.choice((-10.0, float(width + 10))), rng.uniform(-0.1, 0.8) * height
        dx = (1 if x < 0 else -1) * width / 14
        dy = rng.uniform(-0.02, 0.05) * height
        thick = rng.randint(7, 12)
        for step in range(rng.randint(9, 14)):
            nx, ny = x + dx, y + dy + rng.gauss(0, 0.02) * height
            draw.line((x, y, nx, ny), fill=(64, 48, 34), width=max(2, thick - step // 2))
            for _ in range(9):
                lx, ly = nx + rng.gauss(0, 22), ny + rng.gauss(0, 26)
                long, flat = rng.uniform(7, 17), rng.uniform(4, 8)
                if rng.random() < 0.5:
                    long, flat = flat, long
                green = rng.randint(58, 128)
                draw.ellipse((lx - long, ly - flat, lx + long, ly + flat), fill=(green // 2 + 8, green, green // 3))
            x, y = nx, ny


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_text(photo: Image.Image, rng: Random) -> None:
    """What a recorder writes over its frames: a banner, and a warning across the middle."""
    draw = ImageDraw.Draw(photo)
    width, height = photo.size
    stamp = f"CAM {rng.randint(1, 174):03d}  2018-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    draw.rectangle((0, 0, width, 22), fill=(12, 12, 12))
    draw.text((6, 3), stamp, fill=(240, 240, 240), font=_font(14))
    warning = rng.choice(("NO SIGNAL", "ARCHIVE", "SPEED 92", "VIOLATION", "REC ERROR"))
    ink = rng.choice([(255, 236, 60), (255, 70, 60), (250, 250, 250), (90, 255, 120)])
    font = _font(30)
    half = draw.textlength(warning, font=font) / 2
    draw.text(
        (width / 2 - half, height * rng.uniform(0.35, 0.6)),
        warning,
        fill=ink,
        font=font,
        stroke_width=2,
        stroke_fill=(0, 0, 0),
    )
    draw.rectangle((0, height - 22, width, height), fill=(12, 12, 12))
    draw.text((6, height - 19), clock + f"   LANE {rng.randint(1, 4)}", fill=(240, 240, 240), font=_font(14))
