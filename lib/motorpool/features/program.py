"""A fitted feature set: the numbers that turn raw descriptors into features, applied block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.linalg

from motorpool.kernels.moments import Stats

#: Operations whose statistics do not follow from those of their input.
_OPAQUE = ("clip", "l2", "vehicle_mean", "vehicle_median", "vehicle_residual", "group_center", "group_standard")
#: What operations by groups know of each group.
_OF_GROUPS = {"group_center": ("mean",), "group_standard": ("mean", "deviation")}
#: Their rows behind the first: one for each group, and a last one for images of no group.
_GROUP, _OTHERS = "group", "others"
#: Texts of each group column beside float32[n, d] rows, by its name: string[n], null where it is not known.
Columns = Mapping[str, pa.Array]
#: How many fields each operation has as rows; one without any has one empty row.
_FIELDS = {"scale": 2, "project": 2, "clip": 2, "l2": 0, "vehicle_mean": 0, "vehicle_median": 0, "vehicle_residual": 0}


@dataclass(frozen=True)
class Op:
    """One fitted operation on float32[n, d] rows.

    - ``scale``: x * scale + offset, with float64[d] fields ``scale`` and ``offset``;
    - ``project``: (x - centre) @ components, with float64[d] and float64[d, k];
    - ``clip``: to [low, high], float64[d] each;
    - ``l2``: every row divided by its Euclidean length (zero rows stay zero);
    - ``vehicle_mean``, ``vehicle_median``, ``vehicle_residual``: not row by row; see `vehicle_steps.apply_vehicles`;
    - ``group_center``: x - mean[g], ``group_standard``: (x - mean[g]) / deviation[g], with fields ``mean`` and
      ``deviation`` float64[groups + 1, d]. g is the place of the row's text in column ``by`` among ``groups``, and the
      last one for all other texts and for null. ``rows`` float64[groups + 1] are those that each was fitted on.
    """

    kind: str
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    by: str | None = None
    groups: tuple[str, ...] = ()

    @property
    def of_vehicles(self) -> bool:
        """Whether it looks at all photos of a vehicle together."""
        return self.kind.startswith("vehicle_")

    def push(self, stats: Stats | None) -> Stats | None:
        """The statistics of the output from those of the input; None where they do not follow."""
        if stats is None or self.kind in _OPAQUE:
            return None
        if self.kind == "scale":
            return stats.scaled(self.fields["scale"], self.fields["offset"])
        return stats.projected(self.fields["centre"], self.fields["components"])

    def push_within(self, stats: Stats | None, start: int, stop: int) -> Stats | None:
        """As ``push`` for an operation that touches the columns from ``start`` to ``stop`` alone.

        The other columns keep their values, so covariances across the border follow too.
        """
        if stats is None or self.kind in _OPAQUE:
            return None
        if self.kind == "scale":
            scale, offset = np.ones(stats.width), np.zeros(stats.width)
            scale[start:stop], offset[start:stop] = self.fields["scale"], self.fields["offset"]
            return stats.scaled(scale, offset)
        inner = self.fields["components"]
        before, after = np.eye(start), np.eye(stats.width - stop)
        centre = np.zeros(stats.width)
        centre[start:stop] = self.fields["centre"]
        return stats.projected(centre, scipy.linalg.block_diag(before, inner, after))

    def run(self, x: np.ndarray, columns: Columns | None = None) -> np.ndarray:
        """float32[n, d] to float32[n, d'], a new array; ``columns`` has the column of an operation by groups.

        Shifts keep float64's digits: in float32 a mean far from zero would round away the spread about it.
        """
        f = self.fields
        if self.kind == "scale":
            y = x * f["scale"]
            y += f["offset"]
            result: np.ndarray = y.astype(np.float32)
            return result
        if self.kind == "project":
            # A float32 shift and, behind the product, what its rounding left out: as exact, at half the memory.
            shift = f["centre"].astype(np.float32)
            rest = (f["centre"] - shift) @ f["components"]
            projected: np.ndarray = (x - shift) @ f["components"].astype(np.float32)
            projected -= rest.astype(np.float32)
            return projected
        if self.kind == "clip":
            return np.clip(x, f["low"].astype(np.float32), f["high"].astype(np.float32))
        if self.kind == "l2":
            length = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, None]
            scaled: np.ndarray = np.divide(x, length, out=np.zeros_like(x), where=length > 0, casting="unsafe")
            return scaled
        if self.by is not None:
            return self._run_by_group(x, (columns or {})[self.by])
        if self.of_vehicles:
            raise ValueError(
                f"operation {self.kind!r} looks at all photos of a vehicle: use motorpool.features.fit.transform"
            )
        raise ValueError(f"unknown operation {self.kind!r}")

    def _run_by_group(self, x: np.ndarray, texts: pa.Array) -> np.ndarray:
        at = codes(texts, self.groups)
        y = x - self.fields["mean"][at]
        if self.kind == "group_standard":
            y /= self.fields["deviation"][at]
        # Beyond float32 a value becomes infinite, which whoever writes the vectors refuses.
        with np.errstate(over="ignore"):
            result: np.ndarray = y.astype(np.float32)
        return result

    def to_rows(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """The operation's rows as operation, field and values: one for each field, or for each group."""
        if self.by is None:
            for name, values in self.fields.items() or {"": np.empty(0)}.items():
                yield self.kind, name, values
            return
        yield self.kind, self.by, self.fields["rows"]
        numbers = [self.fields[name] for name in _OF_GROUPS[self.kind]]
        for at, name in enumerate(self.groups):
            yield _GROUP, name, np.stack([values[at] for values in numbers])
        yield _OTHERS, "", np.stack([values[-1] for values in numbers])

    @classmethod
    def of_group_rows(cls, rows: Sequence[tuple[str, str, np.ndarray]]) -> Op:
        """An operation by groups back from `to_rows`."""
        (kind, by, counts), *of_groups = rows
        numbers = np.stack([values for _, _, values in of_groups], axis=1)
        fields = {"rows": counts, **dict(zip(_OF_GROUPS[kind], numbers, strict=True))}
        return cls(kind, fields, by, tuple(name for row, name, _ in of_groups if row == _GROUP))


def codes(texts: pa.Array, groups: Sequence[str]) -> np.ndarray:
    """int64[n]: the place of each of string[n] among ``groups``, and their number for all others and for null."""
    found = pc.index_in(texts, value_set=pa.array(groups, pa.string()), skip_nulls=True)
    places: np.ndarray = pc.fill_null(found, len(groups)).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def apply_ops(ops: Sequence[Op], x: np.ndarray, columns: Columns | None = None) -> np.ndarray:
    for op in ops:
        x = op.run(x, columns)
    return x


@dataclass(frozen=True)
class FittedPart:
    """The fitted steps of one descriptor, and its weight beside the others."""

    descriptor: str
    ops: tuple[Op, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Program:
    """Parts side by side, then the common operations.

    At most one of the common operations looks at vehicles, and none of the parts'. With one, the program takes three
    steps (``split``): rows one by one, all photos of a vehicle together, rows one by one.
    """

    parts: tuple[FittedPart, ...]
    ops: tuple[Op, ...]

    @property
    def descriptors(self) -> tuple[str, ...]:
        return tuple(part.descriptor for part in self.parts)

    @property
    def of_vehicles(self) -> bool:
        """Whether applying it takes the images' vehicles."""
        return any(op.of_vehicles for op in self.ops)

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of ``images`` that its operations by groups read, each once."""
        every = (*(op for part in self.parts for op in part.ops), *self.ops)
        return tuple(dict.fromkeys(op.by for op in every if op.by is not None))

    def split(self) -> tuple[Program, Op | None, tuple[Op, ...]]:
        """What comes before the operation that looks at vehicles, that operation, and what follows it.

        The whole program, None and nothing where there is no such operation.
        """
        at = next((i for i, op in enumerate(self.ops) if op.of_vehicles), None)
        if at is None:
            return self, None, ()
        return Program(self.parts, self.ops[:at]), self.ops[at], self.ops[at + 1 :]

    def width(self, raw: Sequence[int]) -> int:
        """The number of features from the numbers of columns of its descriptors."""
        before, _, after = self.split()
        columns = {name: pa.nulls(1, pa.string()) for name in self.group_columns}
        return int(apply_ops(after, before.apply([np.zeros((1, n), np.float32) for n in raw], columns)).shape[1])

    def apply(self, raw: Sequence[np.ndarray], columns: Columns | None = None) -> np.ndarray:
        """One float32[n, d_i] of each descriptor, in the order of ``descriptors``, to float32[n, n_features].

        ``columns`` has string[n] of each of the ``group_columns``. ValueError where the program looks at vehicles.
        """
        done = []
        for part, x in zip(self.parts, raw, strict=True):
            y = apply_ops(part.ops, x, columns)
            done.append(y if part.weight == 1.0 else y * np.float32(part.weight))
        return apply_ops(self.ops, done[0] if len(done) == 1 else np.concatenate(done, axis=1), columns)

    # -- as rows of the lake: plain numbers that any engine can read -------------------------------

    def to_rows(self) -> list[dict[str, Any]]:
        """The ``program`` column of ``feature_sets``; part -1 are the common operations.

        An operation by groups has a row with its column and the groups' numbers of images, then one for each group.
        """
        rows: list[dict[str, Any]] = []

        def add(part: int, op: str, name: str, values: np.ndarray) -> None:
            shape = [int(s) for s in values.shape]
            flat = np.asarray(values, np.float64).reshape(-1).tolist()
            rows.append({"position": len(rows), "part": part, "op": op, "field": name, "shape": shape, "values": flat})

        for index, part in enumerate(self.parts):
            add(index, "weight", part.descriptor, np.array([part.weight]))
        for index, ops in [*enumerate(p.ops for p in self.parts), (-1, self.ops)]:
            for op in ops:
                for kind, name, values in op.to_rows():
                    add(index, kind, name, values)
        return rows

    @classmethod
    def from_rows(cls, rows: Sequence[Any]) -> Program:
        """Back from the column's rows (Spark Rows or dicts)."""
        parts: list[tuple[str, float]] = []
        ops: dict[int, list[Op]] = {}
        pending: dict[str, np.ndarray] = {}
        of_groups: list[tuple[str, str, np.ndarray]] = []
        for row in sorted(rows, key=lambda r: r["position"]):
            values = np.array(row["values"], np.float64).reshape(row["shape"])
            if row["op"] == "weight":
                parts.append((row["field"], float(values[0])))
                continue
            if row["op"] in _OF_GROUPS or of_groups:
                of_groups.append((row["op"], row["field"], values))
                if row["op"] == _OTHERS:
                    ops.setdefault(row["part"], []).append(Op.of_group_rows(of_groups))
                    of_groups = []
                continue
            if _FIELDS[row["op"]]:
                pending[row["field"]] = values
            if len(pending) == _FIELDS[row["op"]]:
                ops.setdefault(row["part"], []).append(Op(row["op"], pending))
                pending = {}
        fitted = tuple(FittedPart(d, tuple(ops.get(i, ())), w) for i, (d, w) in enumerate(parts))
        return cls(fitted, tuple(ops.get(-1, ())))
