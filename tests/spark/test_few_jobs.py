"""How many Spark jobs and commits a small study takes: on small cases they are what time goes with."""

from __future__ import annotations

import json
from pathlib import Path

from motorpool.pipeline.context import Context

#: Ten models of two feature sets, a consensus, outliers and every further stage took 47 jobs and 26 commits. The driver
#: holds all vectors, so no pass over them is a job.
JOBS, COMMITS = 47, 26


def test_no_more_jobs_and_commits_than_before(sample_run: Context) -> None:
    took = json.loads((Path(str(sample_run.config.lake.path)).parent / "took.json").read_text())
    assert took["jobs"] <= JOBS
    assert took["commits"] <= COMMITS
