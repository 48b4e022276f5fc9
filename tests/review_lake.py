"""A made lake for the review page: photos of one colour each, labels of their colours, and clusters, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from motorpool.config.run import LakeConfig
from motorpool.lake.arrow_types import arrow_columns
from motorpool.lake.driver_rows import arrow_rows, replace_in_delta
from motorpool.lake.local_tables import LocalTables
from motorpool.lake.schemas import TABLES

COLOURS = {"red": "#c03028", "blue": "#2858c0", "white": "#e8e8e8"}
NAMES = list(COLOURS)
#: The models: three clusters, which are the colours, and six, which halve each of them.
COARSE, FINE = "c" * 16, "f" * 16


@dataclass(frozen=True)
class Made:
    tables: LocalTables
    photos: Path

    @property
    def lake(self) -> str:
        return str(self.tables.folder)


def write(folder: Path, table: str, rows: Iterable[Mapping[str, Any]] | pa.Table, lake_format: str) -> None:
    """A table of a lake; missing columns are null."""
    known = TABLES[table]
    if not isinstance(rows, pa.Table):
        names = arrow_columns(known.columns).names
        rows = [{name: row.get(name) for name in names} for row in rows]
    ready = arrow_rows(known, rows)
    if lake_format == "delta":
        assert replace_in_delta(folder / table, known, ready, "true", {})
    elif known.partition_by:
        pq.write_to_dataset(ready, folder / table, partition_cols=list(known.partition_by))
    else:
        (folder / table).mkdir(parents=True)
        pq.write_table(ready, folder / table / "data.parquet")


def path_of(i: int) -> str:
    return f"veriwild/1/{i // 3:05d}/{i:06d}.jpg"


def true_colour(i: int) -> str:
    """Three photos of a vehicle, whose colour is its number's."""
    return NAMES[i // 3 % 3]


def label(i: int) -> str:
    """What the labels say: of every tenth photo something else."""
    return NAMES[(NAMES.index(true_colour(i)) + 1) % 3] if i % 10 == 0 else true_colour(i)


def make_lake(
    folder: Path,
    n: int = 120,
    lake_format: Literal["delta", "parquet"] = "parquet",
    *,
    per: str = "image",
    annotations: Sequence[Mapping[str, Any]] = (),
    photos: bool = True,
    without: Iterable[str] = (),
) -> Made:
    """A lake of ``n`` images of which all but the last ten are left for people, in ``folder/lake``; its photos."""
    lake = folder / "lake"
    config = LakeConfig(path=str(lake), format=lake_format)
    ids = range(n)
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "images": [{"image_id": i, "path": path_of(i), "vehicle_id": f"{i // 3:05d}"} for i in ids],
        "label_sets": [{"attribute": "colour", "classes": NAMES, "per": per}],
        "image_labels": [
            {"image_id": i, "attribute": "colour", "value": label(i), "probability": 0.3 + 0.6 * (i % 7) / 7,
             "accepted": i >= n - 10, "source": "probe"}
            for i in ids
        ],
        "models": [
            {"model_id": m, "features": "net", "algorithm": "kmeans", "n_clusters": k, "status": "ok"}
            for m, k in ((COARSE, 3), (FINE, 6))
        ],
        "labels": [
            {"model_id": m, "image_id": i, "cluster": c, "distance": float(i % 11)}
            for i in ids
            for m, c in ((COARSE, NAMES.index(true_colour(i))), (FINE, 2 * NAMES.index(true_colour(i)) + i % 2))
        ],
        "clusters": [{"model_id": COARSE, "cluster": 0, "title": "reddish <b>cars</b>"}],
    }  # fmt: skip
    if annotations:
        tables["annotations"] = [
            {"attribute": "colour", "annotator": "eve", "purpose": "train", **a} for a in annotations
        ]
    for name, rows in tables.items():
        if name not in without:
            write(lake, name, rows, lake_format)
    if photos:
        for i in ids:
            file = folder / "photos" / path_of(i)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (96, 64), COLOURS[true_colour(i)]).save(file, "JPEG")
    return Made(LocalTables(config), folder / "photos")


def write_many(folder: Path, n: int) -> LocalTables:
    """A Delta lake of ``n`` images with labels of eight values and a model of 60 clusters, as the real case's size."""
    rng = np.random.default_rng(0)
    ids = pa.array(np.arange(n))
    paths = pa.array([f"veriwild/{1 + i % 10}/{i // 10:05d}/{i:06d}.jpg" for i in range(n)])
    vehicles = pa.array([f"{i // 10:05d}" for i in range(n)])
    write(folder, "images", pa.table({"image_id": ids, "path": paths, "vehicle_id": vehicles}), "delta")
    values = pa.array([f"value {v}" for v in range(8)]).take(pa.array(rng.integers(0, 8, n)))
    labels = {
        "image_id": ids, "attribute": pa.array(["type"] * n), "value": values,
        "probability": pa.array(rng.random(n), pa.float32()), "accepted": pa.array([False] * n),
        "source": pa.array(["vehicle"] * n),
    }  # fmt: skip
    write(folder, "image_labels", pa.table(labels), "delta")
    write(folder, "label_sets", [{"attribute": "type", "per": "vehicle"}], "delta")
    clusters = {
        "model_id": pa.array([COARSE] * n), "image_id": ids, "cluster": pa.array(rng.integers(0, 60, n), pa.int32()),
        "distance": pa.array(rng.random(n), pa.float32()), "strength": pa.nulls(n, pa.float32()),
        "outlier_score": pa.nulls(n, pa.float32()),
    }  # fmt: skip
    write(folder, "labels", pa.table(clusters), "delta")
    row = {"model_id": COARSE, "features": "net", "algorithm": "kmeans", "n_clusters": 60, "status": "ok"}
    write(folder, "models", [row], "delta")
    return LocalTables(LakeConfig(path=str(folder), format="delta"))
