"""Assign: the lake labels the images of a new case, by a model and by what labelled its attributes.

The lake stays as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.arrays import ArrayFile
from motorpool.case.descriptors import Descriptor, Header, check_keys, open_array_files, read_vectors, with_columns
from motorpool.case.folder import Case, find_case
from motorpool.case.images import check_columns, check_paths, read_images
from motorpool.case.sources import shown
from motorpool.case.tables import read_paths
from motorpool.cluster.far import far_limits, is_far
from motorpool.cluster.registry import ALGORITHMS
from motorpool.cluster.stored import StoredModel
from motorpool.cluster.vehicle_votes import vote
from motorpool.config.labels import columns_of
from motorpool.config.run import CaseConfig
from motorpool.describe.described import described, open_describers, photos_of
from motorpool.describe.describer import Describer
from motorpool.describe.photo_vectors import photo_vectors
from motorpool.errors import CaseError, ConfigError
from motorpool.features.fit import transform
from motorpool.features.group_steps import attach
from motorpool.features.program import Program
from motorpool.features.vehicle_steps import Vehicles
from motorpool.labelling.apply import Labeller
from motorpool.lake import Lake
from motorpool.pipeline.context import explained
from motorpool.pipeline.export import best_model
from motorpool.pipeline.ingesting.bad_rows import refusing_bad_rows, rows_to_drop, without
from motorpool.pipeline.labelling.stored import attribute_columns, stored_labellers
from motorpool.pipeline.output.files import whole_file, write_csv, write_parquet
from motorpool.pipeline.pace import timed
from motorpool.pipeline.stages.features import VEHICLES_ADVICE, load_program, side_by_side
from motorpool.pipeline.stored_models import label_new, load_model, relabels
from motorpool.spark import blocks
from motorpool.texts import counted

log = logging.getLogger(__name__)

COLUMNS = ("path", "cluster", "title", "distance", "strength", "far", "vehicle_cluster", "vehicle_agreement")
#: What to do where an attribute cannot be labelled, but others, or clusters, can.
_WITHOUT = "or name the attributes that are wanted by --attribute (--no-attributes: clusters alone)"


@dataclass(frozen=True)
class Assigned:
    """What was written: images, how many of the model's clusters they are in, and how many of them are noise.

    ``n_far`` is the number of images that are far, noise among them; None where the model does not tell. ``accepted``
    is the number of images whose label is accepted, by attribute.
    """

    model_id: str
    algorithm: str
    n_images: int
    n_clusters: int
    n_noise: int
    n_far: int | None
    accepted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Needed:
    """All that labels new images. ``models`` by id, the first for clusters, the others for attributes.

    ``programs`` by feature set; ``asking`` says of each feature set what needs it, as text.
    """

    models: Mapping[str, StoredModel]
    labellers: Sequence[Labeller]
    programs: Mapping[str, Program]
    asking: Mapping[str, str]

    @property
    def descriptors(self) -> list[str]:
        return sorted({d for program in self.programs.values() for d in program.descriptors})

    @property
    def group_columns(self) -> dict[str, str]:
        """The columns of ``images`` that the feature sets read, and what needs each, as text."""
        asking: dict[str, str] = {}
        for features, program in self.programs.items():
            for column in program.group_columns:
                asking.setdefault(column, self.asking[features])
        return asking

    def readers(self) -> Counter[str]:
        """How many passes each feature set's vectors take."""
        found = Counter(model.features for model in self.models.values())
        found.update({part.source for who in self.labellers for part in who.parts} & set(self.programs))
        return found


