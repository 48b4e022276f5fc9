"""Tables of a lake written without Spark, for tests of what is told before Spark starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.driver_rows import arrow_rows, replace_in_delta
from motorpool.lake.schemas import TABLES


def lake_of(folder: Path, fmt: str, n_rows: int = 24, **descriptors: int) -> Path:
    """The table `sources` alone, with descriptors of so many columns."""
    rows = [
        {"descriptor": name, "file": f"{name}.npy", "n_rows": n_rows, "n_columns": width, "dtype": "float32",
         "n_dropped": 0, "paths_fingerprint": "1", "ingested_at": datetime.now(UTC)}
        for name, width in descriptors.items()
    ]  # fmt: skip
    write_table(folder, fmt, "sources", rows)
    return folder


def write_table(folder: Path, fmt: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A new table; columns that a row does not give are null."""
    nothing = dict.fromkeys(arrow_columns(TABLES[name].columns).names)
    table = arrow_rows(TABLES[name], [nothing | dict(row) for row in rows])
    (folder / name).mkdir(parents=True)
    if fmt == "delta":
        assert replace_in_delta(folder / name, TABLES[name], table, None, {})
    elif TABLES[name].partition_by:
        pq.write_to_dataset(table, folder / name, partition_cols=list(TABLES[name].partition_by))
    else:
        pq.write_table(table, folder / name / "data.parquet")
