"""Words for numbers and names, the same on the page and in the pictures."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from motorpool.cluster.registry import ALGORITHMS
from motorpool.maps.method import MapMethod
from motorpool.maps.registry import MAP_METHODS
from motorpool.percentages import percent


def algorithm_name(algorithm: str) -> str:
    """The title that an algorithm registers; any other as the lake names it, such as the consensus."""
    known = ALGORITHMS.get(algorithm)
    return known.title if known else algorithm


def algorithm_noun(algorithm: str) -> str:
    """An algorithm as a sentence names its models: ``KMeans``, ``agglomerative clustering``."""
    known = ALGORITHMS.get(algorithm)
    return known.noun or known.title if known else f"{algorithm} clustering"


def method_name(method: str, dims: int) -> str:
    """``umap3`` as ``UMAP, 3-D``; a name that is not known as it is."""
    known = map_method(method, dims)
    return f"{known.title if known else method}, {dims}-D"


def map_method(method: str, dims: int) -> MapMethod | None:
    """The method behind a map's name, which ends in its dimensions; None where it is not known."""
    return MAP_METHODS.get(method.removesuffix(str(dims)))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame by column name."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any, digits: int = 3) -> str:
    """A score for people: ``digits`` behind the point, from 1,000 on none; an en dash where there is none."""
    if is_missing(value):
        return "–"
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.{digits}f}"


def share(value: Any) -> str:
    """A share as a percentage; an en dash where there is none."""
    return "–" if is_missing(value) else percent(float(value))


def ordinal(n: int) -> str:
    """``1st``, ``2nd``, ``11th``."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"


def capital(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def label_of(title: Any, cluster: int) -> str:
    """A cluster's number and its title, the number alone where nobody has named it."""
    return f"{cluster}  {title}" if isinstance(title, str) and title.strip() else f"cluster {cluster}"


def title_of(title: Any, cluster: int) -> str:
    """A cluster's title, or its number where nobody has named it."""
    return str(title) if isinstance(title, str) and title.strip() else f"cluster {cluster}"
