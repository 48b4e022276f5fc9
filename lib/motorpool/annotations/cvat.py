"""Annotations of CVAT, in its format "CVAT for images 1.1": tags, and attributes of tags and shapes.

An attribute of a tag or a shape (``<attribute name="type">sedan</attribute>``) is an attribute here. A tag without
attributes is a value itself (``<tag label="sedan">``), of an attribute that the file does not name. The photo is the
image's name.

`motorpool export --to cvat` writes what it suggests beside the value, since CVAT does not tell whether a person has
changed it: such a value counts where it differs from the suggestion, or where somebody has ticked that it was seen.

Files are read by expat as a stream. A document type is refused, and with it all entities: they could grow without
bound, or name other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.parsers import expat

from motorpool.annotations.annotation import Annotation, value_of, wrong

_PIECE = 1 << 16
_SHAPES = {"tag", "box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton"}
#: What CVAT writes for an attribute that nobody has set.
_UNSET = "__undefined__"
#: Attributes of a tag that are about its value: what was suggested for it, and whether a person has seen that.
SUGGESTED, SEEN = "suggested", "seen"


class _Document:
    """The state between expat's calls: where it is, and the annotations found since they were last taken."""

    def __init__(self, parser: Any, name: str, wanted: frozenset[str] | None) -> None:
        self.parser, self.name, self.wanted = parser, name, wanted
        self.found: list[Annotation] = []
        self.open: list[str] = []
        self.image: str | None = None
        #: Label and line of the tag or shape that is open, and its attributes: line, name and value.
        self.shape: tuple[str, int] | None = None
        self.attributes: list[tuple[int, str, str]] = []
        self.attribute: tuple[str, int] | None = None
        self.text: list[str] = []

    def refuse_doctype(self, *_: object) -> None:
        raise wrong(self.name, self.parser.CurrentLineNumber, "has a document type, which CVAT does not write: refused")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self.parser.CurrentLineNumber
        if not self.open and tag != "annotations":
            raise wrong(self.name, line, f'begins with <{tag}>, not <annotations>: export as "CVAT for images 1.1"')
        if tag == "track":
            raise wrong(self.name, line, 'holds tracks of a video: export as "CVAT for images 1.1"')
        self.open.append(tag)
        if tag == "image":
            self.image = attributes.get("name")
            if not self.image:
                raise wrong(self.name, line, "<image> has no name")
        elif self.image is not None and tag in _SHAPES:
            self.shape, self.attributes = (attributes.get("label", ""), line), []
        elif self.shape is not None and tag == "attribute":
            self.attribute, self.text = (attributes.get("name", ""), line), []

    def characters(self, text: str) -> None:
        if self.attribute is not None:
            self.text.append(text)

    def end(self, tag: str) -> None:
        self.open.pop()
        if tag == "attribute" and self.attribute is not None:
            called, line = self.attribute
            self.attributes.append((line, called.strip(), "".join(self.text).strip()))
            self.attribute = None
        elif tag in _SHAPES and self.shape is not None:
            label, line = self.shape
            if tag == "tag" and not self.attributes:
                self.add(line, None, label)
            self.add_attributes()
            self.shape = None
        elif tag == "image":
            self.image = None

    def add_attributes(self) -> None:
        """The values of a tag or shape; of suggested ones those that a person has changed or seen."""
        about = {name: value for _, name, value in self.attributes if name in (SUGGESTED, SEEN)}
        told = self.attributes
        if SUGGESTED in about:
            seen = about.get(SEEN) == "true"
            told = [(n, name, v) for n, name, v in told if name not in about and (seen or v != about[SUGGESTED])]
        for line, name, value in told:
            self.add(line, name, value)

    def add(self, line: int, attribute: str | None, value: str) -> None:
        if self.wanted is not None and attribute is not None and attribute.lower() not in self.wanted:
            return
        if self.image is not None and value.strip() and value.strip() != _UNSET:
            self.found.append(Annotation(line, self.image, attribute, value_of(value)))

    def take(self) -> list[Annotation]:
        found, self.found = self.found, []
        return found


def read_cvat(f: BinaryIO, name: str, wanted: frozenset[str] | None) -> Iterator[Annotation]:
    """The annotations of every image, with the lines of their tags and attributes."""
    parser = expat.ParserCreate()
    document = _Document(parser, name, wanted)
    parser.StartDoctypeDeclHandler = document.refuse_doctype
    parser.StartElementHandler = document.start
    parser.EndElementHandler = document.end
    parser.CharacterDataHandler = document.characters
    try:
        while piece := f.read(_PIECE):
            parser.Parse(bytes(piece), False)
            yield from document.take()
        parser.Parse(b"", True)
    except expat.ExpatError as exc:
        raise wrong(name, exc.lineno, f"cannot be read as XML: {expat.ErrorString(exc.code)}") from exc
    yield from document.take()
