"""Run the notebooks and the queries of docs/sql.md over a lake, and store what they show.

    MOTORPOOL_LAKE=demo/lake MOTORPOOL_IMAGES=demo/case/raw_data python notebooks/build.py [--only 1 2 ...]

First the answers go into docs/sql.md, and the fifth notebook is made from that page. Then notebooks are executed in
place from top to bottom, with one kernel for all. It starts in the current folder, so that relative paths in the
variables hold and outputs name no path of the machine. Figures are stored twice: as plotly's JSON, and as PNG pictures
for viewers that do not draw it; kaleido makes them with Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from motorpool import Lake, open_lake

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "sql.md"
NOTEBOOKS = tuple(sorted((ROOT / "notebooks").glob("*.ipynb")))
COOKBOOK = ROOT / "notebooks" / "5_sql_cookbook.ipynb"
#: What docs/sql.md writes for the lake's absolute path.
PLACE = "/data/lake"
#: How docs/sql.md begins the name of a table whose versions it asks for.
STORED = f"delta.`{PLACE}/"
CELL_CHARACTERS = 100
#: Plotly's names of what a figure is stored as; plotly.js, 4.8 MB, is neither.
RENDERERS = "plotly_mimetype+png"
#: One cell may start Spark.
CELL_SECONDS = 300


@dataclass(frozen=True)
class Recipe:
    """A question of the cookbook: its query, the columns of the answer shown, and how to read it.

    ``chapter`` and ``opening`` are the heading above and the text below it, for the first recipe of a chapter.
    """

    chapter: str
    opening: str
    title: str
    query: str
    header: tuple[str, ...]
    reading: str

    def on(self, lake: str) -> str:
        """The query over the lake with this absolute path."""
        return self.query.replace(PLACE, lake)


def read_cookbook(text: str) -> list[Recipe]:
    """The recipes of docs/sql.md, in its order."""
    recipes = []
    for chapter in _sections(text, "## "):
        name, _, body = chapter.partition("\n")
        opening, *parts = body.split("\n### ")
        for i, part in enumerate(parts):
            title, _, rest = part.partition("\n")
            _, _, rest = rest.partition("```sql\n")
            query, _, rest = rest.partition("\n```\n")
            lines = rest.strip().splitlines()
            table = [line for line in lines if line.startswith("|")]
            header = tuple(c.strip() for c in table[0].strip("| ").split(" | ")) if table else ()
            reading = "\n".join(line for line in lines if not line.startswith("|")).strip()
            first = (name, opening.strip()) if i == 0 else ("", "")
            recipes.append(Recipe(*first, title, query, header, reading))
    return recipes


def _sections(text: str, mark: str) -> list[str]:
    return f"\n{text}".split(f"\n{mark}")[1:]


def with_answers(text: str, lake: Lake) -> str:
    """docs/sql.md with the answers of this lake, as Markdown tables behind the queries."""
    done = []
    for i, piece in enumerate(text.split("```sql\n")):
        if i == 0:
            done.append(piece)
            continue
        query, _, rest = piece.partition("\n```\n")
        answer = lake.reader.sql(query.replace(PLACE, str(lake.path)))
        table = _markdown(answer.columns, list(islice(answer.rows(), 20)))
        lines = rest.lstrip("\n").splitlines(keepends=True)
        while lines and (lines[0].startswith("|") or not lines[0].strip()):
            lines.pop(0)
        done.append(f"{query}\n```\n\n{table}\n{''.join(lines)}")
    return "```sql\n".join(done)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; columns that hold nothing are left out."""
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    numeric = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in kept]
    head = [[columns[i] for i in kept], ["---:" if n else "---" for n in numeric]]
    lines = [*head, *([_cell(row[i]) for i in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # Seven digits: what a FLOAT column holds.
        return f"{value:.7g}"
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return (text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 3]}...").replace("|", "\\|")


def cookbook_notebook(recipes: Sequence[Recipe], metadata: dict[str, Any]) -> NotebookNode:
    """The cookbook as a notebook: a cell of prose and a cell of SQL for each recipe."""
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell(
            "# SQL cookbook\n\nThe questions of [docs/sql.md](../docs/sql.md), asked of your lake. Made from that page "
            "by `notebooks/build.py`: change the page, not this notebook."
        ),
        v4.new_code_cell(PARAMETERS),
    ]
    for recipe in recipes:
        head = f"## {recipe.chapter}\n\n{recipe.opening}\n\n".replace("\n\n\n\n", "\n\n") if recipe.chapter else ""
        cells.append(v4.new_markdown_cell(f"{head}### {recipe.title}\n\n{recipe.reading}"))
        query = f'ask("""\n{recipe.query}\n""")'
        if STORED in recipe.query:
            # A lake in a catalog has names to put in, and no path.
            query = f'ask("""\n{recipe.query}\n""".replace("{STORED}", STORED))'
        cells.append(v4.new_code_cell(query))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    return v4.new_notebook(cells=cells, metadata=metadata)


PARAMETERS = """import motorpool
from motorpool.errors import LakeError

lake = motorpool.open_lake()
# How tables are named where versions are asked for: by path, or in a catalog by their names.
STORED = f"delta.`{lake.path}/" if lake.path else "`"


def ask(query):
    \"\"\"The answer, or which stage fills the table that it needs.\"\"\"
    try:
        return lake.sql(query)
    except LakeError as exc:
        print(exc)"""


def execute(notebooks: Sequence[NotebookNode], folder: Path, renderers: str = RENDERERS) -> None:
    """Run notebooks one after the other in one kernel, started in ``folder`` and emptied in between.

    Spark starts once, and every notebook but the first finds it running, as on Databricks. ``renderers`` are plotly's.
    Raises CellExecutionError at the first cell that fails: pictures of figures need a browser.
    """
    client = NotebookClient(
        nbformat.v4.new_notebook(), timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel(env={**os.environ, "PLOTLY_RENDERER": renderers}):
        for notebook in notebooks:
            client.nb = notebook
            client.reset_execution_trackers()
            count = 0
            for i, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    count += 1
                    client.execute_cell(cell, i, execution_count=count)
                    # When cells ran says nothing about the tables.
                    cell.metadata.pop("execution", None)
            client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f")])
            client.execute_cell(client.nb.cells[0], 0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="*", metavar="N", help="numbers of the notebooks to run; none after it: none")
    args = parser.parse_args(argv)
    with open_lake() as lake:
        if lake.path is None:
            parser.error("the answers of docs/sql.md name tables by path: build it over a lake that has one")
        text = with_answers(DOCS.read_text(), lake)
    DOCS.write_text(text)
    notebooks = {path: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    notebooks[COOKBOOK] = cookbook_notebook(read_cookbook(text), dict(next(iter(notebooks.values())).metadata))
    chosen = [path for path in notebooks if args.only is None or path.name.partition("_")[0] in args.only]
    execute([notebooks[path] for path in chosen], Path.cwd())
    for path in chosen:
        nbformat.write(notebooks[path], path)
        print(f"{path.name}: {os.path.getsize(path) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
