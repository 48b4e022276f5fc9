"""Hand over: labels of attributes become the files of another tool, photos that are left for people first."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from motorpool.errors import ConfigError
from motorpool.lake.reading import Answer, LakeReader, SparkAnswer
from motorpool.pipeline.context import explained
from motorpool.pipeline.handover import FORMATS
from motorpool.pipeline.handover.format import (
    Attribute,
    Format,
    HandOver,
    Label,
    Part,
    Photo,
    Table,
    address,
    beside,
)  # fmt: skip
from motorpool.pipeline.labelling.stored import asked_labels
from motorpool.pipeline.output.files import whole_file, write_csv_batches, write_parquet_batches

#: Maps that are drawn, the first that the lake has.
_MAPS = ("umap2", "tsne2", "pca2")


@dataclass(frozen=True)
class Asked:
    """What the command says. ``attributes`` None are all that have labels; ``limit`` None is all photos.

    ``montage`` photos share a task of Label Studio, None for one each. ``features`` and ``map`` name the map that
    Embedding Atlas draws.
    """

    to: str
    attributes: Collection[str] | None = None
    images_url: str | None = None
    limit: int | None = None
    montage: int | None = None
    features: str | None = None
    map: str | None = None


@dataclass(frozen=True)
class HandedOver:
    """Files that were written, how many photos they hold, and for how many of these people are needed."""

    files: list[Path]
    n_photos: int
    n_left: int


def check_hand_over(asked: Asked, out: Path) -> Format:
    """The format, before Spark starts; ConfigError for a file name that the tool would not read."""
    form = FORMATS[asked.to]
    if out.suffix.lower() not in form.extensions:
        raise ConfigError(f"--out {out}: {form.name} reads files that end in {', '.join(form.extensions)}")
    if asked.montage and not form.montages:
        raise ConfigError(f"--montage {asked.montage}: a task of {form.name} shows one photo")
    if (asked.features or asked.map) and not form.draws_map:
        raise ConfigError(f"--features and --map choose a map, and {form.name} draws none")
    return form


#: The answer to `_labels_of`: rows of a photo follow each other, and so do those of a montage. ``montage`` numbers the
#: task that the photo is in.
_ROWS = pa.schema(
    [
        ("montage", pa.int64()), ("image_id", pa.int64()), ("path", pa.string()), ("x", pa.float32()),
        ("y", pa.float32()), ("undone", pa.int32()), ("attribute", pa.string()), ("value", pa.string()),
        ("probability", pa.float32()), ("accepted", pa.bool_()), ("source", pa.string()),
    ]
)  # fmt: skip
#: Rows that are in memory at a time.
_BATCH = 10_000


def hand_over(lake: LakeReader, asked: Asked, out: Path) -> HandedOver:
    """Write the labels of attributes in the format ``asked.to``, with their probabilities.

    Photos come in this order: those with a label that is not accepted and that nobody has looked at, then by their
    least probability. In a montage photos have the same labels, and montages come by their first photo. ``out`` and
    the files beside it appear whole or not at all.

    Raises ConfigError for attributes without labels, and where the lake has no map for a format that draws one. Memory:
    a batch of labels, which lie in a temporary file meanwhile; with Spark one partition of them on the driver.
    """
    form = check_hand_over(asked, out)
    attributes, version = _attributes(lake, asked.attributes)
    url = asked.images_url if asked.images_url is not None else form.default_url
    handed = HandOver(attributes, version, url, asked.montage)
    with ExitStack() as stack:
        stack.enter_context(explained())
        table = form.table(handed) if form.table is not None else None
        documents = form.documents(handed) if form.documents is not None else {}
        drawn = _map(lake, asked) if form.draws_map else None
        labels = stack.enter_context(_kept(_labels_of(lake, attributes, asked, drawn)))
        files = []
        if table is not None:
            write = write_parquet_batches if ".parquet" in form.extensions else write_csv_batches
            write(table.schema, _batches_of(table, labels.photos(url)), stack.enter_context(whole_file(out)))
            files.append(out)
        for suffix, parts in documents.items():
            files.append(beside(out, suffix))
            f = stack.enter_context(whole_file(files[-1]))
            for part in parts:
                _write_part(labels, part, url, f)
        return HandedOver(files, labels.n_photos, labels.n_left)


def _attributes(lake: LakeReader, wanted: Collection[str] | None) -> tuple[list[Attribute], str]:
    """The attributes by name, and when their labels were made."""
    there = {}
    if "label_sets" in lake.names():
        there = {str(r[0]): r for r in lake.sql("SELECT attribute, classes, created_at FROM label_sets").rows()}
    rows = asked_labels(there, str(lake), wanted, needed_by="--to")
    made = max(str(created_at) for *_, created_at in rows)
    return [Attribute(name, tuple(classes)) for name, classes, _ in rows], f"motorpool {made[:19]}"


def _labels_of(
    lake: LakeReader, attributes: Sequence[Attribute], asked: Asked, drawn: tuple[str, str] | None
) -> Answer:
    """The labels of the photos that are asked for, by attribute, photos in their order: columns of _ROWS.

    ``drawn`` names the features and the method of a map.
    """
    values: dict[str, str | int] = {f"a{at}": a.name for at, a in enumerate(attributes)}
    listed = ", ".join(f":{name}" for name in values)
    limit = f"LIMIT {int(asked.limit)}" if asked.limit else ""
    montages, montage, order = "", "p.image_id", "p.undone DESC, p.least, p.image_id"
    if asked.montage:
        montages, montage, order = _montages(attributes, asked.montage), "p.montage", "p.montage, p.place"
    places, x, y = "", "CAST(NULL AS FLOAT)", "CAST(NULL AS FLOAT)"
    if drawn is not None:
        values |= {"features": drawn[0], "method": drawn[1]}
        places, x, y = (
            "LEFT JOIN projections AS m ON m.image_id = l.image_id AND m.features = :features AND m.method = :method",
            "m.x", "m.y",
        )  # fmt: skip
    # S608: whole numbers, and names that are this module's own.
    query = f"""
        WITH labelled AS (
            SELECT l.image_id, i.path, l.attribute, l.value, l.probability, l.accepted, l.source
            FROM image_labels AS l INNER JOIN images AS i ON i.image_id = l.image_id WHERE l.attribute IN ({listed})
        ), photos AS (
            SELECT image_id, max(CASE WHEN NOT accepted AND source <> 'person' THEN 1 ELSE 0 END) AS undone,
                   min(coalesce(CAST(probability AS DOUBLE), 0D)) AS least
            FROM labelled GROUP BY image_id ORDER BY undone DESC, least, image_id {limit}
        ) {montages}
        SELECT {montage} AS montage, l.image_id, l.path, {x} AS x, {y} AS y, p.undone, l.attribute, l.value,
               l.probability, l.accepted, l.source
        FROM {"grouped" if asked.montage else "photos"} AS p
        INNER JOIN labelled AS l ON l.image_id = p.image_id {places}
        ORDER BY {order}, l.attribute
    """  # noqa: S608
    return lake.sql(query, values)


def _montages(attributes: Sequence[Attribute], size: int) -> str:
    """SQL that makes ``grouped`` of ``photos``: at most ``size`` that have the same labels share a ``montage``.

    It is numbered by its first photo's place in the order of all.
    """
    # Null stands for a value that cannot be told, so labels are counted too.
    columns = [
        (f"max(CASE WHEN attribute = :a{at} THEN value END) AS v{at}",
         f"count(CASE WHEN attribute = :a{at} THEN 1 END) AS n{at}")
        for at in range(len(attributes))
    ]  # fmt: skip
    told = ", ".join(column for pair in columns for column in pair)
    same = ", ".join(f"v{at}, n{at}" for at in range(len(attributes)))
    # S608: whole numbers.
    return f""", alike AS (
            SELECT image_id, {told} FROM labelled GROUP BY image_id
        ), placed AS (
            SELECT p.*, {same}, row_number() OVER (ORDER BY undone DESC, least, p.image_id) AS place,
                   row_number() OVER (PARTITION BY undone, {same} ORDER BY least, p.image_id) AS nth
            FROM photos AS p INNER JOIN alike AS a ON a.image_id = p.image_id
        ), parted AS (
            SELECT *, floor((nth - 1) / {int(size)}) AS part FROM placed
        ), grouped AS (
            SELECT image_id, undone, place, min(place) OVER (PARTITION BY undone, {same}, part) AS montage FROM parted
        )"""  # noqa: S608


@dataclass(frozen=True)
class _Labels:
    """Labels in a temporary file, in their order, and how many photos they are of."""

    file: BinaryIO
    n_photos: int
    n_left: int

    def montages(self, url: str | None) -> Iterator[list[Photo]]:
        """Photos that share a task."""
        for _, rows in groupby(self._rows(), key=itemgetter(0)):
            yield list(_photos(rows, url))

    def photos(self, url: str | None) -> Iterator[Photo]:
        return _photos(self._rows(), url)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        self.file.seek(0)
        with pa.ipc.open_stream(self.file) as batches:
            for batch in batches:
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _photos(rows: Iterable[tuple[Any, ...]], url: str | None) -> Iterator[Photo]:
    for image_id, labels in groupby(rows, key=itemgetter(1)):
        found = list(labels)
        _, _, path, x, y, *_ = found[0]
        place = None if x is None or y is None else (x, y)
        yield Photo(image_id, path, address(path, url), [Label(*row[6:]) for row in found], place)


@contextmanager
def _kept(answer: Answer) -> Iterator[_Labels]:
    """The answer in a temporary file, as some formats read it several times."""
    n_photos = n_left = 0
    last: int | None = None
    with tempfile.TemporaryFile(prefix="motorpool-") as file:
        with pa.ipc.new_stream(file, _ROWS, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for batch in _batches(answer):
                ids = batch.column("image_id").to_numpy(zero_copy_only=False)
                if not len(ids):
                    continue
                begins = np.concatenate([[ids[0] != last], ids[1:] != ids[:-1]])
                last = int(ids[-1])
                n_photos += int(begins.sum())
                n_left += int(batch.column("undone").to_numpy(zero_copy_only=False)[begins].sum())
                writer.write_batch(batch)
        yield _Labels(file, n_photos, n_left)


def _batches(answer: Answer) -> Iterator[pa.RecordBatch]:
    """The rows as _ROWS, in parts."""
    if isinstance(answer, SparkAnswer):
        # Spark gives Arrow's tables whole.
        yield from _in_batches(answer.rows(), _ROWS)
        return
    for batch in answer.batches():
        yield pa.RecordBatch.from_arrays(
            [c.cast(f.type) for c, f in zip(batch.columns, _ROWS, strict=True)], schema=_ROWS
        )


def _in_batches(rows: Iterator[Sequence[Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while some := list(islice(rows, _BATCH)):
        columns = [pa.array(c, f.type) for c, f in zip(zip(*some, strict=True), schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _batches_of(table: Table, photos: Iterable[Photo]) -> Iterator[pa.RecordBatch]:
    return _in_batches((row for photo in photos for row in table.rows(photo)), table.schema)


def _write_part(labels: _Labels, part: Part, url: str | None, f: BinaryIO) -> None:
    """One part of a text file."""
    f.write(part.head.encode())
    texts: Iterator[str | None] = iter(())
    if part.render is not None:
        texts = map(part.render, labels.photos(url))
    elif part.render_montage is not None:
        texts = map(part.render_montage, labels.montages(url))
    between = ""
    for text in texts:
        if text is not None:
            f.write(f"{between}{text}".encode())
            between = part.between
    f.write(part.tail.encode())


def _map(lake: LakeReader, asked: Asked) -> tuple[str, str]:
    """Features and method of the map asked for, or of the first of the lake's."""
    held = []
    if "projection_methods" in lake.names() and "projections" in lake.names():
        held = sorted((str(f), str(m)) for f, m in lake.sql("SELECT features, method FROM projection_methods").rows())
    fitting = [
        (features, method)
        for features, method in held
        if asked.features in (None, features) and (asked.map == method or (asked.map is None and method in _MAPS))
    ]
    if not fitting:
        there = ", ".join(f"{method} of {features}" for features, method in held) or "none"
        raise ConfigError(
            f"--to embedding-atlas: the lake {lake} has no such map; it has {there}. `motorpool project` draws maps"
        )
    return min(fitting, key=lambda item: (_MAPS.index(item[1]) if item[1] in _MAPS else 9, item[0]))