def run_assign(
    lake: Lake, case: CaseConfig, model_id: str | None, out: Path, attributes: Collection[str] | None = None
) -> Assigned:
    """Write the labels of every image of ``case``, in its order: COLUMNS by one model, and value, probability and
    accepted of each attribute.

    The leaderboard's best model of the algorithms that can (`Algorithm.relabel`), unless one is named. New images get
    the vectors of the model's feature set by the program that the lake keeps, and labels by what it keeps of the model;
    the table ``labels`` says what distance and strength are. -1 is noise, and what the algorithm does not know is
    empty. ``far`` says whether an image is noise, or farther from its centroid than 99 % of the fitted images
    (`cluster.far`). ``vehicle_cluster`` and ``vehicle_agreement`` are the vote of the vehicle's photos in the new case,
    empty where it names no vehicle, and for models of what differs within vehicles. Images with NaN or infinity follow
    ``case.on_bad_rows``: refused, or left out of the file; those whose photos cannot be read, where vectors are
    computed from these, are left out.

    ``attributes`` are those of ``label_sets``, all by default, with the columns of the view ``labelled_images``. They
    are labelled as the lake's own images that nobody has looked at; photos of a vehicle vote where the new case says
    which vehicle they show, and each for itself where it does not. No new image counts as an outlier.

    Where a feature set has a step that looks at all photos of a vehicle (`apply_vehicles`), the new photos are grouped
    by the vehicles of their own case; those alone of their vehicle have no cluster by ``vehicle_residual``, and where
    no attribute is labelled they are left out of the file. CaseError where the case has no vehicles then, and where it
    lacks a column that the groups of a feature set are told by (`group_steps`); images of groups that were not fitted
    are treated by the numbers of all.

    ``out`` is CSV, or Parquet where its name ends so, and appears whole or not at all. Raises ConfigError for a model
    that the lake does not hold or that labels nothing new, and for attributes that it has no labels of; CaseError for a
    case that lacks a descriptor, or has one of another width than the lake's. Driver memory: one partition of the
    result, and the stored numbers.
    """
    chosen = model_id or str(best_model(lake, lambda r: relabels(r["algorithm"], r["params"]))["model_id"])
    needed = _needed(lake, chosen, attributes)
    model = needed.models[chosen]
    found = find_case(case)
    arrays = _open_arrays(lake, found, needed)
    describers = open_describers(found, needed.descriptors)
    _check_describers(lake, needed, describers)
    root = photos_of(case, describers) if describers else ""
    descriptors: dict[str, Descriptor] = dict(arrays)
    spark = lake.spark
    with ExitStack() as stack:
        f = stack.enter_context(whole_file(out))
        stack.enter_context(explained())
        stack.enter_context(refusing_bad_rows(spark, descriptors))
        paths = blocks.persist(read_paths(spark, found.images_paths))
        stack.callback(paths.unpersist)
        check_columns(spark, found, needed.group_columns)
        with timed(f"assign: checking {shown(found.images_paths)}"):
            n_images, _ = check_paths(paths, found.images_paths)
        descriptors |= with_columns(spark, arrays, found, paths, n_images, needed.descriptors)
        check_widths(_widths(lake), _asking(needed), descriptors)
        check_keys(descriptors)
        if describers:
            # Computed once, though several passes read it.
            rows = photo_vectors(paths, root, describers, min(n_images, 4 * blocks.parallelism(spark)))
            descriptors |= described(describers, n_images, stack.enter_context(blocks.kept(rows)))
        bad_rows = stack.enter_context(rows_to_drop(spark, descriptors, n_images, case.on_bad_rows))
        lost = None if bad_rows is None else bad_rows.select("image_id").distinct()
        frames = {
            name: without(read_vectors(spark, {name: given}, refuse=case.on_bad_rows == "refuse"), lost)
            for name, given in descriptors.items()
        }
        images = read_images(paths, found, case.vehicle_pattern, case.vehicle_column)
        vectors = _vectors(frames, images, n_images, found, needed, stack)
        with timed(f"assign: labelling {counted(n_images, 'image')} by {model.algorithm} on {model.features}"):
            clusters = {}
            for own, item in needed.models.items():
                clusters[own] = label_new(lake, item, vectors[item.features])
                stack.callback(clusters[own].unpersist)
        rows = _told(lake, model, clusters[chosen], images)
        columns = [f"`{c}`" for who in needed.labellers for c in columns_of(who.attribute)]
        if columns:
            read = {part.source for who in needed.labellers for part in who.parts}
            sources = {name: frame for name, frame in {**vectors, **clusters}.items() if name in read}
            named = attribute_columns(without(images, lost), sources, needed.labellers)
            rows = stack.enter_context(blocks.kept(named.join(rows, on="image_id", how="left")))
        with timed(f"assign: writing {out}"):
            lines = rows.join(paths, on="image_id", how="inner").orderBy("image_id").select(*COLUMNS, *columns)
            (write_parquet if out.suffix.lower() == ".parquet" else write_csv)(lines, f)
        accepted = [F.count_if(f"`{columns_of(w.attribute)[2]}`").alias(w.attribute) for w in needed.labellers]
        counts = rows.agg(
            F.count("*").alias("n_images"),
            F.count_distinct(F.when(F.col("cluster") >= 0, F.col("cluster"))).alias("n_clusters"),
            F.count_if(F.col("cluster") < 0).alias("n_noise"),
            F.count_if("far").alias("n_far"),
            *accepted,
        ).first()
        assert counts is not None
        n_images, n_clusters, n_noise, n_far, *n_accepted = (int(n) for n in counts)
        by_attribute = dict(zip((who.attribute for who in needed.labellers), n_accepted, strict=True))
        algorithm = ALGORITHMS[model.algorithm]
        known = n_far if algorithm.tells_far or algorithm.by_density else None
        return Assigned(model.model_id, model.algorithm, n_images, n_clusters, n_noise, known, by_attribute)


