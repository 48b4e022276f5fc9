"""What a lake in a folder of this machine holds already, read without Spark."""

from __future__ import annotations

import logging

from motorpool.config.run import LakeConfig
from motorpool.lake.local_tables import LocalTables, tables_in_folder
from motorpool.pipeline.planning.widths import Shape

log = logging.getLogger(__name__)


class Held:
    """The descriptors, feature sets and models of a lake, by name or id; nothing of one that does not exist yet.

    Memory: a few hundred bytes for each of them.
    """

    def __init__(self, tables: LocalTables) -> None:
        sources = tables.rows("sources", ["descriptor", "n_rows", "n_columns", "n_dropped"])
        sets = tables.rows("feature_sets", ["features", "definition", "n_features"])
        #: Rows that are kept, and columns.
        self.descriptors: dict[str, Shape] = {
            r["descriptor"]: (r["n_rows"] - r["n_dropped"], r["n_columns"]) for r in sources
        }
        self.definitions: dict[str, str] = {r["features"]: r["definition"] for r in sets}
        self.widths: dict[str, int] = {r["features"]: r["n_features"] for r in sets}
        self.models: set[str] = {r["model_id"] for r in tables.rows("models", ["model_id"])}


def held_in(lake: LakeConfig) -> Held | None:
    """What a lake holds; None where only Spark can tell."""
    tables = tables_in_folder(lake)
    try:
        return Held(tables) if tables is not None else None
    except Exception as exc:
        # A newer version of Delta, a strange path, another run that writes: Spark reads it, or says what is wrong.
        log.debug("%s: cannot be read without Spark: %s", lake.path, exc)
        return None
