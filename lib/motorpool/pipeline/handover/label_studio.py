"""Label Studio: tasks with predictions as JSON, and the labelling config that they belong to.

A prediction is what the photo's page shows before anybody has looked; what a person then submits is an annotation, and
`motorpool annotate import` reads annotations alone. The score of a prediction is that of its least certain label, by
which Label Studio can sort.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from xml.sax.saxutils import quoteattr

from motorpool.annotations.annotation import CANNOT_TELL
from motorpool.pipeline.handover.format import Attribute, Documents, Format, HandOver, Part, Photo, rounded

#: The names of the photo in the labelling config and in tasks.
_PHOTO = "photo"


def _task(version: str, photo: Photo) -> str:
    results = [
        {
            "id": label.attribute,
            "from_name": label.attribute,
            "to_name": _PHOTO,
            "type": "choices",
            "value": {"choices": [label.value]},
            "score": rounded(label.probability),
        }
        for label in photo.labels
        if label.value is not None
    ]
    task: dict[str, object] = {"data": {"image": photo.address, "path": photo.path}}
    if results:
        score = rounded(min(label.probability or 0.0 for label in photo.labels if label.value is not None))
        task["predictions"] = [{"model_version": version, "score": score, "result": results}]
    return json.dumps(task, ensure_ascii=False)


def _config(attributes: Sequence[Attribute]) -> str:
    """The labelling config: the photo, and a choice of values for every attribute."""
    lines = ["<View>", f'  <Image name="{_PHOTO}" value="$image"/>']
    for attribute in attributes:
        lines += [
            f"  <Header value={quoteattr(attribute.name)}/>",
            f'  <Choices name={quoteattr(attribute.name)} toName="{_PHOTO}" choice="single" showInline="true">',
            *(f"    <Choice value={quoteattr(value)}/>" for value in attribute.values),
            f'    <Choice value="{CANNOT_TELL}" hint="It cannot be told from the photo"/>',
            "  </Choices>",
        ]
    return "\n".join([*lines, "</View>", ""])


def _documents(handed: HandOver) -> Documents:
    return {
        "": [Part("[\n", partial(_task, handed.version), ",\n", "\n]\n")],
        ".config.xml": [Part(_config(handed.attributes))],
    }


#: Label Studio serves the files of its own machine at this address.
LABEL_STUDIO = Format("label-studio", (".json",), _documents, default_url="/data/local-files/?d=")