def _told(lake: Lake, model: StoredModel, labels: DataFrame, images: DataFrame) -> DataFrame:
    """``image_id`` and COLUMNS of every row of ``labels``, new images' labels by ``model``; no path yet.

    ``images`` has image_id and vehicle_id of the new images. A pass over the fitted images' labels by the model.
    """
    algorithm, model_id = ALGORITHMS[model.algorithm], F.lit(model.model_id)
    far_from = None
    if algorithm.tells_far:
        (limit,) = far_limits(lake.fitted(lake.read("labels", model_id=model.model_id))).collect()
        far_from = limit["far_from"]
    far = is_far()
    if algorithm.by_density:
        far = F.coalesce(far, F.lit(False))
    labels = labels.withColumn("model_id", model_id).withColumn("far_from", F.lit(far_from).cast("double"))
    (row,) = lake.rows("models", ["vehicle_part"], model_id=[model.model_id])
    votes_for = images.where(F.col("vehicle_id").isNotNull()).select("image_id", "vehicle_id")
    if row["vehicle_part"] == "within":
        votes_for = votes_for.limit(0)
    votes = vote(labels, votes_for).select(
        "vehicle_id", F.col("cluster").alias("vehicle_cluster"), F.col("agreement").alias("vehicle_agreement")
    )
    titles = lake.read("clusters", model_id=model.model_id).select("cluster", "title")
    return (
        labels.join(votes_for, on="image_id", how="left")
        .join(votes, on="vehicle_id", how="left")
        .join(F.broadcast(titles), on="cluster", how="left")
        .withColumn("far", far)
        .select("image_id", *COLUMNS[1:])
    )


def _needed(lake: Lake, model_id: str, attributes: Collection[str] | None) -> _Needed:
    """The chosen model, what labels the attributes, and the feature sets that both read."""
    models = {model_id: load_model(lake, model_id, f"--model {model_id}")}
    asking = {models[model_id].features: f"model {model_id} (feature set {models[model_id].features})"}
    labellers = stored_labellers(lake, attributes)
    if not labellers and attributes is None:
        log.info(
            "assign: the lake has no label_sets, so the file gets no columns of attributes: `motorpool label` makes "
            "them from the looks of people"
        )
    for who in labellers:
        clash = next((c for c in columns_of(who.attribute) if c.lower() in COLUMNS), None)
        if clash is not None:
            raise ConfigError(
                f"--attribute {who.attribute}: its column {clash!r} would hide the file's own of that name: call the "
                f"attribute otherwise in `labels.attributes`, {_WITHOUT}"
            )
        for part in who.parts:
            features = part.source
            if part.kind == "table":
                if part.source not in models:
                    asked = f"--attribute {who.attribute}: it is told from the clusters of model {part.source}"
                    models[part.source] = load_model(
                        lake, part.source, asked, f"run `motorpool label` anew, {_WITHOUT}"
                    )
                features = models[part.source].features
            asking.setdefault(features, f"the attribute {who.attribute} (feature set {features})")
    return _Needed(models, labellers, {name: load_program(lake, name) for name in asking}, asking)


