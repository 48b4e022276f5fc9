"""COCO with labels of whole images, as Datumaro reads it: `annotations/labels_NAME.json` beside a folder `images`.

A category is a value, its supercategory the attribute. COCO has no place for the size of a label of a whole image, so
annotations have no box: tools that look for boxes find none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from motorpool.pipeline.handover.format import Attribute, Documents, Format, HandOver, Part, Photo, rounded


def _categories(attributes: Sequence[Attribute]) -> list[dict[str, object]]:
    """One for each value; ids count from 1, as 0 means none. A value of several attributes has its attribute's name."""
    times = Counter(value for a in attributes for value in a.values)
    named = [(a.name, value if times[value] == 1 else f"{a.name}: {value}") for a in attributes for value in a.values]
    return [{"id": at, "name": name, "supercategory": attribute} for at, (attribute, name) in enumerate(named, 1)]


def _image(photo: Photo) -> str:
    return json.dumps({"id": photo.image_id + 1, "file_name": photo.address}, ensure_ascii=False)


def _annotations(ids: Mapping[tuple[str, str], int], n_attributes: int, photo: Photo) -> str | None:
    found = [
        json.dumps(
            {
                "id": photo.image_id * n_attributes + at,
                "image_id": photo.image_id + 1,
                "category_id": ids[label.attribute, label.value],
                "score": rounded(label.probability),
                "attributes": {"accepted": label.accepted, "source": label.source},
            }
        )
        for at, label in enumerate(photo.labels, 1)
        if label.value is not None
    ]
    return ",\n".join(found) or None


def _documents(handed: HandOver) -> Documents:
    categories = _categories(handed.attributes)
    values = [(a.name, value) for a in handed.attributes for value in a.values]
    ids = {key: at for at, key in enumerate(values, 1)}
    info = {"description": f"labels of {handed.version}"}
    listed = json.dumps(categories, ensure_ascii=False)
    head = f'{{"info": {json.dumps(info)},\n"licenses": [],\n"categories": {listed},\n"images": [\n'
    return {
        "": [
            Part(head, _image, ",\n", "\n],\n"),
            Part('"annotations": [\n', partial(_annotations, ids, len(handed.attributes)), ",\n", "\n]}\n"),
        ]
    }


COCO = Format("coco", (".json",), _documents)
