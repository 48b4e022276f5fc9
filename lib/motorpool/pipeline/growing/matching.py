"""Clusters that keep their ids: which cluster of an earlier lake each one of a new fit continues."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.errors import LakeError
from motorpool.kernels.labels.continuing import continued
from motorpool.lake import Lake
from motorpool.pipeline.context import explained
from motorpool.pipeline.pace import timed
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Models whose clusters are counted together.
_MODELS_AT_ONCE = 64


@dataclass(frozen=True)
class Matched:
    """What `run_match` has found, over all models: clusters that continue one, that are new, and that are gone."""

    n_models: int
    n_continued: int
    n_new: int
    n_gone: int


def run_match(lake: Lake, earlier: Lake) -> Matched:
    """Write ``cluster_ids``: in every model that both lakes have, the earlier cluster that each cluster continues.

    A model is the same in both if its id is: the same feature set, algorithm, parameters and seed. Clusters continue
    those that they share most images with, told by their paths (`continued`), and keep their ids; others get ids that
    the model never had. Where the earlier lake has ``cluster_ids`` of its own, its clusters are called as there. Noise
    is no cluster. Clusters themselves, and their numbers in other tables, stay as they are.

    LakeError where the lakes have no model in common. One join of the labels of both for each 64 models. Driver memory:
    a count for each pair of clusters of a model, and all pairs that share images of 64.
    """
    own, theirs = (set(_labelled(one)) for one in (lake, earlier))
    ids = sorted(own & theirs)
    if not ids:
        raise LakeError(
            f"the lakes {lake} and {earlier} have no model in common: the same config gives the same models, whatever "
            "the images"
        )
    rows: list[dict[str, Any]] = []
    with explained(), timed(f"match: clusters of {counted(len(ids), 'model')}"):
        for at in range(0, len(ids), _MODELS_AT_ONCE):
            some = ids[at : at + _MODELS_AT_ONCE]
            shared = _shared(lake, earlier, some)
            called = _called(earlier, some)
            sizes = [_sizes(one, some) for one in (lake, earlier)]
            for model_id in some:
                rows += _rows(
                    model_id, shared.get(model_id, {}), sizes[0][model_id], sizes[1][model_id], called.get(model_id)
                )
        lake.replace_rows("cluster_ids", rows, {"model_id": ids})
    gone = sum(r["cluster"] is None for r in rows)
    kept = sum(r["cluster"] is not None and r["earlier_cluster"] is not None for r in rows)
    return Matched(len(ids), kept, len(rows) - gone - kept, gone)


def _labelled(lake: Lake) -> list[str]:
    """The models that have labels with two clusters or more, or one beside noise."""
    rows = lake.rows("models", ["model_id", "n_clusters", "n_noise"])
    return [r["model_id"] for r in rows if (r["n_clusters"] or 0) > 1 or ((r["n_clusters"] or 0) and r["n_noise"])]


def _labels(lake: Lake, ids: Sequence[str]) -> DataFrame:
    return lake.read("labels", model_id=list(ids)).where("cluster >= 0").select("model_id", "image_id", "cluster")


def _sizes(lake: Lake, ids: Sequence[str]) -> dict[str, dict[int, int]]:
    """Images of each cluster that has some, by model."""
    found: dict[str, dict[int, int]] = {model_id: {} for model_id in ids}
    for r in _labels(lake, ids).groupBy("model_id", "cluster").agg(F.count("*").alias("n")).collect():
        found[r["model_id"]][r["cluster"]] = r["n"]
    return found


def _shared(lake: Lake, earlier: Lake, ids: Sequence[str]) -> dict[str, dict[tuple[int, int], int]]:
    """Images in a cluster of the one and a cluster of the other lake, by model: those pairs alone that share some."""
    paths = [one.read("images").select("image_id", "path") for one in (lake, earlier)]
    both = paths[0].join(paths[1].withColumnRenamed("image_id", "earlier_id"), on="path", how="inner").drop("path")
    before = _labels(earlier, ids).withColumnsRenamed({"image_id": "earlier_id", "cluster": "earlier"})
    beside = _labels(lake, ids).join(both, on="image_id", how="inner").join(before, on=["model_id", "earlier_id"])
    found: dict[str, dict[tuple[int, int], int]] = {}
    for r in beside.groupBy("model_id", "cluster", "earlier").agg(F.count("*").alias("n")).collect():
        found.setdefault(r["model_id"], {})[r["cluster"], r["earlier"]] = r["n"]
    return found


def _called(earlier: Lake, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the earlier lake's own ``cluster_ids``, by model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in earlier.rows("cluster_ids", ["model_id", "cluster", "stable_id"], model_id=list(ids)):
        found.setdefault(row["model_id"], []).append(row)
    return found


def _rows(
    model_id: str,
    shared: dict[tuple[int, int], int],
    sizes: dict[int, int],
    before: dict[int, int],
    called: list[dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """A row for each cluster, then one for each id that no cluster has any more."""
    clusters, earlier = sorted(sizes), sorted(before)
    ids = {r["cluster"]: int(r["stable_id"]) for r in called or [] if r["cluster"] is not None}
    stable = {c: ids.get(c, c) for c in earlier} if called is None else {c: ids[c] for c in earlier if c in ids}
    # Ids of clusters that are gone are never given again.
    used = {*stable.values(), *(int(r["stable_id"]) for r in called or [])}
    counts = np.zeros((len(clusters), len(earlier)), np.int64)
    rows_of, columns_of = ({c: at for at, c in enumerate(of)} for of in (clusters, earlier))
    for (new, before_it), n in shared.items():
        counts[rows_of[new], columns_of[before_it]] = n
    free = max(used, default=-1) + 1
    rows: list[dict[str, Any]] = []
    for i, j in enumerate(continued(counts).tolist()):
        old = earlier[j] if j >= 0 else None
        if old is not None and old in stable:
            stable_id = stable.pop(old)
            used.discard(stable_id)
        else:
            stable_id, free = free, free + 1
        n_shared = int(counts[i, j]) if j >= 0 else 0
        rows.append(_row(model_id, clusters[i], stable_id, old, sizes[clusters[i]], n_shared))
    by_id = {stable_id: c for c, stable_id in stable.items()}
    rows += [_row(model_id, None, stable_id, by_id.get(stable_id), 0, 0) for stable_id in sorted(used)]
    return rows


def _row(
    model_id: str, cluster: int | None, stable_id: int, earlier: int | None, n_images: int, n_shared: int
) -> dict[str, Any]:
    return {
        "model_id": model_id, "cluster": cluster, "stable_id": stable_id, "earlier_cluster": earlier,
        "n_images": n_images, "n_shared": n_shared,
    }  # fmt: skip
