"""The house: imports point down, the page that describes it says so, and no folder holds more than a person reads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Modules side by side in one folder, its __init__ aside.
MOST = 12


def contract() -> list[list[str]]:
    """The layers from the top down, each with the modules that share it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (found,) = (c for c in settings["contracts"] if c["type"] == "layers")
    return [re.split(r"\s*[|:]\s*", layer) for layer in found["layers"]]


def test_imports_point_down() -> None:
    # In a process of its own: import-linter turns off every logger that is there when it starts.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_architecture_page_lists_the_layers_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    listed = [re.findall(r"`(\w+)/?`", row) for row in rows]
    assert [sorted(row) for row in listed] == [sorted(layer) for layer in contract()]


@pytest.mark.parametrize("top", ["lib", "tests"])
def test_no_folder_holds_more_than_a_dozen_modules(top: str) -> None:
    counts: dict[str, int] = {}
    for file in (ROOT / top).rglob("*.py"):
        if file.name != "__init__.py":
            folder = str(file.parent.relative_to(ROOT))
            counts[folder] = counts.get(folder, 0) + 1
    assert {folder: n for folder, n in counts.items() if n > MOST} == {}
