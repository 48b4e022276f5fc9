"""Similar images: which photos of the lake are nearest to some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from motorpool.errors import ConfigError
from motorpool.kernels.pairs.geometry import Metric
from motorpool.lake.reading import LakeReader, SparkAnswer
from motorpool.neighbours.nearest_to import nearest_to
from motorpool.texts import plain_path

#: Images that one question may be about: each takes a pass of its own over every batch.
MOST_IMAGES = 1000
COLUMNS = "image STRING, rank INT, image_id BIGINT, path STRING, vehicle_id STRING, distance DOUBLE"


def find_similar(
    lake: LakeReader, images: Sequence[str], n: int, features: str | None = None, metric: Metric = "euclidean"
) -> list[tuple[Any, ...]]:
    """Rows of COLUMNS: for each of some images, by path or image_id, its ``n`` nearest others, nearest first.

    In the space of one feature set: that of the leaderboard's best model unless ``features`` names one. Exact, in
    float64; ties go to the lower image_id. ConfigError for an image that the lake does not hold, or whose photo has no
    vector there, and for a feature set that it lacks. One pass over the vectors, in this process where it reads the
    lake, and by Spark elsewhere; memory: a batch of them, and the answer.
    """
    if len(images) > MOST_IMAGES:
        raise ConfigError(f"{len(images):,} images: ask about {MOST_IMAGES:,} at a time")
    known = _known(lake, images)
    names = [str(name) for (name,) in lake.sql("SELECT features FROM feature_sets ORDER BY features").rows()]
    chosen = features or _usual(lake, names)
    if chosen not in names:
        raise ConfigError(f"--features {chosen}: the lake {lake} has no such feature set; it has {', '.join(names)}")
    own = dict(_rows(lake, "image_id, vector", "features", "image_id", known.values(), features=chosen))
    lacking = [name for name, image_id in known.items() if image_id not in own]
    if lacking:
        raise ConfigError(f"{lacking[0]}: this image has no vector in the feature set {chosen}: name another one")
    ids = np.array(list(known.values()), np.int64)
    queries = np.array([own[i] for i in known.values()], np.float32)
    answer = lake.sql("SELECT image_id, vector FROM features WHERE features = :features", {"features": chosen})
    vectors = answer.frame if isinstance(answer, SparkAnswer) else answer.batches()
    found = nearest_to(vectors, ids, queries, n, metric)
    wanted = {int(i) for near, _ in found for i in near}
    about = {row[0]: row[1:] for row in _rows(lake, "image_id, path, vehicle_id", "images", "image_id", wanted)}
    return [
        (name, rank, int(i), *about[i], float(distance))
        for name, (near, distances) in zip(known, found, strict=True)
        for rank, (i, distance) in enumerate(zip(near, distances, strict=True), 1)
    ]


def _rows(
    lake: LakeReader, columns: str, table: str, key: str, values: Iterable[str | int], features: str | None = None
) -> list[tuple[Any, ...]]:
    """Some columns of the rows whose ``key`` is among ``values``, in one feature set where it is named."""
    found: list[tuple[Any, ...]] = []
    every = sorted(set(values))
    for at in range(0, len(every), MOST_IMAGES):
        asked: dict[str, object] = {f"v{i}": value for i, value in enumerate(every[at : at + MOST_IMAGES])}
        where = f"{key} IN ({', '.join(f':{name}' for name in asked)})"
        if features is not None:
            where, asked = f"features = :features AND {where}", {**asked, "features": features}
        # S608: names are this module's own, values are parameters.
        found += lake.sql(f"SELECT {columns} FROM {table} WHERE {where}", asked).rows()  # noqa: S608
    return found


def _usual(lake: LakeReader, names: Sequence[str]) -> str:
    """The feature set of the best model, or the only one of those there are."""
    if len(names) == 1:
        return names[0]
    best = None
    if "leaderboard" in lake.names():
        best = next(lake.sql("SELECT features FROM leaderboard WHERE rank = 1").rows(), None)
    if best is None:
        raise ConfigError(
            f"the lake {lake} has no model that ranks, which would say by which features images are compared: name a "
            f"feature set by --features; it has {', '.join(names) or 'none, run `motorpool features`'}"
        )
    return str(best[0])


def _known(lake: LakeReader, images: Sequence[str]) -> dict[str, int]:
    """The image_id of every image that was named, in their order."""
    found: dict[str, int] = {}
    paths = {name: plain_path(name.strip()) for name in images}
    by_path = dict(_rows(lake, "path, image_id", "images", "path", paths.values()))
    numbers = [int(name) for name in images if paths[name] not in by_path and name.isdecimal() and len(name) < 19]
    by_id = {image_id for (image_id,) in _rows(lake, "image_id", "images", "image_id", numbers)}
    for name in images:
        if paths[name] in by_path:
            found[name] = by_path[paths[name]]
        elif name.isdecimal() and int(name) in by_id:
            found[name] = int(name)
        else:
            example = next(lake.sql("SELECT path FROM images ORDER BY image_id LIMIT 1").rows(), None)
            raise ConfigError(
                f"{name}: the lake {lake} holds no image of this path or image_id; paths are written as in "
                f"{example[0] if example else 'the table images'}"
            )
    return found
