"""Assign: a model of the lake labels the images of a new case. The lake stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.arrays import ArrayFile, open_array
from motorpool.case.files import redact
from motorpool.case.folder import Case, find_case
from motorpool.case.images import check_paths, read_images
from motorpool.case.tables import read_paths
from motorpool.cluster.registry import ALGORITHMS
from motorpool.cluster.stored import NewImages, StoredModel
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.features.fit import transform
from motorpool.features.program import Program
from motorpool.features.vehicle_steps import Vehicles
from motorpool.lake import Lake
from motorpool.pipeline.context import explained, timed
from motorpool.pipeline.export import best_model
from motorpool.pipeline.output.files import whole_file, write_csv, write_parquet
from motorpool.pipeline.stages.features import VEHICLES_ADVICE, load_program, side_by_side
from motorpool.pipeline.stages.ingest import check_lengths, read_vectors, refusing_bad_rows, rows_to_drop, without
from motorpool.spark import blocks

log = logging.getLogger(__name__)

COLUMNS = ("path", "cluster", "distance", "strength")


@dataclass(frozen=True)
class Assigned:
    """What was written: images, how many of the model's clusters they are in, and how many of them are noise."""

    model_id: str
    algorithm: str
    n_images: int
    n_clusters: int
    n_noise: int


def run_assign(lake: Lake, case: CaseConfig, model_id: str | None, out: Path) -> Assigned:
    """Write path, cluster, distance and strength of every image of ``case``, in its order, by one model.

    The leaderboard's best model of the algorithms that can (`Algorithm.relabel`), unless one is named. New images get
    the vectors of the model's feature set by the program that the lake keeps, and labels by what it keeps of the model;
    the table ``labels`` says what distance and strength are. -1 is noise, and what the algorithm does not know is
    empty. Images with NaN or infinity follow ``case.on_bad_rows``: refused, or left out of the file.

    Where the feature set has a step that looks at all photos of a vehicle (`apply_group`), the new photos are grouped
    by the vehicles of their own case; those alone of their vehicle are left out of the file by ``vehicle_residual``.
    CaseError where the case has no vehicles then.

    ``out`` is CSV, or Parquet where its name ends so, and appears whole or not at all. Raises ConfigError for a model
    that the lake does not hold or that labels nothing new, CaseError for a case that lacks a descriptor, or has one of
    another width than the lake's. Driver memory: one partition of the result.
    """
    model = _load_model(lake, model_id or str(best_model(lake, _relabelling())["model_id"]))
    program = load_program(lake, model.features)
    found = find_case(case)
    arrays = _open_descriptors(lake, found, program, model)
    spark = lake.spark
    with ExitStack() as stack:
        f = stack.enter_context(whole_file(out))
        stack.enter_context(explained())
        stack.enter_context(refusing_bad_rows(spark, arrays))
        paths = blocks.persist(read_paths(spark, found.images_paths))
        stack.callback(paths.unpersist)
        with timed(f"assign: checking {redact(found.images_paths)}"):
            n_images, _ = check_paths(paths, found.images_paths)
        check_lengths(arrays, n_images, found)
        bad_rows = stack.enter_context(rows_to_drop(spark, arrays, n_images, case.on_bad_rows))
        lost = None if bad_rows is None else bad_rows.select("image_id").distinct()
        frames = {
            name: without(read_vectors(spark, {name: array}, refuse=case.on_bad_rows == "refuse"), lost)
            for name, array in arrays.items()
        }
        vehicles = _vehicles(paths, found, case, program, model) if program.groups else None
        vectors = transform(side_by_side(frames), program, vehicles)
        with timed(f"assign: labelling {n_images:,} images by {model.algorithm} on {model.features}"):
            labels = _label(lake, model, vectors)
            stack.callback(labels.unpersist)
            rows = labels.join(paths, "image_id", "inner").orderBy("image_id").select(*COLUMNS)
            (write_parquet if out.suffix.lower() == ".parquet" else write_csv)(rows, f)
        counts = labels.agg(
            F.count("*").alias("n_images"),
            F.count_distinct(F.when(F.col("cluster") >= 0, F.col("cluster"))).alias("n_clusters"),
            F.count_if(F.col("cluster") < 0).alias("n_noise"),
        ).first()
        assert counts is not None
        return Assigned(model.model_id, model.algorithm, **counts.asDict())


