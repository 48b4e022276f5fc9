"""The commands that ask a lake and write what it holds: without Spark where DuckDB's answer is known to be the same."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table
from rich.text import Text

from motorpool.cli.common import (
    CONF_OPTION,
    ENGINE_OPTION,
    ERR,
    LAKE_OPTION,
    local_path,
    open_reader,
    show,
)
from motorpool.errors import ConfigError
from motorpool.lake.reading import Engine
from motorpool.pipeline.handover import FORMATS
from motorpool.texts import counted

OUTPUT_OPTION = click.option(
    "--output",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="A table for people; CSV or a JSON object a line for programs.",
)


@click.command()
@LAKE_OPTION
@CONF_OPTION
@click.argument("query")
@OUTPUT_OPTION
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Rows shown as a table.")
@ENGINE_OPTION
@click.pass_context
def sql(
    ctx: click.Context, lake_path: str | None, conf: str | None, query: str, output: str, limit: int, engine: Engine
) -> None:
    """Ask the tables and views, such as `assignments` and `leaderboard`, in Spark's SQL."""
    with open_reader(ctx, lake_path, conf, engine) as lake:
        answer = lake.sql(query)
        print_rows(answer.columns, answer.rows(), output, limit)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], output: str, limit: int) -> None:
    """Print rows as a table of at most ``limit``, or all as they come: as CSV, or as a JSON object a line."""
    if output == "table":
        table, first = Table(*(Column(Text(name)) for name in columns)), list(islice(rows, limit + 1))
        for row in first[:limit]:
            # Text, because a path may hold brackets, which are markup in a plain string.
            table.add_row(*(Text("" if v is None else _cell(v)) for v in row))
        # A pipe or a file has no width to fit into.
        show(table)
        if len(first) > limit:
            ERR.print(f"The first {limit} rows; --limit N shows more, --output csv all.")
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if output == "csv":
        writer.writerow(columns)
    for row in rows:
        if output == "csv":
            writer.writerow(["" if v is None else _flat(v) for v in row])
        else:
            click.echo(json.dumps(dict(zip(columns, row, strict=True)), default=str))


def _flat(value: object) -> object:
    """A value for one field of CSV: arrays, maps and structs as JSON."""
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else value


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


@click.command()
@LAKE_OPTION
@CONF_OPTION
@click.option("--out", required=True, type=local_path, metavar="FILE", help="The file to write.")
@click.option("--model", "model_id", metavar="ID", help="A model_id; the leaderboard's best by default.")
@click.option(
    "--to", type=click.Choice(list(FORMATS)),
    help="Instead of clusters, write the labels of attributes for this tool, photos left for people first.",
)  # fmt: skip
@click.option(
    "--attribute", "attributes", multiple=True, metavar="NAME",
    help="With --to: an attribute; may be given several times. By default all that the lake has labels of.",
)  # fmt: skip
@click.option(
    "--images-url", metavar="PREFIX", help="With --to: what stands before the photos' paths, a folder or a URL."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="With --to: the first N photos.")
@click.option(
    "--montage", type=click.IntRange(min=2), metavar="N",
    help="With --to label-studio: N photos that have the same labels share a task.",
)  # fmt: skip
@click.option("--features", metavar="NAME", help="With --to embedding-atlas: the feature set whose map is drawn.")
@click.option("--map", "map_name", metavar="METHOD", help="With --to embedding-atlas: the map, e.g. umap2.")
@ENGINE_OPTION
@click.pass_context
def export(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    out: Path,
    model_id: str | None,
    to: str | None,
    attributes: tuple[str, ...],
    images_url: str | None,
    limit: int | None,
    montage: int | None,
    features: str | None,
    map_name: str | None,
    engine: Engine,
) -> None:
    """Write path, cluster and outlier of every image as CSV, with titles, distances and the vote of the vehicle; or
    with --to the labels of attributes for other tools."""
    from motorpool.pipeline.export import run_export

    if to is None:
        if attributes or images_url is not None or limit or montage or features or map_name:
            raise ConfigError("--attribute, --images-url, --limit, --montage, --features, --map: only with --to")
        with open_reader(ctx, lake_path, conf, engine) as reader:
            chosen, n_lines = run_export(reader, out, model_id)
        click.echo(f"{out}: {counted(n_lines, 'image')}, clusters of model {chosen}")
        return
    if model_id is not None:
        raise ConfigError("--model: chooses clusters, and --to writes labels of attributes: give one of both")
    from motorpool.pipeline.handover.run import Asked, check_hand_over, hand_over

    asked = Asked(to, attributes or None, images_url, limit, montage, features, map_name)
    check_hand_over(asked, out)
    with open_reader(ctx, lake_path, conf, engine) as reader:
        done = hand_over(reader, asked, out)
    click.echo(
        f"{', '.join(map(str, done.files))}: {counted(done.n_photos, 'photo')}, {done.n_left:,} of them left "
        "for people come first"
    )
