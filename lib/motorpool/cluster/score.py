"""Scores of many models over labelled blocks, in two shared passes, and their agreement with vehicles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU, Backend
from motorpool.cluster.labelled import Labelled
from motorpool.kernels.cluster_sums import ClusterSpread, ClusterSums
from motorpool.kernels.scores import Scores
from motorpool.kernels.vehicle_pairs import PairCounts
from motorpool.spark import blocks
from motorpool.spark.blocks import S

#: Distances of a block to this many cluster means are held at a time (32 MiB): more models, more groups.
_MEANS = 1024


class _Groups(Generic[S]):
    """States of groups of models, merged one by one."""

    def __init__(self, states: Sequence[S]) -> None:
        self.states = list(states)

    def merge(self, other: _Groups[S]) -> None:
        for mine, theirs in zip(self.states, other.states, strict=True):
            mine.merge(theirs)


def score_models(labelled: Labelled, backend: Backend = CPU) -> list[Scores]:
    """Scores of all models; noise is left out of them.

    Two passes in float64 on ``backend``, whatever the number of models: the clusters' means, then distances to them.
    """
    width, origin = len(labelled.origin), labelled.origin
    groups = _group(labelled.sizes)
    sizes = [[labelled.sizes[m] for m in group] for group in groups]
    blocks_of = labelled.blocks_of

    def add_sums(state: _Groups[ClusterSums], batch: pa.RecordBatch) -> None:
        for block in blocks_of(batch):
            x = block.x - origin
            for group, sums in zip(groups, state.states, strict=True):
                sums.update(x, block.labels[:, group])

    sums = blocks.fold(labelled.df, lambda: _Groups([backend.cluster_sums(s, width) for s in sizes]), add_sums)

    def add_spread(state: _Groups[ClusterSpread], batch: pa.RecordBatch) -> None:
        for block in blocks_of(batch):
            x = block.x - origin
            for group, found in zip(groups, state.states, strict=True):
                found.update(block.ids, x, block.labels[:, group])

    found = blocks.fold(labelled.df, lambda: _Groups([backend.cluster_spread(s) for s in sums.states]), add_spread)
    # Groups hold the models in their order.
    return [score for state in found.states for score in state.scores()]


def _group(sizes: Sequence[int]) -> list[list[int]]:
    """Neighbouring models side by side, with at most _MEANS clusters together (or one model alone)."""
    groups: list[list[int]] = []
    held = 0
    for model, size in enumerate(sizes):
        if not groups or held + size > _MEANS:
            groups.append([])
            held = 0
        groups[-1].append(model)
        held += size
    return groups


@dataclass(frozen=True)
class VehicleAgreement:
    """Agreement of several models with the vehicles (`PairCounts.agreement`), None where it is not defined.

    ``n_vehicles``: how many vehicles with two photos or more it was measured on.
    """

    by_model: list[float | None]
    n_vehicles: int


def vehicle_agreement(wide_labels: DataFrame, images: DataFrame, n_models: int) -> VehicleAgreement:
    """Agreement of each model with the vehicles (see PairCounts), over the photos of ``images`` that have one.

    ``wide_labels`` has image_id and ``clusters`` (one element per model), ``images`` has a unique image_id
    and vehicle_id; images that either lacks count nowhere. One shuffle of the labels, none of the vectors; none
    of labels that the driver holds, which the vehicles then come to.
    """
    vehicles = images.where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    if blocks.held(wide_labels) is not None:
        counts = PairCounts(n_models)
        _count_here(counts, blocks.table(wide_labels), vehicles.toArrow())
        return VehicleAgreement(counts.agreement(), counts.n_vehicles)
    by_vehicle = (
        wide_labels.select("image_id", "clusters")
        .join(vehicles, on="image_id", how="inner")
        .repartition("vehicle_id")
        .sortWithinPartitions("vehicle_id")
        .select("vehicle_id", "clusters")
    )

    def add(state: PairCounts, batch: pa.RecordBatch) -> None:
        if len(batch):
            state.update(batch.column("vehicle_id").to_numpy(zero_copy_only=False), _labels(batch.column("clusters")))

    counts = blocks.fold(by_vehicle, lambda: PairCounts(n_models), add)
    by_model = counts.agreement()
    return VehicleAgreement(by_model, counts.n_vehicles)


def _count_here(counts: PairCounts, wide: pa.Table, vehicles: pa.Table) -> None:
    """Count the pairs of photos of each vehicle: ``wide`` and ``vehicles`` as `vehicle_agreement` has them."""
    vehicles = vehicles.sort_by("vehicle_id")
    at = pc.index_in(vehicles.column("image_id"), wide.column("image_id"))
    known = vehicles.filter(at.is_valid()).column("vehicle_id")
    if len(known):
        labels = _labels(wide.column("clusters").combine_chunks())
        counts.update(known.to_numpy(zero_copy_only=False), labels[at.drop_null().to_numpy()])


def _labels(clusters: pa.ListArray) -> np.ndarray:
    """int[n, models] of one list for each of n images."""
    result: np.ndarray = clusters.flatten().to_numpy(zero_copy_only=False).reshape(len(clusters), -1)
    return result
