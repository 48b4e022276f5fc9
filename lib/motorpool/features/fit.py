"""Fitting the feature sets of one source with as few passes over it as their steps allow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU, Backend
from motorpool.errors import CaseError
from motorpool.features.group_steps import Groups, columns_of, fit_groups, is_descriptor, marked
from motorpool.features.holdout import fitted_on
from motorpool.features.program import FittedPart, Op, Program, apply_ops, codes
from motorpool.features.spec import VEHICLE_PROJECTIONS, FeatureSet, Step
from motorpool.features.steps import Spectrum, check_components, fit_step, needs, projection_onto
from motorpool.features.vehicle_steps import Vehicles, apply_vehicles, scatter
from motorpool.kernels.group_moments import GroupMoments
from motorpool.kernels.moments import Moments, Stats
from motorpool.kernels.sampling import RowSample
from motorpool.kernels.scatter import Scatter
from motorpool.spark import block_files, blocks
from motorpool.spark.blocks import Batches
from motorpool.spark.coreset import Spread
from motorpool.spark.estimators import estimators, fit_components

log = logging.getLogger(__name__)

#: Quantiles are exact up to this many rows, and beyond it taken from a uniform sample of that size ...
SAMPLE_ROWS = 65_536
#: ... or of fewer, so that the sample's float32 numbers stay below 128 MiB.
SAMPLE_VALUES = 32 * 2**20

S = TypeVar("S", bound=blocks.Mergeable)
Rows = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Fitted:
    """A feature set with its numbers; ``spectrum`` is that of its last projection."""

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
    fit_share: float
    engine: str = "motorpool"
    stats: Stats | None = None
    ops: list[Op] = field(default_factory=list)
    sample: np.ndarray | None = None
    spectrum: Spectrum | None = None

    @property
    def program(self) -> Program:
        return Program(self.parts, tuple(self.ops))

    def key(self, n_steps: int) -> str:
        """Names the output of the first steps: equal keys mean equal numbers."""
        return " | ".join([self.source, *map(self._name, self.steps[:n_steps])])

    def _name(self, step: Step) -> str:
        if step.kind in VEHICLE_PROJECTIONS:
            return f"{step} on {self.fit_share!r}"
        return f"{step} by {self.engine}" if needs(step, self.engine) == "rows" else str(step)

    @property
    def keys(self) -> list[str]:
        """The names of the outputs of the operations fitted so far, the chain's input first."""
        return [self.key(n) for n in range(len(self.ops) + 1)]