def _open_arrays(lake: Lake, case: Case, needed: _Needed) -> dict[str, ArrayFile]:
    """The array files among the descriptors that the feature sets are made of, as wide as those they were fitted on."""
    check_descriptors(_asking(needed), case.descriptors)
    arrays = open_array_files(case, needed.descriptors)
    check_widths(_widths(lake), _asking(needed), arrays)
    return arrays


def check_descriptors(asking: Mapping[str, str], there: Collection[str]) -> None:
    """CaseError where a descriptor is not among those ``there``; ``asking`` says of each what needs it."""
    missing = [name for name in sorted(asking) if name not in there]
    if missing:
        leave_out = f", {_WITHOUT}" if asking[missing[0]].startswith("the attribute") else ""
        raise CaseError(
            f"{asking[missing[0]]} needs the descriptor {missing[0]!r}, but the case has "
            f"{', '.join(sorted(there))}: add its file, or name one as case.descriptors{leave_out}"
        )


def _asking(needed: _Needed) -> dict[str, str]:
    """What needs each descriptor, as text."""
    asking: dict[str, str] = {}
    for features, program in needed.programs.items():
        for name in program.descriptors:
            asking.setdefault(name, needed.asking[features])
    return asking


def _widths(lake: Lake) -> dict[str, int]:
    return {r["descriptor"]: int(r["n_columns"]) for r in lake.rows("sources", ["descriptor", "n_columns"])}


def check_widths(widths: Mapping[str, int], asking: Mapping[str, str], given: Mapping[str, Header]) -> None:
    """CaseError for a descriptor that is wider or narrower than the lake's; ``asking`` says of each what needs it."""
    for name, descriptor in given.items():
        if descriptor.shape[1] != widths[name]:
            raise CaseError(
                f"{descriptor.name}: {name} has {descriptor.shape[1]:,} columns, but {asking[name]} was fitted on "
                f"{widths[name]:,}: take the descriptors from the same network"
            )


def _check_describers(lake: Lake, needed: _Needed, describers: Mapping[str, Describer]) -> None:
    """CaseError for a descriptor that is computed in another way than the lake's."""
    rows = lake.rows("sources", ["descriptor", "file", "n_columns", "computed_by"])
    known = {row["descriptor"]: row for row in rows}
    for name, describer in describers.items():
        computed_by, file = known[name]["computed_by"], known[name]["file"]
        if (
            describer.width != known[name]["n_columns"]
            or (computed_by or describer.fingerprint) != describer.fingerprint
        ):
            raise CaseError(
                f"{describer.name}: {name} is computed in another way than that of {_asking(needed)[name]}, which "
                f"comes from {file}: take the same network, with the same settings"
            )


def _vectors(
    frames: Mapping[str, DataFrame],
    images: DataFrame,
    n_images: int,
    found: Case,
    needed: _Needed,
    stack: ExitStack,
) -> dict[str, DataFrame]:
    """``image_id, vector`` of the new images by feature set, persisted until the end where several passes read them.

    CaseError where a feature set looks at vehicles and the case has none.
    """
    vehicles = None
    grouping = next((name for name, program in needed.programs.items() if program.of_vehicles), None)
    if grouping is not None:
        vehicles = Vehicles.of(images)
        problem = vehicles.problem()
        if problem:
            kind = next(op.kind for op in needed.programs[grouping].ops if op.of_vehicles)
            raise CaseError(
                f"{needed.asking[grouping]} has the step {kind}, which looks at all photos of a vehicle, but in "
                f"{shown(found.images_paths)} {problem}: {VEHICLES_ADVICE}"
            )
    made = {}
    for name, program in needed.programs.items():
        wide = attach(
            side_by_side({d: frames[d] for d in program.descriptors}), images, program.group_columns, n_images
        )
        made[name] = transform(wide, program, vehicles if program.of_vehicles else None)
        if needed.readers()[name] > 1:
            made[name] = stack.enter_context(blocks.kept(made[name]))
    return made
