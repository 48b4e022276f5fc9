"""What a config needs of this machine: optional packages, and a catalog that outlives the command."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import SparkSession

from motorpool.backend.needs import INSTALL, SPARK_RAPIDS_ML
from motorpool.config.run import Config, LakeConfig
from motorpool.errors import ConfigError, EnvironmentMissingError, not_installed
from motorpool.maps.registry import missing_packages
from motorpool.pipeline.accelerator import needed
from motorpool.report import PACKAGES as REPORT_PACKAGES
from motorpool.spark.catalogs import why_lost
from motorpool.spark.session import is_submitted, shares_python
from motorpool.texts import listed

#: Modules of a run on a GPU that the driver imports too: it makes spark-rapids-ml's estimators.
DRIVER_MODULES = (SPARK_RAPIDS_ML,)


def check_packages(config: Config, stages: Collection[str]) -> None:
    """EnvironmentMissingError, with one line of pip for all, where packages that the stages need are not installed."""
    maps: dict[str, str] = {}
    if "project" in stages and config.projections is not None:
        maps = missing_packages(config.projections.methods)
    drawing = not_installed(REPORT_PACKAGES) if "report" in stages and config.report is not None else []
    told = []
    if maps:
        verb = "needs" if len(maps) == 1 else "need"
        told.append(f"projections.methods: {listed(list(maps))} {verb} {', '.join(maps.values())}")
    if drawing:
        told.append(f"the report needs {', '.join(drawing)}")
    if told:
        pip = " ".join([*maps.values(), *drawing])
        workers = ", for the maps on the workers too" if maps else ""
        raise EnvironmentMissingError(
            f"{'; '.join(told)}, not installed here: pip install {pip}{workers}; or leave out of the config what needs "
            "them"
        )


def check_accelerator(config: Config) -> None:
    """EnvironmentMissingError where ``accelerator: gpu`` is asked of this very Python, and it lacks the packages.

    On a cluster only executors need them, so these are asked when Spark has started; but for what the driver imports
    itself.
    """
    if config.accelerator != "gpu":
        return
    modules = needed(config) if _executes_here(config) else [m for m in needed(config) if m in DRIVER_MODULES]
    lacking = not_installed(modules)
    if lacking:
        raise EnvironmentMissingError(
            f"accelerator: gpu needs {listed(lacking)}, not installed here: {INSTALL}; or set accelerator: cpu"
        )


def _executes_here(config: Config) -> bool:
    """Whether the tasks of the session that this process would start run in this very Python."""
    if is_submitted() or SparkSession.getActiveSession() is not None:
        return False
    settings = config.spark
    return shares_python(settings.get("spark.master", "local[*]"), settings.get("spark.pyspark.python"))


def check_catalog(lake: LakeConfig, settings: Mapping[str, str]) -> None:
    """ConfigError for a lake in a catalog that ends with the session which this process would start.

    ``settings`` are the config's for Spark. A session that is there, or somebody else's, has a catalog of its own.
    """
    if lake.schema_name is None or is_submitted() or SparkSession.getActiveSession() is not None:
        return
    why = why_lost(settings, lake.catalog)
    if why is not None:
        raise ConfigError(
            f"lake.schema {lake.schema_name}: {why}. Name a folder as lake.path instead, e.g. --set lake.schema=null "
            "--set lake.catalog=null --set lake.path=lake; or run where a catalog is configured (Databricks, "
            "spark-submit on a cluster); or keep one on this machine by the settings for Spark in docs/cluster.md"
        )
