"""What vehicle steps need of Spark: how photos spread within and between vehicles, and each vehicle's centre.

*Rows* are ``image_id BIGINT, vehicle_id STRING, vector ARRAY<FLOAT>``. Photos of a vehicle mostly lie side by side, so
each Arrow batch is summed up by vehicle before anything is shuffled; a vehicle may have any number of photos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU, Backend
from motorpool.kernels.scatter import Groups, GroupScatter, Merging, Scatter, pieces
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Up to this many images (some 200 MB) the vehicles' names are broadcast, which leaves photos of a vehicle side by side
#: and moves no vectors; beyond it both sides are shuffled. The result is the same.
BROADCAST_IMAGES = 2_000_000

#: A vehicle's median is exact up to this many photos, and beyond it that of so many, drawn by the hash of their ids.
MEDIAN_PHOTOS = 1024

_PIECES = "vehicle_id STRING, first BIGINT, n BIGINT, mean ARRAY<DOUBLE>, inside BINARY"
_CENTRES = "vehicle_id STRING, n BIGINT, centre ARRAY<DOUBLE>"
_VECTORS = "image_id BIGINT, vector ARRAY<FLOAT>"


@dataclass(frozen=True)
class Vehicles:
    """Which vehicle each image shows: ``image_id BIGINT, vehicle_id STRING`` (null: not known), an image once.

    ``n_vehicles`` have a name, ``n_repeated`` of them have two photos or more.
    """

    df: DataFrame
    n_images: int
    n_vehicles: int
    n_repeated: int

    @classmethod
    def of(cls, images: DataFrame) -> Vehicles:
        """Count the vehicles of ``images``, which has image_id and vehicle_id (one small shuffle)."""
        df = images.select("image_id", "vehicle_id")
        named = F.col("vehicle_id").isNotNull()
        row = (
            df.groupBy("vehicle_id")
            .agg(F.count("*").alias("n"))
            .agg(
                F.coalesce(F.sum("n"), F.lit(0)).alias("images"),
                F.count_if(named).alias("vehicles"),
                F.count_if(named & (F.col("n") > 1)).alias("repeated"),
            )
            .first()
        )
        assert row is not None
        return cls(df, int(row["images"]), int(row["vehicles"]), int(row["repeated"]))

    def problem(self) -> str | None:
        """Why no vehicle step can work, None where it can."""
        if not self.n_vehicles:
            return f"none of the {self.n_images:,} images has a vehicle_id"
        if not self.n_repeated:
            return f"each of the {self.n_vehicles:,} vehicles has a single photo"
        return None

    def photos_of_repeated(self) -> DataFrame:
        """``image_id`` of the photos that another photo of their vehicle can be compared with."""
        of_vehicle = Window.partitionBy("vehicle_id")
        of_vehicle = of_vehicle.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        counted = self.df.where(F.col("vehicle_id").isNotNull()).withColumn("n", F.count("*").over(of_vehicle))
        found = counted.where(F.col("n") > 1).select("image_id")
        return F.broadcast(found) if self.n_images <= BROADCAST_IMAGES else found

    def attach(self, vectors: DataFrame, df: DataFrame | None = None) -> DataFrame:
        """Rows from ``image_id, vector``, by ``df`` where that is given: some of the vehicles, or other names."""
        names = self.df if df is None else df
        side = F.broadcast(names) if self.n_images <= BROADCAST_IMAGES else names
        return vectors.join(side, on="image_id", how="inner").select("image_id", "vehicle_id", "vector")


def own_vehicle() -> Column:
    """STRING, from image_id and vehicle_id: the image's vehicle, or one of its own where that is not known.

    No null to join or to group by, which would bring all photos without a vehicle to one task.
    """
    return F.coalesce(F.concat(F.lit("v"), "vehicle_id"), F.concat(F.lit("i"), F.col("image_id").cast("string")))


def scatter(rows: DataFrame, backend: Backend = CPU) -> Scatter:
    """How rows spread within and between vehicles; none of ``vehicle_id`` may be null.

    Exact up to float32 rounding of the rows about their vehicle's mean; no difference of large numbers is taken. One
    pass over the rows, then one shuffle of a float64 mean for each vehicle in each batch, which are kept on the
    executors meanwhile. Memory: d x d float64 matrices, two of a task and a few of the driver.
    """
    few = rows.coalesce(blocks.parallelism(rows.sparkSession))
    held = blocks.persist(_pieces(few, spread=True, backend=backend))
    try:
        sums = held.where(F.col("inside").isNotNull()).select("inside")
        # A zero of no dimensions adds to matrices of any width.
        inside = blocks.fold(sums, lambda: blocks.Tally(np.zeros(())), _add_inside, merge_on_cluster=True)
        between = blocks.fold(_by_vehicle(held), GroupScatter, _add_pieces, merge_on_cluster=True)
    finally:
        held.unpersist()
    return between.scatter(inside.total)


def centres(rows: DataFrame, how: str) -> DataFrame:
    """``vehicle_id STRING, n BIGINT, centre ARRAY<DOUBLE>`` of every vehicle: its photos' mean or median.

    ``how`` is ``mean`` (exact, float64) or ``median`` (of each column alone; see MEDIAN_PHOTOS). The mean shuffles one
    row for each vehicle in each batch, the median all rows. Memory of a task: two batches, and for the median
    MEDIAN_PHOTOS rows.
    """
    if how == "mean":
        return _by_vehicle(_pieces(rows, spread=False)).mapInArrow(_merge_means, _CENTRES)
    if how == "median":
        # A vehicle's photos in the order of their hashes: the first ones are a sample.
        drawn = rows.repartition("vehicle_id").sortWithinPartitions("vehicle_id", F.xxhash64("image_id"), "image_id")
        return drawn.select("vehicle_id", "vector").mapInArrow(_medians, _CENTRES)
    raise ValueError(f"centre {how!r}: expected mean or median")


def apply_vehicles(vectors: DataFrame, vehicles: Vehicles, kind: str) -> DataFrame:
    """A vehicle operation on ``image_id, vector``: ``vehicle_mean``, ``vehicle_median`` or ``vehicle_residual``.

    The first two give every photo its vehicle's centre, so equal vectors to all its photos. The last gives it what it
    has beyond its vehicle's mean; a photo that is alone has nothing to be compared with and is left out, since zero
    would be a place where photos of all kinds meet. A photo without a vehicle counts as a vehicle of its own.

    ``vectors`` is read twice. The centres are shuffled, and for residuals the vectors too.
    """
    rows = vehicles.attach(vectors, vehicles.df.select("image_id", own_vehicle().alias("vehicle_id")))
    if kind == "vehicle_residual":
        several = centres(rows, "mean").where(F.col("n") > 1).select("vehicle_id", "centre")
        pairs = rows.join(several, on="vehicle_id", how="inner").select("image_id", "vector", "centre")
        return pairs.mapInArrow(_residuals, _VECTORS)
    if kind not in ("vehicle_mean", "vehicle_median"):
        raise ValueError(f"operation {kind!r} looks at no vehicles")
    found = centres(rows, kind.removeprefix("vehicle_")).select("vehicle_id", "centre")
    placed = rows.select("image_id", "vehicle_id").join(found, on="vehicle_id", how="inner")
    return placed.select("image_id", F.col("centre").cast("array<float>").alias("vector"))


# -- pieces of vehicles --------------------------------------------------------------------------------


def _pieces(rows: DataFrame, *, spread: bool, backend: Backend = CPU) -> DataFrame:
    """Each vehicle once for every batch that has it: its photos there, their mean and their first id.

    With ``spread`` every task ends with a row that holds the scatter of its rows about these means, as float64[d, d].
    """

    def run(batches: Batches) -> Batches:
        gram = backend.gram()
        for batch in batches:
            if not len(batch):
                continue
            ids, x = blocks.batch_ids(batch), blocks.to_matrix(batch.column("vector"))
            names = batch.column("vehicle_id").dictionary_encode()
            codes = names.indices.to_numpy(zero_copy_only=False)
            keys = names.dictionary.to_numpy(zero_copy_only=False)
            found, centred = pieces(keys, codes, x)
            first = np.full(len(keys), np.iinfo(np.int64).max)
            np.minimum.at(first, codes, ids)
            yield _packed(found, first, None)
            if spread:
                gram.add(centred)
        inside = gram.total()
        if inside.size:
            none = np.zeros(1, np.int64)
            yield _packed(Groups(np.array([None]), none, np.zeros((1, 0))), none, inside)

    return rows.select("image_id", "vehicle_id", "vector").mapInArrow(run, _PIECES)


def _packed(groups: Groups, first: np.ndarray, inside: np.ndarray | None) -> pa.RecordBatch:
    columns = [
        pa.array(groups.keys, pa.string()),
        pa.array(first, pa.int64()),
        pa.array(groups.n, pa.int64()),
        _doubles(groups.mean),
        pa.array([None if inside is None else inside.tobytes()] * len(groups.n), pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["vehicle_id", "first", "n", "mean", "inside"])


def _by_vehicle(held: DataFrame) -> DataFrame:
    """All pieces of a vehicle in a row, in an order that repeats."""
    named = held.where(F.col("vehicle_id").isNotNull()).select("vehicle_id", "first", "n", "mean")
    return named.repartition("vehicle_id").sortWithinPartitions("vehicle_id", "first")


def _groups(batch: pa.RecordBatch) -> Groups:
    keys = batch.column("vehicle_id").to_numpy(zero_copy_only=False)
    n = batch.column("n").to_numpy(zero_copy_only=False)
    mean = batch.column("mean").flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
    return Groups(keys, n, mean)


def _doubles(matrix: np.ndarray) -> pa.ListArray:
    """float64[n, d] as a list<double> column."""
    n, width = matrix.shape
    offsets = np.arange(n + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(matrix.reshape(-1), pa.float64()))


def _add_inside(state: blocks.Tally, batch: pa.RecordBatch) -> None:
    for value in batch.column("inside"):
        flat = np.frombuffer(value.as_buffer(), np.float64)
        width = int(np.sqrt(len(flat)))
        state.total = state.total + flat.reshape(width, width)


def _add_pieces(state: GroupScatter, batch: pa.RecordBatch) -> None:
    state.update(_groups(batch))


# -- centres -------------------------------------------------------------------------------------------


def _merge_means(batches: Batches) -> Batches:
    merging = Merging(spread=False)
    for batch in batches:
        if len(batch):
            yield _centre_batch(merging.add(_groups(batch)))
    last = merging.close()
    if last is not None:
        yield _centre_batch(last)


def _centre_batch(groups: Groups) -> pa.RecordBatch:
    columns = [pa.array(groups.keys, pa.string()), pa.array(groups.n, pa.int64()), _doubles(groups.mean)]
    return pa.RecordBatch.from_arrays(columns, names=["vehicle_id", "n", "centre"])


def _medians(batches: Batches) -> Batches:
    """Medians of runs of one vehicle's rows, of which no more than MEDIAN_PHOTOS are held."""
    for vehicles in _chunks(_runs(batches)):
        keys, n, rows = zip(*vehicles, strict=True)
        medians = np.stack([np.median(x, axis=0) for x in rows])
        yield _centre_batch(Groups(np.array(keys, object), np.array(n), medians))


