"""A case opened without Spark: its files, the headers of its arrays, and the number of its images.

The one place where planning asks the layer `case`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from motorpool.case import files
from motorpool.case.arrays import ArrayFile, open_array
from motorpool.case.descriptors import check_lengths
from motorpool.case.folder import PATHS_FILE, Case, find_case
from motorpool.case.images import check_paths_here, check_vehicle_column, check_vehicle_pattern
from motorpool.case.sources import PhotoList, Source, needs_spark, shown
from motorpool.case.tables import attribute_columns, count_rows, described_here, last_two, paths_here
from motorpool.case.vector_columns import ColumnHeader, header_of
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.run import CaseConfig, ColumnConfig
from motorpool.describe.described import open_describer, photos_of
from motorpool.errors import CaseError
from motorpool.photos.source import open_images
from motorpool.pipeline.planning.problems import Problems

#: A list of paths up to this size is read through, which takes a second at most; the ingest counts longer ones.
_QUICK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Opened:
    """What is known of a case; ``arrays`` and ``columns`` are the descriptors that could be opened, by name.

    ``columns`` has those that are computed from photos, too. Columns of Delta tables and catalogs are opened by Spark
    alone. ``n_images`` is the number of paths, or None where they are too many to be counted here.
    """

    case: Case
    arrays: dict[str, ArrayFile] = field(default_factory=dict)
    columns: dict[str, ColumnHeader] = field(default_factory=dict)
    n_images: int | None = None
    #: Of a CSV file that is short enough to be read through here.
    paths: pa.Array | None = None

    @property
    def names(self) -> list[str]:
        """All descriptors of the case, whether they could be opened or not."""
        return list(self.case.descriptors)

    @property
    def descriptors(self) -> dict[str, ArrayFile | ColumnHeader]:
        """The descriptors that could be opened."""
        return {**self.arrays, **self.columns}

    @property
    def n_rows(self) -> int:
        """The number of images; where these were not counted, of the rows of the longest descriptor."""
        rows = [descriptor.shape[0] for descriptor in self.descriptors.values()]
        return self.n_images if self.n_images is not None else max(rows, default=0)


def open_case(config: CaseConfig, problems: Problems) -> Opened | None:
    """The case, with whatever is wrong with its files noted; None where they cannot even be found.

    Reads headers, and the list of paths where it is short: then paths that are blank or there twice are noted. What is
    in the arrays' rows, and which images the attributes know, is for the ingest to see. Memory: the list of paths.
    """
    case, has_paths = _find(config, problems)
    if case is None:
        return None
    arrays: dict[str, ArrayFile] = {}
    columns: dict[str, ColumnHeader] = {}
    for name, source in case.descriptors.items():
        with problems.noted():
            if isinstance(source, str):
                arrays[name] = open_array(source)
            elif isinstance(source, ColumnConfig) and not needs_spark(source):
                columns[name] = header_of(source)
    n_images, paths = None, None
    if has_paths:
        with problems.noted():
            n_images = count_rows(case.images_paths)
            if n_images is None:
                paths = _read_paths(case.images_paths)
            if paths is not None:
                n_images = len(paths) or None
                # Arrays of as many rows are right, whatever is wrong with the paths.
                check_paths_here(paths, case.images_paths)
            elif n_images == 0:
                what = "photos" if isinstance(case.images_paths, PhotoList) else "paths"
                raise CaseError(f"{shown(case.images_paths)}: holds no {what}: an empty case cannot be ingested")
    columns |= _computed(config, case, n_images, problems)
    with problems.noted():
        check_vehicle_pattern(config.vehicle_pattern)
    with problems.noted():
        if case.attributes is None or not needs_spark(case.attributes):
            check_vehicle_column(None, case, config.vehicle_column)
            if case.attributes is not None:
                attribute_columns(None, case.attributes)
    with problems.noted():
        _check_rows(arrays, n_images, case)
    return Opened(case, arrays, columns, n_images, paths)


def _computed(config: CaseConfig, case: Case, n_images: int | None, problems: Problems) -> dict[str, ColumnHeader]:
    """The descriptors that are computed from photos, whose place is looked at as well."""
    sources = {n: s for n, s in case.descriptors.items() if isinstance(s, NetworkConfig | BuiltInConfig)}
    found = {}
    for name, source in sources.items():
        with problems.noted():
            describer = open_describer(source)
            found[name] = ColumnHeader(describer.name, (n_images or 0, describer.width), np.dtype(np.float32))
    if sources:
        with problems.noted():
            photos_of(config, sources)
    return found


def _find(config: CaseConfig, problems: Problems) -> tuple[Case | None, bool]:
    """The files of a case, and whether the list of paths is among them; without it the others are looked at alike."""
    with problems.noted():
        return find_case(config), True
    if config.images_paths is None and config.path is not None:
        with problems.noted():
            named = {"images_paths": files.join(config.path, PATHS_FILE)}
            return find_case(config.model_copy(update=named)), False
    return None, False


def descriptor_names(config: CaseConfig) -> list[str]:
    """The descriptors of a case; CaseError where its files cannot be found."""
    return list(find_case(config).descriptors)


def first_paths(case: Case, n: int) -> list[str]:
    """The first ``n`` paths of a case, or as many as it has; CaseError where they cannot be read."""
    found: list[str] = []
    images = case.images_paths
    for some in paths_here(images if isinstance(images, PhotoList) else _csv(images)):
        found += some
        if len(found) >= n:
            break
    return found[:n]


def columns_of_attributes(case: Case) -> list[str]:
    """The columns of the attributes file beside the paths; none without such a file."""
    if case.attributes is None:
        return []
    return [column for column in attribute_columns(None, case.attributes).values() if column != "path"]


def known_columns(case: Case) -> set[str] | None:
    """The columns that the table ``images`` will have; None where only Spark can tell, or they cannot be read."""
    if case.attributes is not None and needs_spark(case.attributes):
        return None
    try:
        return {"image_id", "path", "vehicle_id", *columns_of_attributes(case)}
    except CaseError:
        # Opening the case has told.
        return None


def known_to_attributes(case: Case, paths: Sequence[str]) -> int | None:
    """How many of some paths the attributes file describes; None without one, and for one that is long."""
    if case.attributes is None or files.file_size(_csv(case.attributes)) > _QUICK_BYTES:
        return None
    described = {path for some in described_here(_csv(case.attributes)) for path in some}
    short = {last_two(path) for path in described}
    # VERI-Wild's own file has the last two parts of each path.
    own = described == short
    return sum(path in described or (own and last_two(path) in short) for path in paths)


def photos_found(root: str, paths: Sequence[str]) -> int | None:
    """How many of some paths have a photo below ``root``; None where it lies in a store, which is slow to ask."""
    if files.local_path(root) is None:
        return None
    images = open_images(root)
    return sum(images.has(path) for path in paths)


def _csv(source: Source) -> str:
    """The file of a case in a folder, whose tables are CSV files."""
    if not isinstance(source, str):
        raise CaseError(f"{shown(source)}: is a column of a table, and no CSV file of a case folder")
    return source


def _read_paths(source: Source) -> pa.Array | None:
    """The paths of a CSV file; None for one that is long, or a table that only Spark reads."""
    if not isinstance(source, str) or files.file_size(source) > _QUICK_BYTES:
        return None
    return pa.concat_arrays([pa.array([], pa.string()), *(pa.array(some, pa.string()) for some in paths_here(source))])


def _check_rows(arrays: dict[str, ArrayFile], n_images: int | None, case: Case) -> None:
    """CaseError where arrays have other numbers of rows than there are images, or than each other."""
    if n_images is not None:
        check_lengths(arrays, n_images, case)
    elif len({array.shape[0] for array in arrays.values()}) > 1:
        counts = "; ".join(f"{array.name}: {array.shape[0]:,} rows" for array in arrays.values())
        raise CaseError(f"row i of every descriptor must be the same image, but they differ in length: {counts}")
