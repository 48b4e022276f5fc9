"""The photos to learn from, and their vectors and clusters: a bounded number of rows on the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.features.holdout import uniform
from motorpool.kernels.labels.within_vehicles import whitening
from motorpool.labelling.candidates import Source, Space
from motorpool.labelling.compare import FIT_ROWS, Known, drawn
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.labelling.looks import Looks
from motorpool.spark import blocks

#: Numbers of all feature sets together that the driver takes of the photos to learn from (256 MB).
_MAX_VALUES = 2**26
#: Photos by which a space is found that scales down what varies within vehicles.
_SAMPLE = 8_000
#: Keeps the choice of the sample's vehicles apart from other uses of their hash.
_SALT = "motorpool labels"


@dataclass(frozen=True)
class Learning:
    """Photos with known values of one attribute: int64[n] ``ids`` in ascending order, and what is known of them."""

    ids: np.ndarray
    known: Known


def learning(ctx: Context, looks: Looks, vote: bool, outliers: DataFrame, most: int, seed: int) -> Learning:
    """The photos of which the value is known, without outliers; at most about ``most``, vehicle by vehicle.

    Where the photos of a vehicle share the value (``vote``) these are all photos of the vehicles looked at.
    """
    usable = looks.usable[["image_id", "vehicle_id", "code"]]
    rows = usable
    if vote and len(looks.vehicles):
        sure = looks.vehicles[looks.vehicles >= 0]
        names = ctx.spark.createDataFrame(pd.DataFrame({"vehicle_id": sure.index.astype(str)}), "vehicle_id STRING")
        images = ctx.lake.read("images").select("image_id", "vehicle_id").join(names, on="vehicle_id", how="left_semi")
        whole = images.select("image_id", "vehicle_id").toPandas()
        whole["code"] = whole["vehicle_id"].map(sure).astype(np.int64)
        rows = pd.concat([whole, usable[usable["vehicle_id"].isna()]])
    odd = outliers.join(
        _frame(ctx.lake, rows["image_id"].to_numpy(np.int64)), on="image_id", how="left_semi"
    ).toPandas()
    rows = rows[~rows["image_id"].isin(odd["image_id"])].sort_values("image_id")
    # A photo without a vehicle is a vehicle of its own.
    name = np.where(rows["vehicle_id"].isna(), "i" + rows["image_id"].astype(str), "v" + rows["vehicle_id"].astype(str))
    vehicles = np.unique(name, return_inverse=True)[1].astype(np.int64)
    ids, known = rows["image_id"].to_numpy(), Known(rows["code"].to_numpy(), vehicles, len(looks.values), vote)
    kept = np.sort(drawn(known, most, seed))
    return Learning(ids[kept], known.take(kept))


def most_rows(widths: Sequence[int]) -> int:
    """Photos of one attribute that the driver can learn from, for feature sets of these widths."""
    return max(1_000, min(FIT_ROWS, _MAX_VALUES // max(1, sum(widths))))


def sample_vehicles(ctx: Context) -> pd.DataFrame:
    """About _SAMPLE photos of whole vehicles, by a hash of their names: image_id and vehicle_id, by id."""
    images = ctx.lake.fitted(ctx.lake.read("images")).where("vehicle_id IS NOT NULL").select("image_id", "vehicle_id")
    share = min(1.0, _SAMPLE / max(1, ctx.lake.count_fitted("images")))
    return (
        images.where(uniform(F.col("vehicle_id"), _SALT) < share).toPandas().sort_values("image_id").head(4 * _SAMPLE)
    )


def vector_sources(
    ctx: Context, features: str, wanted: Mapping[str, np.ndarray], sample: pd.DataFrame
) -> dict[str, dict[tuple[str, str], Source]]:
    """The vectors of one feature set, by the name of the attribute whose photos, int64 ids, are ``wanted``.

    In two spaces, of which `whitened` is left out where no vehicle of the sample has two photos. One pass.
    """
    ids = np.unique(np.concatenate([*wanted.values(), sample["image_id"].to_numpy()]))
    x = vectors_of(ctx.lake, features, ids)
    plain_rows = x[np.isfinite(x).all(axis=1)]
    if not len(plain_rows):
        return {}
    mean = plain_rows.mean(axis=0, dtype=np.float64)
    size = float(np.sqrt(np.mean((plain_rows - mean) ** 2))) or 1.0
    spaces = [Space("plain", mean, np.eye(len(mean)) / size)]
    known = x[np.searchsorted(ids, sample["image_id"].to_numpy())]
    there = np.isfinite(known).all(axis=1)
    matrix = whitening(known[there], pd.factorize(sample["vehicle_id"])[0][there]) if there.sum() > 1 else None
    if matrix is not None:
        spaces.append(Space("whitened", mean, matrix))
    return {
        name: {(features, s.name): Source(features, x[np.searchsorted(ids, own)], s) for s in spaces}
        for name, own in wanted.items()
    }


def vectors_of(lake: Lake, features: str, ids: np.ndarray) -> np.ndarray:
    """float32[n, d] of images in ascending order of their ids; NaN for images without a vector."""
    chosen = _frame(lake, ids)
    vectors = lake.read("features", features=features).join(chosen, on="image_id", how="left_semi")
    found = blocks.gather(vectors.select("image_id", "vector")).collect()
    if not found:
        return np.full((len(ids), 1), np.nan, np.float32)
    x = np.full((len(ids), found[0]["width"]), np.nan, np.float32)
    for row in found:
        own = np.frombuffer(row["ids"], np.int64)
        x[np.searchsorted(ids, own)] = np.frombuffer(row["data"], np.float32).reshape(len(own), -1)
    return x


def cluster_sources(
    ctx: Context, models: Sequence[str], wanted: Mapping[str, np.ndarray]
) -> dict[str, dict[tuple[str, str], Source]]:
    """The clusters of some models, as `vector_sources`. One pass over their labels."""
    if not models:
        return {name: {} for name in wanted}
    ids = np.unique(np.concatenate(list(wanted.values())))
    numbers = F.create_map(*(F.lit(v) for at, m in enumerate(models) for v in (m, at)))
    rows = ctx.lake.read("labels", model_id=list(models)).join(_frame(ctx.lake, ids), on="image_id", how="left_semi")
    found = rows.select(numbers[F.col("model_id")].alias("model"), "image_id", "cluster").toPandas()
    clusters = np.full((len(models), len(ids)), -2, np.int32)
    clusters[found["model"], np.searchsorted(ids, found["image_id"])] = found["cluster"]
    return {
        name: {(m, "clusters"): Source(m, clusters[at, np.searchsorted(ids, own)]) for at, m in enumerate(models)}
        for name, own in wanted.items()
    }


def _frame(lake: Lake, ids: np.ndarray) -> DataFrame:
    return F.broadcast(lake.spark.createDataFrame(pd.DataFrame({"image_id": ids}), "image_id BIGINT"))
