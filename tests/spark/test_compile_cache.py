"""A folder for compiled loops where the user's own cannot be written, and what is kept there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from motorpool import compile_cache
from motorpool.compile_cache import choose_folder

#: A module of a zip, as executors get the package.
LOOPS = """
import numba

@numba.njit(cache=True)
def double(x):
    return x + x
"""


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home."""
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def chosen() -> Path | None:
    choose_folder()
    return Path(os.environ["XDG_CACHE_HOME"]) if "XDG_CACHE_HOME" in os.environ else None


def test_a_cache_that_can_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert chosen() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert chosen() == tmp_path / "own"


def test_processes_of_one_user_share_a_folder_that_is_theirs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chosen()
    assert first == tmp_path / f"motorpool-cache-{os.getuid()}"
    assert first.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert chosen() == first


@pytest.mark.parametrize("trap", ["open to all", "link", "file"])
def test_a_folder_that_others_can_write_is_not_used(trap: str, tmp_path: Path) -> None:
    expected = tmp_path / f"motorpool-cache-{os.getuid()}"
    if trap == "open to all":
        expected.mkdir()
        expected.chmod(0o777)
    elif trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        expected.symlink_to(tmp_path / "elsewhere")
    else:
        expected.write_text("")
    folder = chosen()
    assert folder is not None
    assert folder != expected
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(folder.iterdir())


def test_numba_uses_it_for_modules_of_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as z:
        z.write(compile_cache.__file__, "chooser.py")
        z.writestr("loops.py", LOOPS)
    run = [sys.executable, "-c", "import chooser; chooser.choose_folder(); import loops; print(loops.double(21))"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "package.zip"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.stdout == "42\n", done.stderr
    assert list((tmp_path / f"motorpool-cache-{os.getuid()}" / "numba").rglob("*.nbi"))


#: Lays out some rows as tasks do, and tells how often the longest loop was taken from disk, and how often compiled.
MAP = """
import numpy as np
from motorpool.kernels.maps.layouts import Layout, lay_out_by_umap
rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
lay_out_by_umap(rows, rows[:, :2], Layout("umap", 2, 15, 30.0, 1))
from umap.layouts import _nb_optimize_layout_euclidean_single_epoch as loop
print(sum(loop.stats.cache_hits.values()), sum(loop.stats.cache_misses.values()))
"""


@pytest.mark.slow
def test_the_loops_of_umap_are_compiled_once_for_all_processes() -> None:
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", MAP], capture_output=True, text=True, check=True)
        said.append(done.stdout.split())
    assert said[0] in (["0", "1"], ["1", "0"])
    assert said[1] == ["1", "0"]
