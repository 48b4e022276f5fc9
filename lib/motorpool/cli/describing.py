"""`motorpool describe`: a descriptor computed from photos, into a case folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from motorpool.cli.common import local_path, run_context
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.describe.built_in import METHODS
from motorpool.errors import ConfigError
from motorpool.pipeline.output.case_folder import config_of, remove_work, write_descriptor
from motorpool.pipeline.run import check_config
from motorpool.settings import check_name
from motorpool.texts import expand_home


@click.command()
@click.option("--images", required=True, type=expand_home, metavar="DIR|ZIP|TABLE", help="Where the photos lie.")
@click.option("--model", type=expand_home, metavar="FILE", help="The network, an ONNX file.")
@click.option("--builtin", type=click.Choice(list(METHODS)), help="Instead of --model: a method without a network.")
@click.option("--name", metavar="NAME", help="The descriptor's name. Default: the method's, or the file's.")
@click.option("--size", type=int, metavar="N", help="With --model: height and width of what the network takes.")
@click.option("--fit", type=click.Choice(["crop", "stretch"]), help="With --model: how photos get this size.")
@click.option("--resize", type=int, metavar="N", help="With --model: the shorter side before the middle is cut out.")
@click.option(
    "--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="With --model: how photos are scaled."
)
@click.option("--mean", metavar="R,G,B", help="With --model: what is taken from the colours, each from 0 to 1.")
@click.option("--std", metavar="R,G,B", help="With --model: what the colours are divided by.")
@click.option("--output", metavar="NAME", help="With --model: the output with the vectors; the first by default.")
@click.option(
    "--out", required=True, type=local_path, metavar="CASE", help="The case folder to write, or to add to."
)  # fmt: skip
@click.pass_context
def describe(
    ctx: click.Context,
    /,
    images: str,
    model: str | None,
    builtin: str | None,
    name: str | None,
    out: Path,
    **settings: Any,
) -> None:
    """Compute a descriptor of photos, by a network or a built-in method, and write it into a case folder: an .npy file
    and, where there is none, the list of images. Picks up where it was stopped."""
    given = {key: value for key, value in settings.items() if value is not None}
    if (model is None) == (builtin is None):
        raise ConfigError("give either --model FILE, a network, or --builtin NAME, a method without one")
    if builtin is not None and given:
        raise ConfigError(f"--{next(iter(given))}: is for --model; a built-in method has no settings")
    source = _source(model, builtin, given)
    called = name or builtin or Path(str(model)).stem
    try:
        check_name(called)
    except ValueError as exc:
        raise ConfigError(f"--name {exc}") from exc
    config = config_of(images, out, called, source)
    # Spark takes seconds to start.
    check_config(config, ["ingest"])
    ended = False
    try:
        with run_context(ctx, config) as context:
            done = write_descriptor(context, out)
        ended = True
    finally:
        remove_work(out, done=ended)
    if done is None:
        click.echo(f"{out}: holds {called} of these images already, nothing to do")
        return
    bad = f", {done.n_problems:,} of them NaN: set case.on_bad_rows to drop" if done.n_problems else ""
    click.echo(f"{done.file}: {done.n_images:,} x {done.width:,}{bad}")


def _source(model: str | None, builtin: str | None, given: dict[str, Any]) -> NetworkConfig | BuiltInConfig:
    colors = {key: _color(key, given[key]) for key in ("mean", "std") if key in given}
    try:
        if model is not None:
            return NetworkConfig.model_validate({"model": model, **given, **colors})
        return BuiltInConfig.model_validate({"builtin": builtin})
    except ValidationError as exc:
        told = [
            f"{''.join(f'--{part}: ' for part in e['loc'][:1])}{e['msg'].removeprefix('Value error, ')}"
            for e in exc.errors()
        ]
        raise ConfigError("\n".join(told)) from exc


def _color(key: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise ConfigError(f"--{key} {text}: expected three numbers, such as 0.5,0.5,0.5") from exc
