"""Scores of many centroid models over blocks, in two shared passes, and their agreement with vehicles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool import blocks
from motorpool.cluster.assign import Nearest
from motorpool.metrics import ClusterSpread, ClusterSums, PairCounts, Scores


def score_models(block_df: DataFrame, models: Sequence[np.ndarray]) -> list[Scores]:
    """Scores of models given as float32[k_i, d] centroids; every row counts to its nearest centroid.

    Two passes in float64, whatever the number of models: the clusters' means, then distances to them.
    """
    nearest = Nearest(models)
    ks, width = [len(m) for m in models], models[0].shape[1]

    def add_sums(state: ClusterSums, batch: pa.RecordBatch) -> None:
        for _, x in blocks.block_arrays(batch):
            state.update(x - nearest.shift, nearest.labels(nearest.squared(x))[0])

    sums = blocks.fold(block_df, lambda: ClusterSums(ks, width), add_sums)

    def add_spread(state: ClusterSpread, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x - nearest.shift, nearest.labels(nearest.squared(x))[0])

    return blocks.fold(block_df, lambda: ClusterSpread(sums), add_spread).scores()


def vehicle_agreement(wide_labels: DataFrame, images: DataFrame, n_models: int) -> list[float | None]:
    """Agreement of each model with the vehicles (see PairCounts), over the photos that have one.

    ``wide_labels`` has image_id and ``clusters`` (one element per model), ``images`` has a unique image_id
    and vehicle_id. One shuffle of the labels, none of the vectors.
    """
    vehicles = images.where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    by_vehicle = (
        wide_labels.select("image_id", "clusters")
        .join(vehicles, on="image_id", how="inner")
        .repartition("vehicle_id")
        .sortWithinPartitions("vehicle_id")
        .select("vehicle_id", "clusters")
    )

    def add(state: PairCounts, batch: pa.RecordBatch) -> None:
        if len(batch):
            labels = batch.column("clusters").flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
            state.update(batch.column("vehicle_id").to_numpy(zero_copy_only=False), labels)

    return blocks.fold(by_vehicle, lambda: PairCounts(n_models), add).agreement()
