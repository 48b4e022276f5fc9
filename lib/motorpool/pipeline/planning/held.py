"""Which lake lies in a folder or a store, and what one on this machine holds already, read without Spark."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from motorpool.case import files
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.lake.local_tables import LocalTables, tables_in_folder

if TYPE_CHECKING:
    from motorpool.pipeline.planning.widths import Shape

log = logging.getLogger(__name__)


def lake_at(path: str, named: str = "") -> LakeConfig:
    """The lake at a path, Delta unless it plainly holds Parquet tables; remote lakes are Delta.

    LakeError where nothing is there, or no tables; ``named`` stands before the path in it.
    """
    if not files.exists(path):
        raise LakeError(f"{named}{files.redact(path)}: there is no such folder")
    tables = files.list_dir(path)
    if any(files.exists(files.join(path, t, "_delta_log")) for t in tables):
        return LakeConfig(path=path, format="delta")
    if "images" in tables or "models" in tables:
        return LakeConfig(path=path, format="parquet")
    raise LakeError(f"{named}{files.redact(path)}: holds no tables of motorpool; run `motorpool run` first")


class Held:
    """What a lake holds, by names and ids; nothing of one that does not exist yet.

    Memory: a few hundred bytes for each of them.
    """

    def __init__(self, tables: LocalTables) -> None:
        self._tables = tables
        sources = tables.rows(
            "sources", ["descriptor", "file", "dtype", "n_rows", "n_columns", "n_dropped", "computed_by"]
        )
        sets = tables.rows("feature_sets", ["features", "definition", "n_features"])
        #: The rows of ``sources``, by descriptor.
        self.sources: dict[str, dict[str, Any]] = {r["descriptor"]: r for r in sources}
        #: Rows that are kept, and columns.
        self.descriptors: dict[str, Shape] = {
            r["descriptor"]: (r["n_rows"] - r["n_dropped"], r["n_columns"]) for r in sources
        }
        self.definitions: dict[str, str] = {r["features"]: r["definition"] for r in sets}
        self.widths: dict[str, int] = {r["features"]: r["n_features"] for r in sets}
        self.models: set[str] = {r["model_id"] for r in tables.rows("models", ["model_id"])}
        #: Feature sets that have scores of outliers, and those that have maps.
        self.scored: set[str] = {r["features"] for r in tables.rows("outlier_methods", ["features"])}
        self.mapped: set[str] = {r["features"] for r in tables.rows("projection_methods", ["features"])}

    def has(self, table: str) -> bool:
        """Whether the lake has a table."""
        return self._tables.exists(table)

    def is_of(self, paths: pa.Array) -> bool:
        """Whether the lake's images are those of these paths, image i being row i; so where the lake has none yet."""
        if not self.sources or not self._tables.exists("images"):
            return True
        n_kept = next(iter(self.descriptors.values()))[0]
        n_rows = next(iter(self.sources.values()))["n_rows"]
        # Images behind them were added to the case's own.
        images = self._tables.fetch("images", ["image_id", "path"]).filter(pc.field("image_id") < n_rows)
        if n_rows != len(paths) or images.num_rows != n_kept:
            # What a killed write has left is for the ingest to judge.
            return int(n_rows) == len(paths)
        return bool(pc.all(pc.equal(paths.take(images["image_id"].combine_chunks()), images["path"])).as_py())


def held_in(lake: LakeConfig) -> Held | None:
    """What a lake holds; None where only Spark can tell."""
    tables = tables_in_folder(lake)
    try:
        return Held(tables) if tables is not None else None
    except Exception as exc:
        # A newer version of Delta, a strange path, another run that writes: Spark reads it, or says what is wrong.
        log.debug("%s: cannot be read without Spark: %s", lake.path, exc)
        return None
