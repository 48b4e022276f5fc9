"""Descriptors that are computed from photos, part by part: what a stopped run has computed stays in the lake."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.describe.described import PhotoDescriptor, described
from motorpool.describe.describer import Describer
from motorpool.describe.photo_vectors import photo_vectors
from motorpool.pipeline.context import Context
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks

#: Photos of a part, at least: some minutes of a network on two cores. And the most parts that a case is computed in.
PART, _MOST_PARTS = 8192, 200
_TABLE = "described"


def compute(
    ctx: Context, describers: Mapping[str, Describer], paths: DataFrame, n_images: int, fingerprint: str, root: str
) -> dict[str, PhotoDescriptor]:
    """Descriptors of ``paths`` (``image_id, path``; ``n_images``, numbered from 0) from the photos below ``root``.

    Their vectors are in the table ``described`` when this returns, until `clear`. Parts are the same for every run,
    each is one write, and they are written in the order of the images, so that a run goes on behind the last one. What
    was begun by another network, from other images or at another place counts for nothing.
    """
    sources = {name: _source(name, d.fingerprint, fingerprint, root) for name, d in describers.items()}
    done = _done(ctx, sources)
    size = max(PART, math.ceil(n_images / _MOST_PARTS))
    slots = blocks.parallelism(ctx.spark)
    for start in range(0, n_images, size):
        asked = {name: d for name, d in describers.items() if done[name] <= start}
        if not asked:
            continue
        end = min(start + size, n_images)
        part = f"{_hash(*(sources[name] for name in asked))}-{start:012d}"
        some = paths.where((F.col("image_id") >= start) & (F.col("image_id") < end))
        rows = photo_vectors(some, root, asked, min(slots, end - start))
        source = F.create_map(*(F.lit(text) for name in asked for text in (name, sources[name])))
        rows = rows.withColumns({"source": source[F.col("descriptor")], "part": F.lit(part)})
        values = (end - start) * sum(d.width + 5 for d in asked.values())
        with timed(f"ingest: computing {', '.join(asked)} of photos {start + 1:,} to {end:,} of {n_images:,}"):
            ctx.lake.replace(_TABLE, rows, {"part": [part]}, values)
    rows = ctx.lake.read(_TABLE, source=list(sources.values()))
    return described(describers, n_images, rows)


def clear(ctx: Context) -> None:
    """Empty the table ``described``, once its vectors are in ``descriptors``."""
    if ctx.lake.exists(_TABLE) and ctx.lake.count(_TABLE):
        ctx.lake.overwrite_rows(_TABLE, [])


def _source(name: str, describer: str, images: str, root: str) -> str:
    return _hash(name, describer, images, files.redact(root))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _done(ctx: Context, sources: Mapping[str, str]) -> dict[str, int]:
    """How many images of each descriptor have been seen to: the first so many, as parts are written in their order."""
    found = {}
    if ctx.lake.exists(_TABLE):
        rows = ctx.lake.read(_TABLE, source=list(sources.values()))
        found = {r["source"]: r["n"] for r in rows.groupBy("source").agg(F.count("*").alias("n")).collect()}
    return {name: found.get(source, 0) for name, source in sources.items()}