class Fitter:
    """Fits feature sets over one *wide* DataFrame, and applies them.

    ``wide`` holds ``image_id``, one ARRAY<FLOAT> column named after each descriptor, and the columns of groups that
    sets use (`group_steps.attach`). Any number of chains of standard, minmax, pca and svd, joined ones too, are fitted
    from one pass: the joint moments of the raw columns hold all they need. ``clip`` and ``robust`` take one more pass
    each (a sample), and so does the first step that needs moments after ``clip``, ``l2`` or a join of such parts;
    chains that begin alike share these. What follows a projection is fitted on the projected vectors, which are kept on
    the executors and computed once. ``vehicle_whiten`` and ``vehicle_within`` share a pass over the vehicles that are
    `seen`; what follows ``vehicle_mean`` or ``vehicle_residual`` is fitted on their result, kept likewise; best behind
    a projection, since these steps pass twice over their input. ``group_center`` and ``group_standard`` of one column
    share a pass over its groups. A set's ``engine`` other than Motorpool's fits its steps ``pca`` (`spark.estimators`),
    which takes one more pass for each beside its own.

    ``widths`` are the descriptors' numbers of columns; without them a job looks at the first row. ``vehicles`` says
    which vehicle each image shows; sets that use vehicles need it. Moments and scatter matrices are summed up on
    ``backend``. Driver memory: a few float64 matrices of d x d, d being the columns of all descriptors together, one
    sample of at most 128 MiB, and 24 bytes for each column of each group. Use as a context manager: leaving it drops
    what was kept.
    """

    def __init__(
        self,
        wide: DataFrame,
        sets: Sequence[FeatureSet],
        seed: int,
        vehicles: Vehicles | None = None,
        backend: Backend = CPU,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        self.wide = wide
        self.backend = backend
        self.sets = list(sets)
        self.seed = seed
        self.vehicles = vehicles
        self.descriptors = tuple(c for c in wide.columns if is_descriptor(c))
        self.n_passes = 0
        self._raw: Stats | None = None
        self._widths = {d: widths[d] for d in self.descriptors} if widths is not None else {}
        self._fits: dict[str, tuple[Op, Spectrum | None]] = {}
        self._measured: dict[str, Stats] = {}
        self._scatters: dict[tuple[str, float], Scatter] = {}
        self._groups: dict[str, Groups] = {}
        self._of_groups: dict[tuple[str, str], GroupMoments] = {}
        self._keys: dict[str, list[str]] = {}
        self._kept: dict[str, DataFrame] = {}
        self._until_left = ExitStack()

    def __enter__(self) -> Fitter:
        return self

    def __exit__(self, *_: object) -> None:
        self._until_left.close()
        self._kept.clear()

    # -- fitting -----------------------------------------------------------------------------------

    def fit(self) -> list[Fitted]:
        """Fit every set.

        Raises CaseError when a step asks for more components than the data have, when values are too large or too small
        for it, or when vehicles or groups do not tell what a step wants to know; ValueError without rows, or without
        vehicles where a set uses them.
        """
        asking = [s.name for s in self.sets if s.uses_vehicles]
        if asking and self.vehicles is None:
            raise ValueError(f"feature set {asking[0]} looks at vehicles, and none are given")
        if not self._widths:
            row = self.wide.first()
            if row is None:
                raise ValueError("there are no rows to fit on")
            self._widths = {d: len(row[d]) for d in self.descriptors}
        chains = [(s.engine, c) for s in self.sets for c in [p.steps for p in s.parts if p.steps] or [s.steps]]
        if any(needs(step, engine) in ("moments", "range") for engine, chain in chains for step in chain[:1]):
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
                spec.fit_share,
                spec.engine,
                self._select([part.descriptor]),
            )
            self._run(chain)
            parts.append(FittedPart(part.descriptor, tuple(chain.ops), part.weight))
            sources.append(f"({chain.key(len(part.steps))}) x {part.weight!r}")
            spectrum = chain.spectrum
        joined = tuple(parts)
        where, source = f"feature set {spec.name}", " + ".join(sources)
        tail = _Chain(where, source, joined, spec.steps, spec.fit_share, spec.engine, self._join(joined))
        self._run(tail)
        if tail.spectrum or len(parts) > 1:
            spectrum = tail.spectrum
        self._keys[spec.name] = tail.keys
        n_features = tail.program.width([self._widths[d] for d in tail.program.descriptors])
        return Fitted(spec, tail.program, n_features, spectrum)

    def _run(self, chain: _Chain) -> None:
        """Fit step by step, with a pass for each thing that the statistics at hand do not tell."""
        for step in chain.steps:
            key = chain.key(len(chain.ops) + 1)
            if key not in self._fits:
                self._fits[key] = self._fit_step(chain, step)
                _check_numbers(self._fits[key][0], f"{chain.where}: {step}")
            op, spectrum = self._fits[key]
            chain.ops.append(op)
            chain.stats, chain.sample = op.push(chain.stats), None
            chain.spectrum = spectrum or chain.spectrum

    def _fit_step(self, chain: _Chain, step: Step) -> tuple[Op, Spectrum | None]:
        need, spread = needs(step, chain.engine), None
        if need == "groups":
            return self._fit_groups(chain, step), None
        if need == "rows":
            return self._fit_by_library(chain, step)
        if need == "sample":
            chain.sample = self._sample(chain)
        elif need == "vehicles":
            spread = self._scatter(chain)
        elif need != "nothing" and (chain.stats is None or (need == "range" and chain.stats.min is None)):
            chain.stats = self._measure(chain, chain.key(len(chain.ops)))
        return fit_step(step, chain.stats, chain.sample, chain.where, spread)

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

        return self._fold(program, chain, self.backend.moments, update).stats()

    def _scatter(self, chain: _Chain) -> Scatter:
        """The scatter of the vehicles that the chain's steps are fitted on, taken once for all chains alike."""
        key = chain.key(len(chain.ops)), chain.fit_share
        if key not in self._scatters:
            assert self.vehicles is not None
            self.n_passes += 1
            chosen = self.vehicles.df.where(fitted_on(F.col("vehicle_id"), chain.fit_share))
            vectors = self._stream(chain.program, chain.keys)
            self._scatters[key] = scatter(self.vehicles.attach(vectors, chosen), self.backend)
        return self._scatters[key]

    def _fit_groups(self, chain: _Chain, step: Step) -> Op:
        """An operation by groups; what is known of these is found once for all steps alike."""
        by, where = str(step.by), f"{chain.where}: {step}"
        if by not in self._groups:
            self._groups[by] = Groups.of(self.wide, by, where)
        groups, program = self._groups[by], chain.program
        groups.check_size(program.width([self._widths[d] for d in program.descriptors]), where)
        key = chain.key(len(chain.ops)), by
        if key not in self._of_groups:
            self.n_passes += 1
            self._of_groups[key] = self._group_moments(program, groups)
        projected = any(op.kind == "project" for op in (*chain.ops, *(op for p in chain.parts for op in p.ops)))
        return fit_groups(step, groups, self._of_groups[key], projected=projected)

    def _fit_by_library(self, chain: _Chain, step: Step) -> tuple[Op, Spectrum]:
        """A PCA by another library's Spark estimator, which gets the chain's output so far; one more pass for the mean.

        Spark's PCA does not tell the mean, and counts no rows.
        """

        def update(state: Spread, ids: np.ndarray, x: np.ndarray) -> None:
            state.update(x)

        if not isinstance(step.param, int):
            raise ValueError(f"{chain.where}: {step}: {chain.engine} takes a number of components")
        spread = self._fold(chain.program, chain, Spread, update)
        check_components(step, spread.n, len(spread.mean), chain.where)
        self.n_passes += 1
        vectors = self._stream(chain.program, chain.keys)
        return projection_onto(spread.mean, *fit_components(estimators(chain.engine), vectors, step.param))

    def _group_moments(self, program: Program, groups: Groups) -> GroupMoments:
        # From the raw columns always: what is kept has no column of groups beside it.
        apply, by, names = _applying(program), groups.by, groups.names

        def add(state: GroupMoments, batch: pa.RecordBatch) -> None:
            for _, x in apply(batch):
                state.update(codes(batch.column(marked(by)), names), x)

        columns = dict.fromkeys((*program.group_columns, by))
        df = self._raw_columns(program.descriptors, list(columns))
        return blocks.fold(df, lambda: GroupMoments(len(names)), add, merge_on_cluster=True)

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
        df, rows = self._source(program, chain.keys if chain else [""])

        def add(state: S, batch: pa.RecordBatch) -> None:
            for ids, x in rows(batch):
                update(state, ids, x)

        return blocks.fold(df, start, add, merge_on_cluster=True)

    def _source(
        self, program: Program, keys: Sequence[str], *, keep: bool = True
    ) -> tuple[DataFrame, Callable[[pa.RecordBatch], Rows]]:
        """Where a program's output comes from: the raw columns, or what some of its operations have left.

        ``keys`` names the output after each number of operations. With ``keep`` what is passed over again is kept
        under its name; without, only what is kept already is used, and the result of a vehicle operation, which no row
        has for itself.
        """
        cut = _kept_until(program.ops)
        first, rest = Program(program.parts, program.ops[:cut]), program.ops[cut:]

        def from_kept(batch: pa.RecordBatch) -> Rows:
            for ids, x in blocks.block_arrays(batch):
                yield ids, apply_ops(rest, x)

        if cut and (keep or keys[cut] in self._kept):
            if keys[cut] not in self._kept:
                gathered = block_files.kept(blocks.gather(self._vectors(first, keys)))
                self._kept[keys[cut]] = self._until_left.enter_context(gathered)
            return self._kept[keys[cut]], from_kept
        if first.of_vehicles:
            return self._vectors(first, keys), _applying(Program((FittedPart("vector", ()),), rest))
        return self._raw_columns(program.descriptors, program.group_columns), _applying(program)

    def _vectors(self, program: Program, keys: Sequence[str]) -> DataFrame:
        """The output of a program that ends where it is kept: ``image_id, vector``."""
        if not program.of_vehicles:
            return _streamed(self._raw_columns(program.descriptors, program.group_columns), _applying(program))
        assert self.vehicles is not None
        before = Program(program.parts, program.ops[:-1])
        return apply_vehicles(self._stream(before, keys), self.vehicles, program.ops[-1].kind)

    def _raw_columns(self, descriptors: Sequence[str], groups: Sequence[str]) -> DataFrame:
        wanted = ["image_id", *descriptors, *map(marked, groups)]
        # A chain goes on as it is, all columns of which are needed.
        return self.wide if wanted == self.wide.columns else self.wide.select(*(f"`{c}`" for c in wanted))

    # -- applying ----------------------------------------------------------------------------------

    def transform(self, fitted: Fitted) -> DataFrame:
        """The feature set's vectors: ``image_id BIGINT, vector ARRAY<FLOAT>``.

        One for every image of ``wide`` (with a vehicle's residual: for those that have one, see `apply_vehicles`).
        Tasks raise CaseError where one comes out infinite or NaN.
        """
        keys = self._keys[fitted.spec.name]
        cut = _kept_until(fitted.program.ops)
        users = [k for k in self._keys.values() if len(k) > cut and k[cut] == keys[cut]]
        return self._stream(fitted.program, keys, keep=len(users) > 1, where=f"feature set {fitted.spec.name}")

    def _stream(
        self, program: Program, keys: Sequence[str], *, keep: bool = True, where: str | None = None
    ) -> DataFrame:
        return _streamed(*self._source(program, keys, keep=keep), where)


