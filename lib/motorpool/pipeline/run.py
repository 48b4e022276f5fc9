"""The whole pipeline: every stage in order, each picking up where it was left."""

from __future__ import annotations

import logging
from collections.abc import Collection

from motorpool.config.run import Config
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import catch_up
from motorpool.pipeline.growing.catch_up import add_features, add_labels, caught_up
from motorpool.pipeline.growing.maps import add_places
from motorpool.pipeline.growing.outliers import add_outliers
from motorpool.pipeline.lookalikes.duplicates import run_duplicates
from motorpool.pipeline.lookalikes.neighbours import run_neighbours
from motorpool.pipeline.planning.checks import Findings, look
from motorpool.pipeline.planning.packages import check_catalog
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.interpret import run_interpret
from motorpool.pipeline.stages.label import run_label
from motorpool.pipeline.stages.nuisance import run_nuisance
from motorpool.pipeline.stages.outliers import run_outliers
from motorpool.pipeline.stages.project import run_project
from motorpool.pipeline.stages.quality import run_quality
from motorpool.pipeline.stages.report import run_report
from motorpool.pipeline.stages.vehicles import run_vehicles

log = logging.getLogger(__name__)

#: The stages by name, in the order in which they run. The command line and ``jobs/`` take them from here.
STAGES = {
    "ingest": run_ingest,
    "features": caught_up(run_features, add_features),
    "cluster": caught_up(run_cluster, add_labels),
    "consensus": run_consensus,
    "nuisance": run_nuisance,
    "vehicles": run_vehicles,
    "outliers": caught_up(run_outliers, add_outliers),
    "project": caught_up(run_project, add_places),
    "duplicates": run_duplicates,
    "neighbours": run_neighbours,
    "quality": run_quality,
    "label": run_label,
    "interpret": run_interpret,
    "report": run_report,
}


def check_config(config: Config, stages: Collection[str]) -> Findings:
    """What `planning.checks.look` has found before Spark starts, which takes seconds.

    ConfigError, with every problem, where config, case or this machine lack what the stages named need.
    """
    found = look(config, stages)
    with found.problems.noted():
        check_catalog(config.lake, config.spark)
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    for note in found.notes:
        log.warning("%s", note)
    return found


def run_pipeline(ctx: Context) -> None:
    """All stages; what they have done, and how long the rest takes, is told by the context's pace."""
    for name, stage in STAGES.items():
        if name == "report":
            catch_up(ctx)
        with ctx.pace.stage(name):
            stage(ctx)
