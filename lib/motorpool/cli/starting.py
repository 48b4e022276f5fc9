"""The commands of those who start: what a config would do, whether this machine can do it, and what a lake holds.

None starts Spark, but for `status` of a lake that only Spark can read.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from motorpool.cli.common import CONF_OPTION, LAKE_OPTION, lake_of, local_path, open_lake, run_options, say, show
from motorpool.config.load import load_config
from motorpool.config.run import Config
from motorpool.doctor import examine, healthy, lines
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.lake.local_tables import LocalTables, tables_in_folder
from motorpool.percentages import percent
from motorpool.pipeline.pace import duration
from motorpool.pipeline.planning.checks import Findings, look
from motorpool.pipeline.planning.packages import check_catalog
from motorpool.pipeline.planning.plan import Plan, plan_of
from motorpool.pipeline.planning.problems import Problems
from motorpool.pipeline.planning.starter import write_starter
from motorpool.pipeline.planning.status import StageStatus, Status, left_over, status_of, written_report
from motorpool.pipeline.planning.times import SPREAD, expected_seconds, starting_seconds
from motorpool.pipeline.run import STAGES
from motorpool.texts import counted, expand_home

_GIB = 2**30


@click.command()
@click.argument("case", type=expand_home)
@click.option(
    "--out", type=local_path, default="run.yaml", show_default=True, metavar="FILE", help="The file to write."
)
def init(case: str, out: Path) -> None:
    """Write a config to start with from what lies in the folder CASE: its descriptors, paths, attributes and photos; or
    from photos alone: CASE may be a folder, zip or table of them."""
    made = write_starter(case, out)
    for line in made.seen:
        say(f"{case}: {line}")
    say(f"{out}: written. Type next:")
    for command in ("check", "run"):
        say(f"  {shlex.join(['motorpool', command, '--conf', str(out)])}")


@click.command()
@run_options
def check(conf: str, overrides: tuple[str, ...]) -> None:
    """Look for mistakes in config and case, and say what `run` would do and write. Starts no Spark."""
    config = load_config(conf, overrides)
    found = look(config, STAGES)
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    plan = plan_of(config, found)
    _show_plan(plan)
    _show_time(config, found)
    # A config may be checked here and run elsewhere.
    elsewhere = Problems()
    with elsewhere.noted():
        check_catalog(config.lake, config.spark)
    for note in (*found.notes, *(f"on this machine `run` refuses: {problem}" for problem in elsewhere)):
        say(f"Note: {note}.")
    command = ["motorpool", "run", "--conf", conf, *(word for o in overrides for word in ("--set", o))]
    where = "Type where it is to run" if elsewhere else "Type next"
    say(f"\nNo mistakes found. {where}:\n  {shlex.join(command)}")


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say whether this machine can run Motorpool: Python, Java, Spark, optional packages, GPU, memory, disk. Starts no
    Spark. Exit status 1 where something is missing without which nothing runs."""
    findings = examine()
    for line in lines(findings):
        say(line)
    ctx.exit(0 if healthy(findings) else 1)


@click.command()
@LAKE_OPTION
@CONF_OPTION
@click.pass_context
def status(ctx: click.Context, lake_path: str | None, conf: str | None) -> None:
    """Say what a lake holds: tables, feature sets, models, labels, report; with --conf also what a run has left to do.
    Starts Spark only for lakes in catalogs and stores."""
    where, config = lake_of(lake_path, conf)
    tables: LocalTables | Lake | None = tables_in_folder(where)
    try:
        told = status_of(tables) if tables is not None else None
    except LakeError:
        # A version of Delta that Spark alone reads.
        told = None
    if told is None:
        tables = open_lake(ctx, lake_path, conf)
        told = status_of(tables)
    if not told.tables:
        name = where.path or f"schema {where.schema_name}"
        raise LakeError(f"the lake {name}: holds no tables of motorpool; run `motorpool run` first")
    _show_status(told)
    report = written_report(where, config.report.out if config is not None and config.report is not None else None)
    say(f"Report: {report / 'index.html' if report else 'not written, or elsewhere'}")
    if config is not None and tables is not None:
        _show_left_over(left_over(config, tables))


