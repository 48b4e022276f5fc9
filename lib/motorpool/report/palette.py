"""Colours that people with colour-vision deficiency can tell apart, on white and on dark ground alike."""

from __future__ import annotations

from collections.abc import Iterable

#: Seven of Okabe & Ito (2008, Color Universal Design; without black, which dark pages hide, and with a darker yellow),
#: then six of Tol's muted scheme (2021, Colour schemes). From the eighth cluster on colours are near others, and from
#: the fourteenth they repeat: numbers on the pictures tell clusters apart, never colour alone.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800",
    "#AA4499", "#999933", "#CC6677", "#117733", "#88CCEE", "#882255",
)  # fmt: skip
#: Noise, and whatever is only the background of what matters.
GREY = "#8A8F98"
#: Outliers where a map tells them from the rest.
ALARM = "#D55E00"


def colour_of(cluster: int) -> str:
    return GREY if cluster < 0 else COLOURS[cluster % len(COLOURS)]


def colours_of(clusters: Iterable[int]) -> list[str]:
    return [colour_of(int(c)) for c in clusters]
