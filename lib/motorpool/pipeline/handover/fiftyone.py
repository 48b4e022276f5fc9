"""FiftyOne: a `FIFTYONE_IMAGE_CLASSIFICATION_DATASET` file of labels for each attribute, which becomes a field each.

Photos are found by their paths below the folder of photos without their extensions, or by absolute paths.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import PurePosixPath

from motorpool.pipeline.handover.format import Documents, Format, HandOver, Part, Photo, rounded


def _label(attribute: str, photo: Photo) -> str | None:
    """The photo's name and its classification; null where it cannot be told."""
    label = next(own for own in photo.labels if own.attribute == attribute)
    if label.value is None:
        return None
    path = PurePosixPath(photo.address)
    name = photo.address if path.is_absolute() else str(path.with_suffix(""))
    found = {
        "label": label.value,
        "confidence": rounded(label.probability),
        "attributes": {"accepted": label.accepted, "source": label.source},
    }
    return f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(found, ensure_ascii=False)}"


def _documents(handed: HandOver) -> Documents:
    # Classes would make numbers of the labels.
    return {
        f".{a.name}.json": [Part('{"classes": null,\n"labels": {\n', partial(_label, a.name), ",\n", "\n}}\n")]
        for a in handed.attributes
    }


FIFTYONE = Format("fiftyone", (".json",), _documents)
