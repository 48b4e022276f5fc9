"""Similar images: which photos of the lake are nearest to some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from motorpool.errors import ConfigError, LakeError
from motorpool.kernels.pairs.geometry import Metric
from motorpool.lake import Lake
from motorpool.neighbours.nearest_to import nearest_to
from motorpool.pipeline.export import best_model
from motorpool.pipeline.pace import timed
from motorpool.texts import plain_path

#: Images that one question may be about: each takes a pass of its own over every batch.
MOST_IMAGES = 1000
COLUMNS = "image STRING, rank INT, image_id BIGINT, path STRING, vehicle_id STRING, distance DOUBLE"


def find_similar(
    lake: Lake, images: Sequence[str], n: int, features: str | None = None, metric: Metric = "euclidean"
) -> list[tuple[Any, ...]]:
    """Rows of COLUMNS: for each of some images, by path or image_id, its ``n`` nearest others, nearest first.

    In the space of one feature set: that of the leaderboard's best model unless ``features`` names one. Exact, in
    float64; ties go to the lower image_id. ConfigError for an image that the lake does not hold, or whose photo has no
    vector there, and for a feature set that it lacks. One pass over the vectors; the driver holds the answer.
    """
    if len(images) > MOST_IMAGES:
        raise ConfigError(f"{len(images):,} images: ask about {MOST_IMAGES:,} at a time")
    known = _known(lake, images)
    chosen = features or _usual(lake)
    names = [row["features"] for row in lake.rows("feature_sets", ["features"])]
    if chosen not in names:
        raise ConfigError(f"--features {chosen}: the lake {lake} has no such feature set; it has {', '.join(names)}")
    vectors = lake.read("features", features=chosen)
    with timed(f"similar: looking at the images of {chosen}"):
        asked = vectors.where(F.col("image_id").isin(sorted(set(known.values())))).select("image_id", "vector")
        own = {row["image_id"]: row["vector"] for row in asked.collect()}
        lacking = [name for name, image_id in known.items() if image_id not in own]
        if lacking:
            raise ConfigError(f"{lacking[0]}: this image has no vector in the feature set {chosen}: name another one")
        ids = np.array(list(known.values()), np.int64)
        queries = np.array([own[i] for i in known.values()], np.float32)
        found = nearest_to(vectors, ids, queries, n, metric)
    wanted = sorted({str(i) for near, _ in found for i in near})
    rows = lake.rows("images", ["image_id", "path", "vehicle_id"], image_id=wanted) if wanted else []
    about = {row["image_id"]: row for row in rows}
    return [
        (name, rank, int(i), about[i]["path"], about[i]["vehicle_id"], float(distance))
        for name, (near, distances) in zip(known, found, strict=True)
        for rank, (i, distance) in enumerate(zip(near, distances, strict=True), 1)
    ]


def _usual(lake: Lake) -> str:
    """The feature set of the best model, or the only one."""
    names = [row["features"] for row in lake.rows("feature_sets", ["features"])]
    if len(names) == 1:
        return str(names[0])
    try:
        return str(best_model(lake)["features"])
    except LakeError as exc:
        raise ConfigError(
            f"the lake {lake} has no model that ranks, which would say by which features images are compared: name a "
            f"feature set by --features; it has {', '.join(names) or 'none, run `motorpool features`'}"
        ) from exc


def _known(lake: Lake, images: Sequence[str]) -> dict[str, int]:
    """The image_id of every image that was named, in their order."""
    found: dict[str, int] = {}
    paths = {name: plain_path(name.strip()) for name in images}
    by_path = {r["path"]: r["image_id"] for r in lake.rows("images", ["image_id", "path"], path=list(paths.values()))}
    numbers = [name for name in images if paths[name] not in by_path and name.isdecimal() and len(name) < 19]
    by_id = {r["image_id"] for r in lake.rows("images", ["image_id"], image_id=numbers)} if numbers else set()
    for name in images:
        if paths[name] in by_path:
            found[name] = by_path[paths[name]]
        elif name in numbers and int(name) in by_id:
            found[name] = int(name)
        else:
            example = lake.read("images").select("path").first()
            raise ConfigError(
                f"{name}: the lake {lake} holds no image of this path or image_id; paths are written as in "
                f"{example[0] if example else 'the table images'}"
            )
    return found
