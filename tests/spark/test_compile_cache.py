"""A folder for compiled loops where the user's own cannot be written."""

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
