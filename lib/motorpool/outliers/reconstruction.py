"""Reconstruction error: how much of an image's descriptor the principal components cannot say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame

from motorpool.features.group_steps import columns_of, marked
from motorpool.features.program import Columns, FittedPart, Op, Program
from motorpool.outliers.scores import SCORES, pack_scores
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches


@dataclass(frozen=True)
class _Projection:
    """One projection ``op`` of a program, what comes before it, and the weight of its result."""

    before: Program
    op: Op
    weight: float = 1.0

    def left_out(self, raw: dict[str, np.ndarray], columns: Columns) -> np.ndarray:
        """float64[n]: the squared length of what the projection drops, from float32[n, d_i] descriptors."""
        x = self.before.apply([raw[name] for name in self.before.descriptors], columns)
        centred = x - self.op.fields["centre"]
        kept = centred @ self.op.fields["components"]
        # Components are orthonormal, so the rest is what Pythagoras leaves.
        rest = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", kept, kept)
        result: np.ndarray = self.weight**2 * np.maximum(rest, 0.0)
        return result


def pca_error(wide: DataFrame, program: Program) -> DataFrame:
    """The length of what the program's first projection (pca or svd) leaves out of every image, as SCORES.

    sqrt(|x - c|^2 - |(x - c) W|^2) for the projection's input x, its centre c and components W: the distance to what
    scikit-learn's PCA reconstructs; its square is the Q of Jackson & Mudholkar (1979). It sees what the features
    themselves have lost: something strange in the picture. Dark or blank frames leave out less than ordinary ones and
    score low; distances and forests find those.

    ``wide`` has ``image_id``, one ARRAY<FLOAT> column per raw descriptor and the columns of the program's groups. One
    pass over it, when the result is read, in float64: off by some 1e-8 of |x - c| where nearly all is kept.

    Where the parts of a joined set have projections of their own, those count, side by side: the squares of their
    errors, times the squares of the parts' weights, add up, so a descriptor in larger units counts for more.

    Memory of a task: a few float64 copies of one Arrow batch. Raises ValueError unless the program `reconstructs`.
    """
    projections = _first_projections(program)
    if not projections:
        raise ValueError("the feature set has no pca or svd step that comes first, so nothing tells what it leaves out")
    names = sorted({name for p in projections for name in p.before.descriptors})
    groups = sorted({column for p in projections for column in p.before.group_columns})

    def run(batches: Batches) -> Batches:
        for batch in batches:
            raw = {name: blocks.to_matrix(batch.column(name)) for name in names}
            columns = columns_of(batch, groups)
            squared = np.sum([p.left_out(raw, columns) for p in projections], axis=0)
            yield pack_scores(blocks.batch_ids(batch), np.sqrt(squared))

    return wide.select("image_id", *(f"`{c}`" for c in (*names, *map(marked, groups)))).mapInArrow(run, SCORES)


def reconstructs(program: Program) -> bool:
    """Whether there is a pca or svd to go by: one before any step that looks at vehicles."""
    return bool(_first_projections(program))


def _first_projections(program: Program) -> list[_Projection]:
    """The first projection of every part that has one; where none has, the first behind the parts.

    What lies behind a vehicle operation cannot be computed row by row. vehicle_whiten, which does not keep lengths, is
    a projection of its own kind: where it comes first, nothing is to be reconstructed. vehicle_within keeps them.
    """
    found = []
    for part in program.parts:
        at = _first(part.ops)
        if at is not None:
            before = Program((FittedPart(part.descriptor, part.ops[:at]),), ())
            found.append(_Projection(before, part.ops[at], part.weight))
    at = _first(program.ops)
    if not found and at is not None:
        found.append(_Projection(Program(program.parts, program.ops[:at]), program.ops[at]))
    return found


def _first(ops: tuple[Op, ...]) -> int | None:
    at = next((at for at, op in enumerate(ops) if op.kind == "project" or op.of_vehicles), None)
    return at if at is not None and _is_orthonormal(ops[at]) else None


def _is_orthonormal(op: Op) -> bool:
    """Whether an operation projects by orthonormal components, as those of pca and svd are."""
    if op.kind != "project":
        return False
    components = op.fields["components"]
    return bool(np.allclose(components.T @ components, np.eye(components.shape[1]), atol=1e-6))
