"""What can be told of `assign` and `append` before Spark starts: the new case, the file to write, and what the lake
labels it by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from motorpool.config.run import CaseConfig, LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake.local_tables import LocalTables
from motorpool.pipeline.assign import check_descriptors, check_widths
from motorpool.pipeline.labelling.stored import label_rows
from motorpool.pipeline.output.files import check_out
from motorpool.pipeline.planning.held import held_in
from motorpool.pipeline.planning.opening import Opened, open_case
from motorpool.pipeline.planning.problems import Problems
from motorpool.pipeline.stored_models import model_row


def check_assign(
    lake: LakeConfig, case: CaseConfig, model_id: str | None, out: Path, attributes: Collection[str] | None
) -> None:
    """ConfigError with every problem: those of the case's files, of ``--out``, and where the lake lies in a folder of
    this machine, of the model and the attributes that are named, and of the descriptors that they need.

    Which model is the best, and what it needs, is for Spark to tell.
    """
    problems = Problems()
    with problems.noted():
        check_out(out)
    opened = open_case(case, problems)
    if held_in(lake) is not None:
        _look_at_lake(LocalTables(lake), str(lake.path), model_id, attributes, opened, problems)
    if problems:
        raise ConfigError("\n".join(problems))


def check_append(case: CaseConfig) -> Opened | None:
    """The case that is to be appended; ConfigError with every problem of its files."""
    problems = Problems()
    opened = open_case(case, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return opened


def _look_at_lake(
    tables: LocalTables,
    lake: str,
    model_id: str | None,
    attributes: Collection[str] | None,
    opened: Opened | None,
    problems: Problems,
) -> None:
    asking: dict[str, str] = {}
    with problems.noted():
        if attributes is not None:
            label_rows(tables, lake, [], attributes)
    with problems.noted():
        if model_id is not None:
            features = str(model_row(tables, lake, model_id, f"--model {model_id}")["features"])
            asking |= _needed(tables, features, f"model {model_id} (feature set {features})")
    if opened is None or not asking:
        return
    with problems.noted():
        check_descriptors(asking, opened.names)
        widths = {r["descriptor"]: int(r["n_columns"]) for r in tables.rows("sources", ["descriptor", "n_columns"])}
        given = {name: header for name, header in opened.descriptors.items() if name in asking}
        check_widths(widths, asking, given)


def _needed(tables: LocalTables, features: str, who: str) -> Mapping[str, str]:
    """The descriptors of a feature set, each with ``who`` needs it."""
    rows = tables.rows("feature_sets", ["descriptors"], features=[features])
    return {name: who for row in rows for name in row["descriptors"]}
