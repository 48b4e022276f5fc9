"""A folder that a stage writes: whole or not there, beside others that write it and behind runs that were killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from motorpool.pipeline.output.folder import whole_folder


def fill(out: Path, text: str) -> None:
    with whole_folder(out) as draft:
        (draft / "a").write_text(text)
        (draft / "b").write_text(text)


def test_the_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    fill(out, "first")
    with pytest.raises(FileNotFoundError), whole_folder(out) as draft:
        (draft / "a").write_text((tmp_path / "absent").read_text())
    assert (out / "a").read_text() == "first"
    fill(out, "second")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a": "second", "b": "second"}
    assert list(tmp_path.iterdir()) == [out]


def test_many_that_write_one_folder_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "report[1]"
    errors: list[Exception] = []

    def work(name: str) -> None:
        try:
            for i in range(50):
                fill(out, f"{name}{i}")
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in "pqrs"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "a").read_text() == (out / "b").read_text()


def test_what_a_killed_run_has_left_goes_and_what_another_fills_stays(tmp_path: Path) -> None:
    out = tmp_path / "report"
    kill = (
        "import os, signal, sys; from pathlib import Path; from motorpool.pipeline.output.folder import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", kill, str(out)], timeout=60)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".report.killed-in-the-swap.old").mkdir()
    with whole_folder(out) as other:
        assert not left.exists()
        fill(out, "mine")
        assert other.exists()
        (other / "a").write_text("other")
        (other / "b").write_text("other")
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "a").read_text() == "other"
