"""The command line: ``motorpool run``, each stage alone, ``sample``, ``sql``, ``similar``, ``export``, ``assign``,
``review`` and ``serve``; those of who starts, ``init``, ``check``, ``doctor`` and ``status``, are in `starting`,
``titles`` in `titling`, ``describe`` in `describing`."""

from __future__ import annotations

import getpass
import logging
import re
import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from motorpool import __version__, stopping

try:
    from pyspark.logger import PySparkLogger
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "pyspark":
        raise
    if sys.argv[1:] == ["doctor"]:
        from motorpool.doctor import examine, lines

        print("\n".join(lines(examine())))
        sys.exit(1)
    # Spark is an extra, since clusters bring their own; no other command works without it, not even the list of them.
    sys.exit("motorpool: Spark is not installed here: pip install 'motorpool[spark]', or run on a cluster that has it")

from motorpool.cli.common import (
    CONF_OPTION,
    ENGINE_OPTION,
    ERR,
    LAKE_OPTION,
    OUT,
    lake_of,
    local_path,
    open_lake,
    open_reader,
    run_context,
    run_options,
    show,
    start_spark,
)
from motorpool.cli.reading import OUTPUT_OPTION, export, print_rows, sql
from motorpool.errors import AnnotationError, ConfigError, MotorpoolError
from motorpool.progress import LogLines, working
from motorpool.texts import counted, expand_home

# What a command alone needs is imported in it: questions to a lake are answered in less time than all of it takes.
if TYPE_CHECKING:
    from pyspark.sql import Row

    from motorpool.config.labels import AttributeConfig
    from motorpool.config.run import CaseConfig, Config
    from motorpool.kernels.pairs.geometry import Metric
    from motorpool.lake import Lake
    from motorpool.lake.reading import Engine
    from motorpool.pipeline.annotating.importing import Imported
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.growing.append import Appended
    from motorpool.review.journal import Journal

#: A traceback of Python's; the group is the first line after its files and code, which are indented.
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(\S.*)")


class _Commands(click.Group):
    """The stages and the commands of those who start are made when somebody asks for one of them, or for all."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            load_all()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        load_all()
        return super().list_commands(ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Log details, and show tracebacks and Spark's own log.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Cluster image descriptors on Spark and write them back as labelled tables."""
    ctx.obj = {"debug": debug}
    _configure_logging(debug)


def _configure_logging(debug: bool) -> None:
    logger = logging.getLogger("motorpool")
    logger.handlers[:] = [LogLines(ERR, show_level=debug)]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    # PySpark's own copy of every error, as JSON on stderr.
    PySparkLogger.getLogger("SQLQueryContextLogger").disabled = not debug


def _work(
    ctx: click.Context,
    conf: str,
    overrides: Sequence[str],
    work: Callable[[Context], None],
    stages: Collection[str],
) -> Context:
    from motorpool.config.load import load_config
    from motorpool.pipeline.pace import Pace
    from motorpool.pipeline.planning.times import expected_seconds
    from motorpool.pipeline.run import check_config

    config = load_config(conf, overrides)
    # Spark takes seconds to start, and a pipeline hours to reach its last stage.
    found = check_config(config, stages)
    pace = Pace.of(stages, expected_seconds(config, found))
    with run_context(ctx, config, pace=pace) as context:
        work(context)
    return context


@cli.command()
@click.option("--conf", type=expand_home, metavar="FILE", help="The YAML file that describes the run.")
@click.option(
    "--images", type=expand_home, metavar="DIR|ZIP|TABLE",
    help="Instead of --conf: photos alone. Their first study is written as `motorpool init` does, into a file here.",
)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE", help="Override any key.")
@click.pass_context
def run(ctx: click.Context, conf: str | None, images: str | None, overrides: tuple[str, ...]) -> None:
    """The whole pipeline, picking up where an earlier run was stopped."""
    from motorpool.pipeline.run import STAGES, run_pipeline
    from motorpool.pipeline.stages.report import check_report

    began = time.monotonic()
    if (conf is None) == (images is None):
        raise ConfigError(
            "give either --conf FILE, the YAML file that describes the run, or --images DIR, photos alone"
        )
    if conf is None:
        from motorpool.pipeline.planning.starter import study_of_photos

        conf = str(study_of_photos(str(images)))
        click.echo(f"{conf}: the study of these photos; from now on also `motorpool run --conf {shlex.quote(conf)}`")
    context = _work(ctx, conf, overrides, run_pipeline, STAGES)
    config = context.config
    folder = check_report(config.lake, config.report.out) if config.report is not None else None
    summarise(context.lake, time.monotonic() - began, folder, conf)


