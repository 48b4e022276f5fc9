"""Write the reference parts of the pages from the code, so that they cannot drift from it.

    python docs/build.py [--check]

A page holds generated text between two comments, ``<!-- generated: NAME -->`` and ``<!-- end -->``; the text around
them is written by hand. ``config`` comes from the classes that validate a config, ``tables`` and ``views`` from the
schemas, ``scores`` from their registry, ``commands`` from the command line. ``--check`` writes nothing and fails where
a page is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).resolve().parent
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; a pipe in a cell is escaped, so that it does not end the cell."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# The config.


def prose(text: str) -> str:
    """Docstrings and comments as a paragraph of Markdown."""
    text = " ".join(text.split()).replace("``", "`")
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def config() -> str:
    """Every section of a config as a table: key, type, default, meaning."""
    from motorpool.config.run import Config

    parts = [_section("The top level", Config)]
    for name, field in Config.model_fields.items():
        for heading, model in _models(field.annotation, name):
            parts.append(_section(heading, model))
    return "\n\n".join(parts)


def _models(annotation: Any, key: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections below a key, with their headings: those of a list have one for each kind of item."""
    models = list(_classes(annotation))
    for model in models:
        kind = model.model_fields.get("algorithm")
        label = f"`{key}`: `{get_args(kind.annotation)[0]}`" if kind else f"`{key}`"
        if kind is None and len(models) > 1:
            # Forms that one key takes go by the key of their own that must be there.
            label += f": `{next(name for name, field in model.model_fields.items() if field.is_required())}`"
        yield label, model
        for name, field in model.model_fields.items():
            yield from _models(field.annotation, f"{key}.{field.alias or name}")


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    from motorpool.cluster.grid import ModelGrid
    from motorpool.cluster.registry import ALGORITHMS

    if annotation is ModelGrid:
        yield from (algorithm.grid for algorithm in ALGORITHMS.values())
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for item in get_args(annotation):
        yield from _classes(item)


def _section(heading: str, model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if field.description is None:
            raise ValueError(f"{model.__name__}.{name}: has no description")
        rows.append((f"`{field.alias or name}`", _type(field), _default(field), field.description))
    return f"### {heading}\n\n{prose(model.__doc__ or '')}\n\n{table(('key', 'type', 'default', 'meaning'), rows)}"


def _type(field: FieldInfo) -> str:
    words = _words(field.annotation)
    for bound in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if hasattr(bound, name):
                words += f", {sign} {getattr(bound, name):,}"
    return words


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}


