"""Signatures of RAPIDS's real packages as recorded in ``rapids_signatures.json``, for a Python that lacks them.

`make rapids-contract` compares the file with the packages, and writes it anew with ``RAPIDS_RECORD=1``. Stand-ins for
cupy and cuML refuse, by `check`, the arguments that the real ones refuse.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


_KINDS = {kind.name: kind for kind in (
    inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD,
)}  # fmt: skip


@functools.cache
def recorded() -> dict[str, Any]:
    """``versions`` of the packages, and ``names``: for each its kind, its parameters and defaults."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def known(name: str) -> dict[str, Any]:
    """What is recorded of a name; AttributeError where the real packages were not asked for it."""
    try:
        found: dict[str, Any] = recorded()["names"][name]
    except KeyError:
        raise AttributeError(
            f"{name}: not among the recorded names of the real packages ({FILE.name}): once code uses it, "
            "`RAPIDS_RECORD=1 make rapids-contract` adds it"
        ) from None
    return found


@functools.cache
def signature(name: str) -> inspect.Signature:
    """The recorded signature of a function, class or method (without self), with defaults' texts as its defaults.

    TypeError for names that are not called.
    """
    found = known(name)
    if "parameters" not in found:
        raise TypeError(f"{name}: a {found['kind']} is not called")
    parameters = [
        inspect.Parameter(p["name"], _KINDS[p["kind"]], default=p.get("default", inspect.Parameter.empty))
        for p in found["parameters"]
    ]
    return inspect.Signature(parameters)


def check(name: str, args: Iterable[Any], keywords: Iterable[str]) -> None:
    """TypeError where the real ``name`` does not take so many arguments and these keywords."""
    taken = signature(name)
    try:
        taken.bind(*args, **dict.fromkeys(keywords))
    except TypeError as exc:
        raise TypeError(f"{name}: {exc}") from None
