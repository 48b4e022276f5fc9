"""The commands of those who start: what a config would do, and whether this machine can do it. None starts Spark."""

from __future__ import annotations

import shlex

import click
from rich.table import Table
from rich.text import Text

from motorpool.cli.common import run_options, say, show
from motorpool.config.load import load_config
from motorpool.doctor import examine, healthy, lines
from motorpool.errors import ConfigError
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.planning.plan import Plan, plan_of
from motorpool.pipeline.run import STAGES

_GIB = 2**30


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
    for note in found.notes:
        say(f"Note: {note}.")
    command = ["motorpool", "run", "--conf", conf, *(word for o in overrides for word in ("--set", o))]
    say(f"\nNo mistakes found. Type next:\n  {shlex.join(command)}")


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say whether this machine can run Motorpool: Python, Java, Spark, optional packages, GPU, memory, disk. Starts no
    Spark. Exit status 1 where something is missing without which nothing runs."""
    findings = examine()
    for line in lines(findings):
        say(line)
    ctx.exit(0 if healthy(findings) else 1)


def _show_plan(plan: Plan) -> None:
    say(f"{plan.n_images:,} images; photos: {plan.photos or 'none'}")
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
    say("Before compression. Outliers, maps and the report come on top.")
    missing = sum(size.n_missing for size in plan.sizes)
    if plan.free is None:
        say("The lake lies in no folder of this machine: how much is free there is not known.")
    else:
        say(f"{_gib(plan.free)} GiB are free where the lake lies.")
        if missing > plan.free:
            say("Note: that is less than what is yet to be written, which compression may or may not make up for.")


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
