"""The whole pipeline: every stage in order, each picking up where it was left."""

from __future__ import annotations

from collections.abc import Collection

from motorpool.config import Config
from motorpool.errors import ConfigError
from motorpool.stages.cluster import run_cluster
from motorpool.stages.consensus import run_consensus
from motorpool.stages.context import Context
from motorpool.stages.features import run_features
from motorpool.stages.ingest import run_ingest
from motorpool.stages.outliers import run_outliers

#: The stages by name, in the order in which they run. The command line and ``jobs/`` take them from here.
STAGES = {
    "ingest": run_ingest,
    "features": run_features,
    "cluster": run_cluster,
    "consensus": run_consensus,
    "outliers": run_outliers,
}


def check_config(config: Config, stages: Collection[str]) -> None:
    """ConfigError, with every problem, where the config lacks what the stages named need."""
    problems = []
    if "ingest" in stages and config.case is None:
        problems.append("case: is missing: name the case folder, e.g. --set case.path=DIR")
    if "features" in stages and not config.features:
        problems.append("features: names no feature set: list at least one descriptor with its steps")
    if "cluster" in stages and not config.cluster.models:
        problems.append("cluster.models: is empty: list at least one grid, e.g. {algorithm: kmeans, k: 2..15}")
    if problems:
        raise ConfigError("\n".join(problems))


def run_pipeline(ctx: Context) -> None:
    for stage in STAGES.values():
        stage(ctx)
