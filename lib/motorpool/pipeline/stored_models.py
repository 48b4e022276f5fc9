"""Models as the lake keeps them: read from ``models`` and ``parameters``, ready to label new images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from motorpool.cluster.registry import ALGORITHMS
from motorpool.cluster.stored import NewImages, StoredModel
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.lake.local_tables import Tables
from motorpool.spark import blocks

log = logging.getLogger(__name__)

_COLUMNS = ("features", "algorithm", "params", "status", "reason")
_ADVICE = "choose one from `SELECT model_id, features, algorithm FROM leaderboard`"


def relabelling() -> list[str]:
    """The algorithms whose models label new images."""
    return [name for name, algorithm in ALGORITHMS.items() if algorithm.relabel is not None]


def relabels(algorithm: str, params: Mapping[str, str]) -> bool:
    """Whether a model of this algorithm and these parameters labels new images."""
    return algorithm in relabelling() and ALGORITHMS[algorithm].unlabelling(params) is None


def model_row(tables: Tables, lake: str, model_id: str, asked: str, advice: str = _ADVICE) -> dict[str, Any]:
    """The row of ``models``; ConfigError as by `load_model` where there is none, or where its algorithm cannot label
    new images."""
    row = next(iter(tables.rows("models", _COLUMNS, model_id=[model_id])), None)
    if row is None:
        raise ConfigError(f"{asked}: the lake {lake} holds no such model; {advice}")
    if row["algorithm"] not in relabelling():
        raise ConfigError(
            f"{asked} ({row['algorithm']} on {row['features']}): this algorithm leaves no numbers that label new "
            f"images; {advice}, of the algorithms {', '.join(relabelling())}"
        )
    why = ALGORITHMS[row["algorithm"]].unlabelling(row["params"])
    if why is not None:
        raise ConfigError(
            f"{asked} ({row['algorithm']} on {row['features']}): {why} that labels new images; {advice}, or fit it "
            "without `engine`"
        )
    return row


def load_model(lake: Lake, model_id: str, asked: str, advice: str = _ADVICE) -> StoredModel:
    """The model with what labels new rows.

    ConfigError, which begins with ``asked``, the model as it was asked for, and ends with ``advice``, where the lake
    does not hold it, or that cannot be.
    """
    lake.check("models")
    row = model_row(lake, str(lake), model_id, asked, advice)
    who = f"{asked} ({row['algorithm']} on {row['features']})"
    algorithm = ALGORITHMS[row["algorithm"]]
    arrays = _arrays(lake, model_id)
    for name, owner in algorithm.borrowed.items():
        if name not in arrays and owner in row["params"]:
            arrays |= {k: v for k, v in _arrays(lake, row["params"][owner]).items() if k == name}
    missing = [name for name in algorithm.stored if name not in arrays]
    if missing and not arrays:
        raise ConfigError(f"{who}: is {row['status']} and has no labels to give: {_why(row)}; {advice}")
    if missing:
        raise LakeError(f"{who}: the lake {lake} lacks its {', '.join(missing)}: the lake is damaged, make it anew")
    return StoredModel(model_id, row["features"], row["algorithm"], row["params"], arrays)


def _why(row: Mapping[str, Any]) -> str:
    return str(row["reason"] or "it was written without parameters")


def _arrays(lake: Lake, model_id: str) -> dict[str, np.ndarray]:
    rows = lake.rows("parameters", model_id=[model_id])
    return {r["field"]: np.array(r["values"], np.float64).reshape(r["shape"]) for r in rows}


def label_new(lake: Lake, model: StoredModel, vectors: DataFrame) -> DataFrame:
    """``image_id, cluster, distance, strength`` of every row of ``vectors``, computed and persisted."""
    relabel = ALGORITHMS[model.algorithm].relabel
    assert relabel is not None
    return relabel(
        NewImages(
            blocks.gather(vectors),
            model,
            lambda: lake.fitted(lake.read("features", features=model.features)).select("image_id", "vector"),
            lambda: lake.fitted(lake.read("labels", model_id=model.model_id)),
            lambda text: log.debug("assign: %s", text),
        )
    )
