"""Rows that are nearly the same: by one pass over all pairs, exact, and rows that are equal, without any pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.kernels.pairs.alike import PARTNER, axes_of, best_partners, find_alike, shorten
from motorpool.kernels.sampling import RowSample
from motorpool.kernels.trees.union_find import roots, unite
from motorpool.neighbours.exchange import arrays_of, of_kinds
from motorpool.neighbours.shards import Shard, arrange, over_pairs, over_shards, pairs_between
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: A row, a partner of it, and the gap of the two: one minus their cosine.
PARTNERS = "image_id BIGINT, other_id BIGINT, gap DOUBLE"
#: What tells the content of rows: equal digests, equal content.
DIGESTS = "image_id BIGINT, digest BINARY"
#: Bytes of a digest: two of a billion different contents have one in common with a chance of 1e-21.
DIGEST_BYTES = 16

_LISTED, _FOREST = "listed", "forest"
#: Rows that the axes are made of, or fewer of wide ones.
_SAMPLE, _SAMPLE_VALUES = 2048, 2 * 2**20
#: Edges that the driver holds before it takes out those that connect nothing new (64 MiB).
_EDGES = 4 * 2**20


@dataclass(frozen=True)
class Alike:
    """``partners``: PARTNERS of every row that has some, persisted: `release` it. ``groups``: int64[g, 2], the rows
    that are connected with others and the lowest id of all that are connected with it, by ascending id.
    """

    partners: DataFrame
    groups: np.ndarray

    def release(self) -> None:
        self.partners.unpersist()


def find_alike_rows(
    block_df: DataFrame, limit: float, most: int, seed: int, progress: Callable[[str], None] = lambda text: None
) -> Alike:
    """Rows whose cosine is at least 1 - ``limit``: the ``most`` nearest partners of each, ties to the lower id, and
    which rows are connected by such pairs, all of them, listed or not.

    Exact: pairs are compared in float64, from float32 vectors as given; a zero vector has the cosine 0 with every row.
    Nothing depends on ``seed``, which only decides which rows travel together. ``block_df`` is read several times:
    persist it. Cost: n^2/2 products of at most 128 numbers, and one of d numbers for the pairs that these leave open.

    Memory of a task: two shards, 16 ``most`` bytes for each of their rows, and in the last step the partners that all
    tasks have found for one shard. Driver: 16 bytes for each row that is connected with others, 64 MiB more.
    """

    def draw(state: RowSample, batch: pa.RecordBatch) -> None:
        for ids, x in blocks.block_arrays(batch):
            state.update(ids, x)

    sample = blocks.fold(block_df, lambda: RowSample(_SAMPLE, seed, _SAMPLE_VALUES), draw)
    arranged = arrange(block_df, "cosine", seed)
    try:
        axes = axes_of(sample.rows())

        def work(a: Shard, b: Shard | None) -> Iterable[tuple[int, str, np.ndarray]]:
            rows = shorten(a.rows, axes)
            found = find_alike(rows, rows if b is None else shorten(b.rows, axes), limit, most)
            for shard, partners in ((a, found.of_a), (b, found.of_b)):
                if shard is not None and len(partners):
                    yield shard.index, _LISTED, partners.view(np.uint8)
            if len(found.forest):
                yield a.index, _FOREST, found.forest

        def merge(_: Shard, found: dict[str, list[np.ndarray]]) -> Iterator[pa.RecordBatch]:
            yield _pack(found[_LISTED][0].view(PARTNER))

        def best(several: Sequence[np.ndarray]) -> np.ndarray:
            found: np.ndarray = best_partners(np.concatenate([part.view(PARTNER) for part in several]), most)
            return found.view(np.uint8)

        n = arranged.n_shards
        progress(f"near duplicates among {arranged.n:,} rows: all pairs of {n} shards")
        pairs = [*((s, s) for s in range(n)), *pairs_between(n)]
        with blocks.kept(over_pairs(arranged, pairs, work)) as state:
            forest = _Forest()
            for _, _, edges in arrays_of(state, _FOREST):
                forest.add(edges)
            listed = of_kinds(state, _LISTED)
            merging = {_LISTED: best}
            partners = blocks.computed(over_shards(arranged, listed, merge, PARTNERS, with_rows=False, merging=merging))
        return Alike(partners, forest.groups())
    finally:
        arranged.release()


def _pack(partners: np.ndarray) -> pa.RecordBatch:
    columns = [pa.array(np.ascontiguousarray(partners[name])) for name in PARTNER.names or ()]
    return pa.RecordBatch.from_arrays(columns, names=list(PARTNER.names or ()))


class _Forest:
    """Edges between ids; those that connect nothing new are taken out whenever many have come together."""

    def __init__(self) -> None:
        self._edges: list[np.ndarray] = []
        self._held = 0
        self._limit = _EDGES

    def add(self, edges: np.ndarray) -> None:
        """int64[e, 2]."""
        self._edges.append(edges)
        self._held += len(edges)
        if self._held > self._limit:
            edges, _, _ = self._united()
            self._edges, self._held = [edges], len(edges)
            # What is left is a forest already: more must come before it is worth another look.
            self._limit = len(edges) + _EDGES

    def groups(self) -> np.ndarray:
        """int64[g, 2]: every id with an edge, ascending, and the lowest id that it is connected with."""
        _, ids, root = self._united()
        return np.stack([ids, ids[root]], axis=1)

    def _united(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The edges that connect, all ids int64[g] ascending, and the position of each one's lowest."""
        edges = np.concatenate([np.empty((0, 2), np.int64), *self._edges])
        ids, at = np.unique(edges, return_inverse=True)
        at = at.reshape(edges.shape)
        parents = np.arange(len(ids))
        joined = unite(parents, at[:, 0], at[:, 1])
        return edges[joined], ids, roots(parents)


# -- equal rows ----------------------------------------------------------------------------------------


def digest_of(data: bytes | memoryview) -> bytes:
    """BLAKE2b of some bytes, which nobody can make two contents of."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def vector_digests(vectors: DataFrame) -> DataFrame:
    """DIGESTS of ``image_id, vector``, from the vectors' numbers: equal for 0 and -0. One Arrow batch at a time."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            # Adding 0 turns -0 into 0.
            x = blocks.to_matrix(batch.column("vector")) + np.float32(0)
            digests = [digest_of(row.data) for row in x]
            yield pa.RecordBatch.from_arrays(
                [batch.column("image_id"), pa.array(digests, pa.binary())], names=["image_id", "digest"]
            )

    return vectors.select("image_id", "vector").mapInArrow(run, DIGESTS)


def equal_rows(digests: DataFrame) -> DataFrame:
    """``image_id, first_id`` of the rows of DIGESTS that share theirs with others: the lowest id of these is first."""
    shared = digests.groupBy("digest").agg(F.min("image_id").alias("first_id"), F.count("*").alias("n")).where("n > 1")
    return digests.join(shared, on="digest", how="inner").select("image_id", "first_id")
