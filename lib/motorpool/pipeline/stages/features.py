"""Features: the config's feature sets, fitted and applied, become ``feature_sets`` and ``features``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.backend.protocol import CPU
from motorpool.errors import ConfigError, LakeError
from motorpool.features.fit import Fitted, Fitter
from motorpool.features.group_steps import attach
from motorpool.features.program import Program
from motorpool.features.spec import PROJECTIONS, FeatureSet, group_columns_of
from motorpool.features.vehicle_steps import Vehicles
from motorpool.lake import FEW_VALUES, Lake
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context, explained, written_after
from motorpool.pipeline.pace import Counted, timed
from motorpool.spark import block_files, blocks
from motorpool.spark.blocks import Batches
from motorpool.texts import counted

log = logging.getLogger(__name__)

#: Draws the rows that quantiles are taken from where there are too many to sort: a constant, as what a feature set is
#: does not depend on the run's seed (`FeatureSet.definition`).
_SAMPLE_SEED = 42
#: Numbers of descriptors that executors keep while feature sets are fitted on them, at most: 64 MiB. Asking a Delta
#: table for them takes Spark a job of its own for each descriptor and pass.
_KEPT_VALUES = 16 * 2**20


def run_features(ctx: Context) -> None:
    """Fit and write the feature sets that the lake does not hold yet.

    The row in ``feature_sets`` is written after the vectors, so a set without it is made again. Raises
    ConfigError when a set names a descriptor that was not ingested, or a column that ``images`` lacks; LakeError when
    the lake holds a set of the same name with other steps, or lacks the vehicles that a set's steps look at.
    """
    sets = ctx.config.feature_sets
    if not sets:
        raise ConfigError("features: names no feature set: list at least one descriptor with its steps")
    pending = _pending(ctx, sets)
    if not pending:
        log.info("features: all feature sets of the study are in the lake, nothing to do")
        return
    asking = next((fs for fs in pending if fs.uses_vehicles), None)
    vehicles = None
    if asking is not None:
        vehicles = known_vehicles(ctx.lake, f"feature set {asking.name}: the step {asking.vehicle_steps[0].kind}")
    sets_done = Counted(ctx.pace, len(pending), "feature set")
    written = _Written(ctx)
    with explained(), written_after(written.write):
        for group in _groups(pending):
            _fit_group(ctx, group, vehicles, written, sets_done)


def _fit_group(
    ctx: Context, group: Sequence[FeatureSet], vehicles: Vehicles | None, written: _Written, done: Counted
) -> None:
    """Fit feature sets that share descriptors, and hand them on to be written."""
    names = sorted({d for fs in group for d in fs.descriptors})
    columns = list(dict.fromkeys(c for fs in group for c in fs.group_columns))
    sources = ctx.lake.rows("sources", ["descriptor", "n_rows", "n_columns"], descriptor=names)
    widths = {r["descriptor"]: int(r["n_columns"]) for r in sources}
    few = sum(int(r["n_rows"]) * int(r["n_columns"]) for r in sources) <= _KEPT_VALUES
    with ExitStack() as stack:
        wide = wide_descriptors(ctx.lake, names, None, columns)
        if few:
            wide = stack.enter_context(blocks.kept(wide))
        fitter = stack.enter_context(Fitter(wide, group, _SAMPLE_SEED, vehicles, ctx.backend, widths))
        with timed(f"features: fitting {counted(len(group), 'feature set')} on {', '.join(names)}"):
            fitted = fitter.fit()
        for item in fitted:
            with timed(f"features: writing {item.spec.name} ({counted(item.n_features, 'column')})"):
                written.add(item, fitter.transform(item))
            done.add()


def wide_descriptors(
    lake: Lake, names: Iterable[str], among: Callable[[DataFrame], DataFrame] | None, columns: Sequence[str] = ()
) -> DataFrame:
    """`side_by_side` of some of the lake's descriptors, with the ``columns`` of ``images`` that tell groups.

    ``among`` gives those of some rows whose images are wanted; None: those that are fitted on.
    """
    descriptors, chosen = list(names), among or lake.fitted
    if among is None and len(descriptors) == 1:
        wide = lake.fitted_vectors("descriptors", descriptors[0], descriptor=descriptors[0])
    else:
        wide = side_by_side({name: chosen(lake.read("descriptors", descriptor=name)) for name in descriptors})
    return attach(wide, chosen(lake.read("images")), columns, lake.count("images")) if columns else wide


def side_by_side(frames: Mapping[str, DataFrame]) -> DataFrame:
    """``image_id`` and one ARRAY<FLOAT> column per descriptor, from ``image_id, vector`` of each.

    Several are joined by image (a shuffle): images that one of them lacks are left out.
    """
    named = [frame.select("image_id", F.col("vector").alias(name)) for name, frame in frames.items()]
    wide = named[0]
    for frame in named[1:]:
        wide = wide.join(frame, on="image_id", how="inner")
    return wide


def vectors_of(ctx: Context, features: str) -> DataFrame:
    """``image_id, vector`` of all images of a feature set; held where they are few."""
    if held_values(ctx, features) is None:
        return ctx.lake.read("features", features=features).select("image_id", "vector")
    rows = ctx.lake.fetch("features", ["image_id", "vector"], features=[features])
    return blocks.hold(ctx.spark, rows.to_batches(), "image_id BIGINT, vector ARRAY<FLOAT>")


@contextmanager
def gathered(ctx: Context, features: str) -> Iterator[DataFrame]:
    """Blocks of the rows that are fitted on, for as long as the `with` lasts.

    Up to HELD_VALUES numbers are held, so that passes over them take no Spark job; tasks alone load a GPU's libraries,
    so with one all are gathered by tasks. More are persisted by the executors.
    """
    if held_values(ctx, features) is not None:
        vectors = ctx.lake.fetch("features", ["image_id", "vector"], features=[features])
        first = ctx.lake.first_appended()
        if first is not None:
            vectors = vectors.filter(pc.less(vectors.column("image_id"), first))
        yield blocks.gather_here(ctx.spark, vectors)
        return
    with block_files.kept(blocks.gather(ctx.lake.fitted_vectors("features", features=features))) as block_df:
        yield block_df


def held_values(ctx: Context, features: str) -> int | None:
    """How many numbers the vectors of a feature set are, those of appended images too; None where they are not held."""
    if ctx.backend.name != CPU.name:
        return None
    rows = ctx.lake.rows("feature_sets", ["n_features"], features=[features])
    n_values = int(rows[0]["n_features"]) * ctx.lake.count("features", features=[features]) if rows else 0
    return n_values if n_values <= blocks.HELD_VALUES else None


def load_program(lake: Lake, features: str) -> Program:
    """The fitted numbers of a feature set, ready to apply to new descriptors."""
    rows = lake.rows("feature_sets", ["program"], features=[features])
    if not rows:
        raise LakeError(f"feature set {features!r} is not in the lake {lake}")
    return Program.from_rows(rows[0]["program"])


def known_vehicles(lake: Lake, who: str) -> Vehicles:
    """The vehicles of the lake's images but appended ones.

    Where no vehicle has two photos, a LakeError that says ``who`` needs them.
    """
    vehicles = Vehicles.of(lake.fitted(lake.read("images")))
    problem = vehicles.problem()
    if problem:
        raise LakeError(
            f"{who} needs to know which photos show the same vehicle, but in the lake {lake} {problem}: "
            f"{VEHICLES_ADVICE}, and ingest into a new lake"
        )
    return vehicles


#: What to do where images have no vehicles.
VEHICLES_ADVICE = (
    "set case.vehicle_pattern to a regular expression whose first group is the vehicle's part of the path, or "
    "case.vehicle_column to a column of the attributes file"
)


def _pending(ctx: Context, sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    ctx.lake.check("sources")
    check_descriptors(sets, {r["descriptor"] for r in ctx.lake.rows("sources", ["descriptor"])}, "the lake")
    if any(fs.group_columns for fs in sets):
        check_group_columns(sets, set(ctx.lake.read("images").columns), "the table images")
    known = {r["features"]: r["definition"] for r in ctx.lake.rows("feature_sets", ["features", "definition"])}
    check_definitions(sets, known)
    return [fs for fs in sets if fs.name not in known]


def check_descriptors(sets: Sequence[FeatureSet], there: Collection[str], where: str) -> None:
    """ConfigError, a line for each, where feature sets name descriptors that are not among those ``there``."""
    hold = "they hold" if " or " in where else "it holds"
    missing = [
        f"features[{index}] ({fs.name}): descriptor {name!r} is not in {where}; {hold} {', '.join(sorted(there))}"
        for index, fs in enumerate(sets)
        for name in fs.descriptors
        if name not in there
    ]
    if missing:
        raise ConfigError("\n".join(missing))


def held_group_columns(lake: Lake) -> dict[str, str]:
    """The columns of ``images`` that feature sets of the lake are fitted with, and one of the sets for each."""
    rows = sorted(lake.rows("feature_sets", ["features", "definition"]), key=lambda row: str(row["features"]))
    return {column: str(row["features"]) for row in rows for column in group_columns_of(row["definition"])}


def check_group_columns(sets: Sequence[FeatureSet], there: Collection[str], where: str) -> None:
    """ConfigError, a line for each, where steps of feature sets name columns that are not among those ``there``."""
    attributes = sorted(set(there) - {"image_id", "path", "vehicle_id"})
    missing = [
        f"features[{index}] ({fs.name}): {step}: {where} has no column {step.by!r}; its attributes are "
        f"{', '.join(attributes) or 'none'}: name one of them, or add the column to the attributes file "
        "(case.attributes)"
        for index, fs in enumerate(sets)
        for step in fs.every_step
        if step.by is not None and step.by not in there
    ]
    if missing:
        raise ConfigError("\n".join(missing))


def check_definitions(sets: Sequence[FeatureSet], known: Mapping[str, str]) -> None:
    """LakeError, a line for each, where the lake has feature sets (``known``) with other steps under the same names."""
    other = [
        f"feature set {fs.name!r} is in the lake with other steps: {known[fs.name]}, the config says {fs.definition}. "
        "Give the new one another name"
        for fs in sets
        if fs.name in known and known[fs.name] != fs.definition
    ]
    if other:
        raise LakeError("\n".join(other))


def _groups(sets: Sequence[FeatureSet]) -> list[list[FeatureSet]]:
    """Feature sets that share descriptors, directly or through others, share their passes."""
    groups: list[tuple[set[str], list[FeatureSet]]] = []
    for fs in sets:
        touching = [g for g in groups if g[0] & set(fs.descriptors)]
        merged = (
            set(fs.descriptors).union(*(g[0] for g in touching)),
            [*(s for g in touching for s in g[1]), fs],
        )
        groups = [g for g in groups if g not in touching] + [merged]
    return [members for _, members in groups]


class _Written:
    """Feature sets on their way to the tables: those of few numbers wait for others, and are written together.

    The rows of ``feature_sets`` are written after the vectors that they stand for. What waits is at most FEW_VALUES.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._vectors: list[pa.Table] = []
        self._rows: list[dict[str, object]] = []
        self._waiting = 0

    def add(self, item: Fitted, vectors: DataFrame) -> None:
        lake, name = self._ctx.lake, item.spec.name
        rows = named(vectors, name)
        values = self._ctx.values(item.n_features + 2)
        if values is None or values > FEW_VALUES:
            lake.replace("features", rows, {"features": [name]})
            n_images = lake.count("features", features=[name])
            self._rows.append(_row(item, n_images))
            self.write()
        else:
            if self._waiting + values > FEW_VALUES:
                self.write()
            self._vectors.append(rows.toArrow())
            n_images = self._vectors[-1].num_rows
            self._rows.append(_row(item, n_images))
            self._waiting += values
        if any(s.kind == "vehicle_residual" for s in item.spec.steps):
            log.info("features: %s has the %s images that are not alone of their vehicle", name, f"{n_images:,}")
        _say_variance(item)

    def write(self) -> None:
        """Write what waits."""
        vectors, rows = self._vectors, self._rows
        # What could not be written is not to be tried again.
        self._vectors, self._rows, self._waiting = [], [], 0
        names = [str(row["features"]) for row in rows]
        if vectors:
            self._ctx.lake.replace_rows("features", pa.concat_tables(vectors), {"features": names})
        if rows:
            self._ctx.lake.replace_rows("feature_sets", rows, {"features": names})