def _load_model(lake: Lake, model_id: str) -> StoredModel:
    """The model with what labels new rows; ConfigError where the lake does not hold it, or that cannot be."""
    lake.check("models")
    row = next(iter(lake.rows("models", model_id=[model_id])), None)
    if row is None:
        raise ConfigError(f"--model {model_id}: the lake {lake} holds no such model; {_ADVICE}")
    who = f"--model {model_id} ({row['algorithm']} on {row['features']})"
    if row["algorithm"] not in _relabelling():
        raise ConfigError(
            f"{who}: this algorithm leaves no numbers that label new images; {_ADVICE}, of the algorithms "
            f"{', '.join(_relabelling())}"
        )
    algorithm = ALGORITHMS[row["algorithm"]]
    arrays = _arrays(lake, model_id)
    for name, owner in algorithm.borrowed.items():
        if name not in arrays and owner in row["params"]:
            arrays |= {k: v for k, v in _arrays(lake, row["params"][owner]).items() if k == name}
    missing = [name for name in algorithm.stored if name not in arrays]
    if missing and not arrays:
        raise ConfigError(f"{who}: is {row['status']} and has no labels to give: {_why(row)}; {_ADVICE}")
    if missing:
        raise LakeError(f"{who}: the lake {lake} lacks its {', '.join(missing)}: the lake is damaged, make it anew")
    return StoredModel(model_id, row["features"], row["algorithm"], row["params"], arrays)


def _relabelling() -> list[str]:
    """The algorithms whose models label new images."""
    return [name for name, algorithm in ALGORITHMS.items() if algorithm.relabel is not None]


_ADVICE = "choose one from `SELECT model_id, features, algorithm FROM leaderboard`"


def _why(row: Mapping[str, Any]) -> str:
    return str(row["reason"] or "it was written without parameters")


def _arrays(lake: Lake, model_id: str) -> dict[str, np.ndarray]:
    rows = lake.rows("parameters", model_id=[model_id])
    return {r["field"]: np.array(r["values"], np.float64).reshape(r["shape"]) for r in rows}


def _open_descriptors(lake: Lake, case: Case, program: Program, model: StoredModel) -> dict[str, ArrayFile]:
    """The files of the descriptors that the model's feature set is made of, as wide as those it was fitted on."""
    needed = f"model {model.model_id} (feature set {model.features})"
    missing = [name for name in program.descriptors if name not in case.descriptors]
    if missing:
        raise CaseError(
            f"{needed} needs the descriptor {missing[0]!r}, but the case has {', '.join(sorted(case.descriptors))}: "
            "add its file, or name one as case.descriptors"
        )
    arrays = {name: open_array(case.descriptors[name]) for name in program.descriptors}
    widths: Mapping[str, int] = {
        r["descriptor"]: r["n_columns"] for r in lake.rows("sources", ["descriptor", "n_columns"])
    }
    for name, array in arrays.items():
        if array.shape[1] != widths[name]:
            raise CaseError(
                f"{array.name}: {name} has {array.shape[1]:,} columns, but {needed} was fitted on {widths[name]:,}: "
                "take the descriptors from the same network"
            )
    return arrays


def _vehicles(paths: DataFrame, found: Case, case: CaseConfig, program: Program, model: StoredModel) -> Vehicles:
    """The vehicles of the new images; CaseError where there are none."""
    vehicles = Vehicles.of(read_images(paths, found, case.vehicle_pattern, case.vehicle_column))
    problem = vehicles.problem()
    if problem:
        kind = next(op.kind for op in program.ops if op.is_group)
        raise CaseError(
            f"model {model.model_id} (feature set {model.features}) has the step {kind}, which looks at all photos of "
            f"a vehicle, but in {redact(found.images_paths)} {problem}: {VEHICLES_ADVICE}"
        )
    return vehicles


def _label(lake: Lake, model: StoredModel, vectors: DataFrame) -> DataFrame:
    """``image_id, cluster, distance, strength`` of every vector, computed and persisted."""
    relabel = ALGORITHMS[model.algorithm].relabel
    assert relabel is not None
    return relabel(
        NewImages(
            blocks.gather(vectors),
            model,
            lambda: lake.read("features", features=model.features).select("image_id", "vector"),
            lambda: lake.read("labels", model_id=model.model_id),
            lambda text: log.debug("assign: %s", text),
        )
    )
