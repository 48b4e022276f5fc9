"""The whole pipeline: every stage in order, each picking up where it was left."""

from __future__ import annotations

from motorpool.stages.cluster import run_cluster
from motorpool.stages.context import Context
from motorpool.stages.features import run_features
from motorpool.stages.ingest import run_ingest

#: The stages by name, in the order in which they run. The command line and ``jobs/`` take them from here.
STAGES = {"ingest": run_ingest, "features": run_features, "cluster": run_cluster}


def run_pipeline(ctx: Context) -> None:
    for stage in STAGES.values():
        stage(ctx)
