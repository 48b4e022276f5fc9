"""MkDocs: README.md becomes the first page, and files outside of docs/ that pages link to become part of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the site that lie outside of docs/.
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/results/*.md")
#: Files that pages link to, given out as they are.
STATIC = ("LICENSE", "conf/*.yaml", "conf/spark/*", "conf/databricks/*", "notebooks/*.ipynb")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in (*PAGES, *STATIC):
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, _name(path.relative_to(ROOT).as_posix()), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them: the files of docs/ and those of the repository's root lie side by side there."""
    markdown = re.sub(r"\]\((?:\.\./)*README\.md", "](index.md", markdown) if "/" not in page.file.src_uri else markdown
    up = r"\.\./" if page.file.src_uri not in ("index.md", "CONTRIBUTING.md", "CHANGELOG.md") else r"docs/"
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(rf"\]\({up}", "](", markdown)


def _name(path: str) -> str:
    return "index.md" if path == "README.md" else path
