"""Colours that people with colour-vision deficiency can tell apart, on white and on dark ground alike.

A cluster whose colour is known (its photos are red) is drawn in that colour, so that charts say what titles say. Two
clusters of one colour are shades of it. Numbers tell clusters apart everywhere, never colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

#: Seven of Okabe & Ito (2008, Color Universal Design; without black, which dark pages hide, and with a darker yellow),
#: then six of Tol's muted scheme (2021, Colour schemes). From the eighth cluster on colours are near others, and from
#: the fourteenth they repeat.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800",
    "#AA4499", "#999933", "#CC6677", "#117733", "#88CCEE", "#882255",
)  # fmt: skip
#: Noise, and whatever is only the background of what matters.
GREY = "#8A8F98"
#: Outliers where a map tells them from the rest.
ALARM = "#D55E00"

#: What clusters of a known colour are drawn in, on white ground: the names are those of `interpret.appearance.COLORS`.
NAMED = {
    "white": "#C9CFD6", "silver": "#9AA4B0", "grey": "#68707B", "black": "#1B1E23", "red": "#C8202B",
    "orange": "#E87A1D", "yellow": "#D9B400", "green": "#1E8A4C", "blue": "#1F5FBF", "purple": "#7A3FA8",
    "brown": "#7A4A2B", "pink": "#E58AB2",
}  # fmt: skip
#: Those that dark ground hides, or that are darker there than the next one.
_NAMED_ON_DARK = {"white": "#F4F6F8", "silver": "#B4BDC8", "grey": "#858E9A", "black": "#4A525C"}
_OTHER_NAMES = {"gray": "grey"}
#: How much of white or black the second, third, ... cluster of one colour has; from the sixth on they repeat.
_SHADES = (0.0, 0.38, -0.38, 0.6, -0.6)
#: Nearer than this in RGB, a colour of the row is taken for one that is drawn already.
_NEAR = 70.0

#: By model and cluster.
Palettes = Mapping[str, Mapping[int, str]]


def palette_of(names: Mapping[int, str | None]) -> dict[int, str]:
    """The colour of each cluster on white ground, by the name of its own where that is known.

    The others take the colours of the row in their order, without those that a named cluster has.
    """
    drawn: dict[int, str] = {}
    shades: dict[str, int] = {}
    for cluster in sorted(names):
        name = _known(names[cluster])
        if name is not None:
            drawn[cluster] = _shaded(NAMED[name], _SHADES[shades.get(name, 0) % len(_SHADES)])
            shades[name] = shades.get(name, 0) + 1
    free = [c for c in COLOURS if all(_apart(c, taken) >= _NEAR for taken in drawn.values())] or list(COLOURS)
    rest = [cluster for cluster in sorted(names) if cluster not in drawn]
    return drawn | {cluster: free[at % len(free)] for at, cluster in enumerate(rest)}


def colour_of(cluster: int, palette: Mapping[int, str] | None = None) -> str:
    if cluster < 0:
        return GREY
    return (palette or {}).get(cluster, COLOURS[cluster % len(COLOURS)])


def colours_of(clusters: Iterable[int], palette: Mapping[int, str] | None = None) -> list[str]:
    return [colour_of(int(c), palette) for c in clusters]


def on_dark() -> dict[str, str]:
    """What stands on dark ground for the colours that `palette_of` gives, where that differs."""
    return {
        _shaded(NAMED[name], shade): _shaded(dark, shade) for name, dark in _NAMED_ON_DARK.items() for shade in _SHADES
    }


def as_css(colour: str) -> str:
    """A colour for a style sheet that has `css_variables`: the one of the ground that the page has."""
    return f"var(--{_variable(colour)}, {colour})" if colour in on_dark() else colour


def css_variables() -> str:
    """Rules that give both grounds their colours."""
    pairs = on_dark().items()
    light = " ".join(f"--{_variable(colour)}: {colour};" for colour, _ in pairs)
    dark = " ".join(f"--{_variable(colour)}: {other};" for colour, other in pairs)
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _variable(colour: str) -> str:
    return f"named-{colour[1:].lower()}"


def _known(name: str | None) -> str | None:
    plain = (name or "").strip().lower()
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in NAMED else None


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _shaded(colour: str, shade: float) -> str:
    """With a share of black, or below 0 of white: black and white have room on one side only."""
    towards, amount = (0, shade) if shade > 0 else (255, -shade)
    deep, pale = max(_rgb(colour)) < 100, min(_rgb(colour)) > 180
    if deep or pale:
        towards, amount = 255 if deep else 0, shade if shade > 0 else -0.55 * shade
    mixed = [round(v + (towards - v) * amount) for v in _rgb(colour)]
    return "#" + "".join(f"{v:02X}" for v in mixed)


def _apart(a: str, b: str) -> float:
    return math.dist(_rgb(a), _rgb(b))
