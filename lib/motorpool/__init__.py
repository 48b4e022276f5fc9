"""Motorpool: cluster image descriptors on Spark and write them back as labelled tables."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from motorpool.compile_cache import choose_folder

__version__ = "0.1.0"
#: Names of `motorpool.api`.
_OF_THE_API = ("Lake", "Picture", "assign", "open_lake", "run")

# Before any module with compiled loops is imported.
choose_folder()


def __getattr__(name: str) -> Any:
    # Tasks and commands that need none of it do not pay for its libraries.
    if name in _OF_THE_API:
        return getattr(import_module("motorpool.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
