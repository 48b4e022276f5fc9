"""The map methods that a config can name. A new one is an entry in `methods` and a place in the list below."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from motorpool.errors import EnvironmentMissingError
from motorpool.maps.method import MapMethod
from motorpool.maps.methods import PCA, TSNE, UMAP
from motorpool.registry import Registry

MAP_METHODS: Registry[MapMethod] = Registry("map method", (PCA, UMAP, TSNE))


def missing_packages(methods: Iterable[str]) -> dict[str, str]:
    """Those of the named methods whose package is not installed, each with the distribution that brings it."""
    asked = {m: package for m in methods if (package := MAP_METHODS[m].package)}
    return {m: distribution for m, (module, distribution) in asked.items() if find_spec(module) is None}


def check_packages(methods: Iterable[str]) -> None:
    """EnvironmentMissingError where the package of one of the named methods is not installed."""
    missing = missing_packages(methods)
    if missing:
        raise EnvironmentMissingError(
            f"projections.methods: {next(iter(missing))} needs a package that is not installed. Install it here and on "
            f"the workers, `pip install {' '.join(missing.values())}`, or leave {' and '.join(missing)} out of "
            "projections.methods"
        )
