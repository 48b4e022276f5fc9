"""Label Studio: tasks with predictions as JSON, and the labelling config that they belong to.

A prediction is what the photo's page shows before anybody has looked; what a person then submits is an annotation, and
`motorpool annotate import` reads annotations alone. The score of a prediction is that of its least certain label, by
which Label Studio can sort.

A montage is a task with several photos: its config repeats the photo and its choices for each of them, and the names
of both end in the photo's place in the task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from xml.sax.saxutils import quoteattr

from motorpool.annotations.annotation import CANNOT_TELL
from motorpool.pipeline.handover.format import Attribute, Documents, Format, HandOver, Label, Part, Photo, rounded

#: The names of the photo in the labelling config and in tasks.
_PHOTO = "photo"


#: What Label Studio replaces by the photo's place in a montage.
_PLACE = "{{idx}}"
#: Photos side by side in a montage, and the name by which its style finds it.
_COLUMNS, _MONTAGE = 4, "montage"


def _task(version: str, photo: Photo) -> str:
    return _json({"image": photo.address, "path": photo.path}, [(photo, "")], version)


def _montage(version: str, photos: Sequence[Photo]) -> str:
    data = {"photos": [{"image": photo.address, "path": photo.path} for photo in photos]}
    return _json(data, [(photo, f"_{place}") for place, photo in enumerate(photos)], version)


def _json(data: Mapping[str, object], photos: Sequence[tuple[Photo, str]], version: str) -> str:
    """A task, with a prediction from the labels of its photos; each photo comes with the ending of its names."""
    told = [(label, ending) for photo, ending in photos for label in photo.labels if label.value is not None]
    task: dict[str, object] = {"data": data}
    if told:
        results = [_result(label, ending) for label, ending in told]
        score = rounded(min(label.probability or 0.0 for label, _ in told))
        task["predictions"] = [{"model_version": version, "score": score, "result": results}]
    return json.dumps(task, ensure_ascii=False)


def _result(label: Label, ending: str) -> dict[str, object]:
    return {
        "id": f"{label.attribute}{ending}",
        "from_name": f"{label.attribute}{ending}",
        "to_name": f"{_PHOTO}{ending}",
        "type": "choices",
        "value": {"choices": [label.value]},
        "score": rounded(label.probability),
    }


def _config(attributes: Sequence[Attribute]) -> str:
    """The labelling config: the photo, and a choice of values for every attribute."""
    image = f'<Image name="{_PHOTO}" value="$image"/>'
    return _lines([image, *(line for a in attributes for line in _choices(a, "", 'showInline="true"'))])


def _montage_config(attributes: Sequence[Attribute]) -> str:
    """The labelling config of montages: photos side by side, below each of them its choices as drop-down lists."""
    # Label Studio puts all that is repeated into one box, and each repetition into a box in that. It spoils ">" in a
    # style, so boxes are told by what they hold.
    style = (
        f".{_MONTAGE} div:has(.{_PHOTO}) {{ display: flex; flex-wrap: wrap; gap: 12px }} "
        f".{_MONTAGE} div div:has(.{_PHOTO}) {{ display: block; width: calc({100 // _COLUMNS}% - 12px) }}"
    )
    image = f'<Image name="{_PHOTO}_{_PLACE}" value="$photos[{_PLACE}].image" zoomControl="false"/>'
    choices = [line for a in attributes for line in _choices(a, f"_{_PLACE}", 'layout="select"')]
    inner = [f'<View className="{_PHOTO}">', *(f"  {line}" for line in [image, *choices]), "</View>"]
    repeated = [f'<Repeater on="$photos" indexFlag="{_PLACE}">', *(f"  {line}" for line in inner), "</Repeater>"]
    montage = [f'<View className="{_MONTAGE}">', *(f"  {line}" for line in repeated), "</View>"]
    return _lines([f"<Style>{style}</Style>", *montage])


def _choices(attribute: Attribute, ending: str, layout: str) -> list[str]:
    name = quoteattr(f"{attribute.name}{ending}")
    return [
        f"<Header value={quoteattr(attribute.name)}/>",
        f'<Choices name={name} toName="{_PHOTO}{ending}" choice="single" {layout}>',
        *(f"  <Choice value={quoteattr(value)}/>" for value in attribute.values),
        f'  <Choice value="{CANNOT_TELL}" hint="It cannot be told from the photo"/>',
        "</Choices>",
    ]


def _lines(inner: Sequence[str]) -> str:
    return "\n".join(["<View>", *(f"  {line}" for line in inner), "</View>", ""])


def _documents(handed: HandOver) -> Documents:
    if handed.montage is None:
        tasks = Part("[\n", render=partial(_task, handed.version), tail="\n]\n")
        return {"": [tasks], ".config.xml": [Part(_config(handed.attributes))]}
    montages = Part("[\n", render_montage=partial(_montage, handed.version), tail="\n]\n")
    return {"": [montages], ".config.xml": [Part(_montage_config(handed.attributes))]}


#: Label Studio serves the files of its own machine at this address.
LABEL_STUDIO = Format("label-studio", (".json",), _documents, default_url="/data/local-files/?d=", montages=True)