def _add_stage(name: str, stage: Callable[[Context], None]) -> None:
    @cli.command(name, help=(stage.__doc__ or "").split("\n\n")[0])
    @run_options
    @click.pass_context
    def command(ctx: click.Context, conf: str, overrides: tuple[str, ...]) -> None:
        def work(context: Context) -> None:
            with context.pace.stage(name):
                stage(context)

        _work(ctx, conf, overrides, work, [name])


def load_all() -> None:
    """Make all commands that `cli` has."""
    from motorpool.cli.describing import describe
    from motorpool.cli.starting import check, doctor, init, status
    from motorpool.cli.titling import titles
    from motorpool.pipeline.run import STAGES

    if "init" in cli.commands:
        return
    for name, stage in STAGES.items():
        # The report also works on a lake alone, and has its own command below.
        if name != "report":
            _add_stage(name, stage)
    for command in (init, check, doctor, status, titles, describe):
        cli.add_command(command)


@cli.group()
def annotate() -> None:
    """Photos for people to look at, and what they said about them."""


@cli.command()
@click.argument("out", type=local_path)
@click.option("--images", type=click.IntRange(min=1), default=2000, show_default=True, help="Number of photos.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The same seed, the same case.")
@click.option("--no-images", is_flag=True, help="Descriptors and tables only, no photos.")
def sample(out: Path, images: int, seed: int, no_images: bool) -> None:
    """Make a sample case in OUT, in the form of the real one."""
    from motorpool_sample import make_sample_case

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=ERR, transient=True) as bar:
        task = bar.add_task("sample", total=None)
        summary = make_sample_case(
            out,
            images,
            seed,
            not no_images,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    photos = "photos" if summary.with_images else "images (no photos drawn)"
    click.echo(
        f"{out}: {summary.images:,} {photos} of {summary.vehicles:,} vehicles, {summary.outliers:,} outliers, "
        f"{summary.seconds:.0f} s"
    )


@cli.command("sample-answers")
@click.argument("case", type=local_path)
@click.argument("looks", type=local_path)
def sample_answers(case: Path, looks: Path) -> None:
    """Fill in LOOKS, a file of `annotate draw`, from the truth of the sample case in CASE: as people would who are
    never wrong."""
    from motorpool_sample.answers import fill_in

    click.echo(f"{looks}: {counted(fill_in(case, looks), 'answer')} from the truth of {case}, not from people")


_CASE_HELP = "The new images' case folder, or a YAML file whose section `case` names its parts."
_YAML = (".yaml", ".yml")
#: Models that `append` names whose new fit is due.
_MOST_DUE = 5
_IMAGES_OPTION = click.option(
    "--images",
    "images_root",
    type=expand_home,
    metavar="DIR|ZIP|TABLE",
    help="Where the photos lie, unless the config says.",
)


for _command in (sql, export):
    cli.add_command(_command)


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Images shown for each.")
@click.option("--features", metavar="NAME", help="A feature set; that of the leaderboard's best model by default.")
@click.option(
    "--metric", type=click.Choice(["euclidean", "cosine"]), default="euclidean", show_default=True,
    help="How the distance of two vectors is measured.",
)  # fmt: skip
@OUTPUT_OPTION
@ENGINE_OPTION
@click.pass_context
def similar(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    images: tuple[str, ...],
    n: int,
    features: str | None,
    metric: Metric,
    output: str,
    engine: Engine,
) -> None:
    """Show the images that are most similar to some, which are named by path or image_id."""
    from motorpool.lake.arrow_types import arrow_columns
    from motorpool.pipeline.context import explained
    from motorpool.pipeline.lookalikes.similar import COLUMNS, find_similar

    with open_reader(ctx, lake_path, conf, engine) as reader, explained():
        rows = find_similar(reader, images, n, features, metric)
    print_rows(arrow_columns(COLUMNS).names, rows, output, len(rows))


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.option("--case", "case_path", required=True, type=expand_home, metavar="DIR", help=_CASE_HELP)
@click.option("--out", required=True, type=local_path, metavar="FILE", help="The CSV or .parquet file to write.")
@click.option("--model", "model_id", metavar="ID", help="A model_id; the leaderboard's best by default.")
@click.option(
    "--attribute", "attributes", multiple=True, metavar="NAME",
    help="An attribute to label; may be given several times. By default all that the lake has labels of.",
)  # fmt: skip
@click.option("--no-attributes", is_flag=True, help="Clusters alone.")
@click.pass_context
def assign(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    case_path: str,
    out: Path,
    model_id: str | None,
    attributes: tuple[str, ...],
    no_attributes: bool,
) -> None:
    """Label the images of a new case by a model of the lake (cluster, title, distance, strength, far, the vehicle's
    vote) and by its attributes (value, probability and accepted of each)."""
    from motorpool.case.sources import reads_delta
    from motorpool.pipeline.assign import run_assign
    from motorpool.pipeline.planning.assigning import check_assign

    if attributes and no_attributes:
        raise ConfigError("--no-attributes: labels no attribute, but --attribute names some: give one of both")
    case = _new_case(case_path)
    wanted = attributes if attributes or no_attributes else None
    check_assign(lake_of(lake_path, conf)[0], case, model_id, out, wanted)
    lake = open_lake(ctx, lake_path, conf, delta=reads_delta(case))
    with working(ERR, lake.spark):
        done = run_assign(lake, case, model_id, out, wanted)
    far = "" if done.n_far is None else f", {done.n_far:,} are far from every cluster"
    click.echo(
        f"{out}: {counted(done.n_images, 'image')} in {counted(done.n_clusters, 'cluster')}, "
        f"{done.n_noise:,} of them noise{far}, by model {done.model_id} ({done.algorithm})"
    )
    for name, n in done.accepted.items():
        click.echo(f"  {name}: {n:,} photos have an accepted label, {done.n_images - n:,} are left for people")


@cli.command()
@run_options
@click.option("--case", "case_path", required=True, type=expand_home, metavar="DIR", help=_CASE_HELP)
@click.option(
    "--follow", "following", is_flag=True,
    help="DIR is a folder into which case folders are put, or the case is of a Delta table to which rows are added: "
    "add what is there, and wait for more until Ctrl-C.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="With --follow: do not wait for more.")
@click.pass_context
def append(
    ctx: click.Context, conf: str, overrides: tuple[str, ...], case_path: str, following: bool, once: bool
) -> None:
    """Add the images of a new case to the lake, with labels by its models and of its attributes; nothing is fitted
    again."""
    from motorpool.case.sources import reads_delta
    from motorpool.config.load import load_config
    from motorpool.pipeline.growing.append import run_append, stages_of
    from motorpool.pipeline.growing.follow import follow, follow_table
    from motorpool.pipeline.pace import Pace
    from motorpool.pipeline.planning.assigning import check_append
    from motorpool.pipeline.planning.times import expected_of_append
    from motorpool.pipeline.run import check_config

    if once and not following:
        raise ConfigError("--once: ends what --follow begins: give both, or neither")
    config = load_config(conf, overrides)
    case = _new_case(case_path, config.case)
    check_config(config, [])
    # Of cases that are still to come nothing is known.
    pace = None if following else Pace.of(stages_of(config), expected_of_append(config, check_append(case)))
    with run_context(ctx, config, delta=reads_delta(case), pace=pace) as context:

        def show_appended(path: str, done: Appended) -> None:
            _show_appended(context.lake, path, done)

        if following and case_path.lower().endswith(_YAML):
            follow_table(context, case, show_appended, once=once)
        elif following:
            follow(context, case_path, lambda path: _new_case(path, config.case), show_appended, once=once)
        else:
            show_appended(case_path, run_append(context, case))


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.option(
    "--earlier", required=True, type=expand_home, metavar="DIR",
    help="The folder of the lake whose clusters are continued.",
)  # fmt: skip
@click.pass_context
def match(ctx: click.Context, lake_path: str | None, conf: str | None, earlier: str) -> None:
    """Say which clusters of an earlier lake the clusters of a new fit continue, and give them their ids (table
    `cluster_ids`)."""
    from motorpool.lake import Lake
    from motorpool.pipeline.growing.matching import run_match

    before, _ = lake_of(earlier, None)
    lake = open_lake(ctx, lake_path, conf, delta=before.format == "delta")
    with working(ERR, lake.spark):
        done = run_match(lake, Lake(lake.spark, before))
    click.echo(
        f"{lake}: {counted(done.n_models, 'model')} that {before.path} has too; ids of clusters: "
        f"{done.n_continued:,} kept, {done.n_new:,} new, {done.n_gone:,} gone"
    )


def _new_case(path: str, known: CaseConfig | None = None) -> CaseConfig:
    """The case in a folder, or that a YAML file names. A folder's images have vehicles, and bad rows are met, as the
    ``known`` case says."""
    from motorpool.config.load import load_case
    from motorpool.config.run import CaseConfig

    if path.lower().endswith(_YAML):
        return load_case(path)
    settings = {} if known is None else known.model_dump(include={"vehicle_pattern", "vehicle_column", "on_bad_rows"})
    return CaseConfig(path=path, **settings)


def _show_appended(lake: Lake, case: str, done: Appended) -> None:
    came = done.came
    left_out = [f"{came.n_known:,} were there already"] if came.n_known else []
    left_out += [f"{came.n_dropped:,} have NaN or infinity"] if came.n_dropped else []
    click.echo(f"{lake}: {counted(came.n_new, 'image')} of {case} added{''.join(f', {text}' for text in left_out)}")
    if came.n_new:
        click.echo(f"  labels by {counted(done.n_models, 'model')}; the leaderboard stays as it was")
    for algorithm, n in sorted(done.unlabelling.items()):
        click.echo(f"  no labels by {counted(n, 'model')} of {algorithm}: the algorithm labels no new images")
    if done.unscoring:
        click.echo(f"  no outlier scores by {', '.join(done.unscoring)}: these score no new images")
    for row in done.due[:_MOST_DUE]:
        click.echo(f"  a new fit of model {row['model_id']} is due: {row['reason']}")
    if len(done.due) > _MOST_DUE:
        click.echo(f"  and of {counted(len(done.due) - _MOST_DUE, 'other model')}: see the table drift")


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE", help="Override any key of the config.")
@click.option(
    "--out", type=expand_home, metavar="DIR", help="The folder to write; `report` beside the lake by default."
)
@_IMAGES_OPTION
@click.pass_context
def report(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    overrides: tuple[str, ...],
    out: str | None,
    images_root: str | None,
) -> None:
    """Write the report as a folder: open its index.html in a browser, no network needed."""
    from motorpool.config.run import Config, ReportConfig
    from motorpool.lake import Lake
    from motorpool.pipeline.planning.packages import check_catalog
    from motorpool.pipeline.stages.report import check_report, images_root_of, write_report

    if conf is None and overrides:
        raise ConfigError("--set overrides keys of a config: give --conf FILE too")
    lake_config, config = lake_of(lake_path, conf, overrides)
    settings = (config.report if config else None) or ReportConfig()
    # Before Spark starts.
    folder = check_report(lake_config, out if out is not None else settings.out)
    root = images_root or (images_root_of(config) if config else None)
    check_catalog(lake_config, config.spark if config else {})
    seed = config.seed if config else Config.model_fields["seed"].default
    spark = start_spark(ctx, lake_config, config.spark if config else {})
    with working(ERR, spark):
        done = write_report(Lake(spark, lake_config), settings, folder, root, seed)
    click.echo(
        f"{folder / 'index.html'}: {done.n_bytes / 1e6:.1f} MB, {counted(done.n_points, 'image')} on maps, "
        f"{counted(done.n_photos - done.n_unreadable, 'photo')}, {done.seconds:.0f} s"
    )


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.option("--port", type=click.IntRange(1, 65535), default=10000, show_default=True, help="TCP port of the server.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback: clients of this machine only.")
@click.pass_context
def serve(ctx: click.Context, lake_path: str | None, conf: str | None, port: int, host: str) -> None:
    """Answer SQL from JDBC and HiveServer2 clients until Ctrl-C. There is no authentication, and clients can write."""
    from motorpool.serve import check_address, serving, session_settings

    check_address(host, port)
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="motorpool-serve-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with stopping.removed_at_stop(scratch):
            lake = open_lake(ctx, lake_path, conf, session_settings(scratch))
            with serving(lake, host, port, scratch) as server, stopping.asked(ended.set):
                url = server.address.url
                click.echo(f"{lake}: {', '.join(server.tables)}")
                click.echo(f"Serving SQL on {url}; Ctrl-C stops it. From another terminal:")
                click.echo(f'  beeline -u {url} -e "SELECT * FROM leaderboard LIMIT 10"')  # noqa: S608 (shown)
                server.wait(ended)
    click.echo("Stopped.", err=True)


_ATTRIBUTE_HELP = "The attribute, as `labels.attributes` of the config names it."
_PURPOSE = click.Choice(["train", "audit"])


@annotate.command("draw")
@LAKE_OPTION
@CONF_OPTION
@click.option(
    "--attribute",
    "attributes",
    required=True,
    multiple=True,
    metavar="NAME",
    help=f"{_ATTRIBUTE_HELP} Several may be given, each with photos of its own.",
)
@click.option(
    "--n", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Number of photos for each attribute."
)
@click.option(
    "--purpose",
    type=_PURPOSE,
    default="train",
    show_default=True,
    help="Labels are learned from `train`: typical photos, then those whose labels are unsure. `audit` is a random "
    "sample that measures how often labels are right.",
)
@click.option(
    "--features", multiple=True, metavar="NAME",
    help="A feature set that says which photos are typical; several count side by side. By default those that the "
    "config gives the attribute, or else one of every descriptor.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The same seed, the same photos."
)
@click.option("--out", required=True, type=local_path, metavar="FILE", help="The CSV file to write.")
@click.pass_context
def annotate_draw(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    attributes: tuple[str, ...],
    n: int,
    purpose: str,
    features: tuple[str, ...],
    seed: int,
    out: Path,
) -> None:
    """Choose photos to look at: fill in the column `value` (`?`: it cannot be told), then import the file."""
    from motorpool.pipeline.annotating.attributes import check_known
    from motorpool.pipeline.annotating.drawing import check_attributes, draw, write_looks

    check_attributes(attributes)
    known = _attributes(lake_of(lake_path, conf)[1])
    for attribute in attributes:
        check_known(attribute, known)
    lake = open_lake(ctx, lake_path, conf)
    with working(ERR, lake.spark):
        drawn = {}
        for attribute in attributes:
            configured = known[attribute].features if known else None
            drawn[attribute] = draw(lake, attribute, n, purpose, seed, features or configured)
    write_looks(drawn, purpose, out)
    for attribute, part in drawn.items():
        click.echo(f"{out}: {counted(len(part.looks), 'photo')} to look at for {attribute} ({purpose})")
        for note in part.notes:
            click.echo(f"  {note}")


@annotate.command("import")
@LAKE_OPTION
@CONF_OPTION
@click.argument("file", type=expand_home)
@click.option("--attribute", metavar="NAME", help="The attribute to read, where the file has several or names none.")
@click.option("--column", metavar="NAME", help="What the file calls the attribute, where that is not its name.")
@click.option("--purpose", type=_PURPOSE, help="What the annotations are for, unless the file says; else `train`.")
@click.option("--annotator", metavar="NAME", help="Who looked, unless the file says; your login name by default.")
@click.pass_context
def annotate_import(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    file: str,
    attribute: str | None,
    column: str | None,
    purpose: str | None,
    annotator: str | None,
) -> None:
    """Take what people said about photos: a filled-in CSV, any table with paths and values, VERI-Wild's
    vehicle_info.txt, an export of Label Studio (JSON) or of CVAT (for images, XML). All of the file, or nothing."""
    from motorpool.pipeline.annotating.importing import Asked, check_file, import_file

    asked = Asked(annotator or _login(), purpose, attribute, column)
    check_file(file, asked)
    attributes = _attributes(lake_of(lake_path, conf)[1])
    lake = open_lake(ctx, lake_path, conf)
    with working(ERR, lake.spark):
        done = import_file(lake, file, asked, attributes)
    _show_imported(file, done)


def _show_imported(source: str, done: Sequence[Imported]) -> None:
    for item in done:
        click.echo(
            f"{source}: {item.attribute}: {item.n_new:,} new, {item.n_changed:,} changed, {item.n_same:,} as before"
        )


@cli.command()
@LAKE_OPTION
@CONF_OPTION
@click.option("--attribute", metavar="NAME", help="What people shall tell; the only attribute by default.")
@click.option(
    "--draws", type=expand_home, metavar="FILE", help="Show the photos of a file of `annotate draw` instead of labels."
)
@click.option("--model", "model_id", metavar="ID", help="Show the clusters of a model instead of labels.")
@click.option("--all", "everything", is_flag=True, help="Show accepted labels too, behind those left for people.")
@click.option("--n", "goal", type=click.IntRange(min=1), metavar="N", help="Photos to look at; all by default.")
@_IMAGES_OPTION
@click.option("--annotator", metavar="NAME", help="The name that the page proposes; your login name by default.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="TCP port of the page; 0: any free."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback: browsers of this machine only.")
@click.option(
    "--journal", type=local_path, metavar="FILE",
    help="Where answers are kept until their import; beside the lake by default.",
)  # fmt: skip
@click.option("--no-import", is_flag=True, help="Leave the answers in the journal, for the next review to import.")
@click.option("--import", "only_import", is_flag=True, help="Only import what an earlier review has left there.")
@click.pass_context
def review(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    attribute: str | None,
    draws: str | None,
    model_id: str | None,
    everything: bool,
    goal: int | None,
    images_root: str | None,
    annotator: str | None,
    port: int,
    host: str,
    journal: Path | None,
    no_import: bool,
    only_import: bool,
) -> None:
    """Look at photos on a local page, many look-alikes at once, until Ctrl-C; then import the answers."""
    from motorpool.review import check_packages

    check_packages()
    from motorpool.lake.local_tables import LocalTables
    from motorpool.photos.source import open_images
    from motorpool.pipeline.annotating.attributes import check_name
    from motorpool.pipeline.stages.report import images_root_of
    from motorpool.review.app import build_app
    from motorpool.review.journal import Journal, journal_file
    from motorpool.review.serving import address_of, serve_until_stopped
    from motorpool.review.sources import choose_attribute, prepare
    from motorpool.review.state import Review
    from motorpool.serve import bound

    if sum((draws is not None, model_id is not None, everything)) > 1:
        raise ConfigError("--draws, --model and --all each say what to look at: give one of them")
    lake_config, config = lake_of(lake_path, conf)
    attributes = _attributes(config)
    if no_import and only_import:
        raise ConfigError("--import and --no-import: give one of them")
    tables = LocalTables(lake_config)
    name = choose_attribute(tables, attribute, attributes)
    check_name(name)
    file = journal or journal_file(tables.folder, name)
    if only_import:
        with closing(Journal(file, str(tables.folder), name)) as kept:
            _import_answers(ctx, lake_path, conf, kept, attributes)
        return
    root = images_root or (images_root_of(config) if config else None)
    if root is None:
        raise ConfigError("--images: is missing: the folder or zip in which the photos lie")
    images = open_images(root)
    with (
        closing(Journal(file, str(tables.folder), name)) as kept,
        bound(host, port) as listening,
    ):
        prepared = prepare(tables, name, draws, model_id, everything, (attributes or {}).get(name))
        state = Review(prepared, kept, name, goal)
        if state.n_answers:
            click.echo(f"{kept.file}: {counted(state.n_answers, 'answer')} of an earlier review, not imported yet")
        # Browsers that come before the server is ready wait for it.
        listening.listen()
        url = address_of(listening, host, kept.token)
        click.echo(f"{name}, {prepared.title}: {state.n_left:,} to look at. Open in a browser; Ctrl-C ends the review:")
        click.echo(f"  {url}")
        app = build_app(state, images, kept.token, listening.getsockname()[1], annotator or _login(), [host])
        serve_until_stopped(app, listening)
        if no_import:
            click.echo(f"{kept.file}: keeps {counted(state.n_answers, 'answer')}: the next review goes on from here")
        else:
            _import_answers(ctx, lake_path, conf, kept, attributes)


def _import_answers(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    journal: Journal,
    attributes: Mapping[str, AttributeConfig] | None,
) -> None:
    """The journal's answers by way of a file; where they are refused, that file stays, for it to be corrected."""
    from motorpool.pipeline.annotating.importing import Asked, import_file
    from motorpool.pipeline.output.files import whole_file

    file = journal.file.with_name(f"{journal.file.stem}-answers.csv")
    text, n_answers = journal.text()
    if not n_answers:
        click.echo("No answers to import.")
        return
    click.echo(f"Importing {counted(n_answers, 'answer')} ...")
    with whole_file(file) as f:
        f.write(text.encode())
    lake = open_lake(ctx, lake_path, conf)
    try:
        with working(ERR, lake.spark):
            done = import_file(lake, str(file), Asked(_login()), attributes)
    except AnnotationError as exc:
        raise AnnotationError(
            f"{exc}\nNo answer is lost: {journal.file} keeps all. Take those back on the page of the next review; or "
            "correct the file, import it by `motorpool annotate import`, and remove the journal"
        ) from exc
    journal.clear()
    file.unlink()
    _show_imported(str(lake), done)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # Containers run as numbers without a name.
        return "unknown"


def _attributes(config: Config | None) -> Mapping[str, AttributeConfig] | None:
    """The attributes that the config names; None without a config or its section `labels`."""
    return config.labels.attributes if config is not None and config.labels is not None else None


@cli.command("audit")
@LAKE_OPTION
@CONF_OPTION
@click.option("--attribute", required=True, metavar="NAME", help=_ATTRIBUTE_HELP)
@click.option(
    "--target", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
    help="Share of right labels that is wanted; by default what the labels were made for.",
)  # fmt: skip
@click.option(
    "--confidence", type=click.FloatRange(0.5, 1, max_open=True), default=0.95, show_default=True, metavar="SHARE",
    help="How often the interval covers the truth.",
)  # fmt: skip
@click.pass_context
def audit_command(
    ctx: click.Context,
    lake_path: str | None,
    conf: str | None,
    attribute: str,
    target: float | None,
    confidence: float,
) -> None:
    """How often the labels of an attribute are right, from photos drawn for an audit: accept them or not, by value."""
    from motorpool.percentages import percent
    from motorpool.pipeline.annotating.auditing import audit

    lake = open_lake(ctx, lake_path, conf)
    with working(ERR, lake.spark):
        found = audit(lake, attribute, target, confidence)
    table = Table()
    for name in (attribute, "photos", "looks", "right", "accuracy", f"{percent(confidence)} interval", "verdict"):
        table.add_column(Text(name), justify="left" if name in (attribute, "verdict") else "right")
    for row in found.rows:
        table.add_row(
            Text("all" if row["value"] is None else row["value"], style="" if row["value"] else "bold"),
            *(f"{row[c]:,}" for c in ("n_images", "n", "right")),
            "-" if row["accuracy"] is None else percent(row["accuracy"]),
            f"{percent(row['low'])} to {percent(row['high'])}",
            Text(row["verdict"]),
        )
    show(table)
    for note in found.notes:
        OUT.print(note, soft_wrap=True, highlight=False, markup=False)


def summarise(lake: Lake, seconds: float, report_folder: Path | None = None, conf: str = "run.yaml") -> None:
    """What a run found, what to look at, and what to type next; where no model can be ranked, why not."""
    best = lake.leaderboard().orderBy("rank").first()
    status = [row["status"] for row in lake.rows("models", ["status"])]
    n_images = lake.count("images")
    left_out = len(status) - status.count("ok")
    OUT.print(
        f"\n{counted(n_images, 'image')}, {counted(len(status), 'model')}, {left_out} of them left out of the ranking "
        f"(degenerate or failed), {seconds:,.0f} s",
        soft_wrap=True,
    )
    if best is None:
        _show_reasons(lake)
    else:
        _show_best(lake, best)
    _show_labels(lake)
    if report_folder is not None:
        page = report_folder / "index.html"
        OUT.print(f"\nOpen in a browser: {page}", soft_wrap=True, highlight=False, markup=False)
    OUT.print("\nType next:", style="bold")
    for line in _next_commands(lake, conf, best):
        OUT.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _show_reasons(lake: Lake) -> None:
    OUT.print("No model can be ranked, so none is the best:", soft_wrap=True)
    table = Table()
    for name in ("models", "features", "algorithm", "why"):
        table.add_column(name, justify="right" if name == "models" else "left")
    columns = ("features", "algorithm", "reason")
    counts = Counter(tuple(row[c] or "" for c in columns) for row in lake.rows("models", columns))
    for why, n in sorted(counts.items(), key=lambda item: (*item[0][:2], item[1], item[0][2]))[:12]:
        table.add_row(str(n), *(Text(text) for text in why))
    show(table)


def _show_best(lake: Lake, best: Row) -> None:
    from motorpool.kernels.scores import shown

    table = Table(title="The best model of each feature set", title_justify="left")
    scores = shown()
    for name in ("rank", "features", "clusters", *(score.narrow for score in scores)):
        table.add_column(name, justify="left" if name == "features" else "right")
    board = lake.leaderboard().where("rank_in_features = 1").orderBy("rank").limit(12).collect()
    for row in board:
        table.add_row(
            str(row["rank"]),
            row["features"],
            str(row["n_clusters"]),
            # A consensus has no vectors to be scored in.
            *("-" if row[s.name] is None else f"{row[s.name]:,.{s.decimals}f}" for s in scores),
        )
    show(table)
    OUT.print(
        f"Best overall: model {best['model_id']}, {best['algorithm']} with {best['n_clusters']} clusters on "
        f"{best['features']}.",
        soft_wrap=True,
    )
    _show_warnings(board)


def _show_warnings(board: Sequence[Row]) -> None:
    """The models of the table above whose clusters follow what they should not."""
    warned = [row for row in board if row["warning"]]
    if not warned:
        return
    OUT.print("\nLook twice, a cluster that is a camera is no type:", style="bold")
    for row in warned:
        OUT.print(
            f"  rank {row['rank']}, {row['features']}: {row['warning']}", soft_wrap=True, highlight=False, markup=False
        )


def _show_labels(lake: Lake) -> None:
    from motorpool.percentages import percent

    columns = ("attribute", "n_looks", "accuracy", "share_accepted", "n_images", "n_accepted")
    rows = sorted(lake.rows("label_sets", columns), key=lambda r: str(r["attribute"]))
    if not rows:
        return
    table = Table(title="Labels, measured on vehicles that were held out", title_justify="left")
    for name in ("attribute", "looks", "right", "accepted", "left for people"):
        table.add_column(name, justify="left" if name == "attribute" else "right")
    for row in rows:
        table.add_row(
            Text(row["attribute"]),
            f"{row['n_looks']:,}",
            percent(row["accuracy"]),
            percent(row["share_accepted"]),
            f"{row['n_images'] - row['n_accepted']:,}",
        )
    show(table)


def _next_commands(lake: Lake, conf: str, best: Row | None) -> list[str]:
    # A lake in a catalog is named by the config alone.
    where = shlex.join(["--conf", conf] if lake.in_catalog else ["--lake", str(lake)])
    # S608: these are shown, not run.
    ask = f"motorpool sql {where}"
    if best is None:
        return [f'{ask} "SELECT features, algorithm, params, status, reason FROM models"']  # noqa: S608
    by_cluster = (
        "SELECT cluster, count(*) AS photos, count(DISTINCT vehicle_id) AS vehicles FROM assignments "  # noqa: S608
        f"WHERE model_id = '{best['model_id']}' GROUP BY cluster ORDER BY cluster"
    )
    return [
        f'{ask} "SELECT * FROM leaderboard LIMIT 10"',  # noqa: S608
        f'{ask} "{by_cluster}"',
        f"motorpool export {where} --out best_clusterization.csv",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 2 for a mistake in config, command or case, 130 where it was stopped, 1 for anything
    else."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    # Whoever calls this in a program of their own has a way of their own, and gets it back.
    handlers = stopping.listen()
    try:
        # What a command leaves by `ctx.exit` comes as the result.
        status = cli.main(args=args, prog_name="motorpool", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exc:
        return int(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        stopping.end_if_at_work()
        click.echo(stopping.SENTENCE, err=True)
        return stopping.STATUS
    except MotorpoolError as exc:
        return _fail(exc, exc.exit_status, debug)
    except Exception as exc:
        return _fail(exc, 1, debug)
    finally:
        stopping.give_back(handlers)


def brief(exc: Exception) -> str:
    """One line or a few of an error that nobody foresaw; of a failed task's traceback only what it ends with."""
    ends = _TRACEBACK.findall(str(exc))
    return f"{type(exc).__name__}: {f'a task failed: {ends[-1]}' if ends else exc}"[:2000]


def _fail(exc: Exception, status: int, debug: bool) -> int:
    if debug:
        ERR.print_exception()
    click.echo(f"motorpool: {exc if isinstance(exc, MotorpoolError) else brief(exc)}", err=True)
    if not debug and not isinstance(exc, MotorpoolError):
        click.echo("Run it again as `motorpool --debug ...` for the traceback.", err=True)
    return status
