"""The command that gives clusters the titles of a file, in the lake and on the report's page."""

from __future__ import annotations

from pathlib import Path

import click

from motorpool.cli.common import CONF_OPTION, LAKE_OPTION, lake_of, local_path, open_lake, say
from motorpool.config.run import local_folder
from motorpool.errors import ConfigError
from motorpool.interpret.overrides import load_overrides
from motorpool.lake.local_tables import tables_in_folder
from motorpool.pipeline.context import explained
from motorpool.pipeline.stages.report import is_report
from motorpool.pipeline.study import model_ids
from motorpool.pipeline.titling.given import given_titles
from motorpool.pipeline.titling.retitle import retitle
from motorpool.pipeline.titling.shown import check_page, retitle_page
from motorpool.pipeline.titling.words import given_before
from motorpool.texts import expand_home


@click.command()
@LAKE_OPTION
@CONF_OPTION
@click.option(
    "--titles",
    "file",
    type=expand_home,
    metavar="FILE",
    help="The file of titles; report.titles of the config by default.",
)
@click.option(
    "--report", "report", type=local_path, metavar="DIR",
    help="The report whose page shows them too; by default the one of the config, or `report` beside the lake.",
)  # fmt: skip
@click.option("--add", is_flag=True, help="Keep what people call other clusters, which the file does not name.")
@click.pass_context
def titles(
    ctx: click.Context, lake_path: str | None, conf: str | None, file: str | None, report: Path | None, add: bool
) -> None:
    """Call clusters as a file of titles does, in the lake and on the report's page, in seconds; clusters that are not
    in the file get the titles that the photos give."""
    lake_config, config = lake_of(lake_path, conf)
    settings = config.report if config is not None else None
    path = file if file is not None else settings.titles if settings is not None else None
    if path is None and conf is None:
        raise ConfigError("--titles: is missing: the file of titles; the report has one to edit, titles.yaml")
    preferred = model_ids(config) if config is not None else None
    folder = report or _default(lake_config.path, settings.out if settings is not None else None)
    # Before Spark starts.
    if path is not None:
        load_overrides(path)
        tables = tables_in_folder(lake_config)
        if tables is not None:
            given_titles(tables, path, preferred)
    if folder is not None:
        check_page(lake_config, folder)
    lake = open_lake(ctx, lake_path, conf)
    with lake.held(), explained():
        given = given_titles(lake, path, preferred)
        if add:
            given = given_before(lake) | given
        changed = retitle(lake, given)
    say(f"{lake}: people have named {len(given):,} clusters, by {path or 'no file'}")
    say(f"{lake}: {len(changed):,} models have other titles or descriptions now")
    if folder is not None:
        retitle_page(lake, folder)
        say(f"{folder / 'index.html'}: shows them")
    if file is not None and (settings is None or settings.titles != file):
        say(f"Later runs take them back, unless the config names the file: report: {{titles: {file}}}")


def _default(lake: str | None, out: str | None) -> Path | None:
    """The report that there is for a lake; None where there is none."""
    beside = local_folder(lake) if lake is not None else None
    folder = Path(out) if out is not None else beside.absolute().parent / "report" if beside is not None else None
    return folder if folder is not None and is_report(folder) else None
