"""The whole pipeline: every stage in order, each picking up where it was left."""

from __future__ import annotations

from collections.abc import Collection

from motorpool.config.run import Config
from motorpool.errors import ConfigError
from motorpool.interpret.overrides import load_overrides
from motorpool.maps.registry import check_packages
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.interpret import run_interpret
from motorpool.pipeline.stages.label import run_label
from motorpool.pipeline.stages.outliers import run_outliers
from motorpool.pipeline.stages.project import run_project
from motorpool.pipeline.stages.report import check_report, run_report
from motorpool.pipeline.stages.vehicles import run_vehicles

#: The stages by name, in the order in which they run. The command line and ``jobs/`` take them from here.
STAGES = {
    "ingest": run_ingest,
    "features": run_features,
    "cluster": run_cluster,
    "consensus": run_consensus,
    "vehicles": run_vehicles,
    "outliers": run_outliers,
    "project": run_project,
    "interpret": run_interpret,
    "label": run_label,
    "report": run_report,
}


def check_config(config: Config, stages: Collection[str]) -> None:
    """ConfigError, with every problem, where the config lacks what the stages named need.

    EnvironmentMissingError where a package that it asks for is not installed.
    """
    problems = []
    if "ingest" in stages and config.case is None:
        problems.append("case: is missing: name the case folder, e.g. --set case.path=DIR")
    if "features" in stages and not config.features:
        problems.append("features: names no feature set: list at least one descriptor with its steps")
    if "cluster" in stages and not config.cluster.models:
        problems.append("cluster.models: is empty: list at least one grid, e.g. {algorithm: kmeans, k: 2..15}")
    if problems:
        raise ConfigError("\n".join(problems))
    if "project" in stages and config.projections is not None:
        check_packages(config.projections.methods)
    if "interpret" in stages and config.report is not None and config.report.titles is not None:
        load_overrides(config.report.titles)
    if "report" in stages and config.report is not None:
        check_report(config.lake, config.report.out)


def run_pipeline(ctx: Context) -> None:
    for stage in STAGES.values():
        stage(ctx)
