"""Fitted parts as rows of a table, and back: what labels new images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from motorpool.kernels.labels.calibration import Calibration
from motorpool.labelling.candidates import Part

#: The part that holds how scores become probabilities; it reads no source.
_CALIBRATION = -1


def program_rows(parts: Sequence[Part], calibration: Calibration, threshold: float | None) -> list[dict[str, Any]]:
    """One row per array: part, kind, source, field, shape and values, row by row in float64."""
    closing = {
        "sharpness": np.array([calibration.sharpness]),
        "doubt": np.array([calibration.doubt]),
        "shares": calibration.shares,
        "threshold": np.array([] if threshold is None else [threshold]),
    }
    rows = [_row(_CALIBRATION, "calibration", "", name, array) for name, array in closing.items()]
    for at, part in enumerate(parts):
        rows += [_row(at, part.kind, part.source, name, array) for name, array in part.arrays.items()]
    return rows


def _row(part: int, kind: str, source: str, name: str, array: np.ndarray) -> dict[str, Any]:
    values = np.asarray(array, np.float64)
    return {
        "part": part, "kind": kind, "source": source, "field": name, "shape": list(values.shape),
        "values": values.ravel().tolist(),
    }  # fmt: skip


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Part], Calibration, float | None]:
    """What `program_rows` was given."""
    arrays: dict[tuple[int, str, str], dict[str, np.ndarray]] = defaultdict(dict)
    for row in rows:
        key = (row["part"], row["kind"], row["source"])
        arrays[key][row["field"]] = np.array(row["values"], np.float64).reshape(row["shape"])
    closing = arrays.pop((_CALIBRATION, "calibration", ""))
    parts = [Part(kind, source, own) for (_, kind, source), own in sorted(arrays.items(), key=lambda item: item[0][0])]
    calibration = Calibration(float(closing["sharpness"][0]), float(closing["doubt"][0]), closing["shares"])
    return parts, calibration, float(closing["threshold"][0]) if len(closing["threshold"]) else None
