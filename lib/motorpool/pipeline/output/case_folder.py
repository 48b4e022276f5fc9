"""Descriptors computed from photos into a case folder: an .npy file, in the order of the list of images."""

from __future__ import annotations

import io
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case.folder import PATHS_FILE, find_case
from motorpool.case.images import check_paths
from motorpool.case.tables import read_paths
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.run import Config
from motorpool.describe.described import PhotoDescriptor, open_describers, photos_of
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.ingesting.describing import compute
from motorpool.pipeline.output.files import whole_file, write_csv
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

log = logging.getLogger(__name__)

#: The lake of a computation that is not done, in the case folder.
_WORK = ".described"


@dataclass(frozen=True)
class Written:
    """What was written: the file, its rows and columns, and how many rows are NaN for want of a photo."""

    file: Path
    n_images: int
    width: int
    n_problems: int


def config_of(images: str, out: Path, name: str, source: NetworkConfig | BuiltInConfig) -> Config:
    """The run that computes one descriptor; ``out`` may be a case folder already, whose list of images counts then.

    ConfigError where its file is there already, by another computation.
    """
    file, note = _files(out, name)
    if file.exists() and not note.exists():
        raise ConfigError(f"--name {name}: {file} is there already: choose another name, or remove it first")
    listed = out / PATHS_FILE
    case = {"images_root": images, "descriptors": {name: source}, "vehicle_pattern": None}
    return Config.model_validate(
        {
            "case": case | ({"images_paths": str(listed)} if listed.exists() else {}),
            "lake": {"path": str(out / _WORK), "format": "parquet"},
        }
    )


def write_descriptor(ctx: Context, out: Path) -> Written | None:
    """Write the case folder ``out``: ``images_paths.csv`` unless it is there, and ``descriptors/NAME.npy``.

    Row i is that of image i, NaN where there is no vector; ``NAME.problems.csv`` says why. ``NAME.json`` says what it
    was computed by: None where this is there already, and nothing is done; ConfigError where it is by another network.
    A run that is stopped goes on from the folder `.described`, which is removed at the end. Driver memory: one
    partition of the rows.
    """
    config = ctx.config.require_case()
    case = find_case(config)
    describers = open_describers(case)
    ((name, describer),) = describers.items()
    root = photos_of(config, describers)
    file, note = _files(out, name)
    with explained():
        paths = blocks.persist(read_paths(ctx.spark, case.images_paths))
        try:
            n_images, fingerprint = check_paths(paths, case.images_paths)
            told = {"computed_by": describer.fingerprint, "images": fingerprint, "network": describer.name}
            if file.exists():
                _check_same(file, note, told)
                return None
            found = compute(ctx, describers, paths, n_images, fingerprint, root)[name]
            listed = out / PATHS_FILE
            if not listed.exists():
                with whole_file(listed) as f:
                    write_csv(_in_order(paths).select(F.col("path").alias("paths")), f)
            problems = found.bad_rows().join(paths, on="image_id", how="inner").orderBy("image_id")
            with whole_file(file.with_suffix(".problems.csv")) as f:
                n_problems = write_csv(problems.select("path", "reason"), f)
            if not n_problems:
                file.with_suffix(".problems.csv").unlink()
            with whole_file(note) as f:
                f.write(json.dumps(told, indent=1).encode())
            # Last: what is there is whole.
            with timed(f"describe: writing {file}"), whole_file(file) as f:
                _write_npy(found, f)
        finally:
            paths.unpersist()
    return Written(file, n_images, describer.width, n_problems)


def remove_work(out: Path, *, done: bool) -> None:
    """Remove what a computation keeps for going on: once it is ``done``, or where nothing was computed."""
    if done or not (out / _WORK / "described").exists():
        shutil.rmtree(out / _WORK, ignore_errors=True)


def _files(out: Path, name: str) -> tuple[Path, Path]:
    folder = out / "descriptors"
    return folder / f"{name}.npy", folder / f"{name}.json"


def _check_same(file: Path, note: Path, told: dict[str, str]) -> None:
    try:
        there = json.loads(note.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{note}: cannot be read, so what computed {file.name} is not known: remove both") from exc
    if not isinstance(there, dict) or any(there.get(k) != told[k] for k in ("computed_by", "images")):
        raise ConfigError(
            f"{file}: was computed by another network, with other settings or of other images: choose another --name, "
            "or remove it first"
        )


def _in_order(rows: DataFrame) -> DataFrame:
    return rows.orderBy("image_id")


def _write_npy(found: PhotoDescriptor, f: BinaryIO) -> None:
    """float32[n, width] as an .npy file."""
    n, width = found.shape
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (n, width)})  # type: ignore[no-untyped-call]
    f.write(head.getvalue())

    def packed(batches: Batches) -> Batches:
        for batch in batches:
            x = np.full((len(batch), width), np.nan, np.float32)
            vectors = batch.column("vector")
            there = vectors.is_valid().to_numpy(zero_copy_only=False)
            x[there] = blocks.to_matrix(vectors.drop_null())
            yield pa.RecordBatch.from_arrays([pa.array([x.astype("<f4").tobytes()], pa.binary())], names=["data"])

    rows = _in_order(found.rows.select("image_id", "vector")).mapInArrow(packed, "data BINARY")
    for piece in rows.toLocalIterator(prefetchPartitions=True):
        f.write(piece["data"])
