"""CVAT: tags in its format "CVAT for images 1.1", and the labels of the task as JSON for its raw editor.

A tag for every attribute, with three attributes in CVAT's sense: the value, which people may change; what was suggested
for it; and a box to tick that it was seen. CVAT keeps the source of a tag (`auto`) when its value is changed, so
`motorpool annotate import` takes the values that differ from what was suggested, and those that were seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from motorpool.annotations.annotation import CANNOT_TELL
from motorpool.annotations.cvat import SEEN, SUGGESTED
from motorpool.errors import ConfigError, LakeError
from motorpool.pipeline.handover.format import Attribute, Documents, Format, HandOver, Part, Photo, rounded

#: Characters that no XML file may hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _image(photo: Photo) -> str:
    if _NO_XML.search(photo.address):
        raise LakeError(f"path {photo.address!r}: holds a character that XML cannot: export --to label-studio or csv")
    tags = [
        f'    <tag label={quoteattr(label.attribute)} source="auto" score="{rounded(label.probability)}">\n'
        f"{_value(label.attribute, label.value)}{_value(SUGGESTED, label.value)}{_value(SEEN, 'false')}    </tag>\n"
        for label in photo.labels
        if label.value is not None
    ]
    return f'  <image id="{photo.image_id}" name={quoteattr(photo.address)}>\n{"".join(tags)}  </image>\n'


def _value(name: str, value: str) -> str:
    return f"      <attribute name={quoteattr(name)}>{escape(value)}</attribute>\n"


def _specs(attribute: Attribute) -> list[dict[str, Any]]:
    """The attributes of an attribute's tag, as CVAT describes them."""
    return [
        {"name": name, "mutable": False, "input_type": kind, "default_value": values[0], "values": values}
        for name, kind, values in (
            (attribute.name, "select", [*attribute.values, CANNOT_TELL]),
            (SUGGESTED, "text", [""]),
            (SEEN, "checkbox", ["false"]),
        )
    ]


def _head(attributes: Sequence[Attribute]) -> str:
    labels = "".join(
        f"<label><name>{escape(a.name)}</name><type>tag</type><attributes>{''.join(map(_described, _specs(a)))}"
        "</attributes></label>\n"
        for a in attributes
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><name>motorpool</name><subset>default</subset><labels>\n{labels}</labels></task></meta>\n"
    )


def _described(spec: Mapping[str, Any]) -> str:
    values = "\n".join(spec["values"])
    return (
        f"<attribute><name>{escape(spec['name'])}</name><mutable>{spec['mutable']}</mutable>"
        f"<input_type>{spec['input_type']}</input_type><default_value>{escape(spec['default_value'])}</default_value>"
        f"<values>{escape(values)}</values></attribute>"
    )


def _labels(attributes: Sequence[Attribute]) -> str:
    """The task's labels, as CVAT's editor of labels takes them under "Raw"."""
    labels = [{"name": a.name, "type": "tag", "attributes": _specs(a)} for a in attributes]
    return json.dumps(labels, indent=2, ensure_ascii=False) + "\n"


def _documents(handed: HandOver) -> Documents:
    for attribute in handed.attributes:
        if attribute.name in (SUGGESTED, SEEN):
            raise ConfigError(
                f"--attribute {attribute.name}: tags have an attribute of that name already: leave it out by naming "
                "others, or call it otherwise in `labels.attributes`"
            )
    return {
        "": [Part(_head(handed.attributes), _image, "", "</annotations>\n")],
        ".labels.json": [Part(_labels(handed.attributes))],
    }


CVAT = Format("cvat", (".xml",), _documents)
