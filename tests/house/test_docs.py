"""The documentation says what the code does: descriptions are complete, pages are current, links and commands exist."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest
import yaml
from pydantic import BaseModel
from pyspark.sql import SparkSession

from motorpool.cli import cli
from motorpool.cluster.registry import ALGORITHMS
from motorpool.config.load import load_case, parse_config
from motorpool.config.run import Config
from motorpool.features.spec import STEP_KINDS
from motorpool.lake.schemas import TABLES, VIEW_COMMENTS, VIEW_ROWS, VIEWS
from motorpool.maps.registry import MAP_METHODS
from motorpool.outliers.registry import OUTLIER_METHODS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted(DOCS.glob("*.md")),
)
#: Pages of results are written by benchmarks, but their links must hold too.
LINKING = (*PAGES, *sorted((ROOT / "benchmarks" / "results").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _build()


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# Descriptions beside the definitions.


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _sections(field.annotation)
    for item in get_args(annotation):
        yield from _sections(item)


def test_every_config_key_has_a_description() -> None:
    sections = {*_sections(Config), *(algorithm.grid for algorithm in ALGORITHMS.values())}
    assert len(sections) > 15
    for section in sections:
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.rstrip("`").endswith("."), f"{section.__name__}.{name}"


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_a_comment(name: str) -> None:
    table = TABLES[name]
    assert table.rows.startswith("One row per ")
    assert list(table.comments) == [column for column, _ in build.columns_of(table.columns)]
    assert all(comment.endswith(".") for comment in table.comments.values())


def test_every_column_of_a_view_has_a_comment(spark: SparkSession) -> None:
    assert list(VIEW_ROWS) == list(VIEW_COMMENTS) == list(VIEWS)
    names = {}
    for name, table in TABLES.items():
        names[name] = f"docs_{name}"
        spark.createDataFrame([], table.schema).createOrReplaceTempView(names[name])
        assert [field.name for field in table.schema] == list(table.comments)
    try:
        for name, query in VIEWS.items():
            assert list(VIEW_COMMENTS[name]) == spark.sql(query.format(**names, attributes="")).columns
    finally:
        for view in names.values():
            spark.catalog.dropTempView(view)


# Pages made from the code.


def test_generated_parts_are_current() -> None:
    assert [page.name for page in build.outdated()] == [], "run: python docs/build.py"


def test_a_page_that_the_code_has_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "tables.md").read_text()
    assert build.rendered(page) == page
    monkeypatch.setitem(TABLES["images"].comments, "path", "Something else.")
    assert "| `path` | STRING | Something else. |" in build.rendered(page)


def test_columns_of_ddl() -> None:
    ddl = "a INT, b MAP<STRING,STRING>, c ARRAY<STRUCT<x: INT, y: ARRAY<INT>>>"
    assert build.columns_of(ddl) == [
        ("a", "INT"),
        ("b", "MAP<STRING,STRING>"),
        ("c", "ARRAY<STRUCT<x: INT, y: ARRAY<INT>>>"),
    ]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("config.md", STEP_KINDS),
        ("algorithms.md", (*ALGORITHMS, "consensus")),
        ("outliers.md", tuple(OUTLIER_METHODS)),
        ("maps.md", tuple(MAP_METHODS)),
    ],
)
def test_hand_written_tables_name_everything_there_is(page: str, names: tuple[str, ...]) -> None:
    rows = [line.split(" | ")[0] for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    told = set(re.findall(r"`(\w+)`", "\n".join(rows)))
    assert set(names) <= told


# Links.


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    anchors = set()
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        anchors.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("page", LINKING, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{target}: there is no such file"
        assert file.is_relative_to(ROOT), f"{target}: leads out of the repository"
        if anchor:
            assert anchor in _anchors(file), f"{target}: {_name(file)} has no such heading"


# Commands and configs.

COMMANDS = {name: {o for p in command.params for o in p.opts} for name, command in build.all_commands(cli)}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _code(page: Path) -> list[str]:
    """Every piece of code of a page: lines of blocks without a language, joined where they go on, and code in prose."""
    text = page.read_text(encoding="utf-8")
    pieces = []
    for language, block in _FENCE.findall(text):
        if language in ("", "sh", "bash"):
            # What stands in quotes is SQL.
            plain = re.sub(r'"[^"]*"', '""', block.replace("\\\n", " "))
            pieces += [line.strip().removeprefix("$ ") for line in plain.splitlines()]
    prose = _FENCE.sub("", text)
    return [*pieces, *re.findall(r"`([^`\n]+)`", prose)]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page: Path) -> None:
    for piece in _code(page):
        words = piece.split("#")[0].replace("[", " ").replace("]", " ").split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in TARGETS, piece
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), piece
        if words[:1] == ["motorpool"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            name = " ".join(words[1:3] if isinstance(cli.commands.get(words[1]), click.Group) else words[1:2])
            assert name in COMMANDS or name in cli.commands, piece
            used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
            assert used <= COMMANDS.get(name, set()) | {"--help"}, piece
        for file in re.findall(r"(?<![\w/.-])(?:jobs|conf|tests|notebooks)/[\w./-]+\.\w+", piece):
            assert (ROOT / file).is_file(), piece


def test_commands_of_the_readme_are_seen() -> None:
    """The check above finds commands at all."""
    found = {piece.split()[1] for piece in _code(ROOT / "README.md") if piece.startswith("motorpool ")}
    assert {"run", "sql", "export", "assign"} <= found
    assert isinstance(cli, click.Group)


def _configs() -> list[Any]:
    found = []
    for page in PAGES:
        for i, (language, block) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8"))):
            if language == "yaml":
                found.append(pytest.param(block, id=f"{_name(page)}-{i}"))
    return found


@pytest.mark.parametrize("block", _configs())
def test_configs_are_valid(block: str, tmp_path: Path) -> None:
    given = yaml.safe_load(block)
    if set(given) == {"case"}:
        (tmp_path / "new.yaml").write_text(block)
        load_case(tmp_path / "new.yaml")
    else:
        parse_config(given)


def test_imports_of_code_blocks_work() -> None:
    found = []
    for page in PAGES:
        for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                found += re.findall(r"^from (motorpool[\w.]*) import (\w+)$", block, re.MULTILINE)
    assert found
    for module, name in found:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_your_own_data_takes_ten_lines() -> None:
    (block,) = [text for language, text in _FENCE.findall((ROOT / "README.md").read_text()) if language == "yaml"]
    assert len(block.splitlines()) <= 10


# Form.


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 10 * 1024


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_lines_are_short(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        # A row of a table is one line by its nature.
        assert line.startswith("|") or len(line) <= 120, f"{_name(page)}:{number}"


def test_every_target_says_what_it_does() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z-]+)  +\S", done.stdout, re.MULTILINE)) == TARGETS


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "config.html", "benchmarks/results/dbscan.html", "conf/veriwild.yaml"):
        assert (tmp_path / "site" / name).is_file()
