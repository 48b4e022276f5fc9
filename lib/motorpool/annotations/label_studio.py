"""Annotations of Label Studio: its JSON and JSON-MIN exports, whose choices (`<Choices>`) are values.

The attribute is called as the control (`name="type"`). Other controls (boxes, text, ...), predictions and tasks that
were skipped are passed over. The photo is what the task's data call ``path``, or else ``image`` or the one text in them
that looks like the address of a photo. A task whose data hold a list ``photos`` is a montage: its controls are called
as the attribute and the photo's place in the list (`name="type_0"`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from motorpool.annotations.annotation import Annotation, value_of, wrong
from motorpool.errors import AnnotationError
from motorpool.texts import encoding_of

#: Characters read at once; a task is some hundred.
_PIECE = 1 << 20
#: Tasks longer than this are no tasks of photos.
_LONGEST = 64 << 20
_PHOTO = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)(?:$|[?#])", re.IGNORECASE)
#: What Label Studio puts before the name of a photo that was uploaded to it.
_UPLOADED = re.compile(r"/data/upload/\d+/[0-9a-f]{8}-", re.IGNORECASE)
#: Fields of JSON-MIN that are no control's.
_OF_TASK = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement"}


def read_label_studio(f: BinaryIO, name: str, wanted: frozenset[str] | None) -> Iterator[Annotation]:
    """The choices of every annotation of every task; lines are those where tasks begin."""
    for line, task in _tasks(f, name):
        if not isinstance(task, dict):
            raise wrong(name, line, "is no task of Label Studio: export as JSON or JSON-MIN")
        # A task that has only been imported has predictions, and no annotations yet.
        whole = "annotations" in task or "completions" in task or isinstance(task.get("data"), dict)
        photo_of = _photos(task.get("data") if whole else task, name, line)
        for named, choices, annotator in _whole(task) if whole else _minimal(task):
            control, path = photo_of(named)
            if (wanted is not None and control.lower() not in wanted) or not choices:
                continue
            if len(choices) > 1:
                raise wrong(name, line, f"{path}: several choices of {control!r} at once: {', '.join(choices)}")
            yield Annotation(line, path, control, value_of(choices[0]), annotator)


def _whole(task: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str | None]]:
    """Control, choices and annotator of a task of the JSON export."""
    for annotation in task.get("annotations") or task.get("completions") or ():
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or ():
            value = result.get("value")
            if isinstance(value, dict) and isinstance(value.get("choices"), list):
                yield str(result.get("from_name")), [str(c) for c in value["choices"]], _who(annotation)


def _minimal(task: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str | None]]:
    """The same of a task of JSON-MIN, where each control is a field."""
    for field, value in task.items():
        if field in _OF_TASK:
            continue
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            yield field, [str(c) for c in value["choices"]], _who(task)
        elif isinstance(value, str) and value.strip() and field not in ("path", "image") and not _PHOTO.search(value):
            yield field, [value], _who(task)


def _who(annotation: Mapping[str, Any]) -> str | None:
    by = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return None if by is None else str(by)


def _photos(data: Any, name: str, line: int) -> Callable[[str], tuple[str, str]]:
    """From a control's name to the attribute and the path of the photo it belongs to."""
    photos = data.get("photos") if isinstance(data, dict) else None
    if not isinstance(photos, list):
        path = _path(data, name, line)
        return lambda control: (control, path)
    paths = [_path(photo, name, line) for photo in photos]

    def photo_of(control: str) -> tuple[str, str]:
        attribute, _, place = control.rpartition("_")
        if not (attribute and place.isdecimal() and int(place) < len(paths)):
            raise wrong(name, line, f"{control!r} belongs to none of the task's {len(paths)} photos")
        return attribute, paths[int(place)]

    return photo_of


def _path(data: Any, name: str, line: int) -> str:
    texts = {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
    found = next((texts[k] for k in ("path", "image") if texts.get(k)), None)
    if found is None:
        photos = [v for v in texts.values() if _PHOTO.search(v)]
        if len(photos) != 1:
            raise wrong(name, line, f"the task's data name no photo (found {', '.join(texts) or 'no text'})")
        found = photos[0]
    return photo_path(found)


def photo_path(address: str) -> str:
    """The path of a photo in what Label Studio stores: a local file's address, an upload's, a URL or a plain path."""
    if "/data/local-files/" in address:
        local = parse_qs(urlsplit(address).query).get("d")
        if local:
            return local[0]
    if _UPLOADED.search(address):
        return unquote(_UPLOADED.split(address)[-1])
    if re.match(r"[a-z][a-z0-9+.-]*://", address, re.IGNORECASE):
        return unquote(urlsplit(address).path).lstrip("/")
    return address


def _tasks(f: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    """The items of the list that the file holds, one at a time, each with the line where it begins."""
    decoder = json.JSONDecoder()
    texts = _pieces(f, name)
    buffer, line = _more("", texts)[0].lstrip("\ufeff"), 1

    def skip(marks: str) -> None:
        """Pass over blanks, and over marks where they are expected."""
        nonlocal buffer, line
        while True:
            rest = buffer.lstrip(" \t\r\n")
            line += buffer.count("\n", 0, len(buffer) - len(rest))
            buffer = rest
            if not buffer:
                buffer, ended = _more(buffer, texts)
                if ended:
                    return
                continue
            if buffer[0] not in marks:
                return
            buffer = buffer[1:]
            marks = ""

    skip("")
    if not buffer.startswith("["):
        raise wrong(name, line, "is no export of Label Studio: expected a list of tasks in square brackets")
    buffer = buffer[1:]
    skip("")
    while buffer and buffer[0] != "]":
        ended = False
        while True:
            try:
                task, end = decoder.raw_decode(buffer)
            except json.JSONDecodeError as exc:
                longer, ended = _more(buffer, texts)
                if ended or len(longer) > _LONGEST:
                    raise wrong(name, line + exc.lineno - 1, f"cannot be read as JSON: {exc.msg}") from exc
                buffer = longer
            else:
                break
        yield line, task
        line += buffer.count("\n", 0, end)
        buffer = buffer[end:]
        skip(",")
    if not buffer:
        raise wrong(name, line, "cannot be read as JSON: the list of tasks does not end, so the file is cut off")


def _more(buffer: str, texts: Iterator[str]) -> tuple[str, bool]:
    """``buffer`` with the next piece behind it, and whether there was none."""
    piece = next(texts, None)
    return (buffer, True) if piece is None else (buffer + piece, False)


def _pieces(f: BinaryIO, name: str) -> Iterator[str]:
    import codecs

    first = f.read(_PIECE)
    try:
        decode = codecs.getincrementaldecoder(encoding_of(bytes(first)))()
        data = first
        while data:
            yield decode.decode(data)
            data = f.read(_PIECE)
        yield decode.decode(b"", final=True)
    except ValueError as exc:
        raise AnnotationError(f"{name}: is neither UTF-8 nor UTF-16 text ({exc})") from exc
