"""The map methods that a config can name. A new one is an entry in `methods` and a place in the list below."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from motorpool.errors import EnvironmentMissingError
from motorpool.maps.method import MapMethod
from motorpool.maps.methods import PCA, TSNE, UMAP

#: Every method by its name, in the order in which messages and pages list them.
MAP_METHODS: dict[str, MapMethod] = {}


def register(entry: MapMethod) -> None:
    """Add a method; ValueError for a name that is taken."""
    if entry.name in MAP_METHODS:
        raise ValueError(f"map method {entry.name!r}: is registered already")
    MAP_METHODS[entry.name] = entry


def unregister(name: str) -> None:
    """Take a method out again; KeyError where there is none of this name."""
    del MAP_METHODS[name]


def check_packages(methods: Iterable[str]) -> None:
    """EnvironmentMissingError where the package of one of the named methods is not installed."""
    asked = {m: package for m in methods if (package := MAP_METHODS[m].package)}
    missing = {m: distribution for m, (module, distribution) in asked.items() if find_spec(module) is None}
    if missing:
        raise EnvironmentMissingError(
            f"projections.methods: {next(iter(missing))} needs a package that is not installed. Install it here and on "
            f"the workers, `pip install {' '.join(missing.values())}`, or leave {' and '.join(missing)} out of "
            "projections.methods"
        )


for _entry in (PCA, UMAP, TSNE):
    register(_entry)
