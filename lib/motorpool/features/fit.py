"""Fitting the feature sets of one source with as few passes over it as their steps allow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool import blocks
from motorpool.blocks import Batches
from motorpool.features.moments import Moments, Stats
from motorpool.features.program import FittedPart, Op, Program, apply_ops
from motorpool.features.spec import FeatureSet, Step
from motorpool.features.steps import Spectrum, fit_step, needs
from motorpool.sampling import RowSample

log = logging.getLogger(__name__)

#: Quantiles are exact up to this many rows, and beyond it taken from a uniform sample of that size ...
SAMPLE_ROWS = 65_536
#: ... or of fewer, so that the sample's float32 numbers stay below 128 MiB.
SAMPLE_VALUES = 32 * 2**20

S = TypeVar("S", bound=blocks.Mergeable)
Rows = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Fitted:
    """A feature set with its numbers; ``spectrum`` is that of its last pca or svd step."""

    spec: FeatureSet
    program: Program
    n_features: int
    spectrum: Spectrum | None


@dataclass
class _Chain:
    """Steps on their way: ``ops`` are fitted, ``stats`` describes their output where that is known."""

    where: str
    source: str
    parts: tuple[FittedPart, ...]
    steps: tuple[Step, ...]
    stats: Stats | None = None
    ops: list[Op] = field(default_factory=list)
    sample: np.ndarray | None = None
    spectrum: Spectrum | None = None

    @property
    def program(self) -> Program:
        return Program(self.parts, tuple(self.ops))

    def key(self, n_steps: int) -> str:
        """Names the output of the first steps: equal keys mean equal numbers."""
        return " | ".join([self.source, *map(str, self.steps[:n_steps])])


class Fitter:
    """Fits feature sets over one *wide* DataFrame, and applies them.

    ``wide`` holds ``image_id`` and one ARRAY<FLOAT> column named after each descriptor. Any number of
    chains of standard, minmax, pca and svd, joined ones too, are fitted from one pass: the joint moments of
    the raw columns hold all they need. ``clip`` and ``robust`` take one more pass each (a sample), and so
    does the first step that needs moments after ``clip``, ``l2`` or a join of such parts; chains that begin
    alike share these. What follows a projection is fitted on the projected vectors, which are kept on the
    executors and computed once.

    Driver memory: a few float64 matrices of d x d, d being the columns of all descriptors together, and one
    sample of at most 128 MiB. Use as a context manager: leaving it drops what was kept.
    """

    def __init__(self, wide: DataFrame, sets: Sequence[FeatureSet], seed: int) -> None:
        self.wide = wide
        self.sets = list(sets)
        self.seed = seed
        self.descriptors = tuple(c for c in wide.columns if c != "image_id")
        self.n_passes = 0
        self._raw: Stats | None = None
        self._widths: dict[str, int] = {}
        self._fits: dict[str, tuple[Op, Spectrum | None]] = {}
        self._measured: dict[str, Stats] = {}
        self._bases: dict[str, str] = {}
        self._kept: dict[str, DataFrame] = {}

    def __enter__(self) -> Fitter:
        return self

    def __exit__(self, *_: object) -> None:
        for df in self._kept.values():
            df.unpersist()
        self._kept.clear()

    # -- fitting -----------------------------------------------------------------------------------

    def fit(self) -> list[Fitted]:
        """Fit every set. Raises CaseError when a step asks for more components than the data have."""
        row = self.wide.first()
        if row is None:
            raise ValueError("there are no rows to fit on")
        self._widths = {d: len(row[d]) for d in self.descriptors}
        chains = [c for s in self.sets for c in [p.steps for p in s.parts if p.steps] or [s.steps]]
        if any(needs(step) in ("moments", "range") for chain in chains for step in chain[:1]):
            everything = Program(tuple(FittedPart(d, ()) for d in self.descriptors), ())
            self._raw = self._moments(everything)
        return [self._fit_set(spec) for spec in self.sets]

    def _fit_set(self, spec: FeatureSet) -> Fitted:
        parts, sources, spectrum = [], [], None
        for part in spec.parts:
            raw = (FittedPart(part.descriptor, ()),)
            chain = _Chain(
                f"feature set {spec.name}, {part.descriptor}",
                part.descriptor,
                raw,
                part.steps,
                self._select([part.descriptor]),
            )
            self._run(chain)
            parts.append(FittedPart(part.descriptor, tuple(chain.ops), part.weight))
            sources.append(f"({chain.key(len(part.steps))}) x {part.weight!r}")
            spectrum = chain.spectrum
        joined = tuple(parts)
        tail = _Chain(f"feature set {spec.name}", " + ".join(sources), joined, spec.steps, self._join(joined))
        self._run(tail)
        if tail.spectrum or len(parts) > 1:
            spectrum = tail.spectrum
        projections = [i for i, op in enumerate(tail.ops) if op.kind == "project"]
        self._bases[spec.name] = tail.key(projections[0] + 1) if projections else ""
        zeros = [np.zeros((1, self._widths[d]), np.float32) for d in tail.program.descriptors]
        return Fitted(spec, tail.program, tail.program.apply(zeros).shape[1], spectrum)

    def _run(self, chain: _Chain) -> None:
        """Fit step by step, with a pass for each thing that the statistics at hand do not tell."""
        for index, step in enumerate(chain.steps):
            key = chain.key(index + 1)
            if key not in self._fits:
                need = needs(step)
                if need == "sample":
                    chain.sample = self._sample(chain)
                elif need != "nothing" and (chain.stats is None or (need == "range" and chain.stats.min is None)):
                    chain.stats = self._measure(chain, chain.key(index))
                self._fits[key] = fit_step(step, chain.stats, chain.sample, chain.where)
            op, spectrum = self._fits[key]
            chain.ops.append(op)
            chain.stats, chain.sample = op.push(chain.stats), None
            chain.spectrum = spectrum or chain.spectrum

    def _measure(self, chain: _Chain, key: str) -> Stats:
        """Statistics of the chain's output so far, taken once for all chains that begin alike."""
        if key not in self._measured:
            self._measured[key] = self._moments(chain.program, chain)
        return self._measured[key]

    def _select(self, descriptors: Sequence[str]) -> Stats | None:
        """Statistics of the raw columns of some descriptors, from those of all."""
        if self._raw is None:
            return None
        starts = dict(zip(self.descriptors, np.cumsum([0, *self._widths.values()]), strict=False))
        index = [starts[d] + np.arange(self._widths[d]) for d in descriptors]
        return self._raw.select(np.concatenate(index))

    def _join(self, parts: tuple[FittedPart, ...]) -> Stats | None:
        """Statistics of the weighted parts side by side, where they follow from the raw columns."""
        stats, at = self._select([p.descriptor for p in parts]), 0
        for part in parts:
            width = self._widths[part.descriptor]
            for op in part.ops:
                stats = op.push_within(stats, at, at + width)
                if op.kind == "project":
                    width = op.fields["components"].shape[1]
            weight = Op("scale", {"scale": np.full(width, part.weight), "offset": np.zeros(width)})
            stats = weight.push_within(stats, at, at + width)
            at += width
        return stats

    # -- passes ------------------------------------------------------------------------------------

    def _moments(self, program: Program, chain: _Chain | None = None) -> Stats:
        def update(state: Moments, ids: np.ndarray, x: np.ndarray) -> None:
            state.update(x)

        return self._fold(program, chain, Moments, update).stats()

    def _sample(self, chain: _Chain) -> np.ndarray:
        width = sum(self._widths[p.descriptor] for p in chain.parts)
        size, seed = min(SAMPLE_ROWS, SAMPLE_VALUES // width), self.seed

        def update(state: RowSample, ids: np.ndarray, x: np.ndarray) -> None:
            state.update(ids, x)

        return self._fold(chain.program, chain, lambda: RowSample(size, seed), update).rows()

    def _fold(
        self,
        program: Program,
        chain: _Chain | None,
        start: Callable[[], S],
        update: Callable[[S, np.ndarray, np.ndarray], None],
    ) -> S:
        self.n_passes += 1
        done = [i for i, op in enumerate(program.ops) if op.kind == "project"]
        base = chain.key(done[0] + 1) if chain and done else ""
        df, rows = self._source(program, base)

        def add(state: S, batch: pa.RecordBatch) -> None:
            for ids, x in rows(batch):
                update(state, ids, x)

        return blocks.fold(df, start, add, merge_on_cluster=True)

    def _source(self, program: Program, base: str) -> tuple[DataFrame, Callable[[pa.RecordBatch], Rows]]:
        """Where a program's output comes from: the raw columns, or a projection that is kept as ``base``."""
        if not base:
            names = program.descriptors

            def from_raw(batch: pa.RecordBatch) -> Rows:
                raw = [blocks.to_matrix(batch.column(name)) for name in names]
                yield blocks.batch_ids(batch), program.apply(raw)

            return self.wide.select("image_id", *(f"`{d}`" for d in names)), from_raw
        projections = [i for i, op in enumerate(program.ops) if op.kind == "project"]
        cut = projections[0] + 1
        if base not in self._kept:
            projected = self._stream(Program(program.parts, program.ops[:cut]), "")
            self._kept[base] = blocks.persist(blocks.gather(projected))
        rest = program.ops[cut:]

        def from_kept(batch: pa.RecordBatch) -> Rows:
            for ids, x in blocks.block_arrays(batch):
                yield ids, apply_ops(rest, x)

        return self._kept[base], from_kept

    # -- applying ----------------------------------------------------------------------------------

    def transform(self, fitted: Fitted) -> DataFrame:
        """The feature set's vectors: ``image_id BIGINT, vector ARRAY<FLOAT>``."""
        base = self._bases[fitted.spec.name]
        shared = list(self._bases.values()).count(base) > 1 or base in self._kept
        return self._stream(fitted.program, base if shared else "")

    def _stream(self, program: Program, base: str) -> DataFrame:
        df, rows = self._source(program, base)

        def run(batches: Batches) -> Batches:
            for batch in batches:
                for ids, x in rows(batch):
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(ids), blocks.to_list_array(x)], names=["image_id", "vector"]
                    )

        return df.mapInArrow(run, "image_id BIGINT, vector ARRAY<FLOAT>")


def transform(wide: DataFrame, program: Program) -> DataFrame:
    """Apply a stored program to new descriptors: one ARRAY<FLOAT> column per descriptor beside ``image_id``."""
    names = program.descriptors

    def run(batches: Batches) -> Batches:
        for batch in batches:
            x = program.apply([blocks.to_matrix(batch.column(name)) for name in names])
            yield pa.RecordBatch.from_arrays(
                [batch.column("image_id"), blocks.to_list_array(x)], names=["image_id", "vector"]
            )

    return wide.select("image_id", *(f"`{d}`" for d in names)).mapInArrow(run, "image_id BIGINT, vector ARRAY<FLOAT>")
