"""The outlier methods that a config can name. A new one is a module in `methods` and a place in the list below."""

from __future__ import annotations

from motorpool.outliers.method import OutlierMethod
from motorpool.outliers.methods import forest, labels, neighbours, reconstruction, vehicles

#: Every method by its name, in the order in which messages and pages list them.
OUTLIER_METHODS: dict[str, OutlierMethod] = {}


def register(entry: OutlierMethod) -> None:
    """Add a method; ValueError for a name that is taken."""
    if entry.name in OUTLIER_METHODS:
        raise ValueError(f"outlier method {entry.name!r}: is registered already")
    OUTLIER_METHODS[entry.name] = entry


def unregister(name: str) -> None:
    """Take a method out again; KeyError where there is none of this name."""
    del OUTLIER_METHODS[name]


for _entry in (
    forest.ISOLATION_FOREST,
    neighbours.KNN_DISTANCE,
    neighbours.LOF,
    reconstruction.PCA_ERROR,
    labels.DBSCAN_NOISE,
    labels.GLOSH,
    labels.MIXTURE_DENSITY,
    vehicles.ODD_ONE_OUT,
    vehicles.STRAY_GROUPS,
):
    register(_entry)