def _words(annotation: Any) -> str:
    """A type in words: what a person may write in the file."""
    from motorpool.cluster.grid import ModelGrid
    from motorpool.cluster.registry import ALGORITHMS
    from motorpool.features.spec import Step
    from motorpool.settings import NameIn

    origin = get_origin(annotation)
    if origin is Annotated:
        for mark in get_args(annotation)[1:]:
            if isinstance(getattr(mark, "func", None), NameIn):
                return " or ".join(f"`{name}`" for name in mark.func.registry)
        return _words(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, UnionType):
        # A key that may be left out may also be null.
        return " or ".join(dict.fromkeys(_words(a) for a in get_args(annotation) if a is not NoneType))
    if origin in (list, tuple):
        return f"list: {_words(get_args(annotation)[0])}"
    if origin is dict:
        key, value = get_args(annotation)
        return f"map: {_words(key)} to {_words(value)}"
    if annotation is ModelGrid:
        return " or ".join(f"`{name}`" for name in ALGORITHMS)
    if annotation is Step:
        return "[step](#steps)"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _PLAIN[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None:
        return "-"
    if isinstance(value, BaseModel):
        return "all defaults"
    if isinstance(value, (list, tuple)):
        if len(value) > 3 and isinstance(value[0], int) and list(value) == list(range(value[0], value[-1] + 1)):
            return f"`{value[0]}..{value[-1]}`"
        return f"`[{', '.join(map(str, value))}]`"
    return "`{}`" if value == {} else f"`{value}`"


# The tables.


def columns_of(ddl: str) -> list[tuple[str, str]]:
    """Name and type of each column of a DDL string; commas inside of types do not part columns."""
    found, depth, start = [], 0, 0
    for at, sign in enumerate(f"{ddl},"):
        depth += (sign in "<(") - (sign in ">)")
        if sign == "," and depth == 0:
            name, _, kind = ddl[start:at].strip().partition(" ")
            found.append((name, kind))
            start = at + 1
    return found


def tables() -> str:
    """Every table: what a row is, who writes it, and its columns."""
    from motorpool.lake.schemas import TABLES

    parts = []
    for item in TABLES.values():
        lines = [f"### {item.name}", prose(f"{item.rows} Written by `motorpool {item.written_by}`.")]
        rows = [(f"`{name}`", kind, item.comments[name]) for name, kind in columns_of(item.columns)]
        parts.append("\n\n".join([*lines, table(("column", "type", "meaning"), rows)]))
    return "\n\n".join(parts)


def views() -> str:
    """Every view: what a row is, and its columns."""
    from motorpool.lake.schemas import VIEW_COMMENTS, VIEW_ROWS, VIEWS

    return "\n\n".join(
        f"### {name}\n\n{prose(VIEW_ROWS[name])}\n\n"
        + table(("column", "meaning"), [(f"`{column}`", text) for column, text in VIEW_COMMENTS[name].items()])
        for name in VIEWS
    )


def scores() -> str:
    """Every score: its column, what it is compared with, and whether it ranks."""
    from motorpool.kernels.scores import SCORES

    header = ("column", "score", "better", "compares", "ranked")
    rows = [
        (
            f"`{score.name}`",
            score.long_title or score.title,
            score.better,
            "all models" if score.comparable else "within a feature set",
            "yes" if score.ranked else "no",
        )
        for score in SCORES.values()
    ]
    return table(header, rows)


# The command line.


def commands() -> str:
    """Every command: its usage, what it does, and its options."""
    from motorpool.cli import cli

    parts = []
    for name, command in all_commands(cli):
        context = click.Context(command, info_name=f"motorpool {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines = [f"### {name}", f"```\nmotorpool {name} {usage}\n```", prose(command.help or "")]
        rows = [_option(p) for p in command.params if isinstance(p, click.Option)]
        parts.append("\n\n".join([*lines, table(("option", "default", "meaning"), rows)]))
    return "\n\n".join(parts)


def all_commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its name as people type it; in place of a group the commands in it."""
    from motorpool.cli import load_all

    load_all()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _option(option: click.Option) -> tuple[str, str, str]:
    shown = ", ".join(f"`{name}`" for name in option.opts)
    if not option.is_flag:
        shown = ", ".join(f"`{name} {_value(option)}`" for name in option.opts)
    default = "required" if option.required else f"`{option.default}`" if option.show_default else "-"
    return shown, default, option.help or ""


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return "N" if isinstance(option.type, click.IntRange) else option.type.name.upper()


PARTS: dict[str, Callable[[], str]] = {
    "config": config,
    "tables": tables,
    "scores": scores,
    "views": views,
    "commands": commands,
}


def rendered(text: str) -> str:
    """A page with its generated parts as the code has them now."""

    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}"

    return _PART.sub(replace, text)


def outdated() -> dict[Path, str]:
    """The pages that the code has left behind, each with its text as it should be."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
    return {page: new for page, text in pages.items() if (new := rendered(text)) != text}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the reference parts of the pages from the code.")
    parser.add_argument("--check", action="store_true", help="Write nothing; fail where a page is out of date.")
    check = parser.parse_args().check
    pages = outdated()
    for page, text in pages.items():
        if not check:
            page.write_text(text, encoding="utf-8")
        print(f"{page}: {'out of date: run python docs/build.py' if check else 'written'}")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
