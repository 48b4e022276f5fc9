"""Stray groups: photos that look like photos of other vehicles, where neither look like their own vehicle.

Dark frames, captions over the frame or empty roads are alike whatever vehicle they were filed under. They form dense
small groups that mix vehicles, which scores that look for sparse places pass over. That neighbours are of other
vehicles says little by itself: where vehicles of one type are near one another, ordinary photos have such neighbours
too. On three sample cases (2,000 images each) and a case of 2,009 real photos the mean average precision over four
descriptors (PCA to 100, 50 neighbours) was

| score | sample | real |
| --- | --- | --- |
| share of the neighbours from other vehicles | 0.25 | 0.27 |
| rank of the nearest photo of the own vehicle, times their number | 0.48 | 0.65 |
| distance to the nearest own photo / to the third stranger | 0.75 | 0.77 |
| distance to the mean of the own others / to the third stranger | 0.85 | 0.74 |
| odd_one_out / distance to the third stranger | 0.87 | 0.82 |
| odd_one_out x mean odd_one_out of the five nearest strangers | 0.95 | 0.83 |
| the same, by how close they are (this module) | 0.97 | 0.86 |

The share and the rank are all but blind on descriptors of type or colour, the ratios where a photo shows its vehicle
from a rare side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.neighbours.shards import Arranged
from motorpool.outliers.local import over_neighbours
from motorpool.outliers.odd_one_out import Compared
from motorpool.outliers.scores import pack_lists

#: How many of the nearest strangers are asked: groups of at least one more are seen as such.
STRANGERS = 5

_STRAYS = "image_id BIGINT, score DOUBLE, neighbours ARRAY<BIGINT>, distance DOUBLE"


def stray_groups(arranged: Arranged, state: DataFrame, k: int, compared: Compared) -> DataFrame:
    """``image_id BIGINT, score DOUBLE, neighbours ARRAY<BIGINT>, distance DOUBLE`` of every image, lazily.

    The *strangers* of a photo are those of its k nearest rows that show another vehicle, and themselves have a score in
    ``compared``; ``neighbours`` are the STRANGERS nearest of them, nearest first, ``distance`` is how far the last of
    these is. With the photo's own `odd_one_out` score o, the mean o' of these strangers' and the distance s of two
    ordinary photos of a vehicle (``compared.apart``), the score is

        o o' / (1 + (distance / s)^2):

    high where the photo and those around it are unlike their vehicles (a lone odd photo is amid others that fit in) and
    close to each other, as views of one vehicle are. It stays finite among copies of one frame.

    0 for a photo without strangers among its k nearest: it is amid its own. Null for one without a vehicle and for one
    that is alone of its vehicle, of which nothing can be said.

    One pass over ``state``, which `neighbours.search` has found with at least k neighbours; no pair of rows is looked
    at again. Memory: 24 bytes for each image on the driver and in every Python worker, and some arrays of k columns for
    a shard. Raises ValueError unless k > 0.
    """
    if k < 1:
        raise ValueError(f"k = {k}: expected at least one neighbour")
    pack = partial(_score, _Photos.of(compared), compared.apart)
    return over_neighbours(arranged, state, k, pack, _STRAYS)


@dataclass(frozen=True)
class _Photos:
    """Photos that can be compared: ids int64[n] ascending, a hash of their vehicle int64[n], their score float64[n]."""

    ids: np.ndarray
    vehicle: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, compared: Compared) -> _Photos:
        # Two of a million vehicles share a 64-bit hash with a chance of 3e-8.
        known = compared.df.where(F.col("score").isNotNull())
        table = known.select("image_id", F.xxhash64("vehicle_id").alias("vehicle"), "score").toArrow()
        columns = [table.column(c).to_numpy() for c in ("image_id", "vehicle", "score")]
        order = np.argsort(columns[0])
        return cls(*(c[order] for c in columns))

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where int64 ids are, and whether they are there at all, both in the shape of ``ids``."""
        if not len(self.ids):
            return np.zeros(ids.shape, np.int64), np.zeros(ids.shape, bool)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return at, self.ids[at] == ids


def _score(known: _Photos, apart: float, ids: np.ndarray, distances: np.ndarray, others: np.ndarray) -> pa.RecordBatch:
    """A batch of _STRAYS for int64[n] ids with float64[n, k] distances to int64[n, k] neighbours."""
    at, there = known.find(ids)
    theirs, comparable = known.find(others)
    if not len(known.ids):
        own, odd, stranger = np.zeros(len(ids)), np.zeros(others.shape), comparable
    else:
        own, odd = known.score[at], known.score[theirs]
        stranger = comparable & there[:, None] & (known.vehicle[theirs] != known.vehicle[at][:, None])
    stranger &= np.cumsum(stranger, axis=1) <= STRANGERS
    count = stranger.sum(axis=1)
    around = np.where(stranger, odd, 0.0).sum(axis=1) / np.maximum(count, 1)
    farthest = np.where(stranger, distances, 0.0).max(axis=1)
    ratio = farthest / apart if apart > 0 else np.zeros(len(ids))
    score = np.where(count > 0, own * around / (1.0 + ratio**2), 0.0)
    columns = [
        pa.array(ids, pa.int64()),
        pa.array(score, pa.float64(), mask=~there),
        pack_lists(others, stranger),
        pa.array(farthest, pa.float64(), mask=count == 0),
    ]
    return pa.RecordBatch.from_arrays(columns, ["image_id", "score", "neighbours", "distance"])