#: What to do about values that no step can bring into float32.
_TOO_FAR = "its input's values are too large, too small or too unequal for float32: look at the descriptor"


def _check_numbers(op: Op, where: str) -> None:
    """CaseError where an operation's numbers, which are applied in float32 in part, are beyond it."""
    limit = float(np.finfo(np.float32 if op.kind == "project" else np.float64).max)
    for values in op.fields.values():
        largest = float(np.abs(values).max(initial=0.0))
        # False for NaN too.
        if not largest <= limit:
            raise CaseError(f"{where}: its numbers come out as large as {largest:g}: {_TOO_FAR}")


def _kept_until(ops: Sequence[Op]) -> int:
    """How many operations lead to what is worth keeping: up to the one that looks at vehicles, or else up to the first
    projection and the last one by groups behind it, which needs a column that is not kept; none without either.
    """
    vehicles = [at for at, op in enumerate(ops) if op.of_vehicles]
    projections = [at for at, op in enumerate(ops) if op.kind == "project"]
    if vehicles or not projections:
        return next(iter(vehicles), -1) + 1
    return max(projections[0], *(at for at, op in enumerate(ops) if op.by is not None), -1) + 1


def _applying(program: Program) -> Callable[[pa.RecordBatch], Rows]:
    """A program over the columns of its descriptors, and of its groups."""
    names, groups = program.descriptors, program.group_columns

    def rows(batch: pa.RecordBatch) -> Rows:
        raw = [blocks.to_matrix(batch.column(name)) for name in names]
        yield blocks.batch_ids(batch), program.apply(raw, columns_of(batch, groups))

    return rows


