"""Which photos a review is of: those of a draw, those whose labels are left for people, or the clusters of a model."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motorpool.annotations.annotation import CANNOT_TELL, wrong
from motorpool.config.labels import AttributeConfig
from motorpool.config.run import CONSENSUS
from motorpool.errors import AnnotationError, ConfigError, LakeError
from motorpool.kernels.runs import place_in_run
from motorpool.lake.local_tables import LocalTables
from motorpool.percentages import percent
from motorpool.pipeline.annotating.attributes import check_known
from motorpool.review.queue import BATCH, Group, Parts, Photos
from motorpool.texts import decode, listed

#: Columns of the file of `annotate draw` that a review needs.
_DRAWN = ("path", "attribute", "value", "suggested", "why", "draw", "purpose", "stratum", "weight")
#: Models that an error lists.
_LISTED = 8
#: A finer model has at least so many times as many clusters.
_FINER = 2


@dataclass(frozen=True)
class Origin:
    """Why a photo is looked at: columns of ``annotations``."""

    purpose: str = "train"
    draw: str | None = None
    stratum: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Prepared:
    """All that a review is made of; ``done`` bool[n] are photos with an answer in the lake."""

    photos: Photos
    groups: list[Group]
    done: np.ndarray
    #: Values that can be given, in their order.
    values: list[str]
    #: Whether people may name further ones.
    is_open: bool
    #: What the review is of, for people.
    title: str
    parts: Parts | None = None
    #: By row, for photos of a draw.
    origins: Mapping[int, Origin] = field(default_factory=dict)


def choose_attribute(lake: LocalTables, attribute: str | None, config: Mapping[str, AttributeConfig] | None) -> str:
    """The attribute to review: the one asked for, or the only one there is; ConfigError where that does not say."""
    known = set(config or ())
    for table in ("label_sets", "annotations"):
        known |= set(lake.fetch(table, ["attribute"]).column("attribute").unique().to_pylist())
    if attribute is not None:
        check_known(attribute, config or None)
        return attribute
    if len(known) == 1:
        return known.pop()
    if not known:
        raise ConfigError("--attribute: is missing, and the lake has no labels yet: name what people shall tell")
    raise ConfigError(f"--attribute: is missing, and there are several: {listed(sorted(known))}")


def prepare(
    lake: LocalTables,
    attribute: str,
    draws: str | None = None,
    model: str | None = None,
    everything: bool = False,
    config: AttributeConfig | None = None,
) -> Prepared:
    """The photos to look at: of a file of `annotate draw`, of a model's clusters, or else of the labels.

    Of labels: those left for people, the least sure first; with ``everything`` the accepted ones behind them. Photos
    of vehicles that an audit drew are left out, but for a draw's own. Reads: images, and what there is of annotations,
    label_sets, image_labels, models, labels, clusters, outliers.

    Memory for 416,314 images: some 180 MB while it prepares, 100 MB afterwards. LakeError where there is nothing to
    look at, ConfigError for a model that the lake does not have, AnnotationError with the line for a file that is no
    draw.
    """
    if not lake.exists("images"):
        raise LakeError(f"table 'images' is not in the lake {lake.folder}: run `motorpool ingest` first")
    images = lake.fetch("images", ["image_id", "path", "vehicle_id"]).sort_by("image_id").combine_chunks()
    said = lake.fetch("annotations", ["image_id", "value", "purpose"], attribute=[attribute])
    values, is_open = _values(lake, attribute, said, config)
    if draws is not None:
        return _of_draw(lake, images, said, attribute, draws, values, is_open)
    if model is not None:
        return _of_clusters(lake, images, said, model, values, is_open)
    return _of_labels(lake, images, said, attribute, everything, values, is_open)


def _values(
    lake: LocalTables, attribute: str, said: pa.Table, config: AttributeConfig | None
) -> tuple[list[str], bool]:
    """The values that are known, and whether people may add others: not where the config lists them."""
    if config is not None and config.values is not None:
        return list(config.values), False
    found: list[str] = []
    for row in lake.rows("label_sets", ["classes"], attribute=[attribute]):
        found += row["classes"] or []
    found += sorted(v for v in said.column("value").unique().to_pylist() if v is not None)
    return list(dict.fromkeys(found)), True


# -- the photos ----------------------------------------------------------------------------------------


def _rows_of(images: pa.Table, image_ids: pa.ChunkedArray) -> np.ndarray:
    """int64[k]: rows of ``images`` of the ids that it has."""
    rows = pc.index_in(image_ids, value_set=images.column("image_id"))
    return np.asarray(rows.drop_null(), np.int64)


def _of_images(labels: pa.Table, images: pa.Table) -> pa.Table:
    """The labels of images that are there, by ascending id."""
    there = pc.is_in(labels.column("image_id"), value_set=images.column("image_id"))
    return labels.filter(there).sort_by("image_id").combine_chunks()


def _looked_at(images: pa.Table, said: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """bool[n] each: images that somebody has looked at, and images of vehicles that an audit drew."""
    seen, kept_aside = np.zeros(images.num_rows, bool), np.zeros(images.num_rows, bool)
    seen[_rows_of(images, said.column("image_id"))] = True
    audited = _rows_of(images, said.filter(pc.equal(said.column("purpose"), "audit")).column("image_id"))
    kept_aside[audited] = True
    vehicles = images.column("vehicle_id").take(pa.array(audited)).unique().drop_null()
    kept_aside |= np.asarray(pc.fill_null(pc.is_in(images.column("vehicle_id"), value_set=vehicles), False))
    return seen, kept_aside


def _unseen(labels: pa.Table, images: pa.Table, said: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """The labels of images to look at, by ascending id, and int64[k], their rows of ``images``."""
    labels = _of_images(labels, images)
    seen, kept_aside = _looked_at(images, said)
    rows = _rows_of(images, labels.column("image_id"))
    fresh = ~(seen | kept_aside)[rows]
    return rows[fresh], labels.filter(pa.array(fresh))


def _photos(images: pa.Table, rows: np.ndarray, note: pa.Array) -> Photos:
    some = images.take(pa.array(rows))
    return Photos(np.asarray(some.column("image_id")), some.column("path").combine_chunks(), note)


def _turns(group: np.ndarray, images: pa.Table, rows: np.ndarray, before: np.ndarray) -> np.ndarray:
    """int64[k]: how many photos of the same vehicle and group come before each, in the order of ``before``.

    A photo without a vehicle is the first of its own.
    """
    vehicle = images.column("vehicle_id").take(pa.array(rows)).combine_chunks().dictionary_encode().indices
    code = np.asarray(pc.fill_null(vehicle, -1), np.int64)
    turns = np.zeros(len(rows), np.int64)
    own = np.flatnonzero(code >= 0)
    order = own[np.lexsort((before[own], code[own], group[own]))]
    turns[order] = place_in_run(code[order], group[order])
    return turns


def _grouped(code: np.ndarray, order: np.ndarray) -> dict[int, np.ndarray]:
    """The rows of each code, in the given order, which has the codes one behind the other."""
    if not len(order):
        return {}
    cuts = np.flatnonzero(np.diff(code[order])) + 1
    return {int(code[rows[0]]): rows for rows in np.split(order, cuts)}


# -- labels --------------------------------------------------------------------------------------------


def _of_labels(
    lake: LocalTables,
    images: pa.Table,
    said: pa.Table,
    attribute: str,
    everything: bool,
    values: list[str],
    is_open: bool,
) -> Prepared:
    sets = lake.rows("label_sets", ["per"], attribute=[attribute])
    if not sets:
        raise LakeError(
            f"the lake has no labels of {attribute} yet: look at the clusters of a model (--model ID), or at photos of "
            f"`motorpool annotate draw` (--draws FILE){_models(lake)}"
        )
    columns = ["image_id", "value", "probability", "accepted", "source"]
    labels = lake.fetch("image_labels", columns, attribute=[attribute])
    unwanted = pc.or_(pc.equal(labels.column("source"), "person"), pc.is_null(labels.column("value")))
    labels = labels.filter(pc.invert(unwanted if everything else pc.or_(labels.column("accepted"), unwanted)))
    rows, labels = _unseen(labels, images, said)
    if not len(rows):
        raise LakeError(
            f"no photo is left for people: every label of {attribute} is accepted or was looked at"
            + ("" if everything else "; --all shows the accepted ones, least sure first")
        )
    encoded = labels.column("value").combine_chunks().dictionary_encode()
    code = np.asarray(encoded.indices, np.int64)
    probability = np.asarray(pc.fill_null(labels.column("probability"), 0.0), np.float64)
    # Behind those that are left for people.
    sure = probability + 2 * np.asarray(labels.column("accepted"), np.float64)
    # Photos of one vehicle tell much the same of it, and all but the first can wait.
    turn = _turns(code, images, rows, sure) if sets[0]["per"] == "vehicle" else np.zeros(len(rows), np.int64)
    order = np.lexsort((np.asarray(labels.column("image_id")), sure, turn, code))
    names = encoded.dictionary.to_pylist()
    groups = [Group(names[c], "suggested", names[c], some) for c, some in _grouped(code, order).items()]
    groups.sort(key=lambda g: g.title)
    share, place = np.unique(np.round(probability, 4), return_inverse=True)
    note = pa.array([f"{percent(float(p))} sure" for p in share]).take(pa.array(place))
    title = "all labels, the least sure first" if everything else "photos left for people"
    all_values = list(dict.fromkeys([*values, *sorted(names)]))
    photos = _photos(images, rows, note)
    return Prepared(photos, groups, np.zeros(len(rows), bool), all_values, is_open, title)


def _models(lake: LocalTables) -> str:
    """Models to choose from, for an error."""
    columns = ["model_id", "features", "algorithm", "n_clusters", "status"]
    rows = [r for r in lake.rows("models", columns) if r["status"] == "ok"]
    if not rows:
        return ""
    rows.sort(key=lambda r: (r["features"], r["algorithm"], r["n_clusters"], r["model_id"]))
    lines = [
        f"{r['model_id']}  {r['algorithm']} with {r['n_clusters']} clusters on {r['features']}" for r in rows[:_LISTED]
    ]
    more = f"\n  and {len(rows) - _LISTED:,} more" if len(rows) > _LISTED else ""
    return "; `leaderboard` ranks them:\n  " + "\n  ".join(lines) + more


# -- clusters ------------------------------------------------------------------------------------------


def _of_clusters(
    lake: LocalTables, images: pa.Table, said: pa.Table, model: str, values: list[str], is_open: bool
) -> Prepared:
    columns = ["model_id", "features", "algorithm", "n_clusters", "status"]
    models = {r["model_id"]: r for r in lake.rows("models", columns)}
    if model not in models:
        raise ConfigError(f"--model {model}: the lake has no such model{_models(lake)}")
    chosen = models[model]
    labels = lake.fetch("labels", ["image_id", "cluster", "distance"], model_id=[model])
    odd = lake.fetch("outliers", ["image_id", "is_outlier"], features=[CONSENSUS])
    odd = odd.filter(pc.fill_null(odd.column("is_outlier"), False)).column("image_id")
    labels = labels.filter(
        pc.and_(pc.greater_equal(labels.column("cluster"), 0), pc.invert(pc.is_in(labels.column("image_id"), odd)))
    )
    rows, labels = _unseen(labels, images, said)
    if not len(rows):
        raise LakeError(f"no photo of the clusters of model {model} is left: all were looked at, or it has no clusters")
    code = np.asarray(labels.column("cluster"), np.int64)
    known = labels.column("distance").null_count < labels.num_rows
    distance = np.asarray(pc.fill_null(labels.column("distance"), math.inf), np.float32) if known else None
    order = _spread(code, images, rows, distance if distance is not None else np.zeros(len(rows), np.float32))
    titles = {
        r["cluster"]: r["title"] for r in lake.rows("clusters", ["cluster", "title"], model_id=[model]) if r["title"]
    }
    groups = [
        Group(f"cluster {c}" + (f": {titles[c]}" if c in titles else ""), "cluster", None, some)
        for c, some in _grouped(code, order).items()
    ]
    finer = _finer(lake, list(models.values()), chosen["features"], chosen["n_clusters"])
    codes = None if finer is None else _clusters_of(lake, finer, labels.column("image_id"))
    title = f"the {len(groups)} clusters of {chosen['algorithm']} on {chosen['features']}"
    photos = _photos(images, rows, pa.array([""] * len(rows)))
    return Prepared(photos, groups, np.zeros(len(rows), bool), values, is_open, title, Parts(distance, codes))


def _spread(code: np.ndarray, images: pa.Table, rows: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The rows by cluster, so that each batch of a cluster shows it from its middle to its rim, a photo of a vehicle.

    Multiples of the golden ratio fall evenly between 0 and 1, however many there are: so do the distances of the
    photos that they choose.
    """
    turn = _turns(code, images, rows, distance)
    by_distance = np.lexsort((distance, turn, code))
    even = np.zeros(len(rows))
    even[by_distance] = np.arange(len(rows)) * ((5**0.5 - 1) / 2) % 1
    order = np.lexsort((even, turn, code))
    place = place_in_run(code[order])
    found: np.ndarray = order[np.lexsort((distance[order], place // BATCH, code[order]))]
    return found


def _finer(lake: LocalTables, models: Sequence[Mapping[str, object]], features: str, n_clusters: int) -> str | None:
    """A model of the same feature set with more clusters, as few more as tell a part: what clusters are split by."""
    more = [
        (int(str(m["n_clusters"])), str(m["model_id"]))
        for m in models
        if m["features"] == features and m["status"] == "ok" and int(str(m["n_clusters"] or 0)) >= _FINER * n_clusters
    ]
    return min(more)[1] if more else None


def _clusters_of(lake: LocalTables, model: str, image_ids: pa.ChunkedArray) -> np.ndarray:
    """int32[k]: clusters by another model; -1 for images that it leaves out."""
    labels = lake.fetch("labels", ["image_id", "cluster"], model_id=[model])
    found = labels.column("cluster").take(pc.index_in(image_ids, value_set=labels.column("image_id")))
    return np.asarray(pc.fill_null(found, -1), np.int32)


# -- draws ---------------------------------------------------------------------------------------------


def _of_draw(
    lake: LocalTables,
    images: pa.Table,
    said: pa.Table,
    attribute: str,
    file: str,
    values: list[str],
    is_open: bool,
) -> Prepared:
    lines = _read_draw(file, attribute)
    at = pc.index_in(pa.array([line["path"] for _, line in lines]), value_set=images.column("path")).to_pylist()
    unknown = next((i for i, row in enumerate(at) if row is None), None)
    if unknown is not None:
        number, line = lines[unknown]
        raise wrong(file, number, f"{line['path']}: no image of the lake has this path")
    # Image ids must ascend; the draw's own order is that of its lines.
    by_image = dict(sorted(zip(at, range(len(at)), strict=True)))
    if len(by_image) < len(at):
        number, line = next(lines[i] for i, row in enumerate(at) if row in at[:i])
        raise wrong(file, number, f"{line['path']}: stands in the file twice")
    rows = np.array(list(by_image), np.int64)
    drawn = [lines[i] for i in by_image.values()]
    place = np.argsort(np.array(list(by_image.values()), np.int64))
    photos = _photos(images, rows, pa.array([line["why"] for _, line in drawn], pa.string()))
    # A line with an answer waits for its import, not for another look.
    filled = np.array([bool(line["value"].strip()) for _, line in drawn])
    seen, _ = _looked_at(images, said)
    groups = _suggested(drawn, place)
    suggested = sorted({g.value for g in groups if g.value is not None})
    origins = {row: _origin(file, *line) for row, line in enumerate(drawn)}
    title = f"photos of {Path(file).name}"
    return Prepared(
        photos,
        groups,
        seen[rows] | filled,
        list(dict.fromkeys([*values, *suggested])),
        is_open,
        title,
        origins=origins,
    )


def _suggested(drawn: Sequence[tuple[int, Mapping[str, str]]], place: np.ndarray) -> list[Group]:
    """A group for each suggested value; photos without any have nothing in common."""
    by_value: dict[str, list[int]] = {}
    for row in place.tolist():
        # What a label says must not lead those who measure whether it is right.
        line = drawn[row][1]
        by_value.setdefault("" if line["purpose"] == "audit" else line["suggested"], []).append(row)
    return [
        Group(value or "one by one", "suggested" if value else "single", value or None, np.array(some, np.int64))
        for value, some in sorted(by_value.items())
    ]


def _read_draw(file: str, attribute: str) -> list[tuple[int, dict[str, str]]]:
    """The lines of a draw with their numbers; AnnotationError for a file that is none, or of another attribute."""
    try:
        text = decode(Path(file).read_bytes())
    except FileNotFoundError as exc:
        raise AnnotationError(f"--draws {file}: there is no such file") from exc
    except (OSError, ValueError) as exc:
        raise AnnotationError(f"--draws {file}: cannot be read: {exc}") from exc
    reader = csv.DictReader(text.splitlines(keepends=True))
    missing = [c for c in _DRAWN if c not in (reader.fieldnames or ())]
    if missing:
        raise AnnotationError(
            f"--draws {file}: is no file of `motorpool annotate draw`: it lacks the columns {listed(missing)}"
        )
    lines: list[tuple[int, dict[str, str]]] = []
    for row in reader:
        number = reader.line_num
        if None in row or None in row.values():
            raise wrong(file, number, f"has another number of fields than the header, {len(_DRAWN)}")
        if row["attribute"] != attribute:
            raise wrong(file, number, f"is about the attribute {row['attribute']!r}, not {attribute!r}")
        lines.append((number, row))
    if not lines:
        raise AnnotationError(f"--draws {file}: has no line but the header")
    return lines


def _origin(file: str, number: int, line: Mapping[str, str]) -> Origin:
    try:
        weight = float(line["weight"]) if line["weight"] else None
    except ValueError as exc:
        raise wrong(file, number, f"weight {line['weight']!r}: expected a number") from exc
    if line["purpose"] not in ("train", "audit"):
        raise wrong(file, number, f"purpose {line['purpose']!r}: expected train or audit")
    return Origin(line["purpose"], line["draw"] or None, line["stratum"] or None, weight)


def is_value(text: str) -> bool:
    """Whether people may name a value so: a short text in one line, and not the mark for what cannot be told."""
    return text == text.strip() and text.isprintable() and 0 < len(text) <= 100 and text != CANNOT_TELL