def named(vectors: DataFrame, features: str) -> DataFrame:
    """Rows of ``features`` from vectors."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            columns = [batch.column("image_id"), pa.repeat(features, len(batch)), batch.column("vector")]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "features", "vector"])

    return blocks.in_tasks(vectors, run, TABLES["features"].columns)


def _row(item: Fitted, n_images: int) -> dict[str, object]:
    """The row of ``feature_sets``."""
    spec = item.spec
    return {
        "features": spec.name,
        "descriptors": list(spec.descriptors),
        "steps": spec.describe(),
        "n_features": item.n_features,
        "n_images": n_images,
        "explained_variance": item.spectrum.explained if item.spectrum else None,
        "explained_variance_curve": item.spectrum.curve.tolist() if item.spectrum else None,
        "definition": spec.definition,
        "program": item.program.to_rows(),
    }


def _say_variance(item: Fitted) -> None:
    spec = item.spec
    if item.spectrum:
        projections = [s.kind for s in (*spec.parts[-1].steps, *spec.steps) if s.kind in PROJECTIONS]
        kind = {"vehicle_whiten": " between vehicles", "vehicle_within": " within vehicles"}.get(projections[-1], "")
        log.info("features: %s keeps %.1f %% of the variance%s", spec.name, 100 * item.spectrum.explained, kind)
