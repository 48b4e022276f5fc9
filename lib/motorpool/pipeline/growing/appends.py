"""What has been appended to a lake: the cases, the images that each brought, and descriptors that came later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.case.descriptors import Descriptor, check_keys, open_array_files, read_vectors, with_columns
from motorpool.case.folder import Case, find_case
from motorpool.case.sources import shown
from motorpool.case.tables import read_paths
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.run import CaseConfig, has_scheme
from motorpool.errors import CaseError
from motorpool.lake import Lake
from motorpool.pipeline.context import Context
from motorpool.pipeline.ingesting.bad_rows import refusing_bad_rows, rows_to_drop
from motorpool.pipeline.pace import timed
from motorpool.spark import blocks


@dataclass(frozen=True)
class Append:
    """One append: row i of its case is image ``first`` + i; ``row`` is that of the table ``appends``."""

    row: Mapping[str, Any]

    @property
    def append_id(self) -> str:
        return str(self.row["append_id"])

    @property
    def images(self) -> range:
        first = int(self.row["first_image_id"])
        return range(first, first + int(self.row["n_rows"]))

    @property
    def case(self) -> CaseConfig:
        return CaseConfig.model_validate(json.loads(self.row["case"]))

    @property
    def finished(self) -> bool:
        return self.row["finished_at"] is not None

    def among(self, rows: DataFrame) -> DataFrame:
        """Those of ``rows`` (with ``image_id``) that are of its images."""
        return rows.where((F.col("image_id") >= self.images.start) & (F.col("image_id") < self.images.stop))


def appends_of(lake: Lake) -> list[Append]:
    """The appends whose images are in the lake, in the order in which they came.

    The table ``images`` is what their raw data is written last to: without rows there, an append has been stopped
    before, and the next one takes its numbers. One small job, where the last append has not been finished.
    """
    found = sorted((Append(row) for row in lake.rows("appends")), key=lambda a: a.images.start)
    if found and not found[-1].finished and found[-1].among(lake.read("images")).isEmpty():
        found.pop()
    return found


def number_of(appends: Sequence[Append]) -> Column:
    """The ``append_id`` of an appended ``image_id``."""
    firsts = F.array(*(F.lit(a.images.start) for a in appends))
    return F.array_max(F.filter(firsts, lambda first: first <= F.col("image_id"))).cast("string")


def case_text(case: CaseConfig) -> str:
    """A case as ``appends`` keeps it, to be opened again from any folder: JSON, without credentials."""
    given = case.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for key in ("path", "images_paths", "images_root", "attributes"):
        if key in given:
            given[key] = _lasting(given[key])
    if "descriptors" in given:
        given["descriptors"] = {name: _lasting(place) for name, place in given["descriptors"].items()}
    return json.dumps(given)


def _lasting(place: Any) -> Any:
    """A file, or a column of one, by its absolute path."""
    if isinstance(place, dict):
        return {k: _lasting(v) if k == "file" and v is not None else v for k, v in place.items()}
    return files.redact(str(place)) if has_scheme(str(place)) else str(Path(str(place)).absolute())


def check_descriptors_of(case: Case, widths: Mapping[str, int], who: str) -> None:
    """CaseError, which begins with ``who``, for a case without some of the descriptors in ``widths``."""
    missing = sorted(set(widths) - set(case.descriptors))
    if missing:
        raise CaseError(
            f"{who}: lacks the descriptor{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which the lake has of "
            f"its images; it has {', '.join(sorted(case.descriptors))}: add the file{'s' if len(missing) > 1 else ''}, "
            "or name them as case.descriptors"
        )
    computed = [n for n in sorted(widths) if isinstance(case.descriptors[n], NetworkConfig | BuiltInConfig)]
    if computed:
        raise CaseError(
            f"{who}: {', '.join(computed)} would be computed from its photos, which an append does not do: write them "
            "into a case folder first, by `motorpool describe`"
        )


def check_widths_of(descriptors: Mapping[str, Descriptor], widths: Mapping[str, int]) -> None:
    """CaseError for a descriptor that is wider or narrower than the lake's."""
    for name, given in descriptors.items():
        if given.shape[1] != widths[name]:
            raise CaseError(
                f"{given.name}: {name} has {given.shape[1]:,} columns, but the lake holds it with {widths[name]:,}: "
                "take the descriptors from the same network"
            )


def write_late(ctx: Context, widths: Mapping[str, int]) -> None:
    """Write descriptors of appended images that the lake's own images have just got; ``widths`` by their names.

    They are read from the cases that the images came from. CaseError where one of these is gone or lacks them.
    """
    for append in appends_of(ctx.lake):
        who = f"{shown_case(append.case)} (appended as {append.append_id})"
        case = find_case(append.case)
        check_descriptors_of(case, widths, who)
        arrays = open_array_files(case, list(widths))
        paths = blocks.persist(read_paths(ctx.spark, case.images_paths))
        try:
            n = paths.count()
            if n != len(append.images):
                raise CaseError(f"{who}: has {n:,} paths now, but had {len(append.images):,}: put the former ones back")
            descriptors = with_columns(ctx.spark, arrays, case, paths, n, list(widths))
        finally:
            paths.unpersist()
        check_widths_of(descriptors, widths)
        check_keys(descriptors)
        first = append.images.start
        lost = append.among(ctx.lake.read("bad_rows")).select((F.col("image_id") - first).alias("image_id"))
        with (
            timed(f"ingest: converting {', '.join(widths)} of {who}"),
            refusing_bad_rows(ctx.spark, descriptors),
            rows_to_drop(ctx.spark, descriptors, n, append.case.on_bad_rows, lost),
        ):
            vectors = read_vectors(ctx.spark, descriptors, refuse=append.case.on_bad_rows == "refuse")
            here = append.among(ctx.lake.read("images")).select("image_id")
            rows = vectors.withColumn("image_id", F.col("image_id") + first).join(here, on="image_id", how="left_semi")
            write_vectors(ctx.lake, rows, append.images, widths, n)


def write_vectors(lake: Lake, rows: DataFrame, images: range, widths: Mapping[str, int], n_rows: int) -> None:
    """Write rows of ``descriptors`` of some images, at most ``n_rows``."""
    values = sum(n_rows * (width + 2) for width in widths.values())
    lake.replace_images("descriptors", rows, images, {"descriptor": sorted(widths)}, values)


def shown_case(case: CaseConfig) -> str:
    """A case's name for messages, without credentials."""
    return files.redact(case.path) if case.path is not None else shown(case.images_paths or "the case")