def _streamed(df: DataFrame, rows: Callable[[pa.RecordBatch], Rows], where: str | None = None) -> DataFrame:
    """``image_id BIGINT, vector ARRAY<FLOAT>`` of the rows in each batch.

    With ``where``, which names them, CaseError in the task for vectors that are not finite.
    """

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for ids, x in rows(batch):
                if where is not None and not np.isfinite(x).all():
                    first = ids[np.flatnonzero(~np.isfinite(x).all(axis=1))[0]]
                    raise CaseError(f"{where}: the vector of image {first} comes out infinite or NaN: {_TOO_FAR}")
                yield pa.RecordBatch.from_arrays([pa.array(ids), blocks.to_list_array(x)], names=["image_id", "vector"])

    return blocks.in_tasks(df, run, "image_id BIGINT, vector ARRAY<FLOAT>")


def transform(wide: DataFrame, program: Program, vehicles: Vehicles | None = None) -> DataFrame:
    """Apply a stored program to new descriptors: one ARRAY<FLOAT> column per descriptor beside ``image_id``, and those
    of the program's groups (`group_steps.attach`).

    A program that looks at vehicles takes those of the new images: ``wide`` is read twice then, and the photos that
    have no residual are left out (`apply_vehicles`). ValueError without ``vehicles`` where the program needs them.
    """
    before, group, after = program.split()
    columns = (*program.descriptors, *map(marked, program.group_columns))
    vectors = _streamed(wide.select("image_id", *(f"`{c}`" for c in columns)), _applying(before))
    if group is None:
        return vectors
    if vehicles is None:
        raise ValueError(f"{group.kind} looks at all photos of a vehicle, and no vehicles are given")
    grouped = apply_vehicles(vectors, vehicles, group.kind)
    return _streamed(grouped, _applying(Program((FittedPart("vector", ()),), after))) if after else grouped
