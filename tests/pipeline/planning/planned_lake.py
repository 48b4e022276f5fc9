"""A lake that holds what `ingest` writes last, made without Spark."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from review_lake import write


def lake_of(folder: Path, fmt: str, n_rows: int = 24, **descriptors: int) -> Path:
    """The table `sources` alone, with descriptors of so many columns."""
    rows = [
        {"descriptor": name, "file": f"{name}.npy", "n_rows": n_rows, "n_columns": width, "dtype": "float32",
         "n_dropped": 0, "paths_fingerprint": "1", "ingested_at": datetime.now(UTC)}
        for name, width in descriptors.items()
    ]  # fmt: skip
    write(folder, "sources", rows, fmt)
    return folder
