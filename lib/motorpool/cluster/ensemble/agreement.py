"""How far clusterings agree: labels of several models side by side, and the counts of every two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.special import entr

from motorpool.kernels.runs import place_in_run
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

_ENTRIES = "pair INT, a INT, b INT, n BIGINT"
_ENTRIES_HERE = pa.schema([("pair", pa.int32()), ("a", pa.int32()), ("b", pa.int32()), ("n", pa.int64())])


@dataclass(frozen=True)
class Contingency:
    """A contingency table, its entries above zero, each once.

    ``n`` images have the label ``a`` in one model and ``b`` in another; all are int64[entries]. Noise, -1, is a label
    as any other: it counts as a cluster of its own, so a model that leaves half of all images as noise agrees with one
    that puts that half into one cluster.
    """

    a: np.ndarray
    b: np.ndarray
    n: np.ndarray

    @property
    def n_images(self) -> int:
        return int(self.n.sum())

    @property
    def margins(self) -> tuple[np.ndarray, np.ndarray]:
        """Images with each label that occurs, int64, in the one model and in the other."""
        first, second = (np.unique(labels, return_inverse=True)[1] for labels in (self.a, self.b))
        return _summed(first, self.n), _summed(second, self.n)

    def adjusted_rand(self) -> float:
        """Adjusted Rand index (Hubert & Arabie 1985, Comparing partitions): 1 for equal clusterings, 0 by chance.

        From whole numbers, so exact up to the final division. 1 where there is nothing to tell apart.
        """
        rows, columns = self.margins
        # Ordered pairs of images; Python's integers, as their products exceed 64 bits.
        n, both = self.n_images, int(np.square(self.n).sum())
        same_a, same_b = int(np.square(rows).sum()), int(np.square(columns).sum())
        together, only_a, only_b = both - n, same_a - both, same_b - both
        apart = n * n - same_a - same_b + both
        if only_a == only_b == 0:
            return 1.0
        pairs = (together + only_a) * (only_a + apart) + (together + only_b) * (only_b + apart)
        return 2 * (together * apart - only_a * only_b) / pairs

    def normalized_mutual_information(self) -> float:
        """Mutual information over the mean of both entropies (Strehl & Ghosh 2002 compare such norms), 0 to 1.

        1 where both models have a single label, 0 where one of them has.
        """
        rows, columns = self.margins
        if len(rows) == len(columns) == 1:
            return 1.0
        first, second, joint = (float(entr(counts / self.n_images).sum()) for counts in (rows, columns, self.n))
        return float(np.clip(2 * (first + second - joint) / (first + second), 0, 1))


def _summed(groups: np.ndarray, n: np.ndarray) -> np.ndarray:
    total = np.zeros(groups.max(initial=-1) + 1, np.int64)
    np.add.at(total, groups, n)
    return total


def side_by_side(labels: DataFrame, model_ids: Sequence[str]) -> DataFrame:
    """``image_id BIGINT, clusters ARRAY<INT>``: each image's labels in the models named, in their order.

    ``labels`` has model_id, image_id and cluster, at most one row per model and image. One shuffle. Images that one
    of the models has no label for are left out.
    """
    names = F.array(*(F.lit(m) for m in model_ids))
    position = F.array_position(names, F.col("model_id")).alias("position")
    chosen = labels.where(F.col("model_id").isin(list(model_ids)))
    gathered = chosen.groupBy("image_id").agg(
        F.array_sort(F.collect_list(F.struct(position, F.col("cluster")))).alias("found")
    )
    complete = F.size("found") == len(model_ids)
    return gathered.where(complete).select("image_id", F.col("found.cluster").alias("clusters"))


def contingency(labels: DataFrame, pairs: Sequence[tuple[int, int]]) -> list[Contingency]:
    """The counts of every pair of positions in ``clusters``, an ARRAY<INT> of equal length in every row.

    Exact, in one pass: a task counts its batches, one shuffle of the entries adds them up; no job where ``labels`` are
    held. The driver holds the entries
    above zero, for each pair at most the product of both numbers of labels.
    """
    wanted = list(pairs)

    def count(batches: Batches) -> Batches:
        for batch in batches:
            if not len(batch):
                continue
            clusters = label_matrix(batch, "clusters").astype(np.int64)
            counted = [_entries(clusters[:, a], clusters[:, b]) for a, b in wanted]
            pair = np.repeat(np.arange(len(wanted)), [len(n) for _, _, n in counted])
            a, b, n = (np.concatenate(column) for column in zip(*counted, strict=True))
            yield pa.RecordBatch.from_arrays(
                [pa.array(pair, pa.int32()), pa.array(a, pa.int32()), pa.array(b, pa.int32()), pa.array(n, pa.int64())],
                names=["pair", "a", "b", "n"],
            )

    if not wanted:
        return []
    batches = blocks.held(labels)
    if batches is None:
        entries = labels.select("clusters").mapInArrow(count, _ENTRIES)
        table = entries.groupBy("pair", "a", "b").agg(F.sum("n").alias("n")).toArrow()
    else:
        table = pa.Table.from_batches(list(count(batches)), _ENTRIES_HERE)
    pair, a, b, n = (table.column(c).to_numpy().astype(np.int64) for c in ("pair", "a", "b", "n"))
    # The order of entries, which a shuffle leaves open, would decide the last bit of a sum of logarithms.
    order = np.lexsort((b, a, pair))
    pair, a, b, n = (column[order] for column in (pair, a, b, n))
    # Batches that are held each have their own entries.
    first = place_in_run(pair, a, b) == 0
    pair, a, b, n = pair[first], a[first], b[first], _summed(np.cumsum(first) - 1, n)
    ends = np.searchsorted(pair, np.arange(len(wanted) + 1))
    return [Contingency(a[i:j], b[i:j], n[i:j]) for i, j in pairwise(ends)]


def _entries(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs of two int64[n] of -1 or more, and how often each occurs."""
    width = int(b.max()) + 2
    keys, counts = np.unique((a + 1) * width + b + 1, return_counts=True)
    first, second = np.divmod(keys, width)
    return first - 1, second - 1, counts


def label_matrix(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """An ARRAY<INT> column as int32[n, models]."""
    result: np.ndarray = batch.column(column).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
    return result
