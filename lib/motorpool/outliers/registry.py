"""The outlier methods that a config can name. A new one is a module in `methods` and a place in the list below."""

from __future__ import annotations

from motorpool.outliers.method import OutlierMethod
from motorpool.outliers.methods import forest, labels, neighbours, reconstruction, vehicles
from motorpool.registry import Registry

OUTLIER_METHODS: Registry[OutlierMethod] = Registry(
    "outlier method",
    (
        forest.ISOLATION_FOREST,
        neighbours.KNN_DISTANCE,
        neighbours.LOF,
        reconstruction.PCA_ERROR,
        labels.DBSCAN_NOISE,
        labels.GLOSH,
        labels.MIXTURE_DENSITY,
        vehicles.ODD_ONE_OUT,
        vehicles.STRAY_GROUPS,
    ),
)