def _show_status(told: Status) -> None:
    table = _table("table", "rows", left=("table",))
    for name, rows in told.tables.items():
        _add(table, name, f"{rows:,}")
    show(table)
    if told.sets:
        table = _table("feature set", "columns", "images", "models", left=("feature set",))
        for s in told.sets:
            _add(table, s.name, f"{s.n_features:,}", f"{s.n_images:,}", f"{s.n_models:,}")
        show(table)
    if told.models:
        kinds = ("ok", "degenerate", "failed")
        table = _table("algorithm", *kinds, left=("algorithm",))
        for name, counts in told.models.items():
            _add(table, name, *(f"{counts[kind]:,}" for kind in kinds))
        show(table)
    if told.attributes:
        table = _table("attribute", "photos looked at", "right", "accepted", "left for people", left=("attribute",))
        for a in told.attributes:
            right = "-" if a.accuracy is None else percent(a.accuracy)
            rest = ("-" if n is None else f"{n:,}" for n in (a.n_accepted, a.n_left))
            _add(table, a.name, f"{a.n_looks:,}", right, *rest)
        show(table)


def _show_left_over(stages: Sequence[StageStatus]) -> None:
    table = _table("stage", "the lake holds", "left", left=("stage", "the lake holds", "left"))
    for s in stages:
        if s.why:
            _add(table, s.stage, "?", s.why)
        else:
            rest = s.n_asked - s.n_there
            _add(table, s.stage, f"{s.n_there:,} of {s.n_asked:,} {s.noun}", f"{rest:,}" if rest else "nothing")
    show(table)
    say("What the other stages have left follows from rankings, looks and photos: `motorpool run` tells.")


def _show_plan(plan: Plan) -> None:
    say(f"{counted(plan.n_images, 'image')}; photos: {plan.photos or 'none'}")
    table = _table("descriptor", "columns", "numbers", "GiB as float32", "in the lake", left=("descriptor", "numbers"))
    for d in plan.descriptors:
        _add(table, d.name, f"{d.columns:,}", d.dtype, _gib(d.n_bytes), _told(d.in_lake))
    show(table)
    table = _table("feature set", "columns", "models", "in the lake", left=("feature set",))
    for s in plan.sets:
        _add(table, s.name, str(s.width or "?"), f"{s.n_models:,}", _told(s.in_lake))
    show(table)
    table = _table("algorithm", "models", "in the lake", left=("algorithm",))
    for a in plan.algorithms:
        _add(table, a.name, f"{a.n_models:,}", "?" if a.n_in_lake is None else f"{a.n_in_lake:,}")
    show(table)
    table = _table("stage", "what the config asks of it", left=("stage", "what the config asks of it"))
    for stage, asked in plan.stages.items():
        _add(table, stage, asked or "nothing")
    show(table)
    table = _table("table", "GiB in all", "GiB yet to be written", left=("table",))
    for size in plan.sizes:
        most = "" if size.exact else "up to "
        _add(table, size.table, most + _gib(size.n_bytes), most + _gib(size.n_missing))
    show(table)
    say("Before compression. Outliers, maps, neighbours and the report come on top.")
    missing = sum(size.n_missing for size in plan.sizes)
    if plan.free is None:
        say("The lake lies in no folder of this machine: how much is free there is not known.")
    else:
        say(f"{_gib(plan.free)} GiB are free where the lake lies.")
        if missing > plan.free:
            say("Note: that is less than what is yet to be written, which compression may or may not make up for.")


def _show_time(config: Config, found: Findings) -> None:
    seconds = starting_seconds() + sum(expected_seconds(config, found).values())
    low, high = duration(seconds / SPREAD), duration(seconds * SPREAD)
    say(f"`run` takes about {low} to {high} on the {counted(os.cpu_count() or 1, 'core')} of this machine.")


def _table(*columns: str, left: tuple[str, ...]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _add(table: Table, *cells: str) -> None:
    # Text, because names and paths may hold brackets, which are markup in a plain string.
    table.add_row(*map(Text, cells))


def _gib(n_bytes: int) -> str:
    return "<0.01" if 0 < n_bytes < _GIB / 100 else f"{n_bytes / _GIB:,.2f}"


def _told(in_lake: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[in_lake]