def _runs(batches: Batches) -> Iterator[tuple[str, int, np.ndarray]]:
    """Each vehicle's name, number of photos and first MEDIAN_PHOTOS rows as float64[m, d]."""
    key, n, held, n_held = None, 0, [np.zeros((0, 0))], 0
    for batch in batches:
        if not len(batch):
            continue
        keys = batch.column("vehicle_id").to_numpy(zero_copy_only=False)
        x = blocks.to_matrix(batch.column("vector"))
        cuts = [*np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])).tolist(), len(keys)]
        for start, stop in pairwise(cuts):
            if keys[start] != key:
                if key is not None:
                    yield key, n, np.concatenate(held)
                key, n, held, n_held = keys[start], 0, [], 0
            n += stop - start
            kept = x[start : min(stop, start + MEDIAN_PHOTOS - n_held)]
            if len(kept):
                held.append(kept.astype(np.float64))
                n_held += len(kept)
    if key is not None:
        yield key, n, np.concatenate(held)


def _chunks(runs: Iterator[tuple[str, int, np.ndarray]]) -> Iterator[list[tuple[str, int, np.ndarray]]]:
    """Vehicles by as many as make a batch, by their photos."""
    held, n = [], 0
    for run in runs:
        held.append(run)
        n += len(run[2])
        if n >= blocks.BLOCK_ROWS:
            yield held
            held, n = [], 0
    if held:
        yield held


def _residuals(batches: Batches) -> Batches:
    for batch in batches:
        x = blocks.to_matrix(batch.column("vector"))
        centre = batch.column("centre").flatten().to_numpy(zero_copy_only=False).reshape(x.shape)
        rest = (x - centre).astype(np.float32)
        yield pa.RecordBatch.from_arrays(
            [batch.column("image_id"), blocks.to_list_array(rest)], names=["image_id", "vector"]
        )
