"""What the commands share: how a lake or a config is named, tables for people, and how Ctrl-C ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from motorpool.config.load import load_config
from motorpool.config.run import Config, LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.lake.reading import ENGINES, Engine, LakeReader
from motorpool.pipeline.planning.lakes import lake_at
from motorpool.spark.session import build_session, end_at_once
from motorpool.texts import expand_home

ERR = Console(stderr=True)
OUT = Console()

Command = Callable[..., Any]


#: What Ctrl-C ends with: shells give a command that a signal ends 128 and the signal's number.
INTERRUPTED = 128 + signal.SIGINT
STOPPED = "Stopped. The same command goes on from here."


def local_path(value: str | Path) -> Path:
    """A file or folder of this machine; ``~`` is the home folder, as in a config: shells leave ``--out=~/x`` alone."""
    return Path(expand_home(str(value)))


def run_options(command: Command) -> Command:
    command = click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE", help="Override any key.")(
        command
    )
    return click.option(
        "--conf", required=True, type=expand_home, metavar="FILE", help="The YAML file that describes the run."
    )(command)


LAKE_OPTION = click.option("--lake", "lake_path", type=expand_home, metavar="DIR", help="The lake's folder.")
CONF_OPTION = click.option(
    "--conf", type=expand_home, metavar="FILE", help="Take the lake from a config instead (for catalogs)."
)


def lake_of(lake_path: str | None, conf: str | None, overrides: Sequence[str] = ()) -> tuple[LakeConfig, Config | None]:
    """The lake named on the command line, and the config that names it, where one does."""
    if (lake_path is None) == (conf is None):
        raise ConfigError("give either --lake DIR or --conf FILE")
    if conf is not None:
        loaded = load_config(conf, overrides)
        return loaded.lake, loaded
    return lake_at(str(lake_path), "--lake "), None


def open_lake(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    needed: Mapping[str, str] | None = None,
    *,
    delta: bool = False,
) -> Lake:
    """The lake named on the command line; ``needed`` are settings that its session must be started with.

    With ``delta`` the session reads Delta tables, whatever the lake's own format.
    """
    lake, config = lake_of(lake_path, conf)
    settings = {**(needed or {}), **(config.spark if config else {})}
    spark = build_session(settings, delta=delta or lake.format == "delta", verbose=ctx.obj["debug"])
    stop_at_ctrl_c()
    return Lake(spark, lake)


def open_reader(ctx: click.Context, lake_path: str | None, conf: str | None, engine: Engine) -> LakeReader:
    """The lake named on the command line, for questions; Spark starts with the first that needs it."""
    lake, _ = lake_of(lake_path, conf)
    return LakeReader(
        lake, lambda: open_lake(ctx, lake_path, conf), engine, lambda line: ERR.print(line, soft_wrap=True)
    )


ENGINE_OPTION = click.option(
    "--engine", type=click.Choice(list(ENGINES)), default="auto", show_default=True,
    help="Who answers. `auto`: DuckDB, without Spark, where its answer is known to be the same; a line says where not.",
)  # fmt: skip


def stop_at_ctrl_c() -> None:
    """From now on, with Spark at work, Ctrl-C ends the command at once; to be called when the session is there.

    PySpark's own handler asks the JVM to cancel jobs in the middle of another call, which ends in its tracebacks.
    """

    def stop(*_: object) -> None:
        ERR.show_cursor()
        click.echo(f"\n{STOPPED}", err=True)
        sys.stdout.flush()
        end_at_once(INTERRUPTED)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)


def show(table: Table) -> None:
    """Print a table, at full width where no terminal limits it."""
    (OUT if OUT.is_terminal else Console(width=10_000)).print(table)


def say(line: str) -> None:
    """Print a line as it is, however long."""
    OUT.print(line, soft_wrap=True, highlight=False, markup=False)
