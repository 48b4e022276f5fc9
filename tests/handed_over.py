"""A few labelled photos, and the files that formats of the hand-over make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from motorpool.pipeline.handover import FORMATS
from motorpool.pipeline.handover.format import Attribute, HandOver, Label, Part, Photo, address, beside

ATTRIBUTES = (Attribute("type", ("sedan", 'a "b" <c> & d', "other")), Attribute("view.1", ("front", "rear", "other")))
PHOTOS = (
    Photo(7, "veriwild/1/00003/000008.jpg", "", [
        Label("type", 'a "b" <c> & d', 0.4, False, "probe"), Label("view.1", "rear", 0.97, True, "probe"),
    ]),
    Photo(0, "veriwild/1/00001/000001.jpg", "", [
        Label("type", "other", 0.9, True, "vehicle"), Label("view.1", "other", 0.91234567, True, "nearest"),
    ]),
    Photo(1, "weiß & 'grün'/2 2.jpg", "", [
        Label("type", None, None, False, "person"), Label("view.1", "front", 1.0, True, "person"),
    ]),
)  # fmt: skip


def files(to: str, out: Path, images_url: str | None = None, *, montage: int | None = None) -> list[Path]:
    """Write the text files of a format, without a lake; a montage holds all photos."""
    form = FORMATS[to]
    assert form.documents is not None
    url = images_url if images_url is not None else form.default_url
    photos = [dataclasses.replace(p, address=address(p.path, url)) for p in PHOTOS]
    handed = HandOver(ATTRIBUTES, "motorpool 2026-01-01 10:00:00", url, montage)
    made = []
    for suffix, parts in form.documents(handed).items():
        made.append(beside(out, suffix))
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        made[-1].write_text("".join(_text(part, photos) for part in parts), encoding="utf-8")
    return made


def _text(part: Part, photos: Sequence[Photo]) -> str:
    render = part.render
    if part.render_montage is not None:
        return f"{part.head}{part.render_montage(photos)}{part.tail}"
    found = [text for photo in photos if render is not None and (text := render(photo)) is not None]
    return f"{part.head}{part.between.join(found)}{part.tail}"
