"""Catalogs that end with the session: Spark's own keeps its tables' names in memory unless it is told otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

#: The name of the catalog that every session has.
OWN = "spark_catalog"


def why_lost(settings: Mapping[str, str], catalog: str | None) -> str | None:
    """Why tables of a catalog would be lost with a session that this process starts; None where they would stay.

    ``settings`` are those of the config; the others are read where Spark reads its defaults.
    """
    known = {**_defaults(), **settings}
    if catalog not in (None, OWN):
        if f"spark.sql.catalog.{catalog}" in known:
            return None
        return f"no setting spark.sql.catalog.{catalog} says what the catalog {catalog} is"
    if known.get("spark.sql.catalogImplementation") == "hive" or f"spark.sql.catalog.{OWN}" in settings:
        return None
    return "Spark's own catalog is in memory here, and ends with the command: the next one would not find the tables"


def _defaults() -> dict[str, str]:
    """The settings of `spark-defaults.conf`, where there is one."""
    home = os.environ.get("SPARK_HOME")
    folder = os.environ.get("SPARK_CONF_DIR") or (str(Path(home) / "conf") if home else None)
    file = Path(folder) / "spark-defaults.conf" if folder else None
    if file is None or not file.is_file():
        return {}
    lines = (line.strip() for line in file.read_text(errors="replace").splitlines())
    split = (re.split(r"\s*[=:\s]\s*", line, maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {found[0]: found[1] for found in split if len(found) == 2}
