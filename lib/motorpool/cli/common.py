"""What the commands share: how a lake or a config is named, and tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from motorpool.config.load import load_config
from motorpool.config.run import Config, LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.lake.reading import ENGINES, Engine, LakeReader
from motorpool.pipeline.pace import Pace, step
from motorpool.pipeline.planning.held import lake_at
from motorpool.pipeline.planning.packages import check_catalog
from motorpool.pipeline.planning.sizes import is_small
from motorpool.progress import Progress
from motorpool.spark.session import build_session
from motorpool.texts import expand_home

if TYPE_CHECKING:
    from motorpool.pipeline.context import Context

ERR = Console(stderr=True)
OUT = Console()

Command = Callable[..., Any]


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
    check_catalog(lake, settings)
    return Lake(start_spark(ctx, lake, settings, delta=delta), lake)


def start_spark(
    ctx: click.Context, lake: LakeConfig, settings: Mapping[str, str], *, delta: bool = False
) -> SparkSession:
    """A session for a command on a lake; a terminal says meanwhile what one waits for.

    With ``delta`` it reads Delta tables, whatever the lake's own format.
    """
    with Progress(ERR), step("starting Spark"):
        delta = delta or lake.format == "delta"
        return build_session(settings, delta=delta, verbose=ctx.obj["debug"], small=is_small(lake))


@contextmanager
def run_context(
    ctx: click.Context, config: Config, *, delta: bool = False, pace: Pace | None = None
) -> Iterator[Context]:
    """The context of a run, whose progress is shown meanwhile; closed at the end, however it comes."""
    from motorpool.pipeline.context import Context

    with Progress(ERR, pace) as progress:
        context = Context.start(config, verbose=ctx.obj["debug"], delta=delta, pace=pace)
        try:
            progress.watch(context.spark, lambda: context.doing)
            yield context
        finally:
            context.close()


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


def show(table: Table) -> None:
    """Print a table, at full width where no terminal limits it."""
    (OUT if OUT.is_terminal else Console(width=10_000)).print(table)


def say(line: str) -> None:
    """Print a line as it is, however long."""
    OUT.print(line, soft_wrap=True, highlight=False, markup=False)
