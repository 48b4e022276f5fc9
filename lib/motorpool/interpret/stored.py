"""Evidence as the text that the lake keeps of it, so that titles can be made again without counting again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from motorpool.errors import LakeError
from motorpool.interpret.evidence import Evidence, Overlap, Photos, Share


def to_text(e: Evidence) -> str:
    """JSON, some kilobytes: a few dozen bytes for every value of every attribute."""
    return json.dumps(asdict(e), ensure_ascii=False, separators=(",", ":"))


def from_text(text: str) -> Evidence:
    """The evidence again, number for number; LakeError for a text that holds none."""
    try:
        found: dict[str, Any] = json.loads(text)
        return Evidence(
            **found
            | {
                "photos": Photos(**found["photos"]),
                "colors": _shares(found["colors"]),
                "lights": _shares(found["lights"]),
                "numbers": {name: (own, usual) for name, (own, usual) in found["numbers"].items()},
                "attributes": _by_column(found["attributes"]),
                "exceptions": _by_column(found["exceptions"]),
                # Evidence of earlier versions knows no labels.
                "labels": tuple(found.get("labels", ())),
                "overlaps": [Overlap(**overlap) for overlap in found["overlaps"]],
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise LakeError(f"table 'clusters': evidence: {text[:80]!r}: holds no evidence of a cluster: {exc}") from exc


def _shares(rows: list[dict[str, Any]]) -> list[Share]:
    return [Share(**row) for row in rows]


def _by_column(columns: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[Share]]:
    return {column: _shares(rows) for column, rows in columns.items()}
