"""The whole pipeline: every stage in order, each picking up where it was left."""

from __future__ import annotations

import logging
from collections.abc import Collection

from motorpool.config.run import Config
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context
from motorpool.pipeline.lookalikes.duplicates import run_duplicates
from motorpool.pipeline.lookalikes.neighbours import run_neighbours
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.interpret import run_interpret
from motorpool.pipeline.stages.label import run_label
from motorpool.pipeline.stages.outliers import run_outliers
from motorpool.pipeline.stages.project import run_project
from motorpool.pipeline.stages.quality import run_quality
from motorpool.pipeline.stages.report import run_report
from motorpool.pipeline.stages.vehicles import run_vehicles

log = logging.getLogger(__name__)

#: The stages by name, in the order in which they run. The command line and ``jobs/`` take them from here.
STAGES = {
    "ingest": run_ingest,
    "features": run_features,
    "cluster": run_cluster,
    "consensus": run_consensus,
    "vehicles": run_vehicles,
    "outliers": run_outliers,
    "project": run_project,
    "duplicates": run_duplicates,
    "neighbours": run_neighbours,
    "quality": run_quality,
    "interpret": run_interpret,
    "label": run_label,
    "report": run_report,
}


def check_config(config: Config, stages: Collection[str]) -> None:
    """ConfigError, with every problem, where config, case or this machine lack what the stages named need.

    What can be told before Spark starts, which takes seconds: see `planning.checks`.
    """
    found = look(config, stages)
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    for note in found.notes:
        log.warning("%s", note)


def run_pipeline(ctx: Context) -> None:
    for stage in STAGES.values():
        stage(ctx)
